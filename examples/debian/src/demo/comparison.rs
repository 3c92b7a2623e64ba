//! Runs side by side: what they trained on, and what the model knew before and after.

use std::fmt::{self, Display, Formatter};

use lyceum_pretrain::summary::{BeforeAndAfter, Summary};

/// Width of the rows' names.
const NAME: usize = 24;
/// Width of a run's column.
const COLUMN: usize = 20;

/// The figures of one or more runs.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    runs: Vec<(String, Summary)>,
}

impl Comparison {
    /// Adds a run's column.
    pub fn add(&mut self, name: impl Into<String>, summary: Summary) {
        self.runs.push((name.into(), summary));
    }

    fn row(&self, f: &mut Formatter<'_>, name: &str, of: impl Fn(&Summary) -> String) -> fmt::Result {
        write!(f, "{name:<NAME$}")?;
        for (_, summary) in &self.runs {
            write!(f, "{:>COLUMN$}", of(summary))?;
        }
        writeln!(f)
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:<NAME$}", "")?;
        for (name, _) in &self.runs {
            write!(f, "{name:>COLUMN$}")?;
        }
        writeln!(f)?;
        self.row(f, "tokens trained", |summary| summary.tokens.to_string())?;
        self.row(f, "documents raw", |summary| summary.documents.raw.to_string())?;
        self.row(f, "documents augmented", |summary| summary.documents.augmented.to_string())?;
        self.row(f, "pairs", |summary| summary.pairs.kept.to_string())?;
        self.row(f, "held-out loss", |summary| change(&summary.heldout, |loss| format!("{loss:.4}")))?;
        self.row(f, "multiple choice", |summary| {
            change(&summary.multiple_choice, |share| format!("{:.1}%", 100.0 * share))
        })?;
        self.row(f, "tokens a second", |summary| format!("{:.0}", summary.tokens_per_second))?;
        self.row(f, "trainers waited", |summary| format!("{:.1}%", 100.0 * summary.trainer_wait_share))
    }
}

/// `before -> after`, a dash where nothing was measured.
fn change(pair: &BeforeAndAfter, show: impl Fn(f64) -> String) -> String {
    let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), &show);
    format!("{} -> {}", show(pair.before), show(pair.after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_stand_side_by_side() {
        let mut augmented = Summary { tokens: 491_520, tokens_per_second: 2345.6, ..Summary::default() };
        augmented.heldout = BeforeAndAfter { before: Some(4.0), after: Some(3.25) };
        augmented.multiple_choice = BeforeAndAfter { before: Some(0.4), after: Some(0.525) };
        augmented.documents.augmented = 900;
        let vanilla = Summary { tokens: 491_520, trainer_wait_share: 0.25, ..Summary::default() };
        let mut comparison = Comparison::default();
        comparison.add("augmented", augmented);
        comparison.add("vanilla", vanilla);
        let table = comparison.to_string();
        let words = |name: &str| {
            let line = table.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words(" "), "augmented vanilla");
        assert_eq!(words("tokens trained"), "tokens trained 491520 491520");
        assert_eq!(words("documents augmented"), "documents augmented 900 0");
        assert_eq!(words("held-out"), "held-out loss 4.0000 -> 3.2500 - -> -");
        assert_eq!(words("multiple"), "multiple choice 40.0% -> 52.5% - -> -");
        assert_eq!(words("trainers"), "trainers waited 0.0% 25.0%");
        let widths: Vec<usize> = table.lines().map(str::len).collect();
        assert!(widths.iter().all(|&width| width == NAME + 2 * COLUMN), "{widths:?}\n{table}");
    }
}
