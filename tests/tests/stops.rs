//! Stops at awkward moments: while a cluster starts, while trainers wait for room, while held-out data is measured, when
//! nobody reads any more, and by `lyceum down`. What stops in the midst of training is in `kills.rs`.
#![allow(clippy::unwrap_used)]

use lyceum_tests::{Bed, RunText, SEED, documents};

/// What a shell takes for "ended by Ctrl-C".
const INTERRUPTED: Option<i32> = Some(130);

fn run_text() -> RunText {
    RunText { steps: 150, checkpoint_every: 50, world_size: 2, ..RunText::default() }
}

#[test]
fn ctrl_c_while_the_cluster_starts_leaves_nothing_running_and_the_run_can_be_begun_again() {
    let bed = Bed::with_documents(1500);
    for role in ["run", "head", "agent", "controller", "trainer"] {
        let mut run = bed.run(&run_text(), "out");
        run.until(&format!("a process of role {role}"), || !bed.processes(role).is_empty());
        run.interrupt();
        let ended = run.end();
        println!("Ctrl-C at the first {role}: {:?} after {:?}", ended.code, ended.took);
        // Before it listens a signal ends it as it ends any program.
        assert!(
            ended.code == INTERRUPTED || (role == "run" && ended.code.is_none()),
            "{role}: {}",
            ended.said
        );
        assert!(!ended.said.contains("error"), "{role}: {}", ended.said);
    }
    assert_eq!(bed.run(&run_text(), "out").end().well().losses().len(), 150);
}

#[test]
fn l3_a_head_that_is_killed_while_the_cluster_starts_is_named_and_nothing_is_left() {
    let bed = Bed::with_documents(1500);
    for role in ["head", "agent", "controller"] {
        let mut run = bed.run(&run_text(), "out");
        run.until(&format!("a process of role {role}"), || !bed.processes(role).is_empty());
        run.kill("head", 0);
        let ended = run.end();
        println!("kill -9 of the head at the first {role}: told after {:?}", ended.took);
        ended.failed(&["error: the head"]);
    }
}

#[test]
fn ctrl_c_while_trainers_wait_for_room_ends_that_run_and_no_other() {
    let bed = Bed::with_documents(1500);
    let cluster = bed.up();
    // Each trainer takes a whole node of the manifest.
    let text = run_text().to_string().replace("world_size = 2", "world_size = 2\ncpus = 3");
    let mut first = bed.run_text(&text.replace("steps = 150", "steps = 100000"), "first");
    first.until_step(1);
    let mut second = bed.run_text(&text, "second");
    second.until_said("who waits for room");
    second.interrupt();
    let ended = second.end_on_standing();
    assert_eq!(ended.code, INTERRUPTED, "{}", ended.said);
    assert_eq!(ended.last_line(), "the same command goes on from step 0");
    let step = first.output.losses().len() as u64;
    first.until_step(step + 1);
    first.interrupt();
    let ended = first.end_on_standing();
    assert_eq!(ended.code, INTERRUPTED, "{}", ended.said);
    assert!(cluster.workers().is_empty(), "{:?}", cluster.workers());
    cluster.down();
}

#[test]
fn ctrl_c_while_held_out_data_is_measured_does_not_wait_for_the_measure() {
    let bed = Bed::with_documents(100);
    bed.write("heldout.jsonl", documents(SEED + 2, 60_000));
    let run = RunText { heldout: Some("heldout.jsonl"), ..run_text() };
    let mut running = bed.run(&run, "out");
    running.until_said("measuring before");
    running.interrupt();
    let ended = running.end();
    println!("ended after {:?}", ended.took);
    assert_eq!(ended.code, INTERRUPTED, "{}", ended.said);
    assert_eq!(ended.last_line(), "the same command goes on from step 0");
    let summary = ended.output.summary();
    assert_eq!((summary.steps, summary.heldout.before), (0, None));
}

#[test]
fn l3_a_trainer_that_is_killed_after_ctrl_c_is_an_error_and_no_clean_stop() {
    let bed = Bed::with_documents(2000);
    let run = RunText { steps: 100_000, ..run_text() };
    let mut running = bed.run(&run, "out");
    running.until_step(60);
    // So that the step at which the run would stop is never done.
    let trainer = bed.processes("trainer").remove(0);
    trainer.signal(libc::SIGSTOP);
    running.interrupt();
    running.until_said("stopping at the next step");
    trainer.kill();
    let ended = running.end();
    ended.goes_on_from();
    ended.failed(&["error: trainer", "SIGKILL"]);
}

#[test]
fn a_run_whose_output_nobody_reads_goes_on_to_its_end() {
    let bed = Bed::with_documents(600);
    let run = RunText { steps: 40, ..RunText::default() };
    let output = bed.run_unread(&run, "out").end().well();
    assert_eq!(output.summary().steps, 40);
}

#[test]
fn lyceum_down_in_the_midst_of_a_run_ends_it_with_an_error_that_says_so() {
    let bed = Bed::with_documents(2000);
    let run = RunText { steps: 100_000, ..run_text() };
    let mut running = bed.run(&run, "out");
    running.until_step(60);
    bed.lyceum("down");
    let ended = running.end();
    println!("{}", ended.said);
    ended.goes_on_from();
    ended.failed(&["ended as ordered by lyceum down"]);
}
