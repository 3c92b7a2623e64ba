//! The five roles of a run and what they say to each other.
//!
//! ```text
//!                    Controller: starts, watches, scales, ends
//!                  /       |            |             \
//!      CorpusReader --> Synthesizer --> Packer <-- Trainer (ranks)
//!            \_______ raw chains ________/ \__ sealed batches __/
//! ```
//!
//! All pull: a synthesizer leases chains, a trainer asks for a batch. What is pushed is bounded by the Packer's
//! *horizon*: no chain of a source may be offered whose number is not below it (L2).

use lyceum_actor::{Accepts, ActorRef, Role};
use lyceum_collective::{Gang, Member};
use lyceum_corpus::chain::{Accounts, Chain, ChainId, ChainRecord};
use lyceum_store::ObjectRef;
use rkyv::{Archive, Deserialize, Serialize};

/// What every actor of a run is started with.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Settings {
    /// The checked run file, as JSON ([`crate::run_file::RunFile`]).
    pub run: String,
    /// The run's folder, absolute.
    pub directory: String,
    /// Grows with every attempt at this run: outside effects (log appends, checkpoint commits) of older epochs are
    /// refused.
    pub epoch: u64,
}

/// Answered never, but with an error: when the actor cannot go on, or is dead. So its starter learns of it at once (L3).
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Attend;

impl Accepts<Attend> for CorpusReader {
    type Reply = ();
}

impl Accepts<Attend> for Packer {
    type Reply = ();
}

/// Forms chains, tokenizes raw ones, leases the others to synthesizers.
#[derive(Debug)]
pub struct CorpusReader;

impl Role for CorpusReader {
    const NAME: &'static str = "corpus-reader";
    type Args = CorpusReaderArgs;
    type Messages = (Attend, LeaseChains, Recorded, Extend, ReleaseHolder, ReaderState);
}

/// What the CorpusReader is started with.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct CorpusReaderArgs {
    /// The run.
    pub settings: Settings,
    /// Where chains go.
    pub packer: ActorRef<Packer>,
    /// For each source, what is recorded already.
    pub recorded: Vec<RecordedChains>,
}

/// Which chains of one source are recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RecordedChains {
    /// All chains below this number are recorded.
    pub below: u64,
    /// Recorded chains above it, ascending.
    pub above: Vec<u64>,
    /// Chains below this number may be offered.
    pub horizon: u64,
}

impl RecordedChains {
    /// Whether the chain of this number is recorded.
    pub fn contains(&self, number: u64) -> bool {
        number < self.below || self.above.binary_search(&number).is_ok()
    }
}

/// A synthesizer asks for work. The answer waits until there is some, or none will come.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct LeaseChains {
    /// Who takes them: the synthesizer's actor number.
    pub holder: u64,
    /// Most chains.
    pub most: u32,
}

/// Chains that the asker now holds.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Leases {
    /// The chains; none when all work is done.
    pub chains: Vec<Chain>,
}

impl Accepts<LeaseChains> for CorpusReader {
    type Reply = Leases;
}

/// The Packer has recorded a chain.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Recorded {
    /// The chain.
    pub chain: ChainId,
}

impl Accepts<Recorded> for CorpusReader {
    type Reply = ();
}

/// The Packer has drawn chains: the sources may go on.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Extend {
    /// For each source, chains below this number may be offered now.
    pub horizons: Vec<u64>,
}

impl Accepts<Extend> for CorpusReader {
    type Reply = ();
}

/// A synthesizer is gone: its chains go to others.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct ReleaseHolder {
    /// The synthesizer's actor number.
    pub holder: u64,
}

impl Accepts<ReleaseHolder> for CorpusReader {
    type Reply = ();
}

/// Asks the CorpusReader how it stands.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct ReaderState;

/// How the CorpusReader stands.
#[derive(Debug, Clone, Default, Archive, Serialize, Deserialize)]
pub struct ReaderReport {
    /// Chains that wait for a synthesizer.
    pub waiting: u64,
    /// Chains that synthesizers hold.
    pub leased: u64,
    /// Whether chains to convert are waiting, or may still come.
    pub work_left: bool,
}

impl Accepts<ReaderState> for CorpusReader {
    type Reply = ReaderReport;
}

/// Turns leased chains into texts until none is left.
#[derive(Debug)]
pub struct Synthesizer;

impl Role for Synthesizer {
    const NAME: &'static str = "synthesizer";
    type Args = SynthesizerArgs;
    type Messages = (Synthesize, Turn, Drain);
}

/// What a synthesizer is started with.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct SynthesizerArgs {
    /// The run.
    pub settings: Settings,
    /// Where chains come from.
    pub reader: ActorRef<CorpusReader>,
    /// Where what was made of them goes.
    pub packer: ActorRef<Packer>,
}

/// Works until no chain is left or it is told to drain; the answer comes then.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Synthesize;

/// What a synthesizer has done.
#[derive(Debug, Clone, Default, Archive, Serialize, Deserialize)]
pub struct SynthesisReport {
    /// Chains answered.
    pub chains: u64,
}

impl Accepts<Synthesize> for Synthesizer {
    type Reply = SynthesisReport;
}

/// What a synthesizer tells itself: take the next chains. Between two turns it hears [`Drain`].
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Turn;

impl Accepts<Turn> for Synthesizer {
    type Reply = ();
}

/// Ends the work after the chains in hand.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Drain;

impl Accepts<Drain> for Synthesizer {
    type Reply = ();
}

/// Records chains, mixes sources, packs, logs and seals batches.
#[derive(Debug)]
pub struct Packer;

impl Role for Packer {
    const NAME: &'static str = "packer";
    type Args = PackerArgs;
    type Messages = (Attend, Opened, Attach, Offer, SourceEnd, NextBatch, Close, PackerState, AccountsBelow);
}

/// What the Packer is started with.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct PackerArgs {
    /// The run.
    pub settings: Settings,
    /// Number of the first batch that will be asked for: the newest checkpoint's data position.
    pub from_position: u64,
}

/// Asks what is recorded already.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Opened;

/// What is recorded already, a source each.
#[derive(Debug, Clone, Default, Archive, Serialize, Deserialize)]
pub struct OpenedReport {
    /// In the order of the run file's sources.
    pub sources: Vec<RecordedChains>,
}

impl Accepts<Opened> for Packer {
    type Reply = OpenedReport;
}

/// Tells the Packer whom to tell of recorded chains.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Attach {
    /// The CorpusReader.
    pub reader: ActorRef<CorpusReader>,
}

impl Accepts<Attach> for Packer {
    type Reply = ();
}

/// What was made of a chain. The answer comes when it is recorded; a chain that is recorded already is left as it is.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Offer {
    /// The chain's texts and accounts.
    pub record: ChainRecord,
}

impl Accepts<Offer> for Packer {
    type Reply = ();
}

/// A source has no more chains than this.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct SourceEnd {
    /// Index of the source.
    pub source: u16,
    /// How many chains it has in all epochs together.
    pub chains: u64,
}

impl Accepts<SourceEnd> for Packer {
    type Reply = ();
}

/// A trainer asks for a batch. The answer waits until it is sealed.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct NextBatch {
    /// Its number in the batch log.
    pub position: u64,
    /// The trainer's rank.
    pub rank: u32,
}

/// A sealed batch, or the end.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub enum Grant {
    /// The batch, in the store: an archive of [`lyceum_corpus::batch`].
    Batch(ObjectRef),
    /// There is no batch of this number, for any rank: the data ended or the run was closed.
    End,
}

impl Accepts<NextBatch> for Packer {
    type Reply = Grant;
}

/// Ends the run early: no batch beyond those that some rank has begun.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Close;

impl Accepts<Close> for Packer {
    /// The number of the first batch that nobody will get.
    type Reply = u64;
}

/// Asks the Packer how it stands.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct PackerState;

/// How the Packer stands.
#[derive(Debug, Clone, Default, Archive, Serialize, Deserialize)]
pub struct PackerReport {
    /// Batches in the log.
    pub logged: u64,
    /// Sealed batches that nobody has asked for yet.
    pub ready: u32,
    /// Whether some source's window is full, so that more synthesizers would only wait.
    pub saturated: bool,
    /// Accounts of all chains that the logged batches drew from.
    pub accounts: Accounts,
}

impl Accepts<PackerState> for Packer {
    type Reply = PackerReport;
}

/// Asks for the accounts of what was trained: of the chains that batches below this position drew from.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct AccountsBelow {
    /// Number of the first batch that was not trained.
    pub position: u64,
}

impl Accepts<AccountsBelow> for Packer {
    type Reply = Accounts;
}

/// One rank of the gang that trains.
#[derive(Debug)]
pub struct Trainer;

impl Role for Trainer {
    const NAME: &'static str = "trainer";
    type Args = TrainerArgs;
    type Messages = (Join, Form, Evaluate, Train);
}

/// What a trainer is started with.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct TrainerArgs {
    /// The run.
    pub settings: Settings,
    /// Who is told of every step.
    pub controller: ActorRef<Controller>,
}

/// Asks a trainer where its gang can reach it.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Join;

impl Accepts<Join> for Trainer {
    type Reply = Member;
}

/// Forms the gang and loads the newest checkpoint, or the first weights.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Form {
    /// All members, in rank order.
    pub gang: Gang,
    /// The trainer's own rank.
    pub rank: u32,
}

/// Where a gang begins.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Formed {
    /// Steps done before.
    pub step: u64,
    /// Number of the batch that comes next.
    pub log_position: u64,
}

impl Accepts<Form> for Trainer {
    type Reply = Formed;
}

/// Measures the model on held-out data. Every rank is asked; each measures its share, and the results are summed.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Evaluate;

/// Sums that become means over all ranks.
#[derive(Debug, Clone, Default, Archive, Serialize, Deserialize)]
pub struct Evaluation {
    /// Sum of the loss of all held-out tokens.
    pub heldout_loss: f64,
    /// Held-out tokens.
    pub heldout_tokens: u64,
    /// Multiple-choice items answered rightly.
    pub choices_right: u64,
    /// Multiple-choice items.
    pub choices: u64,
}

impl Accepts<Evaluate> for Trainer {
    type Reply = Evaluation;
}

/// Trains until the last step or the end of data; the answer comes then, after the last checkpoint.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Train {
    /// Where batches come from.
    pub packer: ActorRef<Packer>,
}

/// Where a rank has stopped.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Trained {
    /// Steps done, those before a resumption included.
    pub step: u64,
}

impl Accepts<Train> for Trainer {
    type Reply = Trained;
}

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
