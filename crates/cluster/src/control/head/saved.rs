//! What actors have saved for their next lives.

use std::collections::BTreeMap;

use super::super::record::Key;
use super::super::vocabulary::{Answer, Origin};
use super::Head;

/// Longest state of one actor, in bytes: it is written down, kept in memory, and travels with each start.
const MAX_STATE: usize = 64 << 10;
/// Of all actors together.
const MAX_STATES: usize = 64 << 20;

/// By actor.
#[derive(Debug, Clone, Default)]
pub(super) struct Saved {
    states: BTreeMap<u64, Vec<u8>>,
    bytes: usize,
}

impl Saved {
    pub(super) fn get(&self, actor: u64) -> Option<&Vec<u8>> {
        self.states.get(&actor)
    }

    /// Returns whether there was room for it.
    pub(super) fn insert(&mut self, actor: u64, state: Vec<u8>) -> bool {
        let before = self.states.get(&actor).map_or(0, Vec::len);
        let bytes = self.bytes - before + state.len();
        if bytes > MAX_STATES {
            return false;
        }
        self.bytes = bytes;
        self.states.insert(actor, state);
        true
    }

    /// Returns whether there was any.
    pub(super) fn remove(&mut self, actor: u64) -> bool {
        let state = self.states.remove(&actor);
        self.bytes -= state.as_ref().map_or(0, Vec::len);
        state.is_some()
    }
}

impl Head {
    /// An actor wants `state` to be there in its next life. What an earlier life says, late, is refused.
    pub(super) fn save(&mut self, asker: (Origin, u64), state: Vec<u8>) {
        let Origin::Worker(process) = asker.0 else {
            return self.refuse(asker, "only an actor in a process of its own has a state that is saved");
        };
        let of = self.processes.get(&process).and_then(|state| state.actor);
        let Some(actor) = of.filter(|actor| self.runs_in(*actor, process)) else {
            return self.refuse(asker, format!("process {process} is not its actor's any more"));
        };
        if state.len() > MAX_STATE {
            let len = state.len();
            return self.refuse(
                asker,
                format!("a state of {len} bytes, expected at most {MAX_STATE}: save the rest in a file, and its name here"),
            );
        }
        match self.saved.insert(actor, state) {
            true => {
                self.dirty.insert(Key::Saved(actor));
                self.reply(asker, Answer::Done);
            }
            false => self.refuse(asker, format!("the states of all actors have {MAX_STATES} bytes already")),
        }
    }

    fn runs_in(&self, actor: u64, process: u64) -> bool {
        self.actors.get(&actor).is_some_and(|state| state.process == Some(process))
    }

    pub(super) fn forget_saved(&mut self, actor: u64) {
        if self.saved.remove(actor) {
            self.dirty.insert(Key::Saved(actor));
        }
    }
}
