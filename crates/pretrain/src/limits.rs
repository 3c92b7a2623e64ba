//! The bounds of what waits between the corpus and the trainers (L2), in one place.
//!
//! | where | at most |
//! |---|---|
//! | CorpusReader: chains formed and not handed out, or held by synthesizers | [`Limits::held_bytes`], and one chain a source |
//! | CorpusReader: the window that a source's order is made of | one window a source, of 256 MiB |
//! | one answer to a synthesizer that asks for chains | [`Limits::lease_bytes`], and one chain |
//! | one answer to the Packer that asks for raw chains | [`Limits::supply_bytes`], and one record |
//! | Synthesizer: what was made of the chains that it holds | `chains_at_once` records |
//! | records on their way to the Packer | its mailbox, 256 MiB |
//! | Packer: records that wait to be drawn, in memory | [`Limits::window_bytes`], and one record a source |
//! | Packer: records that wait to be drawn, on disk | the same, one supply, and what synthesizers hold |
//! | sealed batches that nobody has asked for | [`SEALED_AHEAD`] |
//!
//! The exceptions of one each are what keeps it all going: for the one chain that a source must give next there is
//! always room, however full everything is.

/// Batches that are sealed before anybody asks for them.
pub const SEALED_AHEAD: u64 = 2;

/// Sealed batches that a node's store may have to hold at a time: one is trained, one is fetched ahead, one went to a
/// faster rank, and the others were asked for by nobody yet.
pub const SEALED_AT_ONCE: u64 = 3 + SEALED_AHEAD;

/// How much may wait where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Chains of one source that may be made before they are drawn; fewer where the run is about to end.
    pub chains_ahead: u64,
    /// Bytes of records of all sources that may wait to be drawn before nobody makes more than the next ones.
    pub window_bytes: usize,
    /// Chains that the CorpusReader keeps.
    pub held_chains: usize,
    /// Bytes of chains that the CorpusReader keeps.
    pub held_bytes: usize,
    /// Bytes of chains that are leased at a time.
    pub lease_bytes: usize,
    /// Bytes of raw chains that are supplied at a time.
    pub supply_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            chains_ahead: 256,
            window_bytes: 256 << 20,
            held_chains: 4096,
            held_bytes: 128 << 20,
            lease_bytes: 16 << 20,
            supply_bytes: 4 << 20,
        }
    }
}

impl Limits {
    /// As little as possible, for tests of everything that waits.
    pub fn tiny() -> Self {
        Self {
            chains_ahead: 2,
            window_bytes: 1,
            held_chains: 1,
            held_bytes: 1,
            lease_bytes: 1,
            supply_bytes: 1,
        }
    }
}
