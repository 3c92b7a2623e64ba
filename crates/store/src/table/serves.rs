//! Objects that other nodes' agents want, and which of them are sent to whom.
//!
//! A large object goes from here to a few nodes at a time. Whoever has it then has told so, and those who still wait are
//! told of it: so one object reaches many nodes along a tree that nobody plans, and none sends it to all.

use std::collections::BTreeMap;

use super::gone::Ending;
use super::{Effect, Served, State, Table};
use crate::object::ObjectId;

/// Peers to which one large object is sent at a time: a second one so that the link is busy between two.
pub(super) const MAX_UPLOADS: usize = 2;
/// Below this many bytes an object is sent to whoever asks: asking elsewhere would take longer.
pub(super) const SHARED_FROM: u64 = 1 << 20;
/// Objects sent at a time, of any size (L2).
const MAX_SERVINGS: usize = 64;
/// Copies of one object that are remembered (L2).
const MAX_COPIES: usize = 64;

/// What peers have asked for and do not have yet, and which copies they made. Bounded by the streams that peers may
/// open, and by the objects here.
#[derive(Debug, Default)]
pub(super) struct Serves {
    asked: BTreeMap<u64, Asked>,
    under_way: usize,
    spread: BTreeMap<ObjectId, Spread>,
}

/// One peer's wish.
#[derive(Debug)]
struct Asked {
    id: ObjectId,
    peer: String,
    insists: bool,
    /// It is being sent the object.
    served: bool,
}

/// How far one object has spread from here.
#[derive(Debug, Default)]
struct Spread {
    uploads: usize,
    /// Nodes that have it, each with the number of those that were sent there and are not back.
    copies: BTreeMap<String, usize>,
    /// Who was sent to which copy.
    sent: BTreeMap<String, String>,
}

impl Spread {
    /// Whoever was sent elsewhere is back. Returns where it was.
    fn back(&mut self, peer: &str) -> Option<String> {
        let copy = self.sent.remove(peer)?;
        if let Some(load) = self.copies.get_mut(&copy) {
            *load = load.saturating_sub(1);
        }
        Some(copy)
    }

    /// The copy with the least to do that can be told to `peer`.
    fn copy_for(&self, peer: &str) -> Option<String> {
        let free = self.copies.iter().filter(|(node, load)| *node != peer && **load < MAX_UPLOADS);
        free.min_by_key(|(_, load)| **load).map(|(node, _)| node.clone())
    }
}

impl Serves {
    pub fn forget(&mut self, id: ObjectId) {
        for serve in self.of(id) {
            self.remove(serve);
        }
        self.spread.remove(&id);
    }

    /// The serves of one object.
    pub fn of(&self, id: ObjectId) -> Vec<u64> {
        self.asked.iter().filter(|(_, asked)| asked.id == id).map(|(&serve, _)| serve).collect()
    }

    pub fn waits(&self, serve: u64) -> bool {
        self.asked.get(&serve).is_some_and(|asked| !asked.served)
    }

    fn remove(&mut self, serve: u64) -> Option<Asked> {
        let asked = self.asked.remove(&serve)?;
        if asked.served {
            self.under_way -= 1;
            if let Some(spread) = self.spread.get_mut(&asked.id) {
                spread.uploads -= 1;
            }
        }
        Some(asked)
    }

    #[cfg(test)]
    pub fn per_object(&self) -> BTreeMap<ObjectId, (u64, u64)> {
        let mut counts = BTreeMap::<_, (u64, u64)>::new();
        for asked in self.asked.values() {
            let (all, served) = counts.entry(asked.id).or_default();
            *all += 1;
            *served += u64::from(asked.served);
        }
        counts
    }
}

impl Table {
    /// A peer's agent wants the bytes. It is told at once, or when it is its turn; the object stays until then.
    pub(super) fn serve(
        &mut self,
        serve: u64,
        id: ObjectId,
        peer: String,
        insists: bool,
        effects: &mut Vec<Effect>,
    ) {
        let refused = match self.objects.get_mut(&id) {
            Some(entry) if !matches!(entry.state, State::Writing { .. } | State::Arriving(_)) => {
                entry.references += 1;
                None
            }
            Some(_) => Some(self.lost_now("it is not sealed yet")),
            None => Some(self.absent(id)),
        };
        if let Some(loss) = refused {
            effects.push(Effect::Served { serve, served: Served::Refused(loss) });
            return;
        }
        let spread = self.serves.spread.entry(id).or_default();
        if let Some(copy) = spread.back(&peer) {
            // The copy was of no use to this one, so nobody else is sent there.
            spread.copies.remove(&copy);
        }
        self.serves.asked.insert(serve, Asked { id, peer, insists, served: false });
        self.serve_those_who_wait(effects);
    }

    pub(super) fn serve_those_who_wait(&mut self, effects: &mut Vec<Effect>) {
        let waiting = self.serves.asked.iter().filter(|(_, asked)| !asked.served);
        for serve in waiting.map(|(&serve, _)| serve).collect::<Vec<_>>() {
            self.serve_if_possible(serve, effects);
        }
    }

    fn serve_if_possible(&mut self, serve: u64, effects: &mut Vec<Effect>) {
        let Serves { asked, under_way, spread } = &mut self.serves;
        let Some(Asked { id, peer, insists, served }) = asked.get_mut(&serve) else { return };
        let (id, spread) = (*id, spread.entry(*id).or_default());
        let Some(entry) = self.objects.get_mut(&id) else { return };
        let free = spread.uploads < MAX_UPLOADS || entry.len < SHARED_FROM;
        if free && *under_way < MAX_SERVINGS {
            let grant = match (&entry.state, entry.place) {
                (State::OnDisk { spill }, _) => Served::Disk { spill: *spill, len: entry.len },
                (State::Restoring(r), _) => Served::Disk { spill: r.spill, len: entry.len },
                (_, Some(place)) => Served::Memory(place),
                (_, None) => return,
            };
            *served = true;
            *under_way += 1;
            spread.uploads += 1;
            entry.open += 1;
            effects.push(Effect::Served { serve, served: grant });
            self.note_use(id);
        } else if let Some(copy) = spread.copy_for(peer).filter(|_| !*insists) {
            if let Some(load) = spread.copies.get_mut(&copy) {
                *load += 1;
            }
            spread.sent.insert(peer.clone(), copy.clone());
            effects.push(Effect::Served { serve, served: Served::Elsewhere(copy) });
            self.serves.remove(serve);
            self.drop_references(id, 1, Ending::Released);
        }
    }

    /// Rules 1 and 4 of leases in transit for a peer's agent that was reading, or that waited for that.
    pub(super) fn serve_ended(
        &mut self,
        serve: u64,
        ticket: u64,
        acknowledged: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Asked { id, peer, served, .. }) = self.serves.remove(serve) else { return };
        if acknowledged {
            self.peer_has_it(id, &peer);
            self.end_transit(id, ticket, Ending::Released);
        } else {
            self.orphan(id, ticket);
        }
        if served {
            self.close(id, 1, Ending::Released);
        } else {
            self.drop_references(id, 1, Ending::Released);
        }
        self.serve_those_who_wait(effects);
    }

    /// A peer has a copy of its own, which can be told to others.
    pub(super) fn peer_has_it(&mut self, id: ObjectId, peer: &str) {
        if let Some(spread) = self.serves.spread.get_mut(&id) {
            spread.back(peer);
            if spread.copies.len() < MAX_COPIES {
                spread.copies.entry(peer.to_owned()).or_default();
            }
        }
    }
}
