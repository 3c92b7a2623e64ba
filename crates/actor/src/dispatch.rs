//! From a message's number to the handler of it.

use std::{any::TypeId, future::Future, pin::Pin};

use lyceum_wire::AlignedBytes;

use crate::{
    Actor, Context, Handler, Incoming, Message, MessageList, Reader, Reads, Result, System,
    message::message_id,
    reading::{self, Session},
    reply::outcome_of,
    role::{Accepts, Listed, for_each_tuple},
};

/// A tuple of messages that actors of type `A` handle. Implemented by the compiler's hand: an [`Actor`] whose
/// role lists a message without a [`Handler`] or [`Reader`] for it does not compile.
pub trait HandledBy<A: Actor>: MessageList<A::Role> {
    /// The handler of the message with this number.
    #[doc(hidden)]
    fn handler(message: u64) -> Option<Handle<A>>;

    /// The name of the message with this number: its type's, without the path.
    #[doc(hidden)]
    fn name(message: u64) -> Option<&'static str>;
}

/// What a list of messages is made of, as actors of type `A` handle it.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{A}` does not handle `{Self}`, which its role lists",
    note = "a message needs a `Handler`, and what is listed as `Reads<M>` a `Reader<M>`"
)]
pub trait ListedFor<A: Actor>: Listed<A::Role> {
    /// The message's number.
    fn number() -> u64;
    /// The full name of its type.
    fn name() -> &'static str;
    fn handle() -> Handle<A>;
}

/// Runs one message through its handler and answers its caller.
#[doc(hidden)]
pub struct Handle<A: Actor>(pub(crate) Way<A>);

pub(crate) enum Way<A: Actor> {
    /// Alone with the actor.
    Alone(for<'a> fn(&'a mut A, &'a mut Context<A>, Body) -> Handling<'a>),
    /// Beside others that read.
    Beside {
        /// One of them.
        one: ReadOne<A>,
        /// All of them that come one after the other.
        session: Session<A>,
    },
}

/// Runs one message through its reader.
pub(crate) type ReadOne<A> = for<'a> fn(&'a A, &'a mut Context<A>, Body) -> Handling<'a>;

/// One message being handled. The error says why bytes are no such message.
pub(crate) type Handling<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// A message's archive, and the type it was made from when this process made it.
pub(crate) struct Body {
    pub(crate) bytes: AlignedBytes,
    pub(crate) origin: Option<TypeId>,
}

impl Body {
    fn into_incoming<M: Message>(self, system: &System) -> Result<Incoming<M>, String> {
        Incoming::new(self.bytes, self.origin, system)
    }
}

impl<A, M> ListedFor<A> for M
where
    A: Handler<M, Role: Accepts<M>>,
    M: Message,
{
    fn number() -> u64 {
        message_id::<M>()
    }

    fn name() -> &'static str {
        std::any::type_name::<M>()
    }

    fn handle() -> Handle<A> {
        Handle(Way::Alone(|actor, ctx, body| {
            Box::pin(async move {
                let message = body.into_incoming::<M>(ctx.system())?;
                let result = actor.handle(message, ctx).await;
                answer(ctx, result);
                Ok(())
            })
        }))
    }
}

impl<A, M> ListedFor<A> for Reads<M>
where
    A: Reader<M, Role: Accepts<M>>,
    M: Message,
{
    fn number() -> u64 {
        message_id::<M>()
    }

    fn name() -> &'static str {
        std::any::type_name::<M>()
    }

    fn handle() -> Handle<A> {
        const { assert!(!A::DEDICATED_THREAD, "an actor that owns a thread has handlers, not readers") };
        Handle(Way::Beside {
            one: |actor, ctx, body| {
                Box::pin(async move {
                    let message = body.into_incoming::<M>(ctx.system())?;
                    let result = actor.read(message, ctx).await;
                    answer(ctx, result);
                    Ok(())
                })
            },
            session: |actor, ctx| Box::pin(reading::session(actor, ctx)),
        })
    }
}

/// Gives the caller what came out, unless the answer was deferred.
fn answer<A: Actor, T: Message>(ctx: &mut Context<A>, result: Result<T>) {
    match ctx.take_owed() {
        Some(mut owed) => owed.finish(outcome_of(result)),
        None => log_unsent(ctx, result.err()),
    }
}

/// The answer was deferred: an error that is not the deferral itself has nobody else to go to.
fn log_unsent<A: Actor>(ctx: &Context<A>, error: Option<anyhow::Error>) {
    if let Some(error) = error.filter(|error| !error.is::<crate::context::Deferred>()) {
        tracing::warn!(actor = %ctx.address(), error = format!("{error:#}"), "a handler failed after it had deferred its answer");
    }
}

/// `Nap` of `library::messages::Nap`; of what has parameters, all.
fn without_path(name: &'static str) -> &'static str {
    match name.contains('<') {
        true => name,
        false => name.rsplit("::").next().unwrap_or(name),
    }
}

macro_rules! handled_by {
    ($($message:ident)*) => {
        impl<Implementation: Actor, $($message),*> HandledBy<Implementation> for ($($message,)*)
        where
            $($message: ListedFor<Implementation>,)*
        {
            fn handler(message: u64) -> Option<Handle<Implementation>> {
                $(if message == $message::number() {
                    return Some($message::handle());
                })*
                let _ = message;
                None
            }

            fn name(message: u64) -> Option<&'static str> {
                $(if message == $message::number() {
                    return Some(without_path($message::name()));
                })*
                let _ = message;
                None
            }
        }
    };
}

for_each_tuple!(handled_by);
