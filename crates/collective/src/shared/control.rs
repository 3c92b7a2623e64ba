//! The page that the ranks of a host share: who has come, who is done, and how the epoch failed. Only atomics.
//!
//! One futex word, the *bell*, is rung at every change. Whoever waits looks, sleeps on the bell, and looks again: no
//! change between look and sleep is missed, and nobody spins.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

use rustix::thread::futex;
use rustix::time::Timespec;

use crate::failure::{self, MAX_FAILURE};
use crate::{CollectiveError, Element, Operation};

/// Ranks that one host can have.
pub(crate) const MAX_LOCAL: usize = 64;

/// A rank that has claimed the failure and not written it after this long has died in between.
const LAST_WORDS: Duration = Duration::from_millis(200);

const MAGIC: u64 = 0x4c59_4345_554d_0001;

/// Laid over the first bytes of a segment that begins as zeros.
#[repr(C)]
pub(crate) struct Control {
    magic: AtomicU64,
    epoch: AtomicU64,
    bell: AtomicU32,
    /// 0: alive. Else 1 + the rank that failed first, once it has claimed to say why.
    claimed: AtomicU32,
    /// Length of `failure` once it is written whole, plus 1.
    written: AtomicU32,
    /// 1 + the rank of another host that the leader waits for, for whoever runs out of time.
    awaited: AtomicU32,
    /// The last operation that the leader has brought through the other hosts.
    relayed: AtomicU64,
    failure: [AtomicU8; MAX_FAILURE],
    slots: [Slot; MAX_LOCAL],
}

/// One local rank's own line of cache.
#[repr(C, align(64))]
struct Slot {
    /// Operations that it has come to.
    arrived: AtomicU64,
    /// Operations that it is done with.
    done: AtomicU64,
    /// Of the operation that it has come to.
    descriptor: [AtomicU64; 3],
    left: AtomicU32,
}

/// What a rank calls, for comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// What is done; a barrier when absent.
    pub(crate) operation: Option<Operation>,
    /// The buffer's length in bytes.
    pub(crate) bytes: u64,
    /// The buffer's place in its host's memory: the same for all, as all allocate alike.
    pub(crate) place: u64,
}

impl Descriptor {
    pub(crate) fn to_words(self) -> [u64; 3] {
        let element = |element| match element {
            Element::F32 => 0,
            Element::Bf16 => 1,
        };
        let (kind, detail) = match self.operation {
            None => (0, 0),
            Some(Operation::AllReduce(e)) => (1, element(e)),
            Some(Operation::ReduceScatter(e)) => (2, element(e)),
            Some(Operation::AllGather) => (3, 0),
            Some(Operation::Broadcast { root }) => (4, root as u64),
        };
        [kind | detail << 8, self.bytes, self.place]
    }

    /// What the words say, in words, for an error.
    pub(crate) fn describe([code, bytes, _]: [u64; 3]) -> String {
        let element = if code >> 8 == 0 { Element::F32 } else { Element::Bf16 };
        let operation = match code & 0xff {
            0 => return "a barrier".into(),
            1 => Operation::AllReduce(element),
            2 => Operation::ReduceScatter(element),
            3 => Operation::AllGather,
            4 => Operation::Broadcast { root: (code >> 8) as usize },
            _ => return format!("an unknown operation {code:x}"),
        };
        format!("{operation} on {bytes} bytes")
    }
}

impl Control {
    /// Makes fresh zeros a control page.
    pub(crate) fn begin(&self, epoch: u64) {
        self.epoch.store(epoch, Relaxed);
        self.magic.store(MAGIC, Release);
    }

    /// Whether this is the control page of `epoch`.
    pub(crate) fn is_of(&self, epoch: u64) -> bool {
        self.magic.load(Acquire) == MAGIC && self.epoch.load(Relaxed) == epoch
    }

    /// Local rank `local` has come to the operation numbered `ticket`.
    pub(crate) fn arrive(&self, local: usize, ticket: u64, descriptor: [u64; 3]) {
        let slot = &self.slots[local];
        slot.descriptor.iter().zip(descriptor).for_each(|(word, value)| word.store(value, Relaxed));
        slot.arrived.store(ticket, Release);
        self.ring();
    }

    pub(crate) fn has_arrived(&self, local: usize, ticket: u64) -> bool {
        self.slots[local].arrived.load(Acquire) >= ticket
    }

    /// What `local` called; it stands from its arrival until this rank is done.
    pub(crate) fn descriptor(&self, local: usize) -> [u64; 3] {
        std::array::from_fn(|i| self.slots[local].descriptor[i].load(Relaxed))
    }

    pub(crate) fn set_done(&self, local: usize, ticket: u64) {
        self.slots[local].done.store(ticket, Release);
        self.ring();
    }

    pub(crate) fn is_done(&self, local: usize, ticket: u64) -> bool {
        self.slots[local].done.load(Acquire) >= ticket
    }

    /// Local rank `local` goes in good order.
    pub(crate) fn leave(&self, local: usize) {
        self.slots[local].left.store(1, Release);
        self.ring();
    }

    pub(crate) fn has_left(&self, local: usize) -> bool {
        self.slots[local].left.load(Acquire) != 0
    }

    pub(crate) fn set_relayed(&self, ticket: u64) {
        self.relayed.store(ticket, Release);
        self.ring();
    }

    pub(crate) fn is_relayed(&self, ticket: u64) -> bool {
        self.relayed.load(Acquire) >= ticket
    }

    pub(crate) fn set_awaited(&self, rank: Option<usize>) {
        self.awaited.store(rank.map_or(0, |rank| rank as u32 + 1), Relaxed);
    }

    pub(crate) fn awaited(&self) -> Option<usize> {
        self.awaited.load(Relaxed).checked_sub(1).map(|rank| rank as usize)
    }

    /// Ends the epoch for this host, if nobody has. `rank` is who says so.
    pub(crate) fn fail(&self, error: &CollectiveError, rank: usize) {
        if self.claimed.compare_exchange(0, rank as u32 + 1, AcqRel, Acquire).is_ok() {
            let bytes = failure::encode(error, rank);
            self.failure.iter().zip(&bytes).for_each(|(place, byte)| place.store(*byte, Relaxed));
            self.written.store(bytes.len() as u32 + 1, Release);
        }
        self.ring();
    }

    /// How the epoch failed, if it has.
    pub(crate) fn failure(&self) -> Option<CollectiveError> {
        let claimant = self.claimed.load(Acquire).checked_sub(1)? as usize;
        let epoch = self.epoch.load(Relaxed);
        let begun = Instant::now();
        loop {
            let heard = self.bell.load(Acquire);
            if let Some(len) = self.written.load(Acquire).checked_sub(1) {
                let len = (len as usize).min(MAX_FAILURE);
                let bytes: Vec<u8> = self.failure[..len].iter().map(|byte| byte.load(Relaxed)).collect();
                return Some(failure::decode(&bytes, claimant, epoch));
            }
            let Some(left) = LAST_WORDS.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) else {
                let reason = "it failed and died before it could say why".into();
                return Some(CollectiveError::Lost { rank: claimant, epoch, reason });
            };
            let left = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            // Rung, interrupted or too late to sleep: look again in each case.
            let _ = futex::wait(&self.bell, futex::Flags::empty(), heard, Some(&left));
        }
    }

    /// Sleeps until `ready` gives something or the epoch has failed.
    pub(crate) fn wait_until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> Result<T, CollectiveError> {
        loop {
            let heard = self.bell.load(Acquire);
            // What is complete is complete, also when the epoch has ended since.
            if let Some(value) = ready() {
                return Ok(value);
            }
            if let Some(error) = self.failure() {
                return Err(error);
            }
            // Woken, interrupted or too late to sleep: look again in each case.
            let _ = futex::wait(&self.bell, futex::Flags::empty(), heard, None);
        }
    }

    /// Wakes everybody who sleeps on the bell.
    pub(crate) fn ring(&self) {
        self.bell.fetch_add(1, AcqRel);
        // It fails only for a bad address.
        let _ = futex::wake(&self.bell, futex::Flags::empty(), i32::MAX as u32);
    }
}
