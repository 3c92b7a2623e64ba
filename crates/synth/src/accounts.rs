//! Accounts of pairs: how many were kept, how many dropped and why.

use lyceum_corpus::chain::{Counts, add_counts};
use serde::{Deserialize, Serialize};

use crate::parse::Dropped;

/// Pairs kept, and dropped by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairAccounts {
    /// Pairs that stand in a text.
    pub kept: u64,
    /// Pairs dropped, by reason.
    pub dropped: Counts,
}

impl PairAccounts {
    /// Counts `pairs` kept.
    pub fn keep(&mut self, pairs: u64) {
        self.kept += pairs;
    }

    /// Counts one dropped.
    pub fn drop(&mut self, reason: Dropped) {
        *self.dropped.entry(reason.to_string()).or_default() += 1;
    }

    /// Adds another account to this one.
    pub fn add(&mut self, more: &PairAccounts) {
        self.kept += more.kept;
        add_counts(&mut self.dropped, &more.dropped);
    }
}
