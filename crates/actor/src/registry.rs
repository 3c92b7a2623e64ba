//! Implementations that a process can start by the name of their role.

use std::{collections::HashMap, fmt, sync::Arc};

use futures_util::future::BoxFuture;
use lyceum_wire::{AlignedBytes, RoleFingerprint};

use crate::{
    Actor, ActorAddress, ActorId, DeathReport, Incoming, Role, System, cell::Cell, fingerprint, life::Args,
    saved::Saved, slot::Outcome,
};

/// What a process can start when the cluster asks for a role by name.
#[derive(Clone, Default)]
pub struct Registry {
    roles: HashMap<&'static str, Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    fingerprint: u64,
    start: Start,
}

type Start =
    fn(System, ActorAddress, AlignedBytes, Option<Saved>) -> BoxFuture<'static, Result<(), SpawnError>>;

impl Registry {
    /// A registry of nothing.
    pub fn new() -> Self {
        Registry::default()
    }

    /// The same with `A`, under the name of its role. The last one registered for a role counts.
    pub fn register<A: Actor>(mut self) -> Self {
        let entry = Entry {
            fingerprint: fingerprint::<A::Role>(),
            start: |system, address, args, saved| {
                Box::pin(async move {
                    let cell = Arc::new(Cell::of::<A>(address).with_saved(saved));
                    let args = Incoming::checked(args, &system)
                        .map_err(|why| SpawnError::Arguments { role: A::Role::NAME.to_owned(), why })?;
                    start::<A>(&system, cell, Args::Archived(args)).await
                })
            },
        };
        self.roles.insert(A::Role::NAME, entry);
        self
    }

    /// The names of the roles, sorted.
    pub fn roles(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.roles.keys().copied().collect();
        names.sort_unstable();
        names
    }

    /// What connections say of this process in their hello.
    pub fn fingerprints(&self) -> Vec<RoleFingerprint> {
        self.roles()
            .into_iter()
            .filter_map(|role| {
                let fingerprint = self.roles.get(role)?.fingerprint;
                Some(RoleFingerprint { role: role.to_owned(), fingerprint })
            })
            .collect()
    }

    pub(crate) fn start(
        &self,
        system: &System,
        address: ActorAddress,
        args: AlignedBytes,
        saved: Option<Saved>,
    ) -> BoxFuture<'static, Result<(), SpawnError>> {
        match self.roles.get(address.role.as_str()) {
            Some(entry) => (entry.start)(system.clone(), address, args, saved),
            None => {
                let unknown = self.unknown(&address.role);
                Box::pin(async move { Err(unknown) })
            }
        }
    }

    fn unknown(&self, role: &str) -> SpawnError {
        SpawnError::UnknownRole { role: role.to_owned(), known: self.roles().join(", ") }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.roles()).finish()
    }
}

/// Sets an actor of type `A` going and waits for its `start`.
pub(crate) async fn start<A: Actor>(
    system: &System,
    cell: Arc<Cell>,
    args: Args<A>,
) -> Result<(), SpawnError> {
    match system.launch(cell, args)?.wait().await {
        Outcome::Dead(report) => Err(SpawnError::Died(report)),
        _ => Ok(()),
    }
}

/// Why an actor did not start in this process.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The registry has no implementation of the role.
    #[error("no implementation of role {role} is registered in this program, which knows: {known}")]
    UnknownRole {
        /// The role asked for.
        role: String,
        /// The roles there are.
        known: String,
    },
    /// The bytes are no arguments of that role.
    #[error("the arguments of role {role} do not validate: {why}")]
    Arguments {
        /// The role asked for.
        role: String,
        /// What is wrong with them.
        why: String,
    },
    /// An actor with this number lives here already, in this or a newer incarnation.
    #[error("actor {actor} already lives here, in incarnation {incarnation}")]
    AlreadyHere {
        /// The actor.
        actor: ActorId,
        /// The incarnation that lives.
        incarnation: u64,
    },
    /// `start` failed or panicked; the report tells how.
    #[error("{0}")]
    Died(Box<DeathReport>),
    /// The process cannot run it.
    #[error("the process cannot start {actor}: {why}")]
    Process {
        /// The actor's address.
        actor: Box<ActorAddress>,
        /// What failed.
        why: String,
    },
    /// Too many streams of the actor wait for their readers.
    #[error("{0} streams of this actor wait for readers that have not begun: none more until one has")]
    UnreadStreams(usize),
    /// The system is shutting down.
    #[error("this process is shutting down")]
    ShuttingDown,
}
