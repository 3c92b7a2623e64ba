//! One worker: how it is started, its socket, its end.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use lyceum_actor::Cause;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::AgentConfig;
use super::child::Child;
use super::driver::Happening;
use super::memory::MemoryLimit;
use super::start::Start;
use crate::control::vocabulary::Launch;
use crate::host::{ProcessWatch, pid_of};
use crate::message::{self, AgentToWorker, LocalFrames, Message, Unknown, Unread, WorkerInit, WorkerToAgent};

/// The worker's end of its socket to the agent.
pub(crate) const AGENT_VARIABLE: &str = "LYCEUM_AGENT_FD";
/// The worker's end of its socket to the node's store.
pub(crate) const STORE_VARIABLE: &str = "LYCEUM_STORE_FD";
/// Messages that may wait for a worker to read them.
const MAX_QUEUED: usize = 4096;
/// How long a worker's last words may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A worker as its agent keeps it.
#[derive(Debug)]
pub(super) struct Worker {
    /// To its socket.
    pub(super) outbox: Sender<AgentToWorker>,
    /// Its number on this machine, once it is forked.
    pub(super) pid: Option<u32>,
    /// It is to be killed, also if it is not forked yet.
    pub(super) killed: bool,
    pub(super) log: PathBuf,
    pub(super) memory: MemoryLimit,
    /// What it said itself of its actor's end.
    pub(super) last_words: Option<Cause>,
    /// Evidence that it held too much memory.
    pub(super) exceeded: Option<String>,
}

impl Worker {
    /// Kills it and its group.
    pub(super) fn kill(&mut self) {
        self.killed = true;
        if let Some(pid) = self.pid.and_then(pid_of) {
            // Its number is its own until its end has been taken in, which removes it from the agent's list.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }

    /// How it ended, best evidence first.
    pub(super) fn cause(&self, status: io::Result<ExitStatus>) -> Cause {
        use std::os::unix::process::ExitStatusExt;
        if let Some(evidence) = self.exceeded.clone().or_else(|| self.memory.kernel_evidence()) {
            return Cause::OutOfMemory(evidence);
        }
        if let Some(cause) = self.last_words.clone() {
            return cause;
        }
        match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => Cause::Exited(code),
                (None, Some(signal)) => Cause::Signal(signal),
                (None, None) => Cause::Unknown(format!("its status is {status}")),
            },
            Err(error) => Cause::Unknown(format!("its status cannot be read: {error}")),
        }
    }
}

/// What a worker is started with, before it is forked.
pub(super) struct Outfit {
    pub(super) start: Start,
    pub(super) socket: UnixStream,
    pub(super) store_socket: OwnedFd,
}

/// Makes what the program of `launch` is started with.
pub(super) fn outfit(
    config: &AgentConfig,
    launch: &Launch,
    cores: Vec<u32>,
    log: File,
    memory: &MemoryLimit,
) -> Result<Outfit, String> {
    let words = |doing: &str| {
        let doing = doing.to_owned();
        move |error: io::Error| format!("cannot {doing}: {error}")
    };
    let program = program(launch.request.program.as_deref())?;
    let (ours, theirs) = StdStream::pair().map_err(words("make its socket"))?;
    ours.set_nonblocking(true).map_err(words("make its socket"))?;
    let socket = UnixStream::from_std(ours).map_err(words("make its socket"))?;
    let (store_socket, store_theirs) =
        lyceum_store::socket_pair().map_err(|error| format!("cannot make its store's socket: {error}"))?;
    let start = Start {
        program,
        own_variables: launch.request.env.clone(),
        variables: environment(config, launch),
        control: theirs.into(),
        store: store_theirs,
        log,
        cores,
        cgroup: memory.door(),
        // Other programs than this one may be slow to load.
        by_template: launch.request.program.is_some(),
    };
    Ok(Outfit { start, socket, store_socket })
}

/// A program that lies beside this one; this one itself where none is named.
fn program(name: Option<&str>) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let Some(name) = name else { return Ok(own) };
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(format!("program `{name}`: expected the name of a program beside {}", own.display()));
    }
    let path = own.with_file_name(name);
    match path.is_file() {
        true => Ok(path),
        false => Err(format!("program `{name}` does not exist: looked for {}", path.display())),
    }
}

/// The threads that a worker's libraries may start: its cores, at least one.
pub(super) fn threads(launch: &Launch) -> u64 {
    launch.allotment.cpus.ceil().max(1)
}

fn environment(config: &AgentConfig, launch: &Launch) -> Vec<(&'static str, String)> {
    let threads = threads(launch).to_string();
    let gpus: Vec<String> = launch
        .allotment
        .gpus
        .keys()
        .map(|gpu| config.gpus.get(*gpu as usize).cloned().unwrap_or_else(|| gpu.to_string()))
        .collect();
    vec![
        ("OMP_NUM_THREADS", threads.clone()),
        ("MKL_NUM_THREADS", threads.clone()),
        ("OPENBLAS_NUM_THREADS", threads.clone()),
        ("RAYON_NUM_THREADS", threads.clone()),
        ("TOKIO_WORKER_THREADS", threads),
        // A thread that waits must not spin: another worker may share its core.
        ("OMP_WAIT_POLICY", "passive".into()),
        // The numbers are those of the bus: CUDA's own order puts the fastest first.
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID".into()),
        ("CUDA_VISIBLE_DEVICES", gpus.join(",")),
        ("LYCEUM_CLUSTER", config.cluster.clone()),
        ("LYCEUM_NODE", config.node.clone()),
        // Set in any case: trust comes from the manifest, not from whatever environment the agent was started in.
        ("LYCEUM_TRUSTED_INTERFACE", config.trusted_interface.clone().unwrap_or_default()),
    ]
}

/// The first message to a worker.
pub(super) fn init(config: &AgentConfig, launch: &Launch, port: u16, credentials: Vec<u8>) -> AgentToWorker {
    let init = Box::new(WorkerInit {
        bind: SocketAddr::new(config.bind, port),
        advertise: config.advertise,
        threads: threads(launch) as u32,
        verdict_ms: (config.health.verdict * 1000.0) as u64,
        stop_ms: (config.health.stop * 1000.0) as u64,
        actor: launch.actor,
        process: launch.process,
        request: launch.request.clone(),
        saved: launch.saved.clone(),
    });
    AgentToWorker::Init { init, credentials }
}

/// The queue to a worker's socket.
pub(super) fn outbox() -> (Sender<AgentToWorker>, Receiver<AgentToWorker>) {
    mpsc::channel(MAX_QUEUED)
}

/// Serves a forked worker until it has ended, and says how.
pub(super) async fn serve(
    process: u64,
    child: Child,
    socket: UnixStream,
    outbox: Receiver<AgentToWorker>,
    events: Sender<Happening>,
) {
    let (reader, writer) = socket.into_split();
    let reading = tokio::spawn(read(process, reader, events.clone()));
    let writing = tokio::spawn(write(writer, outbox));
    let watched = match ProcessWatch::new(child.id()) {
        Ok(watch) => watch.ended().await,
        Err(error) => Err(error),
    };
    if let Err(error) = &watched {
        tracing::warn!(process, %error, "a worker cannot be watched: it is killed");
    }
    // Nothing of its group may stay. Its number is still its own: it has not been waited for.
    child.kill();
    let status = child.wait();
    let _ = tokio::time::timeout(LAST_WORDS, reading).await;
    writing.abort();
    let _ = events.send(Happening::Exited { process, status }).await;
}

/// What a worker says that is not known here is answered, if it is a question, and passed by otherwise.
pub(crate) async fn read(process: u64, socket: OwnedReadHalf, events: Sender<Happening>) {
    let (mut frames, mut unknown) = (LocalFrames::new(socket), Unknown::default());
    let broke = |error: &dyn std::fmt::Display| tracing::warn!(process, %error, "a worker's socket broke");
    loop {
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(error) => return broke(&error),
        };
        let happening = match WorkerToAgent::from_frame(&frame) {
            Ok(Some(message)) => Happening::FromWorker { process, message: Box::new(message) },
            Ok(None) => match unknown.pass_by(&frame, &format!("process {process}")) {
                Some(Unread { request, answer, .. }) => Happening::Unread { process, request, answer },
                None => continue,
            },
            Err(error) => return broke(&error),
        };
        if events.send(happening).await.is_err() {
            return;
        }
    }
}

async fn write(mut socket: OwnedWriteHalf, mut outbox: Receiver<AgentToWorker>) {
    while let Some(message) = outbox.recv().await {
        if message::write_local(&mut socket, message).await.is_err() {
            return;
        }
    }
}
