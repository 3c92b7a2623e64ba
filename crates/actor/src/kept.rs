//! Calls that may come again, and their answers (idempotency keys).
//!
//! A caller that may send a call again gives it a key, a number that its process uses for no other call, and says with each
//! which of its keys for the same actor is the lowest without an answer. The receiver keeps what it did under a key until it
//! hears that the call does not come again, or of a higher lowest key, or that the caller's process is gone: a call that comes
//! again is not executed again, but has the same answer, or waits for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use crate::{
    ProcessDeath, System,
    link::Link,
    slot::{Outcome, Slot},
};

/// Calls of one process, of which an actor keeps the answers.
const MAX_KEPT: usize = 4096;
/// Bytes of answers that an actor keeps; further ones are answered, and `Unknown` when they come again.
const MAX_BYTES: usize = 64 << 20;

/// The key of a call, as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallKey {
    pub(crate) key: u64,
    /// The lowest key of the same caller and actor that has no answer yet.
    pub(crate) lowest: u64,
}

/// The keys of this process's calls.
#[derive(Default)]
pub(crate) struct Keys {
    last: AtomicU64,
    /// Those without an answer, by (actor, incarnation).
    open: Mutex<HashMap<(u64, u64), BTreeSet<u64>>>,
}

impl Keys {
    /// A key for a call to this actor.
    pub(crate) fn begin(self: &Arc<Self>, life: (u64, u64)) -> OpenKey {
        let mut open = self.lock();
        // Under the lock, so that nobody is told of a lowest key above one that is still to be sent.
        let key = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        open.entry(life).or_default().insert(key);
        drop(open);
        OpenKey { keys: self.clone(), life, key }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, u64), BTreeSet<u64>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key whose call has no answer yet.
pub(crate) struct OpenKey {
    keys: Arc<Keys>,
    life: (u64, u64),
    key: u64,
}

impl OpenKey {
    pub(crate) fn now(&self) -> CallKey {
        let open = self.keys.lock();
        let lowest = open.get(&self.life).and_then(|keys| keys.first()).copied();
        CallKey { key: self.key, lowest: lowest.unwrap_or(self.key) }
    }
}

impl Drop for OpenKey {
    fn drop(&mut self) {
        let mut open = self.keys.lock();
        if let Some(keys) = open.get_mut(&self.life) {
            keys.remove(&self.key);
            if keys.is_empty() {
                open.remove(&self.life);
            }
        }
    }
}

/// What an actor keeps of calls that may come again.
#[derive(Default)]
pub(crate) struct KeptCalls {
    /// By their process.
    callers: Mutex<HashMap<u64, Caller>>,
    bytes: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Caller {
    node: String,
    /// Lower keys have had their answers.
    lowest: u64,
    kept: BTreeMap<u64, Arc<Kept>>,
}

/// What is known of a call that has come.
pub(crate) enum Found {
    /// It is to be handled, and this answered.
    New(Arc<Kept>),
    /// It has come before: its caller gets, or has, the answer.
    Known,
    /// It is not taken.
    Refused(Outcome),
}

impl KeptCalls {
    /// A call has come over `link`, as its number `call`.
    pub(crate) fn find(&self, link: &Arc<Link>, call: u64, CallKey { key, lowest }: CallKey) -> Found {
        let mut callers = self.lock();
        if let Entry::Vacant(vacant) = callers.entry(link.peer.process) {
            vacant.insert(Caller { node: link.peer.node.clone(), ..Caller::default() });
            drop(callers);
            // So that its end is told here, and what is kept for it goes.
            if let Some(system) = link.system.upgrade().map(System::of) {
                system.watch_process(&link.peer);
            }
            callers = self.lock();
        }
        // It may be known to have ended by now.
        let caller = || Caller { node: link.peer.node.clone(), ..Caller::default() };
        let Caller { lowest: known_lowest, kept, .. } =
            callers.entry(link.peer.process).or_insert_with(caller);
        if lowest > *known_lowest {
            *known_lowest = lowest;
            *kept = kept.split_off(&lowest);
        }
        if key < *known_lowest {
            // On a connection that was given up, say.
            return Found::Refused(Outcome::Unknown("it came after its caller had its answer".to_owned()));
        }
        if let Some(known) = kept.get(&key).filter(|known| known.join(link, call)) {
            let known = known.clone();
            drop(callers);
            known.answer();
            return Found::Known;
        }
        if kept.len() >= MAX_KEPT {
            let why = format!("{MAX_KEPT} calls of this process that may come again have no answer yet");
            return Found::Refused(Outcome::NotSent(why));
        }
        let new =
            Arc::new(Kept { state: Mutex::default(), wanted: Slot::default(), total: self.bytes.clone() });
        new.join(link, call);
        kept.insert(key, new.clone());
        Found::New(new)
    }

    /// A call that was sent over `link` alone does not come again: what could come over this link has come.
    pub(crate) fn settle(&self, link: &Link, key: u64) {
        let settled = self.lock().get_mut(&link.peer.process).and_then(|caller| caller.kept.remove(&key));
        if let Some(settled) = settled {
            settled.wanted.close();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Caller>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A caller's process is gone: nothing comes again.
    pub(crate) fn forget(&self, death: &ProcessDeath) {
        let mut callers = self.lock();
        if callers.get(&death.process).is_some_and(|caller| caller.node == death.node) {
            let gone = callers.remove(&death.process);
            drop(callers);
            gone.iter().flat_map(|caller| caller.kept.values()).for_each(|kept| kept.wanted.close());
        }
    }
}

/// One call that may come again.
pub(crate) struct Kept {
    state: Mutex<State>,
    /// Closed when it has its answer, or is given up and does not come again.
    wanted: Slot,
    /// Bytes that the actor keeps in all.
    total: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    /// Who waits for the answer: links, and their numbers for the call.
    waits: Vec<(Arc<Link>, u64)>,
    fate: Fate,
    bytes: usize,
}

impl State {
    fn is_wanted(&self) -> bool {
        self.waits.iter().any(|(link, call)| link.is_closed() || link.is_wanted(*call))
    }
}

#[derive(Default)]
enum Fate {
    #[default]
    Open,
    /// It was not handled, and may be when it comes again.
    PassedBy,
    Answered(Outcome),
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its caller waits on this link too now, unless the call was passed by.
    fn join(&self, link: &Arc<Link>, call: u64) -> bool {
        let mut state = self.lock();
        if matches!(state.fate, Fate::PassedBy) {
            return false;
        }
        state.waits.retain(|(link, _)| !link.is_closed());
        state.waits.push((link.clone(), call));
        true
    }

    /// Tells those who wait, if there is an answer.
    fn answer(&self) {
        let mut state = self.lock();
        let Fate::Answered(outcome) = &state.fate else { return };
        let outcome = outcome.clone();
        let waits = std::mem::take(&mut state.waits);
        drop(state);
        for (link, call) in waits {
            link.reply(call, outcome.clone());
        }
    }

    /// The call has its answer.
    pub(crate) fn finish(&self, outcome: Outcome) {
        let size = outcome.size();
        let fits = self.total.fetch_add(size, Ordering::Relaxed) + size <= MAX_BYTES;
        let mut state = self.lock();
        let waits = std::mem::take(&mut state.waits);
        state.bytes = size;
        state.fate = Fate::Answered(match fits {
            true => outcome.clone(),
            false => Outcome::Unknown("it was executed, but there was no room to keep its answer".to_owned()),
        });
        if !fits {
            state.bytes = 0;
            self.total.fetch_sub(size, Ordering::Relaxed);
        }
        drop(state);
        self.wanted.close();
        for (link, call) in waits {
            link.reply(call, outcome.clone());
        }
    }

    /// The call is not handled, for this reason.
    pub(crate) fn pass_by(&self, outcome: &Outcome) {
        let mut state = self.lock();
        state.fate = Fate::PassedBy;
        let waits = std::mem::take(&mut state.waits);
        drop(state);
        for (link, call) in waits {
            link.reply(call, outcome.clone());
        }
    }

    /// The same, if nobody waits, nor may come again; returns whether that is so. Who comes again at the same time either waits
    /// with the others, or finds that it was passed by.
    pub(crate) fn pass_by_if_unwanted(&self) -> bool {
        let mut state = self.lock();
        if self.wanted.is_open() && state.is_wanted() {
            return false;
        }
        state.fate = Fate::PassedBy;
        let waits = std::mem::take(&mut state.waits);
        drop(state);
        for (link, call) in waits {
            link.reply(call, Outcome::Cancelled);
        }
        true
    }

    /// Whether somebody waits, or may come again.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.is_open() && self.lock().is_wanted()
    }

    /// Ready once nobody waits, nor may come again.
    pub(crate) fn poll_unwanted(&self, giver: u64, cx: &mut Context<'_>) -> Poll<()> {
        self.wanted.poll_unwanted(giver, cx)
    }

    pub(crate) fn forget_giver(&self, giver: u64) {
        self.wanted.forget_giver(giver);
    }

    /// The link that the answer goes over now.
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        self.lock().waits.last().map(|(link, _)| link.clone())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.total.fetch_sub(state.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use lyceum_wire::AlignedBytes;

    use super::*;
    use crate::{ProcessAddress, ProcessKind};

    fn caller() -> Arc<Link> {
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 7));
        Link::new(
            1,
            ProcessAddress { kind: ProcessKind::Worker, node: "n".into(), process: 9, addr },
            Weak::new(),
        )
    }

    fn new(kept: &KeptCalls, link: &Arc<Link>, key: u64, lowest: u64) -> Arc<Kept> {
        match kept.find(link, key, CallKey { key, lowest }) {
            Found::New(new) => new,
            Found::Known => panic!("{key} is known"),
            Found::Refused(outcome) => panic!("{key}: {outcome:?}"),
        }
    }

    fn refused(kept: &KeptCalls, link: &Arc<Link>, key: u64, lowest: u64) -> Outcome {
        match kept.find(link, key, CallKey { key, lowest }) {
            Found::Refused(outcome) => outcome,
            _ => panic!("{key} is taken"),
        }
    }

    fn reply(bytes: usize) -> Outcome {
        Outcome::Reply { bytes: AlignedBytes::copy_from(&vec![0; bytes]), origin: None }
    }

    #[test]
    fn a_key_that_was_seen_is_known_until_its_caller_has_the_answer() {
        let (kept, link) = (KeptCalls::default(), caller());
        let first = new(&kept, &link, 1, 1);
        new(&kept, &link, 2, 1);
        assert!(matches!(kept.find(&link, 3, CallKey { key: 1, lowest: 1 }), Found::Known), "at work");
        first.finish(reply(5));
        assert!(matches!(kept.find(&link, 4, CallKey { key: 1, lowest: 1 }), Found::Known), "answered");
        new(&kept, &link, 3, 2);
        assert!(
            matches!(refused(&kept, &link, 1, 1), Outcome::Unknown(_)),
            "late, it must not be executed again"
        );
    }

    #[test]
    fn what_was_passed_by_is_new_when_it_comes_again() {
        let (kept, link) = (KeptCalls::default(), caller());
        new(&kept, &link, 1, 1).pass_by(&Outcome::Cancelled);
        new(&kept, &link, 1, 1);
    }

    #[test]
    fn l2_answers_are_kept_within_bounds_and_forgotten_with_their_caller() {
        let (kept, link) = (KeptCalls::default(), caller());
        let large = new(&kept, &link, 1, 1);
        large.finish(reply(MAX_BYTES));
        assert_eq!(kept.bytes.load(Ordering::Relaxed), MAX_BYTES);
        let beyond = new(&kept, &link, 2, 1);
        beyond.finish(reply(1));
        assert!(matches!(beyond.lock().fate, Fate::Answered(Outcome::Unknown(_))));
        for key in 3..=MAX_KEPT as u64 {
            new(&kept, &link, key, 1);
        }
        let full = MAX_KEPT as u64 + 1;
        assert!(matches!(refused(&kept, &link, full, 1), Outcome::NotSent(_)));
        drop(large);
        new(&kept, &link, full, 2);
        assert_eq!(kept.bytes.load(Ordering::Relaxed), 0, "the first has its answer");
        let death = |node: &str| ProcessDeath {
            process: 9,
            node: node.to_owned(),
            cause: crate::Cause::Signal(9),
            log_tail: Vec::new(),
        };
        kept.forget(&death("elsewhere"));
        assert!(!kept.lock().is_empty(), "another process was meant");
        kept.forget(&death("n"));
        assert!(kept.lock().is_empty());
    }

    #[test]
    fn l2_a_call_that_is_long_at_work_keeps_no_answers_of_others() {
        let (kept, link) = (KeptCalls::default(), caller());
        let long = new(&kept, &link, 1, 1);
        for key in 2..3 * MAX_KEPT as u64 {
            new(&kept, &link, key, 1).finish(reply(1 << 20));
            kept.settle(&link, key);
        }
        assert_eq!(kept.bytes.load(Ordering::Relaxed), 0);
        assert!(matches!(kept.find(&link, 9, CallKey { key: 1, lowest: 1 }), Found::Known));
        kept.settle(&link, 1);
        long.finish(reply(5));
        drop(long);
        assert_eq!(kept.bytes.load(Ordering::Relaxed), 0, "it was given up before it had its answer");
    }

    #[test]
    fn l2_errors_count_as_well() {
        let (kept, link) = (KeptCalls::default(), caller());
        new(&kept, &link, 1, 1).finish(Outcome::Failed(vec!["x".repeat(1000)]));
        assert!(kept.bytes.load(Ordering::Relaxed) >= 1000);
    }

    #[test]
    fn the_lowest_key_without_an_answer_is_that_of_the_same_actor() {
        let keys = Arc::new(Keys::default());
        let (first, other, second) = (keys.begin((1, 1)), keys.begin((2, 1)), keys.begin((1, 1)));
        assert_eq!(second.now(), CallKey { key: second.key, lowest: first.key });
        assert_eq!(other.now(), CallKey { key: other.key, lowest: other.key });
        drop(first);
        assert_eq!(second.now().lowest, second.key);
        drop((second, other));
        assert!(keys.lock().is_empty());
    }
}
