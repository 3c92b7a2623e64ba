//! Regions: places that a process keeps for what it sends to others of its node, one message after the other.
//!
//! Making an object, sending it and opening it are each a question to the node's agent, and a question wakes two threads.
//! For a message of a megabyte that is most of its time. So a process *keeps* a few places that the agent has given it
//! once, writes message after message there, and its receivers read them where they lie. Who has a region just now stands
//! in its *slot*, a few words of a *board* that the agent and all of its processes map: it goes from hand to hand by one
//! atomic step, which asks nobody and wakes nobody.
//!
//! ```text
//!            take               send                 open
//!    FREE ---------> WRITING ---------> IN TRANSIT ---------> OPEN
//!     ^  the keeper     |   the keeper      |   the receiver    |
//!     +-----------------+-------------------+-------------------+
//!         dropped           given up, late          released
//! ```
//!
//! **Whose word counts.** Only the keeper takes a region, and only the process that it was sent to opens it, with the
//! ticket that came in the message. The agent steps in where one of them cannot: it frees what was sent to a process that
//! has ended, and what nobody opens in time.
//!
//! **How the agent gets a region back.** It sets [`WANTED`]. Nobody takes a region that is wanted: a free one is the
//! agent's at once, and whoever frees one that is wanted tells the agent so. It wants all of them when somebody waits
//! for room, those of a process that has ended, and one that has not been used for a while. Only then is the place
//! given to somebody else, with the next *use* in its slot, so that whoever still knows of the last one does nothing.
//!
//! **Bounds** (L2): a process keeps [`MAX_KEPT`] regions and a part of the store's capacity at most; they count as the
//! store's objects do. Larger things, and those for other nodes, are objects.
//!
//! Invariants, held by the property tests here and in `table`:
//! - **R1** at most one of keeper, receiver and agent has the bytes at any time, or the keeper alone may change them;
//! - **R2** a region that was sent is opened once, by the process it was sent to, and never after it was freed;
//! - **R3** whoever frees a wanted region is told to tell the agent; who dies before that is seen by the agent itself.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Result, StoreError};
use crate::memory::Words;
use crate::pool::Place;

/// Regions that one process keeps, at most.
pub(crate) const MAX_KEPT: usize = 32;
/// Regions of a store: slots of its board.
pub(crate) const SLOTS: u32 = 1024;
/// The largest region: from here on copying takes longer than asking.
pub(crate) const LARGEST: u64 = 4 << 20;
/// The smallest.
const SMALLEST: u64 = 64 << 10;

/// Words of a slot: a line of the processor's cache, so that slots do not disturb each other.
const WORDS: usize = 8;
/// Bytes of a board.
pub(crate) const BOARD_BYTES: u64 = SLOTS as u64 * WORDS as u64 * 8;

/// Where in a slot each word is.
mod word {
    pub const STATE: usize = 0;
    pub const RECEIVER: usize = 1;
    pub const TICKET: usize = 2;
    pub const LEN: usize = 3;
    pub const SEGMENT: usize = 4;
    pub const OFFSET: usize = 5;
}

/// Set in a state when the agent wants the region back.
const WANTED: u64 = 1 << 4;
const USE: u32 = 8;

/// In whose hand a region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Hand {
    Free = 0,
    Writing = 1,
    Transit = 2,
    Open = 3,
}

/// The first word of a slot: a hand, whether the region is wanted, and how often it was taken or given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State(u64);

impl State {
    fn new(uses: u64, hand: Hand) -> State {
        State(uses << USE | hand as u64)
    }

    /// `None` for what nobody writes.
    pub fn hand(self) -> Option<Hand> {
        match self.0 & 0xf {
            0 => Some(Hand::Free),
            1 => Some(Hand::Writing),
            2 => Some(Hand::Transit),
            3 => Some(Hand::Open),
            _ => None,
        }
    }

    pub fn wanted(self) -> bool {
        self.0 & WANTED != 0
    }

    /// Free, and wanted by the agent.
    pub fn is_agents(self) -> bool {
        self.wanted() && self.hand() == Some(Hand::Free)
    }

    /// The last use.
    pub fn of(self) -> Use {
        Use(self.uses())
    }

    fn uses(self) -> u64 {
        self.0 >> USE
    }

    fn with(self, hand: Hand) -> State {
        State(self.0 & !0xf | hand as u64)
    }
}

/// A region's use by one message: from its being taken to its being free again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Use(u64);

/// Whether the agent is to be told that a region which it wants is free.
#[must_use = "the agent waits for it"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tell(pub bool);

/// The words of all regions of a store.
#[derive(Debug)]
pub(crate) struct Board(Words);

impl Board {
    pub fn new(words: Words) -> Result<Board> {
        let wanted = SLOTS as usize * WORDS;
        if words.count() != wanted {
            let found = words.count();
            return Err(StoreError::Invalid(format!("a board of {found} words where {wanted} are expected")));
        }
        Ok(Board(words))
    }

    fn word(&self, slot: u32, word: usize) -> &AtomicU64 {
        self.0.at(slot as usize % SLOTS as usize * WORDS + word)
    }

    pub fn state(&self, slot: u32) -> State {
        State(self.word(slot, word::STATE).load(Ordering::Acquire))
    }

    /// One step, unless the state is not `from` any more.
    fn step(&self, slot: u32, from: State, to: State) -> bool {
        // What the one before did to the bytes is seen by the next one.
        self.word(slot, word::STATE)
            .compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    // What the agent does.

    /// The agent, which has the region, gives it to a process: the use from which its own ones count.
    pub fn give(&self, slot: u32, place: Place) -> Use {
        let uses = self.state(slot).uses().wrapping_add(1) << USE >> USE;
        for (at, value) in [
            (word::RECEIVER, 0),
            (word::TICKET, 0),
            (word::LEN, 0),
            (word::SEGMENT, u64::from(place.segment)),
            (word::OFFSET, place.offset),
        ] {
            self.word(slot, at).store(value, Ordering::Relaxed);
        }
        self.word(slot, word::STATE).store(State::new(uses, Hand::Free).0, Ordering::Release);
        Use(uses)
    }

    /// The agent wants the region back. Returns whether it has it: else whoever frees it will tell.
    pub fn want(&self, slot: u32, keeper_has_ended: bool) -> bool {
        let before = State(self.word(slot, word::STATE).fetch_or(WANTED, Ordering::AcqRel));
        match before.hand() {
            Some(Hand::Free) => true,
            // Nobody writes there any more.
            Some(Hand::Writing) if keeper_has_ended => {
                let state = self.state(slot);
                self.step(slot, state, state.with(Hand::Free))
            }
            _ => false,
        }
    }

    /// A process has ended: what was sent to it is free. Returns whether the agent has the region now; that may have been
    /// the last thing that the process did, and had no time to tell.
    pub fn receiver_has_ended(&self, slot: u32, receiver: u64) -> bool {
        loop {
            let state = self.state(slot);
            if state.is_agents() {
                return true;
            }
            let its = self.word(slot, word::RECEIVER).load(Ordering::Relaxed) == receiver;
            let sent = matches!(state.hand(), Some(Hand::Transit | Hand::Open));
            if !its || !sent {
                return false;
            }
            if self.step(slot, state, state.with(Hand::Free)) {
                return state.wanted();
            }
        }
    }

    /// What was in transit in this state for too long will not be opened any more. Returns whether the agent has the
    /// region now.
    pub fn expire(&self, slot: u32, state: State) -> bool {
        state.hand() == Some(Hand::Transit)
            && self.step(slot, state, state.with(Hand::Free))
            && state.wanted()
    }

    // What its keeper does.

    /// Takes the region for a message, where it is free and still the keeper's, whose last use was `last`.
    pub fn take(&self, slot: u32, last: Use) -> Taken {
        let state = self.state(slot);
        if state.uses() != last.0 || state.wanted() {
            return Taken::Gone;
        }
        let next = last.0.wrapping_add(1) << USE >> USE;
        if state.hand() == Some(Hand::Free) && self.step(slot, state, State::new(next, Hand::Writing)) {
            Taken::Ours(Use(next))
        } else {
            Taken::Busy
        }
    }

    /// What was written goes to `receiver`, which opens it with `ticket`. False where the agent has taken the keeper for
    /// ended.
    pub fn send(&self, slot: u32, of: Use, receiver: u64, ticket: u64, len: u64) -> bool {
        for (at, value) in [(word::RECEIVER, receiver), (word::TICKET, ticket), (word::LEN, len)] {
            self.word(slot, at).store(value, Ordering::Relaxed);
        }
        self.leave(slot, Hand::Transit, |state| state.uses() == of.0 && state.hand() == Some(Hand::Writing))
            .is_some()
    }

    /// What was being written will not be sent.
    pub fn abandon(&self, slot: u32, of: Use) -> Tell {
        self.free(slot, |state| state.uses() == of.0 && state.hand() == Some(Hand::Writing))
    }

    // What its receiver does.

    /// Opens what was sent to `receiver` with `ticket`, and says where the bytes lie. `None`: it was freed.
    pub fn open(&self, slot: u32, receiver: u64, ticket: u64) -> Option<Opened> {
        let sent = |state: State| self.is_sent(slot, state, ticket);
        let state = self.leave(slot, Hand::Open, |state| {
            sent(state) && self.word(slot, word::RECEIVER).load(Ordering::Relaxed) == receiver
        })?;
        let read = |at| self.word(slot, at).load(Ordering::Relaxed);
        Some(Opened {
            of: Use(state.uses()),
            segment: u32::try_from(read(word::SEGMENT)).unwrap_or(u32::MAX),
            offset: read(word::OFFSET),
            len: read(word::LEN),
        })
    }

    /// What was opened is read no more.
    pub fn release(&self, slot: u32, of: Use) -> Tell {
        self.free(slot, |state| state.uses() == of.0 && state.hand() == Some(Hand::Open))
    }

    /// What was sent with `ticket` will not be opened: by the word of its sender, or of its receiver.
    pub fn give_up(&self, slot: u32, ticket: u64) -> Tell {
        self.free(slot, |state| self.is_sent(slot, state, ticket))
    }

    /// Whether this state is of that message: its words change only in the hand of the keeper, in another use.
    fn is_sent(&self, slot: u32, state: State, ticket: u64) -> bool {
        state.hand() == Some(Hand::Transit) && self.word(slot, word::TICKET).load(Ordering::Relaxed) == ticket
    }

    fn free(&self, slot: u32, ours: impl Fn(State) -> bool) -> Tell {
        Tell(self.leave(slot, Hand::Free, ours).is_some_and(State::wanted))
    }

    /// Steps to `to` for as long as the state is ours, and returns what it was: the agent may come between with its wish.
    fn leave(&self, slot: u32, to: Hand, ours: impl Fn(State) -> bool) -> Option<State> {
        loop {
            let state = self.state(slot);
            if !ours(state) {
                return None;
            }
            if self.step(slot, state, state.with(to)) {
                return Some(state);
            }
        }
    }
}

/// What came of taking a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Ours(Use),
    /// Its last message is still on its way, or being read.
    Busy,
    /// The agent has it, or will.
    Gone,
}

/// A message in a region, opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub of: Use,
    pub segment: u32,
    pub offset: u64,
    pub len: u64,
}

/// Bytes of the region for a message of `len` bytes, `None` where that is not for regions: a few sizes only, so that one
/// serves for many messages.
pub(crate) fn size_for(len: u64) -> Option<u64> {
    let step = (len.checked_next_power_of_two()? / 8).max(SMALLEST);
    let size = len.max(1).next_multiple_of(step);
    (size <= LARGEST).then_some(size)
}

#[cfg(test)]
mod tests;
