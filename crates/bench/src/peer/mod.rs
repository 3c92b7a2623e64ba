//! Another system that does the same works on this machine, in turn with ours.
//!
//! A peer is a Python program that answers one request a line. `cargo xtask peers` makes the environment it runs in.

use std::path::PathBuf;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::actors::Call;
use crate::round::Round;

/// Names the folder with the peers' environments where it is not `.peers` here.
const PEERS_VARIABLE: &str = "LYCEUM_PEERS";
/// How long a peer may take to start, and to do a round beyond the time it was given.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who can be beside us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Ray Core.
    Ray,
    /// Monarch, without torch: calls and actors alone, it has no object store.
    Monarch,
}

impl Peer {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Ray, Self::Monarch];

    /// Its name, on the command line and in rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ray => "ray",
            Self::Monarch => "monarch",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Ray => include_str!("ray.py"),
            Self::Monarch => include_str!("monarch.py"),
        }
    }

    /// The Python that has it.
    fn python(self) -> Result<PathBuf> {
        let folder = std::env::var_os(PEERS_VARIABLE).map_or_else(|| PathBuf::from(".peers"), PathBuf::from);
        let python = folder.join(self.name()).join("bin/python");
        ensure!(
            python.exists(),
            "{} is missing: in a checkout `cargo xtask peers` makes it; {PEERS_VARIABLE} names another folder",
            python.display()
        );
        Ok(python)
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|peer| peer.name() == name);
        named.ok_or_else(|| format!("expected one of: {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// A peer at work.
pub struct RunningPeer {
    child: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    peer: Peer,
    name: String,
    _program: tempfile::NamedTempFile,
}

#[derive(Deserialize)]
struct Greeting {
    version: String,
}

impl RunningPeer {
    /// Starts it and waits until it is warm.
    pub async fn start(peer: Peer) -> Result<Self> {
        let python = peer.python()?;
        let program = tempfile::Builder::new().prefix("lyceum-peer-").suffix(".py").tempfile()?;
        std::fs::write(program.path(), peer.program())?;
        let mut command = Command::new(python);
        command.arg(program.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", peer.name()))?;
        let (requests, answers) = (child.stdin.take(), child.stdout.take());
        let (requests, answers) = requests.zip(answers).context("the peer's pipes")?;
        let answers = BufReader::new(answers).lines();
        let name = peer.name().into();
        let mut running = Self { child, requests, answers, peer, name, _program: program };
        let greeting: Greeting = running.answer(PATIENCE).await?;
        running.name = format!("{} {}", peer.name(), greeting.version);
        Ok(running)
    }

    /// Who it is.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Its name and version.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One round of calls.
    pub async fn calls(&mut self, call: Call, time: Duration) -> Result<Round> {
        let (work, count) = match call {
            Call::OneAtATime => ("one_at_a_time", 0),
            Call::InFlight(count) => ("in_flight", count),
            Call::Bytes(count) => ("bytes", count),
        };
        self.ask(work, count, time).await
    }

    /// Creates `count` process actors and has each answer.
    pub async fn create(&mut self, count: u32) -> Result<Round> {
        self.ask("create", count, Duration::ZERO).await
    }

    /// Puts arrays of `bytes`, each with a copy of it. The round counts MiB.
    pub async fn put(&mut self, bytes: u64, time: Duration) -> Result<Round> {
        self.ask("put", u32::try_from(bytes)?, time).await
    }

    /// Has an array of `bytes` fetched by one of its nodes from another. The round counts MiB.
    pub async fn fetch(&mut self, bytes: u64, time: Duration) -> Result<Round> {
        self.ask("fetch", u32::try_from(bytes)?, time).await
    }

    async fn ask(&mut self, work: &str, count: u32, time: Duration) -> Result<Round> {
        let request = json!({ "work": work, "count": count, "millis": time.as_millis() as u64 });
        self.requests.write_all(format!("{request}\n").as_bytes()).await.context("asking the peer")?;
        self.answer(time + PATIENCE).await
    }

    async fn answer<T: DeserializeOwned>(&mut self, within: Duration) -> Result<T> {
        let line = match tokio::time::timeout(within, self.answers.next_line()).await {
            Ok(line) => line.context("reading the peer's answer")?,
            Err(_) => bail!("{} does not answer within {} s", self.name, within.as_secs()),
        };
        let line = line.with_context(|| format!("{} has ended, see its words above", self.name))?;
        serde_json::from_str(&line).with_context(|| format!("{} answers {line:?}", self.name))
    }

    /// Ends it and what it started.
    pub async fn end(self) -> Result<()> {
        let Self { mut child, requests, name, .. } = self;
        // At the end of its input it shuts its own processes down.
        drop(requests);
        match tokio::time::timeout(PATIENCE, child.wait()).await {
            Ok(status) => ensure!(status?.success(), "{name} did not end well"),
            Err(_) => bail!("{name} does not end"),
        }
        Ok(())
    }
}
