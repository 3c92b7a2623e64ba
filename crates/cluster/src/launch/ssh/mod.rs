//! The SSH launcher: agents on hosts that the system's `ssh` reaches.
//!
//! On each host the same program runs as on this machine, found there by its hash or copied. One *session* per node, a
//! `lyceum host` whose input and output are this process's, looks for the agent, starts it, watches it, ends it: what is
//! done there is done by the same code as here, and no secret is ever on a command line.
//!
//! An agent ends with the session that started it until it is released, which `up` does when all nodes have joined. So
//! an `up` that fails, is killed, or loses its network leaves nothing behind.

mod connection;
mod host;
mod programs;
mod session;
mod words;

use std::env::consts;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;

use self::connection::{Connection, Trouble};
pub use self::host::serve_orders;
use self::programs::Programs;
use self::session::Session;
use self::words::{Answer, Order, Subject};
use super::hosts::{AgentLoss, Fault};
use super::order::AgentOrder;
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
    connection: Connection,
    /// Do the programs lie there?
    ready: bool,
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
        // Short, for it is a part of a socket's name.
        let folder = tempfile::Builder::new().prefix("lyceum-ssh-").tempdir();
        let folder = Arc::new(folder.map_err(ClusterError::system("make a folder for connections"))?);
        let origin = format!("{}:{}", machine_name(), options.state.root().display());
        let mut hosts: Vec<Host> = Vec::new();
        let mut destinations = Vec::new();
        for (index, node) in manifest.nodes.iter().enumerate() {
            let (cluster, name, origin) = (manifest.name.clone(), node.name.clone(), origin.clone());
            let subject = Subject { cluster, node: name, origin };
            let node_here = Node { index, subject, session: None, bound: false };
            match destinations.iter().position(|known| *known == node.destination()) {
                Some(at) => hosts[at].nodes.push(node_here),
                None => {
                    let connection = Connection::new(node, &manifest.ssh, folder.clone(), hosts.len());
                    destinations.push(node.destination());
                    hosts.push(Host { connection, ready: false, nodes: vec![node_here] });
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
                let host = host.connection.host();
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
            Ok(Answer::Log { file, lines }) => (format!("{file} on {}", host.host()), lines),
            Ok(_) => unknown(),
            Err(trouble) => (format!("its log, but {} {}", host.host(), trouble.what), trouble.said),
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
            host.connection.close().await;
        })
        .await;
    }

    pub(super) async fn give_up(&mut self, all: bool) {
        each(&mut self.hosts, async |host| {
            join_all(host.nodes.iter_mut().map(|node| node.give_up(all))).await;
            host.connection.close().await;
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

    fn find_mut(&mut self, name: &str) -> Option<(&Connection, &mut Node)> {
        self.hosts.iter_mut().find_map(|host| {
            let node = host.nodes.iter_mut().find(|node| node.subject.node == name)?;
            Some((&host.connection, node))
        })
    }
}

/// Deals with all hosts, so many at a time.
async fn each<T>(hosts: &mut [Host], deal: impl AsyncFn(&mut Host) -> T) -> Vec<T> {
    let deal = &deal;
    stream::iter(hosts.iter_mut().map(|host| deal(host))).buffer_unordered(AT_A_TIME).collect().await
}

impl Host {
    /// Brings the programs there, and begins a session for each node.
    async fn reach(&mut self, programs: &Programs) -> Vec<(usize, Result<bool, Fault>)> {
        if !self.ready
            && let Err(trouble) = bring(&self.connection, programs).await
        {
            let fault = |node: &Node| Err(fault(&self.connection, &node.subject.node, trouble.clone()));
            return self.nodes.iter().map(|node| (node.index, fault(node))).collect();
        }
        self.ready = true;
        let connection = &self.connection;
        let reach =
            self.nodes.iter_mut().map(async |node| (node.index, node.reach(connection, programs).await));
        join_all(reach).await
    }

    async fn start(&mut self, orders: Vec<(usize, AgentOrder)>) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (at, order) in orders {
            let node = &mut self.nodes[at];
            if let Err(trouble) = node.start(order).await {
                faults.push(fault(&self.connection, &node.subject.node, trouble));
            }
        }
        faults
    }

    async fn end(&mut self, programs: &Programs, patience: Duration) -> Vec<Result<bool, Fault>> {
        let absent = self.nodes.iter().any(|node| node.session.is_none());
        let reached = if absent { self.reach(programs).await } else { Vec::new() };
        let connection = &self.connection;
        let end = self.nodes.iter_mut().map(async |node| {
            let reached = reached.iter().find(|(index, _)| *index == node.index);
            match reached {
                Some((_, Err(fault))) => Err(fault.clone()),
                _ => {
                    node.end(patience).await.map_err(|trouble| fault(connection, &node.subject.node, trouble))
                }
            }
        });
        let ended = join_all(end).await;
        self.connection.close().await;
        ended
    }
}

impl Node {
    /// Begins its session; does its agent run?
    async fn reach(&mut self, connection: &Connection, programs: &Programs) -> Result<bool, Fault> {
        let looked = async {
            let mut session = Session::begin(connection, &programs.serve())?;
            let answer = session.order(&Order::Look(self.subject.clone()), Duration::ZERO).await?;
            Ok((session, answer))
        };
        match looked.await {
            Ok((session, Answer::Looked { lives })) => {
                self.session = Some(session);
                Ok(lives)
            }
            Ok((_, other)) => Err(fault(connection, &self.subject.node, unexpected(&other))),
            Err(trouble) => Err(fault(connection, &self.subject.node, trouble)),
        }
    }

    async fn start(&mut self, order: AgentOrder) -> Result<(), Trouble> {
        let Some(session) = &mut self.session else {
            return Err(Trouble { what: "was not reached".into(), said: vec![] });
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

/// Has the programs on the host, whole.
async fn bring(connection: &Connection, programs: &Programs) -> Result<(), Trouble> {
    let answer = connection.ask(&programs.look()).await?;
    let machine = answer.lines().find_map(|line| line.strip_prefix("machine ")).unwrap_or_default();
    // As uname(1) and Rust name them, the same for all that this runs on.
    let (system, architecture) = machine.split_once(' ').unwrap_or_default();
    if !system.eq_ignore_ascii_case(consts::OS) || architecture != consts::ARCH {
        let what = format!("is a {machine} machine, and this program is for {} {}", consts::OS, consts::ARCH);
        return Err(Trouble { what, said: vec![] });
    }
    if answer.lines().any(|line| line == "present") {
        return Ok(());
    }
    tracing::info!(host = connection.host(), bytes = programs.bytes(), "the programs are copied to a host");
    connection.send(&programs.take_in(), programs.all()).await.map_err(|Trouble { what, said }| {
        let mib = programs.bytes() >> 20;
        Trouble { what: format!("did not take this program, {mib} MiB: it {what}"), said }
    })
}

fn fault(connection: &Connection, node: &str, Trouble { what, said }: Trouble) -> Fault {
    let end = if said.is_empty() { "" } else { "; it says:" };
    Fault { node: node.to_owned(), said: quoted(format!("its host {} {what}{end}", connection.host()), said) }
}

fn unexpected(answer: &Answer) -> Trouble {
    Trouble { what: format!("gave an answer to another order: {answer:?}"), said: vec![] }
}

/// This machine's name, as others read it.
fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
