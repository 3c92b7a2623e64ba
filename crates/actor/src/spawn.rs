//! A spawn put together field by field, and sent when it is awaited.

use std::{future::IntoFuture, marker::PhantomData, time::Duration};

use futures_util::future::BoxFuture;

use crate::{
    ActorRef, Amount, ControlError, GangRequest, Group, LabelRule, Lifetime, Role, SpawnRequest, Strategy,
    System, message::encode,
};

/// A spawn being put together. Nothing happens until it is awaited.
#[must_use = "nothing is spawned until this is awaited"]
#[derive(Debug)]
pub struct Spawn<R, Spawned = ActorRef<R>> {
    system: System,
    request: SpawnRequest,
    /// The arguments of a gang's members, by rank.
    gang: Vec<Vec<u8>>,
    invalid: Option<String>,
    kind: PhantomData<fn() -> (R, Spawned)>,
}

impl<R: Role> Spawn<R> {
    pub(crate) fn one(system: System, request: SpawnRequest, args: R::Args) -> Self {
        let mut spawn = Spawn::new(system, request);
        spawn.request.args = spawn.encoded(&args);
        spawn
    }

    /// Gives the actor of this role that has the name already, if there is one; of many who ask at once all get the same.
    /// Arguments and everything else that is said here are those of the first.
    pub fn or_get(mut self) -> Self {
        self.request.or_get = true;
        self
    }
}

impl<R: Role> Spawn<R, Group<R>> {
    pub(crate) fn gang(
        system: System,
        request: SpawnRequest,
        args: impl IntoIterator<Item = R::Args>,
    ) -> Self {
        let mut spawn = Spawn::new(system, request);
        spawn.gang = args.into_iter().map(|args| spawn.encoded(&args)).collect();
        spawn
    }
}

impl<R: Role, Spawned> Spawn<R, Spawned> {
    fn new(system: System, request: SpawnRequest) -> Self {
        Spawn { system, request, gang: Vec::new(), invalid: None, kind: PhantomData }
    }

    fn encoded(&mut self, args: &R::Args) -> Vec<u8> {
        encode(args).map(|bytes| bytes.to_vec()).unwrap_or_else(|error| {
            self.invalid = Some(format!("the arguments of {} cannot be archived: {error}", R::NAME));
            Vec::new()
        })
    }

    /// Cores, counted and enforced: `1` or `0.5`.
    pub fn cpus(mut self, cpus: impl Into<Amount>) -> Self {
        self.request.resources.milli_cpus = self.amount("cpus", cpus.into());
        self
    }

    /// GPUs: `1` or `0.5`.
    pub fn gpus(mut self, gpus: impl Into<Amount>) -> Self {
        self.request.resources.milli_gpus = self.amount("gpus", gpus.into());
        self
    }

    /// Memory in bytes, enforced.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.request.resources.memory = bytes;
        self
    }

    /// An amount of a resource that the manifest names.
    pub fn resource(mut self, name: &str, amount: impl Into<Amount>) -> Self {
        let milli = self.amount(name, amount.into());
        self.request.resources.custom.insert(name.to_owned(), milli);
        self
    }

    /// The name it can be looked up by, actor or gang, unique in its namespace or, without one, in its job.
    pub fn named(mut self, name: &str) -> Self {
        self.request.name = Some(name.to_owned());
        self
    }

    /// What it ends with, at the latest; its job unless set.
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.request.lifetime = lifetime;
        self
    }

    /// The node it must run on.
    pub fn node(mut self, node: &str) -> Self {
        self.request.node = Some(node.to_owned());
        self
    }

    /// A label that its node must have, with this value.
    pub fn label(self, label: &str, value: &str) -> Self {
        self.label_in(label, [value])
    }

    /// A label that its node must have, with one of these values.
    pub fn label_in<'a>(self, label: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        self.rule(label, values, false)
    }

    /// A label that its node must not have with any of these values; a node without it will do.
    pub fn label_not_in<'a>(self, label: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        self.rule(label, values, true)
    }

    fn rule<'a>(mut self, label: &str, values: impl IntoIterator<Item = &'a str>, not: bool) -> Self {
        let values = values.into_iter().map(str::to_owned).collect();
        self.request.labels.push(LabelRule { label: label.to_owned(), values, not });
        self
    }

    /// Which of the nodes that fit it is given; the least full one unless set.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.request.strategy = strategy;
        self
    }

    /// The program that hosts it: the name of one that lies beside the node's own, or the hash of one that was brought.
    pub fn program(mut self, program: &str) -> Self {
        self.request.program = Some(program.to_owned());
        self
    }

    /// One more variable of its process's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.request.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// How often it is started again after a death that nobody ordered.
    pub fn restarts(mut self, restarts: u32) -> Self {
        self.request.restarts.count = restarts;
        self
    }

    /// Counts only the restarts of the last `window`: an actor that died often, long ago, may die again.
    pub fn restarts_within(mut self, window: Duration) -> Self {
        self.request.restarts.within_ms = milliseconds(window);
        self
    }

    /// Waits so long before the first restart, and twice as long before each further one, a minute at most.
    pub fn restart_pause(mut self, pause: Duration) -> Self {
        self.request.restarts.pause_ms = milliseconds(pause);
        self
    }

    fn amount(&mut self, what: &str, amount: Amount) -> u64 {
        amount.milli().unwrap_or_else(|| {
            self.invalid = Some(format!("{what} of {} must be a finite number, 0 or more", R::NAME));
            0
        })
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl<R: Role> IntoFuture for Spawn<R> {
    type Output = Result<ActorRef<R>, ControlError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Spawn { system, request, invalid, .. } = self;
            invalid.map_or(Ok(()), |invalid| Err(ControlError::Refused(invalid)))?;
            let address = system.control()?.spawn(request).await?;
            system.actor_ref(address).map_err(ControlError::Refused)
        })
    }
}

impl<R: Role> IntoFuture for Spawn<R, Group<R>> {
    type Output = Result<Group<R>, ControlError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Spawn { system, request: member, gang: args, invalid, .. } = self;
            invalid.map_or(Ok(()), |invalid| Err(ControlError::Refused(invalid)))?;
            let addresses = system.control()?.spawn_gang(GangRequest { member, args }).await?;
            let members = addresses.into_iter().map(|address| system.actor_ref(address));
            members.collect::<Result<Group<R>, String>>().map_err(ControlError::Refused)
        })
    }
}
