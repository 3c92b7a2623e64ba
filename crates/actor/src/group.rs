//! Many actors of one role, spoken to as one.

use std::{
    future::IntoFuture,
    marker::PhantomData,
    ops::{Index, Range},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    Accepts, ActorAddress, ActorRef, CallError, Incoming, Message, ReplyOf, Role, relay, slot::Outcome,
    submission::Letter,
};

/// Actors of one role, by rank: what [`Cluster::spawn_gang`](crate::Cluster::spawn_gang) gives, or any that are collected.
/// Cheap to clone.
///
/// A message to a group travels as a tree: its sender sends to a few processes, which pass it on, and their answers come
/// back the same way. It is not ordered with the sender's other messages to a member, unless those were answered.
pub struct Group<R> {
    all: Arc<[ActorRef<R>]>,
    /// Those of `all` that are meant.
    range: Range<usize>,
}

impl<R> Group<R> {
    /// The members, by rank.
    pub fn members(&self) -> &[ActorRef<R>] {
        self.all.get(self.range.clone()).unwrap_or_default()
    }

    /// The members of these ranks, as a group of its own in which ranks begin at 0; fewer where there are not so many.
    pub fn slice(&self, ranks: Range<usize>) -> Group<R> {
        let at = |rank: usize| self.range.start.saturating_add(rank).min(self.range.end);
        Group { all: self.all.clone(), range: at(ranks.start)..at(ranks.end).max(at(ranks.start)) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

impl<R: Role> Group<R> {
    /// Asks every member; the answers come together, by rank. One that fails, or is gone, is an error of its own.
    ///
    /// Where a process that was to pass the message on is lost, those behind it of which nothing is known are
    /// [`CallError::Unknown`].
    pub fn ask<M: Message>(&self, message: M) -> ToAll<R, M, Incoming<ReplyOf<R, M>>>
    where
        R: Accepts<M>,
    {
        ToAll::new(self.clone(), &message, true)
    }

    /// Sends to every member without waiting for answers: done when the message has its turn in each mailbox, or is on its
    /// last way there.
    pub fn tell<M: Message>(&self, message: M) -> ToAll<R, M, ()>
    where
        R: Accepts<M>,
    {
        ToAll::new(self.clone(), &message, false)
    }
}

/// A message to all of a group, sent when it is awaited.
#[must_use = "nothing is sent until this is awaited"]
pub struct ToAll<R, M, T> {
    group: Group<R>,
    letter: Result<Letter, Outcome>,
    kind: PhantomData<fn(M) -> T>,
}

impl<R: Accepts<M>, M: Message, T> ToAll<R, M, T> {
    fn new(group: Group<R>, message: &M, ask: bool) -> Self {
        let fingerprint = group.members().first().map_or(0, ActorRef::fingerprint);
        let letter = Letter::of(message, fingerprint).map(|letter| Letter { ask, ..letter });
        ToAll { group, letter, kind: PhantomData }
    }

    /// How long the answers may take. A member behind other processes has a little less, so that what they know arrives in
    /// time: a tenth for each, a second at most.
    pub fn deadline(self, deadline: Duration) -> Self {
        self.with(|letter| letter.deadline = Some(deadline))
    }

    /// Waits on when a member's node falls silent; see [`Ask::through_silence`](crate::Ask::through_silence).
    pub fn through_silence(self) -> Self {
        self.with(|letter| letter.patient = true)
    }

    /// The number by which these calls can be followed through logs.
    pub fn trace(self, trace: u64) -> Self {
        self.with(|letter| letter.trace = trace)
    }

    fn with(mut self, change: impl FnOnce(&mut Letter)) -> Self {
        if let Ok(letter) = &mut self.letter {
            change(letter);
        }
        self
    }

    /// How it ended at each, by rank.
    async fn ends(self) -> (Group<R>, Vec<Outcome>) {
        let ToAll { group, letter, .. } = self;
        let Some(first) = group.members().first() else { return (group, Vec::new()) };
        let ends = match letter {
            Ok(letter) => {
                let to: Vec<ActorAddress> =
                    group.members().iter().map(|member| member.address().clone()).collect();
                relay::spread(first.system().clone(), letter, to).await
            }
            Err(outcome) => vec![outcome; group.len()],
        };
        let named = group.members().iter().zip(ends).map(|(member, end)| member.name_the_dead(end));
        let ends = named.collect();
        (group, ends)
    }
}

impl<R: Accepts<M>, M: Message> IntoFuture for ToAll<R, M, Incoming<ReplyOf<R, M>>> {
    type Output = Vec<Result<Incoming<ReplyOf<R, M>>, CallError<()>>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move {
            let (group, ends) = self.ends().await;
            let answer = |(member, end): (&ActorRef<R>, Outcome)| match end {
                Outcome::Reply { bytes, origin } => {
                    Incoming::new(bytes, origin, member.system()).map_err(|why| {
                        CallError::Unknown(format!("it was executed, but its reply does not validate: {why}"))
                    })
                }
                end => Err(end.into_error(Some(()))),
            };
            group.members().iter().zip(ends).map(answer).collect()
        }
        .boxed()
    }
}

impl<R: Accepts<M>, M: Message> IntoFuture for ToAll<R, M, ()> {
    type Output = Vec<Result<(), CallError<()>>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move {
            let (_, ends) = self.ends().await;
            let end = |end: Outcome| match end {
                // From behind another process, that it was handed over is said as an empty reply.
                Outcome::Sent | Outcome::Reply { .. } => Ok(()),
                end => Err(end.into_error(Some(()))),
            };
            ends.into_iter().map(end).collect()
        }
        .boxed()
    }
}

impl<R, M, T> std::fmt::Debug for ToAll<R, M, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ToAll").field("group", &self.group).finish_non_exhaustive()
    }
}

impl<R> Index<usize> for Group<R> {
    type Output = ActorRef<R>;

    /// The member of this rank.
    fn index(&self, rank: usize) -> &ActorRef<R> {
        &self.members()[rank]
    }
}

impl<R> FromIterator<ActorRef<R>> for Group<R> {
    fn from_iter<I: IntoIterator<Item = ActorRef<R>>>(members: I) -> Self {
        let all: Arc<[ActorRef<R>]> = members.into_iter().collect();
        Group { range: 0..all.len(), all }
    }
}

impl<R> Clone for Group<R> {
    fn clone(&self) -> Self {
        Group { all: self.all.clone(), range: self.range.clone() }
    }
}

impl<R> std::fmt::Debug for Group<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.members()).finish()
    }
}
