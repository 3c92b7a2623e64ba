//! Worlds in which something is wrong that the head and the agents rely on, or do not do what they should: the assertions must
//! find it.

use super::*;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// What an older incarnation of an agent says counts as said by the newest.
    FencingOff,
    /// A launch that arrives twice is done twice.
    DeduplicationOff,
    /// A new head does not wait for its agents before it gives them up.
    LeaseWindowSkipped,
    /// Effects are released before their records are written: a crash loses these.
    EffectsBeforeCommit,
    /// An agent that joins does not say what runs.
    RunningNotTold,
    /// An agent that joins does not say what has ended.
    EndedNotTold,
    /// Orders to stop are not given again to an agent that joins.
    StopsNotRepeated,
    /// That a node takes nothing new is not written down.
    ClosuresNotDurable,
    /// That a gang is being ended is not written down.
    GangsEndingNotDurable,
    /// What nodes have that the manifest does not name is not written down.
    OffersNotDurable,
    /// The head believes that each node has twice of what it has.
    Overcommitted,
    /// An agent that has lost the head still believes afterwards what it said of silent nodes.
    SuspicionsKept,
    /// Agents that meet again do not tell each other whom they watch.
    PeersNotToldAgain,
    /// A node that was given up and is heard again on its old connection is left as it is.
    GivenUpNotCut,
}

impl Planted {
    pub const ALL: [Planted; 14] = [
        Planted::FencingOff,
        Planted::DeduplicationOff,
        Planted::LeaseWindowSkipped,
        Planted::EffectsBeforeCommit,
        Planted::RunningNotTold,
        Planted::EndedNotTold,
        Planted::StopsNotRepeated,
        Planted::ClosuresNotDurable,
        Planted::GangsEndingNotDurable,
        Planted::OffersNotDurable,
        Planted::Overcommitted,
        Planted::SuspicionsKept,
        Planted::PeersNotToldAgain,
        Planted::GivenUpNotCut,
    ];
}

impl World {
    /// What the head reads when it starts again.
    pub(super) fn records_found(&mut self) -> BTreeMap<Key, Value> {
        match self.planted {
            Some(Planted::EffectsBeforeCommit) => {
                if let Some(before) = self.before.take() {
                    self.disk = before;
                }
            }
            Some(Planted::OffersNotDurable) => {
                let mut found = self.disk.clone();
                found.retain(|key, _| !matches!(key, Key::Offer(_)));
                return found;
            }
            Some(Planted::ClosuresNotDurable | Planted::GangsEndingNotDurable) => {
                let mut found = self.disk.clone();
                for value in found.values_mut() {
                    match (value, self.planted) {
                        (Value::Node(node), Some(Planted::ClosuresNotDurable)) => node.closure = None,
                        (Value::Gang(gang), Some(Planted::GangsEndingNotDurable)) => gang.ending = None,
                        _ => {}
                    }
                }
                return found;
            }
            _ => {}
        }
        self.disk.clone()
    }

    /// How far the head's clock is ahead.
    pub(super) fn skipped_lease(&self) -> Duration {
        match self.planted {
            Some(Planted::LeaseWindowSkipped) if self.term > 1 => Duration::from_secs(3600),
            _ => Duration::ZERO,
        }
    }

    /// Does the command get lost?
    pub(super) fn loses(&self, command: &Command) -> bool {
        match self.planted {
            Some(Planted::StopsNotRepeated) => self.joining && matches!(command, Command::Stop { .. }),
            _ => false,
        }
    }

    /// What a joining agent says of its processes.
    pub(super) fn inventory_told(
        &self,
        running: Vec<Running>,
        ended: Vec<ProcessDeath>,
    ) -> (Vec<Running>, Vec<ProcessDeath>) {
        match self.planted {
            Some(Planted::RunningNotTold) => (Vec::new(), ended),
            Some(Planted::EndedNotTold) => (running, Vec::new()),
            _ => (running, ended),
        }
    }

    /// Starts a process again whose launch was carried out before.
    pub(super) fn launch_again(&mut self, node: &str, command: &Command) {
        if let (Some(Planted::DeduplicationOff), Command::Launch(launch)) = (self.planted, command)
            && self.launched.contains(&launch.process)
        {
            self.start_process(node, launch.clone());
        }
    }
}
