//! The table under its lock, and the carrying out of its effects.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use super::attachment::Attachment;
use super::regions::{self, Watch};
use super::serve::Given;
use super::spill::{self, SpillFolder, Spilling, Work};
use super::uploads::Uploads;
use super::{StoreOptions, StorePeers, Usage, fetch, service};
use crate::error::{Loss, Result, StoreError};
use crate::memory::{Mapping, Segment, Words, page_size};
use crate::moment::Moment;
use crate::object::{ObjectId, Receiver};
use crate::pool::{Place, Pool};
use crate::protocol::{Answer, Ask, VERSION, encode};
use crate::region::{BOARD_BYTES, Board};
use crate::socket::{self, Wake};
use crate::table::{Effect, Event, Served, Table, TableOptions};

/// Fetches at a time, acknowledgements at a time (L2).
const MAX_FETCHES: usize = 16;
const MAX_ACKNOWLEDGEMENTS: usize = 1024;

/// The store behind all handles, threads and tasks.
#[derive(Debug)]
pub(super) struct Core {
    pub options: StoreOptions,
    pub segments: Vec<Segment>,
    /// In whose hand each region is, and a descriptor of that.
    board: (Board, OwnedFd),
    pub wake: Wake,
    pub uploads: Uploads,
    spilling: OnceLock<Spilling>,
    remote: OnceLock<Remote>,
    state: Mutex<State>,
    stopping: AtomicBool,
    started: Instant,
    last_serve: AtomicU64,
    last_ticket: AtomicU64,
    secret: RandomState,
}

/// The way to other nodes.
pub(super) struct Remote {
    pub peers: Arc<dyn StorePeers>,
    pub fetches: Arc<Semaphore>,
    /// Connections over which one object comes: as many as can be decrypted at a time.
    pub lines: usize,
    runtime: Handle,
    acknowledgements: Arc<Semaphore>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Remote")
    }
}

#[derive(Debug)]
struct State {
    table: Table,
    attachments: BTreeMap<u64, Arc<Attachment>>,
    /// Drop a sender to stop its fetch.
    fetches: BTreeMap<u64, oneshot::Sender<()>>,
    /// Peers' wishes that the table has not answered.
    wishes: BTreeMap<u64, oneshot::Sender<Given>>,
    /// When the service thread wakes by itself.
    armed: Option<Duration>,
    /// What was last seen of regions.
    watch: Watch,
}

/// Effects that must wait until the lock is free, because a runtime that is shutting down drops a task within `spawn`.
enum Later {
    Fetch { fetch: u64, id: ObjectId, place: Place, node: String, ticket: u64, stop: oneshot::Receiver<()> },
    Acknowledge { node: String, id: ObjectId, ticket: u64 },
}

impl Core {
    pub fn new(options: StoreOptions, segment_bytes: &[u64]) -> Result<Core> {
        let name = |i: String| format!("lyceum-store-{}-{}-{i}", options.node, options.incarnation);
        let segments =
            segment_bytes.iter().enumerate().map(|(i, &bytes)| Segment::create(&name(i.to_string()), bytes));
        let segments = segments.collect::<Result<Vec<_>>>()?;
        let pool = Pool::new(segment_bytes, page_size() as u64);
        let table = TableOptions {
            node: options.node.clone(),
            incarnation: options.incarnation,
            began: Moment::now(),
            rules: options.transit,
            spill_bytes: options.spill.as_ref().map_or(0, |spill| spill.bytes),
        };
        let state = State {
            table: Table::new(table, pool),
            attachments: BTreeMap::new(),
            fetches: BTreeMap::new(),
            wishes: BTreeMap::new(),
            armed: None,
            watch: Watch::default(),
        };
        let (words, descriptor) = Words::create(&name("board".into()), BOARD_BYTES)?;
        Ok(Core {
            options,
            segments,
            board: (Board::new(words)?, descriptor),
            wake: Wake::new()?,
            uploads: Uploads::default(),
            spilling: OnceLock::new(),
            remote: OnceLock::new(),
            state: Mutex::new(state),
            stopping: AtomicBool::new(false),
            started: Instant::now(),
            last_serve: AtomicU64::new(0),
            last_ticket: AtomicU64::new(0),
            secret: RandomState::new(),
        })
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake.wake();
        if let Some(spilling) = self.spilling.get() {
            spilling.end();
        }
    }

    /// Makes the folder for what goes to disk, and starts its threads; they end with the store.
    pub fn start_spilling(self: &Arc<Self>) -> Result<()> {
        let Some(options) = &self.options.spill else { return Ok(()) };
        let (writer, to_write) = mpsc::channel();
        let (reader, to_read) = mpsc::channel();
        let folder = SpillFolder::open(&options.folder)?;
        self.spilling.get_or_init(|| Spilling { folder, writer, reader });
        for (name, work) in [("lyceum-spill", to_write), ("lyceum-unspill", to_read)] {
            let core = self.clone();
            service::spawn(name, move || {
                if let Some(spilling) = core.spilling.get() {
                    spill::run(&core, &spilling.folder, &work);
                }
            })?;
        }
        Ok(())
    }

    /// This process's mapping of the segment in which `place` is.
    pub fn mapping(&self, place: Place) -> Result<Arc<Mapping>, String> {
        let segment = self.segments.get(place.segment as usize);
        segment.map(|s| s.mapping.clone()).ok_or_else(|| format!("there is no segment {}", place.segment))
    }

    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub fn usage(&self) -> Usage {
        let state = self.lock();
        let mut usage = state.table.usage();
        regions::count(&self.board.0, state.table.regions(), &mut usage);
        usage
    }

    pub fn set_peers(&self, peers: Arc<dyn StorePeers>, runtime: Handle) -> Result<()> {
        let remote = Remote {
            peers,
            lines: runtime.metrics().num_workers().clamp(1, fetch::MAX_LINES),
            runtime,
            fetches: Arc::new(Semaphore::new(MAX_FETCHES)),
            acknowledgements: Arc::new(Semaphore::new(MAX_ACKNOWLEDGEMENTS)),
        };
        self.remote.set(remote).map_err(|_| StoreError::Invalid("the store has its peers already".into()))
    }

    pub fn remote(&self) -> Option<&Remote> {
        self.remote.get()
    }

    pub fn attach(&self, holder: u64, socket: OwnedFd) -> Result<()> {
        let mut state = self.lock();
        if state.attachments.contains_key(&holder) {
            return Err(StoreError::Invalid(format!("process {holder} is attached to the store already")));
        }
        let (node, origin) = (self.options.node.clone(), self.options.incarnation);
        let welcome = Answer::Welcome { version: VERSION, node, holder, origin };
        let packet = encode(&welcome)?;
        let attachment = Attachment::new(holder, socket);
        // A process that has ended already is noticed by the service thread.
        let _ = socket::send(&attachment.socket, &packet, Some(self.board.1.as_fd()));
        state.attachments.insert(holder, Arc::new(attachment));
        state.table.apply(Event::Attached { holder }, self.started.elapsed());
        drop(state);
        self.wake.wake();
        Ok(())
    }

    pub fn release_holder(self: &Arc<Self>, holder: u64) {
        self.lock().attachments.remove(&holder);
        self.wake.wake();
        self.apply(Event::HolderGone { holder });
    }

    pub fn release_receiver(self: &Arc<Self>, receiver: Receiver) {
        self.apply(Event::ReceiverGone { receiver });
    }

    /// The attachments now, and how long to wait for something to happen on them at most.
    pub fn watched(&self) -> (Vec<Arc<Attachment>>, Option<Duration>) {
        let mut state = self.lock();
        state.armed = state.table.next_deadline();
        let timeout = state.armed.map(|at| at.saturating_sub(self.started.elapsed()));
        (state.attachments.values().cloned().collect(), timeout)
    }

    /// A number for one serving.
    pub fn next_serve(&self) -> u64 {
        self.last_serve.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn asked(self: &Arc<Self>, holder: u64, number: u64, ask: Ask) {
        // SipHash under a key that only this process has: nobody guesses another's ticket.
        let fresh = self.secret.hash_one(self.last_ticket.fetch_add(1, Ordering::Relaxed));
        self.apply(Event::Asked { holder, number, ask, fresh });
    }

    /// The agent of node `peer` wants an object: what it is to be told, now or when it is its turn.
    pub fn wished(
        self: &Arc<Self>,
        serve: u64,
        id: ObjectId,
        peer: &str,
        insists: bool,
    ) -> oneshot::Receiver<Given> {
        let (answer, given) = oneshot::channel();
        self.lock().wishes.insert(serve, answer);
        self.apply(Event::Serve { serve, id, peer: peer.to_owned(), insists });
        given
    }

    /// Feeds the table one event and carries its effects out.
    pub fn apply(self: &Arc<Self>, event: Event) {
        let mut later = Vec::new();
        let mut state = self.lock();
        if let Event::FetchLanded { fetch, .. } | Event::FetchFailed { fetch, .. } = &event {
            state.fetches.remove(fetch);
        }
        if let Event::ServeEnded { serve, .. } = &event {
            state.wishes.remove(serve);
        }
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            if matches!(event, Event::RegionFree { .. }) && events.is_empty() {
                events.push_back(Event::Tick);
            }
            for effect in state.table.apply(event, self.started.elapsed()) {
                self.carry_out(&mut state, effect, &mut events, &mut later);
            }
        }
        let next = state.table.next_deadline();
        if next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed)) {
            state.armed = next;
            self.wake.wake();
        }
        drop(state);
        for effect in later {
            self.go_remote(effect);
        }
    }

    /// What comes of it at once is put into `events`, what must wait for the lock to be free into `later`.
    fn carry_out(
        &self,
        state: &mut State,
        effect: Effect,
        events: &mut VecDeque<Event>,
        later: &mut Vec<Later>,
    ) {
        match effect {
            Effect::Reply { holder, number, reply } => {
                if let Some(attachment) = state.attachments.get(&holder) {
                    attachment.reply(&self.segments, number, reply);
                }
            }
            Effect::Condemn { holder, reason } => {
                if let Some(attachment) = state.attachments.get(&holder) {
                    attachment.condemn(&reason);
                }
            }
            Effect::StartFetch { fetch, id, place, node, ticket } => {
                let (sender, stop) = oneshot::channel();
                state.fetches.insert(fetch, sender);
                later.push(Later::Fetch { fetch, id, place, node, ticket, stop });
            }
            Effect::StopFetch { fetch } => {
                state.fetches.remove(&fetch);
            }
            Effect::Acknowledge { node, id, ticket } => later.push(Later::Acknowledge { node, id, ticket }),
            Effect::Served { serve, served } => {
                let given = self.given(served);
                if let Some(wish) = state.wishes.remove(&serve) {
                    // Whoever does not want it any more says so with `ServeEnded`.
                    let _ = wish.send(given);
                }
            }
            Effect::Spill { spill, id, place } => self.disk_work(Work::Write { spill, id, place }),
            Effect::Restore { spill, id, place } => self.disk_work(Work::Read { spill, id, place }),
            Effect::DropSpill { spill } => self.disk_work(Work::Delete { spill }),
            Effect::GiveRegion { slot, place } => {
                self.board.0.give(slot, place);
            }
            Effect::WantRegion { slot, keeper_has_ended } => {
                // Either it is free, or the table goes on without it.
                let free = self.board.0.want(slot, keeper_has_ended);
                if free {
                    events.push_front(Event::RegionFree { slot });
                } else if events.is_empty() {
                    events.push_back(Event::Tick);
                }
            }
            Effect::RegionReceiverGone { receiver, slots } => {
                let free = |&slot: &u32| self.board.0.receiver_has_ended(slot, receiver);
                events.extend(slots.into_iter().filter(free).map(|slot| Event::RegionFree { slot }));
            }
            Effect::LookAtRegions(regions) => {
                let (rules, now) = (self.options.transit, self.started.elapsed());
                events.extend(state.watch.look(&self.board.0, &regions, rules, now));
            }
        }
    }

    fn given(&self, served: Served) -> Given {
        match served {
            Served::Memory(place) => Given::Memory(place),
            // Opened here, before the table can have it deleted.
            Served::Disk { spill, .. } => Given::Disk(match self.spilling.get() {
                Some(spilling) => spilling.folder.file(spill),
                None => Err(std::io::ErrorKind::NotFound.into()),
            }),
            Served::Elsewhere(node) => Given::Elsewhere(node),
            Served::Refused(loss) => Given::Refused(loss),
        }
    }

    /// Leaves it to the threads. Those end with the store, and with them all that they would have done.
    fn disk_work(&self, work: Work) {
        let Some(spilling) = self.spilling.get() else { return };
        let thread = if matches!(work, Work::Read { .. }) { &spilling.reader } else { &spilling.writer };
        let _ = thread.send(work);
    }

    fn go_remote(self: &Arc<Self>, effect: Later) {
        match (effect, self.remote()) {
            (Later::Fetch { fetch, id, place, node, ticket, stop }, Some(remote)) => {
                let fetch = fetch::Fetch::new(self.clone(), fetch, id, place, node, ticket);
                remote.runtime.spawn(fetch.run(stop));
            }
            (Later::Fetch { fetch, id, .. }, None) => {
                let loss = Loss::now("this node's store has not been told how to reach other nodes");
                self.apply(Event::FetchFailed { fetch, id, loss });
            }
            (Later::Acknowledge { node, id, ticket }, Some(remote)) => {
                match remote.acknowledgements.clone().try_acquire_owned() {
                    Ok(permit) => {
                        let core = self.clone();
                        remote.runtime.spawn(async move {
                            fetch::acknowledge(core, &node, id, ticket).await;
                            drop(permit);
                        });
                    }
                    Err(_) => tracing::warn!(
                        %node, object = %id,
                        "more than {MAX_ACKNOWLEDGEMENTS} acknowledgements under way: this lease in transit is left to expire"
                    ),
                }
            }
            (Later::Acknowledge { .. }, None) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a process whose socket is at its end.
    pub fn detached(self: &Arc<Self>, attachment: &Arc<Attachment>) {
        let mut state = self.lock();
        let ours =
            state.attachments.get(&attachment.holder).is_some_and(|known| Arc::ptr_eq(known, attachment));
        if ours {
            state.attachments.remove(&attachment.holder);
            drop(state);
            self.apply(Event::HolderGone { holder: attachment.holder });
        }
    }
}
