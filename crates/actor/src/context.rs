//! What an actor sees of the world while it runs.

use std::{
    any::{Any, TypeId},
    collections::VecDeque,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use crate::{
    Accepts, Actor, ActorAddress, ActorRef, Cause, Cluster, DeathReport, Handler, Message, Responder, Result,
    Role, SpawnError, System,
    cell::{Cell, Ending, Envelope},
    executor::Running,
    large::Payload,
    life::Args,
    message::message_id,
    reply::{Cancelled, Owed, ReplyTo},
    saved::Saved,
    stream::MAX_UNREAD,
};

/// An actor's view of itself and of what it can reach; given to `start` and to every handler.
pub struct Context<A: Actor> {
    system: System,
    cell: Arc<Cell>,
    me: ActorRef<A::Role>,
    /// The answer to the message being handled, unless it was deferred.
    owed: Option<Owed>,
    trace: u64,
    deadline: Option<Instant>,
    /// Messages taken out of the mailbox and not yet handled.
    pub(crate) batch: VecDeque<Envelope>,
    /// The actor, while readers are at work on it: the last to let it go is whoever has this.
    pub(crate) shared: Option<Arc<dyn Any + Send + Sync>>,
    /// The number of the reader whose view this is, if it is one's.
    reader: Option<u64>,
    belongings: Arc<Mutex<Belongings>>,
}

/// What ends with the actor.
#[derive(Default)]
struct Belongings {
    tasks: Vec<Running>,
    children: Vec<Arc<Cell>>,
    /// Made with the first stream.
    unread_streams: Option<Arc<Semaphore>>,
    /// The actor has ended: what comes now ends at once.
    closed: bool,
}

/// What a handler that deferred its answer returns as its error; see [`Context::reply_later`].
#[derive(Debug, thiserror::Error)]
#[error("the answer comes later")]
pub(crate) struct Deferred;

impl<A: Actor> Context<A> {
    pub(crate) fn new(system: System, cell: Arc<Cell>) -> Self {
        Self::with(system, cell, Arc::default())
    }

    /// The same actor's view for a reader at work beside others.
    pub(crate) fn of_reader(&self, number: u64) -> Self {
        let view = Self::with(self.system.clone(), self.cell.clone(), self.belongings.clone());
        Context { reader: Some(number), ..view }
    }

    fn with(system: System, cell: Arc<Cell>, belongings: Arc<Mutex<Belongings>>) -> Self {
        let me = ActorRef::to_cell(&system, cell.clone());
        let batch = VecDeque::new();
        Context {
            system,
            cell,
            me,
            owed: None,
            trace: 0,
            deadline: None,
            batch,
            shared: None,
            reader: None,
            belongings,
        }
    }

    fn belongings(&self) -> MutexGuard<'_, Belongings> {
        // Nothing that is done under this lock can panic half way.
        self.belongings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reference to this actor.
    pub fn me(&self) -> ActorRef<A::Role> {
        self.me.clone()
    }

    /// This actor's address.
    pub fn address(&self) -> &ActorAddress {
        &self.cell.address
    }

    /// This process.
    pub fn system(&self) -> &System {
        &self.system
    }

    /// The cluster, to spawn and find actors in this actor's job.
    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.system.clone(), self.cell.address.job)
    }

    /// The number that all calls made on behalf of one cause share, for following them through logs; 0 is none.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// When the caller of the message being handled stops waiting, if it said so: the time that is left for calls made on
    /// its behalf.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Completes when the caller of the message being handled no longer waits for the answer, so that a handler of long
    /// work can end it; nothing else ends a handler, whose actor's state it holds. Never completes for a `tell`, nor
    /// where there is no answer to give (in `start`, or after [`reply_later`](Context::reply_later): the
    /// [`Responder`] has its own).
    ///
    /// ```
    /// # use lyceum_actor::*;
    /// # async fn search() -> Result<String> { Ok(String::new()) }
    /// # struct Finder;
    /// # impl Finder {
    /// async fn find<A: Actor>(&mut self, ctx: &mut Context<A>) -> Result<String> {
    ///     tokio::select! {
    ///         found = search() => found,
    ///         () = ctx.cancelled() => anyhow::bail!("given up"), // nobody hears it
    ///     }
    /// }
    /// # }
    /// ```
    pub fn cancelled(&self) -> Cancelled {
        Cancelled::of(self.owed.as_ref())
    }

    /// Keeps `state` for the next life of this actor, in place of what was kept before: where it is started again, on whichever
    /// node, [`saved`](Context::saved) gives it there. Ready when it is written down, as durably as the cluster's own state.
    /// For an actor that was spawned in a process of its own; of 64 KiB at most, larger things have a file and their name here.
    ///
    /// What an actor says that has been given up, and does not know it yet, is refused.
    pub fn save<M: Message>(&self, state: &M) -> impl Future<Output = Result<()>> + Send + use<A, M> {
        let asked = Saved::of(state).and_then(|saved| {
            let address = self.address();
            anyhow::ensure!(
                !address.actor.is_local(),
                "{address} lives in another's process, and is not started again by the cluster"
            );
            Ok(self.system.control()?.save(saved.into_bytes()))
        });
        async move { Ok(asked?.await?) }
    }

    /// What the last life of this actor that saved something has saved last; an error where that is no `M`.
    pub fn saved<M: Message>(&self) -> Result<Option<M>> {
        self.cell.saved.as_ref().map(|saved| saved.read(&self.system)).transpose()
    }

    /// Says that a handler of long work goes on: its [progress deadline](Actor::PROGRESS) counts from here again.
    pub fn goes_on(&self) {
        self.cell.work.goes_on(self.reader);
    }

    /// Starts an actor in this process, as a child of this one: it ends, at the latest, with its parent.
    pub async fn spawn<B: Actor>(
        &mut self,
        args: <B::Role as Role>::Args,
    ) -> Result<ActorRef<B::Role>, SpawnError> {
        self.spawn_child(Args::<B>::Value(args)).await
    }

    /// As [`spawn`](Context::spawn), from what is more than arguments.
    pub(crate) async fn spawn_child<B: Actor>(
        &mut self,
        args: Args<B>,
    ) -> Result<ActorRef<B::Role>, SpawnError> {
        let child = self.system.spawn_local::<B>(args, self.cell.address.job).await?;
        self.keep(|belongings| {
            belongings.children.retain(|child| child.death().is_none());
            belongings.children.extend(child.cell());
        });
        Ok(child)
    }

    /// Adds to what ends with the actor.
    fn keep(&self, add: impl FnOnce(&mut Belongings)) {
        let mut belongings = self.belongings();
        add(&mut belongings);
        let closed = belongings.closed;
        drop(belongings);
        if closed {
            self.close();
        }
    }

    /// A permit for each stream that may still wait for its reader.
    pub(crate) fn unread_streams(&self) -> Arc<Semaphore> {
        let mut belongings = self.belongings();
        belongings.unread_streams.get_or_insert_with(|| Arc::new(Semaphore::new(MAX_UNREAD))).clone()
    }

    /// Ends this actor after what is in its mailbox.
    pub fn stop(&self) {
        self.cell.end(Ending::Drain(Cause::Finished));
    }

    /// Keeps the answer to the message being handled: `keep` gets the [`Responder`], and what this returns is
    /// what the handler returns. The mailbox goes on meanwhile.
    ///
    /// ```
    /// # use lyceum_actor::*;
    /// # struct Shelf; struct Take;
    /// struct Waiting { next: Vec<Responder<String>> }
    /// # impl Waiting {
    /// fn take<A: Actor>(&mut self, ctx: &mut Context<A>) -> Result<String> {
    ///     ctx.reply_later(|responder| self.next.push(responder))
    /// }
    /// # }
    /// ```
    pub fn reply_later<T: Message>(&mut self, keep: impl FnOnce(Responder<T>)) -> Result<T> {
        let Some(owed) = self.owed.take() else {
            anyhow::bail!(
                "there is no answer to defer: no message is being handled, or it was deferred before"
            );
        };
        keep(Responder::new(owed));
        Err(Deferred.into())
    }

    /// Runs `task` beside this actor, on the process's actor threads; it ends, at the latest, with the actor.
    /// Its way back is a message to [`me`](Context::me).
    pub fn spawn_task(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.system.executor().spawn(task);
        self.keep(|belongings| {
            belongings.tasks.retain(|task| !task.is_finished());
            belongings.tasks.push(task);
        });
    }

    /// Has a message handled by this actor when `other` has ended, however it did: what `message` makes of the report.
    /// It waits for its turn, and for room, like any other.
    pub fn monitor<R: Role, M: Message>(
        &mut self,
        other: &ActorRef<R>,
        message: impl FnOnce(DeathReport) -> M + Send + 'static,
    ) where
        A: Handler<M>,
        A::Role: Accepts<M>,
    {
        let (me, other) = (self.me(), other.clone());
        self.spawn_task(async move {
            let report = other.died().await;
            // Who is ending itself needs no news.
            let _ = me.tell(message(report)).await;
        });
    }

    /// Ends this actor when `other` dies of a fault, with that death as the reason: what depends on another must not
    /// outlive it. Where `other` ends in good order, or is ordered to, this one goes on. For a link both ways, both ask.
    pub fn link<R: Role>(&mut self, other: &ActorRef<R>) {
        let (cell, other) = (Arc::downgrade(&self.cell), other.clone());
        self.spawn_task(async move {
            let report = other.died().await;
            if let Some(cell) = cell.upgrade().filter(|_| report.cause.is_a_fault()) {
                cell.end(Ending::Kill(Cause::Failed(vec![
                    format!("it was linked to {}", other.address()),
                    report.to_string(),
                ])));
            }
        });
    }

    /// Has `message` handled by this actor after `delay`, outside the mailbox's budget.
    pub fn notify_after<M: Message>(&mut self, delay: Duration, message: M) -> Result<Timer>
    where
        A: Handler<M>,
        A::Role: Accepts<M>,
    {
        let payload = Payload::Inline(crate::encode(&message)?.into());
        let cell = Arc::downgrade(&self.cell);
        let trace = self.trace;
        let key = self.system.clock().after(delay, move || {
            if let Some(cell) = cell.upgrade() {
                let envelope = Envelope {
                    message: message_id::<M>(),
                    payload,
                    origin: Some(TypeId::of::<M>()),
                    paid: None,
                    reply: ReplyTo::Nobody,
                    deadline: None,
                    trace,
                };
                if !cell.deliver_timer(envelope) {
                    tracing::warn!(actor = %cell.address, "a timer's message was dropped: too many wait");
                }
            }
        });
        Ok(Timer { system: self.system.clone(), key })
    }

    /// Puts the answer to a message in place before its handler runs.
    pub(crate) fn begin(&mut self, reply: ReplyTo, trace: u64, deadline: Option<Instant>) {
        self.owed = Some(Owed::new(reply, self.cell.clone()));
        self.trace = trace;
        self.deadline = deadline;
    }

    pub(crate) fn take_owed(&mut self) -> Option<Owed> {
        self.owed.take()
    }

    pub(crate) fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    /// The actor has ended: so do its tasks and children.
    pub(crate) fn close(&self) {
        let mut belongings = self.belongings();
        belongings.closed = true;
        let (tasks, children) =
            (std::mem::take(&mut belongings.tasks), std::mem::take(&mut belongings.children));
        drop(belongings);
        let parent = &self.cell.address;
        for child in children {
            child.end(Ending::Kill(Cause::OrderedBy(format!("the end of its parent, {parent}"))));
        }
        for task in tasks {
            task.abort();
        }
    }
}

impl<A: Actor> fmt::Debug for Context<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("address", &self.cell.address).finish_non_exhaustive()
    }
}

/// A message to come, from [`Context::notify_after`]. Dropping it changes nothing.
#[derive(Debug)]
pub struct Timer {
    system: System,
    key: crate::clock::Key,
}

impl Timer {
    /// Takes the message back, if it has not been put into the mailbox yet.
    pub fn cancel(self) {
        self.system.clock().cancel(self.key);
    }
}
