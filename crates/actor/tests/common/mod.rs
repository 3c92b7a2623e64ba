//! A role with a message for each thing the tests look at, one implementation of it, and systems to run it in.

#![allow(dead_code, clippy::unwrap_used)]

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, Either, select};
use lyceum_actor::*;
use lyceum_wire::{
    Authority, PeerIdentity, PeerRole,
    testing::{Faults, LossyRelay},
};
use rkyv::{Archive, Deserialize, Serialize};

pub struct Desk;

#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct Echo(pub String);
/// Answers with how many were counted so far.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct Count(pub u32);
/// Gives all counted numbers, in order.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct Counted;
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct Panic(pub String);
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct Fail;
/// Answered by the next `Open`.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct WaitForOpen(pub u32);
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct Open;
/// Sleeps inside the handler, in milliseconds.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct Nap(pub u64);
/// Computes without a pause, in milliseconds.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct Spin(pub u64);
/// Answers with that many bytes.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct Bytes(pub u32);
/// The sum of the bytes.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct Sum(pub Vec<u8>);
/// Asks the other desk to echo, through a reference that came in the message.
#[derive(Archive, Serialize, Deserialize)]
pub struct Forward {
    pub to: ActorRef<Desk>,
    pub text: String,
}
/// Counts `.1` after `.0` milliseconds.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct CountLater(pub u64, pub u32);
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct ThreadName;
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct SpawnChild;
/// Searches for what is never found, and has the other desk count that it has begun; counts 1 when nobody waits for it
/// any more.
#[derive(Archive, Serialize, Deserialize)]
pub struct Search(pub ActorRef<Desk>);
/// The same, beside the mailbox; counts 2.
#[derive(Archive, Serialize, Deserialize)]
pub struct SearchBeside(pub ActorRef<Desk>);
/// Counts `.1` when the other has ended.
#[derive(Archive, Serialize, Deserialize)]
pub struct MonitorOther(pub ActorRef<Desk>, pub u32);
/// Ends with the other's death.
#[derive(Archive, Serialize, Deserialize)]
pub struct LinkTo(pub ActorRef<Desk>);
/// The milliseconds that its caller said it would wait, less those that have passed.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct TimeLeft;

impl Role for Desk {
    const NAME: &'static str = "desk";
    type Args = String;
    type Messages = (
        Echo,
        Count,
        Counted,
        Panic,
        Fail,
        WaitForOpen,
        Open,
        Nap,
        Spin,
        Bytes,
        Sum,
        Forward,
        CountLater,
        ThreadName,
        SpawnChild,
        Search,
        SearchBeside,
        TimeLeft,
        MonitorOther,
        LinkTo,
    );
}

macro_rules! accepts {
    ($($message:ty => $reply:ty),* $(,)?) => { $(impl Accepts<$message> for Desk { type Reply = $reply; })* };
}
accepts!(
    Echo => String, Count => u32, Counted => Vec<u32>, Panic => (), Fail => (), WaitForOpen => u32, Open => (),
    Nap => (), Spin => (), Bytes => Vec<u8>, Sum => u64, Forward => String, CountLater => (),
    ThreadName => String, SpawnChild => ActorRef<Desk>, Search => (), SearchBeside => (), TimeLeft => Option<u64>,
    MonitorOther => (), LinkTo => (),
);

/// `ROOM` messages fit in its mailbox; with `THREAD` it owns a thread.
pub struct Clerk<const ROOM: u32 = 4096, const THREAD: bool = false> {
    name: String,
    counted: Vec<u32>,
    waiting: Vec<(u32, Responder<u32>)>,
    alive: Arc<()>,
}

impl<const ROOM: u32, const THREAD: bool> Actor for Clerk<ROOM, THREAD> {
    type Role = Desk;
    const DEDICATED_THREAD: bool = THREAD;
    const MAILBOX: Credits = Credits { count: ROOM, bytes: 16 << 20 };

    async fn start(name: String, _ctx: &mut Context<Self>) -> Result<Self> {
        match name.as_str() {
            "refuse" => anyhow::bail!("no clerk is called refuse"),
            "panic" => panic!("no clerk is called panic"),
            _ => Ok(Clerk { name, counted: Vec::new(), waiting: Vec::new(), alive: Arc::default() }),
        }
    }
}

macro_rules! handler {
    ($message:ty, $reply:ty, |$actor:ident, $incoming:ident, $ctx:ident| $body:expr) => {
        impl<const ROOM: u32, const THREAD: bool> Handler<$message> for Clerk<ROOM, THREAD> {
            async fn handle(
                &mut self,
                $incoming: Incoming<$message>,
                $ctx: &mut Context<Self>,
            ) -> Result<$reply> {
                let $actor = self;
                let _ = (&$actor, &$incoming, &$ctx);
                $body
            }
        }
    };
}

handler!(Echo, String, |actor, echo, ctx| Ok(format!("{}: {}", actor.name, echo.0)));
handler!(Count, u32, |actor, count, ctx| {
    actor.counted.push(count.0.to_native());
    Ok(actor.counted.len() as u32)
});
handler!(Counted, Vec<u32>, |actor, message, ctx| Ok(actor.counted.clone()));
handler!(Panic, (), |actor, message, ctx| panic!("{}", message.0));
handler!(
    Fail,
    (),
    |actor, message, ctx| Err(anyhow::anyhow!("the inner reason").context("the outer reason"))
);
handler!(WaitForOpen, u32, |actor, message, ctx| {
    let number = message.0.to_native();
    ctx.reply_later(|responder| actor.waiting.push((number, responder)))
});
handler!(Open, (), |actor, message, ctx| {
    for (number, responder) in actor.waiting.drain(..) {
        responder.reply(number);
    }
    Ok(())
});
handler!(Nap, (), |actor, nap, ctx| {
    tokio::time::sleep(Duration::from_millis(nap.0.to_native())).await;
    Ok(())
});
handler!(Spin, (), |actor, spin, ctx| {
    let until = std::time::Instant::now() + Duration::from_millis(spin.0.to_native());
    while std::time::Instant::now() < until {
        std::hint::spin_loop();
    }
    Ok(())
});
handler!(Bytes, Vec<u8>, |actor, message, ctx| Ok(pattern(message.0.to_native() as usize)));
handler!(Sum, u64, |actor, sum, ctx| Ok(sum.0.iter().map(|byte| u64::from(*byte)).sum()));
handler!(Forward, String, |actor, forward, ctx| {
    let forward = forward.read()?;
    let answer = forward.to.ask(Echo(forward.text)).await?;
    Ok(format!("{} heard {}", actor.name, answer))
});
handler!(CountLater, (), |actor, later, ctx| {
    ctx.notify_after(Duration::from_millis(later.0.to_native()), Count(later.1.to_native()))?;
    Ok(())
});
handler!(ThreadName, String, |actor, message, ctx| {
    Ok(std::thread::current().name().unwrap_or("").to_owned())
});
handler!(SpawnChild, ActorRef<Desk>, |actor, message, ctx| {
    Ok(ctx.spawn::<Clerk>(format!("child of {}", actor.name)).await?)
});
handler!(Search, (), |actor, message, ctx| {
    let cancelled = ctx.cancelled();
    message.read()?.0.tell(Count(0)).await?;
    cancelled.await;
    actor.counted.push(1);
    Ok(())
});
handler!(SearchBeside, (), |actor, message, ctx| {
    let (me, mut kept) = (ctx.me(), None);
    let later = ctx.reply_later(|responder| kept = Some(responder));
    ctx.spawn_task(async move {
        kept.unwrap().cancelled().await;
        me.tell(Count(2)).await.unwrap();
    });
    message.read()?.0.tell(Count(0)).await?;
    later
});
handler!(TimeLeft, Option<u64>, |actor, message, ctx| {
    let left = ctx.deadline().map(|deadline| deadline.saturating_duration_since(std::time::Instant::now()));
    Ok(left.map(|left| left.as_millis() as u64))
});
handler!(MonitorOther, (), |actor, monitor, ctx| {
    let MonitorOther(other, number) = monitor.read()?;
    ctx.monitor(&other, move |report| {
        // The reason is part of what is told.
        Count(if report.cause == Cause::OrderedBy("the test".into()) { number } else { number + 100 })
    });
    Ok(())
});
handler!(LinkTo, (), |actor, link, ctx| {
    ctx.link(&link.read()?.0);
    Ok(())
});

pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

/// Runs a test on a plain thread: calls need no runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    futures_executor(future)
}

fn futures_executor<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut cx = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        std::thread::park();
    }
}

/// An actor without progress, or, without a stall, one that goes on.
pub type Progress = (ActorId, Option<Stall>);

/// A control plane that only notes whom it is to watch, and who makes no progress.
#[derive(Default)]
pub struct Watchman {
    pub watched: Mutex<Vec<ProcessAddress>>,
    stalls: Mutex<Option<mpsc::Sender<Progress>>>,
}

impl Watchman {
    /// What it is told of progress from now on.
    pub fn stalls(&self) -> mpsc::Receiver<Progress> {
        let (sender, stalls) = mpsc::channel();
        *self.stalls.lock().unwrap() = Some(sender);
        stalls
    }
}

impl ControlPlane for Watchman {
    fn spawn(&self, _: SpawnRequest) -> BoxFuture<'static, Result<ActorAddress, ControlError>> {
        Box::pin(async { Err(ControlError::Refused("not here".into())) })
    }
    fn spawn_gang(&self, _: GangRequest) -> BoxFuture<'static, Result<Vec<ActorAddress>, ControlError>> {
        Box::pin(async { Err(ControlError::Refused("not here".into())) })
    }
    fn lookup(
        &self,
        _: u64,
        _: Option<&str>,
        _: &str,
    ) -> BoxFuture<'static, Result<Vec<ActorAddress>, ControlError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn watch(&self, process: &ProcessAddress) {
        self.watched.lock().unwrap().push(process.clone());
    }
    fn stalled(&self, actor: &ActorAddress, stall: Option<&Stall>) {
        if let Some(stalls) = &*self.stalls.lock().unwrap() {
            stalls.send((actor.actor, stall.cloned())).unwrap();
        }
    }
    fn stop(&self, _: ActorId, _: bool) -> BoxFuture<'static, Result<(), ControlError>> {
        Box::pin(async { Ok(()) })
    }
}

pub fn alone() -> System {
    System::start(SystemOptions { actor_threads: 2, ..SystemOptions::default() }).unwrap()
}

/// Sends `call` and gives it up once `witness` has counted `times` times.
pub async fn begun<M: Message>(witness: &ActorRef<Desk>, times: usize, call: Ask<Desk, M>)
where
    Desk: Accepts<M>,
{
    let begun = std::pin::pin!(counted(witness, times));
    assert!(matches!(select(call, begun).await, Either::Right(_)), "what is never found was found");
}

/// What `desk` has counted, once that is `times` numbers.
pub async fn counted(desk: &ActorRef<Desk>, times: usize) -> Vec<u32> {
    loop {
        let counted = desk.ask(Counted).await.unwrap().read().unwrap();
        if counted.len() >= times {
            return counted;
        }
    }
}

/// Two processes' worth of systems, connected over QUIC on loopback.
pub struct Pair {
    pub here: System,
    pub there: System,
}

static PROCESSES: AtomicU32 = AtomicU32::new(1);

pub fn registry() -> Registry {
    Registry::new().register::<Clerk>()
}

pub fn pair() -> Pair {
    pair_with(registry(), registry())
}

/// Two workers of one node.
pub fn neighbours() -> Pair {
    let authority = Authority::create("school").unwrap();
    let [here, there] =
        [registry(), registry()].map(|roles| process_of(&authority, PeerRole::Worker, "n1", roles));
    Pair { here, there }
}

pub fn pair_with(here: Registry, there: Registry) -> Pair {
    pair_of(PeerRole::Worker, here, there)
}

/// A process of `kind` and registry `here`, and a worker with `there`, of another node.
pub fn pair_of(kind: PeerRole, here: Registry, there: Registry) -> Pair {
    let authority = Authority::create("school").unwrap();
    Pair {
        here: process_of(&authority, kind, "n1", here),
        there: process_of(&authority, PeerRole::Worker, "n2", there),
    }
}

/// So many processes' worth of systems, each of a node of its own.
pub fn school(processes: usize) -> Vec<System> {
    let authority = Authority::create("school").unwrap();
    let start = |number| process_of(&authority, PeerRole::Worker, &format!("n{number}"), registry());
    (0..processes).map(start).collect()
}

fn process_of(authority: &Authority, kind: PeerRole, node: &str, roles: Registry) -> System {
    let process = u64::from(PROCESSES.fetch_add(1, Ordering::Relaxed));
    let identity = PeerIdentity::new("school", kind, node, process).unwrap();
    let credentials = authority.issue(&identity, Duration::from_secs(3600)).unwrap();
    let bind = "127.0.0.1:0".parse().unwrap();
    let options = SystemOptions::networked(credentials, bind, roles);
    System::start(SystemOptions { actor_threads: 2, ..options }).unwrap()
}

/// Sends a large message, a small one behind it that must not overtake it, and one whose large reply is given back.
pub async fn send_large_and_small(desk: &ActorRef<Desk>) -> Incoming<Vec<u8>> {
    let bytes = pattern(3_000_001);
    let sum = bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let (large, small, reply) =
        tokio::join!(desk.ask(Sum(bytes)), desk.ask(Count(7)), desk.ask(Bytes(2_500_003)));
    assert_eq!(large.unwrap().to_native(), sum);
    assert_eq!(small.unwrap().to_native(), 1);
    let reply = reply.unwrap();
    assert_eq!(reply.as_slice(), pattern(2_500_003));
    reply
}

/// A pair of which one calls the other over a network that may be bad, or cut.
pub struct Distant {
    pub pair: Pair,
    pub relay: LossyRelay,
    _relaying: tokio::runtime::Runtime,
}

pub fn distant(faults: Faults) -> Distant {
    let pair = pair();
    let relaying =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let relay = relaying.block_on(async { LossyRelay::start(pair.there.address().addr, faults).unwrap() });
    Distant { pair, relay, _relaying: relaying }
}

impl Distant {
    /// An actor in the other system, as seen there and from here.
    pub async fn desk<A: Actor<Role = Desk>>(&self, name: &str) -> (ActorRef<Desk>, ActorRef<Desk>) {
        let theirs = self.pair.there.spawn::<A>(name.to_owned()).await.unwrap();
        let mut address = theirs.address().clone();
        address.process.addr = self.relay.addr();
        (theirs, self.pair.here.actor_ref(address).unwrap())
    }
}

impl Pair {
    /// An actor in the other system, as this one sees it.
    pub async fn desk<A: Actor<Role = Desk>>(&self, name: &str) -> ActorRef<Desk> {
        self.both_sides::<A>(name).await.1
    }

    /// An actor in the other system, as that one sees it and as this one does.
    pub async fn both_sides<A: Actor<Role = Desk>>(&self, name: &str) -> (ActorRef<Desk>, ActorRef<Desk>) {
        let theirs = self.there.spawn::<A>(name.to_owned()).await.unwrap();
        let ours = self.here.actor_ref(theirs.address().clone()).unwrap();
        (theirs, ours)
    }
}
