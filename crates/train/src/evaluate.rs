//! Held-out loss, and multiple choice by length-normalised likelihood.

use lyceum_model::Llama;
use serde::{Deserialize, Serialize};

use tch::Tensor;

use crate::{Batch, IGNORED_LABEL, OwnedRow, Row, TrainError};

/// Tokens of rows that go through the model together, padding included.
const TOKENS_AT_ONCE: usize = 2048;

/// The loss over some rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Mean cross-entropy per target token, in nats.
    pub loss: f64,
    /// Labels with loss.
    pub tokens: u64,
}

/// A question: the model chooses the continuation of `context` that it finds likeliest per byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Token ids that come before, BOS included where the model wants one; at least one.
    pub context: Vec<i64>,
    /// What could come next.
    pub continuations: Vec<Continuation>,
    /// Which of them is right.
    pub answer: usize,
}

/// One answer to a [`Choice`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// Its token ids; at least one.
    pub tokens: Vec<i64>,
    /// Bytes of its text: what its log-likelihood is divided by, as in lm-evaluation-harness's `acc_norm`.
    pub bytes: usize,
}

/// Mean cross-entropy per target token over `rows`, of one length or several.
pub fn held_out_loss(llama: &Llama, rows: &[Row<'_>]) -> Result<HeldOut, TrainError> {
    let sum: f64 = cross_entropies(llama, rows)?.into_iter().sum();
    let tokens = rows.iter().map(Row::targets).sum::<u64>();
    Ok(HeldOut { loss: sum / tokens.max(1) as f64, tokens })
}

/// The index of the continuation with the greatest log-likelihood per byte; of equals the first.
pub fn choose(llama: &Llama, choice: &Choice) -> Result<usize, TrainError> {
    let positions = llama.config().max_positions as usize;
    let rows: Vec<OwnedRow> = choice
        .continuations
        .iter()
        .map(|continuation| continued(&choice.context, &continuation.tokens, positions))
        .collect();
    let losses = cross_entropies(llama, &rows.iter().map(OwnedRow::as_row).collect::<Vec<_>>())?;
    let mut best = (0, f64::NEG_INFINITY);
    for (index, (continuation, loss)) in choice.continuations.iter().zip(losses).enumerate() {
        let score = -loss / continuation.bytes.max(1) as f64;
        if score > best.1 {
            best = (index, score);
        }
    }
    Ok(best.0)
}

/// The share of `choices` that the model gets right.
pub fn accuracy(llama: &Llama, choices: &[Choice]) -> Result<f64, TrainError> {
    let mut right = 0;
    for choice in choices {
        right += usize::from(choose(llama, choice)? == choice.answer);
    }
    Ok(right as f64 / choices.len().max(1) as f64)
}

/// The log-probability, in nats, of `continuation` after `context`. What does not fit into the model's positions is left
/// out at the context's beginning.
pub fn log_likelihood(llama: &Llama, context: &[i64], continuation: &[i64]) -> Result<f64, TrainError> {
    let row = continued(context, continuation, llama.config().max_positions as usize);
    Ok(-cross_entropies(llama, &[row.as_row()])?.into_iter().sum::<f64>())
}

/// A row in which `continuation` alone is predicted.
fn continued(context: &[i64], continuation: &[i64], positions: usize) -> OwnedRow {
    let mut tokens = [context, continuation].concat();
    // The last token is only predicted: n + 1 tokens take n positions.
    let excess = tokens.len().saturating_sub(positions + 1);
    tokens.drain(..excess);
    let given = tokens.len().saturating_sub(continuation.len()).max(1);
    let mut row = OwnedRow::next_token(&tokens);
    row.labels[..given - 1].fill(IGNORED_LABEL);
    row
}

/// The sum over each row. Rows of about one length go through the blocks together, and through the head goes only what has
/// a label.
fn cross_entropies(llama: &Llama, rows: &[Row<'_>]) -> Result<Vec<f64>, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let mut order: Vec<usize> = (0..rows.len()).filter(|row| rows[*row].targets() > 0).collect();
    for row in &order {
        Batch::new(0, &rows[*row..][..1]).check(llama.config().vocabulary, llama.config().max_positions)?;
    }
    order.sort_by_key(|row| std::cmp::Reverse(rows[*row].inputs.len()));
    let mut sums = vec![0.0; rows.len()];
    let mut left = &order[..];
    while let Some(&longest) = left.first() {
        let length = rows[longest].inputs.len();
        let (together, rest) = left.split_at((TOKENS_AT_ONCE / length).clamp(1, left.len()));
        left = rest;
        // What follows a row's end is seen by nothing before it.
        let mut inputs = vec![0; together.len() * length];
        for (padded, row) in inputs.chunks_exact_mut(length).zip(together) {
            padded[..rows[*row].inputs.len()].copy_from_slice(rows[*row].inputs);
        }
        let inputs = Tensor::f_from_slice(&inputs)?.f_view([-1, length as i64])?.f_to(llama.device())?;
        let hidden = llama.hidden(&inputs)?;
        for (place, row) in together.iter().enumerate() {
            sums[*row] = labelled_sum(llama, &hidden.f_select(0, place as i64)?, rows[*row].labels)?;
        }
    }
    Ok(sums)
}

/// The sum over what has a label, of a row's hidden states, `[at least as many as labels, hidden]`.
fn labelled_sum(llama: &Llama, hidden: &Tensor, labels: &[i64]) -> Result<f64, TrainError> {
    let (places, labels): (Vec<i64>, Vec<i64>) =
        (0..).zip(labels).filter(|(_, label)| **label != IGNORED_LABEL).unzip();
    let places = Tensor::f_from_slice(&places)?.f_to(llama.device())?;
    let labels = Tensor::f_from_slice(&labels)?.f_to(llama.device())?;
    let hidden = hidden.f_index_select(0, &places)?.f_unsqueeze(0)?;
    Ok(llama.head_loss_sum(&hidden, &labels.f_unsqueeze(0)?)?.f_double_value(&[])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_model::{LlamaConfig, initial_parameters};

    fn llama() -> Llama {
        tch::set_num_threads(1);
        let model = LlamaConfig::from_json(
            r#"{"model_type": "llama", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48,
                "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.4,
                "max_position_embeddings": 8, "rms_norm_eps": 1e-5, "tie_word_embeddings": true}"#,
        )
        .unwrap();
        let parameters = initial_parameters(&model, 9).unwrap();
        Llama::from_parameters(model, |name| parameters.get(name).map(tch::Tensor::shallow_clone)).unwrap()
    }

    #[test]
    fn likelihoods_of_all_next_tokens_add_up_to_one() {
        let llama = llama();
        let sum: f64 = (0..40).map(|token| log_likelihood(&llama, &[1, 7], &[token]).unwrap().exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }

    #[test]
    fn a_continuation_is_as_likely_as_its_tokens_one_after_the_other() {
        let llama = llama();
        let whole = log_likelihood(&llama, &[1, 7], &[3, 5]).unwrap();
        let parts = log_likelihood(&llama, &[1, 7], &[3]).unwrap()
            + log_likelihood(&llama, &[1, 7, 3], &[5]).unwrap();
        assert!((whole - parts).abs() < 1e-5, "{whole} for {parts}");
    }

    #[test]
    fn a_context_beyond_the_models_positions_loses_its_beginning() {
        let llama = llama();
        let long: Vec<i64> = (0..20).collect();
        // Eight positions take nine tokens: seven of the context, two to predict.
        let short = log_likelihood(&llama, &long[13..], &[3, 5]).unwrap();
        assert_eq!(log_likelihood(&llama, &long, &[3, 5]).unwrap(), short);
    }

    #[test]
    fn the_choice_is_by_likelihood_per_byte() {
        let llama = llama();
        let score = |tokens: &[i64]| log_likelihood(&llama, &[1], tokens).unwrap();
        let (one, two) = (score(&[3]), score(&[4]));
        let worse = if one < two { 0 } else { 1 };
        // Enough bytes make the less likely one the likelier per byte.
        let bytes = |index| if index == worse { 1000 } else { 1 };
        let continuation = |index, token| Continuation { tokens: vec![token], bytes: bytes(index) };
        let continuations = vec![continuation(0, 3), continuation(1, 4)];
        let choice = Choice { context: vec![1], continuations, answer: worse };
        assert_eq!(choose(&llama, &choice).unwrap(), worse);
        assert_eq!(accuracy(&llama, &[choice]).unwrap(), 1.0);
    }

    #[test]
    fn the_held_out_loss_is_the_mean_over_target_tokens() {
        let llama = llama();
        let (inputs, labels) = ([1, 2, 3], [2, IGNORED_LABEL, 5]);
        let found = held_out_loss(&llama, &[Row { inputs: &inputs, labels: &labels }; 2]).unwrap();
        let expected = -(log_likelihood(&llama, &[1], &[2]).unwrap()
            + log_likelihood(&llama, &[1, 2, 3], &[5]).unwrap())
            / 2.0;
        assert_eq!(found.tokens, 4);
        assert!((found.loss - expected).abs() < 1e-5, "{} for {expected}", found.loss);
    }
}
