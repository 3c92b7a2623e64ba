//! Held-out loss, and multiple choice by length-normalised likelihood.

use lyceum_model::Llama;
use serde::{Deserialize, Serialize};

use crate::{Batch, IGNORED_LABEL, Row, TrainError, memory::RowTensor};

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
    let (mut sum, mut tokens) = (0.0, 0);
    for row in rows.iter().filter(|row| row.targets() > 0) {
        sum += cross_entropy(llama, row)?;
        tokens += row.targets();
    }
    Ok(HeldOut { loss: sum / tokens.max(1) as f64, tokens })
}

/// The index of the continuation with the greatest log-likelihood per byte; of equals the first.
pub fn choose(llama: &Llama, choice: &Choice) -> Result<usize, TrainError> {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, continuation) in choice.continuations.iter().enumerate() {
        let score =
            log_likelihood(llama, &choice.context, &continuation.tokens)? / continuation.bytes.max(1) as f64;
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
    let mut tokens = [context, continuation].concat();
    // The last token is only predicted: n + 1 tokens take n positions.
    let excess = tokens.len().saturating_sub(llama.config().max_positions as usize + 1);
    tokens.drain(..excess);
    let given = tokens.len().saturating_sub(continuation.len()).max(1);
    let mut labels: Vec<i64> = tokens.iter().skip(1).copied().collect();
    labels[..given - 1].fill(IGNORED_LABEL);
    tokens.pop();
    Ok(-cross_entropy(llama, &Row { inputs: &tokens, labels: &labels })?)
}

/// The sum over a row.
fn cross_entropy(llama: &Llama, row: &Row<'_>) -> Result<f64, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let rows = [*row];
    Batch::new(0, &rows).check(llama.config().vocabulary, llama.config().max_positions)?;
    let inputs = RowTensor::new(row.inputs, llama.device())?;
    let labels = RowTensor::new(row.labels, llama.device())?;
    let hidden = llama.hidden(inputs.tensor())?;
    Ok(llama.head_loss_sum(&hidden, labels.tensor())?.f_double_value(&[])?)
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
