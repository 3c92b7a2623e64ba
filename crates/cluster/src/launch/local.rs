//! The local launcher: head and agents as processes of this machine.
//!
//! A *standing* cluster's processes go on when [`up`] has returned; a second `up` of the same name finds them, and
//! starts those that have died. An *owned* cluster hangs on its runner by a pipe: when the runner ends, however that
//! comes, all of it ends, and its keys go with it.

use std::fs::{self, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::pipe::PipeFlags;
use rustix::process::Signal;

use super::ends::Ends;
use super::machine::{Machine, Share};
use super::record::{Lock, RunRecord};
use crate::agent::AgentConfig;
use crate::client::Client;
use crate::control::vocabulary::Status;
use crate::daemon::TETHER_VARIABLE;
use crate::error::ClusterError;
use crate::head::{HeadAddress, HeadConfig};
use crate::host::{self, ProcessMark};
use crate::manifest::Manifest;
use crate::spawn::{self, Preparation};
use crate::state::{StateDir, log_tail, remove};
use crate::strict::Source;
use crate::units::Bytes;

/// Longest wait for the head to listen.
const HEAD_START: Duration = Duration::from_secs(20);
/// Longest wait for all agents to join.
const JOIN: Duration = Duration::from_secs(30);
/// Longest wait for processes to end after they were killed.
const KILLED: Duration = Duration::from_secs(5);
/// Lines of a log that go into an error.
const TAIL_LINES: usize = 12;
const POLL: Duration = Duration::from_millis(20);

/// How a cluster is started.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// Where it keeps its state.
    pub state: StateDir,
    /// Does it end with this process?
    pub owned: bool,
    /// The program whose `head` and `agent` commands are run.
    pub program: PathBuf,
}

impl UpOptions {
    /// A standing cluster in the default place, run by this very program.
    pub fn standing(manifest: &Manifest) -> Result<UpOptions, ClusterError> {
        let program = std::env::current_exe().map_err(ClusterError::system("find this program"))?;
        Ok(UpOptions { state: StateDir::of(&manifest.name)?, owned: false, program })
    }
}

/// A cluster that is up.
#[derive(Debug)]
pub struct Up {
    /// A connection to its head.
    pub client: Client,
    /// Where it keeps its state.
    pub state: StateDir,
    /// Was any of its processes started now, or did all run before?
    pub started: bool,
    /// Its processes.
    record: RunRecord,
    ends: Ends,
    /// For an owned cluster: at its end the cluster ends.
    tether: Option<OwnedFd>,
}

impl Up {
    /// Does the cluster end with this process?
    pub fn is_owned(&self) -> bool {
        self.tether.is_some()
    }

    /// The end of the head's process, if it has ended: seen at once, long before its silence tells of it. It says how
    /// the process ended where this one started it, and has its last log lines.
    pub fn head_loss(&self) -> Option<ClusterError> {
        self.loss("the head", self.record.head?, &self.state.head_log())
    }

    /// As [`head_loss`](Self::head_loss), for the agent of `node`.
    pub fn agent_loss(&self, node: &str) -> Option<ClusterError> {
        let who = format!("the agent of node `{node}`");
        self.loss(&who, *self.record.agents.get(node)?, &self.state.agent_log(node))
    }

    /// The ends of all processes of the cluster that have ended, the head's first.
    pub fn losses(&self) -> Vec<ClusterError> {
        let agents = self.record.agents.keys().filter_map(|node| self.agent_loss(node));
        self.head_loss().into_iter().chain(agents).collect()
    }

    fn loss(&self, who: &str, mark: ProcessMark, log: &Path) -> Option<ClusterError> {
        (!mark.lives()).then(|| lost(who, mark, &self.ends, log))
    }

    /// Kills the cluster without asking it; returns when nothing of it runs any more.
    pub async fn kill(self) -> Result<(), ClusterError> {
        let Up { client, state, tether, .. } = self;
        drop(client);
        let _lock = Lock::take(&state).await?;
        end_processes(RunRecord::load(&state).living_and_strays(&state), Duration::ZERO).await;
        drop(tether);
        clear(&state)
    }

    /// [`kill`](Self::kill)s a cluster that was started for one run, and leaves one that stands alone.
    pub async fn kill_if_owned(self) -> Result<(), ClusterError> {
        if self.is_owned() { self.kill().await } else { Ok(()) }
    }

    /// Ends the cluster; returns when nothing of it runs any more.
    pub async fn down(self) -> Result<(), ClusterError> {
        let Up { client, state, tether, .. } = self;
        drop(client);
        let ended = down(&state).await.map(drop);
        drop(tether);
        ended
    }
}

/// The memory of this machine, which nodes have that say nothing of theirs; `None` where it cannot be told.
pub fn machine_memory() -> Option<Bytes> {
    host::machine_memory().map(Bytes)
}

/// Whether [`up`] could have the cluster of `manifest` here and now, before anything is touched. What this machine does
/// not have is refused at its place in `text`, the manifest's; so is a cluster that another has.
pub fn check(manifest: &Manifest, text: &Source, options: &UpOptions) -> Result<(), ClusterError> {
    Machine::here().shares(manifest).map_err(|unmet| text.refuse(&unmet.key, unmet.message))?;
    check_found(manifest, options, &RunRecord::load(&options.state)).map(drop)
}

/// Starts the cluster of `manifest`, or finds it: returns when all its nodes have joined. If one does not, whatever
/// was started is ended again, and the error says which one and why, with its last log lines.
pub async fn up(manifest: &Manifest, options: UpOptions) -> Result<Up, ClusterError> {
    let shares = Machine::here().shares(manifest).map_err(|unmet| {
        ClusterError::Refused(format!("cluster `{}`: `{}`: {}", manifest.name, unmet.key, unmet.message))
    })?;
    let state = options.state.clone();
    state.make(state.root())?;
    let _lock = Lock::take(&state).await?;
    let mut record = RunRecord::load(&state);
    let found = check_found(manifest, &options, &record)?;
    if !found {
        end_processes(record.living_and_strays(&state), Duration::ZERO).await;
        clear(&state)?;
        set_logs_aside(&state)?;
        record = RunRecord { owned: options.owned, ..RunRecord::default() };
    }
    let tether = if options.owned && !found { Some(tether()?) } else { None };
    let mut launch = Launch { manifest, options, record, ends: Ends::default(), tether, started: false };
    match launch.start(&shares).await {
        Ok(client) => {
            let Launch { record, ends, tether, started, .. } = launch;
            Ok(Up { client, state, started, record, ends, tether: tether.map(|(_, ours)| ours) })
        }
        Err(error) => {
            if !found {
                end_processes(launch.record.living_and_strays(&state), Duration::ZERO).await;
                clear(&state)?;
            }
            Err(error)
        }
    }
}

/// Ends the cluster in `state`; returns whether there was one, when nothing of it runs any more. A folder in which none
/// was ever started is not touched.
pub async fn down(state: &StateDir) -> Result<bool, ClusterError> {
    if !state.lock_file().is_file() {
        return Ok(false);
    }
    let _lock = Lock::take(state).await?;
    let record = RunRecord::load(state);
    let processes = record.living_and_strays(state);
    let was_up = !processes.is_empty();
    let mut patience = Duration::ZERO;
    if record.head_lives()
        && let (Ok(client), Ok(config)) = (Client::connect(state).await, HeadConfig::load(state))
    {
        let grace = Duration::from_secs_f64(config.manifest.health.stop);
        let asked = client.shut_down("lyceum down");
        if matches!(tokio::time::timeout(grace + Duration::from_secs(6), asked).await, Ok(Ok(()))) {
            patience = Duration::from_secs(3);
        }
    }
    end_processes(processes, patience).await;
    clear(state)?;
    Ok(was_up)
}

/// The state of the cluster in `state`. One whose head has ended does not run, and nobody is asked.
pub async fn status(state: &StateDir) -> Result<Status, ClusterError> {
    let (record, root) = (RunRecord::load(state), state.root().display());
    if let Some(head) = record.head.filter(|head| !head.lives()) {
        return Err(ClusterError::Refused(format!(
            "the cluster in {root} does not run: its head, process {} of this machine, has ended; `lyceum down` clears up after it",
            head.pid
        )));
    }
    if record.owned && record.head.is_some() && !state.client().exists() {
        return Err(ClusterError::Refused(format!(
            "the cluster in {root} is ending: the `lyceum run` that it belonged to is gone"
        )));
    }
    Client::connect(state).await?.status().await
}

/// Does a cluster of this name run that can be taken as it is?
fn check_found(manifest: &Manifest, options: &UpOptions, record: &RunRecord) -> Result<bool, ClusterError> {
    let name = &manifest.name;
    if record.living().is_empty() || (record.owned && !record.head_lives()) {
        return Ok(false);
    }
    if record.owned {
        return Err(ClusterError::Refused(format!(
            "cluster `{name}` runs and belongs to another `lyceum run`: wait for its end, or `lyceum down {name}`"
        )));
    }
    let same = HeadConfig::load(&options.state).is_ok_and(|config| {
        serde_json::to_value(&config.manifest).ok() == serde_json::to_value(manifest).ok()
    });
    match same {
        true => Ok(true),
        false => Err(ClusterError::Refused(format!(
            "cluster `{name}` runs with another manifest: `lyceum down {name}` first, or give this one another name"
        ))),
    }
}

struct Launch<'a> {
    manifest: &'a Manifest,
    options: UpOptions,
    record: RunRecord,
    ends: Ends,
    /// The daemons' end and ours.
    tether: Option<(OwnedFd, OwnedFd)>,
    started: bool,
}

impl Launch<'_> {
    async fn start(&mut self, shares: &[Share]) -> Result<Client, ClusterError> {
        let state = self.options.state.clone();
        for path in [state.head(), state.logs(), state.client()] {
            state.make(&path)?;
        }
        let head = match self.record.head.filter(ProcessMark::lives) {
            Some(head) => head,
            None => self.start_head().await?,
        };
        let started = tokio::select! {
            started = self.start_nodes(shares) => Some(started),
            () = ended(head) => None,
        };
        match started {
            Some(Ok(client)) => Ok(client),
            Some(Err(error)) if head.lives() => Err(error),
            // Whatever failed, failed for this.
            Some(Err(_)) | None => {
                let who = format!("the head of cluster `{}`", self.manifest.name);
                Err(lost(&who, head, &self.ends, &state.head_log()))
            }
        }
    }

    async fn start_nodes(&mut self, shares: &[Share]) -> Result<Client, ClusterError> {
        let client = Client::connect(&self.options.state).await?;
        for (index, share) in shares.iter().enumerate() {
            if !self.record.agent_lives(&self.manifest.nodes[index].name) {
                self.start_agent(index, share, &client).await?;
            }
        }
        self.wait_for_nodes(&client).await?;
        Ok(client)
    }

    async fn start_head(&mut self) -> Result<ProcessMark, ClusterError> {
        let state = &self.options.state.clone();
        HeadConfig { manifest: self.manifest.clone(), owned: self.options.owned }.save(state)?;
        let mark = self.start_process(&["head"], &state.head_log())?;
        self.record.head = Some(mark);
        self.record.save(state)?;
        let began = Instant::now();
        while !HeadAddress::load(state).is_ok_and(|address| address.pid == mark.pid) {
            if !mark.lives() || began.elapsed() > HEAD_START {
                let how = if mark.lives() { "does not listen".to_owned() } else { self.ends.in_words(mark) };
                let what = format!("the head of cluster `{}` {how}", self.manifest.name);
                return Err(ClusterError::Process { what, log: log_tail(&state.head_log(), TAIL_LINES) });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(mark)
    }

    async fn start_agent(
        &mut self,
        index: usize,
        share: &Share,
        client: &Client,
    ) -> Result<(), ClusterError> {
        let state = self.options.state.clone();
        let node = &self.manifest.nodes[index];
        let folder = state.node(&node.name);
        state.make(&folder)?;
        client.issue_node(&node.name).await?.save(&folder)?;
        AgentConfig {
            cluster: self.manifest.name.clone(),
            node: node.name.clone(),
            owned: self.record.owned,
            heads: vec![HeadAddress::load(&state)?.advertised],
            bind: node.bind,
            advertise: node.advertise,
            trusted_interface: node.trusted_interface.clone(),
            ports: self.manifest.node_ports(index),
            cores: share.cores.clone(),
            gpus: share.gpus.clone(),
            store: self.manifest.store,
            health: self.manifest.health,
        }
        .save(&state)?;
        let mark = self.start_process(&["agent", "--node", &node.name], &state.agent_log(&node.name))?;
        self.record.agents.insert(node.name.clone(), mark);
        self.record.save(&state)
    }

    /// Starts a process that does not end with this one, except by the tether.
    fn start_process(&mut self, arguments: &[&str], log: &Path) -> Result<ProcessMark, ClusterError> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(log)
            .map_err(|error| ClusterError::file(log, &error))?;
        let errors = file.try_clone().map_err(ClusterError::system("open a log"))?;
        let program = &self.options.program;
        let mut command = Command::new(program);
        command.args(arguments).arg("--state").arg(self.options.state.root());
        command.stdout(file).stderr(errors).env_remove(TETHER_VARIABLE);
        let mut inherited = Vec::new();
        if let Some((theirs, _)) = &self.tether {
            let theirs = theirs.try_clone().map_err(ClusterError::system("copy the tether"))?;
            command.env(TETHER_VARIABLE, theirs.as_raw_fd().to_string());
            inherited.push(theirs);
        }
        spawn::prepare(&mut command, Preparation { own_session: true, inherited, ..Preparation::default() });
        let doing = format!("start {} {}", program.display(), arguments.join(" "));
        let child = command.spawn().map_err(ClusterError::system(doing))?;
        self.started = true;
        let mark = ProcessMark::of(child.id()).unwrap_or(ProcessMark { pid: child.id(), started: 0 });
        self.ends.wait_for(child)?;
        Ok(mark)
    }

    async fn wait_for_nodes(&self, client: &Client) -> Result<(), ClusterError> {
        let began = Instant::now();
        loop {
            let status = client.status().await?;
            let absent: Vec<&str> =
                status.nodes.iter().filter(|node| !node.joined).map(|node| node.name.as_str()).collect();
            if absent.is_empty() {
                return Ok(());
            }
            let dead: Vec<&str> =
                absent.iter().copied().filter(|node| !self.record.agent_lives(node)).collect();
            let given_up = if began.elapsed() > JOIN { absent } else { dead };
            if !given_up.is_empty() {
                return Err(self.not_joined(&given_up));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn not_joined(&self, nodes: &[&str]) -> ClusterError {
        let mut log = Vec::new();
        for node in nodes {
            let how = match self.record.agents.get(*node).filter(|mark| !mark.lives()) {
                None => format!("did not join within {} s", JOIN.as_secs()),
                Some(mark) => self.ends.in_words(*mark),
            };
            let path = self.options.state.agent_log(node);
            log.push(format!("node `{node}`: its agent {how}; the end of {}:", path.display()));
            log.extend(log_tail(&path, TAIL_LINES).into_iter().map(|line| format!("  {line}")));
        }
        let what = format!("cluster `{}`: {} of its nodes did not start", self.manifest.name, nodes.len());
        ClusterError::Process { what, log }
    }
}

/// That `who` has ended, how, and the last lines of its log.
fn lost(who: &str, mark: ProcessMark, ends: &Ends, log: &Path) -> ClusterError {
    let what = format!("{who}, process {} of this machine, {}", mark.pid, ends.in_words(mark));
    ClusterError::Process { what, log: log_tail(log, TAIL_LINES) }
}

async fn ended(process: ProcessMark) {
    while process.lives() {
        tokio::time::sleep(POLL).await;
    }
}

/// A pipe whose reading end the daemons hold, and whose writing end nobody but this process does.
fn tether() -> Result<(OwnedFd, OwnedFd), ClusterError> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(|error| ClusterError::System { doing: "make a pipe".into(), source: error.into() })
}

/// Waits `patience` for the processes to end by themselves, then kills them. Their workers end with them.
async fn end_processes(mut living: Vec<ProcessMark>, patience: Duration) {
    let began = Instant::now();
    let mut killed = None;
    loop {
        living.retain(ProcessMark::lives);
        match killed {
            _ if living.is_empty() => return,
            None if began.elapsed() >= patience => {
                living.iter().for_each(|mark| mark.signal_group(Signal::KILL));
                killed = Some(Instant::now());
            }
            Some(at) if at.elapsed() >= KILLED => return,
            _ => {}
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Keeps the logs of the last cluster of this name, and none older: actors and processes are numbered anew, and nobody's
/// last log lines may be a namesake's.
fn set_logs_aside(state: &StateDir) -> Result<(), ClusterError> {
    let (logs, aside) = (state.logs(), state.old_logs());
    if !logs.is_dir() {
        return Ok(());
    }
    remove(&aside)?;
    fs::rename(&logs, &aside).map_err(|error| ClusterError::file(&logs, &error))
}

/// Removes everything but the logs and the lock.
fn clear(state: &StateDir) -> Result<(), ClusterError> {
    for path in [state.head(), state.client(), state.nodes(), state.root().join("run.json")] {
        remove(&path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_of_the_last_cluster_are_kept_apart_and_older_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::at(folder.path());
        set_logs_aside(&state).unwrap();
        for term in ["first", "second", "third"] {
            state.make(&state.logs()).unwrap();
            fs::write(state.head_log(), term).unwrap();
            set_logs_aside(&state).unwrap();
            assert!(!state.logs().exists());
            assert_eq!(fs::read_to_string(state.old_logs().join("head.log")).unwrap(), term);
        }
    }
}
