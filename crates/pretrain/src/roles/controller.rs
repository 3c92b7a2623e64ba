//! The Controller's role.

use lyceum_actor::{Accepts, Role};
use lyceum_corpus::chain::Accounts;
use rkyv::{Archive, Deserialize, Serialize};

use super::Settings;

/// Starts all others, watches them, scales the synthesizers, tells the end.
#[derive(Debug)]
pub struct Controller;

impl Role for Controller {
    const NAME: &'static str = "controller";
    type Args = ControllerArgs;
    type Messages = (Run, Stop, ReadProgress, StepDone, Committed);
}

/// What the Controller is started with.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct ControllerArgs {
    /// The run.
    pub settings: Settings,
}

/// Runs it all; the answer, a [`crate::summary::Summary`] as JSON, comes at the end.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Run;

impl Accepts<Run> for Controller {
    type Reply = String;
}

/// Stops at the next step, with a checkpoint; the answer to [`Run`] then comes early.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Stop;

impl Accepts<Stop> for Controller {
    type Reply = ();
}

/// Asks how far the run is.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct ReadProgress;

/// How far the run is.
#[derive(Debug, Clone, Default, Archive, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done: "starting", "measuring before", "training", "measuring after", "done".
    pub phase: String,
    /// Steps done.
    pub step: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Loss of the newest step.
    pub loss: f64,
    /// Learning rate of the newest step.
    pub learning_rate: f64,
    /// Tokens trained in this attempt.
    pub tokens: u64,
    /// Tokens a second in this attempt.
    pub tokens_per_second: f64,
    /// Share of the trainers' time that went by waiting for a batch.
    pub wait_share: f64,
    /// Sealed batches that wait.
    pub ready_batches: u32,
    /// Synthesizers at work.
    pub synthesizers: u32,
    /// Accounts so far.
    pub accounts: Accounts,
}

impl Accepts<ReadProgress> for Controller {
    type Reply = Progress;
}

/// A rank has done a step.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct StepDone {
    /// The rank.
    pub rank: u32,
    /// Steps done, this one included.
    pub step: u64,
    /// Mean loss a target token of the global batch.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// The rate the step was taken with.
    pub learning_rate: f64,
    /// Tokens of the global batch.
    pub tokens: u64,
    /// Seconds the rank waited for the batch.
    pub waited: f64,
    /// Seconds from the end of the step before, the wait included.
    pub seconds: f64,
    /// Whether no parameter was changed, because a gradient was not finite.
    pub skipped: bool,
}

impl Accepts<StepDone> for Controller {
    type Reply = ();
}

/// A checkpoint is whole and committed.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Committed {
    /// Its step.
    pub step: u64,
    /// Its folder.
    pub path: String,
}

impl Accepts<Committed> for Controller {
    type Reply = ();
}
