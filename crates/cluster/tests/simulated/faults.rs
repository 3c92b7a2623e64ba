//! What goes wrong, and what is asked for, at random.

use super::*;

impl World {
    /// One random thing happens.
    pub fn disturb(&mut self) {
        let node = self.nodes[self.random.below(self.nodes.len() as u64) as usize].clone();
        match self.random.below(100) {
            0..8 => self.ask(|_| Ask::BeginJob { name: "job".into(), bound: false }),
            8..38 => self.spawn(),
            38..42 => self.end_some_job(),
            42..52 => self.kill_some_process(&node),
            52..54 => self.kill_agent(&node),
            54..57 => self.cut_link(&node),
            57..58 => self.restart_head(),
            58..62 => self.stop_some_actor(),
            62..72 => self.watch_something(),
            72..74 => self.ask(|_| Ask::Cordon { node, why: "the test".into() }),
            74..76 => {
                let within_ms = self.random.below(4000);
                self.drains.insert(self.questions + 1);
                self.ask(|_| Ask::Drain { node, within_ms, by: "the test".into() });
            }
            76..82 => self.ask(|_| Ask::Uncordon { node }),
            82..84 => self.mute(&node),
            84..86 => self.deafen(&node),
            _ => {}
        }
    }

    pub(super) fn spawn(&mut self) {
        let jobs = self.jobs_on_disk();
        let Some(job) = pick(&mut self.random, &jobs) else { return };
        let named = self.random.below(2) == 0;
        let lifetime = match self.random.below(6) {
            0..3 => Lifetime::Job,
            3..5 => Lifetime::Spawner,
            _ if named => Lifetime::Detached,
            _ => Lifetime::Job,
        };
        let shared = lifetime == Lifetime::Detached || self.random.below(2) == 0;
        let request = SpawnRequest {
            name: named.then(|| format!("n{}", self.random.below(4))),
            namespace: (named && shared).then(|| "shared".to_owned()),
            or_get: named && self.random.below(4) > 0,
            lifetime,
            role: "role".into(),
            job,
            resources: Resources {
                milli_cpus: [0, 500, 1000, 2000, 4000][self.random.below(5) as usize],
                milli_gpus: [0, 0, 500, 1000][self.random.below(4) as usize],
                memory: self.random.below(3) << 28,
                ..Resources::default()
            },
            restarts: Restarts {
                count: self.random.below(3) as u32,
                within_ms: self.random.below(2) * 5000,
                pause_ms: self.random.below(2) * 700,
            },
            ..SpawnRequest::default()
        };
        let of_job = self.disk.iter().filter_map(|(key, value)| match (key, value) {
            (Key::Process(process), Value::Process(state)) if state.job == job && state.ready.is_some() => {
                Some(*process)
            }
            _ => None,
        });
        let of_job = of_job.collect();
        let spawner = pick(&mut self.random, &of_job);
        let ask = match self.random.below(3) {
            0 => self.gang(request),
            _ => Ask::Spawn(request),
        };
        match spawner.filter(|_| self.random.below(2) == 0) {
            Some(process) => self.ask_as(Origin::Worker(process), |_| ask),
            None => self.ask(|_| ask),
        }
    }

    fn gang(&mut self, member: SpawnRequest) -> Ask {
        // Names of their own, so that most come to be.
        let name = member.name.map(|name| format!("gang-{name}"));
        let strategies = [Strategy::Spread, Strategy::Pack, Strategy::StrictSpread, Strategy::StrictPack];
        let lifetime = match member.lifetime {
            Lifetime::Detached => Lifetime::Job,
            other => other,
        };
        let member = SpawnRequest {
            name,
            or_get: false,
            lifetime,
            strategy: strategies[self.random.below(4) as usize],
            ..member
        };
        Ask::SpawnGang(GangRequest { member, args: vec![Vec::new(); 1 + self.random.below(5) as usize] })
    }

    pub(super) fn end_some_job(&mut self) {
        if let Some(job) = pick(&mut self.random, &self.jobs) {
            self.open_ends.insert(self.questions + 1);
            self.ask(|_| Ask::EndJob { job, by: "the test".into(), kill: false });
        }
    }

    pub(super) fn stop_some_actor(&mut self) {
        let actor = |key: &Key| match key {
            Key::Actor(actor) => Some(*actor),
            _ => None,
        };
        let actors = self.disk.keys().filter_map(actor).collect();
        if let Some(actor) = pick(&mut self.random, &actors) {
            let kill = self.random.below(2) == 0;
            self.ask(|_| Ask::StopActor { actor, kill });
        }
    }

    pub(super) fn kill_some_process(&mut self, node: &str) {
        let processes: BTreeSet<u64> = self.agents[node].processes.keys().copied().collect();
        if let Some(process) = pick(&mut self.random, &processes) {
            self.process_ends(node, process, Cause::Signal(9));
        }
    }

    pub(super) fn kill_agent(&mut self, node: &str) {
        let until = self.now + self.random.below(20_000);
        let Some(agent) = self.agents.get_mut(node) else { return };
        if matches!(agent.link, Link::Dead { .. }) {
            return;
        }
        let died: Vec<u64> = agent.processes.keys().copied().collect();
        agent.processes.clear();
        agent.link = Link::Dead { until };
        agent.silent_since.get_or_insert(self.now);
        agent.connection += 1;
        let incarnation = agent.incarnation;
        self.watches.retain(|(watcher, _)| !died.contains(watcher));
        if self.random.below(2) == 0 {
            let term = self.term;
            self.evidence.insert((node.to_owned(), incarnation));
            self.send(Message::Evidence { node: node.to_owned(), incarnation, term });
        }
    }

    pub(super) fn cut_link(&mut self, node: &str) {
        let until = self.now + self.random.below(20_000);
        if self.agents.get(node).is_some_and(|agent| agent.link == Link::Up) {
            let seen = self.random.below(2) == 0;
            self.lose_link(node, until, seen);
        }
    }

    /// The connection of an agent is gone; the head may see that at once.
    fn lose_link(&mut self, node: &str, until: u64, seen: bool) {
        let Some(agent) = self.agents.get_mut(node) else { return };
        agent.link = Link::Down { until };
        agent.silent_since.get_or_insert(self.now);
        agent.connection += 1;
        let incarnation = agent.incarnation;
        if seen {
            self.head_event(HeadEvent::Disconnected { node: node.to_owned(), incarnation });
        }
    }

    /// The head is killed and starts again from its records: all connections break, no answer comes any more.
    pub(super) fn restart_head(&mut self) {
        if self.random.below(2) == 0 {
            // Between commit and effect.
            let node = self.nodes[self.random.below(self.nodes.len() as u64) as usize].clone();
            let lost = match self.random.below(3) {
                0 => HeadEvent::Tick,
                1 => self.some_report(&node),
                _ => {
                    self.questions += 1;
                    let ask = Ask::BeginJob { name: "job".into(), bound: false };
                    HeadEvent::Asked { origin: Origin::Client(CLIENT), request: self.questions, ask }
                }
            };
            drop(self.commit(lost));
        }
        let records = self.records_found();
        self.head = Head::new(head_options(&self.nodes, self.planted), records);
        self.term += 1;
        self.term_began = self.now;
        self.open_ends.clear();
        self.drains.clear();
        let now = self.now;
        for agent in self.agents.values_mut().filter(|agent| agent.link == Link::Up) {
            agent.connection += 1;
            agent.link = Link::Down { until: now + 500 };
            agent.silent_since.get_or_insert(now);
            agent.joined = 0;
        }
        self.jobs = self.jobs_on_disk();
    }

    /// The end of one of a node's processes, as its agent would report it.
    fn some_report(&mut self, node: &str) -> HeadEvent {
        let processes: BTreeSet<u64> = self.agents[node].processes.keys().copied().collect();
        let (Some(process), Link::Up) = (pick(&mut self.random, &processes), self.agents[node].link) else {
            return HeadEvent::Tick;
        };
        // It is told again on joining, because nobody says that it is written down.
        self.process_ends(node, process, Cause::Signal(9));
        let (node, incarnation) = (node.to_owned(), self.agents[node].incarnation);
        let death =
            ProcessDeath { process, node: node.clone(), cause: Cause::Signal(9), log_tail: Vec::new() };
        HeadEvent::Reported { node, incarnation, report: Report::Ended(death) }
    }

    /// The head does not hear the agent, which hears the head: what it says meanwhile arrives later, if its connection lasts.
    fn mute(&mut self, node: &str) {
        // What is on its way arrives before.
        let until = self.now + 1000 + self.random.below(19_000);
        if let Some(agent) = self.agents.get_mut(node).filter(|agent| agent.link == Link::Up) {
            agent.mute_until = until;
            agent.lane = agent.lane.max(until);
            agent.silent_since.get_or_insert(self.now);
        }
    }

    /// The agent does not hear the head, which hears the agent, until the agent gives the connection up.
    fn deafen(&mut self, node: &str) {
        let until = self.now + self.random.below(2000);
        if let Some(agent) = self.agents.get_mut(node).filter(|agent| agent.link == Link::Up) {
            agent.deaf.get_or_insert((agent.connection, until));
        }
    }

    fn end_one_way(&mut self, node: &str, all: bool) {
        let now = self.now;
        let Some(agent) = self.agents.get_mut(node) else { return };
        if let Some((connection, until)) = agent.deaf.filter(|(_, until)| all || now >= *until) {
            agent.deaf = None;
            if agent.connection == connection && agent.link == Link::Up {
                self.lose_link(node, until + 500, true);
            }
        }
        let Some(agent) = self.agents.get_mut(node) else { return };
        if all && now < agent.mute_until {
            // Over a new connection everything arrives at once.
            agent.mute_until = 0;
            agent.lane = now;
            if agent.link == Link::Up {
                self.join(node);
            }
        }
    }

    pub(super) fn heal_links(&mut self, all: bool) {
        for node in self.nodes.clone() {
            self.end_one_way(&node, all);
            match self.agents[&node].link {
                Link::Down { until } if all || self.now >= until => self.join(&node),
                Link::Dead { until } if all || self.now >= until => self.start_agent(&node),
                _ => {}
            }
        }
    }

    pub(super) fn start_agent(&mut self, node: &str) {
        let question = self.questions + 1;
        let effects = self.commit(HeadEvent::Asked {
            origin: Origin::Client(CLIENT),
            request: question,
            ask: Ask::IssueNode { node: node.to_owned() },
        });
        self.questions = question;
        let mut identity = None;
        for effect in effects {
            match effect {
                HeadEffect::Reply { answer: Answer::Identity { incarnation, .. }, .. } => {
                    identity = Some(incarnation)
                }
                other => self.head_effect(other),
            }
        }
        let incarnation = identity.expect("the head issues identities for nodes of the manifest");
        let options = AgentOptions {
            node: node.to_owned(),
            owned: false,
            verdict: Duration::from_secs(10),
            stop_grace: Duration::from_secs(1),
            cores: (0..4).collect(),
        };
        let before = self.agents.get(node);
        let connection = before.map_or(0, |agent| agent.connection + 1);
        let silent_since = before.and_then(|agent| agent.silent_since);
        self.agents.insert(
            node.to_owned(),
            SimAgent {
                incarnation,
                machine: Agent::new(options),
                began: self.now,
                processes: BTreeMap::new(),
                link: Link::Up,
                suspects: BTreeSet::new(),
                silent_since,
                connection,
                joined: 0,
                lane: 0,
                mute_until: 0,
                deaf: None,
                heads_lane: 0,
            },
        );
        self.join(node);
    }

    /// A new connection to the head and to the other agents.
    pub(super) fn join(&mut self, node: &str) {
        let Some(agent) = self.agents.get_mut(node) else { return };
        agent.link = Link::Up;
        agent.connection += 1;
        let (running, ended) = agent.machine.inventory();
        let (running, ended) = self.inventory_told(running, ended);
        let from = self.speaker(node);
        self.send(Message::Joined { from, running, ended });
        if self.planted != Some(Planted::SuspicionsKept) {
            self.agent_event(node, AgentEvent::HeadLinked);
        }
        if self.planted == Some(Planted::PeersNotToldAgain) {
            return;
        }
        if self.watches.is_empty() {
            // It would be news to nobody.
            return;
        }
        for other in self.nodes.clone().iter().filter(|other| *other != node) {
            self.agent_event(node, AgentEvent::PeerLinked { node: other.clone() });
            self.agent_event(other, AgentEvent::PeerLinked { node: node.to_owned() });
        }
    }

    pub(super) fn speaker(&self, node: &str) -> Speaker {
        let agent = &self.agents[node];
        Speaker { node: node.to_owned(), incarnation: agent.incarnation, connection: agent.connection }
    }

    pub(super) fn heartbeat(&mut self, node: &str) {
        if self.agents[node].link == Link::Up {
            let from = self.speaker(node);
            self.send(Message::Heartbeat { from });
        }
    }

    pub(super) fn watch_something(&mut self) {
        let live: BTreeMap<u64, String> = self
            .agents
            .iter()
            .flat_map(|(node, agent)| agent.processes.keys().map(move |process| (*process, node.clone())))
            .collect();
        let numbers: BTreeSet<u64> = live.keys().copied().collect();
        let (Some(watcher), Some(target)) =
            (pick(&mut self.random, &numbers), pick(&mut self.random, &numbers))
        else {
            return;
        };
        if watcher == target {
            return;
        }
        self.watches.insert((watcher, target));
        let address = ProcessAddress {
            kind: ProcessKind::Worker,
            node: live[&target].clone(),
            process: target,
            addr: endpoint(),
        };
        let watch = AgentEvent::Watch { watcher: Watcher::Worker(watcher), target: address };
        let node = live[&watcher].clone();
        self.agent_event(&node, watch);
    }
}
