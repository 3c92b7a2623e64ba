//! The control plane: the head's decisions with their database, over nodes that are simulated.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use lyceum_actor::{Resources, SpawnRequest};
use lyceum_cluster::control::resources::Capacity;
use lyceum_cluster::control::vocabulary::{Answer, Ask, Command, Origin, Report};
use lyceum_cluster::control::{CordonRule, HeadEffect, HeadEvent, HeadOptions, NodeOptions};
use lyceum_cluster::head::{Decider, MAX_BATCH};
use lyceum_cluster::units::Milli;

use super::Options;
use super::idle::resident_mib;
use crate::round::{Round, Rounds};
use crate::row::Row;

const NODES: u32 = 1000;
const ACTORS: u64 = 10_000;
/// Actors placed and started a second.
const PLACED: f64 = 5000.0;
/// MiB that the head may hold with that.
const HELD: f64 = 200.0;
const CLIENT: u64 = 1;

/// Measures all of it.
pub fn measure(options: &Options) -> Result<Vec<Row>> {
    let (mut placed, mut held) = (Rounds::default(), 0.0);
    for round in 0..=options.rounds {
        let folder = tempfile::tempdir().context("cannot make a folder for the head's database")?;
        let mut cluster = Simulated::start(folder.path())?;
        let seen = cluster.place()?;
        if round == 0 {
            // Later rounds find memory that earlier ones have left behind. It is this process's, of which the head is a part.
            held = resident_mib(std::process::id())?;
        } else {
            placed.add(seen);
        }
    }
    let name = |what: &str| format!("{what}, {NODES} simulated nodes, {ACTORS} actors");
    Ok(vec![
        Row::new(&name("actors placed"), "actors/s", &placed, None).with_floor(PLACED),
        Row::within(&name("memory of the head"), "MiB", held, HELD),
    ])
}

/// A head whose agents do at once what they are told.
struct Simulated {
    decider: Decider,
    events: VecDeque<HeadEvent>,
    job: u64,
    started: u64,
}

impl Simulated {
    fn start(folder: &std::path::Path) -> Result<Simulated> {
        let node = || NodeOptions {
            capacity: Capacity { cpus: Milli::whole(64), gpus: 8, memory: 1 << 40, custom: BTreeMap::new() },
            labels: BTreeMap::new(),
        };
        let health = lyceum_cluster::manifest::Health::default();
        let seconds = std::time::Duration::from_secs_f64;
        let options = HeadOptions {
            cluster: "simulated".into(),
            owned: false,
            unreachable: seconds(health.unreachable),
            verdict: seconds(health.verdict),
            stop_grace: seconds(health.stop),
            cordon: CordonRule { failures: health.cordon_after, within: seconds(health.cordon_window) },
            nodes: (0..NODES).map(|number| (name(number), node())).collect(),
        };
        let decider = Decider::open(&folder.join("records.redb"), options)?;
        let mut cluster = Simulated { decider, events: VecDeque::new(), job: 0, started: 0 };
        cluster.events.extend((0..NODES).map(|number| HeadEvent::Joined {
            node: name(number),
            incarnation: 1,
            address: address(),
            pid: 1,
            running: Vec::new(),
            ended: Vec::new(),
        }));
        cluster.ask(Ask::BeginJob { name: "bench".into(), bound: true });
        while !cluster.events.is_empty() {
            cluster.turn()?;
        }
        ensure!(cluster.job != 0, "the head began no job");
        Ok(cluster)
    }

    fn ask(&mut self, ask: Ask) {
        self.events.push_back(HeadEvent::Asked { origin: Origin::Client(CLIENT), request: 1, ask });
    }

    /// Places actors until all have started.
    fn place(&mut self) -> Result<Round> {
        for number in 0..ACTORS {
            let resources = Resources {
                milli_cpus: 1000,
                milli_gpus: [0, 500, 0, 1000][number as usize % 4],
                memory: 1 << 30,
                ..Resources::default()
            };
            let request =
                SpawnRequest { role: "bench".into(), job: self.job, resources, ..SpawnRequest::default() };
            self.ask(Ask::Spawn(request));
        }
        let began = Instant::now();
        while !self.events.is_empty() {
            self.turn()?;
        }
        ensure!(self.started == ACTORS, "{} of {ACTORS} actors were started", self.started);
        Ok(Round { done: ACTORS, seconds: began.elapsed().as_secs_f64(), latencies_us: Vec::new() })
    }

    /// One batch of events, decided, written down and carried out.
    fn turn(&mut self) -> Result<()> {
        for event in self.events.drain(..self.events.len().min(MAX_BATCH)) {
            self.decider.take(event);
        }
        let mut effects = self.decider.news();
        effects.extend(self.decider.commit()?);
        for effect in effects {
            match effect {
                HeadEffect::ToAgent { node, incarnation, command: Command::Launch(launch) } => {
                    let report = Report::Ready { process: launch.process, address: address(), pid: 1 };
                    self.events.push_back(HeadEvent::Reported { node, incarnation, report });
                }
                HeadEffect::Reply { answer: Answer::Actor(_), .. } => self.started += 1,
                HeadEffect::Reply { answer: Answer::Job(job), .. } => self.job = job,
                HeadEffect::Reply { answer, .. } => anyhow::bail!("the head answered {answer:?}"),
                _ => {}
            }
        }
        Ok(())
    }
}

fn name(number: u32) -> String {
    format!("node-{number:04}")
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000))
}
