//! Gangs: actors that are placed, started again and ended together.

use std::time::Duration;

use lyceum_actor::{
    ActorAddress, ActorId, Cause, ControlError, DeathReport, GangRequest, Lifetime, ProcessDeath,
    SpawnRequest,
};

use super::super::placement::{self, Unplaced};
use super::super::record::{ActorState, GangEnding, GangState, Key, Seat};
use super::super::resources::Request;
use super::super::vocabulary::{Answer, JobEvent, Origin};
use super::Head;
use super::actors::{MAX_ARGS, MAX_GANG_WORDS, unplaced_death, words_of};
use super::names::Name;

/// In place of the number of a gang that has none yet.
const NO_UNIT: u64 = 0;

/// Most members of one gang.
pub(super) const MAX_GANG: usize = 4096;

#[derive(Debug, Clone, Default)]
pub(super) struct Gang {
    pub(super) state: GangState,
    /// Those that are of it still, by rank. Derived from `actors`.
    pub(super) members: Vec<u64>,
}

impl Gang {
    /// As an earlier term left it; its members are to come.
    pub(super) fn new(state: GangState) -> Gang {
        Gang { state, members: Vec::new() }
    }
}

impl Head {
    pub(super) fn spawn_gang(&mut self, asker: (Origin, u64), request: GangRequest) {
        if let Err(why) = self.check_gang(&request) {
            return self.refuse(asker, why);
        }
        let GangRequest { member, args } = request;
        let gang = self.allot();
        self.names.extend(Name::of(&member).map(|name| (name, gang)));
        let size = args.len() as u32;
        let mut members = Vec::with_capacity(args.len());
        for (rank, args) in (0..).zip(args) {
            let actor = self.allot();
            let request = SpawnRequest { args, ..member.clone() };
            let restarts_left = request.restarts.count;
            let seat = Some(Seat { gang, rank, size });
            let state =
                ActorState { request, spawner: asker.0, restarts_left, process: None, started: false, seat };
            self.actors.insert(actor, state);
            self.dirty.insert(Key::Actor(actor));
            members.push(actor);
        }
        self.gangs.insert(gang, Gang { state: GangState::default(), members });
        self.dirty.insert(Key::Gang(gang));
        self.spawners.insert(gang, vec![asker]);
        self.waiting.push(gang, self.now);
    }

    fn check_gang(&self, GangRequest { member, args }: &GangRequest) -> Result<(), String> {
        let role = &member.role;
        if !(1..=MAX_GANG).contains(&args.len()) {
            return Err(format!("a gang of {} {role}s is asked for, expected 1 to {MAX_GANG}", args.len()));
        }
        if member.or_get || member.lifetime == Lifetime::Detached {
            return Err(format!("a gang of {role}s is made anew, and ends with its job or its spawner"));
        }
        self.check_spawn(member)?;
        if let Some(name) = Name::of(member).filter(|name| self.names.contains_key(name)) {
            return Err(format!("the name `{name}` is taken: another name"));
        }
        let bytes: usize = args.iter().map(Vec::len).sum();
        if bytes > MAX_ARGS {
            return Err(format!(
                "the arguments of {} {role}s have {bytes} bytes, expected at most {MAX_ARGS}: send the rest as messages",
                args.len()
            ));
        }
        let words = words_of(member).saturating_mul(args.len());
        if words > MAX_GANG_WORDS {
            return Err(format!(
                "the environment, labels and resources of {} {role}s have {words} bytes, expected at most {MAX_GANG_WORDS}",
                args.len()
            ));
        }
        self.check_queue()?;
        match placement::place_gang(self.gang_candidates(NO_UNIT, role), &Request::from(member), args.len()) {
            Err(Unplaced::Never(why)) => Err(format!("{role}: {why}")),
            Ok(_) | Err(Unplaced::Later) => Ok(()),
        }
    }

    /// Gangs that an earlier term left without processes.
    pub(super) fn idle_gangs(&self) -> Vec<u64> {
        let idle = |gang: &Gang| gang.state.ending.is_none() && !self.any_runs(&gang.members);
        self.gangs.iter().filter(|(_, gang)| idle(gang)).map(|(gang, _)| *gang).collect()
    }

    fn any_runs(&self, members: &[u64]) -> bool {
        let runs = |member: &u64| self.actors.get(member).is_some_and(|state| state.process.is_some());
        members.iter().any(runs)
    }

    pub(super) fn gang_is_ending(&self, gang: u64) -> bool {
        self.gangs.get(&gang).is_some_and(|gang| gang.state.ending.is_some())
    }

    /// Is it the first of its gang?
    pub(super) fn leads(&self, actor: u64, gang: u64) -> bool {
        self.gangs.get(&gang).is_some_and(|gang| gang.members.first() == Some(&actor))
    }

    /// What a member of a gang that waits for room may ask for: all of them the same.
    pub(super) fn member_request(&self, gang: u64) -> Option<&SpawnRequest> {
        let first = self.gangs.get(&gang)?.members.first()?;
        self.actors.get(first).map(|state| &state.request)
    }

    /// Gives a gang that waits its nodes, if there is room for all of it.
    pub(super) fn schedule_gang(&mut self, gang: u64, since: Duration) {
        let Some(request) = self.member_request(gang) else { return };
        let members = self.gangs.get(&gang).map(|state| state.members.clone()).unwrap_or_default();
        let nodes = self.gang_candidates(gang, &request.role);
        match placement::place_gang(nodes, &Request::from(request), members.len()) {
            Ok(places) => {
                for (member, (node, allotment)) in members.into_iter().zip(places) {
                    self.assign(member, node, allotment);
                }
            }
            Err(Unplaced::Later) => self.waiting.put_back(gang, since),
            Err(Unplaced::Never(why)) => {
                self.end_all_of(gang, Cause::Failed(vec![why.to_string()]), false);
            }
        }
    }

    /// What a gang that has no processes waits for.
    pub(super) fn gang_waits_for(&self, gang: u64) -> String {
        let Some(request) = self.member_request(gang) else { return String::new() };
        let size = self.gangs.get(&gang).map_or(0, |state| state.members.len());
        placement::gang_waits_for(self.candidates_for(gang, &request.role), &Request::from(request), size)
    }

    /// Where the members of a gang are, by rank, if all of it has started.
    pub(super) fn addresses_of(&self, gang: u64) -> Option<Vec<ActorAddress>> {
        let members = &self.gangs.get(&gang)?.members;
        let size = self.actors.get(members.first()?)?.seat?.size as usize;
        let addresses: Option<Vec<_>> = members.iter().map(|member| self.address_of(*member)).collect();
        addresses.filter(|all| all.len() == size)
    }

    /// One more member has started: when it was the last, whoever asked for the gang has it.
    pub(super) fn member_ready(&mut self, seat: Seat) {
        let Some(addresses) = self.addresses_of(seat.gang) else { return };
        if let Some(gang) = self.gangs.get_mut(&seat.gang)
            && !std::mem::replace(&mut gang.state.started, true)
        {
            self.dirty.insert(Key::Gang(seat.gang));
        }
        for asker in self.spawners.remove(&seat.gang).unwrap_or_default() {
            self.reply(asker, Answer::Actors(addresses.clone()));
        }
    }

    /// The process of a member has ended. A fault ends all of the gang; who ends in good order leaves it.
    pub(super) fn member_gone(
        &mut self,
        actor: u64,
        seat: Seat,
        death: &ProcessDeath,
        expected: bool,
        moves: bool,
    ) {
        if expected && !moves {
            self.actor_ended(actor, death, true);
        } else if !expected {
            let Seat { gang, rank, size } = seat;
            let by = format!("its gang, of which rank {rank} of {size} failed first: {}", death.cause);
            self.end_gang(gang, GangEnding { by, first: Some((actor, death.clone())) });
        }
        self.settle_gang(seat.gang);
    }

    /// Has what runs of a gang end, to be started again where that is allowed. The first order stands.
    pub(super) fn end_gang(&mut self, gang: u64, ending: GangEnding) {
        let Some(found) = self.gangs.get_mut(&gang).filter(|gang| gang.state.ending.is_none()) else {
            return;
        };
        let (by, members) = (ending.by.clone(), found.members.clone());
        found.state.ending = Some(ending);
        self.dirty.insert(Key::Gang(gang));
        for member in members {
            if let Some(process) = self.actors.get(&member).and_then(|state| state.process) {
                self.displace(process, &by);
            }
        }
    }

    /// A gang that is ending and of which nothing runs any more is started again as a whole, or has ended.
    pub(super) fn settle_gang(&mut self, gang: u64) {
        let Some(found) = self.gangs.get(&gang).filter(|gang| !self.any_runs(&gang.members)) else { return };
        let (members, started) = (found.members.clone(), found.state.started);
        let Some(first) = members.first().and_then(|first| self.actors.get(first)) else { return };
        let size = first.seat.map_or(0, |seat| seat.size as usize);
        let (policy, left) = (first.request.restarts, first.restarts_left);
        let (job, role) = (first.request.job, first.request.role.clone());
        let Some(ending) = self.gangs.get_mut(&gang).and_then(|gang| gang.state.ending.take()) else {
            return;
        };
        self.dirty.insert(Key::Gang(gang));
        let again = match &ending.first {
            _ if members.len() < size => None,
            // It is moved, which costs none.
            None => Some(left).filter(|_| policy.count > 0),
            Some(_) if !started => None,
            Some(_) => self.restarts.again(gang, policy, left, self.now),
        };
        let by = ending.by.clone();
        let death_of = |actor: u64| match &ending.first {
            Some((first, death)) if *first == actor => (death.clone(), false),
            _ => (unplaced_death(Cause::OrderedBy(by.clone())), true),
        };
        match again {
            Some(restarts_left) => {
                for actor in members {
                    if let Some(record) = self.actors.get_mut(&actor) {
                        record.restarts_left = restarts_left;
                        self.dirty.insert(Key::Actor(actor));
                    }
                    let report = death_of(actor).0.report(&role, Some(ActorId(actor)));
                    self.notify_job(job, JobEvent::Restarting { report, restarts_left });
                }
                if ending.first.is_none() {
                    self.waiting.push(gang, self.now);
                }
            }
            None => {
                // The first to fail comes first: it is what is told to those who wait for the gang.
                let first = ending.first.as_ref().map(|(first, _)| *first);
                let others = members.into_iter().filter(|member| Some(*member) != first);
                for actor in first.into_iter().chain(others) {
                    let (death, expected) = death_of(actor);
                    self.actor_ended(actor, &death, expected);
                }
            }
        }
    }

    /// Ends a gang of which nothing runs.
    pub(super) fn end_all_of(&mut self, gang: u64, cause: Cause, expected: bool) {
        self.waiting.remove(gang);
        let members = self.gangs.get(&gang).map(|state| state.members.clone()).unwrap_or_default();
        for member in members {
            self.actor_ended(member, &unplaced_death(cause.clone()), expected);
        }
    }

    /// Orders the end of a member that has no process: with those that wait with it, or of it alone while the others are
    /// being ended.
    pub(super) fn end_idle_member(&mut self, actor: u64, gang: u64, cause: Cause) {
        if self.gang_is_ending(gang) {
            self.actor_ended(actor, &unplaced_death(cause), true);
            self.settle_gang(gang);
        } else {
            self.end_all_of(gang, cause, true);
        }
    }

    /// A member is no more. A gang that never was whole will not be.
    pub(super) fn left_gang(&mut self, actor: u64, gang: u64, report: &DeathReport) {
        let Some(state) = self.gangs.get_mut(&gang) else { return };
        state.members.retain(|member| *member != actor);
        self.dirty.insert(Key::Gang(gang));
        let (empty, started) = (state.members.is_empty(), state.state.started);
        for asker in self.spawners.remove(&gang).unwrap_or_default() {
            self.reply(asker, Answer::Error(ControlError::Died(Box::new(report.clone()))));
        }
        if empty {
            self.gangs.remove(&gang);
            self.names.retain(|_, named| *named != gang);
            self.restarts.forget(gang);
        } else if !started {
            let by = format!("its gang, of which one ended before all had started: {}", report.cause);
            self.end_gang(gang, GangEnding { by, first: None });
        }
    }
}
