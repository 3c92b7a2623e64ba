//! What a run ends with: `DIR/summary.json`, and the table that a person sees.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lyceum_corpus::chain::Accounts;
use serde::{Deserialize, Serialize};

use crate::run_file::RunFile;

/// Everything that is told at the end of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Optimizer steps of the run, those before a resumption included.
    pub steps: u64,
    /// Steps that changed no parameter, because a gradient was not finite; named where there are some.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub steps_skipped: u64,
    /// Tokens trained.
    pub tokens: u64,
    /// What became of each document (L1: read = raw + augmented + skipped).
    pub documents: Documents,
    /// What became of each instruction-response pair.
    pub pairs: Pairs,
    /// Training loss.
    pub loss: FirstAndLast,
    /// Mean loss a token on held-out documents.
    pub heldout: BeforeAndAfter,
    /// Length-normalised multiple-choice accuracy, 0 to 1.
    pub multiple_choice: BeforeAndAfter,
    /// Tokens trained a second, from the first batch to the last step, waits included.
    pub tokens_per_second: f64,
    /// Share of the trainers' time that went by waiting for a batch, 0 to 1.
    pub trainer_wait_share: f64,
    /// Data-parallel ranks.
    pub world_size: u32,
    /// Most synthesizers at one time.
    pub synthesizers_peak: u32,
    /// Synthesizers that were started anew after a death.
    pub restarts: u32,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What became of the documents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Documents {
    /// All that have a final state.
    pub read: u64,
    /// Trained as they were.
    pub raw: u64,
    /// Trained with instruction-response pairs.
    pub augmented: u64,
    /// Left out, by reason.
    pub skipped: BTreeMap<String, u64>,
}

impl Documents {
    /// L1: every document read has exactly one final state.
    pub fn adds_up(&self) -> bool {
        let states = [&self.raw, &self.augmented].into_iter().chain(self.skipped.values());
        u128::from(self.read) == states.map(|count| u128::from(*count)).sum::<u128>()
    }
}

/// What became of the pairs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairs {
    /// In a training text.
    pub kept: u64,
    /// Not usable, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// Means of the first and the last five steps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FirstAndLast {
    /// Mean of the first five steps.
    pub first: Option<f64>,
    /// Mean of the last five steps.
    pub last: Option<f64>,
}

/// A measure before the first step and after the last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BeforeAndAfter {
    /// Before the first step.
    pub before: Option<f64>,
    /// After the last step.
    pub after: Option<f64>,
}

impl Summary {
    /// Writes `summary.json` into `directory`, whole or not at all.
    pub fn write(&self, directory: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
        let partial = directory.join("summary.json.partial");
        std::fs::write(&partial, text + "\n")?;
        std::fs::rename(partial, directory.join("summary.json"))
    }

    fn not_finite(&self) -> String {
        match self.steps_skipped {
            0 => String::new(),
            skipped => format!("; {skipped} changed nothing: a gradient was not finite"),
        }
    }

    /// The table that ends a run.
    pub fn table(&self) -> String {
        let number =
            |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
        let change = |pair: &BeforeAndAfter, digits| {
            format!("{} -> {}", number(pair.before, digits), number(pair.after, digits))
        };
        let rows = [
            ("steps", format!("{} of {} tokens in all{}", self.steps, self.tokens, self.not_finite())),
            (
                "documents",
                format!(
                    "{} read: {} raw, {} augmented, {}",
                    self.documents.read,
                    self.documents.raw,
                    self.documents.augmented,
                    skipped(&self.documents.skipped)
                ),
            ),
            ("pairs", format!("{} kept, dropped {}", self.pairs.kept, reasons(&self.pairs.dropped))),
            ("loss", format!("{} -> {}", number(self.loss.first, 4), number(self.loss.last, 4))),
            ("held-out loss", change(&self.heldout, 4)),
            ("multiple choice", change(&self.multiple_choice, 3)),
            ("tokens a second", format!("{:.0}", self.tokens_per_second)),
            ("trainers waited", format!("{:.1}% of their time", 100.0 * self.trainer_wait_share)),
            (
                "gang",
                format!(
                    "{} trainers, at most {} synthesizers, {} restarts",
                    self.world_size, self.synthesizers_peak, self.restarts
                ),
            ),
            ("checkpoint", self.checkpoint.as_ref().map_or("-".into(), |path| path.display().to_string())),
        ];
        rows.iter().map(|(name, value)| format!("{name:>16}  {value}\n")).collect()
    }
}

/// Why nothing was trained, in a run of which no batch could be made.
pub fn nothing_trained(run: &RunFile, accounts: &Accounts) -> String {
    let sources: Vec<String> = run.sources.iter().map(|source| format!("'{}'", source.name)).collect();
    format!("nothing was trained: no text came of {} ({})", sources.join(", "), skipped(&accounts.skipped))
}

/// What was left out: `skipped empty 2, too long 1`.
pub(crate) fn skipped(counts: &BTreeMap<String, u64>) -> String {
    format!("skipped {}", reasons(counts))
}

fn reasons(counts: &BTreeMap<String, u64>) -> String {
    let listed: Vec<String> = counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    if listed.is_empty() { "none".into() } else { listed.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_written_whole_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut summary = Summary { steps: 3, tokens: 12, ..Summary::default() };
        summary.documents =
            Documents { read: 4, raw: 1, augmented: 2, skipped: [("empty".into(), 1)].into() };
        assert!(summary.documents.adds_up());
        summary.write(directory.path()).unwrap();
        let text = std::fs::read_to_string(directory.path().join("summary.json")).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), summary);
        assert!(summary.table().contains("4 read: 1 raw, 2 augmented, skipped empty 1"));
    }
}
