//! The socket to the agent, the asks under way on it, and the thread that reads their answers.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, FdFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::Client;
use super::object::{Object, Ticket};
use super::writer::{ObjectWriter, Unsealed};
use crate::error::{Result, StoreError};
use crate::memory::{Access, Mapping, Words};
use crate::object::ObjectId;
use crate::pool::Place;
use crate::protocol::{
    Answer, Ask, MAX_OUTSTANDING, MAX_PACKET, Reply, Request, Tell, VERSION, decode_answer, encode,
};
use crate::region::{BOARD_BYTES, Board};
use crate::socket::{self, Received, Wake};

/// How long an agent may take to welcome a process.
const WELCOME: Duration = Duration::from_secs(10);

/// What to make of the answer to an ask.
#[derive(Debug)]
pub(super) enum Then {
    Create,
    Open {
        id: ObjectId,
    },
    Seal(Unsealed),
    Share(Object),
    Send(Unsealed),
    Keep,
    /// Nothing but to map the segment.
    Map,
}

/// What an ask brought. Each gives back what it stands for when nobody wants it any more.
#[derive(Debug)]
pub(super) enum Granted {
    Writer(ObjectWriter),
    Object(Object),
    Ticket(Ticket),
    /// It is known where it belongs.
    Done,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Link {
    pub node: String,
    pub holder: u64,
    /// The incarnation of the store.
    pub origin: u64,
    /// In whose hand each region is.
    pub board: Board,
    /// Like `LinkState::ended`, for those who want no lock.
    gone: AtomicBool,
    socket: OwnedFd,
    wake: Wake,
    /// Bounds the asks under way (L2).
    window: Arc<Semaphore>,
    state: Mutex<LinkState>,
    mappings: Mutex<Mappings>,
}

/// This process's mappings: each segment once for reading, and once for making objects.
#[derive(Debug, Default)]
struct Mappings {
    readable: BTreeMap<u32, Arc<Mapping>>,
    writable: BTreeMap<u32, Arc<Mapping>>,
}

#[derive(Debug, Default)]
struct LinkState {
    /// Packets that the socket had no room for. Bounded: asks by the window, the rest by the leases it gives back.
    outbox: VecDeque<Vec<u8>>,
    pending: BTreeMap<u64, Pending>,
    last_number: u64,
    closing: bool,
    ended: Option<StoreError>,
}

/// An ask under way. It keeps the client, so that the answer finds the link open.
#[derive(Debug)]
struct Pending {
    client: Arc<Client>,
    then: Then,
    answer: oneshot::Sender<Result<Granted>>,
    _permit: OwnedSemaphorePermit,
}

impl Client {
    /// Asks the agent and waits for what comes of it. Dropping the future cancels the ask.
    pub(super) async fn ask(client: &Arc<Client>, ask: Ask, then: Then) -> Result<Granted> {
        let link = &client.link;
        let permit = link.window.clone().acquire_owned().await.map_err(|_| link.ended())?;
        let (answer, answered) = oneshot::channel();
        let number = link.send_ask(ask, Pending { client: client.clone(), then, answer, _permit: permit })?;
        let mut cancel = CancelOnDrop { link, number, armed: true };
        let granted = answered.await;
        cancel.armed = false;
        granted.unwrap_or_else(|_| Err(link.ended()))
    }
}

struct CancelOnDrop<'a> {
    link: &'a Link,
    number: u64,
    armed: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.link.tell(Tell::Cancel { number: self.number });
        }
    }
}

impl Link {
    pub fn open(socket: OwnedFd) -> Result<Arc<Link>> {
        // It was inherited, so it lacks this, and this process's children must not keep it open.
        rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)
            .map_err(|e| StoreError::system("use the socket to the store's agent", e))?;
        let Welcome { node, holder, origin, board } = welcome(&socket)?;
        let link = Arc::new(Link {
            node,
            holder,
            origin,
            board,
            gone: AtomicBool::new(false),
            socket,
            wake: Wake::new()?,
            window: Arc::new(Semaphore::new(MAX_OUTSTANDING)),
            state: Mutex::new(LinkState::default()),
            mappings: Mutex::default(),
        });
        let reader = Reader { link: link.clone() };
        std::thread::Builder::new()
            .name("lyceum-store-in".into())
            .spawn(move || reader.run())
            .map_err(|e| StoreError::system("start the thread that reads the store's answers", e))?;
        Ok(link)
    }

    /// Says something that is not answered.
    pub fn tell(&self, tell: Tell) {
        let mut state = self.lock();
        if state.ended.is_none()
            && let Ok(packet) = encode(&Request::Tell(tell))
        {
            self.post(&mut state, packet);
        }
    }

    /// Whether nothing can be asked any more.
    pub fn has_ended(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Objects that this process made are read where they were written: those pages are mapped already.
    pub fn mapping(&self, segment: u32, writable: bool) -> Option<Arc<Mapping>> {
        let mappings = self.mappings();
        let own = mappings.writable.get(&segment);
        if writable { own.cloned() } else { own.or_else(|| mappings.readable.get(&segment)).cloned() }
    }

    fn mappings(&self) -> MutexGuard<'_, Mappings> {
        self.mappings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the thread, and with it the link, end once everything is said.
    pub fn close(&self) {
        self.lock().closing = true;
        self.wake.wake();
    }

    fn send_ask(&self, ask: Ask, pending: Pending) -> Result<u64> {
        let mut state = self.lock();
        let number = state.last_number + 1;
        let packet = match (state.ended.clone(), encode(&Request::Ask { number, ask })) {
            (None, Ok(packet)) => packet,
            (Some(error), _) | (None, Err(error)) => {
                // What `pending` holds says goodbye through this link when it is dropped.
                drop(state);
                drop(pending);
                return Err(error);
            }
        };
        state.last_number = number;
        state.pending.insert(number, pending);
        self.post(&mut state, packet);
        Ok(number)
    }

    /// Sends at once if the socket has room, else leaves it to the thread.
    fn post(&self, state: &mut LinkState, packet: Vec<u8>) {
        if state.outbox.is_empty()
            && !matches!(socket::send(&self.socket, &packet, None), Err(error) if waits(error))
        {
            return;
        }
        state.outbox.push_back(packet);
        self.wake.wake();
    }

    /// Sends what waits, as far as the socket has room.
    fn flush(&self) {
        let mut state = self.lock();
        while let Some(packet) = state.outbox.front() {
            if matches!(socket::send(&self.socket, packet, None), Err(error) if waits(error)) {
                return;
            }
            state.outbox.pop_front();
        }
    }

    fn ended(&self) -> StoreError {
        let lost = StoreError::AgentLost { reason: "the attachment is closed".into() };
        self.lock().ended.clone().unwrap_or(lost)
    }

    /// Fails all that is under way and all that will be asked (L3).
    fn end(&self, reason: String) {
        let error = StoreError::AgentLost { reason };
        self.gone.store(true, Ordering::Release);
        let mut state = self.lock();
        state.ended = Some(error.clone());
        state.outbox.clear();
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        self.window.close();
        for pending in pending.into_values() {
            // Nobody waiting for it is as well.
            let _ = pending.answer.send(Err(error.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a packet can be sent later. Other errors mean that the agent has gone, which the thread finds out.
fn waits(error: Errno) -> bool {
    matches!(error, Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM)
}

/// What the agent's first packet says and brings.
struct Welcome {
    node: String,
    holder: u64,
    origin: u64,
    board: Board,
}

/// Waits for the agent's first packet.
fn welcome(socket: &OwnedFd) -> Result<Welcome> {
    let lost = |reason: String| StoreError::AgentLost { reason };
    let timeout = Timespec { tv_sec: WELCOME.as_secs() as i64, tv_nsec: 0 };
    let mut polled = [PollFd::new(socket, PollFlags::IN)];
    match rustix::event::poll(&mut polled, Some(&timeout)) {
        Ok(1..) => {}
        Ok(_) => return Err(lost(format!("no welcome within {WELCOME:?}"))),
        Err(error) => return Err(lost(format!("no welcome: {error}"))),
    }
    let mut buffer = [0; MAX_PACKET];
    match socket::receive(socket, &mut buffer) {
        Ok(Received::Packet { len, descriptors }) => match decode_answer(&buffer[..len]) {
            Ok(Answer::Welcome { version: VERSION, node, holder, origin }) => {
                let Some(board) = descriptors.first() else {
                    return Err(lost("it came without a board".into()));
                };
                let board = Board::new(Words::map(board, BOARD_BYTES)?)?;
                Ok(Welcome { node, holder, origin, board })
            }
            Ok(Answer::Welcome { version, .. }) => Err(StoreError::Invalid(format!(
                "the store's agent speaks version {version}, this program {VERSION}: use programs of one build"
            ))),
            Ok(other) => Err(lost(format!("it began with {other:?}"))),
            Err(error) => Err(lost(format!("its welcome cannot be read: {error}"))),
        },
        Ok(Received::Nothing) => Err(lost("its socket was closed before a welcome".into())),
        Ok(Received::Oversized) => Err(lost("its welcome is too long".into())),
        Err(error) => Err(lost(format!("no welcome: {error}"))),
    }
}

/// The thread.
struct Reader {
    link: Arc<Link>,
}

impl Reader {
    fn run(mut self) {
        let reason = loop {
            let (closing, outbox) = {
                let state = self.link.lock();
                (state.closing, !state.outbox.is_empty())
            };
            if closing && !outbox {
                break "the attachment is closed".to_owned();
            }
            if let Err(reason) = self.turn(outbox) {
                break reason;
            }
        };
        self.link.end(reason);
    }

    /// Waits for something to happen and sees to it. An error ends the link.
    fn turn(&mut self, outbox: bool) -> Result<(), String> {
        let flags = if outbox { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let ready = {
            let mut polled =
                [PollFd::new(&self.link.socket, flags), PollFd::new(&self.link.wake, PollFlags::IN)];
            match rustix::event::poll(&mut polled, None) {
                Ok(_) => {}
                Err(Errno::INTR) => return Ok(()),
                Err(error) => return Err(format!("its socket cannot be waited on: {error}")),
            }
            [polled[0].revents(), polled[1].revents()]
        };
        if !ready[1].is_empty() {
            self.link.wake.clear();
        }
        if ready[0].contains(PollFlags::OUT) {
            self.link.flush();
        }
        if ready[0].intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.listen()?;
        }
        Ok(())
    }

    fn listen(&mut self) -> Result<(), String> {
        let mut buffer = [0; MAX_PACKET];
        loop {
            let (len, descriptors) = match socket::receive(&self.link.socket, &mut buffer) {
                Ok(Received::Packet { len, descriptors }) => (len, descriptors),
                Ok(Received::Nothing) => return Err("its socket was closed: the agent has ended".into()),
                Ok(Received::Oversized) => {
                    return Err("a packet was cut short: is this process out of file descriptors?".into());
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(format!("its socket failed: {error}")),
            };
            match decode_answer(&buffer[..len]) {
                Ok(Answer::Reply { number, reply }) => self.answered(number, reply, descriptors)?,
                Ok(Answer::Goodbye { reason }) => return Err(format!("it ended this attachment: {reason}")),
                Ok(other) => return Err(format!("it said {other:?} in the middle")),
                Err(error) => return Err(format!("its answer cannot be read: {error}")),
            }
        }
    }

    fn answered(&mut self, number: u64, reply: Reply, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        let pending = self.link.lock().pending.remove(&number);
        let Some(Pending { client, then, answer, _permit }) = pending else {
            return Err(format!("it answered ask {number}, which was not asked"));
        };
        let sent = if let Then::Send(unsealed) = &then {
            Some((unsealed.mapping.clone(), unsealed.place))
        } else {
            None
        };
        let granted = self.learn(&reply, descriptors).and_then(|()| self.granted(client, then, reply));
        // If nobody waits any more, dropping what was granted gives it back.
        drop(answer.send(granted));
        if let Some((mapping, place)) = sent {
            // Before this thread hears that the place is given to this process again. Failing that, the pages stay
            // writable in this process alone, which no longer has a reference to them.
            let _ = mapping.protect(place, false);
        }
        Ok(())
    }

    /// Maps a segment whose descriptor has come.
    fn learn(&mut self, reply: &Reply, descriptors: Vec<OwnedFd>) -> Result<()> {
        let Some(descriptor) = descriptors.into_iter().next() else { return Ok(()) };
        let (writable, segment, bytes) = match *reply {
            Reply::Created { place, .. } | Reply::Kept { place, .. } => {
                (true, place.segment, place.segment_bytes)
            }
            Reply::Opened { place } => (false, place.segment, place.segment_bytes),
            Reply::Segment { segment, segment_bytes } => (false, segment, segment_bytes),
            _ => return Ok(()),
        };
        // The pages are opened for writing extent by extent.
        let mapping = Arc::new(Mapping::new(&descriptor, bytes, Access::Read)?);
        let mut mappings = self.link.mappings();
        if writable { &mut mappings.writable } else { &mut mappings.readable }.insert(segment, mapping);
        Ok(())
    }

    fn granted(&self, client: Arc<Client>, then: Then, reply: Reply) -> Result<Granted> {
        match (then, reply) {
            (Then::Create, Reply::Created { id, place }) => {
                let Some(mapping) = self.link.mapping(place.segment, true) else {
                    client.link.tell(Tell::Abandon { id });
                    return Err(unmapped(place));
                };
                Ok(Granted::Writer(ObjectWriter::new(Unsealed::new(client, id, place, mapping))?))
            }
            (Then::Open { id }, Reply::Opened { place }) => {
                let Some(mapping) = self.link.mapping(place.segment, false) else {
                    client.link.tell(Tell::Release { id });
                    return Err(unmapped(place));
                };
                Ok(Granted::Object(Object::new(client, id, mapping, place)?))
            }
            (Then::Seal(unsealed), Reply::Sealed) => {
                let (client, id, place, mapping) = unsealed.settled();
                Ok(Granted::Object(Object::new(client, id, mapping, place)?))
            }
            (Then::Share(object), Reply::Shared { ticket }) => Ok(Granted::Ticket(object.ticket(ticket))),
            (Then::Send(unsealed), Reply::Shared { ticket }) => {
                let (client, id, _, _) = unsealed.settled();
                Ok(Granted::Ticket(Ticket::new(client, id, ticket)))
            }
            (Then::Keep, Reply::Kept { slot, place }) => {
                // Where it cannot be used here it is free, and goes back in time.
                let mapping = self.link.mapping(place.segment, true).ok_or_else(|| unmapped(place))?;
                let last = self.link.board.state(slot).of();
                client.add_region(slot, place, mapping, last)?;
                Ok(Granted::Done)
            }
            (Then::Map, Reply::Segment { .. }) => Ok(Granted::Done),
            (Then::Seal(unsealed) | Then::Send(unsealed), Reply::Failed(error)) => {
                unsealed.settled();
                Err(error)
            }
            (_, Reply::Failed(error)) => Err(error),
            (then, reply) => Err(StoreError::AgentLost {
                reason: format!("it answered {reply:?} where {then:?} was asked"),
            }),
        }
    }
}

fn unmapped(place: Place) -> StoreError {
    StoreError::system(
        format!("map segment {} of the store", place.segment),
        "its descriptor came before, and mapping it failed",
    )
}
