//! What clients and workers ask of the head, and the life of jobs.

use lyceum_actor::{Cause, ProcessDeath};

use super::super::record::{JobState, Key};
use super::super::vocabulary::{Answer, Ask, CLIENT_NODE, Command, JobEvent, Notice, Origin};
use super::names::Name;
use super::{Head, HeadEffect};

impl Head {
    pub(super) fn asked(&mut self, origin: Origin, request: u64, ask: Ask) {
        if let Origin::Client(client) = origin {
            self.clients.entry(client).or_default();
        }
        let asker = (origin, request);
        let ask = match self.permit(origin, ask) {
            Ok(ask) => ask,
            Err(why) => return self.refuse(asker, why),
        };
        match (ask, origin) {
            (Ask::BeginJob { name, bound }, Origin::Client(client)) => {
                self.begin_job(asker, name, bound, client)
            }
            (Ask::EndJob { job, by, kill }, _) => match self.jobs.contains_key(&job) {
                true => {
                    self.end_job(job, &by, kill);
                    self.enders.entry(job).or_default().push(asker);
                }
                // It has ended already: the same as if it did now.
                false => self.reply(asker, Answer::Done),
            },
            (Ask::Follow { job }, Origin::Client(client)) => match self.jobs.contains_key(&job) {
                true => {
                    if let Some(state) = self.clients.get_mut(&client) {
                        state.follows.insert(job);
                    }
                    self.reply(asker, Answer::Done);
                }
                false => self.refuse(asker, format!("there is no job {job}")),
            },
            (Ask::Spawn(request), _) => self.spawn(asker, request),
            (Ask::SpawnGang(request), _) => self.spawn_gang(asker, request),
            (Ask::Lookup { job, namespace, name }, _) => {
                let name = Name::new(job, namespace, name);
                let found = self.names.get(&name).copied().and_then(|named| {
                    let gang = || self.addresses_of(named).map(Answer::Actors);
                    self.address_of(named).map(Answer::Actor).or_else(gang)
                });
                self.reply(asker, found.unwrap_or(Answer::Nobody));
            }
            (Ask::StopActor { actor, kill }, origin) => self.stop_actor(asker, actor, kill, origin),
            (Ask::Watch(address), Origin::Client(client)) => {
                self.client_watches(client, address.process, &address.node)
            }
            (Ask::Watch(address), Origin::Worker(process)) => {
                self.worker_watches(process, address.process, &address.node);
            }
            (Ask::Save { state }, _) => self.save(asker, state),
            (Ask::HasProgram { node, program }, _) => match program.parse() {
                Ok(program) if self.nodes.contains_key(&node) => {
                    self.programs.is_at(&node, program);
                    self.reply(asker, Answer::Done);
                }
                Ok(_) => self.refuse_node(asker, &node),
                Err(why) => self.refuse(asker, why),
            },
            (Ask::Status, _) => {
                let status = self.status();
                self.reply(asker, Answer::Status(status));
            }
            (Ask::Warnings, _) => {
                let warnings = self.all_warnings();
                self.reply(asker, Answer::Warnings(warnings));
            }
            (Ask::IssueNode { node }, _) => match self.nodes.contains_key(&node) {
                true => {
                    let incarnation = self.allot();
                    self.reply(asker, Answer::Identity { node, incarnation });
                }
                false => self.refuse_node(asker, &node),
            },
            (Ask::Cordon { node, why }, _) => self.cordon(asker, &node, why),
            (Ask::Uncordon { node }, _) => self.uncordon(asker, &node),
            (Ask::Drain { node, within_ms, by }, _) => self.drain(asker, &node, within_ms, &by),
            (Ask::IssueClient, Origin::Client(client)) => {
                let incarnation = self.allot();
                if let Some(state) = self.clients.get_mut(&client) {
                    state.process = Some(incarnation);
                }
                for node in self.silent_nodes() {
                    let notice = Notice::Suspect { node, unreachable: true };
                    self.effects.push(HeadEffect::Notify { client, notice });
                }
                self.reply(asker, Answer::Identity { node: CLIENT_NODE.into(), incarnation });
            }
            (Ask::Shutdown { by }, _) => self.shut_down(Some(asker), &by),
            (Ask::BeginJob { .. } | Ask::Follow { .. } | Ask::IssueClient, Origin::Worker(_)) => {}
        }
    }

    /// A worker may only act in its own job, and may not do what is a person's to do.
    fn permit(&self, origin: Origin, ask: Ask) -> Result<Ask, String> {
        let harmless = matches!(ask, Ask::Status | Ask::Shutdown { .. } | Ask::EndJob { .. } | Ask::Watch(_));
        if self.shutdown.is_some() && !harmless {
            return Err("the cluster is ending".into());
        }
        let Origin::Worker(process) = origin else { return Ok(ask) };
        let member = self.processes.get(&process).filter(|state| state.actor.is_some());
        let Some(own) = member.map(|state| state.job) else {
            return Err(format!("process {process} is not one of this cluster's, or was given up"));
        };
        let same_job = |job: u64| match job == own {
            true => Ok(()),
            false => Err(format!("process {process} belongs to job {own} and may not act in job {job}")),
        };
        match ask {
            Ask::Spawn(request) => same_job(request.job).map(|()| Ask::Spawn(request)),
            Ask::SpawnGang(request) => same_job(request.member.job).map(|()| Ask::SpawnGang(request)),
            Ask::EndJob { job, by, kill } => same_job(job).map(|()| Ask::EndJob { job, by, kill }),
            Ask::Lookup { namespace, name, .. } => Ok(Ask::Lookup { job: own, namespace, name }),
            Ask::StopActor { actor, kill } => match self.actors.get(&actor) {
                // Whoever finds it may use it, in every way.
                Some(state) if state.request.namespace.is_some() => Ok(Ask::StopActor { actor, kill }),
                Some(state) => same_job(state.request.job).map(|()| Ask::StopActor { actor, kill }),
                None => Ok(Ask::StopActor { actor, kill }),
            },
            Ask::Watch(_) | Ask::Status | Ask::Warnings | Ask::Save { .. } => Ok(ask),
            Ask::BeginJob { .. }
            | Ask::Follow { .. }
            | Ask::HasProgram { .. }
            | Ask::IssueNode { .. }
            | Ask::IssueClient
            | Ask::Cordon { .. }
            | Ask::Uncordon { .. }
            | Ask::Drain { .. }
            | Ask::Shutdown { .. } => {
                Err(format!("process {process} is a worker, and this is for clients of the cluster only"))
            }
        }
    }

    fn begin_job(&mut self, asker: (Origin, u64), name: String, bound: bool, client: u64) {
        if name.is_empty() || name.len() > 256 {
            return self.refuse(asker, format!("job name of {} bytes, expected 1 to 256", name.len()));
        }
        let job = self.new_job(name, bound.then_some(client));
        if let Some(state) = self.clients.get_mut(&client) {
            state.follows.insert(job);
        }
        self.reply(asker, Answer::Job(job));
    }

    pub(super) fn new_job(&mut self, name: String, bound_to: Option<u64>) -> u64 {
        let job = self.allot();
        self.jobs.insert(job, JobState { name, bound_to, ended_by: None });
        self.dirty.insert(Key::Job(job));
        job
    }

    /// Orders the end of everything in a job. A kill overrules an earlier graceful order.
    pub(super) fn end_job(&mut self, job: u64, by: &str, kill: bool) {
        let ending = |state: &&mut JobState| kill || state.ended_by.is_none();
        let Some(state) = self.jobs.get_mut(&job).filter(ending) else { return };
        state.ended_by.get_or_insert_with(|| by.to_owned());
        self.dirty.insert(Key::Job(job));
        let processes: Vec<u64> = self
            .processes
            .iter()
            .filter(|(_, state)| state.job == job)
            .map(|(process, _)| *process)
            .collect();
        for process in processes {
            self.stop_process(process, by, kill);
        }
        let unplaced: Vec<u64> = self
            .actors
            .iter()
            .filter(|(_, state)| state.request.job == job && state.process.is_none())
            .map(|(actor, _)| *actor)
            .collect();
        for actor in unplaced {
            self.end_actor(actor, by, kill);
        }
    }

    /// Jobs that are ending and of which nothing is left have ended.
    pub(super) fn finish_jobs(&mut self) {
        let over: Vec<(u64, String)> = self
            .jobs
            .iter()
            .filter_map(|(job, state)| state.ended_by.clone().map(|by| (*job, by)))
            .filter(|(job, _)| !self.processes.values().any(|process| process.job == *job))
            .collect();
        for (job, by) in over {
            self.jobs.remove(&job);
            self.dirty.insert(Key::Job(job));
            self.notify_job(job, JobEvent::JobEnded { by });
            for asker in self.enders.remove(&job).unwrap_or_default() {
                self.reply(asker, Answer::Done);
            }
            for client in self.clients.values_mut() {
                client.follows.remove(&job);
            }
        }
    }

    fn stop_actor(&mut self, asker: (Origin, u64), actor: u64, kill: bool, origin: Origin) {
        let by = match origin {
            Origin::Client(_) => "its client".to_owned(),
            Origin::Worker(process) => format!("process {process}"),
        };
        self.end_actor(actor, &by, kill);
        self.reply(asker, Answer::Done);
    }

    fn client_watches(&mut self, client: u64, process: u64, node: &str) {
        if self.alive(process) {
            if let Some(state) = self.clients.get_mut(&client) {
                state.watches.insert(process);
            }
        } else {
            let notice = Notice::Died(self.death_of(process, node));
            self.effects.push(HeadEffect::Notify { client, notice });
        }
    }

    /// Workers ask the head only for processes that are on no node; all agents are told when such a one is gone.
    fn worker_watches(&mut self, watcher: u64, process: u64, node: &str) {
        if !self.alive(process) {
            let death = self.death_of(process, node);
            if let Some(state) = self.processes.get(&watcher) {
                let node = state.node.clone();
                self.command(&node, Command::Died(death));
            }
        }
    }

    fn alive(&self, process: u64) -> bool {
        self.processes.contains_key(&process)
            || self.clients.values().any(|client| client.process == Some(process))
    }

    fn death_of(&self, process: u64, node: &str) -> ProcessDeath {
        let known = self.deaths.iter().rev().find(|death| death.process == process);
        known.cloned().unwrap_or_else(|| ProcessDeath {
            process,
            node: node.to_owned(),
            cause: Cause::Unknown("the head knows of no such process; it ended long ago".into()),
            log_tail: Vec::new(),
        })
    }

    pub(super) fn client_gone(&mut self, client: u64) {
        let Some(state) = self.clients.remove(&client) else { return };
        if let Some(process) = state.process {
            let cause = Cause::Unknown("its connection to the head is gone".into());
            let death = ProcessDeath { process, node: CLIENT_NODE.to_owned(), cause, log_tail: Vec::new() };
            self.command_all("", &Command::Died(death.clone()));
            self.announce_death(death);
        }
        let bound: Vec<u64> =
            self.jobs.iter().filter(|(_, job)| job.bound_to == Some(client)).map(|(job, _)| *job).collect();
        for job in bound {
            self.end_job(job, "the head, because the job's client is gone", false);
        }
        self.asker_gone(Origin::Client(client));
    }
}
