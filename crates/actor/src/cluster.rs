//! Spawning over the whole cluster: a request put together field by field, sent when it is awaited.

use std::{
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
    time::Duration,
};

use crate::{
    ActorAddress, ActorRef, Amount, ControlError, LabelRule, Lifetime, Role, SpawnRequest, Strategy, System,
    fingerprint, message::encode,
};

/// The cluster as a process sees it: where actors are spawned and found.
#[derive(Clone, Debug)]
pub struct Cluster {
    system: System,
    job: u64,
    namespace: Option<String>,
}

impl Cluster {
    pub(crate) fn new(system: System, job: u64) -> Self {
        Cluster { system, job, namespace: None }
    }

    /// The same cluster, seen from another job: what is spawned through it ends with that job.
    pub fn for_job(&self, job: u64) -> Self {
        Cluster { job, ..self.clone() }
    }

    /// The same cluster, where names are those of `namespace`, which all jobs share. Without one they are the job's own.
    pub fn namespace(&self, namespace: &str) -> Self {
        Cluster { namespace: Some(namespace.to_owned()), ..self.clone() }
    }

    /// The job that spawned actors will belong to.
    pub fn job(&self) -> u64 {
        self.job
    }

    /// An actor of role `R` in a process of its own, once the returned [`Spawn`] is awaited.
    pub fn spawn<R: Role>(&self, args: R::Args) -> Spawn<R> {
        let mut request = SpawnRequest {
            role: R::NAME.to_owned(),
            fingerprint: fingerprint::<R>(),
            job: self.job,
            namespace: self.namespace.clone(),
            ..SpawnRequest::default()
        };
        let mut invalid = None;
        match encode(&args) {
            Ok(bytes) => request.args = bytes.to_vec(),
            Err(error) => {
                invalid = Some(format!("the arguments of {} cannot be archived: {error}", R::NAME));
            }
        }
        Spawn { system: self.system.clone(), request, invalid, role: PhantomData }
    }

    /// The newest incarnation of the actor named `name`, if there is one: in the namespace, or among the job's own names.
    pub async fn lookup<R: Role>(&self, name: &str) -> Result<Option<ActorRef<R>>, ControlError> {
        let control = self.system.control()?;
        match control.lookup(self.job, self.namespace.as_deref(), name).await? {
            Some(address) => self.bind(address).map(Some),
            None => Ok(None),
        }
    }

    /// Ends an actor that was spawned on the cluster, and its process, at once; [`ActorRef::died`] tells when it is gone.
    pub async fn kill<R: Role>(&self, actor: &ActorRef<R>) -> Result<(), ControlError> {
        self.system.control()?.stop(actor.address().actor, true).await
    }

    fn bind<R: Role>(&self, address: ActorAddress) -> Result<ActorRef<R>, ControlError> {
        self.system.actor_ref(address).map_err(ControlError::Refused)
    }
}

/// A spawn being put together. Nothing happens until it is awaited.
#[must_use = "nothing is spawned until this is awaited"]
#[derive(Debug)]
pub struct Spawn<R> {
    system: System,
    request: SpawnRequest,
    invalid: Option<String>,
    role: PhantomData<fn() -> R>,
}

impl<R: Role> Spawn<R> {
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

    /// The name it can be looked up by, unique in its namespace or, without one, in its job.
    pub fn named(mut self, name: &str) -> Self {
        self.request.name = Some(name.to_owned());
        self
    }

    /// Gives the actor of this role that has the name already, if there is one; of many who ask at once all get the same.
    /// Arguments and everything else that is said here are those of the first.
    pub fn or_get(mut self) -> Self {
        self.request.or_get = true;
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

    /// The program that hosts it.
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
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            if let Some(invalid) = self.invalid {
                return Err(ControlError::Refused(invalid));
            }
            let address = self.system.control()?.spawn(self.request).await?;
            self.system.actor_ref(address).map_err(ControlError::Refused)
        })
    }
}
