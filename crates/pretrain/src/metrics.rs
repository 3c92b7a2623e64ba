//! What a run measures as it goes: one line a step in `DIR/metrics.jsonl`, from which the summary is derived, also over
//! interruptions. A resumed run drops the lines of the steps that it trains again.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::summary::{BeforeAndAfter, FirstAndLast};

/// Steps whose mean is the first or the last loss.
const MEAN_OVER: usize = 5;

/// One step, as all ranks saw it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done, this one included.
    pub step: u64,
    /// Mean loss a target token, in nats. What is not finite is `null` in the file.
    #[serde(deserialize_with = "or_not_a_number")]
    pub loss: f64,
    /// Norm of the gradient before clipping; also.
    #[serde(deserialize_with = "or_not_a_number")]
    pub gradient_norm: f64,
    /// Rate of the update.
    pub learning_rate: f64,
    /// Tokens of the global batch.
    pub tokens: u64,
    /// Seconds from the end of the step before, waits included: the slowest rank's.
    pub seconds: f64,
    /// Seconds waited for the batch, a mean over the ranks.
    pub waited: f64,
    /// Whether no parameter was changed, because a gradient was not finite.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

/// JSON has no number that is not finite.
fn or_not_a_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// What stays of an attempt beside its steps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Held-out loss.
    pub heldout: BeforeAndAfter,
    /// Multiple-choice accuracy.
    pub multiple_choice: BeforeAndAfter,
    /// Most synthesizers at one time.
    pub synthesizers_peak: u32,
    /// Synthesizers started anew after a death.
    pub restarts: u32,
}

/// The metrics of a run: sums in memory, lines on disk.
#[derive(Debug)]
pub struct Metrics {
    file: File,
    progress_path: PathBuf,
    /// What stays beside the steps.
    pub progress: Progress,
    first: Vec<f64>,
    last: VecDeque<f64>,
    step: u64,
    tokens: u64,
    seconds: f64,
    waited: f64,
    skipped: u64,
}

impl Metrics {
    /// Opens the metrics in a run's folder and drops what was measured after `step`.
    pub fn open(folder: &Path, step: u64) -> io::Result<Self> {
        let path = folder.join("metrics.jsonl");
        let progress_path = folder.join("progress.json");
        let progress = match fs::read_to_string(&progress_path) {
            // Of a file that was cut short nothing is lost but counters.
            Ok(text) if step > 0 => serde_json::from_str(&text).unwrap_or_default(),
            _ => Progress::default(),
        };
        let before = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let partial = folder.join("metrics.jsonl.partial");
        let mut metrics = Self {
            file: File::create(&partial)?,
            progress_path,
            progress,
            first: Vec::new(),
            last: VecDeque::new(),
            step: 0,
            tokens: 0,
            seconds: 0.0,
            waited: 0.0,
            skipped: 0,
        };
        for (number, line) in before.lines().enumerate() {
            // What was measured after the checkpoint is trained again; its last line may be cut short by a kill.
            if metrics.step == step {
                break;
            }
            match serde_json::from_str::<StepMetrics>(line) {
                // A file that was removed in between begins later.
                Ok(metric) if metric.step == metrics.step + 1 || number == 0 && metric.step <= step => {
                    metrics.add(metric)?
                }
                _ => {
                    let wanted = metrics.step + 1;
                    return Err(io::Error::other(format!(
                        "{}:{}: not the figures of step {wanted}, which the checkpoint of step {step} goes on from: restore \
                         the file, or remove it and go on without what was measured so far",
                        path.display(),
                        number + 1
                    )));
                }
            }
        }
        if metrics.step < step {
            // The model and its data are in the checkpoint; what is lost are figures.
            tracing::warn!(path = %path.display(), from = metrics.step, to = step, "figures of steps are missing");
        }
        fs::rename(partial, path)?;
        Ok(metrics)
    }

    /// Adds a step.
    pub fn add(&mut self, metric: StepMetrics) -> io::Result<()> {
        let mut line = serde_json::to_string(&metric).map_err(io::Error::other)?;
        line.push('\n');
        self.file.write_all(line.as_bytes())?;
        self.count(&metric);
        Ok(())
    }

    /// Takes a step into the sums.
    fn count(&mut self, metric: &StepMetrics) {
        if self.first.len() < MEAN_OVER {
            self.first.push(metric.loss);
        }
        self.last.push_back(metric.loss);
        if self.last.len() > MEAN_OVER {
            self.last.pop_front();
        }
        self.step = metric.step;
        // As many as a file says, which may be anything.
        self.tokens = self.tokens.saturating_add(metric.tokens);
        self.seconds += metric.seconds;
        self.waited += metric.waited;
        self.skipped += u64::from(metric.skipped);
    }

    /// Writes what stays beside the steps.
    pub fn save_progress(&self) -> io::Result<()> {
        let text = serde_json::to_string_pretty(&self.progress).map_err(io::Error::other)?;
        let partial = self.progress_path.with_extension("json.partial");
        fs::write(&partial, text)?;
        fs::rename(partial, &self.progress_path)
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Steps that changed no parameter, because a gradient was not finite.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Tokens trained.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Tokens a second over all steps, waits included.
    pub fn tokens_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.tokens as f64 / self.seconds } else { 0.0 }
    }

    /// Share of the steps' time that was waited for batches.
    pub fn wait_share(&self) -> f64 {
        if self.seconds > 0.0 { (self.waited / self.seconds).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// Mean losses of the first and the last steps.
    pub fn loss(&self) -> FirstAndLast {
        let mean = |losses: &mut dyn ExactSizeIterator<Item = f64>| {
            let count = losses.len();
            (count > 0).then(|| losses.sum::<f64>() / count as f64)
        };
        FirstAndLast {
            first: mean(&mut self.first.iter().copied()),
            last: mean(&mut self.last.iter().copied()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(step: u64) -> StepMetrics {
        StepMetrics {
            step,
            loss: step as f64,
            gradient_norm: 1.0,
            learning_rate: 1e-3,
            tokens: 10,
            seconds: 2.0,
            waited: 0.5,
            skipped: false,
        }
    }

    /// Open metrics of so many steps, and their folder.
    fn measured(steps: u64) -> (tempfile::TempDir, Metrics) {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(folder.path(), 0).unwrap();
        for step in 1..=steps {
            metrics.add(metric(step)).unwrap();
        }
        (folder, metrics)
    }

    #[test]
    fn steps_that_are_not_finite_are_counted_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(folder.path(), 0).unwrap();
        metrics.add(metric(1)).unwrap();
        metrics.add(StepMetrics { gradient_norm: f64::NAN, skipped: true, ..metric(2) }).unwrap();
        metrics.add(StepMetrics { loss: f64::INFINITY, skipped: true, ..metric(3) }).unwrap();
        // A number whose shortest form a careless parser reads as its neighbour.
        metrics.add(StepMetrics { loss: 3.703238926236592, ..metric(4) }).unwrap();
        drop(metrics);
        let path = folder.path().join("metrics.jsonl");
        let before = fs::read_to_string(&path).unwrap();
        let metrics = Metrics::open(folder.path(), 4).unwrap();
        assert_eq!((metrics.step(), metrics.tokens(), metrics.skipped()), (4, 40, 2));
        drop(metrics);
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
    }

    #[test]
    fn a_resumed_run_drops_what_it_trains_again() {
        let (folder, mut metrics) = measured(12);
        metrics.progress.restarts = 3;
        metrics.save_progress().unwrap();
        drop(metrics);
        // As a kill leaves it: the last line is cut.
        let path = folder.path().join("metrics.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 7]).unwrap();

        let mut metrics = Metrics::open(folder.path(), 8).unwrap();
        assert_eq!((metrics.step(), metrics.tokens(), metrics.progress.restarts), (8, 80, 3));
        assert_eq!(metrics.loss(), FirstAndLast { first: Some(3.0), last: Some(6.0) });
        metrics.add(metric(9)).unwrap();
        drop(metrics);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 9);
    }

    #[test]
    fn figures_that_are_damaged_are_an_error_and_left_as_they_are_and_missing_ones_are_gone_without() {
        let (folder, metrics) = measured(6);
        drop(metrics);
        let path = folder.path().join("metrics.jsonl");
        let whole = fs::read_to_string(&path).unwrap();
        let third = whole.lines().nth(2).unwrap();
        for damage in ["{\"step\": 3, \"lo", "", third.replace("3", "9").as_str()] {
            let damaged = whole.replace(third, damage);
            fs::write(&path, &damaged).unwrap();
            let error =
                Metrics::open(folder.path(), 5).map(|metrics| metrics.step()).unwrap_err().to_string();
            assert!(error.contains("metrics.jsonl:3: not the figures of step 3"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
        }
        fs::remove_file(&path).unwrap();
        let mut metrics = Metrics::open(folder.path(), 5).unwrap();
        metrics.add(metric(6)).unwrap();
        metrics.add(metric(7)).unwrap();
        drop(metrics);
        let metrics = Metrics::open(folder.path(), 6).unwrap();
        assert_eq!((metrics.step(), metrics.tokens()), (6, 10));
    }

    #[test]
    fn waits_are_a_share_of_the_steps_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(folder.path(), 0).unwrap();
        assert_eq!((metrics.wait_share(), metrics.tokens_per_second()), (0.0, 0.0));
        assert_eq!(metrics.loss(), FirstAndLast::default());
        metrics.add(metric(1)).unwrap();
        assert_eq!((metrics.wait_share(), metrics.tokens_per_second()), (0.25, 5.0));
    }
}
