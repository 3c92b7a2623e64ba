//! The agent's one loop: takes in what happens, asks the state machine, does what that wants.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime};

use lyceum_actor::{Cause, ControlError};
use lyceum_store::NodeStore;
use lyceum_wire::{CloseCode, Connection, Endpoint, LaneSender};
use tokio::net::UnixStream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender};

use super::AgentConfig;
use super::child::Child;
use super::forker::Forker;
use super::memory::MemoryGuard;
use super::peers::Peers;
use super::workers::{self, Worker};
use crate::control::vocabulary::{Answer, Ask, Command, Launch, Report, StoreUse};
use crate::control::{Agent, AgentEffect, AgentEvent, Ending, Watcher};
use crate::error::ClusterError;
use crate::host::{ProcessWatch, host_identity};
use crate::logs;
use crate::message::{
    self, AgentToAgent, AgentToHead, AgentToWorker, HeadToAgent, Join, Message, Welcome, WorkerToAgent,
};
use crate::state::{StateDir, log_tail};

/// Lines of a worker's log that go into its death report.
const TAIL_LINES: usize = 20;
/// The agent looks at the time, and at watched memory, this often.
const TICK: Duration = Duration::from_millis(100);
/// It looks at the sizes of logs every so many ticks.
const TICKS_PER_LOG: u64 = 10;
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
    Forked {
        process: u64,
        forked: io::Result<Box<(Child, UnixStream, Receiver<AgentToWorker>)>>,
    },
    FromWorker {
        process: u64,
        message: Box<WorkerToAgent>,
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
    endpoint: Endpoint,
    peers: Peers,
    forker: Forker,
    memory: MemoryGuard,
    events: Sender<Happening>,
    head: Option<(LaneSender, Connection)>,
    workers: BTreeMap<u64, Worker>,
    /// Credentials that came with a launch, until the process is started.
    credentials: BTreeMap<u64, Vec<u8>>,
    /// Questions of workers that the head has not answered.
    questions: BTreeSet<(u64, u64)>,
    ending: Option<Ending>,
    ticks: u64,
    /// The number of the heartbeat that was due last.
    beats: u128,
}

impl Driver {
    #[expect(clippy::too_many_arguments, reason = "the parts of an agent, put together in one place")]
    pub(super) fn new(
        state: StateDir,
        config: AgentConfig,
        machine: Agent,
        store: NodeStore,
        endpoint: Endpoint,
        peers: Peers,
        forker: Forker,
        memory: MemoryGuard,
        events: Sender<Happening>,
    ) -> Driver {
        Driver {
            state,
            config,
            machine,
            began: Instant::now(),
            store,
            endpoint,
            peers,
            forker,
            memory,
            events,
            head: None,
            workers: BTreeMap::new(),
            credentials: BTreeMap::new(),
            questions: BTreeSet::new(),
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
            Happening::Forked { process, forked } => self.forked(process, forked),
            Happening::FromWorker { process, message } => self.heard_worker(process, *message),
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
            AgentEffect::Start { launch, cores, port } => self.start(launch, cores, port),
            AgentEffect::AskToStop { process, by } => self.tell_worker(process, AgentToWorker::Stop { by }),
            AgentEffect::Kill { process } => {
                if let Some(worker) = self.workers.get_mut(&process) {
                    worker.kill();
                }
            }
            AgentEffect::Report(report) => {
                if let Report::Ended(death) = &report {
                    tracing::info!(process = death.process, cause = %death.cause, "a process ended");
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
                let workers: Vec<u64> = self.workers.keys().copied().collect();
                for worker in workers {
                    let node = node.clone();
                    self.tell_worker(worker, AgentToWorker::Suspect { node, unreachable });
                }
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
        let look_at_logs = self.ticks.is_multiple_of(TICKS_PER_LOG);
        for worker in self.workers.values_mut() {
            if look_at_logs {
                logs::cap(&worker.log);
            }
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
        self.tell_head(AgentToHead::Join(Join { address, pid, host, running, ended }));
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
                if host == host_identity() {
                    self.watch_head(pid);
                }
            }
            HeadToAgent::Command { command, credentials } => {
                if let Command::Launch(launch) = &command {
                    self.credentials.insert(launch.process, credentials);
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

    fn start(&mut self, launch: Launch, cores: Vec<u32>, port: u16) {
        let process = launch.process;
        tracing::info!(process, role = launch.request.role, job = launch.request.job, "a process is started");
        let credentials = self.credentials.remove(&process).unwrap_or_default();
        if let Err(why) = self.try_start(&launch, cores, port, credentials) {
            tracing::warn!(process, why, "a process could not be started");
            let cause = Cause::Failed(vec![format!("the process could not be started: {why}")]);
            // Taken in like any other end, after this command is done.
            let ended = AgentEvent::Ended { process, cause, log_tail: Vec::new() };
            let events = self.events.clone();
            tokio::spawn(async move { drop(events.send(Happening::Machine(ended)).await) });
        }
    }

    fn try_start(
        &mut self,
        launch: &Launch,
        cores: Vec<u32>,
        port: u16,
        credentials: Vec<u8>,
    ) -> Result<(), String> {
        let process = launch.process;
        let folder = self.state.worker_logs(&self.config.node);
        let (log, file) = logs::open(&folder, process, &launch.request.role)
            .map_err(|error| format!("its log in {} cannot be opened: {error}", folder.display()))?;
        let memory = self.memory.limit(process, launch.allotment.memory);
        let outfit = workers::outfit(&self.config, launch, cores, file, &memory)?;
        self.store.attach(process, outfit.store_socket).map_err(|error| format!("its store: {error}"))?;
        let (outbox, inbox) = workers::outbox();
        let init = workers::init(&self.config, launch, port, credentials);
        outbox.try_send(init).map_err(|_| "its queue is full".to_owned())?;
        let worker =
            Worker { outbox, pid: None, killed: false, log, memory, last_words: None, exceeded: None };
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

    fn tell_worker(&mut self, process: u64, message: AgentToWorker) {
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
