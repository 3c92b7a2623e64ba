//! Where agents may find the head, once they have been started: a candidate that could not have its place again has said a
//! new one.

use std::net::SocketAddr;

use super::HeadAddress;
use crate::manifest::Manifest;
use crate::state::StateDir;

/// Every so many ticks of the head what the candidates say is read again.
const TICKS_PER_LOOK: u32 = 4;

/// The places of all that may be the head, as they were last read.
pub(super) struct Places {
    state: StateDir,
    manifest: Manifest,
    known: Vec<SocketAddr>,
    ticks: u32,
}

impl Places {
    pub(super) fn new(state: &StateDir, manifest: &Manifest) -> Places {
        let mut places =
            Places { state: state.clone(), manifest: manifest.clone(), known: Vec::new(), ticks: 0 };
        places.look();
        places
    }

    /// All of them; empty where no other head can lead.
    pub(super) fn known(&self) -> &[SocketAddr] {
        &self.known
    }

    /// To be called at each tick: have they changed?
    pub(super) fn tick(&mut self) -> bool {
        self.ticks += 1;
        self.ticks.is_multiple_of(TICKS_PER_LOOK) && self.look()
    }

    fn look(&mut self) -> bool {
        if self.manifest.head.standbys == 0 {
            return false;
        }
        // One that does not say where it is has not started yet.
        let Ok(found) = HeadAddress::of_candidates(&self.state, &self.manifest) else { return false };
        let changed = found != self.known;
        self.known = found;
        changed
    }
}
