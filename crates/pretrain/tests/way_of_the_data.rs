//! Reader and packing together, without actors: nothing is lost, nothing comes twice, the same bytes come again.
#![allow(clippy::unwrap_used)]

mod bed;

use std::collections::BTreeMap;

use bed::Bed;
use lyceum_corpus::assembly::Next;
use lyceum_corpus::batch;
use lyceum_corpus::chain::{Chain, DocumentId};
use lyceum_corpus::pack::BatchPlan;
use lyceum_corpus::tokenizer::Tokenizer;
use lyceum_pretrain::feed::Feed;
use lyceum_pretrain::limits::Limits;
use lyceum_pretrain::packing::{Packing, PackingError};
use lyceum_pretrain::reader::Reader;
use lyceum_pretrain::run_file::RunFile;
use lyceum_synth::deterministic::DeterministicEngine;
use lyceum_synth::engine::Sampling;
use lyceum_synth::synthesize::{Tokenizers, synthesize};
use rkyv::util::AlignedVec;

fn bytes(position: u64, plan: &BatchPlan) -> Vec<u8> {
    let mut memory = AlignedVec::<64>::new();
    memory.resize(batch::encoded_len(plan).unwrap(), 0);
    batch::write(plan, position, &mut memory).unwrap();
    memory.to_vec()
}

fn all(feed: &mut Feed) -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    while let Some((position, plan)) = feed.next_batch().unwrap() {
        batches.push(bytes(position, &plan));
    }
    batches
}

#[test]
fn l5_a_feed_taken_up_anywhere_gives_the_same_bytes() {
    let bed = Bed::new(60);
    let run = bed.run(&Bed::text());
    let whole = all(&mut Feed::open(&run, &bed.folder.path().join("whole"), 1, 0).unwrap());
    assert!(whole.len() > 10);
    let folder = bed.folder.path().join("parts");
    let mut feed = Feed::open(&run, &folder, 1, 0).unwrap();
    for expected in &whole[..5] {
        let (position, plan) = feed.next_batch().unwrap().unwrap();
        assert_eq!(&bytes(position, &plan), expected);
    }
    drop(feed);
    // The checkpoint stands at batch 3: the log is ahead of it.
    let rest = all(&mut Feed::open(&run, &folder, 2, 3).unwrap());
    assert_eq!(rest, whole[3..]);
    let beyond = Packing::open(&run, &folder, 3, whole.len() as u64 + 1);
    assert!(matches!(beyond, Err(PackingError::BeyondLog { .. })));
}

#[test]
fn a_source_that_is_converted_needs_a_cluster() {
    let bed = Bed::new(8);
    let run = bed.run(&Bed::text().replace("name = \"texts\"", "name = \"texts\"\nconverted = 1.0"));
    let refused = Feed::open(&run, &bed.folder.path().join("out"), 1, 0).err().unwrap();
    assert!(refused.to_string().contains("takes synthesizers"));
}

/// A run of converted documents, played by hand.
struct Play {
    run: RunFile,
    reader: Reader,
    packing: Packing,
    tokenizers: Tokenizers,
    engine: DeterministicEngine,
}

impl Play {
    fn new(bed: &Bed) -> Self {
        let run = bed.run(&Bed::text().replace("name = \"texts\"", "name = \"texts\"\nconverted = 0.7"));
        let packing = Packing::open(&run, &bed.folder.path().join("out"), 1, 0).unwrap();
        let reader = Reader::open(&run, packing.recorded()).unwrap();
        let tokenizer = Tokenizer::load(run.model.directory.join("tokenizer.json")).unwrap();
        let engine = DeterministicEngine::new(tokenizer.clone(), 4096, 5, 0);
        Self {
            run,
            reader,
            packing,
            tokenizers: Tokenizers { engine: tokenizer.clone(), learner: tokenizer },
            engine,
        }
    }

    /// Everything that needs no synthesizer.
    fn read(&mut self) {
        loop {
            self.reader.allow(&self.packing.allowances());
            let supplied = self.reader.supply().unwrap();
            if supplied.records.is_empty() && supplied.ends.is_empty() {
                break;
            }
            for record in supplied.records {
                assert!(self.packing.record(record).unwrap());
            }
            for (source, chains) in supplied.ends {
                self.packing.end_source(source, chains);
            }
        }
    }

    fn answer(&mut self, chains: Vec<Chain>) {
        let sampling = Sampling::default();
        for record in
            synthesize(&mut self.engine, &sampling, &self.tokenizers, self.run.seed, chains).unwrap()
        {
            let chain = record.chain;
            self.packing.record(record).unwrap();
            self.reader.recorded(chain);
        }
    }
}

#[test]
fn l1_chains_of_a_lost_synthesizer_go_to_another_and_every_document_ends_once() {
    let bed = Bed::new(50);
    let mut play = Play::new(&bed);
    let mut seen: BTreeMap<DocumentId, u32> = BTreeMap::new();
    play.read();
    // The first synthesizer leases and is lost; one of its answers still arrives, late and twice.
    let lost = play.reader.lease(1, 3).unwrap();
    assert_eq!(lost.len(), 3);
    assert_eq!(play.reader.release(1), 3);
    play.answer(vec![lost[1].clone()]);
    play.answer(vec![lost[1].clone()]);
    loop {
        play.read();
        let chains = play.reader.lease(2, 4).unwrap();
        if chains.is_empty() {
            break;
        }
        for document in chains.iter().flat_map(|chain| &chain.documents) {
            *seen.entry(document.id).or_default() += 1;
        }
        play.answer(chains);
    }
    for document in &lost[1].documents {
        assert!(!seen.contains_key(&document.id), "a recorded chain was leased again");
    }
    assert!(seen.values().all(|&times| times == 1));
    assert!(!play.reader.work_left());
    loop {
        match play.packing.next_batch().unwrap() {
            Next::Batch(..) => {}
            Next::Waits(chain) => panic!("chain {chain} is missing"),
            Next::Ended => break,
        }
    }
    let accounts = play.packing.report().accounts;
    assert_eq!(accounts.read(), 50);
    // Six of every eight, and one of the last two: what 0.7 of a window rounds to.
    assert_eq!((accounts.augmented, accounts.raw), (37, 13), "{accounts:?}");
}

#[test]
fn l2_nothing_may_come_from_beyond_the_horizon() {
    let bed = Bed::new(40);
    let mut play = Play::new(&bed);
    play.read();
    let chains = play.reader.lease(1, 1).unwrap();
    let sampling = Sampling::default();
    let mut record = synthesize(&mut play.engine, &sampling, &play.tokenizers, 1, chains).unwrap().remove(0);
    let horizon = Limits::default().chains_ahead;
    record.chain.number = horizon;
    let refused = play.packing.record(record).unwrap_err();
    assert!(matches!(refused, PackingError::BeyondHorizon { horizon: at, .. } if at == horizon), "{refused}");
}
