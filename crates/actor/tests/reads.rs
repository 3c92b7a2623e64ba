//! Messages that only read, several at a time, asserted within a process and between two: the sentences of
//! `docs/semantics.md`.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    pin::pin,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::*;
use futures_util::future::{Either, join_all, select};
use lyceum_actor::*;
use rkyv::{Archive, Deserialize, Serialize};
use tokio::sync::Semaphore;

struct Board;

#[derive(Archive, Serialize, Deserialize)]
struct Put(u32);

/// What is on the board, once the gate has let this reader through.
#[derive(Archive, Serialize, Deserialize)]
struct Look;

/// What is on the board, once so many compute at the same time.
#[derive(Archive, Serialize, Deserialize)]
struct Compute;

#[derive(Archive, Serialize, Deserialize)]
struct Stumble;

/// How many readers were ever at work at the same time, how many looks were begun, how many of them ended early, and the
/// board's number.
#[derive(Archive, Serialize, Deserialize)]
struct Most;

/// So many looks may be done.
#[derive(Archive, Serialize, Deserialize)]
struct OpenGate(u32);

impl Role for Board {
    const NAME: &'static str = "board";
    type Args = ();
    type Messages = (Put, Reads<Look>, Reads<Compute>, Reads<Stumble>, Reads<Most>, Reads<OpenGate>);
}
impl Accepts<Put> for Board {
    type Reply = ();
}
impl Accepts<Look> for Board {
    type Reply = u32;
}
impl Accepts<Compute> for Board {
    type Reply = ();
}
impl Accepts<Stumble> for Board {
    type Reply = ();
}
impl Accepts<Most> for Board {
    type Reply = [u32; 4];
}
impl Accepts<OpenGate> for Board {
    type Reply = ();
}

struct Blackboard {
    value: u32,
    outside: Arc<Outside>,
    together: Barrier,
}

/// What a test sees and does beside the mailbox, which may be held up, or closed.
struct Outside {
    number: u32,
    gate: Semaphore,
    looking: AtomicUsize,
    most: AtomicUsize,
    begun: AtomicUsize,
    left: AtomicUsize,
    /// The board's end holds its thread until somebody comes by, and then panics.
    is_heavy: AtomicBool,
    let_go: Barrier,
}

impl Drop for Blackboard {
    fn drop(&mut self) {
        if self.outside.is_heavy.load(Ordering::SeqCst) {
            self.outside.let_go.wait();
            panic!("as it is put away");
        }
    }
}

/// Of all boards of this test program, by their numbers. (Actors' numbers are alike in systems that are alone.)
static OUTSIDES: Mutex<Vec<Arc<Outside>>> = Mutex::new(Vec::new());

async fn outside(board: &ActorRef<Board>) -> Arc<Outside> {
    let number = board.ask(Most).await.unwrap()[3].to_native() as usize;
    OUTSIDES.lock().unwrap()[number].clone()
}

/// Has another actor of the same process do something, often: whatever could have happened beside it has.
async fn meanwhile(system: &System) {
    let other = system.spawn::<Blackboard>(()).await.unwrap();
    for _ in 0..200 {
        other.ask(Put(1)).await.unwrap();
        other.ask(Most).await.unwrap();
    }
}

const READERS: usize = 4;

impl Actor for Blackboard {
    type Role = Board;
    const READERS: usize = READERS;

    async fn start((): (), _: &mut Context<Self>) -> Result<Self> {
        let mut outsides = OUTSIDES.lock().unwrap();
        let outside = Arc::new(Outside {
            number: outsides.len() as u32,
            gate: Semaphore::new(0),
            looking: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            is_heavy: AtomicBool::new(false),
            let_go: Barrier::new(2),
        });
        outsides.push(outside.clone());
        Ok(Blackboard { value: 0, outside, together: Barrier::new(READERS) })
    }
}

impl Handler<Put> for Blackboard {
    async fn handle(&mut self, put: Incoming<Put>, _: &mut Context<Self>) -> Result<()> {
        self.value = put.0.to_native();
        Ok(())
    }
}

/// Counts a look, however it ends.
struct Looking<'a>(&'a Outside, bool);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.looking.fetch_sub(1, Ordering::SeqCst);
        self.0.left.fetch_add(usize::from(!self.1), Ordering::SeqCst);
    }
}

impl Reader<Look> for Blackboard {
    async fn read(&self, _: Incoming<Look>, _: &mut Context<Self>) -> Result<u32> {
        let outside = &*self.outside;
        let now = outside.looking.fetch_add(1, Ordering::SeqCst) + 1;
        outside.most.fetch_max(now, Ordering::SeqCst);
        outside.begun.fetch_add(1, Ordering::SeqCst);
        let mut looking = Looking(outside, false);
        outside.gate.acquire().await?.forget();
        looking.1 = true;
        Ok(self.value)
    }
}

impl Reader<Compute> for Blackboard {
    async fn read(&self, _: Incoming<Compute>, _: &mut Context<Self>) -> Result<()> {
        // Holds its thread.
        self.together.wait();
        Ok(())
    }
}

impl Reader<Stumble> for Blackboard {
    async fn read(&self, _: Incoming<Stumble>, _: &mut Context<Self>) -> Result<()> {
        panic!("a shoelace")
    }
}

impl Reader<Most> for Blackboard {
    async fn read(&self, _: Incoming<Most>, _: &mut Context<Self>) -> Result<[u32; 4]> {
        let outside = &self.outside;
        let [most, begun, left] =
            [&outside.most, &outside.begun, &outside.left].map(|count| count.load(Ordering::SeqCst) as u32);
        Ok([most, begun, left, outside.number])
    }
}

impl Reader<OpenGate> for Blackboard {
    async fn read(&self, open: Incoming<OpenGate>, _: &mut Context<Self>) -> Result<()> {
        self.outside.gate.add_permits(open.0.to_native() as usize);
        Ok(())
    }
}

/// A board and its process; the test's end is that of both systems.
fn local_and_remote(test: impl AsyncFn(&System, ActorRef<Board>)) {
    let system = alone();
    block_on(async {
        let board = system.spawn::<Blackboard>(()).await.unwrap();
        test(&system, board).await;
        system.shut_down(Duration::from_secs(1)).await;
    });
    let pair = pair();
    block_on(async {
        let board = pair.there.spawn::<Blackboard>(()).await.unwrap();
        let board = pair.here.actor_ref(board.address().clone()).unwrap();
        test(&pair.there, board).await;
        pair.here.shut_down(Duration::from_secs(1)).await;
        pair.there.shut_down(Duration::from_secs(1)).await;
    });
}

/// Waits until this many looks have begun.
async fn begun(board: &ActorRef<Board>, looks: u32) {
    while board.ask(Most).await.unwrap()[1].to_native() < looks {
        std::thread::yield_now();
    }
}

#[test]
fn readers_are_at_work_at_once_up_to_their_limit() {
    local_and_remote(async |system, board| {
        let outside = outside(&board).await;
        let looks = join_all((0..2 * READERS).map(|_| board.ask(Look)));
        let scene = async {
            while outside.begun.load(Ordering::SeqCst) < READERS {
                meanwhile(system).await;
            }
            meanwhile(system).await;
            assert_eq!(outside.begun.load(Ordering::SeqCst), READERS, "the others wait");
            outside.gate.add_permits(2 * READERS);
        };
        let (values, ()) = tokio::join!(looks, scene);
        assert!(values.into_iter().all(|value| value.unwrap().to_native() == 0));
        assert_eq!(outside.most.load(Ordering::SeqCst), READERS);

        // More than the mailbox: all of them are done, and never more than the limit at a time.
        outside.gate.add_permits(5000);
        let values = join_all((0..5000).map(|_| board.ask(Look))).await;
        assert!(values.into_iter().all(|value| value.unwrap().to_native() == 0));
        assert_eq!(outside.most.load(Ordering::SeqCst), READERS);
    });
}

#[test]
fn readers_compute_at_once() {
    local_and_remote(async |_, board| {
        // Each waits, on its thread, for the others.
        for answer in join_all((0..READERS).map(|_| board.ask(Compute))).await {
            answer.unwrap();
        }
    });
}

#[test]
fn a_reader_sees_what_came_before_it_and_nothing_that_came_after() {
    local_and_remote(async |_, board| {
        let (first, put, second) = (board.ask(Look), board.ask(Put(1)), board.ask(Look));
        board.tell(OpenGate(2)).await.unwrap();
        let (first, put, second) = tokio::join!(first, put, second);
        put.unwrap();
        assert_eq!((first.unwrap().to_native(), second.unwrap().to_native()), (0, 1));
    });
}

#[test]
fn a_change_waits_for_the_readers_before_it_and_holds_up_those_behind_it() {
    local_and_remote(async |_, board| {
        let look = board.ask(Look);
        let rest = async {
            begun(&board, 1).await;
            let (put, behind) = (board.ask(Put(1)), board.ask(Most));
            let short = Duration::from_millis(30);
            let (put, behind) = tokio::join!(put.deadline(short), behind.deadline(short));
            assert!(matches!(put, Err(CallError::Deadline)), "{put:?}");
            assert!(matches!(behind, Err(CallError::Deadline)), "{behind:?}");
        };
        let waited = select(look, Box::pin(rest)).await;
        assert!(matches!(waited, Either::Right(_)), "the look ended early");
    });
}

#[test]
fn a_reader_that_is_given_up_is_dropped() {
    local_and_remote(async |_, board| {
        for (looks, look) in [(1, board.ask(Look)), (2, board.ask(Look).retries(3))] {
            let look = select(look, Box::pin(begun(&board, looks))).await;
            assert!(matches!(look, Either::Right(_)), "the look ended early");
            drop(look);
            while board.ask(Most).await.unwrap()[2].to_native() < looks {
                std::thread::yield_now();
            }
            // Its turn is free: a change comes through.
            board.ask(Put(1)).await.unwrap();
        }
    });
}

#[test]
fn a_panic_of_a_reader_kills_the_actor_and_all_who_wait_are_told_its_text() {
    local_and_remote(async |_, board| {
        let look = board.ask(Look);
        let stumble = async {
            begun(&board, 1).await;
            board.ask(Stumble).await
        };
        let (look, stumble) = tokio::join!(look, stumble);
        for error in [look.unwrap_err().erase(), stumble.unwrap_err().erase()] {
            let cause = &error.death().unwrap().cause;
            assert_eq!(*cause, Cause::Panicked("a shoelace".into()));
        }
    });
}

#[test]
fn l3_who_waits_for_a_reader_is_told_when_its_actor_is_killed() {
    local_and_remote(async |system, board| {
        let look = board.ask(Look);
        let kill = async {
            begun(&board, 1).await;
            system.kill_actor(board.address().actor, Cause::OrderedBy("the test".into()));
        };
        let (look, ()) = tokio::join!(look, kill);
        let error = look.unwrap_err();
        assert_eq!(error.death().unwrap().cause, Cause::OrderedBy("the test".into()));
    });
}

#[test]
fn l3_who_waits_behind_readers_is_told_when_their_actor_is_killed() {
    local_and_remote(async |system, board| {
        let look = board.ask(Look);
        let kill = async {
            begun(&board, 1).await;
            let put = board.ask(Put(1));
            let kill = async {
                meanwhile(system).await;
                system.kill_actor(board.address().actor, Cause::OrderedBy("the test".into()));
            };
            tokio::join!(put, kill).0
        };
        let (look, put) = tokio::join!(look, kill);
        for error in [look.unwrap_err().erase(), put.unwrap_err().erase()] {
            assert_eq!(error.death().unwrap().cause, Cause::OrderedBy("the test".into()));
        }
    });
}

#[test]
fn l3_all_are_told_before_the_state_that_was_read_is_dropped() {
    local_and_remote(async |system, board| {
        let outside = outside(&board).await;
        outside.is_heavy.store(true, Ordering::SeqCst);
        let looks = join_all((0..3).map(|_| board.ask(Look)));
        let kill = async {
            begun(&board, 3).await;
            system.kill_actor(board.address().actor, Cause::OrderedBy("the test".into()));
            board.died().await
        };
        let (looks, report) = tokio::join!(looks, kill);
        assert_eq!(report.cause, Cause::OrderedBy("the test".into()));
        for look in looks {
            assert_eq!(look.unwrap_err().death().unwrap().cause, report.cause);
        }
        outside.let_go.wait();
        meanwhile(system).await;
    });
}

#[test]
fn a_graceful_stop_waits_for_the_readers() {
    local_and_remote(async |system, board| {
        let outside = outside(&board).await;
        let look = board.ask(Look);
        let stop = async {
            begun(&board, 1).await;
            system.stop_actor(board.address().actor, "the test");
            let (ended, waited) = (pin!(board.died()), pin!(meanwhile(system)));
            assert!(
                matches!(select(ended, waited).await, Either::Right(_)),
                "it did not wait for its reader"
            );
            outside.gate.add_permits(1);
            board.died().await
        };
        let (look, report) = tokio::join!(look, stop);
        assert_eq!(look.unwrap().to_native(), 0);
        assert_eq!(report.cause, Cause::OrderedBy("the test".into()));
    });
}

/// As the board, but its looks are no reads.
struct OldBoard;
impl Role for OldBoard {
    const NAME: &'static str = "board";
    type Args = ();
    type Messages = (Put, Look);
}
impl Accepts<Put> for OldBoard {
    type Reply = ();
}
impl Accepts<Look> for OldBoard {
    type Reply = u32;
}
struct NewBoard;
impl Role for NewBoard {
    const NAME: &'static str = "board";
    type Args = ();
    type Messages = (Put, Reads<Look>);
}
impl Accepts<Put> for NewBoard {
    type Reply = ();
}
impl Accepts<Look> for NewBoard {
    type Reply = u32;
}

#[test]
fn that_a_message_only_reads_is_part_of_its_role() {
    assert_ne!(fingerprint::<OldBoard>(), fingerprint::<NewBoard>());
}
