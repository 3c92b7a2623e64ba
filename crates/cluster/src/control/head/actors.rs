//! Actors and their processes: placing, launching, ending, starting again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use lyceum_actor::{
    ActorAddress, ActorId, Cause, ControlError, Lifetime, ProcessAddress, ProcessDeath, ProcessKind,
    SpawnRequest,
};

use super::super::placement::{self, Candidate, Unplaced};
use super::super::record::{ActorState, Key, ProcessState};
use super::super::resources::{Allotment, Ledger, Request};
use super::super::vocabulary::{Answer, Caption, Command, JobEvent, Launch, Origin};
use super::demand::Further;
use super::names::Name;
use super::queue::{Kept, keeps_room};
use super::{Head, MAX_WAITING};

/// Longest arguments of an actor, in bytes: they travel in one frame and are kept for restarts.
pub(super) const MAX_ARGS: usize = 768 << 10;
/// Longest of all else that a request says, in bytes: it is kept, and sent, for each member of a gang.
const MAX_WORDS: usize = 64 << 10;
/// The same for all members of a gang together.
pub(super) const MAX_GANG_WORDS: usize = 4 << 20;

impl Head {
    pub(super) fn spawn(&mut self, asker: (Origin, u64), mut request: SpawnRequest) {
        if let Err(why) = self.check_spawn(&request) {
            self.refuse(asker, why);
            return;
        }
        let name = Name::of(&request);
        if let Some(actor) = name.as_ref().and_then(|name| self.names.get(name).copied()) {
            return self.get(asker, &request, actor);
        }
        if let Err(why) = self.check_room(&request) {
            self.refuse(asker, why);
            return;
        }
        if request.lifetime == Lifetime::Detached {
            request.job = self.detached_job(&request);
        }
        let actor = self.allot();
        self.names.extend(name.map(|name| (name, actor)));
        let restarts_left = request.restarts.count;
        let state = ActorState {
            request,
            spawner: asker.0,
            restarts_left,
            process: None,
            started: false,
            seat: None,
        };
        self.actors.insert(actor, state);
        self.dirty.insert(Key::Actor(actor));
        self.spawners.insert(actor, vec![asker]);
        self.waiting.push(actor, self.now);
    }

    pub(super) fn check_spawn(&self, request: &SpawnRequest) -> Result<(), String> {
        let role = &request.role;
        match self.jobs.get(&request.job) {
            None => return Err(format!("{role} is asked for in job {}, which does not exist", request.job)),
            Some(job) if job.ended_by.is_some() => return Err(format!("job {} is ending", request.job)),
            Some(_) => {}
        }
        Self::check_names(request)?;
        self.check_program(request)?;
        let len = request.args.len();
        if len > MAX_ARGS {
            return Err(format!(
                "the arguments of {role} have {len} bytes, expected at most {MAX_ARGS}: send the rest as a message"
            ));
        }
        match words_of(request) {
            words if words > MAX_WORDS => Err(format!(
                "the environment, labels and resources of {role} have {words} bytes, expected at most {MAX_WORDS}"
            )),
            _ => Ok(()),
        }
    }

    /// That there is, or may come to be, room for it.
    fn check_room(&self, request: &SpawnRequest) -> Result<(), String> {
        self.check_queue()?;
        let possible = placement::possible(self.candidates(&request.role), &Request::from(request));
        possible.map_err(|why| format!("{}: {why}", request.role))
    }

    /// That one more may wait.
    pub(super) fn check_queue(&self) -> Result<(), String> {
        match self.waiting.len() >= MAX_WAITING {
            true => Err(format!("{MAX_WAITING} actors wait for room already")),
            false => Ok(()),
        }
    }

    /// The nodes, and what one is that may be asked for.
    pub(super) fn candidates<'a>(
        &'a self,
        role: &str,
    ) -> impl Iterator<Item = Candidate<'a>> + Clone + use<'a> {
        let failures = self.failures.of_role(role);
        let nodes = self.nodes.iter().map(move |(name, node)| Candidate {
            name,
            labels: &node.labels,
            ledger: &node.ledger,
            failures: failures.get(&**name).copied().unwrap_or(0),
            closed: node.closed(),
        });
        nodes.chain(self.further.as_ref().map(Further::candidate))
    }

    /// The nodes as those find them for whom no room is kept.
    pub(super) fn candidates_for<'a>(
        &'a self,
        unit: u64,
        role: &str,
    ) -> impl Iterator<Item = Candidate<'a>> + Clone + use<'a> {
        let kept = self.kept.as_ref().filter(|kept| kept.unit != unit);
        self.candidates(role).map(move |node| match kept.filter(|kept| kept.nodes.contains(node.name)) {
            Some(kept) => Candidate { closed: node.closed.or(Some(&kept.why)), ..node },
            None => node,
        })
    }

    /// What an actor that has no process waits for.
    pub(super) fn waits_for(&self, actor: u64, request: &SpawnRequest) -> String {
        placement::waits_for(self.candidates_for(actor, &request.role), &Request::from(request))
    }

    /// Gives those who wait what has become free, in the order in which they asked.
    pub(super) fn schedule(&mut self) {
        self.keep_room();
        for (actor, since) in self.waiting.take_untried() {
            let Some(state) = self.actors.get(&actor) else {
                self.schedule_gang(actor, since);
                continue;
            };
            let request = Request::from(&state.request);
            match placement::place(self.candidates_for(actor, &state.request.role), &request) {
                Ok((node, allotment)) => self.assign(actor, node, allotment),
                Err(Unplaced::Later) => self.waiting.put_back(actor, since),
                Err(Unplaced::Never(why)) => {
                    let death = unplaced_death(Cause::Failed(vec![why.to_string()]));
                    self.actor_ended(actor, &death, false);
                }
            }
        }
    }

    /// Keeps room for the first in line when it has waited long enough, and no more when it has it or has had its time.
    fn keep_room(&mut self) {
        let first = self.waiting.first().filter(|(_, since)| keeps_room(self.now.saturating_sub(*since)));
        if self.kept.as_ref().map(|kept| kept.unit) == first.map(|(unit, _)| unit) {
            return;
        }
        self.kept = first.map(|(unit, _)| self.room_for(unit));
        // It may be room for others, or for them no more.
        self.waiting.room_grew();
    }

    /// Nodes may have come or gone since room was kept.
    pub(super) fn keep_room_again(&mut self) {
        let Some(unit) = self.kept.as_ref().map(|kept| kept.unit) else { return };
        let kept = self.room_for(unit);
        if self.kept.as_ref() != Some(&kept) {
            self.kept = Some(kept);
            self.waiting.room_grew();
        }
    }

    /// The nodes that would hold `unit` if nothing else were on them; none, where that cannot be now.
    fn room_for(&self, unit: u64) -> Kept {
        let gang = self.gangs.get(&unit);
        let what = if gang.is_some() { "gang" } else { "actor" };
        let why = format!("its room is kept for {what} {unit}, which has waited for long");
        let empty: BTreeMap<&str, Ledger> = self
            .nodes
            .iter()
            .map(|(name, node)| (name.as_str(), Ledger::new(node.ledger.capacity().clone())))
            .collect();
        let place = || -> Option<BTreeSet<String>> {
            let actor = gang.map_or(Some(&unit), |gang| gang.members.first())?;
            let request = &self.actors.get(actor)?.request;
            let nodes = self.candidates(&request.role);
            let nodes = nodes.filter_map(|node| Some(Candidate { ledger: empty.get(node.name)?, ..node }));
            let request = Request::from(request);
            Some(match gang {
                Some(gang) => {
                    let places = placement::place_gang(nodes, &request, gang.members.len()).ok()?;
                    places.into_iter().map(|(node, _)| node).collect()
                }
                None => BTreeSet::from([placement::place(nodes, &request).ok()?.0]),
            })
        };
        Kept { unit, nodes: place().unwrap_or_default(), why }
    }

    /// Gives an actor a process on `node`, and has it launched.
    pub(super) fn assign(&mut self, actor: u64, node: String, allotment: Allotment) {
        let process = self.allot();
        let (Some(state), Some(on)) = (self.actors.get_mut(&actor), self.nodes.get_mut(&node)) else {
            return;
        };
        state.process = Some(process);
        on.ledger.take(&allotment);
        let launched = ProcessState {
            actor: Some(actor),
            job: state.request.job,
            node,
            node_incarnation: on.incarnation,
            allotment,
            ready: None,
            stopped_by: None,
            moves: false,
        };
        self.processes.insert(process, launched);
        self.dirty.insert(Key::Process(process));
        self.dirty.insert(Key::Actor(actor));
        self.send_launch(process);
    }

    pub(super) fn send_launch(&mut self, process: u64) {
        let Some(state) = self.processes.get(&process) else { return };
        let Some(actor) = state.actor else { return };
        let Some(record) = self.actors.get(&actor) else { return };
        let request = record.request.clone();
        let job_name = self.jobs.get(&request.job).map(|job| job.name.clone()).unwrap_or_default();
        let caption = Caption { job_name, rank: record.seat.map(|seat| (seat.rank, seat.size)) };
        let saved = self.saved.get(actor).cloned();
        let allotment = state.allotment.clone();
        let node = state.node.clone();
        self.command(&node, Command::Caption { process, caption });
        self.tell_holders(&node, &request);
        let launch = Launch { process, actor, request, allotment, saved };
        self.command(&node, Command::Launch(launch));
    }

    pub(super) fn process_ready(&mut self, process: u64, address: SocketAddr, pid: u32) {
        let Some(state) = self.processes.get_mut(&process) else { return };
        if state.ready.is_some() {
            return;
        }
        state.ready = Some((address, pid));
        self.dirty.insert(Key::Process(process));
        let Some(actor) = state.actor.filter(|_| state.stopped_by.is_none()) else { return };
        let Some(record) = self.actors.get_mut(&actor) else { return };
        record.started = true;
        self.dirty.insert(Key::Actor(actor));
        let (job, name, seat) = (record.request.job, record.request.name.clone(), record.seat);
        let Some(address) = self.address_of(actor) else { return };
        for asker in self.spawners.remove(&actor).unwrap_or_default() {
            self.reply(asker, Answer::Actor(address.clone()));
        }
        self.notify_job(job, JobEvent::Started { address, name });
        if let Some(seat) = seat {
            self.member_ready(seat);
        }
    }

    /// Where an actor is, once it has started.
    pub(super) fn address_of(&self, actor: u64) -> Option<ActorAddress> {
        let state = self.actors.get(&actor)?;
        let process = state.process?;
        let on = self.processes.get(&process)?;
        let (addr, _) = on.ready?;
        Some(ActorAddress {
            actor: ActorId(actor),
            incarnation: process,
            role: state.request.role.clone(),
            process: ProcessAddress { kind: ProcessKind::Worker, node: on.node.clone(), process, addr },
            job: state.request.job,
        })
    }

    /// Orders the end of a process; its resources are free when it has ended.
    pub(super) fn stop_process(&mut self, process: u64, by: &str, kill: bool) {
        let Some(state) = self.processes.get_mut(&process) else { return };
        // Whoever orders the end of its actor overrules who only moves it.
        let moved = std::mem::take(&mut state.moves);
        if state.stopped_by.is_none() || moved {
            state.stopped_by = Some(by.to_owned());
            self.dirty.insert(Key::Process(process));
        } else if !kill {
            return;
        }
        let grace_ms = if kill { 0 } else { self.options.stop_grace.as_millis() as u64 };
        let node = state.node.clone();
        let by = by.to_owned();
        self.command(&node, Command::Stop { process, grace_ms, by });
    }

    /// A process has ended: its resources are free, and its actor is started again or has ended too.
    pub(super) fn process_gone(&mut self, mut death: ProcessDeath) {
        let Some(state) = self.processes.remove(&death.process) else { return };
        self.stalls.remove(&death.process);
        self.dirty.insert(Key::Process(death.process));
        if let Some(node) = self.nodes.get_mut(&state.node)
            && node.present()
            && node.incarnation == state.node_incarnation
        {
            node.ledger.put_back(&state.allotment);
            self.waiting.room_grew();
        }
        // Who was only to go elsewhere, and came to its end meanwhile, does not go on there.
        let moves = state.moves && death.cause != Cause::Finished;
        if let (Some(by), Cause::Exited(_) | Cause::Signal(_) | Cause::Finished) =
            (state.stopped_by.as_ref().filter(|_| moves == state.moves), &death.cause)
        {
            death.cause = Cause::OrderedBy(by.clone());
        }
        self.announce_death(death.clone());
        self.asker_gone(Origin::Worker(death.process));
        let Some(actor) = state.actor else { return };
        let expected = state.stopped_by.is_some() || !death.cause.is_a_fault();
        if !expected {
            self.note_failure(&state.node, actor, &death.cause);
        }
        let Some(record) = self.actors.get_mut(&actor) else { return };
        record.process = None;
        self.dirty.insert(Key::Actor(actor));
        if let Some(seat) = record.seat {
            return self.member_gone(actor, seat, &death, expected, moves);
        }
        let again = if moves {
            Some(record.restarts_left)
        } else if expected || !record.started {
            None
        } else {
            self.restarts.again(actor, record.request.restarts, record.restarts_left, self.now)
        };
        let Some(restarts_left) = again else {
            self.actor_ended(actor, &death, expected);
            return;
        };
        record.restarts_left = restarts_left;
        if moves {
            self.waiting.push(actor, self.now);
        }
        let job = record.request.job;
        let report = death.report(&record.request.role, Some(ActorId(actor)));
        self.notify_job(job, JobEvent::Restarting { report, restarts_left });
    }

    /// An actor is no more: its name is free, its spawner has an answer, its job's followers know.
    pub(super) fn actor_ended(&mut self, actor: u64, death: &ProcessDeath, expected: bool) {
        let Some(state) = self.actors.remove(&actor) else { return };
        self.dirty.insert(Key::Actor(actor));
        if let Some(name) = Name::of(&state.request).filter(|_| state.seat.is_none()) {
            self.names.remove(&name);
        }
        self.restarts.forget(actor);
        self.forget_saved(actor);
        let report = death.report(&state.request.role, Some(ActorId(actor)));
        for asker in self.spawners.remove(&actor).unwrap_or_default() {
            self.reply(asker, Answer::Error(ControlError::Died(Box::new(report.clone()))));
        }
        if let Some(seat) = state.seat {
            self.left_gang(actor, seat.gang, &report);
        }
        let job = state.request.job;
        self.notify_job(job, JobEvent::Ended { report, expected });
        if state.request.lifetime == Lifetime::Detached {
            self.end_job(job, &format!("the end of the {} it was made for", state.request.role), false);
        }
    }
}

impl Head {
    /// Whoever asked is gone: nobody waits for the answers, and what was to end with it ends. So does what it alone has asked for
    /// and there was no room for yet.
    pub(super) fn asker_gone(&mut self, origin: Origin) {
        let drainers = self.nodes.values_mut().map(|node| &mut node.drainers);
        for askers in self.enders.values_mut().chain(drainers) {
            askers.retain(|(asker, _)| *asker != origin);
        }
        let mut unwanted = Vec::new();
        for (unit, askers) in &mut self.spawners {
            let before = askers.len();
            askers.retain(|(asker, _)| *asker != origin);
            if before > 0 && askers.is_empty() {
                unwanted.push(*unit);
            }
        }
        let by = match origin {
            Origin::Client(_) => "the end of the client that asked for it".to_owned(),
            Origin::Worker(process) => format!("the end of process {process}, which asked for it"),
        };
        for unit in unwanted {
            self.end_unplaced(unit, &by);
        }
        self.spawner_gone(origin);
    }

    /// Ends an actor or a gang that has never had room.
    fn end_unplaced(&mut self, unit: u64, by: &str) {
        let never_ran = |actor: &ActorState| actor.process.is_none() && !actor.started;
        match self.gangs.get(&unit) {
            Some(gang) => {
                let members = gang.members.iter().filter_map(|member| self.actors.get(member));
                if gang.state.ending.is_none() && members.clone().all(never_ran) {
                    self.end_all_of(unit, Cause::OrderedBy(by.to_owned()), true);
                }
            }
            None if self.actors.get(&unit).is_some_and(never_ran) => self.end_actor(unit, by, false),
            None => {}
        }
    }

    /// After a restart of the head: no client is connected yet, so nobody waits for what clients asked for.
    pub(super) fn end_what_clients_waited_for(&mut self) {
        let of_clients = self.actors.iter().filter(|(_, actor)| matches!(actor.spawner, Origin::Client(_)));
        let units: BTreeSet<u64> =
            of_clients.map(|(actor, state)| state.seat.map_or(*actor, |seat| seat.gang)).collect();
        for unit in units {
            self.end_unplaced(unit, "the end of the client that asked for it");
        }
    }

    /// Whoever asked for actors that end with it is gone.
    pub(super) fn spawner_gone(&mut self, spawner: Origin) {
        let by = match spawner {
            Origin::Client(_) => "the end of the client that spawned it".to_owned(),
            Origin::Worker(process) => format!("the end of process {process}, which spawned it"),
        };
        let bound: Vec<u64> = self
            .actors
            .iter()
            .filter(|(_, actor)| actor.request.lifetime == Lifetime::Spawner && actor.spawner == spawner)
            .map(|(actor, _)| *actor)
            .collect();
        for actor in bound {
            self.end_actor(actor, &by, false);
        }
    }

    /// Orders an actor's end, wherever it stands.
    pub(super) fn end_actor(&mut self, actor: u64, by: &str, kill: bool) {
        // Otherwise it has ended already.
        let Some(state) = self.actors.get(&actor) else { return };
        let cause = Cause::OrderedBy(by.to_owned());
        match (state.process, state.seat) {
            (Some(process), _) => self.stop_process(process, by, kill),
            (None, Some(seat)) => self.end_idle_member(actor, seat.gang, cause),
            (None, None) => {
                self.waiting.remove(actor);
                self.actor_ended(actor, &unplaced_death(cause), true);
            }
        }
    }
}

/// Bytes of what a request says beside its arguments.
pub(super) fn words_of(request: &SpawnRequest) -> usize {
    let SpawnRequest { role, labels, program, env, resources, .. } = request;
    let env = env.iter().map(|(name, value)| name.len() + value.len());
    let labels =
        labels.iter().map(|rule| rule.label.len() + rule.values.iter().map(String::len).sum::<usize>());
    let custom = resources.custom.keys().map(String::len);
    role.len() + program.as_ref().map_or(0, String::len) + env.chain(labels).chain(custom).sum::<usize>()
}

/// The death of an actor that had no process.
pub(super) fn unplaced_death(cause: Cause) -> ProcessDeath {
    ProcessDeath { process: 0, node: String::new(), cause, log_tail: Vec::new() }
}
