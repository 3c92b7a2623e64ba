//! The Packer's role.

use lyceum_actor::{Accepts, ActorRef, Role};
use lyceum_corpus::chain::{Accounts, ChainRecord};
use lyceum_store::ObjectRef;
use rkyv::{Archive, Deserialize, Serialize};

use super::{Attend, CorpusReader, RecordedChains, Settings, Supplied};

/// Records chains, mixes sources, packs, logs and seals batches.
#[derive(Debug)]
pub struct Packer;

impl Role for Packer {
    const NAME: &'static str = "packer";
    type Args = PackerArgs;
    type Messages =
        (Attend, Opened, Attach, Stock, RoomFound, Offer, NextBatch, Close, PackerState, AccountsBelow);
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

/// Tells the Packer where raw chains come from, and whom to tell how far the sources may go.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Attach {
    /// The CorpusReader.
    pub reader: ActorRef<CorpusReader>,
}

impl Accepts<Attach> for Packer {
    type Reply = ();
}

/// What the Packer tells itself: the raw chains that it asked for are here.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Stock {
    /// The CorpusReader's answer.
    pub supplied: Supplied,
}

impl Accepts<Stock> for Packer {
    type Reply = ();
}

/// What the Packer tells itself: the wait for room in the node's store, for the next batch, is over.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct RoomFound;

impl Accepts<RoomFound> for Packer {
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
    /// Chains that synthesizers made and that were recorded since it was started.
    pub converted: u64,
    /// Bytes of chains that wait to be drawn.
    pub bytes: u64,
    /// Of these, what is kept in memory.
    pub kept_bytes: u64,
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
