//! What a run shows while it goes: bars on a terminal, a line now and then elsewhere.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lyceum_pretrain::roles::Progress;

use super::say;

/// Where there is no terminal, a line this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Bars for steps, documents and pairs.
pub struct Display {
    bars: Option<Bars>,
    told: Cell<Option<Instant>>,
    phase: Cell<String>,
}

struct Bars {
    all: MultiProgress,
    steps: ProgressBar,
    documents: ProgressBar,
    pairs: ProgressBar,
}

impl Display {
    pub fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(Bars::new);
        Self { bars, told: Cell::new(None), phase: Cell::new(String::new()) }
    }

    /// Shows how far the run is.
    pub fn show(&self, progress: &Progress) {
        let Some(bars) = &self.bars else {
            return self.line(progress);
        };
        bars.steps.set_length(progress.steps);
        bars.steps.set_position(progress.step);
        bars.steps.set_message(numbers(progress));
        bars.documents.set_position(progress.accounts.read());
        bars.documents.set_message(format!(
            "{} raw, {} augmented, {} skipped",
            progress.accounts.raw,
            progress.accounts.augmented,
            progress.accounts.skipped.values().sum::<u64>()
        ));
        bars.pairs.set_position(progress.accounts.pairs_kept);
        bars.pairs.set_message(format!(
            "{} dropped; {} synthesizers",
            progress.accounts.pairs_dropped.values().sum::<u64>(),
            progress.synthesizers
        ));
    }

    /// Something happened that a person should read.
    pub fn event(&self, text: &str) {
        if text.is_empty() {
            return;
        }
        match &self.bars {
            // A terminal that takes no line takes no error about it either.
            Some(bars) => _ = bars.all.println(text),
            None => say(text),
        }
    }

    /// Takes the bars away.
    pub fn finish(&self) {
        if let Some(bars) = &self.bars {
            for bar in [&bars.steps, &bars.documents, &bars.pairs] {
                bar.abandon();
            }
        }
    }

    fn line(&self, progress: &Progress) {
        let phase = self.phase.replace(progress.phase.clone());
        let due = self.told.get().is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if !due && phase == progress.phase {
            return;
        }
        self.told.set(Some(Instant::now()));
        say(&format!(
            "step {} of {}, {} documents, {} pairs; {}",
            progress.step,
            progress.steps,
            progress.accounts.read(),
            progress.accounts.pairs_kept,
            numbers(progress)
        ));
    }
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let bar = |length: Option<u64>, template: &str| {
            let bar = all.add(ProgressBar::new(length.unwrap_or(0)));
            // The templates are constants that parse.
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        };
        let steps = bar(Some(1), "    steps {bar:30} {pos}/{len} {msg}");
        let documents = bar(None, "documents {pos} {msg}");
        let pairs = bar(None, "    pairs {pos} kept, {msg}");
        Self { all, steps, documents, pairs }
    }
}

fn numbers(progress: &Progress) -> String {
    if progress.step == 0 {
        return progress.phase.clone();
    }
    format!(
        "{}: loss {:.4}, {:.0} tokens/s, {} batches ready, trainers waited {:.0}%",
        progress.phase,
        progress.loss,
        progress.tokens_per_second,
        progress.ready_batches,
        100.0 * progress.wait_share
    )
}
