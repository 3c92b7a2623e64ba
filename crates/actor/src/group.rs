//! Many actors of one role, spoken to as one.

use std::{
    ops::{Index, Range},
    sync::Arc,
};

use crate::ActorRef;

/// Actors of one role, by rank: what [`Cluster::spawn_gang`](crate::Cluster::spawn_gang) gives, or any that are collected.
/// Cheap to clone.
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
