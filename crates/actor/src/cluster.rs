//! The cluster as a process sees it.

use crate::{
    ActorAddress, ActorRef, ControlError, Group, Role, SpawnRequest, System, fingerprint, spawn::Spawn,
};

/// The cluster as a process sees it: where actors are spawned and found.
#[derive(Clone, Debug)]
pub struct Cluster {
    system: System,
    job: u64,
    namespace: Option<String>,
    program: Option<String>,
}

impl Cluster {
    pub(crate) fn new(system: System, job: u64) -> Self {
        let program = system.program().map(str::to_owned);
        Cluster { system, job, namespace: None, program }
    }

    /// The same cluster, seen from another job: what is spawned through it ends with that job.
    pub fn for_job(&self, job: u64) -> Self {
        Cluster { job, ..self.clone() }
    }

    /// The same cluster, where names are those of `namespace`, which all jobs share. Without one they are the job's own.
    pub fn namespace(&self, namespace: &str) -> Self {
        Cluster { namespace: Some(namespace.to_owned()), ..self.clone() }
    }

    /// The same cluster, where actors whose spawn names no program are hosted by `program`.
    pub fn program(&self, program: &str) -> Self {
        Cluster { program: Some(program.to_owned()), ..self.clone() }
    }

    /// The job that spawned actors will belong to.
    pub fn job(&self) -> u64 {
        self.job
    }

    /// An actor of role `R` in a process of its own, once the returned [`Spawn`] is awaited.
    pub fn spawn<R: Role>(&self, args: R::Args) -> Spawn<R> {
        Spawn::one(self.system.clone(), self.request::<R>(), args)
    }

    /// Actors of role `R`, each in a process of its own, as one gang, once the returned [`Spawn`] is awaited: their ranks are
    /// in the order of `args`.
    ///
    /// All of them are placed at once or none is, and all share one fate: the failure of one ends the others, and is what
    /// their reports name; with [`restarts`](Spawn::restarts) all are then started again, together. One that ends in good
    /// order, or is ordered to, leaves the gang, which is not started again without it.
    pub fn spawn_gang<R: Role>(&self, args: impl IntoIterator<Item = R::Args>) -> Spawn<R, Group<R>> {
        Spawn::gang(self.system.clone(), self.request::<R>(), args)
    }

    fn request<R: Role>(&self) -> SpawnRequest {
        SpawnRequest {
            role: R::NAME.to_owned(),
            fingerprint: fingerprint::<R>(),
            job: self.job,
            namespace: self.namespace.clone(),
            program: self.program.clone(),
            ..SpawnRequest::default()
        }
    }

    /// The newest incarnation of the actor named `name`, if there is one: in the namespace, or among the job's own names.
    pub async fn lookup<R: Role>(&self, name: &str) -> Result<Option<ActorRef<R>>, ControlError> {
        match &self.named(name).await?[..] {
            [] => Ok(None),
            [address] => self.bind(address.clone()).map(Some),
            all => Err(ControlError::Refused(format!("`{name}` is a gang of {}: `lookup_gang`", all.len()))),
        }
    }

    /// The newest incarnation of the gang named `name`, if there is one that has started.
    pub async fn lookup_gang<R: Role>(&self, name: &str) -> Result<Option<Group<R>>, ControlError> {
        let members = self.named(name).await?;
        let group = members.into_iter().map(|address| self.bind(address)).collect::<Result<Group<R>, _>>()?;
        Ok(Some(group).filter(|group| !group.is_empty()))
    }

    async fn named(&self, name: &str) -> Result<Vec<ActorAddress>, ControlError> {
        self.system.control()?.lookup(self.job, self.namespace.as_deref(), name).await
    }

    /// Ends an actor that was spawned on the cluster, and its process, at once; [`ActorRef::died`] tells when it is gone.
    pub async fn kill<R: Role>(&self, actor: &ActorRef<R>) -> Result<(), ControlError> {
        self.system.control()?.stop(actor.address().actor, true).await
    }

    fn bind<R: Role>(&self, address: ActorAddress) -> Result<ActorRef<R>, ControlError> {
        self.system.actor_ref(address).map_err(ControlError::Refused)
    }
}
