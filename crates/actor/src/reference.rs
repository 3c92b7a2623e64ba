//! References to actors: cheap to clone, and able to travel in messages.

use std::{
    cell::RefCell,
    fmt,
    marker::PhantomData,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use rkyv::{
    Archive, Deserialize, Place, Serialize,
    rancor::{self, Fallible},
};

use crate::{
    Accepts, ActorAddress, Ask, DeathReport, Message, Role, System, Tell,
    address::{ActorAddressResolver, ArchivedActorAddress},
    cell::Cell,
    fingerprint,
    link::Link,
    slot::{Outcome, Slot},
};

/// A reference to one life of an actor of role `R`, wherever it is.
///
/// It can be a field of a message: archived it is an [`ActorAddress`], and
/// [`Incoming::read`](crate::Incoming::read) makes it usable again at the receiver.
pub struct ActorRef<R> {
    inner: Arc<Inner>,
    role: PhantomData<fn() -> R>,
}

struct Inner {
    address: ActorAddress,
    system: System,
    target: Target,
    fingerprint: OnceLock<u64>,
}

enum Target {
    Here(Arc<Cell>),
    /// In this process, but not found; what its callers are told.
    Gone(Outcome),
    /// In another process; the connection that was used last.
    There(Mutex<Option<Arc<Link>>>),
}

/// Which way a call goes.
pub(crate) enum Route {
    Local(Arc<Cell>),
    Remote(Arc<Link>),
}

impl<R: Role> ActorRef<R> {
    /// Sends `message`; the returned future gives the answer. The same line, and the same errors, wherever the
    /// actor is.
    pub fn ask<M: Message>(&self, message: M) -> Ask<R, M>
    where
        R: Accepts<M>,
    {
        Ask::new(self.clone(), message)
    }

    /// Sends `message` without waiting for an answer, but for its turn: when the mailbox is full, until there is
    /// room. An answer, or the handler's error, is dropped.
    pub fn tell<M: Message>(&self, message: M) -> Tell<R, M>
    where
        R: Accepts<M>,
    {
        Tell::new(self.clone(), message)
    }

    /// Waits for the actor's end and tells how it came. When the connection is lost and nobody knows more, the
    /// cause is [`Cause::Unknown`](crate::Cause::Unknown).
    pub async fn died(&self) -> DeathReport {
        let slot = Arc::new(Slot::default());
        let outcome = match self.route() {
            Ok(Route::Local(cell)) => {
                cell.watch(slot.clone());
                slot.wait().await
            }
            Ok(Route::Remote(link)) => match link.watch(self.address(), self.fingerprint(), slot.clone()) {
                Ok(()) => slot.wait().await,
                Err(outcome) => outcome,
            },
            Err(outcome) => outcome,
        };
        match self.name_the_dead(outcome) {
            Outcome::Dead(report) => *report,
            other => {
                let address = self.address();
                DeathReport {
                    role: address.role.clone(),
                    actor: Some(address.actor),
                    process: address.process.process,
                    node: address.process.node.clone(),
                    cause: crate::Cause::Unknown(other.into_error::<()>(None).to_string()),
                    log_tail: Vec::new(),
                }
            }
        }
    }

    pub(crate) fn to_cell(system: &System, cell: Arc<Cell>) -> Self {
        let address = cell.address.clone();
        Self::with(system.clone(), address, Target::Here(cell))
    }

    /// A reference to the actor at `address`, whose role is `R`'s.
    pub(crate) fn bind(system: &System, address: ActorAddress) -> Result<Self, String> {
        if address.role != R::NAME {
            return Err(format!("{address} is no {}: its role is {}", R::NAME, address.role));
        }
        let target = if address.process.process == system.address().process {
            match system.find(address.actor, address.incarnation) {
                Ok(cell) => Target::Here(cell),
                Err(outcome) => Target::Gone(outcome),
            }
        } else {
            Target::There(Mutex::new(None))
        };
        Ok(Self::with(system.clone(), address, target))
    }

    fn with(system: System, address: ActorAddress, target: Target) -> Self {
        let inner = Inner { address, system, target, fingerprint: OnceLock::new() };
        ActorRef { inner: Arc::new(inner), role: PhantomData }
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        *self.inner.fingerprint.get_or_init(fingerprint::<R>)
    }
}

impl<R> ActorRef<R> {
    /// Where the actor is.
    pub fn address(&self) -> &ActorAddress {
        &self.inner.address
    }

    pub(crate) fn system(&self) -> &System {
        &self.inner.system
    }

    pub(crate) fn cell(&self) -> Option<Arc<Cell>> {
        match &self.inner.target {
            Target::Here(cell) => Some(cell.clone()),
            Target::Gone(_) | Target::There(_) => None,
        }
    }

    pub(crate) fn route(&self) -> Result<Route, Outcome> {
        match &self.inner.target {
            Target::Here(cell) => Ok(Route::Local(cell.clone())),
            Target::Gone(outcome) => Err(outcome.clone()),
            Target::There(last) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(link) = last.as_ref().filter(|link| !link.is_closed()) {
                    return Ok(Route::Remote(link.clone()));
                }
                let link = self.inner.system.link_to(&self.inner.address.process)?;
                *last = Some(link.clone());
                Ok(Route::Remote(link))
            }
        }
    }

    /// A report on a whole process does not know what the caller called: puts it in.
    pub(crate) fn name_the_dead(&self, mut outcome: Outcome) -> Outcome {
        if let Outcome::Dead(report) = &mut outcome
            && report.role.is_empty()
        {
            report.role.clone_from(&self.inner.address.role);
            report.actor = Some(self.inner.address.actor);
        }
        outcome
    }
}

impl<R> Clone for ActorRef<R> {
    fn clone(&self) -> Self {
        ActorRef { inner: self.inner.clone(), role: PhantomData }
    }
}

impl<R> PartialEq for ActorRef<R> {
    fn eq(&self, other: &Self) -> bool {
        self.inner.address == other.inner.address
    }
}

impl<R> Eq for ActorRef<R> {}

impl<R> fmt::Debug for ActorRef<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorRef({})", self.inner.address)
    }
}

thread_local! {
    /// The system that references being deserialized on this thread belong to.
    static READING: RefCell<Option<System>> = const { RefCell::new(None) };
}

/// Runs `read`; references that it deserializes belong to `system`.
pub(crate) fn with_system<T>(system: &System, read: impl FnOnce() -> T) -> T {
    struct Restore(Option<System>);
    impl Drop for Restore {
        fn drop(&mut self) {
            let before = self.0.take();
            READING.with_borrow_mut(|reading| *reading = before);
        }
    }
    let before = READING.with_borrow_mut(|reading| reading.replace(system.clone()));
    let _restore = Restore(before);
    read()
}

impl<R> Archive for ActorRef<R> {
    type Archived = ArchivedActorAddress;
    type Resolver = ActorAddressResolver;

    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        self.inner.address.resolve(resolver, out);
    }
}

impl<R, S> Serialize<S> for ActorRef<R>
where
    S: Fallible + ?Sized,
    ActorAddress: Serialize<S>,
{
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        self.inner.address.serialize(serializer)
    }
}

impl<R, D> Deserialize<ActorRef<R>, D> for ArchivedActorAddress
where
    R: Role,
    D: Fallible<Error: rancor::Source> + ?Sized,
    ArchivedActorAddress: Deserialize<ActorAddress, D>,
{
    fn deserialize(&self, deserializer: &mut D) -> Result<ActorRef<R>, D::Error> {
        let address: ActorAddress = self.deserialize(deserializer)?;
        let system = READING.with_borrow(Clone::clone);
        let system =
            system.ok_or_else(|| refuse("a reference is only readable with Incoming::read".to_owned()))?;
        ActorRef::bind(&system, address).map_err(refuse)
    }
}

fn refuse<E: rancor::Source>(why: String) -> E {
    #[derive(Debug)]
    struct Unreadable(String);
    impl fmt::Display for Unreadable {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }
    impl std::error::Error for Unreadable {}
    E::new(Unreadable(why))
}
