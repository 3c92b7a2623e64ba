//! The actors that hold objects: one makes them, another reads them, on its node or on another.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lyceum_actor::{Accepts, Actor, ActorRef, CallError, Context, Handler, Incoming, Result, Role};
use lyceum_store::{Object, ObjectRef, Receiver, StoreClient};
use rkyv::{Archive, Deserialize, Serialize};

use crate::actors::sum;
use crate::round::Round;

const MIB: f64 = (1 << 20) as f64;
/// What a made object is full of.
const FILL: u8 = 1;

/// The [`sum`] of so many bytes of [`FILL`].
fn sum_of_filled(bytes: usize) -> u64 {
    let word = u64::from_ne_bytes([FILL; 8]);
    let (words, rest) = (bytes as u64 / 8, bytes as u64 % 8);
    word.wrapping_mul(words).wrapping_add(rest * u64::from(FILL))
}

/// Makes, keeps and reads objects of its node's store.
#[derive(Debug)]
pub struct Keeper;

/// Puts objects of so many bytes, each with a copy of them, for about `millis`. The round counts MiB.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub struct Put {
    /// Bytes of each.
    pub bytes: u64,
    /// For how long.
    pub millis: u64,
}

/// Makes objects in place and has `reader` read each, for about `millis`.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub struct Hand {
    /// Who reads.
    pub reader: ActorRef<Keeper>,
    /// Bytes of each.
    pub bytes: u64,
    /// For how long.
    pub millis: u64,
}

/// Two rounds that count MiB.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub struct Handed {
    /// From before the seal until the reader has read the last byte and said so.
    pub handed: Round,
    /// The reader's next reading of the same bytes, which it has open.
    pub read: Round,
}

/// Opens and reads the object, and keeps it; the sum of its bytes is wanted.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub struct Read(pub ObjectRef);

/// Reads the object that is kept once more, and gives it up: the seconds that it took.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub struct ReadAgain;

/// Makes an object of so many bytes, and keeps it.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub struct Keep(pub u64);

/// A reference to the object that is kept.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub struct Refer;

/// Opens the object that `keeper` keeps, and gives it up again, for about `millis`. The round counts MiB.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub struct Fetch {
    /// Who has the object.
    pub keeper: ActorRef<Keeper>,
    /// For how long.
    pub millis: u64,
}

impl Role for Keeper {
    const NAME: &'static str = "bench-keeper";
    type Args = ();
    type Messages = (Put, Hand, Read, ReadAgain, Keep, Refer, Fetch);
}

impl Accepts<Put> for Keeper {
    type Reply = Round;
}

impl Accepts<Hand> for Keeper {
    type Reply = Handed;
}

impl Accepts<Read> for Keeper {
    type Reply = u64;
}

impl Accepts<ReadAgain> for Keeper {
    type Reply = f64;
}

impl Accepts<Keep> for Keeper {
    type Reply = ();
}

impl Accepts<Refer> for Keeper {
    type Reply = ObjectRef;
}

impl Accepts<Fetch> for Keeper {
    type Reply = Round;
}

/// The implementation of [`Keeper`].
#[derive(Debug)]
pub struct KeeperActor {
    store: StoreClient,
    kept: Option<Object>,
    /// What is copied into the store.
    source: Vec<u8>,
}

impl Actor for KeeperActor {
    type Role = Keeper;

    async fn start((): (), _: &mut Context<Self>) -> Result<Self> {
        let store = lyceum_cluster::worker::store().context("this process has no store")?.clone();
        Ok(Self { store, kept: None, source: Vec::new() })
    }
}

/// Does something again and again for about `millis`; it says how many bytes it moved in how many seconds.
struct Clock {
    began: Instant,
    time: Duration,
    round: Round,
}

impl Clock {
    fn new(millis: u64) -> Self {
        let round = Round { done: 0, seconds: 0.0, latencies_us: Vec::new() };
        Self { began: Instant::now(), time: Duration::from_millis(millis), round }
    }

    fn runs(&self) -> bool {
        self.began.elapsed() < self.time || self.round.done == 0
    }

    fn add(&mut self, bytes: usize, seconds: f64) {
        self.round.done += (bytes as f64 / MIB) as u64;
        self.round.seconds += seconds;
        self.round.latencies_us.push(seconds * 1e6);
    }
}

impl Handler<Put> for KeeperActor {
    async fn handle(&mut self, put: Incoming<Put>, _: &mut Context<Self>) -> Result<Round> {
        let Put { bytes, millis } = put.read()?;
        self.source.resize(usize::try_from(bytes)?, FILL);
        let mut clock = Clock::new(millis);
        while clock.runs() {
            let began = Instant::now();
            let object = self.store.put(&self.source).await?;
            clock.add(object.len(), began.elapsed().as_secs_f64());
        }
        Ok(clock.round)
    }
}

impl Handler<Hand> for KeeperActor {
    async fn handle(&mut self, hand: Incoming<Hand>, _: &mut Context<Self>) -> Result<Handed> {
        let Hand { reader, bytes, millis } = hand.read()?;
        let bytes = usize::try_from(bytes)?;
        let process = &reader.address().process;
        let receiver = Receiver { node: process.node.clone(), process: process.process };
        let (mut handed, mut read) = (Clock::new(millis), Clock::new(millis));
        while handed.runs() {
            let mut writer = self.store.create(bytes).await?;
            writer.fill(FILL);
            let began = Instant::now();
            let reference = writer.send_to(receiver.clone()).await?;
            let summed = reader.ask(Read(reference)).await.map_err(CallError::erase)?.read()?;
            handed.add(bytes, began.elapsed().as_secs_f64());
            ensure!(summed == sum_of_filled(bytes), "the reader read other bytes");
            read.add(bytes, reader.ask(ReadAgain).await.map_err(CallError::erase)?.read()?);
        }
        Ok(Handed { handed: handed.round, read: read.round })
    }
}

impl Handler<Read> for KeeperActor {
    async fn handle(&mut self, read: Incoming<Read>, _: &mut Context<Self>) -> Result<u64> {
        let object = self.store.open(&read.read()?.0).await?;
        let summed = sum(&object);
        self.kept = Some(object);
        Ok(summed)
    }
}

impl Handler<ReadAgain> for KeeperActor {
    async fn handle(&mut self, _: Incoming<ReadAgain>, _: &mut Context<Self>) -> Result<f64> {
        let object = self.kept.take().context("nothing was read before")?;
        let began = Instant::now();
        std::hint::black_box(sum(&object));
        Ok(began.elapsed().as_secs_f64())
    }
}

impl Handler<Keep> for KeeperActor {
    async fn handle(&mut self, keep: Incoming<Keep>, _: &mut Context<Self>) -> Result<()> {
        let mut writer = self.store.create(usize::try_from(keep.read()?.0)?).await?;
        writer.fill(FILL);
        self.kept = Some(writer.seal().await?);
        Ok(())
    }
}

impl Handler<Refer> for KeeperActor {
    async fn handle(&mut self, _: Incoming<Refer>, _: &mut Context<Self>) -> Result<ObjectRef> {
        Ok(self.kept.as_ref().context("nothing is kept")?.share().await?)
    }
}

impl Handler<Fetch> for KeeperActor {
    async fn handle(&mut self, fetch: Incoming<Fetch>, _: &mut Context<Self>) -> Result<Round> {
        let Fetch { keeper, millis } = fetch.read()?;
        let mut clock = Clock::new(millis);
        while clock.runs() {
            let reference = keeper.ask(Refer).await.map_err(CallError::erase)?.read()?;
            let began = Instant::now();
            let object = self.store.open(&reference).await?;
            clock.add(object.len(), began.elapsed().as_secs_f64());
        }
        Ok(clock.round)
    }
}
