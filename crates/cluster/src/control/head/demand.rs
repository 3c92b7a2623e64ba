//! What waits for nodes that are not there, and nodes that may be asked for.

use std::collections::BTreeSet;

use super::super::elastic::{self, Demand, Elastic, Member, Waiting};
use super::super::placement::Candidate;
use super::super::resources::{Ledger, Request};
use super::super::vocabulary::Labels;
use super::Head;
use super::nodes::Presence;
use crate::units::{Bytes, Milli};

/// Most lines that are told of what is done about it.
const MAX_LINES: usize = 32;

/// A node that is asked for when something needs it: placement holds what is asked for against it, and gives nothing there.
#[derive(Debug, Clone)]
pub(super) struct Further {
    most: usize,
    labels: Labels,
    ledger: Ledger,
}

impl Further {
    /// Those that may be asked for, if any may.
    pub(super) fn of(elastic: &Elastic) -> Option<Further> {
        let (labels, ledger) = (elastic.labels.clone(), Ledger::new(elastic.capacity.clone()));
        (elastic.most > 0).then_some(Further { most: elastic.most, labels, ledger })
    }

    pub(super) fn candidate(&self) -> Candidate<'_> {
        let (name, closed) = ("a further node", Some("asked for in time"));
        Candidate { name, labels: &self.labels, ledger: &self.ledger, failures: 0, closed }
    }
}

impl Head {
    /// As [`candidates_for`](Self::candidates_for), with all the nodes that may be asked for: a gang may need several.
    pub(super) fn gang_candidates<'a>(
        &'a self,
        gang: u64,
        role: &str,
    ) -> impl Iterator<Item = Candidate<'a>> + Clone + use<'a> {
        let others = self
            .further
            .iter()
            .flat_map(|further| std::iter::repeat_n(further.candidate(), further.most.saturating_sub(1)));
        self.candidates_for(gang, role).chain(others)
    }

    /// What waits, and what it lacks when `coming` nodes were asked for and have not joined: of those that wait, `patient` ones
    /// count. `most` further ones may be asked for.
    pub fn demand(&self, patient: &BTreeSet<u64>, coming: usize, most: usize) -> Demand {
        let waiting: Vec<u64> = self.waiting.units().collect();
        let lacking = match &self.options.elastic {
            Some(elastic) if waiting.iter().any(|unit| patient.contains(unit)) => {
                let long = waiting.iter().filter(|unit| patient.contains(unit));
                let long: Vec<Waiting> = long.filter_map(|unit| self.what_waits(*unit)).collect();
                let nodes = self.candidates("").filter(|node| node.closed.is_none());
                elastic::lacking(nodes, elastic, coming, most, &long)
            }
            _ => 0,
        };
        let used: BTreeSet<&str> = self.processes.values().map(|process| &*process.node).collect();
        let joined = self.nodes.iter().filter(|(_, node)| node.given.is_none());
        let members = joined.map(|(name, node)| Member {
            name: name.clone(),
            present: node.present(),
            lost: matches!(node.presence, Presence::Lost { .. }),
            empty: !used.contains(&**name),
            drained: node.empty_at.is_some(),
        });
        Demand { waiting, lacking, members: members.collect() }
    }

    fn what_waits(&self, unit: u64) -> Option<Waiting> {
        let gang = self.gangs.get(&unit).map(|gang| gang.members.len());
        let request = match self.actors.get(&unit) {
            Some(state) => &state.request,
            None => self.member_request(unit)?,
        };
        Some(Waiting { unit, request: Request::from(request), gang })
    }

    /// Takes note of what is done about it, for people.
    pub(super) fn scaled(&mut self, mut lines: Vec<String>) {
        lines.truncate(MAX_LINES);
        self.scaling = lines;
    }

    /// What waits for room in all, and what is done about it.
    pub(super) fn wanting(&self) -> Vec<String> {
        let mut total = (0_usize, Milli(0), Milli(0), Bytes(0));
        let mut custom: BTreeSet<String> = BTreeSet::new();
        for Waiting { request, gang, .. } in self.waiting.units().filter_map(|unit| self.what_waits(unit)) {
            let size = gang.unwrap_or(1);
            let times = |amount: u64| amount.saturating_mul(size as u64);
            total.0 += size;
            total.1.0 = total.1.0.saturating_add(times(request.cpus.0));
            total.2.0 = total.2.0.saturating_add(times(request.gpus.0));
            total.3.0 = total.3.0.saturating_add(times(request.memory));
            custom.extend(request.custom.into_keys());
        }
        let (actors, cpus, gpus, memory) = total;
        let mut wants = vec![(cpus.0 > 0, format!("cpus {cpus}")), (gpus.0 > 0, format!("gpus {gpus}"))];
        wants.push((memory.0 > 0, format!("memory {memory}")));
        wants.extend(custom.into_iter().map(|name| (true, name)));
        let wants: Vec<String> =
            wants.into_iter().filter(|(some, _)| *some).map(|(_, words)| words).collect();
        let who = if actors == 1 { "an actor waits" } else { &format!("{actors} actors wait") };
        let told = match wants.is_empty() {
            true => format!("{who} for room"),
            false => format!("{who} for room: {}", wants.join(", ")),
        };
        (actors > 0).then_some(told).into_iter().chain(self.scaling.iter().cloned()).collect()
    }
}
