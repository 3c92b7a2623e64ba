//! Killed anywhere and opened again, a run makes the same batches (L5), and each document counts once (L1).
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::Path;

use lyceum_corpus::assembly::{Assembly, AssemblyError, AssemblyOptions, Next};
use lyceum_corpus::batch;
use lyceum_corpus::chain::{ChainId, ChainRecord, Counts, DocumentId, FinalState, Loss, Text};
use lyceum_corpus::journal::JournalError;
use lyceum_corpus::pack::{BatchPlan, BatchShape};
use lyceum_corpus::random::{Decision, Stream};
use lyceum_corpus::record::RecordError;
use rkyv::util::AlignedVec;

const SOURCES: u16 = 2;
const CHAINS: [u64; 2] = [40, 25];

fn options() -> AssemblyOptions {
    AssemblyOptions {
        shape: BatchShape::new(2, 32, 0).unwrap(),
        weights: vec![2, 1],
        window_chains: 8,
        window_bytes: 1 << 20,
    }
}

/// What is made of a chain; a function of the chain, so that both runs record the same.
fn made(chain: ChainId) -> ChainRecord {
    let mut draw = Stream::new(1, chain.number * 2 + u64::from(chain.source), Decision::new("test.chain"));
    let texts: Vec<Text> = (0..draw.below(3))
        .map(|_| {
            let tokens = (0..1 + draw.below(40)).map(|_| draw.below(1000) as u32).collect();
            Text { tokens, loss: Loss::All }
        })
        .collect();
    let id = |index| DocumentId { source: chain.source, ordinal: chain.number * 10 + index };
    let mut documents: Vec<_> =
        (0..texts.len() as u64).map(|index| (id(index), FinalState::Augmented)).collect();
    documents.push((id(9), FinalState::Skipped("empty".into())));
    ChainRecord {
        chain,
        texts,
        documents,
        skipped: Counts::from([("corrupt json".into(), draw.below(2))]),
        pairs_kept: 1,
        pairs_dropped: Counts::new(),
        unconverted: Counts::new(),
    }
}

fn bytes(plan: &BatchPlan, position: u64) -> Vec<u8> {
    let mut memory = AlignedVec::<64>::new();
    memory.resize(batch::encoded_len(plan).unwrap(), 0);
    batch::write(plan, position, &mut memory).unwrap();
    memory.to_vec()
}

/// Runs up to `most` batches, or all; chains are answered out of order by `salt`.
fn run(assembly: &mut Assembly, salt: u64, most: usize) -> BTreeMap<u64, Vec<u8>> {
    for source in 0..SOURCES {
        assembly.end_source(source, CHAINS[usize::from(source)]);
    }
    let mut batches = BTreeMap::new();
    while batches.len() < most {
        match assembly.next_batch().unwrap() {
            Next::Batch(position, plan) => {
                batches.insert(position, bytes(&plan, position));
            }
            Next::Ended => break,
            Next::Waits(chain) => {
                let ahead = Stream::new(salt, chain.number, Decision::new("test.ahead")).below(6);
                let last = CHAINS[usize::from(chain.source)] - 1;
                for number in (chain.number..=(chain.number + ahead).min(last)).rev() {
                    let chain = ChainId { number, ..chain };
                    if !assembly.is_recorded(chain) {
                        assembly.record(made(chain)).unwrap();
                    }
                }
            }
        }
    }
    batches
}

fn open(folder: &Path, epoch: u64) -> Assembly {
    Assembly::open(folder, epoch, options()).unwrap()
}

#[test]
fn l1_all_documents_are_accounted_for_once_all_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut assembly = open(folder.path(), 1);
    let batches = run(&mut assembly, 1, usize::MAX);
    assert!(batches.len() > 20);
    let mut expected = lyceum_corpus::chain::Accounts::default();
    for source in 0..SOURCES {
        for number in 0..CHAINS[usize::from(source)] {
            expected.add(&made(ChainId { source, number }).accounts());
        }
    }
    assert_eq!(assembly.accounts(), expected);
    assert_eq!(expected.read(), expected.raw + expected.augmented + expected.skipped.values().sum::<u64>());
    let mut again = open(folder.path(), 2);
    assert!(run(&mut again, 2, usize::MAX).is_empty());
    assert_eq!(again.accounts(), expected);
}

#[test]
fn l5_the_order_of_answers_changes_no_batch() {
    let runs = [1, 2, 3].map(|salt| run(&mut open(tempfile::tempdir().unwrap().path(), 1), salt, usize::MAX));
    assert_eq!(runs[0], runs[1]);
    assert_eq!(runs[0], runs[2]);
}

#[test]
fn l5_a_window_without_room_in_memory_changes_no_batch() {
    let folder = tempfile::tempdir().unwrap();
    let small = AssemblyOptions { window_bytes: 0, ..options() };
    let mut assembly = Assembly::open(folder.path(), 1, small).unwrap();
    let chain = ChainId { source: 0, number: 3 };
    assembly.record(made(chain)).unwrap();
    assert!(assembly.waiting_bytes().0 > 0 && assembly.waiting_bytes().1 == 0 && !assembly.has_room(0));
    let whole = run(&mut open(tempfile::tempdir().unwrap().path(), 1), 1, usize::MAX);
    assert!(run(&mut assembly, 3, usize::MAX) == whole);
}

#[test]
fn l5_a_run_stopped_after_any_batch_goes_on_with_the_same_bytes() {
    let whole = run(&mut open(tempfile::tempdir().unwrap().path(), 1), 1, usize::MAX);
    for stop in 0..whole.len() {
        let folder = tempfile::tempdir().unwrap();
        let mut both = run(&mut open(folder.path(), 1), 1, stop);
        let mut resumed = open(folder.path(), 2);
        assert_eq!(resumed.log().len(), stop as u64);
        both.extend(run(&mut resumed, 9, usize::MAX));
        assert!(both == whole, "stopped after {stop} batches");
    }
}

#[test]
fn l5_a_log_or_record_file_cut_at_any_byte_is_carried_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let whole = run(&mut open(folder.path(), 1), 1, usize::MAX);
    for (name, step) in [("batches", 97), ("records", 0)] {
        let file = Path::new(name).join("00000000.log");
        let length = std::fs::metadata(folder.path().join(&file)).unwrap().len();
        // Records are only ever lost when no durable entry of the log needs them: then the log is empty here.
        let cuts: Vec<u64> =
            if step > 0 { (0..length).step_by(step).collect() } else { vec![0, 7, 16, 300, length - 1] };
        for cut in cuts {
            let copy = tempfile::tempdir().unwrap();
            for part in ["records", "batches"] {
                std::fs::create_dir(copy.path().join(part)).unwrap();
                if name == "records" && part == "batches" {
                    continue;
                }
                for inner in ["epoch", "00000000.log"] {
                    std::fs::copy(folder.path().join(part).join(inner), copy.path().join(part).join(inner))
                        .unwrap();
                }
            }
            OpenOptions::new().write(true).open(copy.path().join(&file)).unwrap().set_len(cut).unwrap();
            let mut resumed = open(copy.path(), 2);
            let kept = resumed.log().len();
            let rest = run(&mut resumed, 5, usize::MAX);
            for position in 0..kept {
                let again = bytes(&resumed.replay(position).unwrap(), position);
                assert!(again == whole[&position], "{name} cut at {cut}: replay of {position}");
            }
            let expected: BTreeMap<u64, Vec<u8>> =
                whole.range(kept..).map(|(key, value)| (*key, value.clone())).collect();
            assert!(rest == expected, "{name} cut at {cut}: {kept} entries kept");
        }
    }
}

#[test]
fn a_writer_of_an_earlier_epoch_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let mut zombie = open(folder.path(), 1);
    run(&mut zombie, 1, 3);
    let mut heir = open(folder.path(), 2);
    let chain = ChainId { source: 0, number: zombie.next_chain(0) + 7 };
    let error = zombie.record(made(chain)).unwrap_err();
    let stale = |error: &AssemblyError| {
        matches!(
            error,
            AssemblyError::Record(RecordError::Journal(JournalError::Stale { ours: 1, current: 2 }))
        )
    };
    assert!(stale(&error), "{error}");
    assert!(Assembly::open(folder.path(), 1, options()).is_err());
    run(&mut heir, 1, 3);
    assert_eq!(heir.log().len(), 6);
}

#[test]
fn l2_a_chain_beyond_the_window_or_recorded_before_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut assembly = open(folder.path(), 1);
    let chain = |number| ChainId { source: 0, number };
    assembly.record(made(chain(3))).unwrap();
    let twice = assembly.record(made(chain(3))).unwrap_err();
    assert!(matches!(twice, AssemblyError::Record(RecordError::Repeated(_))), "{twice}");
    let far = assembly.record(made(chain(8))).unwrap_err();
    assert!(matches!(far, AssemblyError::NotYet { .. }), "{far}");
    assert!(!assembly.is_recorded(chain(8)));
    let foreign = assembly.record(made(ChainId { source: 2, number: 0 })).unwrap_err();
    assert!(matches!(foreign, AssemblyError::NoSource { .. }), "{foreign}");
    assert_eq!(assembly.waiting(0), 1);
}
