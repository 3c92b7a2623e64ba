//! What actors are at, as others see it, and actors that make no progress.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    sync::{Arc, Barrier, Mutex},
    time::Duration,
};

use common::*;
use futures_util::future::join_all;
use lyceum_actor::*;
use rkyv::{Archive, Deserialize, Serialize};

/// Longer than any wait of these tests that comes to its end.
const PATIENCE: Duration = Duration::from_secs(60);

struct Loom;

/// Holds its thread until the test comes by the barrier of that number, and says so before.
#[derive(Archive, Serialize, Deserialize)]
struct Hold(u32);

/// The same, beside others.
#[derive(Archive, Serialize, Deserialize)]
struct HoldBeside(u32);

/// Is at work for so many milliseconds, and says now and then that it goes on.
#[derive(Archive, Serialize, Deserialize)]
struct Weave(u64);

impl Role for Loom {
    const NAME: &'static str = "loom";
    type Args = ();
    type Messages = (Hold, Reads<HoldBeside>, Weave);
}
impl Accepts<Hold> for Loom {
    type Reply = ();
}
impl Accepts<HoldBeside> for Loom {
    type Reply = ();
}
impl Accepts<Weave> for Loom {
    type Reply = ();
}

struct Weaver;

static BARRIERS: Mutex<Vec<Arc<(Barrier, Barrier)>>> = Mutex::new(Vec::new());

/// A barrier at which a handler says that it is at work, and one that lets it go.
fn barrier() -> (u32, Arc<(Barrier, Barrier)>) {
    let barrier = Arc::new((Barrier::new(2), Barrier::new(2)));
    let mut barriers = BARRIERS.lock().unwrap();
    barriers.push(barrier.clone());
    (barriers.len() as u32 - 1, barrier)
}

#[inline(never)]
fn held_by_the_test(number: u32) {
    let barrier = BARRIERS.lock().unwrap()[number as usize].clone();
    barrier.0.wait();
    barrier.1.wait();
}

impl Actor for Weaver {
    type Role = Loom;
    const PROGRESS: Duration = Duration::from_millis(300);

    async fn start((): (), _: &mut Context<Self>) -> Result<Self> {
        Ok(Weaver)
    }
}

impl Handler<Hold> for Weaver {
    async fn handle(&mut self, hold: Incoming<Hold>, _: &mut Context<Self>) -> Result<()> {
        held_by_the_test(hold.0.to_native());
        Ok(())
    }
}

impl Reader<HoldBeside> for Weaver {
    async fn read(&self, hold: Incoming<HoldBeside>, _: &mut Context<Self>) -> Result<()> {
        held_by_the_test(hold.0.to_native());
        Ok(())
    }
}

impl Handler<Weave> for Weaver {
    async fn handle(&mut self, weave: Incoming<Weave>, ctx: &mut Context<Self>) -> Result<()> {
        for _ in 0..weave.0.to_native() / 10 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            ctx.goes_on();
        }
        Ok(())
    }
}

#[test]
fn an_actor_without_progress_is_told_of_once_and_so_is_that_it_goes_on() {
    let system = alone();
    let watchman = Arc::new(Watchman::default());
    system.set_control(watchman.clone());
    let told = watchman.stalls();
    block_on(async {
        let weaver = system.spawn::<Weaver>(()).await.unwrap();
        let busy = system.spawn::<Weaver>(()).await.unwrap();
        for beside in [false, true] {
            let (number, barrier) = barrier();
            match beside {
                false => weaver.tell(Hold(number)).await.unwrap(),
                true => weaver.tell(HoldBeside(number)).await.unwrap(),
            }
            barrier.0.wait();
            weaver.tell(Weave(0)).await.unwrap();
            // This one is at work for longer than that, and says so; what it handles comes to its end.
            busy.ask(Weave(4500)).await.unwrap();
            let (actor, stall) = told.recv_timeout(PATIENCE).unwrap();
            let stall = stall.unwrap();
            assert_eq!(actor, weaver.address().actor);
            assert_eq!(stall.handles.message, if beside { "HoldBeside" } else { "Hold" });
            assert!(stall.handles.for_ms >= 300 && stall.handles.idle_ms == stall.handles.for_ms, "{stall}");
            assert_eq!(stall.waiting, 1, "{stall}");
            assert!(told.try_recv().is_err(), "it is told once");
            barrier.1.wait();
            assert_eq!(told.recv_timeout(PATIENCE).unwrap(), (actor, None));
        }
        assert!(told.try_recv().is_err());
        system.shut_down(Duration::from_secs(1)).await;
    });
}

#[test]
fn whoever_asks_is_told_what_a_process_does_though_all_its_actors_are_held_up() {
    let roles = || Registry::new().register::<Weaver>();
    let pair = pair_with(roles(), roles());
    block_on(async {
        let held: Vec<_> = (0..4).map(|_| barrier()).collect();
        let mut weavers = Vec::new();
        for (number, barrier) in &held {
            let weaver = pair.there.spawn::<Weaver>(()).await.unwrap();
            let weaver = pair.here.actor_ref::<Loom>(weaver.address().clone()).unwrap();
            weaver.tell(Hold(*number)).await.unwrap();
            barrier.0.wait();
            weaver.tell(Hold(0)).deadline(PATIENCE).await.unwrap();
            weavers.push(weaver);
        }
        let asked = weavers[2].address();
        let inspections = join_all((0..3).map(|_| pair.here.inspect(asked))).await;
        for inspection in inspections {
            let Inspection { actors, threads } = inspection.unwrap();
            assert_eq!(actors[0].actor, asked.actor);
            assert!(actors.len() >= 4, "those that are held up beside it: {actors:?}");
            let text = actors[0].to_string();
            assert!(text.starts_with("loom ") && text.contains("handles `Hold` for "), "{text}");
            assert!(
                text.contains("; 1 message waits in its mailbox; its progress deadline is 0.3 s"),
                "{text}"
            );
            let is_held =
                |thread: &&ThreadStack| thread.frames.iter().any(|frame| frame.contains("held_by_the_test"));
            assert!(threads.iter().filter(is_held).count() >= 4, "{threads:?}");
        }
        let idle = pair.there.spawn::<Weaver>(()).await.unwrap();
        let inspection = pair.here.inspect(idle.address()).await.unwrap();
        assert_eq!(inspection.actors[0].actor, idle.address().actor);
        assert!(inspection.actors[0].handles.is_empty());
        for (weaver, (_, barrier)) in weavers.iter().zip(&held) {
            pair.there.kill_actor(weaver.address().actor, Cause::OrderedBy("the test".into()));
            barrier.1.wait();
            weaver.died().await;
        }
        pair.here.shut_down(Duration::from_secs(1)).await;
        pair.there.shut_down(Duration::from_secs(1)).await;
    });
}
