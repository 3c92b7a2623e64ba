//! What is measured before the first step and after the last: loss on held-out documents, and multiple choice.

use anyhow::Result;
use lyceum_corpus::tokenizer::Tokenizer;
use lyceum_model::Llama;
use lyceum_pretrain::evaluation::{self, Item};
use lyceum_pretrain::roles::Evaluation;
use lyceum_train::OwnedRow;
use lyceum_train::evaluate::{Choice, Continuation, choose, held_out_loss};

/// Which of the items a rank measures: those whose number leaves `rank` when divided by `world_size`.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// The rank.
    pub rank: usize,
    /// Ranks in all.
    pub world_size: usize,
}

impl Share {
    /// Those of `items` that are this rank's.
    fn of<T>(self, items: Vec<T>) -> impl Iterator<Item = T> {
        items.into_iter().skip(self.rank).step_by(self.world_size)
    }
}

/// Measures this rank's share of both files.
pub fn measure(
    llama: &Llama,
    tokenizer: &Tokenizer,
    files: &lyceum_pretrain::run_file::Evaluation,
    sequence_length: usize,
    share: Share,
) -> Result<Evaluation> {
    let _guard = tch::no_grad_guard();
    let mut sums = Evaluation::default();
    if let Some(path) = &files.heldout {
        let mut rows = Vec::new();
        for text in share.of(evaluation::heldout(path)?) {
            let ids = tokenizer.with_bos_eos(tokenizer.encode_text(&text)?);
            let ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
            // Long documents are measured in pieces, each target once.
            let mut begin = 0;
            while begin + 1 < ids.len() {
                let end = (begin + sequence_length + 1).min(ids.len());
                rows.push(OwnedRow::next_token(&ids[begin..end]));
                begin = end - 1;
            }
        }
        let rows: Vec<_> = rows.iter().map(OwnedRow::as_row).collect();
        let measured = held_out_loss(llama, &rows)?;
        sums.heldout_loss = measured.loss * measured.tokens as f64;
        sums.heldout_tokens = measured.tokens;
    }
    if let Some(path) = &files.multiple_choice {
        for item in share.of(evaluation::multiple_choice(path)?) {
            let choice = encode(tokenizer, &item)?;
            sums.choices_right += u64::from(choose(llama, &choice)? == choice.answer);
            sums.choices += 1;
        }
    }
    Ok(sums)
}

fn encode(tokenizer: &Tokenizer, item: &Item) -> Result<Choice> {
    let wide = |ids: Vec<u32>| ids.into_iter().map(i64::from).collect::<Vec<i64>>();
    let mut context = vec![i64::from(tokenizer.bos())];
    context.extend(wide(tokenizer.encode_text(&item.prompt)?));
    let continuations = item
        .choices
        .iter()
        .map(|choice| Ok(Continuation { tokens: wide(tokenizer.encode_text(choice)?), bytes: choice.len() }));
    Ok(Choice { context, continuations: continuations.collect::<Result<_>>()?, answer: item.answer })
}
