//! Head and agents under kills, partitions, restarts and duplicated, delayed and reordered messages. Every run is a
//! function of its seed; the invariants C1 to C3 of `lyceum_cluster::control` (and L3 for watchers) are asserted.

mod simulated;

use simulated::World;

/// The seeds of one test run; a failure names its seed, and `World::new(seed)` shows it again.
const SEEDS: std::ops::Range<u64> = 0..150;

#[test]
fn c1_c2_c3_l3_hold_under_random_faults() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        for _ in 0..250 {
            world.disturb();
            world.advance();
            world.assert_safety();
        }
        world.heal_and_end_everything();
        world.assert_nothing_left();
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = |seed| {
        let mut world = World::new(seed);
        for _ in 0..100 {
            world.disturb();
            world.advance();
        }
        world.history().to_vec()
    };
    assert_eq!(history(7), history(7));
    assert_ne!(history(7), history(8));
}
