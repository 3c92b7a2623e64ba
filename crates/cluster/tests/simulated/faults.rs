//! What goes wrong, and what is asked for, at random.

use super::*;

impl World {
    /// One random thing happens.
    pub fn disturb(&mut self) {
        let node = NODES[self.random.below(3) as usize].to_owned();
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
            _ => {}
        }
    }

    pub(super) fn spawn(&mut self) {
        let jobs = self.head.status().jobs.iter().map(|job| job.job).collect();
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
        let status = self.head.status();
        let of_job = status.actors.iter().filter(|actor| actor.job == job && actor.pid != 0);
        let spawner = pick(&mut self.random, &of_job.map(|actor| actor.process).collect());
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
        let actors: BTreeSet<u64> = self.head.status().actors.iter().map(|actor| actor.actor).collect();
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
        agent.connection += 1;
        let incarnation = agent.incarnation;
        self.watches.retain(|(watcher, _)| !died.contains(watcher));
        if self.random.below(2) == 0 {
            let term = self.term;
            self.send(Message::Evidence { node: node.to_owned(), incarnation, term });
        }
    }

    pub(super) fn cut_link(&mut self, node: &str) {
        let until = self.now + self.random.below(20_000);
        if let Some(agent) = self.agents.get_mut(node).filter(|agent| agent.link == Link::Up) {
            agent.link = Link::Down { until };
            agent.connection += 1;
            let incarnation = agent.incarnation;
            if self.random.below(2) == 0 {
                self.head_event(HeadEvent::Disconnected { node: node.to_owned(), incarnation });
            }
        }
    }

    /// The head is killed and starts again from its records: all connections break, no answer comes any more.
    pub(super) fn restart_head(&mut self) {
        self.head = Head::new(head_options(), self.disk.clone());
        self.term += 1;
        self.term_began = self.now;
        self.open_ends.clear();
        self.drains.clear();
        for agent in self.agents.values_mut().filter(|agent| agent.link == Link::Up) {
            agent.connection += 1;
            agent.link = Link::Down { until: self.now + 500 };
            agent.joined = 0;
        }
        self.jobs = self.head.status().jobs.iter().map(|job| job.job).collect();
    }

    pub(super) fn heal_links(&mut self, all: bool) {
        for node in NODES {
            match self.agents[node].link {
                Link::Down { until } if all || self.now >= until => self.join(node),
                Link::Dead { until } if all || self.now >= until => self.start_agent(node),
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
            ports: 0..0,
        };
        let connection = self.agents.get(node).map_or(0, |agent| agent.connection + 1);
        self.agents.insert(
            node.to_owned(),
            SimAgent {
                incarnation,
                machine: Agent::new(options),
                began: self.now,
                processes: BTreeMap::new(),
                link: Link::Up,
                connection,
                joined: 0,
                lane: 0,
            },
        );
        self.join(node);
    }

    /// A new connection to the head and to the other agents.
    pub(super) fn join(&mut self, node: &str) {
        let Some(agent) = self.agents.get_mut(node) else { return };
        agent.link = Link::Up;
        agent.connection += 1;
        let connection = agent.connection;
        let (running, ended) = agent.machine.inventory();
        self.send(Message::Joined { node: node.to_owned(), connection, running, ended });
        for other in NODES.iter().filter(|other| **other != node) {
            self.agent_event(node, AgentEvent::PeerLinked { node: other.to_string() });
            self.agent_event(other, AgentEvent::PeerLinked { node: node.to_owned() });
        }
    }

    pub(super) fn heartbeat(&mut self, node: &str) {
        let agent = &self.agents[node];
        if agent.link == Link::Up {
            let connection = agent.connection;
            self.send(Message::Heartbeat { node: node.to_owned(), connection });
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
