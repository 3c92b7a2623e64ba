//! One life of one actor, as everybody but the actor itself sees it: address, mailbox, end.

use std::{
    any::TypeId,
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::Waker,
    time::Instant,
};

use crate::{
    Actor, ActorAddress, Cause, DeathReport, ProcessDeath,
    credit::{CreditFault, Credits, Effect, Ledger},
    kept::KeptCalls,
    large::Payload,
    link::Link,
    reply::ReplyTo,
    role::fingerprint,
    saved::Saved,
    slot::{Outcome, Slot},
    work::Work,
};
use futures_util::task::AtomicWaker;

/// The senders of this process, in a [`Ledger`].
pub(crate) const LOCAL: u64 = 0;
/// How many messages a mailbox hands over at a time.
const BATCH: usize = 64;
/// How many timers' messages may wait in a mailbox: they come without credit.
const MAX_TIMER_MESSAGES: usize = 4096;

/// A message in a mailbox.
pub(crate) struct Envelope {
    /// The message type's number.
    pub(crate) message: u64,
    pub(crate) payload: Payload,
    /// The type that `payload` is the archive of, when this process archived it.
    pub(crate) origin: Option<TypeId>,
    /// Whose credit it used, and how much; `None` for a timer's message.
    pub(crate) paid: Option<(u64, Credits)>,
    pub(crate) reply: ReplyTo,
    pub(crate) deadline: Option<Instant>,
    pub(crate) trace: u64,
}

/// How an actor is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// After what is queued, for this reason.
    Drain(Cause),
    /// Now, for this reason.
    Kill(Cause),
}

/// An actor's outside.
pub(crate) struct Cell {
    pub(crate) address: ActorAddress,
    pub(crate) fingerprint: u64,
    inbox: Mutex<Inbox>,
    /// Calls that may come again; made with the first, because most actors never have one.
    kept: OnceLock<Box<KeptCalls>>,
    /// Held by whoever tells peers what the ledger decided: see [`Cell::tell`].
    telling: Mutex<()>,
    /// Wakes the actor: for mail or for its end.
    waker: AtomicWaker,
    /// What the actor is at.
    pub(crate) work: Work,
    /// What an earlier life has saved.
    pub(crate) saved: Option<Saved>,
    death: OnceLock<DeathReport>,
    batch: usize,
}

struct Inbox {
    queue: VecDeque<Envelope>,
    /// Messages from this process that wait for credit; a `tell` also waits to hear that it was handed over.
    held: VecDeque<(Envelope, Option<Arc<Slot>>)>,
    ledger: Ledger,
    /// What the ledger decided about peers that have not been told, in order.
    untold: Vec<Effect>,
    timer_messages: usize,
    ending: Option<Ending>,
    dead: bool,
    watchers: Vec<Arc<Slot>>,
    remote_watchers: Vec<u64>,
}

/// Whether peers are to be [told](Cell::tell) what the ledger decided.
#[must_use = "who waits for credit would wait for ever"]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Untold(bool);

/// What came of offering a message.
pub(crate) enum Offered {
    /// It is in the mailbox.
    Queued,
    /// It waits for credit.
    Held,
    /// It will not be taken; its caller has been told.
    Rejected(Outcome),
}

/// What the end of an actor leaves to be done for the network.
pub(crate) struct Bequest {
    /// Links whose peers hold credit or watch.
    pub(crate) links: Vec<u64>,
}

impl Cell {
    pub(crate) fn of<A: Actor>(address: ActorAddress) -> Self {
        let budget = A::MAILBOX;
        Cell {
            address,
            fingerprint: fingerprint::<A::Role>(),
            inbox: Mutex::new(Inbox {
                queue: VecDeque::new(),
                held: VecDeque::new(),
                ledger: Ledger::new(budget),
                untold: Vec::new(),
                timer_messages: 0,
                ending: None,
                dead: false,
                watchers: Vec::new(),
                remote_watchers: Vec::new(),
            }),
            kept: OnceLock::new(),
            telling: Mutex::new(()),
            waker: AtomicWaker::new(),
            work: Work::of::<A>(),
            saved: None,
            death: OnceLock::new(),
            // A batch's credit comes back when all of it is done: keep it a small part of the budget.
            batch: (budget.count as usize / 8).clamp(1, BATCH),
        }
    }

    /// The same, of an actor that has lived before.
    pub(crate) fn with_saved(self, saved: Option<Saved>) -> Self {
        Cell { saved, ..self }
    }

    /// A message from this process. `handed` is completed when the message enters the mailbox, unless it does so
    /// at once.
    pub(crate) fn offer(&self, envelope: Envelope, handed: Option<Arc<Slot>>) -> (Offered, Untold) {
        let mut effects = Vec::new();
        let mut inbox = self.lock();
        if let Some(outcome) = inbox.closed(self) {
            drop(inbox);
            envelope.reply.finish(outcome.clone());
            return (Offered::Rejected(outcome), Untold(false));
        }
        let (_, cost) = envelope.paid.unwrap_or((LOCAL, Credits::NONE));
        if inbox.held.is_empty() && inbox.ledger.received(LOCAL, cost).is_ok() {
            inbox.queue.push_back(envelope);
            drop(inbox);
            self.waker.wake();
            return (Offered::Queued, Untold(false));
        }
        let first = inbox.held.is_empty();
        inbox.held.push_back((envelope, handed));
        if !first {
            return (Offered::Held, Untold(false));
        }
        let mut done = Vec::new();
        inbox.release_held(&mut effects, &mut done);
        let held = !inbox.held.is_empty();
        let untold = inbox.note(effects);
        drop(inbox);
        let mut offered = if held { Offered::Held } else { Offered::Queued };
        for (slot, outcome) in done {
            match outcome {
                Outcome::Sent => drop(slot.complete(Outcome::Sent)),
                refused => offered = Offered::Rejected(refused),
            }
        }
        self.waker.wake();
        (offered, untold)
    }

    /// Messages from the peer behind link `peer`, which must have paid for them. Those before one that it has not paid for
    /// are in the mailbox.
    pub(crate) fn deliver_all(
        &self,
        peer: u64,
        envelopes: impl Iterator<Item = Envelope>,
    ) -> Result<(), CreditFault> {
        let mut inbox = self.lock();
        if let Some(outcome) = inbox.closed(self) {
            drop(inbox);
            envelopes.for_each(|envelope| envelope.reply.finish(outcome.clone()));
            return Ok(());
        }
        let mut delivered = Ok(());
        for envelope in envelopes {
            let (_, cost) = envelope.paid.unwrap_or((peer, Credits::NONE));
            delivered = inbox.ledger.received(peer, cost);
            if delivered.is_err() {
                break;
            }
            inbox.queue.push_back(envelope);
        }
        drop(inbox);
        self.waker.wake();
        delivered
    }

    /// Calls that may come again.
    pub(crate) fn kept(&self) -> &KeptCalls {
        self.kept.get_or_init(Box::default)
    }

    /// A call that was sent over `link` alone does not come again.
    pub(crate) fn settle_kept(&self, link: &Link, key: u64) {
        if let Some(kept) = self.kept.get() {
            kept.settle(link, key);
        }
    }

    /// A process is gone: none of its calls comes again.
    pub(crate) fn forget_kept(&self, death: &ProcessDeath) {
        if let Some(kept) = self.kept.get() {
            kept.forget(death);
        }
    }

    /// A message from the peer behind link `peer` that has come before, and is done as it comes.
    pub(crate) fn passed_by(&self, peer: u64, cost: Credits) -> Result<Untold, CreditFault> {
        let mut inbox = self.lock();
        if !inbox.dead {
            inbox.ledger.received(peer, cost)?;
        }
        drop(inbox);
        Ok(self.consumed(&[(peer, cost)]))
    }

    /// A timer's message: outside the budget, with a bound of its own. Returns whether it was taken.
    pub(crate) fn deliver_timer(&self, envelope: Envelope) -> bool {
        let mut inbox = self.lock();
        if inbox.ending.is_some() || inbox.dead || inbox.timer_messages >= MAX_TIMER_MESSAGES {
            return false;
        }
        inbox.timer_messages += 1;
        inbox.queue.push_back(envelope);
        drop(inbox);
        self.waker.wake();
        true
    }

    /// The peer behind `link` asks for credit. An actor that is stopping gives none.
    pub(crate) fn credit_asked(
        &self,
        link: u64,
        returning: Credits,
        cost: Credits,
    ) -> Result<(Result<(), CreditFault>, Untold), Outcome> {
        self.with_ledger(Inbox::closed, |ledger, effects| ledger.want(link, returning, cost, effects))
    }

    /// The peer behind `link` gives credit back; senders of this process may wait for it, also while the actor drains.
    pub(crate) fn credit_returned(
        &self,
        link: u64,
        credits: Credits,
    ) -> Result<(Result<(), CreditFault>, Untold), Outcome> {
        self.with_ledger(Inbox::dead, |ledger, effects| ledger.returned(link, credits, effects))
    }

    /// Changes the credit ledger, unless `shut` says that the mailbox is; looked at under one lock, so that whoever asks is
    /// either in the ledger when the actor dies, or told here.
    fn with_ledger(
        &self,
        shut: impl FnOnce(&Inbox, &Cell) -> Option<Outcome>,
        change: impl FnOnce(&mut Ledger, &mut Vec<Effect>) -> Result<(), CreditFault>,
    ) -> Result<(Result<(), CreditFault>, Untold), Outcome> {
        let mut effects = Vec::new();
        let mut done = Vec::new();
        let mut inbox = self.lock();
        if let Some(outcome) = shut(&inbox, self) {
            return Err(outcome);
        }
        let result = change(&mut inbox.ledger, &mut effects);
        inbox.settle_local(&mut effects, &mut done);
        let untold = inbox.note(effects);
        drop(inbox);
        finish_all(done);
        self.waker.wake();
        Ok((result, untold))
    }

    /// The next messages, once there are some, or the end when the actor is to end gracefully and the mailbox is empty.
    pub(crate) fn take_batch(&self, into: &mut VecDeque<Envelope>) -> Taken {
        let mut inbox = self.lock();
        if inbox.queue.is_empty() {
            return match &inbox.ending {
                Some(Ending::Drain(cause) | Ending::Kill(cause)) if inbox.held.is_empty() => {
                    Taken::Ended(cause.clone())
                }
                _ => Taken::Nothing,
            };
        }
        if inbox.queue.len() <= self.batch {
            std::mem::swap(&mut inbox.queue, into);
        } else {
            into.extend(inbox.queue.drain(..self.batch));
        }
        let timers = into.iter().filter(|envelope| envelope.paid.is_none()).count();
        inbox.timer_messages -= timers.min(inbox.timer_messages);
        Taken::Some
    }

    /// Messages of `peer` that cost `cost` in all are done.
    pub(crate) fn consumed(&self, done: &[(u64, Credits)]) -> Untold {
        let mut effects = Vec::new();
        let mut finished = Vec::new();
        let mut inbox = self.lock();
        for (peer, cost) in done {
            inbox.ledger.consumed(*peer, *cost, &mut effects);
        }
        inbox.settle_local(&mut effects, &mut finished);
        let untold = inbox.note(effects);
        drop(inbox);
        finish_all(finished);
        untold
    }

    /// Messages that wait for their turn, those included that wait for room in the mailbox.
    pub(crate) fn waiting(&self) -> u64 {
        let inbox = self.lock();
        (inbox.queue.len() + inbox.held.len() + self.work.behind()) as u64
    }

    /// Wakes the actor.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// Registers who is woken for mail or for the end.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Asks the actor to end. A kill overrules a graceful stop; otherwise whoever asked first gives the reason.
    pub(crate) fn end(&self, ending: Ending) {
        let mut inbox = self.lock();
        match (&inbox.ending, &ending) {
            (None, _) | (Some(Ending::Drain(_)), Ending::Kill(_)) => inbox.ending = Some(ending),
            _ => {}
        }
        drop(inbox);
        self.waker.wake();
    }

    /// Why the actor must end at once, if it must.
    pub(crate) fn killed(&self) -> Option<Cause> {
        match &self.lock().ending {
            Some(Ending::Kill(cause)) => Some(cause.clone()),
            _ => None,
        }
    }

    /// How it ended, if it did.
    pub(crate) fn death(&self) -> Option<&DeathReport> {
        self.death.get()
    }

    /// A report of this actor's end.
    pub(crate) fn report(&self, cause: Cause) -> DeathReport {
        DeathReport {
            role: self.address.role.clone(),
            actor: Some(self.address.actor),
            process: self.address.process.process,
            node: self.address.process.node.clone(),
            cause,
            log_tail: Vec::new(),
        }
    }

    /// Completes `slot` with the report when the actor is dead.
    pub(crate) fn watch(&self, slot: Arc<Slot>) {
        let mut inbox = self.lock();
        match self.death.get() {
            Some(report) => {
                drop(inbox);
                slot.complete(Outcome::Dead(Box::new(report.clone())));
            }
            None => {
                inbox.watchers.retain(|slot| slot.is_open());
                inbox.watchers.push(slot);
            }
        }
    }

    /// Has the peer behind `link` told when the actor is dead; at once if it is.
    pub(crate) fn watch_from(&self, link: u64) -> Result<(), Box<DeathReport>> {
        let mut inbox = self.lock();
        if let Some(report) = self.death.get() {
            return Err(Box::new(report.clone()));
        }
        if !inbox.remote_watchers.contains(&link) {
            inbox.remote_watchers.push(link);
        }
        Ok(())
    }

    /// The connection behind `link` is closed.
    pub(crate) fn peer_gone(&self, link: u64) -> Untold {
        let mut effects = Vec::new();
        let mut done = Vec::new();
        let mut inbox = self.lock();
        inbox.ledger.peer_gone(link, &mut effects);
        inbox.remote_watchers.retain(|watcher| *watcher != link);
        inbox.settle_local(&mut effects, &mut done);
        let untold = inbox.note(effects);
        drop(inbox);
        finish_all(done);
        untold
    }

    /// Hands to `tell` what the ledger decided about peers, in the order of the decisions, whichever threads they fell
    /// on: a peer that is asked to give back before it hears of a grant would keep that grant for ever.
    pub(crate) fn tell(&self, untold: Untold, tell: impl FnMut(Effect)) {
        if !untold.0 {
            return;
        }
        // Who comes second finds that the first has told its effects too.
        let _turn = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let effects = std::mem::take(&mut self.lock().untold);
        effects.into_iter().for_each(tell);
    }

    /// Calls back idle credits.
    pub(crate) fn idle_round(&self) -> Untold {
        let mut effects = Vec::new();
        let mut done = Vec::new();
        let mut inbox = self.lock();
        if !inbox.dead && !inbox.ledger.is_unused() {
            inbox.ledger.idle_round(&mut effects);
            inbox.settle_local(&mut effects, &mut done);
        }
        let untold = inbox.note(effects);
        drop(inbox);
        finish_all(done);
        untold
    }

    /// The actor is dead: everyone who waits in its mailbox or for its end is told.
    pub(crate) fn die(&self, report: DeathReport) -> Bequest {
        let mut inbox = self.lock();
        inbox.dead = true;
        let report = self.death.get_or_init(|| report);
        let queue = std::mem::take(&mut inbox.queue);
        let held = std::mem::take(&mut inbox.held);
        let watchers = std::mem::take(&mut inbox.watchers);
        let mut links: Vec<u64> = inbox.ledger.peers().filter(|peer| *peer != LOCAL).collect();
        links.append(&mut inbox.remote_watchers);
        links.sort_unstable();
        links.dedup();
        drop(inbox);
        for slot in watchers {
            slot.complete(Outcome::Dead(Box::new(report.clone())));
        }
        for envelope in queue {
            envelope.reply.finish(Outcome::Dead(Box::new(report.clone())));
        }
        for (envelope, handed) in held {
            envelope.reply.finish(Outcome::Dead(Box::new(report.clone())));
            if let Some(handed) = handed {
                handed.complete(Outcome::Dead(Box::new(report.clone())));
            }
        }
        Bequest { links }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        // Nothing that is done under this lock can panic half way.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`Cell::take_batch`] found.
#[derive(Debug)]
pub(crate) enum Taken {
    Some,
    Nothing,
    /// The actor is to end gracefully, for this reason, and the mailbox is empty.
    Ended(Cause),
}

type Finished = Vec<(Arc<Slot>, Outcome)>;

impl Inbox {
    fn note(&mut self, effects: Vec<Effect>) -> Untold {
        self.untold.extend(effects);
        Untold(!self.untold.is_empty())
    }

    /// What everybody is told of a dead actor.
    fn dead(&self, cell: &Cell) -> Option<Outcome> {
        cell.death.get().filter(|_| self.dead).map(|report| Outcome::Dead(Box::new(report.clone())))
    }

    /// What a newcomer is told when the mailbox takes nothing any more.
    fn closed(&self, cell: &Cell) -> Option<Outcome> {
        if self.dead {
            return self.dead(cell);
        }
        self.ending.as_ref().map(|_| Outcome::NotSent(format!("{} is stopping", cell.address)))
    }

    /// Carries out on the spot those effects that concern senders of this process.
    fn settle_local(&mut self, effects: &mut Vec<Effect>, done: &mut Finished) {
        let mut local = false;
        let mut reclaim = false;
        effects.retain(|effect| match effect {
            Effect::Grant { peer: LOCAL, .. } => {
                local = true;
                false
            }
            Effect::Reclaim { peer: LOCAL } => {
                reclaim = true;
                false
            }
            _ => true,
        });
        if reclaim {
            let held = self.ledger.granted(LOCAL);
            // What the ledger says is held can be returned.
            let _ = self.ledger.returned(LOCAL, held, effects);
            self.settle_local(effects, done);
        }
        if local {
            self.release_held(effects, done);
        }
    }

    /// Moves held messages into the queue as far as credit reaches, and asks for more when it ends.
    fn release_held(&mut self, effects: &mut Vec<Effect>, done: &mut Finished) {
        while let Some((envelope, handed)) = self.held.front() {
            // Who gave up on handing it over has taken it back.
            let wanted = handed.as_ref().map_or_else(|| envelope.reply.is_wanted(), |slot| slot.is_open());
            if !wanted {
                self.held.pop_front();
                continue;
            }
            let cost = envelope.paid.map_or(Credits::NONE, |(_, cost)| cost);
            if self.ledger.received(LOCAL, cost).is_err() {
                let returning = self.ledger.granted(LOCAL);
                match self.ledger.want(LOCAL, returning, cost, effects) {
                    Ok(()) | Err(CreditFault::AskedTwice) => {}
                    Err(fault) => {
                        if let Some((envelope, handed)) = self.held.pop_front() {
                            let outcome = Outcome::NotSent(fault.to_string());
                            done.extend(envelope.reply.local().map(|slot| (slot, outcome.clone())));
                            done.extend(handed.map(|slot| (slot, outcome)));
                        }
                        continue;
                    }
                }
                // The request may have been granted on the spot.
                let before = effects.len();
                effects.retain(|effect| !matches!(effect, Effect::Grant { peer: LOCAL, .. }));
                if effects.len() == before {
                    return;
                }
                continue;
            }
            if let Some((envelope, handed)) = self.held.pop_front() {
                self.queue.push_back(envelope);
                done.extend(handed.map(|slot| (slot, Outcome::Sent)));
            }
        }
    }
}

fn finish_all(done: Finished) {
    for (slot, outcome) in done {
        slot.complete(outcome);
    }
}
