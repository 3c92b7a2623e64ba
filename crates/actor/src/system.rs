//! A process's part of the cluster: its actors, its threads, its connections.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use lyceum_wire::{AlignedBytes, Frame, Membership, WireError};
use tokio::{runtime::Runtime, sync::Notify};

use crate::{
    Actor, ActorAddress, ActorId, ActorRef, Cause, Cluster, ControlError, ControlPlane, DeathReport,
    LargePayloads, ProcessAddress, ProcessKind, Registry, Role, SpawnError,
    cell::{Cell, Ending, Untold},
    clock::Clock,
    credit::Effect,
    executor::Executor,
    inspect::{self, Inspector},
    kept::Keys,
    large::{Parcel, Payload},
    life::{self, Args},
    network::Network,
    output::Source,
    population::Actors,
    protocol::stored_payload,
    reference::Route,
    registry::start,
    relay::{self, Relay},
    saved::Saved,
    slot::{Outcome, Slot},
};

/// How often credits that nobody used are called back.
const IDLE_ROUND: Duration = Duration::from_secs(2);
/// How long the last replies may take to arrive when the system shuts down.
const PARTING: Duration = Duration::from_secs(2);

/// What a [`System`] is started with.
#[derive(Debug)]
pub struct SystemOptions {
    /// The implementations that the cluster may have started here.
    pub roles: Registry,
    /// Who this process is, and whom it refuses. Without it the system is alone: actors call each other in this process only.
    pub membership: Option<Membership>,
    /// Where to listen. Port 0 takes a free one.
    pub bind: SocketAddr,
    /// Where `bind` has port 0: the ports to have one of; empty, the system chooses.
    pub ports: Range<u16>,
    /// Where others reach this process, if not at the address it listens at.
    pub advertise: Option<IpAddr>,
    /// The threads that run actors (those that own none). More are added while all of these compute.
    pub actor_threads: usize,
    /// How long waiters on a lost connection are kept for the control plane's verdict before they are told that
    /// nothing is known. Without a control plane they are told at once.
    pub verdict_grace: Duration,
    /// How long a stream waits for its reader to begin.
    pub stream_grace: Duration,
}

impl Default for SystemOptions {
    /// A system that is alone, with as many actor threads as there are cores.
    fn default() -> Self {
        SystemOptions {
            roles: Registry::new(),
            membership: None,
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            ports: 0..0,
            advertise: None,
            actor_threads: std::thread::available_parallelism().map_or(1, usize::from),
            verdict_grace: Duration::from_secs(15),
            stream_grace: Duration::from_secs(60),
        }
    }
}

impl SystemOptions {
    /// A process of a cluster, reachable at `bind`.
    pub fn networked(membership: impl Into<Membership>, bind: SocketAddr, roles: Registry) -> Self {
        SystemOptions { roles, membership: Some(membership.into()), bind, ..SystemOptions::default() }
    }
}

/// Why a [`System`] did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SystemError {
    /// A thread or runtime could not be started.
    #[error("cannot start the threads of the actor system: {0}")]
    Threads(#[from] io::Error),
    /// The endpoint could not be opened.
    #[error("cannot open the endpoint: {0}")]
    Wire(#[from] WireError),
}

/// A process's part of the cluster. Cheap to clone; all clones are the same system.
///
/// It lives until [`shut_down`](System::shut_down), not until the last clone is dropped: actors hold clones too.
#[derive(Clone)]
pub struct System {
    inner: Arc<SystemInner>,
}

pub(crate) struct SystemInner {
    address: ProcessAddress,
    roles: Registry,
    pub(crate) executor: Executor,
    pub(crate) clock: Clock,
    pub(crate) actors: Actors,
    pub(crate) network: Option<Network>,
    pub(crate) control: OnceLock<Arc<dyn ControlPlane>>,
    large: OnceLock<Arc<dyn LargePayloads>>,
    program: OnceLock<String>,
    pub(crate) verdict_grace: Duration,
    pub(crate) stream_grace: Duration,
    next_local: AtomicU32,
    pub(crate) keys: Arc<Keys>,
    closed: AtomicBool,
    /// A thread tells of actors without progress.
    pub(crate) telling_stalls: AtomicBool,
    /// Ends what the I/O runtime serves.
    over: Notify,
    /// Timers and sockets of user code.
    tokio: Mutex<Option<Runtime>>,
}

impl System {
    /// Starts the process's threads and, with a membership, opens its endpoint.
    pub fn start(options: SystemOptions) -> Result<System, SystemError> {
        // What fails half way drops runtimes, which tokio does not allow where futures are run.
        std::thread::scope(|scope| {
            let starting = std::thread::Builder::new().spawn_scoped(scope, || Self::start_here(options))?;
            starting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn start_here(options: SystemOptions) -> Result<System, SystemError> {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lyceum-timers")
            .enable_all()
            .build()?;
        let io = Arc::new(tokio::runtime::Builder::new_current_thread().enable_all().build()?);
        let executor = Executor::start(options.actor_threads, tokio.handle().clone(), &io)?;
        let network = match &options.membership {
            Some(membership) => {
                let roles = options.roles.fingerprints();
                let place = (options.bind, options.ports.clone());
                Some(Network::open(&io, membership.clone(), place, options.advertise, roles)?)
            }
            None => None,
        };
        let alone = || ProcessAddress {
            kind: ProcessKind::Client,
            node: "this".to_owned(),
            process: 0,
            addr: options.bind,
        };
        let inner = Arc::new(SystemInner {
            address: network.as_ref().map_or_else(alone, |network| network.address.clone()),
            roles: options.roles,
            executor,
            clock: Clock::default(),
            actors: Actors::default(),
            network,
            control: OnceLock::new(),
            large: OnceLock::new(),
            program: OnceLock::new(),
            verdict_grace: options.verdict_grace,
            stream_grace: options.stream_grace,
            next_local: AtomicU32::new(1),
            keys: Arc::default(),
            closed: AtomicBool::new(false),
            telling_stalls: AtomicBool::new(false),
            over: Notify::new(),
            tokio: Mutex::new(Some(tokio)),
        });
        let system = System { inner };
        let serving = io.spawn(system.clone().serve());
        system.executor().stand_by(io, serving)?;
        if system.inner.network.is_some() {
            Relay::start_in(&system);
            Inspector::start_in(&system);
        }
        Ok(system)
    }

    /// This process's address, which references to its actors carry.
    pub fn address(&self) -> &ProcessAddress {
        &self.inner.address
    }

    /// What the cluster may have started here.
    pub fn registry(&self) -> &Registry {
        &self.inner.roles
    }

    /// Starts an actor in this process, outside every job; ready when its `start` has returned.
    pub async fn spawn<A: Actor>(
        &self,
        args: <A::Role as Role>::Args,
    ) -> Result<ActorRef<A::Role>, SpawnError> {
        self.spawn_in_job::<A>(args, 0).await
    }

    /// Starts an actor in this process as part of `job`; ready when its `start` has returned.
    pub async fn spawn_in_job<A: Actor>(
        &self,
        args: <A::Role as Role>::Args,
        job: u64,
    ) -> Result<ActorRef<A::Role>, SpawnError> {
        self.spawn_local::<A>(Args::Value(args), job).await
    }

    pub(crate) async fn spawn_local<A: Actor>(
        &self,
        args: Args<A>,
        job: u64,
    ) -> Result<ActorRef<A::Role>, SpawnError> {
        let count = self.inner.next_local.fetch_add(1, Ordering::Relaxed);
        let address = ActorAddress {
            actor: ActorId::local(self.inner.address.process, count),
            incarnation: 1,
            role: A::Role::NAME.to_owned(),
            process: self.inner.address.clone(),
            job,
        };
        let cell = Arc::new(Cell::of::<A>(address));
        start::<A>(self, cell.clone(), args).await?;
        Ok(ActorRef::to_cell(self, cell))
    }

    /// Starts the registered implementation of `role` from archived arguments, under the number and incarnation
    /// that the cluster gave it. An older incarnation that still lives here is ended.
    pub async fn start_registered(
        &self,
        role: &str,
        args: &[u8],
        actor: ActorId,
        incarnation: u64,
        job: u64,
    ) -> Result<ActorAddress, SpawnError> {
        self.start_again(role, args, actor, incarnation, job, None).await
    }

    /// The same, with what an earlier life of the actor has saved: see [`Context::saved`](crate::Context::saved).
    pub async fn start_again(
        &self,
        role: &str,
        args: &[u8],
        actor: ActorId,
        incarnation: u64,
        job: u64,
        saved: Option<&[u8]>,
    ) -> Result<ActorAddress, SpawnError> {
        let process = self.inner.address.clone();
        let address = ActorAddress { actor, incarnation, role: role.to_owned(), process, job };
        let saved = saved.map(Saved::from_bytes);
        self.inner.roles.start(self, address.clone(), AlignedBytes::copy_from(args), saved).await?;
        Ok(address)
    }

    /// A reference to the actor at `address`. Refused when its role is not `R`.
    pub fn actor_ref<R: Role>(&self, address: ActorAddress) -> Result<ActorRef<R>, String> {
        ActorRef::bind(self, address)
    }

    /// Asks an actor of this process to end after what is in its mailbox: as ordered by `by`. Returns whether it lives
    /// here.
    pub fn stop_actor(&self, actor: ActorId, by: &str) -> bool {
        self.end_actor(actor, Ending::Drain(Cause::OrderedBy(by.to_owned())))
    }

    /// Ends an actor of this process at once. Returns whether it lived here.
    pub fn kill_actor(&self, actor: ActorId, cause: Cause) -> bool {
        self.end_actor(actor, Ending::Kill(cause))
    }

    fn end_actor(&self, actor: ActorId, ending: Ending) -> bool {
        let cell = self.inner.actors.live(actor);
        if let Some(cell) = &cell {
            cell.end(ending);
        }
        cell.is_some()
    }

    /// Waits for the end of an actor of this process and tells how it came; `None` when none of that number has
    /// lived here.
    pub async fn actor_ended(&self, actor: ActorId) -> Option<DeathReport> {
        let Some(cell) = self.inner.actors.live(actor) else {
            return self.inner.actors.death(actor).map(|(_, report)| report);
        };
        let slot = Arc::new(Slot::default());
        cell.watch(slot.clone());
        match slot.wait().await {
            Outcome::Dead(report) => Some(*report),
            _ => None,
        }
    }

    /// The numbers of the actors that live in this process, sorted; without those that every process has.
    pub fn actors(&self) -> Vec<ActorId> {
        let process = self.inner.address.process;
        let everywhere = [relay::number(process), inspect::number(process)];
        let all = self.inner.actors.all();
        let mut actors: Vec<_> =
            all.iter().map(|cell| cell.address.actor).filter(|actor| !everywhere.contains(actor)).collect();
        actors.sort_unstable();
        actors
    }

    /// How many other processes this one is connected to.
    pub fn connections(&self) -> usize {
        self.inner.network.as_ref().map_or(0, |network| network.lock().connections())
    }

    /// The cluster, to spawn and find actors outside every job; see [`Cluster::for_job`].
    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.clone(), 0)
    }

    /// What this process's actors spawn is hosted by `program`, where the spawn names none. The first one given stays.
    pub fn set_program(&self, program: &str) {
        let _ = self.inner.program.set(program.to_owned());
    }

    pub(crate) fn program(&self) -> Option<&str> {
        self.inner.program.get().map(String::as_str)
    }

    /// Gives this process its control plane. The first one given stays.
    pub fn set_control(&self, control: Arc<dyn ControlPlane>) {
        if self.inner.control.set(control).is_ok() {
            self.watch_peers();
        }
    }

    /// Gives this process a store for large payloads. The first one given stays.
    pub fn set_large_payloads(&self, large: Arc<dyn LargePayloads>) {
        // A second one would strand what lies in the first.
        let _ = self.inner.large.set(large);
    }

    /// Ends every actor, gracefully for as long as `grace`, then the connections and the threads. What was answered, or
    /// handed over to be sent, is with its receivers before its connection closes, where they acknowledge it within
    /// two seconds. Only the first call does anything.
    pub async fn shut_down(&self, grace: Duration) {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let cells = self.inner.actors.all();
        let slot = Arc::new(Slot::default());
        let late = slot.clone();
        let timer = self.clock().after(grace, move || {
            late.complete(Outcome::Deadline);
        });
        let ordered = || Cause::OrderedBy("the shutdown of its process".to_owned());
        for cell in &cells {
            cell.end(Ending::Drain(ordered()));
        }
        for cell in &cells {
            let ended = Arc::new(Slot::default());
            cell.watch(ended.clone());
            let mut timed_out = false;
            std::future::poll_fn(|cx| {
                if ended.poll(cx).is_ready() {
                    return std::task::Poll::Ready(());
                }
                timed_out = !slot.is_open() || slot.poll(cx).is_ready();
                if timed_out { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
            if timed_out {
                cell.end(Ending::Kill(ordered()));
            }
        }
        self.clock().cancel(timer);
        let enough = Arc::new(Slot::default());
        let late = enough.clone();
        let timer = self.clock().after(PARTING, move || {
            late.complete(Outcome::Deadline);
        });
        self.part_from_peers(&enough).await;
        self.clock().cancel(timer);
        self.close_network("the process is shutting down");
        self.inner.over.notify_one();
        self.inner.executor.close();
        let tokio = self.inner.tokio.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tokio) = tokio {
            tokio.shutdown_background();
        }
    }

    /// What the I/O runtime serves, whoever drives it.
    async fn serve(self) {
        let rounds = async {
            loop {
                tokio::time::sleep(IDLE_ROUND).await;
                let mut is_stalled = false;
                for cell in self.inner.actors.all() {
                    let untold = cell.idle_round();
                    self.apply(&cell, untold);
                    is_stalled |= self.look_at_progress(&cell);
                }
                if is_stalled {
                    self.tell_stacks();
                }
            }
        };
        tokio::select! {
            () = self.accept_peers() => {}
            () = self.inner.clock.run() => {}
            () = rounds => {}
            () = self.inner.over.notified() => {}
        }
        self.finish_network().await;
    }
}

/// For this crate.
impl System {
    pub(crate) fn inner(&self) -> &Arc<SystemInner> {
        &self.inner
    }

    pub(crate) fn of(inner: Arc<SystemInner>) -> Self {
        System { inner }
    }

    pub(crate) fn executor(&self) -> &Executor {
        &self.inner.executor
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    pub(crate) fn control(&self) -> Result<Arc<dyn ControlPlane>, ControlError> {
        self.inner
            .control
            .get()
            .cloned()
            .ok_or_else(|| ControlError::Unreachable("this process was started without a cluster".to_owned()))
    }

    /// Lets a new actor in and sets it going. The slot is completed with `Sent` when its `start` has returned.
    pub(crate) fn launch<A: Actor>(&self, cell: Arc<Cell>, args: Args<A>) -> Result<Arc<Slot>, SpawnError> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(SpawnError::ShuttingDown);
        }
        if let Some(older) = self.inner.actors.admit(&cell)? {
            let newer = cell.address.incarnation;
            older.end(Ending::Kill(Cause::OrderedBy(format!("incarnation {newer} of the same actor"))));
        }
        let slot = Arc::new(Slot::default());
        life::launch(self, cell.clone(), args, slot.clone()).map_err(|error| {
            let cause = Cause::Failed(vec!["its thread could not be started".to_owned(), error.to_string()]);
            self.actor_died(&cell, cell.report(cause));
            SpawnError::Process { actor: Box::new(cell.address.clone()), why: error.to_string() }
        })?;
        Ok(slot)
    }

    /// The actor that is meant, alive and in that incarnation, or what its callers are told.
    pub(crate) fn find(&self, actor: ActorId, incarnation: u64) -> Result<Arc<Cell>, Outcome> {
        self.inner.actors.find(actor, incarnation, &self.inner.address)
    }

    /// What one who waits for the end of an actor that cannot be found is told. The waiter knows the role.
    pub(crate) fn never_lived(&self, actor: u64, found: Outcome) -> DeathReport {
        DeathReport {
            role: String::new(),
            actor: Some(ActorId(actor)),
            process: self.inner.address.process,
            node: self.inner.address.node.clone(),
            cause: Cause::Unknown(found.into_error::<()>(None).to_string()),
            log_tail: Vec::new(),
        }
    }

    /// An actor has come to its end: everyone concerned is told.
    pub(crate) fn actor_died(&self, cell: &Arc<Cell>, report: DeathReport) {
        self.inner.actors.bury(cell, &report);
        let life = (cell.address.actor.0, cell.address.incarnation);
        for key in cell.die(report.clone()).links {
            if let Some(link) = self.link(key) {
                link.tell_death(life, &report);
            }
        }
    }

    /// Carries out what an actor's credit ledger decided.
    pub(crate) fn apply(&self, cell: &Cell, untold: Untold) {
        cell.tell(untold, |effect| {
            let (Effect::Grant { peer, .. } | Effect::Reclaim { peer }) = effect;
            if let Some(link) = self.link(peer) {
                link.apply(&cell.address, effect);
            }
        });
    }

    /// Puts a payload for `receiver` into the store, where both have one: a person's program has none. What finds no room
    /// there travels on the lane: slower, but a store that is small, or full of what only the receiver can free, stops
    /// nobody.
    pub(crate) fn put_large(
        &self,
        payload: AlignedBytes,
        receiver: &ProcessAddress,
    ) -> Option<BoxFuture<'static, Payload>> {
        let large = self.inner.large.get().filter(|_| receiver.kind == ProcessKind::Worker)?.clone();
        let put = large.put(payload.clone(), receiver);
        Some(Box::pin(async move {
            match put.await {
                Ok(description) => Payload::Stored(Parcel::sent(large, description)),
                Err(why) => {
                    let bytes = payload.len();
                    tracing::warn!(
                        bytes,
                        why,
                        "a payload could not be put into the store: it is sent on the lane"
                    );
                    Payload::Inline(payload)
                }
            }
        }))
    }

    /// Puts a payload for `receiver` where it reads it, if that can be done at once.
    pub(crate) fn put_large_now(&self, payload: &[u8], receiver: &ProcessAddress) -> Option<Parcel> {
        let large = self.inner.large.get().filter(|_| receiver.kind == ProcessKind::Worker)?;
        let mut room = large.room(payload.len(), receiver)?;
        room.bytes()[..payload.len()].copy_from_slice(payload);
        Some(Parcel::sent(large.clone(), room.send(payload.len())))
    }

    /// Where room is had for a large message along `route`, without asking anybody.
    pub(crate) fn source(&self, route: &Route) -> Option<Source> {
        let Route::Remote(link) = route else { return None };
        let near = link.peer.kind == ProcessKind::Worker && link.peer.node == self.inner.address.node;
        let large = self.inner.large.get().filter(|_| near)?.clone();
        Some(Source { large, link: link.clone() })
    }

    /// What another process put into the store for this one.
    pub(crate) fn received(&self, description: AlignedBytes) -> Parcel {
        Parcel::received(self.inner.large.get().cloned(), description)
    }

    /// Takes back what the frames describe, which will not leave any more.
    pub(crate) fn revoke_unsent<'a>(&self, frames: impl Iterator<Item = &'a Frame>) {
        if let Some(large) = self.inner.large.get() {
            frames.filter_map(stored_payload).for_each(|description| large.revoke(description));
        }
    }
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("System").field("address", &self.inner.address).finish_non_exhaustive()
    }
}
