//! One connection to another process: its calls and replies, both ways.
//!
//! The reader ([`crate::inbound`]) and the writer run on the I/O runtime; callers and actors only take the lock,
//! for a moment. Calls wait here until credit has come, then go out in order; replies, credits, cancels and
//! notices have a queue of their own that goes first.

mod ending;
mod outlet;
mod peer;
mod reply;
mod silence;
mod writer;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
    time::Instant,
};

use lyceum_wire::{AlignedBytes, CloseCode, Connection, Frame, Hello};
use tokio::sync::Notify;

use outlet::Outlet;

use crate::{
    ActorAddress, DeathReport, ProcessAddress,
    credit::{Credits, Effect, Purse},
    kept::CallKey,
    large::{Parcel, Payload},
    pending::{Call, Pending, Queued},
    protocol::{ANSWER, Extension, Kind, encode_death, encode_outcome, frame},
    slot::{Givers, Outcome, Slot},
    system::SystemInner,
};

/// The most calls of one process that another may owe answers to.
pub(crate) const MAX_IN_FLIGHT: usize = 64 * 1024;
/// Calls beyond this many bytes stay with their callers until the writer has caught up.
const CALL_SHARE: usize = 16 << 20;

/// A connection to a peer process.
pub(crate) struct Link {
    /// Unique in this system; names the peer in credit ledgers.
    pub(crate) key: u64,
    pub(crate) peer: ProcessAddress,
    pub(crate) system: Weak<SystemInner>,
    state: Mutex<State>,
    work: Notify,
    room: Notify,
    /// Answers in `State::owed` that nobody waits for; more than there can be once the link is closed.
    unwanted: AtomicUsize,
    /// Bytes in `State::control`, also readable without the lock.
    control_bytes: AtomicUsize,
}

struct State {
    phase: Phase,
    /// Why new calls are handed back for now: the peer's node is silent.
    silence: Option<String>,
    /// No call is taken any more. Once everything is written the lane is finished, and then this is completed.
    parting: Option<Arc<Slot>>,
    pending: Pending,
    outlets: HashMap<Life, Outlet>,
    /// Outlets that need more credit.
    short: Vec<Life>,
    watches: HashMap<Life, Vec<Arc<Slot>>>,
    calls: VecDeque<Frame>,
    call_bytes: usize,
    control: VecDeque<Frame>,
    /// The peer's calls that have not been answered, and whether it still waits for them.
    owed: HashMap<u64, bool>,
    /// Who works on an answer and is to be told when its caller no longer waits.
    givers: HashMap<u64, Givers>,
    /// Those of them who are to be told once the lock is gone.
    to_wake: Vec<Waker>,
    /// Replies that are being put into the store.
    storing: usize,
    /// Stored replies that were sent, oldest first: taken back if the connection is lost before they were opened.
    lent: VecDeque<Parcel>,
    writer_idle: bool,
}

enum Phase {
    Connecting,
    Open { connection: Connection, hello: Hello },
    Closed(String),
}

/// From so many frames on that wait to be written, another thread writes them than the one that makes them.
const BURST: usize = 16;

/// (actor, incarnation)
type Life = (u64, u64);

/// A message on its way out.
pub(crate) struct Request<'a> {
    pub(crate) to: &'a ActorAddress,
    pub(crate) fingerprint: u64,
    pub(crate) message: u64,
    /// `None` while it is being put into the store; see [`Link::supply`].
    pub(crate) payload: Option<Payload>,
    pub(crate) ask: bool,
    /// Waits on while the peer's node is silent.
    pub(crate) patient: bool,
    pub(crate) deadline: Option<Instant>,
    pub(crate) trace: u64,
    /// Of a call that may be sent again.
    pub(crate) key: Option<CallKey>,
    /// It will be: it need not wait for a verdict when the connection is lost.
    pub(crate) again: bool,
    pub(crate) slot: Arc<Slot>,
}

/// What to tell whom, once the lock is gone.
type Finished = Vec<(Arc<Slot>, Outcome)>;

impl Link {
    pub(crate) fn new(key: u64, peer: ProcessAddress, system: Weak<SystemInner>) -> Arc<Self> {
        Arc::new(Link {
            key,
            peer,
            system,
            state: Mutex::new(State {
                phase: Phase::Connecting,
                silence: None,
                parting: None,
                pending: Pending::default(),
                outlets: HashMap::new(),
                short: Vec::new(),
                watches: HashMap::new(),
                calls: VecDeque::new(),
                call_bytes: 0,
                control: VecDeque::new(),
                owed: HashMap::new(),
                givers: HashMap::new(),
                to_wake: Vec::new(),
                storing: 0,
                lent: VecDeque::new(),
                writer_idle: true,
            }),
            work: Notify::new(),
            room: Notify::new(),
            unwanted: AtomicUsize::new(0),
            control_bytes: AtomicUsize::new(0),
        })
    }

    /// Queues a call. Returns its number, or the slot's outcome when the link is closed or full.
    pub(crate) fn submit(&self, request: Request<'_>) -> Result<u64, Outcome> {
        let mut done = Vec::new();
        let mut state = self.lock();
        if let Phase::Closed(why) = &state.phase {
            return Err(Outcome::NotSent(format!("the connection to {} is closed: {why}", self.peer)));
        }
        if state.parting.is_some() {
            return Err(Outcome::NotSent("this process is shutting down".to_owned()));
        }
        if let Some(why) = state.silence.as_ref().filter(|_| !request.patient) {
            return Err(Outcome::NotSent(why.clone()));
        }
        if state.pending.len() >= MAX_IN_FLIGHT {
            return Err(Outcome::NotSent(format!(
                "{MAX_IN_FLIGHT} calls to {} are under way: await some of them first",
                self.peer
            )));
        }
        let life = (request.to.actor.0, request.to.incarnation);
        let call = state.pending.insert(Call {
            slot: request.slot,
            life,
            ask: request.ask,
            patient: request.patient,
            again: request.again,
            parcel: None,
            queued: Some(Queued {
                payload: request.payload,
                message: request.message,
                deadline: request.deadline,
                trace: request.trace,
                key: request.key,
                job: request.to.job,
            }),
        });
        let outlet = state.outlets.entry(life).or_insert_with(|| Outlet {
            role: request.to.role.clone(),
            fingerprint: request.fingerprint,
            purse: Purse::default(),
            queue: VecDeque::new(),
        });
        outlet.queue.push_back(call);
        if outlet.queue.len() == 1 {
            state.release(life, &mut done);
        }
        self.unlock(state, done);
        Ok(call)
    }

    /// The payload of a call that was submitted without one.
    pub(crate) fn supply(&self, call: u64, payload: Payload) {
        let mut done = Vec::new();
        let mut state = self.lock();
        let Some(entry) = state.pending.get_mut(call) else { return };
        let life = entry.life;
        if let Some(queued) = &mut entry.queued {
            queued.payload = Some(payload);
        }
        state.release(life, &mut done);
        self.unlock(state, done);
    }

    /// The caller no longer waits, and its call, if it has this key, does not come again.
    pub(crate) fn forget(&self, call: u64, key: Option<u64>) {
        let mut done = Vec::new();
        let mut state = self.lock();
        let Some(entry) = state.pending.remove(call) else { return };
        if entry.queued.is_some() {
            // Whoever stands behind it in the queue may go on.
            state.release(entry.life, &mut done);
        } else if entry.ask && matches!(state.phase, Phase::Open { .. }) {
            state.push_cancel(entry.life, call, key);
        }
        self.unlock(state, done);
        // What it holds may say goodbye to the store, which is none of this lock's business.
        drop(entry);
    }

    /// A call has its answer, and does not come again.
    pub(crate) fn settled(&self, life: Life, call: u64, key: Option<u64>) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open { .. }) {
            state.push_cancel(life, call, key);
        }
        self.unlock(state, Vec::new());
    }

    /// Carries out what an actor's ledger decided about this peer.
    pub(crate) fn apply(&self, actor: &ActorAddress, effect: Effect) {
        let (kind, credits, flags) = match effect {
            Effect::Grant { credits, answer, .. } => (Kind::Grant, credits, if answer { ANSWER } else { 0 }),
            Effect::Reclaim { .. } => (Kind::Reclaim, Credits::NONE, 0),
        };
        self.control(
            kind,
            actor.incarnation,
            Extension {
                actor: actor.actor.0,
                count: credits.count,
                amount: credits.bytes,
                flags,
                ..Extension::default()
            },
            AlignedBytes::default(),
        );
    }

    /// Tells the peer that nothing can be sent to an actor, or with `bytes` above 0, no message of that size.
    pub(crate) fn refuse(&self, life: (u64, u64), bytes: u64, outcome: Outcome) {
        let (status, payload) = encode_outcome(outcome);
        let extension = Extension { actor: life.0, flags: status, total: bytes, ..Extension::default() };
        self.control(Kind::Refuse, life.1, extension, payload);
    }

    /// Tells the peer that an actor of this process is dead.
    pub(crate) fn tell_death(&self, life: (u64, u64), report: &DeathReport) {
        let extension = Extension { actor: life.0, ..Extension::default() };
        self.control(Kind::Death, life.1, extension, encode_death(report));
    }

    /// Completes `slot` when the peer says that `actor` is dead, or is gone itself.
    pub(crate) fn watch(
        &self,
        actor: &ActorAddress,
        fingerprint: u64,
        slot: Arc<Slot>,
    ) -> Result<(), Outcome> {
        let life = (actor.actor.0, actor.incarnation);
        let mut state = self.lock();
        if let Phase::Closed(why) = &state.phase {
            return Err(Outcome::NotSent(why.clone()));
        }
        let watches = state.watches.entry(life).or_default();
        watches.retain(|slot| slot.is_open());
        let first = watches.is_empty();
        watches.push(slot);
        if first && matches!(state.phase, Phase::Open { .. }) {
            let extension = Extension { actor: life.0, message: fingerprint, ..Extension::default() };
            let watch = frame(Kind::Watch, life.1, 0, 0, &extension, AlignedBytes::default());
            self.push_control(&mut state, watch);
        }
        self.unlock(state, Vec::new());
        Ok(())
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.lock().phase, Phase::Open { .. })
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.lock().phase, Phase::Closed(_))
    }

    /// The connection is up: what waited for it goes out.
    pub(crate) fn open(&self, connection: Connection) {
        let mut done = Vec::new();
        let hello = connection.peer_hello().clone();
        let mut state = self.lock();
        if matches!(state.phase, Phase::Closed(_)) {
            connection.close(CloseCode::Done, "no longer wanted");
            return;
        }
        state.phase = Phase::Open { connection, hello };
        let lives: Vec<Life> = state.outlets.keys().copied().collect();
        for life in lives {
            state.release(life, &mut done);
        }
        let watched: Vec<Life> = state.watches.keys().copied().collect();
        for life in watched {
            let extension = Extension { actor: life.0, ..Extension::default() };
            let watch = frame(Kind::Watch, life.1, 0, 0, &extension, AlignedBytes::default());
            self.push_control(&mut state, watch);
        }
        self.unlock(state, done);
    }

    fn control(&self, kind: Kind, incarnation: u64, extension: Extension, payload: AlignedBytes) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open { .. }) {
            let frame = frame(kind, incarnation, 0, 0, &extension, payload);
            self.push_control(&mut state, frame);
        }
        self.unlock(state, Vec::new());
    }

    fn push_control(&self, state: &mut State, frame: Frame) {
        self.control_bytes.fetch_add(frame.wire_len(), Ordering::AcqRel);
        state.control.push_back(frame);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under this lock can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the lock back, then wakes the writer if it has work and sleeps, and tells whoever is to be told.
    fn unlock(&self, mut state: MutexGuard<'_, State>, done: Finished) {
        let requests = state.take_requests();
        for request in requests {
            self.push_control(&mut state, request);
        }
        let wake = state.writer_idle && !(state.calls.is_empty() && state.control.is_empty());
        state.writer_idle &= !wake;
        // Asked for once in so many frames.
        let queued = state.calls.len() + state.control.len();
        let burst = queued > 0 && queued.is_multiple_of(BURST);
        let to_wake = std::mem::take(&mut state.to_wake);
        drop(state);
        to_wake.into_iter().for_each(Waker::wake);
        if wake {
            self.work.notify_one();
        }
        if burst && let Some(system) = self.system.upgrade() {
            system.executor.call_for_io();
        }
        finish_all(done);
    }
}

impl State {
    /// Nobody waits for a call any more. In the calls' queue, so that it cannot overtake what it cancels.
    fn push_cancel(&mut self, life: Life, call: u64, key: Option<u64>) {
        let key = key.map(|key| CallKey { key, lowest: 0 });
        let extension = Extension { actor: life.0, call, key, ..Extension::default() };
        self.push_call(frame(Kind::Cancel, life.1, 0, 0, &extension, AlignedBytes::default()));
    }
}

fn finish_all(done: Finished) {
    for (slot, outcome) in done {
        slot.complete(outcome);
    }
}
