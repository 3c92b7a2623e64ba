//! The actors of one process: those that live, and how the last ones ended.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{ActorId, Cause, DeathReport, ProcessAddress, SpawnError, cell::Cell, slot::Outcome};

/// How many ended actors are remembered, to tell late callers how they ended.
const REMEMBERED: usize = 4096;

/// All actors of a process.
#[derive(Default)]
pub(crate) struct Actors {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    live: HashMap<ActorId, Arc<Cell>>,
    dead: HashMap<ActorId, (u64, DeathReport)>,
    order: VecDeque<ActorId>,
}

impl Actors {
    /// Lets a new life in. Returns the older life of the same actor, which has to end.
    pub(crate) fn admit(&self, cell: &Arc<Cell>) -> Result<Option<Arc<Cell>>, SpawnError> {
        let actor = cell.address.actor;
        let mut state = self.lock();
        let newest = state.live.get(&actor).map(|live| live.address.incarnation);
        let newest = newest.max(state.dead.get(&actor).map(|(incarnation, _)| *incarnation));
        match newest {
            Some(incarnation) if incarnation >= cell.address.incarnation => {
                Err(SpawnError::AlreadyHere { actor, incarnation })
            }
            _ => Ok(state.live.insert(actor, cell.clone())),
        }
    }

    /// Notes how an actor ended.
    pub(crate) fn bury(&self, cell: &Arc<Cell>, report: &DeathReport) {
        let actor = cell.address.actor;
        let mut state = self.lock();
        // A newer life may have taken its place.
        if state.live.get(&actor).is_some_and(|live| Arc::ptr_eq(live, cell)) {
            state.live.remove(&actor);
        }
        if state.dead.insert(actor, (cell.address.incarnation, report.clone())).is_none() {
            state.order.push_back(actor);
        }
        if state.order.len() > REMEMBERED
            && let Some(oldest) = state.order.pop_front()
        {
            state.dead.remove(&oldest);
        }
    }

    /// The actor that is meant, alive and in that incarnation, or what its callers are told.
    pub(crate) fn find(
        &self,
        actor: ActorId,
        incarnation: u64,
        here: &ProcessAddress,
    ) -> Result<Arc<Cell>, Outcome> {
        let state = self.lock();
        if let Some(cell) = state.live.get(&actor) {
            let living = cell.address.incarnation;
            if living == incarnation {
                return Ok(cell.clone());
            }
            if living > incarnation {
                let cause = Cause::OrderedBy(format!(
                    "incarnation {living} of the same actor, which took the place of incarnation {incarnation}"
                ));
                return Err(Outcome::Dead(Box::new(cell.report(cause))));
            }
        }
        if let Some((dead, report)) = state.dead.get(&actor)
            && *dead >= incarnation
        {
            return Err(Outcome::Dead(Box::new(report.clone())));
        }
        Err(Outcome::Refused(format!(
            "actor {actor} in incarnation {incarnation} has not lived in {here}, or ended long ago: look it up again"
        )))
    }

    pub(crate) fn live(&self, actor: ActorId) -> Option<Arc<Cell>> {
        self.lock().live.get(&actor).cloned()
    }

    /// The last incarnation that ended here, and how.
    pub(crate) fn death(&self, actor: ActorId) -> Option<(u64, DeathReport)> {
        self.lock().dead.get(&actor).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Cell>> {
        self.lock().live.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under this lock can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
