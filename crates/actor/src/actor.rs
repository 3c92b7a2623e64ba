//! Implementations: what a process that runs an actor has to know.

use std::{future::Future, time::Duration};

use crate::{
    Accepts, Context, Incoming, Message, Result, Role, credit::Credits, dispatch::HandledBy, role::ReplyOf,
};

/// An implementation of a role.
///
/// An actor runs as a task on the process's actor runtime, one message at a time (of those that only read it, several), or,
/// with [`DEDICATED_THREAD`](Actor::DEDICATED_THREAD), on a thread of its own, on which `start` and all handlers run.
/// An actor whose handlers compute for long owns a thread; one that waits and forwards is a task.
pub trait Actor: Sized + Send + 'static {
    /// The role it plays. It has to handle every message the role lists.
    type Role: Role<Messages: HandledBy<Self>>;

    /// Whether the actor owns a thread. State that must stay on one thread is then made in
    /// [`start`](Actor::start).
    const DEDICATED_THREAD: bool = false;

    /// What the mailbox may hold: messages, and bytes of their archives. Shared out among the processes that
    /// send to it (L2).
    const MAILBOX: Credits = Credits { count: 4096, bytes: 64 << 20 };

    /// How many [`Reader`]s may be at work at a time.
    const READERS: usize = 16;

    /// How long a handler, or `start`, may be at work without a word ([`Context::goes_on`]) before that is told of: in the log of
    /// its process with the stacks of all threads, and in the cluster's status. Nothing else happens to it.
    const PROGRESS: Duration = Duration::from_secs(600);

    /// Makes the actor. An error here is the answer to whoever spawned it.
    fn start(
        args: <Self::Role as Role>::Args,
        ctx: &mut Context<Self>,
    ) -> impl Future<Output = Result<Self>> + Send;

    /// Called once after the last message of a graceful stop; not when it is killed or has panicked.
    fn stop(&mut self, ctx: &mut Context<Self>) -> impl Future<Output = ()> + Send {
        let _ = ctx;
        async {}
    }
}

/// How an actor answers messages `M` of its role.
pub trait Handler<M: Message>: Actor<Role: Accepts<M>> {
    /// Handles one message. An error goes to the caller as
    /// [`CallError::Failed`](crate::CallError::Failed) and leaves the actor alive; a panic ends the actor, and
    /// its callers are told its text. To answer later: [`Context::reply_later`].
    fn handle(
        &mut self,
        message: Incoming<M>,
        ctx: &mut Context<Self>,
    ) -> impl Future<Output = Result<ReplyOf<Self::Role, M>>> + Send;
}

/// How an actor answers messages `M` that its role lists as [`Reads`](crate::Reads).
///
/// Up to [`Actor::READERS`] of these are at work at a time, each as a task of its own on the process's actor threads, so that
/// they neither wait nor compute one behind the other. The order of the mailbox holds: a reader sees what every message
/// before it has done, and a [`Handler`]'s turn comes when all readers before it are done. A reader that nobody waits for any
/// more is dropped. Not for an actor that owns a thread: that does not compile.
pub trait Reader<M: Message>: Actor<Role: Accepts<M>> + Sync {
    /// Answers one message; errors and panics as with a [`Handler`].
    fn read(
        &self,
        message: Incoming<M>,
        ctx: &mut Context<Self>,
    ) -> impl Future<Output = Result<ReplyOf<Self::Role, M>>> + Send;
}
