//! From a message's number to the handler of it.

use std::{any::TypeId, future::Future, pin::Pin};

use lyceum_wire::AlignedBytes;

use crate::{
    Actor, Context, Handler, Incoming, Message, MessageList, Role, System,
    message::message_id,
    reply::outcome_of,
    role::{Accepts, for_each_tuple},
};

/// A tuple of messages that actors of type `A` handle. Implemented by the compiler's hand: an [`Actor`] whose
/// role lists a message without a [`Handler`] for it does not compile.
pub trait HandledBy<A: Actor>: MessageList<A::Role> {
    /// The handler of the message with this number.
    #[doc(hidden)]
    fn handler(message: u64) -> Option<Handle<A>>;
}

/// Runs one message through its handler and answers its caller. The error says why bytes are no such message.
#[doc(hidden)]
pub type Handle<A> = for<'a> fn(&'a mut A, &'a mut Context<A>, Body) -> Handling<'a>;

/// One message being handled.
#[doc(hidden)]
pub type Handling<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// A message's archive, and the type it was made from when this process made it.
#[doc(hidden)]
pub struct Body {
    pub(crate) bytes: AlignedBytes,
    pub(crate) origin: Option<TypeId>,
}

impl Body {
    fn into_incoming<M: Message>(self, system: &System) -> Result<Incoming<M>, String> {
        Incoming::new(self.bytes, self.origin, system)
    }
}

fn handle_one<'a, A, M>(actor: &'a mut A, ctx: &'a mut Context<A>, body: Body) -> Handling<'a>
where
    A: Handler<M, Role: Accepts<M>>,
    M: Message,
{
    Box::pin(async move {
        let message = body.into_incoming::<M>(ctx.system())?;
        let result = actor.handle(message, ctx).await;
        match ctx.take_owed() {
            Some(mut owed) => owed.finish(outcome_of(result)),
            None => log_unsent(ctx, result.err()),
        }
        Ok(())
    })
}

/// The answer was deferred: an error that is not the deferral itself has nobody else to go to.
fn log_unsent<A: Actor>(ctx: &Context<A>, error: Option<anyhow::Error>) {
    if let Some(error) = error.filter(|error| !error.is::<crate::context::Deferred>()) {
        tracing::warn!(actor = %ctx.address(), error = format!("{error:#}"), "a handler failed after it had deferred its answer");
    }
}

macro_rules! handled_by {
    ($($message:ident)*) => {
        impl<Implementation, Interface, $($message),*> HandledBy<Implementation> for ($($message,)*)
        where
            Interface: Role $(+ Accepts<$message>)*,
            Implementation: Actor<Role = Interface> $(+ Handler<$message>)*,
            $($message: Message,)*
        {
            fn handler(message: u64) -> Option<Handle<Implementation>> {
                $(if message == message_id::<$message>() {
                    return Some(handle_one::<Implementation, $message>);
                })*
                let _ = message;
                None
            }
        }
    };
}

for_each_tuple!(handled_by);
