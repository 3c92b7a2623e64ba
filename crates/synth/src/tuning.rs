//! Tuning a synthesizer: contexts with gold pairs become sequences whose loss is on the pairs only.

use lyceum_corpus::chain::{Loss, Span, Text};
use lyceum_corpus::tokenizer::{Tokenizer, TokenizerError};
use serde::{Deserialize, Serialize};

use crate::pair::Pair;
use crate::prompt;

/// One context with its gold pairs: a line of a tuning file.
///
/// ```
/// let line = r#"{"dataset": "names", "context": "apt installs packages.",
///                "pairs": [{"question": "What installs packages?", "answer": "apt"}]}"#;
/// let example: lyceum_synth::tuning::TuningExample = serde_json::from_str(line)?;
/// assert_eq!(example.pairs[0].answer(), "apt");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuningExample {
    /// The data set it comes from: only examples of the same one are joined.
    pub dataset: String,
    /// The raw text.
    pub context: String,
    /// Its pairs, at least one.
    pub pairs: Vec<Pair>,
}

/// One sequence of several one-shot examples, each with its BOS and EOS. Learnt are, in each example, the tokens from
/// after `</CON>\n\n` through every `</END>` and the `</s>`; the contexts are not.
///
/// Give it examples of one data set ([`group`]); those without pairs teach nothing and are left out.
pub fn tuning_text(tokenizer: &Tokenizer, examples: &[TuningExample]) -> Result<Text, TokenizerError> {
    let mut tokens = Vec::new();
    let mut spans = Vec::new();
    for example in examples.iter().filter(|example| !example.pairs.is_empty()) {
        let one = prompt::example(tokenizer, &example.context, &example.pairs)?;
        spans.push(Span::from(tokens.len() + one.pairs_start..tokens.len() + one.tokens.len()));
        tokens.extend(one.tokens);
    }
    Ok(Text { tokens, loss: Loss::Spans(spans) })
}

/// Splits examples, in their order, into runs of the same data set of at most `shots`: one sequence each.
///
/// Examples of a data set need not stand together; sequences are ordered by their first example.
pub fn group(examples: Vec<TuningExample>, shots: usize) -> Vec<Vec<TuningExample>> {
    let mut groups: Vec<Vec<TuningExample>> = Vec::new();
    let mut open = std::collections::BTreeMap::new();
    for example in examples {
        let at = *open.entry(example.dataset.clone()).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        if groups[at].len() + 1 >= shots.max(1) {
            open.remove(&example.dataset);
        }
        groups[at].push(example);
    }
    groups
}
