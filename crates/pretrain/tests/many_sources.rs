//! Many sources, several synthesizers and hardly any room: nobody waits in a circle, and nothing grows.
//!
//! The actors' minds are played against each other in an order that a seed decides; every wait of the actors is one here
//! (for a supply, a lease, room, a batch), and a world in which nobody can do anything any more is a lock-up.
#![allow(clippy::unwrap_used)]

mod bed;

use bed::Bed;
use lyceum_corpus::assembly::Next;
use lyceum_corpus::chain::ChainRecord;
use lyceum_corpus::random::{Decision, Stream};
use lyceum_corpus::tokenizer::Tokenizer;
use lyceum_pretrain::limits::Limits;
use lyceum_pretrain::packing::Packing;
use lyceum_pretrain::reader::Reader;
use lyceum_pretrain::run_file::RunFile;
use lyceum_synth::deterministic::DeterministicEngine;
use lyceum_synth::engine::Sampling;
use lyceum_synth::synthesize::{Tokenizers, synthesize};

const SOURCES: usize = 12;
const DOCUMENTS: usize = 10;
/// Chains that a synthesizer leases at a time.
const HANDFUL: usize = 3;
const TURN: Decision = Decision::new("test.turn");

/// Twelve sources, of which some are raw, some converted, and some both.
fn run(bed: &Bed) -> RunFile {
    let text = Bed::text();
    let one = "[[source]]\nname = \"texts\"\npaths = [\"texts.jsonl\"]\n";
    let sources: String = (0..SOURCES)
        .map(|source| {
            let name = format!("s{source}.jsonl");
            bed.write_documents(&name, source * DOCUMENTS..(source + 1) * DOCUMENTS);
            let converted = [0.0, 1.0, 0.5][source % 3];
            let share = 1 + source % 4;
            format!(
                "[[source]]\nname = \"s{source}\"\npaths = [\"{name}\"]\nconverted = {converted:?}\nshare = {share}\n"
            )
        })
        .collect();
    assert!(text.contains(one));
    bed.run(&text.replace(one, &sources))
}

/// A synthesizer, and what it made and has not sent yet.
struct Synthesizer {
    holder: u64,
    made: Vec<ChainRecord>,
}

struct World {
    run: RunFile,
    limits: Limits,
    reader: Reader,
    packing: Packing,
    tokenizers: Tokenizers,
    engine: DeterministicEngine,
    synthesizers: Vec<Synthesizer>,
    next_holder: u64,
    converted: u64,
    dry: bool,
    batches: u64,
    turns: Stream,
    largest_record: usize,
    largest_chain: usize,
}

impl World {
    fn new(bed: &Bed, limits: Limits, seed: u64) -> Self {
        let run = run(bed);
        let out = bed.folder.path().join(format!("out-{seed}"));
        let packing = Packing::with_limits(&run, &out, 1, 0, limits).unwrap();
        let reader = Reader::with_limits(&run, packing.recorded(), limits).unwrap();
        let tokenizer = Tokenizer::load(run.model.directory.join("tokenizer.json")).unwrap();
        let engine = DeterministicEngine::new(tokenizer.clone(), 4096, 5, 10);
        let synthesizers = (1..=3).map(|holder| Synthesizer { holder, made: Vec::new() }).collect();
        Self {
            run,
            limits,
            reader,
            packing,
            tokenizers: Tokenizers { engine: tokenizer.clone(), learner: tokenizer },
            engine,
            synthesizers,
            next_holder: 4,
            converted: 0,
            dry: false,
            batches: 0,
            turns: Stream::new(seed, 0, TURN),
            largest_record: 0,
            largest_chain: 0,
        }
    }

    /// The Packer asks for raw chains; returns whether any came.
    fn supply(&mut self) -> bool {
        self.reader.allow(&self.packing.allowances());
        let supplied = self.reader.supply().unwrap();
        let moved = !supplied.records.is_empty() || !supplied.ends.is_empty();
        for record in supplied.records {
            self.largest_record = self.largest_record.max(record.memory());
            assert!(self.packing.record(record).unwrap());
        }
        for (source, chains) in supplied.ends {
            self.packing.end_source(source, chains);
        }
        self.dry |= supplied.done;
        moved
    }

    /// A synthesizer with empty hands leases; one with something in hand sends it.
    fn turn(&mut self, index: usize) -> bool {
        self.reader.allow(&self.packing.allowances());
        if self.synthesizers[index].made.is_empty() {
            let chains = self.reader.lease(self.synthesizers[index].holder, HANDFUL).unwrap();
            for chain in &chains {
                self.largest_chain = self.largest_chain.max(chain.memory());
            }
            let sampling = Sampling::default();
            let made =
                synthesize(&mut self.engine, &sampling, &self.tokenizers, self.run.seed, chains).unwrap();
            self.synthesizers[index].made = made;
            return !self.synthesizers[index].made.is_empty();
        }
        for record in std::mem::take(&mut self.synthesizers[index].made) {
            let chain = record.chain;
            self.largest_record = self.largest_record.max(record.memory());
            self.converted += u64::from(self.packing.record(record).unwrap());
            self.reader.recorded(chain);
        }
        true
    }

    /// A synthesizer is killed, with what it made; another takes its place.
    fn kill(&mut self, index: usize) {
        let gone = &mut self.synthesizers[index];
        self.reader.release(gone.holder);
        *gone = Synthesizer { holder: self.next_holder, made: Vec::new() };
        self.next_holder += 1;
    }

    /// Everybody but the trainers goes on until nobody can; returns whether anything happened.
    fn settle(&mut self) -> bool {
        let mut ever = false;
        loop {
            let mut order: Vec<usize> = (0..=self.synthesizers.len()).collect();
            self.turns.shuffle(&mut order);
            let mut moved = false;
            for who in order {
                moved |= match who.checked_sub(1) {
                    None => self.supply(),
                    Some(index) => self.turn(index),
                };
            }
            if !moved {
                return ever;
            }
            ever = true;
            self.check_bounds();
        }
    }

    /// L2: what waits is within its bound, and one thing a source.
    fn check_bounds(&self) {
        let (packed, read) = (self.packing.report(), self.reader.report());
        let (window, record) = (self.limits.window_bytes, self.largest_record);
        let most = window + SOURCES * record;
        assert!(packed.kept_bytes as usize <= most, "the Packer keeps {} of {most} bytes", packed.kept_bytes);
        // One record a source, a supply, and what each synthesizer had in hand when there was room last.
        let most = most + self.limits.supply_bytes + (1 + 3 * HANDFUL) * record;
        assert!(packed.bytes as usize <= most, "{} of {most} bytes are recorded ahead", packed.bytes);
        let most = self.limits.held_bytes + (SOURCES + 1) * self.largest_chain.max(1024);
        assert!(read.bytes as usize <= most, "the CorpusReader keeps {} of {most} bytes", read.bytes);
    }

    /// A trainer takes a batch; false at the end of the data.
    fn train(&mut self, seed: u64) -> bool {
        loop {
            match self.packing.next_batch().unwrap() {
                Next::Batch(..) => {
                    self.batches += 1;
                    return true;
                }
                Next::Ended => return false,
                Next::Waits(chain) => {
                    assert!(self.settle(), "seed {seed}: all wait for chain {chain}, and nobody can go on");
                }
            }
        }
    }
}

#[test]
fn l2_twelve_sources_with_hardly_any_room_never_wait_in_a_circle() {
    for seed in 0..6 {
        let bed = Bed::new(SOURCES * DOCUMENTS);
        let mut world = World::new(&bed, Limits::tiny(), seed);
        while world.train(seed) {
            if world.turns.chance(1, 6) {
                let unlucky = world.turns.index(world.synthesizers.len());
                world.kill(unlucky);
            }
        }
        let accounts = world.packing.report().accounts;
        assert_eq!(accounts.read(), (SOURCES * DOCUMENTS) as u64, "L1, seed {seed}: {accounts:?}");
        assert!(world.dry && !world.reader.work_left(), "seed {seed}");
        assert_eq!(world.reader.report().bytes, 0, "seed {seed}");
    }
}

#[test]
fn l2_a_slow_trainer_slows_the_synthesizers_and_what_waits_stays_within_its_bound() {
    let limits = Limits {
        chains_ahead: 256,
        window_bytes: 8 << 10,
        held_bytes: 4 << 10,
        lease_bytes: 1 << 10,
        supply_bytes: 1 << 10,
        ..Limits::default()
    };
    let bed = Bed::new(SOURCES * DOCUMENTS);
    let mut world = World::new(&bed, limits, 7);
    world.settle();
    let (before, waiting) = (world.converted, world.packing.report().bytes);
    assert!(waiting > 0 && world.packing.report().saturated, "the window is full");
    assert!(!world.settle(), "nobody goes on without the trainer");
    let all = (SOURCES * DOCUMENTS) as u64;
    assert!(before > 0 && before < all / 4, "{before} chains of {all} documents were converted ahead");
    // Every batch that is trained lets them go on for as much as it took away.
    let mut most = 0;
    while world.train(7) {
        let converted = world.converted;
        world.settle();
        most = most.max(world.converted - converted);
    }
    assert!(most <= 16, "{most} chains were converted for one batch");
    assert_eq!(world.packing.report().accounts.read(), all);
}
