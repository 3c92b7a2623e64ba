//! Names of actors, and where they are unique.

use std::fmt;

use lyceum_actor::{Lifetime, SpawnRequest};

use super::super::vocabulary::{Answer, Origin};
use super::Head;
use crate::manifest::check_name;

/// An actor's name with the space in which it is unique.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    space: Space,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Space {
    /// A job's own names.
    Job(u64),
    /// A namespace that all jobs share.
    Shared(String),
}

impl Name {
    /// The name that a request is for, if it has one.
    pub(super) fn of(request: &SpawnRequest) -> Option<Name> {
        let name = request.name.clone()?;
        Some(Name::new(request.job, request.namespace.clone(), name))
    }

    pub(super) fn new(job: u64, namespace: Option<String>, name: String) -> Name {
        Name { space: namespace.map_or(Space::Job(job), Space::Shared), name }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.space {
            Space::Job(_) => f.write_str(&self.name),
            Space::Shared(namespace) => write!(f, "{namespace}/{}", self.name),
        }
    }
}

impl Head {
    /// That the names of a request are good ones.
    pub(super) fn check_names(request: &SpawnRequest) -> Result<(), String> {
        let named = [("actor name", &request.name), ("namespace", &request.namespace)];
        for (what, name) in named.into_iter().filter_map(|(what, name)| Some((what, name.as_ref()?))) {
            check_name(what, name)?;
        }
        if request.lifetime == Lifetime::Detached && (request.name.is_none() || request.namespace.is_none()) {
            return Err(format!("a detached {} needs a name in a namespace, to be found by", request.role));
        }
        if request.or_get && request.name.is_none() {
            return Err(format!("{} that may be there already needs a name", request.role));
        }
        Ok(())
    }

    /// A job for a detached actor alone: it ends with it, and so does what the actor spawns.
    pub(super) fn detached_job(&mut self, request: &SpawnRequest) -> u64 {
        let part = |name: &Option<String>| name.clone().unwrap_or_default();
        self.new_job(format!("{}/{}", part(&request.namespace), part(&request.name)), None)
    }

    /// Answers a spawn of a name that is taken: with whom it names, once that has started, or with a refusal.
    pub(super) fn get(&mut self, asker: (Origin, u64), request: &SpawnRequest, actor: u64) {
        let name = request.name.as_deref().unwrap_or_default();
        let Some(state) = self.actors.get(&actor) else {
            return self.refuse(asker, format!("the name `{name}` is taken by a gang: another name"));
        };
        let role = &state.request.role;
        let stopping = state.process.and_then(|process| self.processes.get(&process)?.stopped_by.as_ref());
        let refusal = if !request.or_get {
            Some(format!("the name `{name}` is taken by a {role}: another name, or `or_get`"))
        } else if *role != request.role {
            Some(format!("`{name}` is a {role}, and a {} is asked for", request.role))
        } else if state.request.fingerprint != request.fingerprint {
            Some(format!(
                "the {role} `{name}` was spawned by a program that knows another {role}: build both alike"
            ))
        } else if state.process.is_some_and(|process| asker.0 == Origin::Worker(process)) {
            Some(format!("`{name}` is the {role} that asks"))
        } else {
            stopping.map(|by| format!("`{name}` is being ended by {by}: ask again"))
        };
        if let Some(why) = refusal {
            return self.refuse(asker, why);
        }
        match self.address_of(actor) {
            Some(address) => self.reply(asker, Answer::Actor(address)),
            None => self.spawners.entry(actor).or_default().push(asker),
        }
    }
}
