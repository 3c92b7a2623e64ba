//! Runs on a cluster that stands: one after another, and one whose command is killed.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use lyceum_tests::{Bed, HANGING, RunText};

/// Step in the midst of the run.
const MIDDLE: u64 = 60;

#[test]
fn l5_a_standing_cluster_takes_one_run_after_another_and_survives_one_whose_command_is_killed() {
    let bed = Bed::with_documents(1500);
    let cluster = bed.up();
    let daemons = cluster.daemons();
    assert_eq!(daemons.len(), 3, "a head and two agents: {daemons:?}");
    let run = RunText { steps: 150, checkpoint_every: 50, world_size: 2, ..RunText::default() };
    let alone = bed.run(&run, "alone").end_on_standing().well();
    assert!(cluster.workers().is_empty(), "a run that has ended leaves nothing: {:?}", cluster.workers());
    assert_eq!(cluster.daemons(), daemons);

    let mut killed = bed.run(&run, "out");
    killed.until_step(MIDDLE);
    let status = bed.lyceum("status");
    for role in ["corpus-reader", "packer", "controller", "synthesizer", "trainer"] {
        assert!(status.contains(role), "{role} is an actor of:\n{status}");
        let libtorch = ["synthesizer", "trainer"].contains(&role);
        for process in bed.processes(role) {
            assert_eq!(process.has_loaded("libtorch_cpu"), libtorch, "{process:?}");
        }
    }
    let stack = bed.lyceum_with(&["stack", "trainers[1]"]);
    for part in ["trainer ", "handles `", "its progress deadline is 600 s", "thread ", "lyceum-io"] {
        assert!(stack.contains(part), "{part} is in:\n{stack}");
    }
    killed.kill_command();
    // At once: what is left of the first attempt may not write there any more.
    let output = bed.run(&run, "out").end_on_standing().well();
    assert_eq!(output.losses(), alone.losses(), "L5");
    assert_eq!(output.batches()[..150], alone.batches()[..150], "L5");
    assert!(output.summary().documents.adds_up());

    // The head ends a job whose client is silent.
    let begun = Instant::now();
    while !cluster.workers().is_empty() {
        assert!(begun.elapsed() < HANGING, "{:?} of a killed run are left", cluster.workers());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(cluster.daemons(), daemons, "the cluster stands");
    cluster.down();
}
