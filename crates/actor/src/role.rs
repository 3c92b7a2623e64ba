//! Interfaces: what a caller must know of an actor, and nothing else.

use std::marker::PhantomData;

use crate::message::{Message, chained, message_id};

/// What callers know of an actor: its name, what it is started with, and which messages it takes.
///
/// A role is an empty type. Callers link the crate that defines it; the process that runs the actor also links
/// an implementation, an [`Actor`](crate::Actor) whose `Role` it is.
pub trait Role: Sized + Send + Sync + 'static {
    /// The role's name, unique in the cluster's programs.
    const NAME: &'static str;
    /// What an actor of this role is started with.
    type Args: Message;
    /// All the messages of this role, as a tuple: `(Greet, Praise)`, for one message `(Greet,)`; those that change nothing
    /// as [`Reads`]. The list is what fingerprints are made of, and what an implementation has to handle to compile.
    type Messages: MessageList<Self>;
}

/// `R: Accepts<M>` says that actors of role `R` take messages `M`, and what they answer.
pub trait Accepts<M: Message>: Role {
    /// The answer to `M`. `()` is one.
    type Reply: Message;
}

/// What actors of role `R` answer to `M`.
pub type ReplyOf<R, M> = <R as Accepts<M>>::Reply;

/// In the list of a role's [`Messages`](Role::Messages): `M` changes nothing in the actor, so that several may be answered
/// at once. An implementation has a [`Reader`](crate::Reader) for it in place of a [`Handler`](crate::Handler).
pub struct Reads<M>(PhantomData<fn() -> M>);

/// What a list of messages is made of: a message, or [`Reads`] of one.
#[doc(hidden)]
pub trait Listed<R: Role> {
    fn describe(each: &mut dyn FnMut(u64, u64));
}

impl<R: Accepts<M>, M: Message> Listed<R> for M {
    fn describe(each: &mut dyn FnMut(u64, u64)) {
        let message = message_id::<M>();
        each(message, chained(message, &message_id::<R::Reply>().to_le_bytes()));
    }
}

impl<R: Accepts<M>, M: Message> Listed<R> for Reads<M> {
    fn describe(each: &mut dyn FnMut(u64, u64)) {
        <M as Listed<R>>::describe(&mut |message, fingerprint| each(message, chained(fingerprint, b"reads")));
    }
}

/// A tuple of message types, each accepted by `R`. Implemented for up to twenty-four; never by hand.
pub trait MessageList<R: Role> {
    /// For each message: its number on the wire, and a fingerprint of it and its reply.
    fn describe(each: &mut dyn FnMut(u64, u64));
}

/// A fingerprint of everything that two processes must agree on to speak of role `R`: its name, its arguments,
/// its messages and replies, each by type name, archived size and alignment, in any order.
///
/// It is given in the connection's hello; a differing one refuses that role, by name, and nothing else.
pub fn fingerprint<R: Role>() -> u64 {
    let mut messages = Vec::new();
    R::Messages::describe(&mut |_, fingerprint| messages.push(fingerprint));
    messages.sort_unstable();
    let role = chained(message_id::<R::Args>(), R::NAME.as_bytes());
    messages.into_iter().fold(role, |hash, message| chained(hash, &message.to_le_bytes()))
}

macro_rules! message_lists {
    ($($message:ident)*) => {
        impl<Interface: Role, $($message: Listed<Interface>),*> MessageList<Interface> for ($($message,)*) {
            fn describe(each: &mut dyn FnMut(u64, u64)) {
                $($message::describe(each);)*
                let _ = each;
            }
        }
    };
}

/// Calls `$each` with every prefix of the list of type parameters.
macro_rules! for_each_tuple {
    ($each:ident: $($done:ident)*;) => { $each!($($done)*); };
    ($each:ident: $($done:ident)*; $next:ident $($rest:ident)*) => {
        $each!($($done)*);
        $crate::role::for_each_tuple!($each: $($done)* $next; $($rest)*);
    };
    ($each:ident) => {
        $crate::role::for_each_tuple!($each:; M1 M2 M3 M4 M5 M6 M7 M8 M9 M10 M11 M12 M13 M14 M15 M16 M17 M18 M19 M20 M21 M22 M23 M24);
    };
}
pub(crate) use for_each_tuple;

for_each_tuple!(message_lists);
