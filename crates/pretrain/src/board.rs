//! What the Controller knows of a run while it goes: written by its handlers and by the conductor, read by both.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lyceum_corpus::chain::Accounts;
use tokio::sync::Notify;

use crate::metrics::{Metrics, StepMetrics};
use crate::roles::{Committed, Progress, StepDone};
use crate::run_file::RunFile;

/// Everything that is known of a run.
pub struct Board {
    state: Mutex<State>,
    stopping: Notify,
    world_size: usize,
    steps: u64,
}

#[derive(Default)]
struct State {
    phase: &'static str,
    /// What a person should know of it.
    note: Option<&'static str>,
    metrics: Option<Metrics>,
    /// Steps that not all ranks have done yet.
    open: BTreeMap<u64, Vec<StepDone>>,
    learning_rate: f64,
    loss: f64,
    checkpoint: Option<PathBuf>,
    ready_batches: u32,
    synthesizers: u32,
    accounts: Accounts,
    /// Seconds waited and seconds passed since the autoscaler last looked.
    recent: (f64, f64),
    stopped: bool,
}

impl Board {
    /// An empty board for `run`.
    pub fn new(run: &RunFile) -> Self {
        Self {
            state: Mutex::new(State { phase: "starting", ..State::default() }),
            stopping: Notify::new(),
            world_size: run.trainer.world_size as usize,
            steps: run.trainer.steps,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A holder never panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the run to stop at the next step.
    pub fn stop(&self) {
        self.state().stopped = true;
        self.stopping.notify_waiters();
    }

    /// Whether it was asked to stop.
    pub fn stopped(&self) -> bool {
        self.state().stopped
    }

    /// Returns when the run is asked to stop.
    pub async fn until_stopped(&self) {
        loop {
            let notified = self.stopping.notified();
            if self.stopped() {
                return;
            }
            notified.await;
        }
    }

    /// What is being done.
    pub fn set_phase(&self, phase: &'static str) {
        tracing::info!(phase, "the run");
        self.state().phase = phase;
    }

    /// What a person should know of the phase, as long as it is so.
    pub fn set_note(&self, note: Option<&'static str>) {
        self.state().note = note;
    }

    /// The metrics, from here on.
    pub fn set_metrics(&self, metrics: Metrics) {
        let mut state = self.state();
        // Of a resumed run, until its next step.
        state.loss = metrics.loss().last.unwrap_or_default();
        state.metrics = Some(metrics);
    }

    /// Reads or changes the metrics, once they are there.
    pub fn with_metrics<T>(&self, look: impl FnOnce(&mut Metrics) -> T) -> Option<T> {
        self.state().metrics.as_mut().map(look)
    }

    /// What the Packer said.
    pub fn set_packer(&self, ready_batches: u32, accounts: Accounts) {
        let mut state = self.state();
        state.ready_batches = ready_batches;
        state.accounts = accounts;
    }

    /// How many synthesizers there are.
    pub fn set_synthesizers(&self, count: u32) {
        let mut state = self.state();
        state.synthesizers = count;
        if let Some(metrics) = &mut state.metrics {
            metrics.progress.synthesizers_peak = metrics.progress.synthesizers_peak.max(count);
        }
    }

    /// The newest checkpoint.
    pub fn checkpoint(&self) -> Option<PathBuf> {
        self.state().checkpoint.clone()
    }

    /// Share of the trainers' time since the last look that was waited for batches.
    pub fn take_starved(&self) -> f64 {
        let (waited, seconds) = std::mem::take(&mut self.state().recent);
        // No step was done: whoever is at it may wait, but not for long enough to say so.
        if seconds > 0.0 { (waited / seconds).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// A rank has done a step; the step counts when all ranks have.
    pub fn step_done(&self, done: &StepDone) -> anyhow::Result<()> {
        let mut state = self.state();
        let reports = state.open.entry(done.step).or_default();
        reports.push(done.clone());
        if reports.len() < self.world_size {
            return Ok(());
        }
        let Some(reports) = state.open.remove(&done.step) else { return Ok(()) };
        let waited = reports.iter().map(|report| report.waited).sum::<f64>() / reports.len() as f64;
        let seconds = reports.iter().map(|report| report.seconds).fold(0.0, f64::max);
        state.recent.0 += waited;
        state.recent.1 += seconds;
        state.loss = done.loss;
        state.learning_rate = done.learning_rate;
        let metric = StepMetrics {
            step: done.step,
            loss: done.loss,
            gradient_norm: done.gradient_norm,
            learning_rate: done.learning_rate,
            tokens: done.tokens,
            seconds,
            waited,
            skipped: done.skipped,
        };
        match &mut state.metrics {
            Some(metrics) => Ok(metrics.add(metric)?),
            None => Ok(()),
        }
    }

    /// A checkpoint is whole.
    pub fn committed(&self, committed: Committed) -> anyhow::Result<()> {
        tracing::info!(step = committed.step, path = committed.path, "checkpoint");
        let mut state = self.state();
        state.checkpoint = Some(committed.path.into());
        match &state.metrics {
            Some(metrics) => Ok(metrics.save_progress()?),
            None => Ok(()),
        }
    }

    /// How far the run is.
    pub fn progress(&self) -> Progress {
        let state = self.state();
        let metrics = state.metrics.as_ref();
        Progress {
            phase: match state.note {
                Some(note) => format!("{} ({note})", state.phase),
                None => state.phase.to_owned(),
            },
            step: metrics.map_or(0, Metrics::step),
            steps: self.steps,
            loss: state.loss,
            learning_rate: state.learning_rate,
            tokens: metrics.map_or(0, Metrics::tokens),
            tokens_per_second: metrics.map_or(0.0, Metrics::tokens_per_second),
            wait_share: metrics.map_or(0.0, Metrics::wait_share),
            ready_batches: state.ready_batches,
            synthesizers: state.synthesizers,
            accounts: state.accounts.clone(),
        }
    }
}
