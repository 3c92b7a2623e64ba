//! Reading logs as a client: what is meant, which agents have it, and their words as lines.

mod follow;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use lyceum_wire::{CloseCode, Credentials, Endpoint, EndpointOptions, WireError};

use self::follow::Following;
use super::lines::Lines;
use super::resolve::{self, Target};
use super::session::{Session, is_there};
use super::words::{AgentToClient, ClientToAgent, LogSelector, MAX_LISTED, ReadLogs};
use super::{LogEntry, LogLabel};
use crate::client::Client;
use crate::control::vocabulary::{NodeStatus, Status};
use crate::error::ClusterError;
use crate::state::StateDir;
use crate::units::Bytes;

/// Agents that are called at a time.
const MAX_CALLS: usize = 64;
/// How long the last words to agents may take to leave.
const FAREWELL: Duration = Duration::from_millis(500);

/// Which logs a person wants to read, and what of them.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// A node, a job or an actor, by name or number; `NAME[RANK]` of a gang's member; with `node/`, `job/` or `actor/`
    /// before it where several are called so.
    pub target: String,
    /// Which lives of it.
    pub incarnations: Incarnations,
    /// Only so many lines, the last, of each.
    pub tail: Option<u64>,
    /// Only what was written in this time until now.
    pub within: Option<Duration>,
    /// Go on with what is written from now on, until nothing of it lives any more.
    pub follow: bool,
}

/// Which lives of an actor are meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Incarnations {
    /// All of which there are logs.
    #[default]
    All,
    /// That of this process.
    One(u64),
    /// The last but one of each.
    Previous,
}

/// What a reader is given.
#[derive(Debug, Clone)]
pub enum LogItem {
    /// A line of a log, without its end.
    Line {
        /// The node of the log.
        node: Arc<str>,
        /// Whose it is.
        label: Arc<LogLabel>,
        /// What it says: whatever bytes the process wrote.
        text: Vec<u8>,
    },
    /// All of a log was given of which the process has ended.
    Ended {
        /// The node of the log.
        node: Arc<str>,
        /// Whose it is, and how that ended.
        label: Arc<LogLabel>,
    },
    /// Something that a person should know: what is not there, or not any more.
    Note(String),
}

/// The logs that were asked for, line by line. Whoever does not ask for the next one holds up the agents, and nothing grows
/// meanwhile (L2).
pub struct LogReader {
    endpoint: Endpoint,
    found: Vec<(Arc<str>, LogEntry)>,
    of: LogSelector,
    said: Said,
    course: Course,
}

enum Course {
    /// One log after the other.
    InTurn(InTurn),
    /// All at once.
    Following(Following),
}

struct InTurn {
    sessions: Sessions,
    left: VecDeque<(Arc<str>, u64)>,
    reading: Option<(Arc<str>, u64)>,
    tail: Option<u64>,
    within_ms: Option<u64>,
}

type Sessions = BTreeMap<Arc<str>, Session>;

impl LogReader {
    /// Finds the logs that `query` means in the cluster of `state`. Call it within a tokio runtime.
    ///
    /// # Errors
    /// No cluster is there, or nothing in it is called so, or several things are.
    pub async fn open(state: &StateDir, query: LogQuery) -> Result<LogReader, ClusterError> {
        let client = Client::connect(state).await?;
        let status = client.status().await?;
        let credentials = Credentials::load(&state.client())?;
        let endpoint = Endpoint::bind(credentials, EndpointOptions::new(own_address(&status)))?;
        let mut notes = Vec::new();
        let mut sessions = call(&endpoint, &status, &query.target, &mut notes).await;
        let mut found = match resolve::question(&query.target) {
            Some(of) => list(&mut sessions, &of, &mut notes).await,
            None => Vec::new(),
        };
        let resolved = resolve::resolve(&query.target, &status, &entries(&found));
        let Some(mut target) = resolved.map_err(ClusterError::Refused)? else {
            let all = list(&mut sessions, &LogSelector::Node, &mut notes).await;
            let why = resolve::nothing(&query.target, &status, &entries(&all));
            notes.insert(0, why);
            return Err(ClusterError::Refused(notes.join("\n")));
        };
        if let Some(node) = &target.node {
            sessions.retain(|name, _| **name == **node);
            // Others have nothing of it.
            notes.retain(|note| note.contains(&format!("`{node}`")));
            found = list(&mut sessions, &target.of, &mut notes).await;
        }
        found.retain(|(_, entry)| target.of.means(&entry.label));
        // Processes are numbered as they begin.
        found.sort_by_key(|(_, entry)| entry.label.process);
        pick(&query, &mut target, &mut found).map_err(ClusterError::Refused)?;
        notes.extend(target.note.take());
        if found.is_empty() && !query.follow {
            notes.push(format!("there is no log of `{}`, yet or any more", query.target));
        }
        let whole = query.tail.is_none() && query.within.is_none();
        let said =
            Said { items: notes.into_iter().map(LogItem::Note).collect(), logs: BTreeMap::new(), whole };
        let within_ms = query.within.map(|within| u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
        let (of, tail) = (target.of.clone(), query.tail);
        let course = if query.follow {
            drop(sessions);
            let nodes = found.iter().map(|(node, _)| node.to_string()).collect();
            let read = ReadLogs { of: of.clone(), from: Vec::new(), tail, within_ms, follow: true };
            Course::Following(Following::begin(client, endpoint.clone(), status, target, read, nodes))
        } else {
            let left = found.iter().map(|(node, entry)| (node.clone(), entry.label.process)).collect();
            Course::InTurn(InTurn { sessions, left, reading: None, tail, within_ms })
        };
        Ok(LogReader { endpoint, found, of, said, course })
    }

    /// The logs that there were when they were looked for, each with its node, in the order in which they began.
    pub fn found(&self) -> &[(Arc<str>, LogEntry)] {
        &self.found
    }

    /// Is it all of one actor, however often it was started?
    pub fn is_of_one_actor(&self) -> bool {
        match &self.of {
            LogSelector::Actors(one) | LogSelector::Processes(one) => one.len() <= 1,
            LogSelector::Called(_) | LogSelector::Job(_) | LogSelector::Node => false,
        }
    }

    /// The next line, or what else is to be known; `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> Option<LogItem> {
        loop {
            if let Some(item) = self.said.items.pop_front() {
                return Some(item);
            }
            match &mut self.course {
                Course::InTurn(in_turn) => in_turn.advance(&mut self.said).await?,
                Course::Following(following) => {
                    let (node, heard) = following.next().await?;
                    self.said.take_in(node, heard);
                }
            }
        }
    }

    /// Ends it in good order: agents learn at once that nobody reads any more.
    pub async fn close(self) {
        drop((self.course, self.said));
        self.endpoint.close(CloseCode::Done, "the reader of logs has gone");
        let _ = tokio::time::timeout(FAREWELL, self.endpoint.wait_idle()).await;
    }
}

impl InTurn {
    /// Hears the next word; `None` when all was read.
    async fn advance(&mut self, said: &mut Said) -> Option<()> {
        let Some((node, process)) = self.reading.clone() else {
            let (node, process) = self.left.pop_front()?;
            // Of one that does not answer any more it was said.
            let Some(session) = self.sessions.get(&node) else { return Some(()) };
            let of = LogSelector::Processes(vec![process]);
            let (tail, within_ms) = (self.tail, self.within_ms);
            let read = ReadLogs { of, from: Vec::new(), tail, within_ms, follow: false };
            let asked = session.ask(ClientToAgent::Read(read)).await;
            self.reading = Some((node.clone(), process));
            if let Err(error) = asked {
                self.lose(&node, &error, said);
            }
            return Some(());
        };
        let Some(session) = self.sessions.get_mut(&node) else {
            self.reading = None;
            return Some(());
        };
        match session.next().await {
            Ok(AgentToClient::Done) => {
                said.close(&node, process);
                self.reading = None;
            }
            Ok(word) => said.take_in(node, Heard::Word(word)),
            Err(error) => self.lose(&node, &error, said),
        }
        Some(())
    }

    fn lose(&mut self, node: &Arc<str>, error: &WireError, said: &mut Said) {
        self.sessions.remove(node);
        self.reading = None;
        said.note(format!("node `{node}` gives no more of its logs: {error}"));
    }
}

/// A word of an agent, or what is to be said of it.
#[derive(Debug)]
enum Heard {
    Word(AgentToClient),
    Note(String),
}

/// What is to be given next, and what is known of the logs that are being read.
struct Said {
    items: VecDeque<LogItem>,
    logs: BTreeMap<(Arc<str>, u64), (Arc<LogLabel>, Lines)>,
    /// Was everything asked for that there is of a log?
    whole: bool,
}

impl Said {
    fn note(&mut self, text: String) {
        self.items.push_back(LogItem::Note(text));
    }

    fn take_in(&mut self, node: Arc<str>, heard: Heard) {
        match heard {
            Heard::Note(text) => self.note(text),
            Heard::Word(AgentToClient::Log { entry, .. }) => {
                let key = (node.clone(), entry.label.process);
                match self.logs.get_mut(&key) {
                    Some((label, _)) => {
                        *label = Arc::new(entry.label);
                        self.close(&node, key.1);
                    }
                    None => {
                        if entry.cut > 0 && self.whole {
                            let (cut, title) = (Bytes(entry.cut), entry.label.title());
                            self.note(format!(
                                "the first {cut} of {title}#{} were cut (see `logs.size`)",
                                key.1
                            ));
                        }
                        self.logs.insert(key, (Arc::new(entry.label), Lines::default()));
                    }
                }
            }
            Heard::Word(AgentToClient::Piece { process, bytes, .. }) => {
                let Some((label, lines)) = self.logs.get_mut(&(node.clone(), process)) else { return };
                let line = |text| LogItem::Line { node: node.clone(), label: label.clone(), text };
                self.items.extend(lines.push(&bytes).into_iter().map(line));
            }
            Heard::Word(AgentToClient::Lost { process, bytes }) => {
                self.flush(&node, process);
                if let Some((label, _)) = self.logs.get(&(node, process)) {
                    let title = label.title();
                    self.note(format!(
                        "{} of {title}#{process} were cut before they were read",
                        Bytes(bytes)
                    ));
                }
            }
            Heard::Word(AgentToClient::Done | AgentToClient::Refused { .. }) => {}
        }
    }

    /// What has no line's end yet is given as it is.
    fn flush(&mut self, node: &Arc<str>, process: u64) {
        if let Some((label, lines)) = self.logs.get_mut(&(node.clone(), process))
            && let Some(text) = lines.rest()
        {
            self.items.push_back(LogItem::Line { node: node.clone(), label: label.clone(), text });
        }
    }

    /// All of a log was read.
    fn close(&mut self, node: &Arc<str>, process: u64) {
        self.flush(node, process);
        if let Some((label, _)) = self.logs.remove(&(node.clone(), process))
            && label.end.is_some()
        {
            self.items.push_back(LogItem::Ended { node: node.clone(), label });
        }
    }
}

fn entries(found: &[(Arc<str>, LogEntry)]) -> Vec<LogEntry> {
    found.iter().map(|(_, entry)| entry.clone()).collect()
}

/// Agents of this machine alone are called from this machine alone.
fn own_address(status: &Status) -> SocketAddr {
    let mut addresses = status.nodes.iter().filter_map(|node| node.address);
    match addresses.clone().find(|address| !address.ip().is_loopback()) {
        Some(SocketAddr::V4(_)) => SocketAddr::from(([0, 0, 0, 0], 0)),
        Some(SocketAddr::V6(_)) => SocketAddr::from(([0u16; 8], 0)),
        None => match addresses.next() {
            Some(loopback) => SocketAddr::new(loopback.ip(), 0),
            None => SocketAddr::from(([127, 0, 0, 1], 0)),
        },
    }
}

/// Connects to the agents that may have what is called `target`; of each that cannot be asked it is noted why.
async fn call(endpoint: &Endpoint, status: &Status, target: &str, notes: &mut Vec<String>) -> Sessions {
    let may_have = |node: &&NodeStatus| match target.strip_prefix("node/") {
        Some(name) => node.name == name,
        // One that never was there has no logs.
        None => node.incarnation > 0,
    };
    let calls = status.nodes.iter().filter(may_have).map(|node| async move {
        match is_there(node) {
            true => (node, Session::open(endpoint, node).await.map_err(|error| error.to_string())),
            false => (node, Err(format!("it is {}", node.state))),
        }
    });
    let called: Vec<_> = stream::iter(calls).buffer_unordered(MAX_CALLS).collect().await;
    let mut sessions = Sessions::new();
    for (node, session) in called {
        match session {
            Ok(session) => _ = sessions.insert(node.name.as_str().into(), session),
            Err(why) => notes.push(format!("what node `{}` has of it is not shown: {why}", node.name)),
        }
    }
    notes.sort();
    sessions
}

/// What all agents have of `of`. Those that do not answer are dropped.
async fn list(
    sessions: &mut Sessions,
    of: &LogSelector,
    notes: &mut Vec<String>,
) -> Vec<(Arc<str>, LogEntry)> {
    let asked = std::mem::take(sessions).into_iter().map(|(node, mut session)| async move {
        let listed = list_one(&mut session, of.clone()).await;
        (node, session, listed)
    });
    let answers: Vec<_> = stream::iter(asked).buffer_unordered(MAX_CALLS).collect().await;
    let mut found = Vec::new();
    for (node, session, listed) in answers {
        match listed {
            Ok(entries) => {
                found.extend(entries.into_iter().map(|entry| (node.clone(), entry)));
                sessions.insert(node, session);
            }
            Err(error) => notes.push(format!("what node `{node}` has of it is not shown: {error}")),
        }
    }
    found
}

async fn list_one(session: &mut Session, of: LogSelector) -> Result<Vec<LogEntry>, WireError> {
    session.ask(ClientToAgent::List { of }).await?;
    let mut found = Vec::new();
    loop {
        match session.next().await? {
            AgentToClient::Log { entry, .. } if found.len() < MAX_LISTED => found.push(entry),
            AgentToClient::Done => return Ok(found),
            other => return Err(WireError::Bulk(format!("the agent answers {other:?} to a list of logs"))),
        }
    }
}

/// Leaves of what was found the incarnations that are wanted.
fn pick(query: &LogQuery, target: &mut Target, found: &mut Vec<(Arc<str>, LogEntry)>) -> Result<(), String> {
    let wanted: Vec<u64> = match query.incarnations {
        Incarnations::All => return Ok(()),
        Incarnations::One(process) => vec![process],
        Incarnations::Previous => {
            let mut of_actors: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            for (_, entry) in found.iter().filter(|(_, entry)| entry.label.process != 0) {
                of_actors.entry(entry.label.actor).or_default().push(entry.label.process);
            }
            of_actors.values().filter_map(|lives| lives.iter().rev().nth(1).copied()).collect()
        }
    };
    let there: Vec<String> = found.iter().map(|(_, entry)| entry.label.process.to_string()).collect();
    found.retain(|(_, entry)| wanted.contains(&entry.label.process));
    if found.is_empty() {
        let (what, logs) =
            (&query.target, if there.is_empty() { "none".to_owned() } else { there.join(", ") });
        return Err(match query.incarnations {
            Incarnations::One(process) => {
                format!("`{what}` has no log of incarnation {process}; there are: {logs}")
            }
            _ => format!("`{what}` has no log of an incarnation before the last; there are: {logs}"),
        });
    }
    target.of = LogSelector::Processes(wanted);
    Ok(())
}
