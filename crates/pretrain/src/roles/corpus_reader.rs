//! The CorpusReader's role.

use lyceum_actor::{Accepts, Role};
use lyceum_corpus::chain::{Chain, ChainId, ChainRecord};
use rkyv::{Archive, Deserialize, Serialize};

use super::{Attend, Settings};

/// Forms chains, tokenizes raw ones, leases the others to synthesizers.
#[derive(Debug)]
pub struct CorpusReader;

impl Role for CorpusReader {
    const NAME: &'static str = "corpus-reader";
    type Args = CorpusReaderArgs;
    type Messages = (Attend, Supply, LeaseChains, Advance, ReleaseHolder, ReaderState);
}

/// What the CorpusReader is started with.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct CorpusReaderArgs {
    /// The run.
    pub settings: Settings,
    /// For each source, what is recorded already.
    pub recorded: Vec<RecordedChains>,
}

/// Which chains of one source are recorded, and how far it may go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RecordedChains {
    /// Recorded chains that are not drawn yet, ascending.
    pub above: Vec<u64>,
    /// How far it may go; all chains below its `next` are drawn.
    pub allowance: Allowance,
}

impl RecordedChains {
    /// Whether the chain of this number is recorded.
    pub fn contains(&self, number: u64) -> bool {
        number < self.allowance.next || self.above.binary_search(&number).is_ok()
    }
}

/// How far a source may go (L2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Allowance {
    /// The chain that the Packer draws next: it is always welcome.
    pub next: u64,
    /// Chains below this number may be made.
    pub horizon: u64,
    /// Whether others than the next one may be made now.
    pub room: bool,
}

/// The Packer asks for raw chains. The answer waits until there are some, or a source has ended.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Supply;

/// Raw chains, ready to be recorded.
#[derive(Debug, Clone, Default, Archive, Serialize, Deserialize)]
pub struct Supplied {
    /// In each source's order.
    pub records: Vec<ChainRecord>,
    /// Sources found to have ended, each with how many chains it has in all its epochs together.
    pub ends: Vec<(u16, u64)>,
    /// Nothing comes after this.
    pub done: bool,
}

impl Accepts<Supply> for CorpusReader {
    type Reply = Supplied;
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

/// The Packer has recorded and drawn chains: leases are settled, and the sources may go on.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Advance {
    /// Chains of synthesizers that are recorded since this was last told.
    pub recorded: Vec<ChainId>,
    /// How far each source may go now.
    pub allowances: Vec<Allowance>,
}

impl Accepts<Advance> for CorpusReader {
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ReaderReport {
    /// Chains that wait for a synthesizer.
    pub waiting: u64,
    /// Chains that synthesizers hold.
    pub leased: u64,
    /// Bytes of all chains that it keeps.
    pub bytes: u64,
    /// Whether chains to convert are waiting, or may still come.
    pub work_left: bool,
}

impl Accepts<ReaderState> for CorpusReader {
    type Reply = ReaderReport;
}
