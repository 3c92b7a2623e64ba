//! The agent's one loop: takes in what happens, asks the state machine, does what that wants.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lyceum_actor::{Cause, ControlError};
use lyceum_store::NodeStore;
use lyceum_wire::{CloseCode, Connection, Endpoint, Expect, LaneSender};
use tokio::net::UnixStream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::AbortHandle;

use super::child::Child;
use super::forker::Forker;
use super::memory::MemoryGuard;
use super::peers::Peers;
use super::programs::{Kept, Programs};
use super::workers::{self, Worker};
use super::{AgentConfig, Renewal};
use crate::control::papers::Revoked;
use crate::control::vocabulary::{Answer, Ask, Caption, Command, Launch, Report, StoreUse};
use crate::control::{Agent, AgentEffect, AgentEvent, Ending, REVOKED_AT_A_TIME, Watcher};
use crate::error::ClusterError;
use crate::host::{ProcessWatch, host_identity};
use crate::launch::JOINED;
use crate::logs::book::LogBook;
use crate::logs::{LogLabel, now_ms};
use crate::message::{
    self, AgentToAgent, AgentToHead, AgentToWorker, HeadToAgent, Join, Message, Welcome, WorkerToAgent,
};
use crate::paths;
use crate::program::ProgramHash;
use crate::state::{StateDir, log_tail};

/// Lines of a worker's log that go into its death report.
const TAIL_LINES: usize = 20;
/// The agent looks at the time, and at watched memory, this often.
const TICK: Duration = Duration::from_millis(100);
/// It looks at the sizes of logs, and at what is too old of them, every so many ticks.
const TICKS_PER_LOG: u64 = 10;
const TICKS_PER_PRUNING: u64 = 100;
/// How long the last reports may take to leave.
const FAREWELL: Duration = Duration::from_millis(500);

/// By the clock that agents have in common: they say their heartbeats at the same moment, so that a head that has nothing to do but
/// to hear them is woken once for all.
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The time until that clock shows a multiple of `period`.
fn until_next(period: Duration) -> Duration {
    let (now, period) = (since_epoch().as_nanos(), period.as_nanos().max(1));
    Duration::from_nanos((period - now % period) as u64)
}

/// What can happen to an agent's process.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most of what happens is the large variant")]
pub(crate) enum Happening {
    Machine(AgentEvent),
    HeadUp {
        lane: LaneSender,
        connection: Connection,
    },
    HeadDown,
    FromHead(Box<HeadToAgent>),
    PeerIn {
        node: String,
        lane: LaneSender,
    },
    /// What a process waits for that is to be started, or why it does not come.
    ProgramCame {
        process: u64,
        program: Result<Arc<Kept>, String>,
    },
    /// A path was looked at, and what is wrong with it.
    PathSeen {
        to: String,
        said: Option<String>,
    },
    /// There are more programs, or fewer.
    ProgramsChanged,
    Forked {
        process: u64,
        forked: io::Result<Box<(Child, UnixStream, Receiver<AgentToWorker>)>>,
    },
    FromWorker {
        process: u64,
        message: Box<WorkerToAgent>,
    },
    /// The agent itself asks the head.
    Own {
        request: u64,
        ask: Box<Ask>,
    },
    /// A worker asked what is not known here.
    Unread {
        process: u64,
        request: u64,
        answer: Answer,
    },
    Exited {
        process: u64,
        status: io::Result<ExitStatus>,
    },
}

pub(super) struct Driver {
    state: StateDir,
    config: AgentConfig,
    machine: Agent,
    began: Instant,
    store: NodeStore,
    programs: Programs,
    logs: Arc<LogBook>,
    endpoint: Endpoint,
    peers: Peers,
    forker: Forker,
    memory: MemoryGuard,
    renewal: Renewal,
    events: Sender<Happening>,
    head: Option<(LaneSender, Connection)>,
    workers: BTreeMap<u64, Worker>,
    /// Processes whose program is on its way here.
    awaiting: BTreeMap<u64, Awaiting>,
    /// Credentials that came with a launch, until the process is started.
    credentials: BTreeMap<u64, Vec<u8>>,
    /// What the head said of a process right before its launch.
    caption: Option<(u64, Caption)>,
    /// Questions of workers, and as process 0 of the agent itself, that the head has not answered.
    questions: BTreeSet<(u64, u64)>,
    /// What is wrong and costs speed, by what it is about.
    warnings: BTreeMap<String, String>,
    /// The incarnation of the head to which the path was looked at.
    path_to: u64,
    ending: Option<Ending>,
    ticks: u64,
    /// The number of the heartbeat that was due last.
    beats: u128,
}

/// A process that is started as soon as its program is here.
struct Awaiting {
    launch: Launch,
    cores: Vec<u32>,
    credentials: Vec<u8>,
    waiting: AbortHandle,
}

impl Driver {
    #[expect(clippy::too_many_arguments, reason = "the parts of an agent, put together in one place")]
    pub(super) fn new(
        state: StateDir,
        config: AgentConfig,
        machine: Agent,
        store: NodeStore,
        programs: Programs,
        logs: Arc<LogBook>,
        endpoint: Endpoint,
        peers: Peers,
        forker: Forker,
        memory: MemoryGuard,
        renewal: Renewal,
        events: Sender<Happening>,
    ) -> Driver {
        let clamped = endpoint.socket_buffers().and_then(|buffers| buffers.clamped());
        let warnings = clamped.map(|said| (String::new(), said)).into_iter().collect();
        Driver {
            state,
            config,
            machine,
            began: Instant::now(),
            store,
            programs,
            logs,
            endpoint,
            peers,
            forker,
            memory,
            renewal,
            events,
            head: None,
            workers: BTreeMap::new(),
            awaiting: BTreeMap::new(),
            credentials: BTreeMap::new(),
            caption: None,
            questions: BTreeSet::new(),
            warnings,
            path_to: 0,
            ending: None,
            ticks: 0,
            beats: 0,
        }
    }

    pub(super) async fn run(mut self, mut inbox: Receiver<Happening>) -> Result<(), ClusterError> {
        self.state.make(&self.state.worker_logs(&self.config.node))?;
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + until_next(TICK), TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while self.ending.is_none() {
            tokio::select! {
                // What happened before the time is looked at: a busy agent does not take its own delay for silence.
                biased;
                happening = inbox.recv() => match happening {
                    Some(happening) => self.take_in(happening),
                    None => break,
                },
                _ = ticks.tick() => self.tick(),
            }
        }
        if let Some(ending) = &self.ending {
            tracing::info!(by = ending.by, "the agent ends");
        }
        self.forker.end().await;
        if let Some((lane, _)) = self.head.take() {
            let _ = tokio::time::timeout(FAREWELL, lane.finish()).await;
        }
        self.endpoint.close(CloseCode::ShuttingDown, "the agent has ended");
        let _ = tokio::time::timeout(FAREWELL, self.endpoint.wait_idle()).await;
        Ok(())
    }

    fn take_in(&mut self, happening: Happening) {
        match happening {
            Happening::Machine(event) => self.apply(event),
            Happening::HeadUp { lane, connection } => self.head_up(lane, connection),
            Happening::HeadDown => self.head_down(),
            Happening::FromHead(message) => self.heard_head(*message),
            Happening::PeerIn { node, lane } => self.peers.came_in(node, lane),
            Happening::ProgramCame { process, program } => self.program_came(process, program),
            Happening::PathSeen { to, said } => self.path_seen(to, said),
            Happening::ProgramsChanged => self.tell_programs(),
            Happening::Forked { process, forked } => self.forked(process, forked),
            Happening::FromWorker { process, message } => self.heard_worker(process, *message),
            Happening::Own { request, ask } => self.relay(0, request, *ask),
            Happening::Unread { process, request, answer } => {
                self.tell_worker(process, AgentToWorker::Answer { request, answer });
            }
            Happening::Exited { process, status } => self.exited(process, status),
        }
    }

    fn apply(&mut self, event: AgentEvent) {
        for effect in self.machine.apply(event, self.began.elapsed()) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: AgentEffect) {
        match effect {
            AgentEffect::Start { launch, cores } => self.start(launch, cores),
            AgentEffect::AskToStop { process, by } => {
                self.await_no_more(process);
                self.tell_worker(process, AgentToWorker::Stop { by });
            }
            AgentEffect::Kill { process } => {
                self.await_no_more(process);
                if let Some(worker) = self.workers.get_mut(&process) {
                    worker.kill();
                }
            }
            AgentEffect::Report(report) => {
                if let Report::Ended(death) = &report {
                    tracing::info!(process = death.process, cause = %death.cause, "a process ended");
                    self.logs.end(death.process, &death.cause.to_string());
                }
                self.tell_head(AgentToHead::Report(report));
            }
            AgentEffect::TellWorker { process, death } => {
                // Nothing that was on its way to the dead is needed any more.
                let lives = death.node == self.config.node && self.workers.contains_key(&death.process);
                if !lives {
                    let (node, process) = (death.node.clone(), death.process);
                    self.store.release_receiver(lyceum_store::Receiver { node, process });
                }
                self.tell_worker(process, AgentToWorker::Died(death));
            }
            AgentEffect::TellSuspicion { node, unreachable } => {
                self.tell_workers(&AgentToWorker::Suspect { node, unreachable });
            }
            AgentEffect::Revoke(revoked) => self.revoke(revoked),
            AgentEffect::Renew => {
                self.renewal.wanted.notify_one();
                self.tell_workers(&AgentToWorker::Renew);
            }
            AgentEffect::TellAgent { node, death } => self.peers.answer(&node, AgentToAgent::Died(death)),
            AgentEffect::WatchAt(target) => {
                let node = target.node.clone();
                self.peers.send(&node, AgentToAgent::Watch(target));
            }
            AgentEffect::WatchAtHead { watcher, target } => {
                self.tell_head(AgentToHead::Ask { process: watcher, request: 0, ask: Ask::Watch(target) });
            }
            AgentEffect::Peer { node, incarnation, address } => {
                self.peers.introduce(node, incarnation, address)
            }
            AgentEffect::Holders { program, holders } => {
                if let Ok(program) = program.parse() {
                    self.programs.held_by(program, holders);
                }
            }
            AgentEffect::PeerLost { node } => self.peers.forget(&node),
            AgentEffect::Exit(ending) => self.ending = Some(ending),
        }
    }

    fn tick(&mut self) {
        self.ticks += 1;
        let beats = since_epoch().as_nanos() / self.config.health.beat().as_nanos().max(1);
        // A clock that is set makes one beat too many or too late.
        if std::mem::replace(&mut self.beats, beats) != beats {
            self.beat();
        }
        if self.ticks.is_multiple_of(TICKS_PER_LOG) {
            self.logs.look();
        }
        if self.ticks.is_multiple_of(TICKS_PER_PRUNING) {
            self.logs.prune(now_ms());
        }
        for worker in self.workers.values_mut() {
            let Some(pid) = worker.pid.filter(|_| worker.memory.watched() && !worker.killed) else {
                continue;
            };
            if let Some(evidence) = worker.memory.exceeded(pid) {
                worker.exceeded = Some(evidence);
                worker.kill();
            }
        }
        self.apply(AgentEvent::Tick);
    }

    fn beat(&self) {
        let Some((_, connection)) = &self.head else { return };
        let usage = self.store.usage();
        let store = StoreUse {
            capacity_bytes: usage.capacity_bytes,
            used_bytes: usage.bytes_in_use,
            objects: usage.objects,
            spilled_bytes: usage.bytes_on_disk,
        };
        // A lost heartbeat is what heartbeats are for.
        let _ = connection.send_datagram(message::encode_beat(store));
    }

    fn head_up(&mut self, lane: LaneSender, connection: Connection) {
        self.head = Some((lane, connection));
        let (running, ended) = self.machine.inventory();
        let ip = self.config.advertise.unwrap_or(self.config.bind);
        let address = SocketAddr::new(ip, self.endpoint.local_addr().port());
        let (pid, host) = (std::process::id(), host_identity());
        let join = Join { address, pid, host, running, ended };
        let offer = Some(Box::new(self.config.offer.clone()));
        self.tell_head(AgentToHead::Join { join, offer });
        self.tell_programs();
        self.tell_warnings();
        self.look_at_path_to_head();
        self.beat();
        self.apply(AgentEvent::HeadLinked);
    }

    fn head_down(&mut self) {
        self.head = None;
        for (process, request) in std::mem::take(&mut self.questions) {
            let why = "the connection to the head was lost; the request may or may not have been done";
            let answer = Answer::Error(ControlError::Unreachable(why.into()));
            self.tell_worker(process, AgentToWorker::Answer { request, answer });
        }
    }

    fn heard_head(&mut self, message: HeadToAgent) {
        match message {
            HeadToAgent::Welcome(Welcome { pid, host }) => {
                tracing::info!("joined the head");
                self.note_joining();
                if host == host_identity() {
                    self.watch_head(pid);
                }
            }
            HeadToAgent::Command { command, credentials } => {
                match &command {
                    Command::Launch(launch) => _ = self.credentials.insert(launch.process, credentials),
                    Command::Caption { process, caption } => {
                        self.caption = Some((*process, caption.clone()));
                    }
                    _ => {}
                }
                self.apply(AgentEvent::Commanded(command));
                self.credentials.clear();
            }
            // The link's own affair.
            HeadToAgent::Heads(_) => {}
            HeadToAgent::Answer { process, request, answer } => {
                self.questions.remove(&(process, request));
                self.apply(AgentEvent::HeadHeard);
                self.tell_worker(process, AgentToWorker::Answer { request, answer });
            }
        }
    }

    /// For whoever has started this agent and waits for that.
    fn note_joining(&self) {
        let path = self.state.node(&self.config.node).join(JOINED);
        if let Err(error) = std::fs::write(&path, self.endpoint.identity().incarnation().to_string()) {
            tracing::warn!(path = %path.display(), %error, "that this agent has joined is not noted");
        }
    }

    fn revoke(&mut self, revoked: Vec<Revoked>) {
        for one in revoked.iter().cloned() {
            if let Err(error) = self.endpoint.membership().revoke(one.into()) {
                tracing::error!(%error, "a revocation is not kept");
            }
        }
        self.tell_workers(&AgentToWorker::Revoked(revoked));
    }

    /// The head is on this machine: its end is seen at once.
    fn watch_head(&self, pid: u32) {
        let Ok(watch) = ProcessWatch::new(pid) else { return };
        let events = self.events.clone();
        tokio::spawn(async move {
            if watch.ended().await.is_ok() {
                let evidence = format!("process {pid} of this machine has ended");
                tracing::warn!(evidence, "the head is lost");
                let _ = events.send(Happening::Machine(AgentEvent::HeadEnded(evidence))).await;
            }
        });
    }

    fn start(&mut self, launch: Launch, cores: Vec<u32>) {
        let process = launch.process;
        tracing::info!(process, role = launch.request.role, job = launch.request.job, "a process is started");
        let credentials = self.credentials.remove(&process).unwrap_or_default();
        match launch.request.program.as_deref().map_or(Ok(None), ProgramHash::named) {
            Ok(None) => self.start_with(&launch, None, cores, credentials),
            Ok(Some(hash)) => {
                let (having, events) = (self.programs.have(hash), self.events.clone());
                let waiting = tokio::spawn(async move {
                    let program = having.await;
                    let _ = events.send(Happening::ProgramCame { process, program }).await;
                });
                let waiting = waiting.abort_handle();
                self.awaiting.insert(process, Awaiting { launch, cores, credentials, waiting });
            }
            Err(why) => self.not_started(process, &why),
        }
    }

    fn program_came(&mut self, process: u64, program: Result<Arc<Kept>, String>) {
        // Its end may have been ordered meanwhile.
        let Some(awaiting) = self.awaiting.remove(&process) else { return };
        match program {
            Ok(program) => {
                let Awaiting { launch, cores, credentials, .. } = awaiting;
                self.start_with(&launch, Some(program), cores, credentials);
            }
            Err(why) => self.not_started(process, &why),
        }
    }

    /// The end of a process is ordered before its program is here.
    fn await_no_more(&mut self, process: u64) {
        if let Some(awaiting) = self.awaiting.remove(&process) {
            awaiting.waiting.abort();
            self.ends(process, Cause::Finished);
        }
    }

    fn start_with(
        &mut self,
        launch: &Launch,
        program: Option<Arc<Kept>>,
        cores: Vec<u32>,
        credentials: Vec<u8>,
    ) {
        if let Err(why) = self.try_start(launch, program, cores, credentials) {
            self.not_started(launch.process, &why);
        }
    }

    fn not_started(&self, process: u64, why: &str) {
        tracing::warn!(process, why, "a process could not be started");
        self.ends(process, Cause::Failed(vec![format!("the process could not be started: {why}")]));
    }

    /// Taken in like any other end, after what is being done.
    fn ends(&self, process: u64, cause: Cause) {
        let ended = AgentEvent::Ended { process, cause, log_tail: Vec::new() };
        let events = self.events.clone();
        tokio::spawn(async move { drop(events.send(Happening::Machine(ended)).await) });
    }

    /// Once for each head.
    fn look_at_path_to_head(&mut self) {
        let Some((_, connection)) = &self.head else { return };
        let incarnation = connection.peer().incarnation();
        if std::mem::replace(&mut self.path_to, incarnation) == incarnation {
            return;
        }
        let (address, expect) = (connection.remote_address(), Expect::exactly(connection.peer()));
        let (endpoint, events) = (self.endpoint.clone(), self.events.clone());
        tokio::spawn(async move {
            let said = paths::look(&endpoint, "the head", address, &expect).await;
            let _ = events.send(Happening::PathSeen { to: "the head".into(), said }).await;
        });
    }

    fn path_seen(&mut self, to: String, said: Option<String>) {
        match said {
            Some(said) => {
                tracing::warn!("{said}");
                self.warnings.insert(to, said);
            }
            None => _ = self.warnings.remove(&to),
        }
        self.tell_warnings();
    }

    fn tell_warnings(&self) {
        let warnings = self.warnings.values().cloned().collect();
        self.tell_head(AgentToHead::Report(Report::Warnings { warnings }));
    }

    fn tell_programs(&self) {
        self.tell_head(AgentToHead::Report(Report::Programs { programs: self.programs.held() }));
    }

    fn try_start(
        &mut self,
        launch: &Launch,
        program: Option<Arc<Kept>>,
        cores: Vec<u32>,
        credentials: Vec<u8>,
    ) -> Result<(), String> {
        let process = launch.process;
        let caption = self.caption.take().filter(|(of, _)| *of == process);
        let label = label(launch, caption.map(|(_, caption)| caption).unwrap_or_default());
        let (log, file) =
            self.logs.begin(label).map_err(|error| format!("its log cannot be opened: {error}"))?;
        let memory = self.memory.limit(process, launch.allotment.memory);
        let outfit = workers::outfit(&self.config, launch, program.as_deref(), cores, file, &memory)?;
        self.store.attach(process, outfit.store_socket).map_err(|error| format!("its store: {error}"))?;
        let (outbox, inbox) = workers::outbox();
        let init = workers::init(&self.config, launch, credentials);
        outbox.try_send(init).map_err(|_| "its queue is full".to_owned())?;
        let revoked: Vec<Revoked> =
            self.endpoint.membership().revocations().into_iter().map(Revoked::from).collect();
        for some in revoked.chunks(REVOKED_AT_A_TIME) {
            let told = outbox.try_send(AgentToWorker::Revoked(some.to_vec()));
            told.map_err(|_| "its queue is full".to_owned())?;
        }
        let worker = Worker {
            outbox,
            pid: None,
            killed: false,
            log,
            memory,
            last_words: None,
            exceeded: None,
            _program: program,
        };
        self.workers.insert(process, worker);
        let (forker, events, socket, start) =
            (self.forker.clone(), self.events.clone(), outfit.socket, outfit.start);
        tokio::spawn(async move {
            let forked = forker.fork(start).await.map(|child| Box::new((child, socket, inbox)));
            let _ = events.send(Happening::Forked { process, forked }).await;
        });
        Ok(())
    }

    fn forked(
        &mut self,
        process: u64,
        forked: io::Result<Box<(Child, UnixStream, Receiver<AgentToWorker>)>>,
    ) {
        match forked {
            Ok(forked) => {
                let (child, socket, inbox) = *forked;
                if let Some(worker) = self.workers.get_mut(&process) {
                    worker.pid = Some(child.id());
                    if worker.killed {
                        worker.kill();
                    }
                }
                tokio::spawn(workers::serve(process, child, socket, inbox, self.events.clone()));
            }
            Err(error) => {
                self.workers.remove(&process);
                self.store.release_holder(process);
                let cause = Cause::Failed(vec![format!("the process could not be started: {error}")]);
                self.apply(AgentEvent::Ended { process, cause, log_tail: Vec::new() });
            }
        }
    }

    fn heard_worker(&mut self, process: u64, message: WorkerToAgent) {
        match message {
            WorkerToAgent::Ready { address } => {
                let pid = self.workers.get(&process).and_then(|worker| worker.pid).unwrap_or_default();
                tracing::info!(process, pid, %address, "an actor has started");
                self.apply(AgentEvent::Ready { process, address, pid });
            }
            WorkerToAgent::Ended { cause } => {
                if let Some(worker) = self.workers.get_mut(&process) {
                    worker.last_words = Some(cause);
                }
            }
            WorkerToAgent::Ask { request, ask } => self.relay(process, request, ask),
            WorkerToAgent::Stalled { actor, role, stall } => {
                tracing::warn!(process, %actor, role, ?stall, "an actor's progress");
                self.apply(AgentEvent::Stalled { process, actor, stall });
            }
            WorkerToAgent::Watch(target) => {
                self.apply(AgentEvent::Watch { watcher: Watcher::Worker(process), target });
            }
        }
    }

    fn relay(&mut self, process: u64, request: u64, ask: Ask) {
        if self.head.is_some() {
            self.questions.insert((process, request));
            self.tell_head(AgentToHead::Ask { process, request, ask });
        } else {
            let why = "the node's agent has no connection to the head";
            let answer = Answer::Error(ControlError::Unreachable(why.into()));
            self.tell_worker(process, AgentToWorker::Answer { request, answer });
        }
    }

    fn exited(&mut self, process: u64, status: io::Result<ExitStatus>) {
        let Some(worker) = self.workers.remove(&process) else { return };
        let cause = worker.cause(status);
        let log_tail = log_tail(&worker.log, TAIL_LINES);
        self.questions.retain(|(asker, _)| *asker != process);
        self.store.release_holder(process);
        self.apply(AgentEvent::Ended { process, cause, log_tail });
    }

    fn tell_workers(&mut self, message: &AgentToWorker) {
        let workers: Vec<u64> = self.workers.keys().copied().collect();
        for worker in workers {
            self.tell_worker(worker, message.clone());
        }
    }

    fn tell_worker(&mut self, process: u64, message: AgentToWorker) {
        if let (0, AgentToWorker::Answer { request, answer }) = (process, &message) {
            return self.renewal.questions.answer(*request, (answer.clone(), Vec::new()));
        }
        let Some(worker) = self.workers.get_mut(&process) else { return };
        // One that has closed its end is ending, and its exit is told.
        if let Err(TrySendError::Full(_)) = worker.outbox.try_send(message) {
            // A worker whose I/O thread has stood still for so long cannot be kept.
            tracing::warn!(process, "a worker does not read what its agent tells it: it is killed");
            worker.last_words = Some(Cause::Unknown("it did not read what its agent told it".into()));
            worker.kill();
        }
    }

    /// Dropped where there is no link: the inventory tells all of it again.
    fn tell_head(&self, message: AgentToHead) {
        let Some((lane, connection)) = &self.head else { return };
        let sent = message.into_frame().map_err(|error| error.to_string());
        if let Err(reason) = sent.and_then(|frame| lane.try_send(frame).map_err(|error| error.to_string())) {
            tracing::warn!(reason, "a message to the head was not sent");
            connection.close(CloseCode::Protocol, &reason);
        }
    }
}

/// Whose the log of a process is.
fn label(launch: &Launch, caption: Caption) -> LogLabel {
    let request = &launch.request;
    LogLabel {
        process: launch.process,
        actor: launch.actor,
        job: request.job,
        job_name: caption.job_name,
        role: request.role.clone(),
        name: request.name.clone(),
        namespace: request.namespace.clone(),
        rank: caption.rank,
        began_ms: now_ms(),
        end: None,
    }
}
