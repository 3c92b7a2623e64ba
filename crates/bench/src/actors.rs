//! The actors that are measured: one that is called, and one that calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lyceum_actor::{
    Accepts, Actor, ActorRef, CallError, Context, Handler, Incoming, Message, Registry, Result, Role,
};
use rkyv::rancor::Fallible;
use rkyv::ser::{Allocator, Writer};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Deserialize, Place, Serialize};

use crate::keepers::KeeperActor;
use crate::round::Round;

/// Adds the actors of the benchmarks to what a program hosts.
pub fn register(registry: Registry) -> Registry {
    registry.register::<TargetActor>().register::<CallerActor>().register::<KeeperActor>()
}

/// Is called.
#[derive(Debug)]
pub struct Target;

/// A number to add up.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub struct Add(pub u64);

/// Bytes, of which the sum is wanted, so that each is read.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub struct Read(pub Shared);

/// Bytes that their caller keeps: an argument is made of them without a copy, as of a numpy array.
#[derive(Debug, Clone)]
pub struct Shared(pub Arc<[u8]>);

impl Archive for Shared {
    type Archived = ArchivedVec<u8>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: VecResolver, out: Place<ArchivedVec<u8>>) {
        ArchivedVec::resolve_from_slice(&self.0, resolver, out);
    }
}

impl<S: Fallible + Allocator + Writer + ?Sized> Serialize<S> for Shared {
    fn serialize(&self, serializer: &mut S) -> Result<VecResolver, S::Error> {
        ArchivedVec::serialize_from_slice(&self.0, serializer)
    }
}

impl<D: Fallible + ?Sized> Deserialize<Shared, D> for ArchivedVec<u8> {
    fn deserialize(&self, _: &mut D) -> Result<Shared, D::Error> {
        Ok(Shared(self.as_slice().into()))
    }
}

impl Role for Target {
    const NAME: &'static str = "bench-target";
    type Args = ();
    type Messages = (Add, Read);
}

impl Accepts<Add> for Target {
    type Reply = u64;
}

impl Accepts<Read> for Target {
    type Reply = u64;
}

/// The implementation of [`Target`].
#[derive(Debug, Default)]
pub struct TargetActor {
    sum: u64,
}

impl Actor for TargetActor {
    type Role = Target;

    async fn start((): (), _: &mut Context<Self>) -> Result<Self> {
        Ok(Self::default())
    }
}

impl Handler<Add> for TargetActor {
    async fn handle(&mut self, add: Incoming<Add>, _: &mut Context<Self>) -> Result<u64> {
        self.sum = self.sum.wrapping_add(add.0.to_native());
        Ok(self.sum)
    }
}

impl Handler<Read> for TargetActor {
    async fn handle(&mut self, read: Incoming<Read>, _: &mut Context<Self>) -> Result<u64> {
        Ok(sum(&read.0))
    }
}

/// The sum of all words of eight bytes, which takes no longer than reading them; what is left at the end counts as bytes.
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().fold(0, |sum: u64, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
    rest.iter().fold(words, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

/// Calls, and takes the time.
#[derive(Debug)]
pub struct Caller;

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Call {
    /// One small call after the other.
    OneAtATime,
    /// Small calls, so many of them in flight.
    InFlight(u32),
    /// One call after the other, with an argument of so many bytes.
    Bytes(u32),
}

/// Asks for a round of calls to `target` that takes about `millis`.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub struct Make {
    /// What is called.
    pub target: ActorRef<Target>,
    /// How.
    pub call: Call,
    /// For how long.
    pub millis: u64,
}

impl Role for Caller {
    const NAME: &'static str = "bench-caller";
    type Args = ();
    type Messages = (Make,);
}

impl Accepts<Make> for Caller {
    type Reply = Round;
}

/// The implementation of [`Caller`].
#[derive(Debug)]
pub struct CallerActor;

impl Actor for CallerActor {
    type Role = Caller;

    async fn start((): (), _: &mut Context<Self>) -> Result<Self> {
        Ok(Self)
    }
}

impl Handler<Make> for CallerActor {
    async fn handle(&mut self, make: Incoming<Make>, _: &mut Context<Self>) -> Result<Round> {
        let Make { target, call, millis } = make.read()?;
        let time = Duration::from_millis(millis);
        match call {
            Call::OneAtATime => one_at_a_time(&target, || Add(1), time).await,
            Call::InFlight(count) => in_flight(&target, count as usize, time).await,
            Call::Bytes(count) => {
                let bytes = Shared(vec![1; count as usize].into());
                one_at_a_time(&target, || Read(bytes.clone()), time).await
            }
        }
    }
}

async fn one_at_a_time<M: Message>(
    target: &ActorRef<Target>,
    message: impl Fn() -> M,
    time: Duration,
) -> Result<Round>
where
    Target: Accepts<M>,
{
    let mut latencies_us = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let asked = Instant::now();
        target.ask(message()).await.map_err(CallError::erase)?;
        latencies_us.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Round { done: latencies_us.len() as u64, seconds: began.elapsed().as_secs_f64(), latencies_us })
}

async fn in_flight(target: &ActorRef<Target>, count: usize, time: Duration) -> Result<Round> {
    let mut calls = FuturesUnordered::new();
    let (began, mut done) = (Instant::now(), 0);
    while began.elapsed() < time {
        while calls.len() < count {
            calls.push(target.ask(Add(1)).into_future());
        }
        // The clock is looked at, and room is filled, for several at a time.
        for _ in 0..count.div_ceil(8) {
            if let Some(answer) = calls.next().await {
                answer.map_err(CallError::erase)?;
                done += 1;
            }
        }
    }
    Ok(Round { done, seconds: began.elapsed().as_secs_f64(), latencies_us: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        let mut bytes = vec![1; 8 * 100 + 3];
        let before = sum(&bytes);
        for at in [0, 7, 8, 799, 800, 802] {
            bytes[at] += 1;
            assert_ne!(sum(&bytes), before, "byte {at}");
            bytes[at] -= 1;
        }
        assert_eq!(sum(&bytes), before);
    }
}
