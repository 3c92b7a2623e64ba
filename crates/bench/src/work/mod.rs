//! The works, by subject.

pub mod actor;
pub mod control;
pub mod idle;
pub mod store;

use std::path::PathBuf;
use std::time::Duration;

use crate::peer::Peer;

/// How a subject is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program whose commands are the cluster's processes: `lyceum`.
    pub program: PathBuf,
    /// Who is measured beside us.
    pub peer: Option<Peer>,
    /// Rounds of each work.
    pub rounds: u32,
    /// Time of a round of calls.
    pub time: Duration,
}
