//! Credits: who may send how much to a mailbox. Pure: no clock, no I/O, ordered maps.
//!
//! A mailbox has one budget, in count and bytes (L2). It is shared out per sending process; a process may only
//! send what it holds credits for, so that the receiver never has to make its network wait. Where every credit
//! is, at any time:
//!
//! > free + granted to each peer (unspent, or spent and on its way) + queued from each peer = budget
//!
//! Peers that wait are served in order of arrival, and nobody overtakes a large message: credits of others are
//! called back until there is enough.

use std::collections::{BTreeMap, VecDeque};

/// An amount of credit: a number of messages and of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Credits {
    /// Messages.
    pub count: u32,
    /// Bytes of their archives.
    pub bytes: u64,
}

impl Credits {
    pub(crate) const NONE: Credits = Credits { count: 0, bytes: 0 };

    /// What one message of `bytes` costs.
    pub(crate) fn of_message(bytes: usize) -> Self {
        Credits { count: 1, bytes: bytes as u64 }
    }

    pub(crate) fn covers(self, cost: Credits) -> bool {
        self.count >= cost.count && self.bytes >= cost.bytes
    }

    pub(crate) fn is_none(self) -> bool {
        self == Credits::NONE
    }

    pub(crate) fn plus(self, other: Credits) -> Self {
        Credits {
            count: self.count.saturating_add(other.count),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// What is left after `cost`, if it is covered.
    pub(crate) fn minus(self, cost: Credits) -> Option<Self> {
        self.covers(cost).then(|| Credits { count: self.count - cost.count, bytes: self.bytes - cost.bytes })
    }

    fn saturating_minus(self, other: Credits) -> Self {
        Credits {
            count: self.count.saturating_sub(other.count),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    fn min(self, other: Credits) -> Self {
        Credits { count: self.count.min(other.count), bytes: self.bytes.min(other.bytes) }
    }

    fn max(self, other: Credits) -> Self {
        Credits { count: self.count.max(other.count), bytes: self.bytes.max(other.bytes) }
    }

    fn divided(self, by: usize) -> Self {
        Credits {
            count: (self.count / u32::try_from(by).unwrap_or(u32::MAX)).max(1),
            bytes: self.bytes / by as u64,
        }
    }
}

/// What the owner of a [`Ledger`] has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Tell `peer` that it holds this much more, and whether that answers its request.
    Grant { peer: u64, credits: Credits, answer: bool },
    /// Ask `peer` to give back what it has not spent.
    Reclaim { peer: u64 },
}

/// What no honest peer does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum CreditFault {
    #[error("a message of {} bytes came from a peer that holds credit for {} messages and {} bytes", .cost.bytes, .held.count, .held.bytes)]
    NoCredit { cost: Credits, held: Credits },
    #[error("a peer gave back credit for {} messages and {} bytes but holds {} and {}", .returned.count, .returned.bytes, .held.count, .held.bytes)]
    NotHeld { returned: Credits, held: Credits },
    #[error("a peer asked for credit while an earlier request of its own waits")]
    AskedTwice,
    #[error("a message of {} bytes is larger than the mailbox, which holds {} bytes", .cost.bytes, .budget.bytes)]
    TooLarge { cost: Credits, budget: Credits },
}

/// The receiver's side: a mailbox's budget and where each part of it is.
#[derive(Debug)]
pub(crate) struct Ledger {
    budget: Credits,
    free: Credits,
    peers: BTreeMap<u64, Account>,
    waiting: VecDeque<(u64, Credits)>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Account {
    granted: Credits,
    queued: Credits,
    /// Sent something since the last idle round.
    active: bool,
    /// Has been asked to give back and has not answered.
    reclaiming: bool,
    /// Was granted something since it was last asked to give back. Without that, what it holds is spent and on its way:
    /// asking again would only be answered with nothing, and asked again, for as long as somebody waits.
    replenished: bool,
    /// Gone: credits come back when what is queued has been consumed.
    gone: bool,
}

impl Ledger {
    pub(crate) fn new(budget: Credits) -> Self {
        Ledger { budget, free: budget, peers: BTreeMap::new(), waiting: VecDeque::new() }
    }

    /// `peer` gives back `returning` and wants to send a message of `cost`.
    pub(crate) fn want(
        &mut self,
        peer: u64,
        returning: Credits,
        cost: Credits,
        effects: &mut Vec<Effect>,
    ) -> Result<(), CreditFault> {
        if self.waiting.iter().any(|(waiting, _)| *waiting == peer) {
            return Err(CreditFault::AskedTwice);
        }
        self.peers.entry(peer).or_default().active = true;
        // Whatever comes of the request: what the peer gave back it no longer has.
        self.take_back(peer, returning)?;
        let fits = self.budget.covers(cost);
        if fits {
            self.waiting.push_back((peer, cost));
        }
        self.serve(effects);
        if fits { Ok(()) } else { Err(CreditFault::TooLarge { cost, budget: self.budget }) }
    }

    /// A message of `cost` arrived from `peer` and is queued.
    pub(crate) fn received(&mut self, peer: u64, cost: Credits) -> Result<(), CreditFault> {
        let no_credit = |held| CreditFault::NoCredit { cost, held };
        let account = self.peers.get_mut(&peer).ok_or(no_credit(Credits::NONE))?;
        account.granted = account.granted.minus(cost).ok_or(no_credit(account.granted))?;
        account.queued = account.queued.plus(cost);
        account.active = true;
        Ok(())
    }

    /// Messages of `cost` in all from `peer` have left the queue.
    pub(crate) fn consumed(&mut self, peer: u64, cost: Credits, effects: &mut Vec<Effect>) {
        let share = self.share();
        let Some(account) = self.peers.get_mut(&peer) else { return };
        account.queued = account.queued.saturating_minus(cost);
        self.free = self.free.plus(cost);
        if account.gone {
            if account.queued.is_none() {
                self.peers.remove(&peer);
            }
        } else if self.waiting.is_empty() && !account.reclaiming {
            // A peer that still has half of its share is left alone: one grant for many messages.
            let half = Credits { count: share.count / 2, bytes: share.bytes / 2 };
            if account.granted.count <= half.count || account.granted.bytes <= half.bytes {
                let credits = share.saturating_minus(account.granted).min(self.free);
                if !credits.is_none() {
                    account.replenished = true;
                    account.granted = account.granted.plus(credits);
                    self.free = self.free.saturating_minus(credits);
                    effects.push(Effect::Grant { peer, credits, answer: false });
                }
            }
        }
        self.serve(effects);
    }

    /// `peer` answers a reclaim with what it had left, which may be nothing.
    pub(crate) fn returned(
        &mut self,
        peer: u64,
        credits: Credits,
        effects: &mut Vec<Effect>,
    ) -> Result<(), CreditFault> {
        self.take_back(peer, credits)?;
        self.serve(effects);
        Ok(())
    }

    /// The connection to `peer` is closed. What it sent stays queued.
    pub(crate) fn peer_gone(&mut self, peer: u64, effects: &mut Vec<Effect>) {
        let Some(account) = self.peers.get_mut(&peer) else { return };
        self.free = self.free.plus(account.granted);
        account.granted = Credits::NONE;
        account.gone = true;
        if account.queued.is_none() {
            self.peers.remove(&peer);
        }
        self.waiting.retain(|(waiting, _)| *waiting != peer);
        self.serve(effects);
    }

    /// Calls back the credits of peers that sent nothing since the last round, and forgets those that hold none.
    pub(crate) fn idle_round(&mut self, effects: &mut Vec<Effect>) {
        let waiting = &self.waiting;
        self.peers.retain(|peer, account| {
            let idle = !account.active
                && account.granted.is_none()
                && account.queued.is_none()
                && !account.reclaiming
                && !waiting.iter().any(|(waiting, _)| waiting == peer);
            !idle
        });
        for (peer, account) in &mut self.peers {
            if !account.active && !account.granted.is_none() && !account.reclaiming && account.replenished {
                (account.reclaiming, account.replenished) = (true, false);
                effects.push(Effect::Reclaim { peer: *peer });
            }
            account.active = false;
        }
    }

    /// Whether an [`idle_round`](Ledger::idle_round) could do anything.
    pub(crate) fn is_unused(&self) -> bool {
        self.peers.is_empty()
    }

    /// Everyone who holds or has held credit and is still connected.
    pub(crate) fn peers(&self) -> impl Iterator<Item = u64> + '_ {
        self.peers.iter().filter(|(_, account)| !account.gone).map(|(peer, _)| *peer)
    }

    /// What `peer` may still send.
    pub(crate) fn granted(&self, peer: u64) -> Credits {
        self.peers.get(&peer).map_or(Credits::NONE, |account| account.granted)
    }

    /// A fair share, with one left over for whoever comes next.
    fn share(&self) -> Credits {
        self.budget.divided(self.peers.len() + 1)
    }

    fn take_back(&mut self, peer: u64, credits: Credits) -> Result<(), CreditFault> {
        let Some(account) = self.peers.get_mut(&peer) else {
            // An account that was forgotten held nothing.
            return if credits.is_none() {
                Ok(())
            } else {
                Err(CreditFault::NotHeld { returned: credits, held: Credits::NONE })
            };
        };
        let held = account.granted;
        account.granted = held.minus(credits).ok_or(CreditFault::NotHeld { returned: credits, held })?;
        account.reclaiming = false;
        self.free = self.free.plus(credits);
        Ok(())
    }

    fn serve(&mut self, effects: &mut Vec<Effect>) {
        while let Some(&(peer, cost)) = self.waiting.front() {
            if !self.free.covers(cost) {
                for (other, account) in &mut self.peers {
                    let may_give = !account.granted.is_none() && account.replenished;
                    if *other != peer && may_give && !account.reclaiming && !account.gone {
                        (account.reclaiming, account.replenished) = (true, false);
                        effects.push(Effect::Reclaim { peer: *other });
                    }
                }
                return;
            }
            let share = self.share();
            let account = self.peers.entry(peer).or_default();
            let credits = cost.max(share.saturating_minus(account.granted)).min(self.free);
            account.replenished = true;
            account.granted = account.granted.plus(credits);
            self.free = self.free.saturating_minus(credits);
            effects.push(Effect::Grant { peer, credits, answer: true });
            self.waiting.pop_front();
        }
    }
}

/// The sender's side: what a process may still send to one mailbox.
#[derive(Debug, Default)]
pub(crate) struct Purse {
    held: Credits,
    requested: bool,
}

impl Purse {
    /// Takes the cost of one message out, if it is there.
    pub(crate) fn spend(&mut self, cost: Credits) -> bool {
        match self.held.minus(cost) {
            Some(rest) => {
                self.held = rest;
                true
            }
            None => false,
        }
    }

    /// What to give back with a new request, or `None` while an earlier one waits for its answer.
    pub(crate) fn request(&mut self) -> Option<Credits> {
        if self.requested {
            return None;
        }
        self.requested = true;
        Some(std::mem::take(&mut self.held))
    }

    /// The receiver granted this much more; `answer` when that was asked for.
    pub(crate) fn granted(&mut self, credits: Credits, answer: bool) {
        self.held = self.held.plus(credits);
        self.requested &= !answer;
    }

    /// Whether a request is under way.
    pub(crate) fn is_waiting(&self) -> bool {
        self.requested
    }

    /// All that is left, for a receiver that calls it back.
    pub(crate) fn give_back(&mut self) -> Credits {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
#[path = "credit_tests.rs"]
mod tests;
