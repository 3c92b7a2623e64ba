//! Following logs: one task for each agent, and one that knows when there is nothing more to come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lyceum_wire::{Endpoint, WireError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Heard;
use crate::client::Client;
use crate::control::vocabulary::{JobEvent, NodeStatus, Status};
use crate::logs::resolve::Target;
use crate::logs::session::{Session, is_there};
use crate::logs::words::{AgentToClient, ClientToAgent, LogSelector, ReadLogs};

/// How long until an agent that is out of reach is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The words of all agents as they come.
pub(super) struct Following {
    words: mpsc::Receiver<(Arc<str>, Heard)>,
    /// All end with it.
    _tasks: JoinSet<()>,
}

impl Following {
    /// `nodes` are those that had logs of it.
    pub(super) fn begin(
        client: Client,
        endpoint: Endpoint,
        status: Status,
        target: Target,
        read: ReadLogs,
        nodes: BTreeSet<String>,
    ) -> Following {
        // What waits here was taken from an agent, which may send as much more: no more than a word.
        let (sender, words) = mpsc::channel(1);
        let (finishes, finish) = watch::channel(false);
        let conductor = Conductor {
            follower: Follower { client, endpoint, read, finish, words: sender },
            target,
            agents: JoinSet::new(),
            known: BTreeSet::new(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(conductor.run(status, nodes, finishes));
        Following { words, _tasks: tasks }
    }

    /// The next word, and whose; `None` when none comes any more. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<(Arc<str>, Heard)> {
        self.words.recv().await
    }
}

/// Begins a task for each agent that may have something, and has all end when nothing more can come.
struct Conductor {
    follower: Follower,
    target: Target,
    agents: JoinSet<()>,
    known: BTreeSet<String>,
}

impl Conductor {
    async fn run(mut self, status: Status, nodes: BTreeSet<String>, finishes: watch::Sender<bool>) {
        let grows = self.target.of.may_grow();
        for node in &status.nodes {
            let may_have = match &self.target.node {
                Some(of) => *of == node.name,
                // What does not grow is where it was.
                None => nodes.contains(&node.name) || (grows && is_there(node)),
            };
            if may_have {
                self.begin(node.clone());
            }
        }
        let job = self.target.job.filter(|_| grows);
        if let Some(job) = job
            && self.is_over(job).await
        {
            finishes.send_replace(true);
        }
        // Where that is not known here, it is over when the agents say so, or are gone.
        while self.agents.join_next().await.is_some() {}
    }

    fn begin(&mut self, node: NodeStatus) {
        if self.known.insert(node.name.clone()) {
            self.agents.spawn(self.follower.clone().follow(node));
        }
    }

    /// Waits until nothing of what is followed lives any more, or will again; false where that cannot be known any more.
    async fn is_over(&mut self, job: u64) -> bool {
        // One that has ended cannot be followed.
        let Ok(mut events) = self.follower.client.follow(job).await else { return true };
        // It may have ended before.
        let Ok(status) = self.follower.client.status().await else { return true };
        let mut living = self.living(&status);
        let is_job = matches!(self.target.of, LogSelector::Job(_));
        if !status.jobs.iter().any(|of| of.job == job) || (!is_job && living.is_empty()) {
            return true;
        }
        loop {
            match events.recv().await {
                Some(JobEvent::Started { address, .. }) if !self.known.contains(&address.process.node) => {
                    let Ok(status) = self.follower.client.status().await else { continue };
                    let node = status.nodes.into_iter().find(|node| node.name == address.process.node);
                    node.into_iter().for_each(|node| self.begin(node));
                }
                Some(JobEvent::Ended { report, .. }) => {
                    report.actor.inspect(|actor| _ = living.remove(&actor.0));
                    if !is_job && living.is_empty() {
                        return true;
                    }
                }
                Some(JobEvent::JobEnded { .. }) => return true,
                Some(_) => {}
                None => {
                    let why = self.follower.client.closed().await;
                    self.follower.note("head", format!("{why}: when all has ended is not known here")).await;
                    return false;
                }
            }
        }
    }

    fn living(&self, status: &Status) -> BTreeSet<u64> {
        let LogSelector::Actors(wanted) = &self.target.of else { return BTreeSet::new() };
        status.actors.iter().map(|actor| actor.actor).filter(|actor| wanted.contains(actor)).collect()
    }
}

/// How far the logs of an agent were read, by process.
#[derive(Default)]
struct Places {
    /// Where each goes on.
    next: BTreeMap<u64, u64>,
    /// Those of which all was read and said.
    over: BTreeSet<u64>,
}

/// Follows what one agent has.
#[derive(Clone)]
struct Follower {
    client: Client,
    endpoint: Endpoint,
    read: ReadLogs,
    finish: watch::Receiver<bool>,
    words: mpsc::Sender<(Arc<str>, Heard)>,
}

impl Follower {
    async fn note(&self, node: &str, text: String) {
        let _ = self.words.send((node.into(), Heard::Note(text))).await;
    }

    async fn follow(mut self, mut node: NodeStatus) {
        let name = node.name.clone();
        let mut places = Places::default();
        let mut is_told = false;
        loop {
            let error = match self.follow_once(&node, &mut places, &mut is_told).await {
                Ok(()) => return,
                Err(error) => error,
            };
            let finishes = *self.finish.borrow();
            if !std::mem::replace(&mut is_told, true) || finishes {
                let then = if finishes { "the rest of its logs is not shown" } else { "it is tried again" };
                self.note(&name, format!("node `{name}` is not heard: {error}; {then}")).await;
            }
            if finishes || self.words.is_closed() {
                return;
            }
            let _ = tokio::time::timeout(RETRY, self.finish.changed()).await;
            let status = match self.client.status().await {
                Ok(status) => status,
                Err(error) => {
                    self.note(&name, format!("nor is the head: {error}")).await;
                    return;
                }
            };
            if let Some(now) = status.nodes.into_iter().find(|node| node.name == name) {
                node = now;
            }
        }
    }

    /// Over one connection, from `places` on.
    async fn follow_once(
        &mut self,
        node: &NodeStatus,
        places: &mut Places,
        is_told: &mut bool,
    ) -> Result<(), WireError> {
        let mut session = Session::open(&self.endpoint, node).await?;
        let mut read = self.read.clone();
        if !places.next.is_empty() {
            read.from = places.next.iter().map(|(of, place)| (*of, *place)).collect();
            (read.tail, read.within_ms) = (None, None);
        }
        // Of these it was said before whose they are.
        let mut said: BTreeSet<u64> = places.next.keys().copied().collect();
        session.ask(ClientToAgent::Read(read)).await?;
        if std::mem::take(is_told) {
            self.note(&node.name, format!("node `{}` is heard again", node.name)).await;
        }
        let mut finishes = false;
        loop {
            if !finishes && *self.finish.borrow_and_update() {
                finishes = true;
                session.ask(ClientToAgent::Finish).await?;
            }
            let word = tokio::select! {
                word = session.next() => word?,
                Ok(()) = self.finish.changed(), if !finishes => continue,
            };
            match &word {
                AgentToClient::Log { entry, place } => {
                    let process = entry.label.process;
                    if said.remove(&process) || places.over.contains(&process) {
                        continue;
                    }
                    if places.next.insert(process, *place).is_some() {
                        places.over.insert(process);
                    }
                }
                AgentToClient::Piece { process, place, bytes } => {
                    places.next.insert(*process, place + bytes.len() as u64);
                }
                AgentToClient::Lost { process, bytes } => *places.next.entry(*process).or_default() += bytes,
                AgentToClient::Done => return Ok(()),
                AgentToClient::Refused { .. } => {}
            }
            if self.words.send((node.name.as_str().into(), Heard::Word(word))).await.is_err() {
                return Ok(());
            }
        }
    }
}
