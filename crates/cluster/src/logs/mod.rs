//! Logs of a cluster's processes, and the way to them.
//!
//! A process's stdout and stderr are one file, opened before exec and appended to: no pipe, so that nobody has to live for its
//! last words to be there. Beside it lies a [label](LogLabel), which says whose it is and how that ended, so that nobody else,
//! the head least of all, has to remember actors that are no more. The file keeps its last `logs.size` bytes: its beginning
//! is cut out of it where it lies, so that the writer goes on undisturbed and a place in the log keeps its number
//! (`file`). What has ended is kept for `logs.keep`, as long as the node's logs have room in `logs.total` (`book`).
//!
//! Whoever wants to read ([`LogReader`], `lyceum logs`) asks the agents themselves, each over a connection of its own, and
//! says how much it can take: an agent sends no more than that (`serve`). The head is only asked where the agents are.

pub(crate) mod book;
mod file;
mod lines;
mod moments;
mod reader;
mod resolve;
pub(crate) mod serve;
mod session;
#[cfg(test)]
mod tests;
pub(crate) mod words;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rkyv::{Archive, Deserialize, Serialize};

pub use self::reader::{Incarnations, LogItem, LogQuery, LogReader};

/// The role that an agent's own log is said to be of.
pub(crate) const AGENT: &str = "agent";
/// How often a daemon looks at the sizes of logs.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Most bytes of the log of a head.
const HEAD_BYTES: u64 = 8 << 20;

/// Whose log it is.
#[derive(
    Debug,
    Clone,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    Archive,
    Serialize,
    Deserialize,
)]
#[serde(default)]
pub struct LogLabel {
    /// The process, which is the incarnation of its actor too; 0 for an agent.
    pub process: u64,
    /// Its actor.
    pub actor: u64,
    /// Its job.
    pub job: u64,
    /// That job's name.
    pub job_name: String,
    /// Its role; `agent` for an agent.
    pub role: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The namespace of its name.
    pub namespace: Option<String>,
    /// Its number in its gang, and that gang's size.
    pub rank: Option<(u32, u32)>,
    /// When it was started, in milliseconds since 1970.
    pub began_ms: u64,
    /// How it ended, once it has.
    pub end: Option<LogEnd>,
}

/// How a process ended.
#[derive(
    Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, Archive, Serialize, Deserialize,
)]
pub struct LogEnd {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// How, in words that go on "the actor ...".
    pub cause: String,
}

/// A log as its agent has it.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LogEntry {
    /// Whose it is.
    pub label: LogLabel,
    /// Bytes that were written first and are there no more.
    pub cut: u64,
    /// Bytes that were written in all.
    pub written: u64,
}

impl LogLabel {
    /// What a reader calls the actor: `NAMESPACE/NAME[RANK]`, or `ROLE/NUMBER` of one that has no name.
    pub fn title(&self) -> String {
        let name = match (&self.namespace, &self.name) {
            (_, None) if self.actor == 0 => return self.role.clone(),
            (_, None) => format!("{}/{}", self.role, self.actor),
            (None, Some(name)) => name.clone(),
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        };
        match self.rank {
            Some((rank, _)) => format!("{name}[{rank}]"),
            None => name,
        }
    }

    /// Is it what a person calls `text`: a number or name of the actor, of its process, or of its job?
    pub(crate) fn is_called(&self, text: &str) -> bool {
        let number = |number: u64| number != 0 && number.to_string() == text;
        number(self.actor)
            || number(self.process)
            || number(self.job)
            || (self.process != 0 && self.job_name == text)
            || self.actor_is_called(text)
    }

    /// Is `text` a name of the actor?
    pub(crate) fn actor_is_called(&self, text: &str) -> bool {
        let Some(name) = &self.name else { return false };
        let (plain, rank) = match text.strip_suffix(']').and_then(|text| text.rsplit_once('[')) {
            Some((plain, rank)) => (plain, rank.parse().ok()),
            None => (text, None),
        };
        let names = |text: &str| match (&self.namespace, text.split_once('/')) {
            (Some(space), Some((given, rest))) if space == given && rest == name => true,
            _ => text == name,
        };
        names(text) || (rank.is_some() && rank == self.rank.map(|(rank, _)| rank) && names(plain))
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Keeps the log of a head below its size for as long as it runs.
pub(crate) async fn keep_capped(path: PathBuf) {
    let mut told = false;
    loop {
        if let Err(error) = file::trim(&path, HEAD_BYTES)
            && !std::mem::replace(&mut told, true)
        {
            tracing::warn!(path = %path.display(), %error, "a log could not be cut");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
