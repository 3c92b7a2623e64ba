//! The SSH launcher: agents on hosts that the system's `ssh` reaches.
//!
//! On each host the same program runs as on this machine, found there by its hash or copied. One *session* per node, a
//! `lyceum host` whose input and output are this process's, looks for the agent, starts it, watches it, ends it: what is
//! done there is done by the same code as here, and no secret is ever on a command line.
//!
//! An agent ends with the session that started it until it is released, which `up` does when all nodes have joined. So
//! an `up` that fails, is killed, or loses its network leaves nothing behind.

mod call;
mod host;
mod programs;
mod session;
mod words;

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;

use self::call::{Destination, Trouble};
pub use self::host::serve_orders;
use self::programs::Programs;
use self::session::Session;
use self::words::{Answer, Order, Subject};
use super::hosts::{AgentLoss, Fault};
use super::order::AgentOrder;
use super::pods::origin;
use super::starter::quoted;
use super::up::UpOptions;
use crate::error::ClusterError;
use crate::manifest::Manifest;

/// Hosts that are dealt with at a time.
const AT_A_TIME: usize = 64;

/// The hosts of a cluster, each with its nodes.
#[derive(Debug)]
pub(super) struct Ssh {
    programs: Programs,
    hosts: Vec<Host>,
}

#[derive(Debug)]
struct Host {
    destination: Destination,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    /// Its place in the manifest.
    index: usize,
    subject: Subject,
    session: Option<Session>,
    /// Does its agent end with the session?
    bound: bool,
}

impl Ssh {
    pub(super) fn new(manifest: &Manifest, options: &UpOptions) -> Result<Ssh, ClusterError> {
        let programs = Programs::read(&options.program, &options.companions)?;
        let origin = origin(&options.state);
        let mut hosts: Vec<Host> = Vec::new();
        let mut destinations = Vec::new();
        for (index, node) in manifest.nodes.iter().enumerate() {
            let (cluster, name, origin) = (manifest.name.clone(), node.name.clone(), origin.clone());
            let subject = Subject { cluster, node: name, origin };
            let node_here = Node { index, subject, session: None, bound: false };
            match destinations.iter().position(|known| *known == node.destination()) {
                Some(at) => hosts[at].nodes.push(node_here),
                None => {
                    destinations.push(node.destination());
                    let destination = Destination::of(node, &manifest.ssh);
                    hosts.push(Host { destination, nodes: vec![node_here] });
                }
            }
        }
        Ok(Ssh { programs, hosts })
    }

    pub(super) async fn reach(&mut self) -> Vec<Result<bool, Fault>> {
        let programs = &self.programs;
        let reached = each(&mut self.hosts, async |host| host.reach(programs).await).await;
        let mut reached: Vec<(usize, Result<bool, Fault>)> = reached.into_iter().flatten().collect();
        reached.sort_by_key(|(index, _)| *index);
        reached.into_iter().map(|(_, reached)| reached).collect()
    }

    pub(super) async fn start(&mut self, orders: Vec<AgentOrder>) -> Vec<Fault> {
        let mut orders: Vec<Option<AgentOrder>> = orders.into_iter().map(Some).collect();
        let mut of = |node: &Node| {
            let meant = |order: &AgentOrder| order.node().is_ok_and(|meant| meant.name == node.subject.node);
            orders.iter_mut().find(|order| order.as_ref().is_some_and(meant))?.take()
        };
        let starts: Vec<(&mut Host, Vec<(usize, AgentOrder)>)> = self
            .hosts
            .iter_mut()
            .map(|host| {
                let nodes = host.nodes.iter().enumerate();
                let orders = nodes.filter_map(|(at, node)| Some((at, of(node)?))).collect();
                (host, orders)
            })
            .collect();
        let starts = starts.into_iter().map(|(host, orders)| host.start(orders));
        stream::iter(starts).buffer_unordered(AT_A_TIME).concat().await
    }

    pub(super) fn loss(&self, node: &str) -> Option<AgentLoss> {
        let (host, node) = self.find(node)?;
        match node.session.as_ref()?.news()? {
            Answer::Ended { pid, how, file, lines } => {
                let host = &host.destination.host;
                let (who, log_file) = (format!("process {pid} of {host}"), format!("{file} on {host}"));
                Some(AgentLoss { how, who, log_file, log: lines })
            }
            _ => None,
        }
    }

    pub(super) async fn log(&mut self, node: &str) -> (String, Vec<String>) {
        let unknown = || ("its log".to_owned(), Vec::new());
        let Some((host, node)) = self.find_mut(node) else { return unknown() };
        let Some(session) = &mut node.session else { return unknown() };
        match session.order(&Order::ShowLog, Duration::ZERO).await {
            Ok(Answer::Log { file, lines }) => (format!("{file} on {}", host.host), lines),
            Ok(_) => unknown(),
            Err(trouble) => (format!("its log, but {} {}", host.host, trouble.what), trouble.said),
        }
    }

    pub(super) async fn leave_standing(&mut self) {
        each(&mut self.hosts, async |host| {
            for node in &mut host.nodes {
                if let Some(mut session) = node.session.take() {
                    // Should it break off now, the agent ends, and the head tells of it.
                    let _ = session.order(&Order::Release, Duration::ZERO).await;
                    session.close().await;
                }
                node.bound = false;
            }
        })
        .await;
    }

    pub(super) async fn give_up(&mut self, all: bool) {
        each(&mut self.hosts, async |host| {
            join_all(host.nodes.iter_mut().map(|node| node.give_up(all))).await;
        })
        .await;
    }

    pub(super) async fn end(&mut self, patience: Duration) -> (bool, Vec<Fault>) {
        let programs = &self.programs;
        let ended = each(&mut self.hosts, async |host| host.end(programs, patience).await).await;
        let mut faults = Vec::new();
        let mut were_up = false;
        for ended in ended.into_iter().flatten() {
            match ended {
                Ok(was_up) => were_up |= was_up,
                Err(fault) => faults.push(fault),
            }
        }
        (were_up, faults)
    }

    fn find(&self, name: &str) -> Option<(&Host, &Node)> {
        let nodes = self.hosts.iter().flat_map(|host| host.nodes.iter().map(move |node| (host, node)));
        nodes.into_iter().find(|(_, node)| node.subject.node == name)
    }

    fn find_mut(&mut self, name: &str) -> Option<(&Destination, &mut Node)> {
        self.hosts.iter_mut().find_map(|host| {
            let node = host.nodes.iter_mut().find(|node| node.subject.node == name)?;
            Some((&host.destination, node))
        })
    }
}

/// Deals with all hosts, so many at a time.
async fn each<T>(hosts: &mut [Host], deal: impl AsyncFn(&mut Host) -> T) -> Vec<T> {
    let deal = &deal;
    stream::iter(hosts.iter_mut().map(|host| deal(host))).buffer_unordered(AT_A_TIME).collect().await
}

impl Host {
    /// Begins a session for each node. The first brings the programs there, if need be.
    async fn reach(&mut self, programs: &Programs) -> Vec<(usize, Result<bool, Fault>)> {
        let Host { destination, nodes } = self;
        let mut reached = Vec::with_capacity(nodes.len());
        let mut nodes = nodes.iter_mut().filter(|node| node.session.is_none());
        if let Some(first) = nodes.next() {
            reached.push((first.index, first.reach(destination, programs).await));
        }
        let destination = &*destination;
        let others = nodes.map(async |node| (node.index, node.reach(destination, programs).await));
        reached.extend(join_all(others).await);
        reached
    }

    async fn start(&mut self, orders: Vec<(usize, AgentOrder)>) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (at, order) in orders {
            let node = &mut self.nodes[at];
            if let Err(trouble) = node.start(order).await {
                faults.push(fault(&self.destination, &node.subject.node, trouble));
            }
        }
        faults
    }

    async fn end(&mut self, programs: &Programs, patience: Duration) -> Vec<Result<bool, Fault>> {
        let reached = self.reach(programs).await;
        let destination = &self.destination;
        let end = self.nodes.iter_mut().map(async |node| {
            let reached = reached.iter().find(|(index, _)| *index == node.index);
            match reached {
                Some((_, Err(fault))) => Err(fault.clone()),
                _ => node
                    .end(patience)
                    .await
                    .map_err(|trouble| fault(destination, &node.subject.node, trouble)),
            }
        });
        join_all(end).await
    }
}

impl Node {
    /// Begins its session; does its agent run?
    async fn reach(&mut self, destination: &Destination, programs: &Programs) -> Result<bool, Fault> {
        let looked = async {
            let mut session = Session::begin(destination, programs).await?;
            let answer = session.order(&Order::Look(self.subject.clone()), Duration::ZERO).await?;
            Ok((session, answer))
        };
        match looked.await {
            Ok((session, Answer::Looked { lives })) => {
                self.session = Some(session);
                Ok(lives)
            }
            Ok((_, other)) => Err(fault(destination, &self.subject.node, unexpected(&other))),
            Err(trouble) => Err(fault(destination, &self.subject.node, trouble)),
        }
    }

    async fn start(&mut self, order: AgentOrder) -> Result<(), Trouble> {
        let Some(session) = &mut self.session else {
            return Err(Trouble::new("was not reached"));
        };
        match session.order(&Order::Start(order), Duration::ZERO).await? {
            Answer::Started { .. } => {
                self.bound = true;
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn give_up(&mut self, all: bool) {
        if self.bound || all {
            let _ = self.end(Duration::ZERO).await;
        } else if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    /// Tells whether an agent was there to be ended.
    async fn end(&mut self, patience: Duration) -> Result<bool, Trouble> {
        let Some(mut session) = self.session.take() else { return Ok(false) };
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let answer = session.order(&Order::End { patience_ms }, patience).await;
        session.close().await;
        self.bound = false;
        match answer? {
            Answer::Cleared { was_up } => Ok(was_up),
            other => Err(unexpected(&other)),
        }
    }
}

fn fault(destination: &Destination, node: &str, Trouble { what, said }: Trouble) -> Fault {
    let end = if said.is_empty() { "" } else { "; it says:" };
    Fault { node: node.to_owned(), said: quoted(format!("its host {} {what}{end}", destination.host), said) }
}

fn unexpected(answer: &Answer) -> Trouble {
    Trouble::new(format!("gave an answer to another order: {answer:?}"))
}
