//! Head and agents under kills, partitions, restarts, crashes between commit and effect, and duplicated, delayed and reordered
//! messages. Every run is a function of its seed; the invariants C1 to C8 of `lyceum_cluster::control` (and L3) are asserted.
//!
//! `LYCEUM_SIMULATION=SEED cargo test --workspace --test simulation again -- --nocapture` shows one seed again.

mod simulated;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use simulated::{Planted, World};

/// Worlds of 3 to 12 nodes.
const WORLDS: u64 = 10_000;
/// How often one of these is disturbed.
const ROUNDS: u32 = 150;
/// Worlds of 1,000 nodes.
const LARGE_WORLDS: u64 = 20;
/// Seeds within which whatever is wrong must be found.
const ENOUGH: u64 = 1000;

thread_local! {
    /// Is a failure of this thread nothing to speak of?
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Disturbs the world for so many rounds, and at least for 500 events, heals it, and looks at what is left.
fn live(mut world: World, rounds: u32) -> World {
    let mut round = 0;
    while round < rounds || world.events() < 500 {
        world.disturb();
        world.advance();
        world.assert_safety();
        round += 1;
    }
    world.heal_and_end_everything();
    world.assert_nothing_left();
    world
}

/// Runs `one` for the seeds, on all cores; gives the lowest that failed.
fn first_failure(seeds: u64, one: impl Fn(u64) + Sync) -> Option<u64> {
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds || seed >= failed.load(Ordering::Relaxed) {
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| one(seed))).is_err() {
            failed.fetch_min(seed, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    Some(failed.into_inner()).filter(|seed| *seed < seeds)
}

#[test]
fn the_invariants_hold_in_ten_thousand_worlds() {
    let failed = first_failure(WORLDS, |seed| drop(live(World::new(seed), ROUNDS)));
    assert_eq!(
        failed,
        None,
        "again: LYCEUM_SIMULATION={} cargo test --workspace --test simulation again -- --nocapture",
        failed.unwrap_or_default()
    );
}

#[test]
fn the_invariants_hold_among_a_thousand_nodes() {
    let failed = first_failure(LARGE_WORLDS, |seed| drop(live(World::of(seed, 1000, None), 30)));
    assert_eq!(failed, None, "a world of a thousand nodes and this seed");
}

#[test]
fn whatever_is_planted_is_found() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !EXPECTED.get() {
            told(panic);
        }
    }));
    for planted in Planted::ALL {
        let found = first_failure(ENOUGH, |seed| {
            EXPECTED.set(true);
            drop(live(World::of(seed, 3 + seed as usize % 10, Some(planted)), ROUNDS));
        });
        assert!(found.is_some(), "{planted:?} is not found within {ENOUGH} seeds");
        println!("{planted:?} is found by seed {found:?}");
    }
}

#[test]
fn again() {
    let asked = std::env::var("LYCEUM_SIMULATION").ok().and_then(|seed| seed.parse().ok());
    let seed = asked.unwrap_or(7);
    let history = |seed, aloud| live(World::new(seed).recorded(aloud), ROUNDS).history().to_vec();
    assert_eq!(history(seed, asked.is_some()), history(seed, false), "the same seed gives the same history");
    assert_ne!(history(seed, false), history(seed + 1, false));
}
