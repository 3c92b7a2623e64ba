//! What an interruption does: Ctrl-C, and `kill -9` of every process there is.
//!
//! The run of these tests takes 200 steps from two sources, one of them converted, and is compared with the same run
//! left alone.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use lyceum_corpus::batch_log::Entry;
use lyceum_tests::{Bed, Dice, Output, RunText, Running, SEED, first_told};

const STEPS: u64 = 200;

/// Steps after which something happens: the first checkpoint is there, and most is yet to do.
const MIDDLE: u64 = 75;

/// From when a death is found to the end of the command.
const WITHIN: Duration = Duration::from_secs(5);

fn run_text() -> RunText {
    RunText { steps: STEPS, checkpoint_every: 50, world_size: 2, ..RunText::default() }
}

fn bed() -> Bed {
    Bed::with_documents(2000)
}

/// Losses and batches of the run when nothing happens.
fn undisturbed() -> &'static (Vec<f64>, Vec<Entry>) {
    static RUN: OnceLock<(Vec<f64>, Vec<Entry>)> = OnceLock::new();
    RUN.get_or_init(|| {
        let bed = bed();
        let output = bed.run(&run_text(), "out").end().well();
        (output.losses(), output.batches())
    })
}

/// Takes the run in `out` up again; it must come to the end of one that was left alone (L5).
fn resume(bed: &Bed, before: u64) {
    let resumed = bed.run(&run_text(), "out");
    let output = resumed.end().well();
    assert!(before < STEPS, "the run was disturbed at step {before}");
    let (losses, batches) = undisturbed();
    assert_eq!(losses.len() as u64, STEPS);
    assert_eq!(&output.losses(), losses);
    assert_eq!(output.batches()[..STEPS as usize], batches[..STEPS as usize]);
    let summary = output.summary();
    assert_eq!(summary.steps, STEPS);
    assert!(summary.documents.adds_up(), "{summary:?}");
    output.documents();
}

#[test]
fn l5_ctrl_c_leaves_a_checkpoint_and_nothing_running_and_a_second_run_goes_on_to_the_same_losses() {
    let bed = bed();
    let mut run = bed.run(&run_text(), "out");
    run.until_step(MIDDLE);
    run.interrupt();
    let ended = run.end();
    assert_eq!(ended.code, Some(130), "{}", ended.said);
    let (_, step) = ended.output.whole_checkpoint();
    assert!(step >= MIDDLE, "the checkpoint of step {step} has what was trained");
    let summary = ended.output.summary();
    assert_eq!(summary.steps, step);
    assert!(summary.documents.adds_up(), "{summary:?}");
    resume(&bed, step);
}

#[test]
fn a_second_ctrl_c_ends_at_once_and_leaves_nothing_running() {
    let bed = bed();
    let mut run = bed.run(&run_text(), "out");
    run.until_step(1);
    run.interrupt();
    std::thread::sleep(Duration::from_millis(5));
    run.interrupt();
    let ended = run.end();
    assert_eq!(ended.code, Some(130), "{}", ended.said);
    resume(&bed, ended.output.losses().len() as u64);
}

/// Kills a process of `role` (after `skip` others) in the middle of the run, which then must end with an error that has `words`, within a
/// stated time of the `verdict`, which is a line of the cluster's logs; and go on when it is run again.
fn killed((role, skip): (&str, usize), verdict: &[&str], words: &[&str]) {
    let bed = bed();
    let mut run = bed.run(&run_text(), "out");
    run.until_step(MIDDLE);
    let killed = SystemTime::now();
    run.kill(role, skip);
    let ended = run.end();
    let found = first_told(&bed.state(), killed, verdict)
        .unwrap_or_else(|| panic!("no log has {verdict:?}:\n{}", ended.said));
    let (to_verdict, to_end) = (found.duration_since(killed), ended.at.duration_since(found));
    println!("{role}: from the kill to the verdict {to_verdict:?}, from the verdict to the end {to_end:?}");
    assert!(to_end.is_ok_and(|took| took <= WITHIN), "L3: {}", ended.said);
    println!("{}", ended.said);
    let step = ended.goes_on_from();
    ended.failed(words);
    assert!(step >= 50 && step.is_multiple_of(50), "{step}");
    resume(&bed, step);
}

#[test]
fn l3_a_stopped_trainer_holds_the_run_up_and_ends_it_only_when_it_stays_stopped() {
    let bed = bed();
    let stop = |run: &mut Running| {
        run.until_step(MIDDLE);
        let trainer = bed.processes("trainer").remove(0);
        trainer.signal(libc::SIGSTOP);
        trainer
    };
    let mut run = bed.run(&run_text(), "out");
    let trainer = stop(&mut run);
    // Longer than the verdict on a node takes, 3 s with the manifest of these tests: a rank's neighbours wait 5 s more.
    std::thread::sleep(Duration::from_secs(5));
    trainer.signal(libc::SIGCONT);
    assert_eq!(run.end().well().losses(), undisturbed().0);

    let mut run = bed.run(&run_text(), "again");
    stop(&mut run);
    let ended = run.end();
    let (_, step) = ended.output.whole_checkpoint();
    let goes_on = format!("the same command goes on from step {step}");
    ended.failed(&["error: trainer", "is lost: the peer has been silent", "in process", "on node", &goes_on]);
}

const KILLED: &[&str] = &["a process ended", "signal 9"];

#[test]
fn l3_a_killed_trainer_ends_the_run_with_one_error_and_it_can_be_resumed() {
    let log = ["the gang is formed", "training begins", "a checkpoint is whole"];
    killed(
        ("trainer", 0),
        KILLED,
        &[&["error: trainer", "training: trainer", "on node", "SIGKILL"][..], &log].concat(),
    );
}

#[test]
fn l3_a_killed_packer_ends_the_run_with_one_error_and_it_can_be_resumed() {
    let words = ["error: the packer: packer", "on node", "SIGKILL", "records and log are open"];
    killed(("packer", 0), KILLED, &words);
}

#[test]
fn l3_a_killed_corpus_reader_ends_the_run_with_one_error_and_it_can_be_resumed() {
    let words = ["error: the corpus reader: corpus-reader", "on node", "SIGKILL", "a source is open"];
    killed(("corpus-reader", 0), KILLED, &words);
}

#[test]
fn l3_a_killed_controller_ends_the_run_with_one_error_and_it_can_be_resumed() {
    killed(("controller", 0), KILLED, &["error: controller", "on node", "SIGKILL", "checkpoint step=50"]);
}

#[test]
fn l3_a_killed_agent_ends_the_run_with_one_error_and_it_can_be_resumed() {
    killed(("agent", 0), &["a node is lost"], &["on node a", "its agent, process", "has ended"]);
}

#[test]
fn l3_a_killed_agent_of_another_node_than_the_controllers_is_named_before_who_lost_it() {
    // The trainer of this node loses its neighbour first.
    killed(("agent", 1), &["a node is lost"], &["on node b", "its agent, process", "has ended"]);
}

#[test]
fn l3_a_killed_head_ends_the_run_with_one_error_and_it_can_be_resumed() {
    killed(("head", 0), &["the head is lost"], &["error: the head, process"]);
}

#[test]
fn l1_synthesizers_killed_at_twenty_random_moments_lose_no_document_and_double_none() {
    const KILLS: u32 = 20;
    const DOCUMENTS: u64 = 2000;
    let bed = Bed::with_documents(DOCUMENTS);
    // More steps than there is data: the run ends when every document has been trained.
    let run = RunText { steps: 100_000, raw: None, synthesizers: (2, 3), ..RunText::default() };
    let mut running = bed.run(&run, "out");
    running.until_step(1);
    let mut dice = Dice::new(SEED);
    let mut killed = BTreeSet::new();
    while killed.len() < KILLS as usize {
        let mut found = Vec::new();
        let (step, recorded) = (running.output.losses().len(), running.output.recorded_bytes());
        std::thread::sleep(Duration::from_millis(dice.below(800)));
        if killed.len() % 3 == 2 {
            // The run gives up when five die in a row and no chain is recorded meanwhile.
            let output = running.output.clone();
            running.until("another recorded chain", || output.recorded_bytes() > recorded);
        }
        running.until("another synthesizer to kill", || {
            found = bed.processes("synthesizer");
            found.retain(|process| !killed.contains(&process.pid));
            !found.is_empty()
        });
        let unlucky = &found[dice.below(found.len() as u64) as usize];
        println!("at step {step}: kill -9 {}", unlucky.pid);
        unlucky.kill();
        killed.insert(unlucky.pid);
    }
    let output = running.end().well();
    let summary = output.summary();
    assert!(summary.documents.adds_up(), "L1: {summary:?}");
    assert_eq!(summary.documents.read, DOCUMENTS, "L1, seed {SEED}: {summary:?}");
    assert!(summary.restarts >= KILLS / 2 && summary.restarts <= KILLS, "{summary:?}");
    every_document_once(&output, DOCUMENTS);
}

/// Each of the documents of source 0 has exactly one final state (L1).
fn every_document_once(output: &Output, count: u64) {
    let (documents, accounts) = output.documents();
    let ordinals: Vec<u64> = documents.keys().map(|document| document.ordinal).collect();
    assert_eq!(ordinals, (0..count).collect::<Vec<_>>(), "L1, seed {SEED}");
    let summary = output.summary();
    assert_eq!(summary.documents.augmented, accounts.augmented);
    assert_eq!(summary.pairs.kept, accounts.pairs_kept);
    assert!(accounts.augmented > count / 2, "{accounts:?}");
}
