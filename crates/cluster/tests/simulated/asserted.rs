//! What holds, always or in the end.

use lyceum_cluster::control::placement::{self, Candidate};
use lyceum_cluster::control::resources::Request;
use lyceum_cluster::control::vocabulary::{JobEvent, Notice};

use super::*;

impl World {
    pub fn assert_safety(&self) {
        self.assert_names_and_spawners();
        self.assert_gangs_are_whole();
        let seed = self.seed;
        for (name, agent) in &self.agents {
            let mut ledger = Ledger::new(capacity());
            for process in agent.processes.values() {
                ledger.take(&process.allotment);
            }
            assert!(!ledger.overdrawn(), "C2, seed {seed}: node {name} holds {:?}", ledger.used());
        }
        for agent in self.agents.values() {
            for process in agent.processes.keys() {
                let actor = self.actor_of.get(process).and_then(|actor| self.disk.get(&Key::Actor(*actor)));
                let newest = match actor {
                    Some(Value::Actor(state)) => state.process,
                    _ => None,
                };
                assert!(
                    newest.is_none_or(|newest| *process <= newest),
                    "C1, seed {seed}: process {process} is newer than the effective {newest:?}"
                );
            }
        }
        // It says of everything that waits for what, which takes long.
        if self.events.is_multiple_of(32) {
            self.assert_the_heads_account();
        }
    }

    fn assert_the_heads_account(&self) {
        for node in &self.head.status().nodes {
            if let Some(reason) = node.state.strip_prefix("lost: ") {
                self.assert_verdict(&node.name, reason);
            }
            let overdrawn = node.used.cpus > node.capacity.cpus || node.used.memory > node.capacity.memory;
            assert!(
                !overdrawn,
                "C2, seed {}: the head's account of {}: {:?}",
                self.seed, node.name, node.used
            );
        }
    }

    /// A process that is newly written down is where one may be placed.
    pub(super) fn assert_open(&self, record: &Record) {
        let (Key::Process(process), Some(Value::Process(state))) = (&record.key, &record.value) else {
            return;
        };
        let node = self.disk.get(&Key::Node(state.node.clone()));
        if let Some(Value::Node(node)) = node.filter(|_| state.actor.is_some()) {
            let seed = self.seed;
            assert_eq!(node.closure, None, "C7, seed {seed}: {process} is placed on {}", state.node);
        }
    }

    /// A node that takes nothing new does so until a person says otherwise.
    pub(super) fn assert_closure_stays(&self, record: &Record, uncordoned: Option<&str>) {
        let (Key::Node(name), Some(Value::Node(now))) = (&record.key, &record.value) else { return };
        let Some(Value::Node(before)) = self.disk.get(&record.key) else { return };
        let opens = before.closure.is_some() && now.closure.is_none();
        assert!(!opens || uncordoned == Some(name), "C7, seed {}: {name} takes what comes again", self.seed);
    }

    /// How a process of an agent that lives has ended is known.
    pub(super) fn assert_cause(&self, notice: &Notice) {
        let Notice::Job {
            event: JobEvent::Ended { report, .. } | JobEvent::Restarting { report, .. }, ..
        } = notice
        else {
            return;
        };
        let seed = self.seed;
        assert!(!matches!(report.cause, Cause::Unknown(_)), "L3, seed {seed}: nobody says why: {report}");
    }

    /// A node is given up only when it was seen to end, was succeeded, or has been silent for long enough.
    pub(super) fn assert_verdict(&self, node: &str, reason: &str) {
        let silent = self.agents[node].silent_since.map_or(0, |since| self.now - since);
        let incarnation = self.agents[node].incarnation;
        let known = reason.contains("was succeeded")
            || self.evidence.iter().any(|(name, seen)| name == node && *seen <= incarnation)
            || silent + 1000 >= VERDICT;
        assert!(known, "L3, seed {}: {node} is given up after {silent} ms of silence: {reason}", self.seed);
    }

    /// Where there is room for what waits, it does not wait, unless room is kept for who has waited for long.
    pub(super) fn assert_nobody_waits_beside_room(&self) {
        let status = self.head.status();
        let ledgers: Vec<(String, Ledger)> = status
            .nodes
            .iter()
            .filter(|node| node.joined)
            .map(|node| {
                let mut ledger = Ledger::new(node.capacity.clone());
                ledger.take(&node.used);
                (node.name.clone(), ledger)
            })
            .collect();
        let is_kept = status.actors.iter().any(|actor| actor.state.contains("its room is kept for"));
        let labels = BTreeMap::new();
        let candidates = || {
            let candidate =
                |(name, ledger)| Candidate { name, labels: &labels, ledger, failures: 0, closed: None };
            ledgers.iter().map(|(name, ledger)| (name.as_str(), ledger)).map(candidate)
        };
        let waits = status.actors.iter().filter(|actor| actor.state.starts_with("waiting for room"));
        for waiting in waits {
            let Some(Value::Actor(state)) = self.disk.get(&Key::Actor(waiting.actor)) else { continue };
            let request = Request::from(&state.request);
            let fits = match state.seat {
                None => placement::place(candidates(), &request).is_ok(),
                Some(seat) => placement::place_gang(candidates(), &request, seat.size as usize).is_ok(),
            };
            assert!(
                is_kept || !fits,
                "L3, seed {}: {} waits beside room: {}",
                self.seed,
                waiting.actor,
                waiting.state
            );
        }
    }

    /// Nobody watches what is gone.
    pub(super) fn assert_watchers_are_told(&self) {
        let lives = |process: u64| self.agents.values().any(|agent| agent.processes.contains_key(&process));
        for (watcher, target) in &self.watches {
            assert!(lives(*target), "L3, seed {}: {watcher} was not told that {target} is gone", self.seed);
        }
    }

    /// Whoever has a name and has started is found by it.
    pub(super) fn assert_names_are_found(&mut self) {
        let named: Vec<(u64, Option<String>, String)> = self
            .disk
            .values()
            .filter_map(|value| match value {
                Value::Actor(state) if state.seat.is_none() => {
                    let Some(Value::Process(process)) = self.disk.get(&Key::Process(state.process?)) else {
                        return None;
                    };
                    process.ready?;
                    Some((state.request.job, state.request.namespace.clone(), state.request.name.clone()?))
                }
                _ => None,
            })
            .collect();
        for (job, namespace, name) in named {
            let seed = self.seed;
            let (words, request) = (format!("{namespace:?} {name}"), self.questions + 1);
            self.questions = request;
            let ask = Ask::Lookup { job, namespace, name };
            let effects = self.commit(HeadEvent::Asked { origin: Origin::Client(CLIENT), request, ask });
            let found = effects
                .iter()
                .any(|effect| matches!(effect, HeadEffect::Reply { answer: Answer::Actor(_), .. }));
            assert!(found, "C5, seed {seed}: {words} is not found");
        }
    }

    pub fn assert_nothing_left(&self) {
        let seed = self.seed;
        let status = self.head.status();
        assert!(status.jobs.is_empty(), "C3, seed {seed}: {:?}", status.jobs);
        assert!(status.actors.is_empty(), "C3, seed {seed}: {:?}", status.actors);
        let known: BTreeSet<&String> = status.nodes.iter().map(|node| &node.name).collect();
        assert_eq!(known, self.nodes.iter().collect(), "C9, seed {seed}");
        for node in &status.nodes {
            // Some may be closed for the failures of the last jobs.
            assert!(node.state.starts_with("joined"), "seed {seed}: node {}: {}", node.name, node.state);
            assert_eq!(node.used, Allotment::default(), "C3, seed {seed}: node {}", node.name);
            assert_eq!(node.processes, 0, "C3, seed {seed}: node {}", node.name);
        }
        for (name, agent) in &self.agents {
            assert!(
                agent.suspects.is_empty(),
                "L3, seed {seed}: {name} takes {:?} for silent",
                agent.suspects
            );
            assert!(agent.processes.is_empty(), "C3, seed {seed}: processes left on {name}");
        }
        assert!(self.open_ends.is_empty(), "L3, seed {seed}: job ends never answered {:?}", self.open_ends);
        assert!(self.watches.is_empty(), "L3, seed {seed}: watchers never told {:?}", self.watches);
        assert!(self.drains.is_empty(), "C7, seed {seed}: drains never answered {:?}", self.drains);
        let durable: Vec<&Key> = self.disk.keys().filter(|key| !self.stays(key)).collect();
        assert!(durable.is_empty(), "C3, seed {seed}: records left {durable:?}");
    }

    /// What is written down of nodes that are there, whatever runs.
    fn stays(&self, key: &Key) -> bool {
        match key {
            Key::Next => true,
            Key::Node(node) => self.nodes.contains(node),
            Key::Offer(node) => self.nodes.contains(node) && !self.manifest.contains(node),
            _ => false,
        }
    }

    /// Of what the head has written down.
    fn assert_names_and_spawners(&self) {
        let seed = self.seed;
        let mut names = BTreeMap::new();
        for (key, value) in &self.disk {
            let (Key::Actor(actor), Value::Actor(state)) = (key, value) else { continue };
            let request = &state.request;
            if let Some(name) = &request.name {
                let job = request.namespace.is_none().then_some(request.job);
                let named = state.seat.map_or(*actor, |seat| seat.gang);
                let other = names.insert((job, name), named).filter(|other| *other != named);
                assert_eq!(other, None, "C5, seed {seed}: `{name}` is {actor}'s too");
            }
            let process = |process: u64| match self.disk.get(&Key::Process(process)) {
                Some(Value::Process(state)) => Some(state),
                _ => None,
            };
            if let (Lifetime::Spawner, Origin::Worker(spawner)) = (request.lifetime, state.spawner) {
                let ends = state.process.and_then(process).is_some_and(|own| own.stopped_by.is_some());
                assert!(
                    ends || process(spawner).is_some(),
                    "C6, seed {seed}: {actor} outlives its spawner {spawner}"
                );
            }
        }
    }

    /// Of what the head has written down.
    fn assert_gangs_are_whole(&self) {
        let mut processes: BTreeMap<u64, Vec<bool>> = BTreeMap::new();
        for value in self.disk.values() {
            let Value::Actor(state) = value else { continue };
            if let Some(seat) = state.seat {
                processes.entry(seat.gang).or_default().push(state.process.is_some());
            }
        }
        let seed = self.seed;
        for (gang, runs) in processes {
            let Some(Value::Gang(state)) = self.disk.get(&Key::Gang(gang)) else {
                panic!("C8, seed {seed}: gang {gang} has members and no record")
            };
            let whole = runs.iter().all(|runs| *runs) || !runs.contains(&true);
            assert!(whole || state.ending.is_some(), "C8, seed {seed}: of gang {gang} some run: {runs:?}");
            let runs = runs.contains(&true);
            assert!(runs || state.ending.is_none(), "C8, seed {seed}: gang {gang} ends and has ended");
        }
    }
}
