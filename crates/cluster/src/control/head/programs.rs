//! Programs that jobs bring: which nodes have which. Not written down: agents say it whenever they join.

use std::collections::{BTreeMap, BTreeSet};

use lyceum_actor::SpawnRequest;

use super::Head;
use crate::control::vocabulary::Command;
use crate::program::ProgramHash;

/// Programs of one node that are known of.
const MAX_PROGRAMS: usize = 1024;
/// Nodes that an agent is told of: one that asks is sent on to others.
const MAX_HOLDERS: usize = 8;

/// By node.
#[derive(Debug, Clone, Default)]
pub(super) struct Programs(BTreeMap<String, There>);

#[derive(Debug, Clone, Default)]
struct There {
    /// As its agent says.
    held: BTreeSet<ProgramHash>,
    /// As clients say; its agent's word on them may be on its way still.
    brought: BTreeSet<ProgramHash>,
}

impl There {
    fn has(&self, program: &ProgramHash) -> bool {
        self.held.contains(program) || self.brought.contains(program)
    }
}

impl Programs {
    /// All that `node` has, as its agent says.
    pub(super) fn are_at(&mut self, node: &str, programs: impl IntoIterator<Item = ProgramHash>) {
        let there = self.0.entry(node.to_owned()).or_default();
        there.held = programs.into_iter().take(MAX_PROGRAMS).collect();
        there.brought.retain(|program| !there.held.contains(program));
    }

    /// One more that `node` has, as the client says that brought it.
    pub(super) fn is_at(&mut self, node: &str, program: ProgramHash) {
        let there = self.0.entry(node.to_owned()).or_default();
        if there.brought.len() < MAX_PROGRAMS && !there.held.contains(&program) {
            there.brought.insert(program);
        }
    }

    /// Its agent is another one: it says itself what it has.
    pub(super) fn forget_brought(&mut self, node: &str) {
        if let Some(there) = self.0.get_mut(node) {
            there.brought.clear();
        }
    }

    /// The nodes that have it, those first whose names follow `node`, so that not all ask the same one.
    fn holders<'a>(&'a self, program: ProgramHash, node: &'a str) -> impl Iterator<Item = &'a String> {
        let after = self.0.iter().filter(move |(name, _)| name.as_str() > node);
        let before = self.0.iter().filter(move |(name, _)| name.as_str() < node);
        after.chain(before).filter(move |(_, there)| there.has(&program)).map(|(name, _)| name)
    }
}

impl Head {
    /// That a program that is named by its hash is somewhere.
    pub(super) fn check_program(&self, request: &SpawnRequest) -> Result<(), String> {
        let Some(program) = request.program.as_deref() else { return Ok(()) };
        let Some(hash) = ProgramHash::named(program)? else { return Ok(()) };
        let present = |node: &String| self.nodes.get(node).is_some_and(|node| node.present());
        let is_there = self.programs.0.iter().any(|(node, there)| there.has(&hash) && present(node));
        match is_there {
            true => Ok(()),
            false => Err(format!(
                "{}: no node has program {hash}: bring it to the cluster first, with `Client::bring`",
                request.role
            )),
        }
    }

    /// Before a launch its agent is told where the program is.
    pub(super) fn tell_holders(&mut self, node: &str, request: &SpawnRequest) {
        let Some(Ok(Some(hash))) = request.program.as_deref().map(ProgramHash::named) else { return };
        let present = |name: &&String| self.nodes.get(*name).is_some_and(|node| node.present());
        let holders = self.programs.holders(hash, node).filter(present).take(MAX_HOLDERS).cloned().collect();
        self.command(node, Command::Program { program: hash.to_string(), holders });
    }
}
