//! L4 between processes: from the Packer's seal to libtorch's kernels no byte of a row is copied on its node, and from
//! another node it comes once.
//!
//! Three processes: this one keeps the nodes' stores, as agents do; one packs a batch into an object of it and seals
//! that; one maps the object, and trains a step on it. The last two are this very program, started again. What
//! libtorch's operations are given, and what its allocator gives, is told by the shim's observation.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod nodes;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lyceum_collective::SoloCommunicator;
use lyceum_corpus::batch;
use lyceum_corpus::chain::{ChainId, Loss, Text, TextId};
use lyceum_corpus::pack::{BatchShape, Packer};
use lyceum_model::{LlamaConfig, initial_parameters};
use lyceum_store::{NodeStore, Object, ObjectId, ObjectRef, StoreClient, socket_pair};
use lyceum_torch_shim::{Seen, observe};
use lyceum_train::{Batch, OwnedRow, Precision, Row, SealedBatch, Trainer, TrainerConfig};

const PART: &str = "LYCEUM_ZERO_COPY_PART";
const REFERENCE: &str = "LYCEUM_ZERO_COPY_REFERENCE";
const MARK: &str = "@@ ";
const END: &str = "end";

/// Of a process that nobody kills.
const LIFE: Duration = Duration::from_secs(60);

const ROWS: usize = 3;
const LENGTH: usize = 40;
const ROW_BYTES: usize = LENGTH * size_of::<i64>();
const WIDTH: usize = 32;

#[test]
fn l4_a_batch_is_trained_on_where_another_process_sealed_it() {
    let store = nodes::one();
    assert_trained_where_it_lies(&store, &store);
}

#[test]
fn l4_a_batch_from_another_node_is_in_the_nodes_store_once_and_trained_on_there() {
    let (_network, packers, trainers) = nodes::two();
    assert_trained_where_it_lies(&packers, &trainers);
}

/// Packs a batch in a process of the one node, trains on it in a process of the other, which may be the same.
fn assert_trained_where_it_lies(packers: &NodeStore, trainers: &NodeStore) {
    let mut packer = Process::start(packers, 1, "packer", "");
    let reference = packer.says();
    let sealed: Vec<Vec<usize>> = (0..ROWS).map(|_| numbers(&packer.says())).collect();

    let mut trainer = Process::start(trainers, 2, "trainer", &reference);
    let mapped = trainer.says();
    assert!(mapped.starts_with("r--s") && mapped.contains("memfd:"), "mapped read-only and shared: {mapped}");
    let sights: Vec<Sight> = trainer.all().iter().map(|said| Sight::read(said)).collect();
    // Both processes still have it open: one copy a node.
    let len: u64 = reference.split('/').nth(3).unwrap().parse().unwrap();
    for store in [packers, trainers] {
        assert_eq!((store.usage().objects, store.usage().bytes_in_use), (1, len.next_multiple_of(4096)));
    }

    // Embedding and loss are given every row at the very place where the other process wrote it.
    let given = |operation: &str| -> Vec<Option<usize>> {
        let of = |sight: &&Sight| sight.operation == operation && sight.bytes == ROW_BYTES;
        sights.iter().filter(of).map(|sight| sight.place).collect()
    };
    let inputs: Vec<_> = sealed.iter().map(|row| Some(row[0])).collect();
    let labels: Vec<_> = sealed.iter().map(|row| Some(row[1])).collect();
    assert_eq!(given("aten::embedding"), inputs);
    assert_eq!(given("aten::cross_entropy_loss"), labels);
    assert_eq!(given("aten::nll_loss_forward"), labels, "down to the kernel");

    // No operation at all is given a row from anywhere else.
    for sight in sights.iter().filter(|sight| !sight.is_allocation() && sight.bytes >= ROW_BYTES) {
        let place = sight.place.unwrap_or_else(|| panic!("{} has a copy", sight.operation));
        assert!(sealed.iter().flatten().any(|row| (*row..row + ROW_BYTES).contains(&place)));
    }

    // Nothing is allocated from the mapping to the first embedding, nor between two of them but what they return.
    let allocated = |from: &str, to: &str| -> Vec<Vec<usize>> {
        let mut between = Vec::new();
        let mut open = from.is_empty().then(Vec::new);
        for sight in &sights {
            if sight.operation == to
                && let Some(bytes) = open.take()
            {
                between.push(bytes);
            }
            if sight.operation == from {
                open = Some(Vec::new());
            }
            if let (true, Some(open)) = (sight.is_allocation(), &mut open) {
                open.push(sight.bytes);
            }
        }
        between
    };
    assert_eq!(allocated("", "aten::embedding"), [Vec::<usize>::new()]);
    let returned = vec![LENGTH * WIDTH * size_of::<f32>()];
    assert_eq!(allocated("aten::embedding", "aten::embedding"), vec![returned; ROWS - 1]);
    for bytes in allocated("aten::cross_entropy_loss", "aten::nll_loss_forward") {
        assert!(!bytes.contains(&ROW_BYTES), "labels are looked up where they lie: {bytes:?}");
    }
    let whole: BTreeSet<usize> = [ROW_BYTES, ROWS * ROW_BYTES].into();
    let copies = sights.iter().filter(|sight| sight.is_allocation() && whole.contains(&sight.bytes));
    assert_eq!(copies.count(), 0, "no storage of a row's size, or of all rows', in the whole step");
}

#[test]
fn the_witness_of_l4_sees_a_copy() {
    let mut trainer = trainer();
    let rows: Vec<OwnedRow> = (0..ROWS as i64).map(row).collect();
    let rows: Vec<Row<'_>> = rows.iter().map(OwnedRow::as_row).collect();
    trainer.step(&Batch::new(0, &rows)).unwrap();
    let copied: Vec<Vec<i64>> = rows.iter().map(|row| row.inputs.to_vec()).collect();
    let copies: Vec<Row<'_>> =
        rows.iter().zip(&copied).map(|(row, inputs)| Row { inputs, labels: row.labels }).collect();
    let (_, seen) = observe(|| trainer.step(&Batch::new(1, &copies)).unwrap()).unwrap();
    let embedded: Vec<usize> = seen
        .iter()
        .filter_map(|seen| match seen {
            Seen::Operand { operation, address, .. } if operation == "aten::embedding" => Some(*address),
            _ => None,
        })
        .collect();
    assert_eq!(embedded, copied.iter().map(|ids| ids.as_ptr() as usize).collect::<Vec<_>>());
    assert!(rows.iter().all(|row| !embedded.contains(&(row.inputs.as_ptr() as usize))));
}

/// The body of a child; nothing in the parent.
#[test]
fn part() {
    match std::env::var(PART).as_deref() {
        Ok("packer") => pack(),
        Ok("trainer") => train(),
        _ => {}
    }
}

/// Seals a batch in the node's store and says where its rows lie in the object. Lives until it is killed.
fn pack() {
    let client = StoreClient::attach(std::io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    let mut packer = Packer::new(BatchShape::new(ROWS, LENGTH, 1).unwrap());
    for number in 0..ROWS as i64 {
        let chain = ChainId { source: 0, number: number as u64 };
        let tokens = tokens(number).into_iter().map(|token| token as u32).collect();
        packer.push(TextId { chain, index: 0 }, Arc::new(Text { tokens, loss: Loss::All }));
    }
    let plan = packer.next_batch().unwrap();
    let (object, reference) = block_on(async {
        let mut writer = client.create(batch::encoded_len(&plan).unwrap()).await.unwrap();
        batch::write(&plan, 1, &mut writer).unwrap();
        let object = writer.seal().await.unwrap();
        let reference = object.share().await.unwrap();
        (object, reference)
    });
    let ObjectRef { id, node, len, ticket } = reference;
    println!("{MARK}{}/{}/{node}/{len}/{ticket}", id.origin, id.sequence);
    let sealed = SealedBatch::open(&object).unwrap();
    for row in sealed.batch().rows {
        let place = |ids: &[i64]| ids.as_ptr() as usize - object.as_ptr() as usize;
        println!("{MARK}{} {}", place(row.inputs), place(row.labels));
    }
    std::thread::sleep(LIFE);
}

/// Maps the object, trains a step on it and says what libtorch saw. Lives until it is killed.
fn train() {
    let client = StoreClient::attach(std::io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    let mut trainer = trainer();
    // What is made once, such as the tables of positions, is made here.
    let rows: Vec<OwnedRow> = (0..ROWS as i64).map(row).collect();
    let rows: Vec<Row<'_>> = rows.iter().map(OwnedRow::as_row).collect();
    trainer.step(&Batch::new(0, &rows)).unwrap();

    let reference = std::env::var(REFERENCE).unwrap();
    let parts: Vec<&str> = reference.split('/').collect();
    let number = |i: usize| parts[i].parse().unwrap();
    let id = ObjectId { origin: number(0), sequence: number(1) };
    let reference = ObjectRef { id, node: parts[2].into(), len: number(3), ticket: number(4) };
    let object = block_on(client.open(&reference)).unwrap();
    println!("{MARK}{}", mapping_of(&object));

    let (_, seen) = observe(|| {
        let sealed = SealedBatch::open(&object).unwrap();
        trainer.step(&sealed.batch()).unwrap()
    })
    .unwrap();
    let range = object.as_ptr_range();
    for seen in seen {
        match seen {
            Seen::Allocation { bytes } => println!("{MARK}- {bytes} -"),
            Seen::Operand { operation, address, bytes } => {
                let within = (range.start as usize..range.end as usize).contains(&address);
                let place = within.then(|| (address - range.start as usize).to_string());
                println!("{MARK}{operation} {bytes} {}", place.as_deref().unwrap_or("elsewhere"));
            }
        }
    }
    println!("{MARK}{END}");
    std::thread::sleep(LIFE);
}

/// Something that the trainer's libtorch did.
struct Sight {
    operation: String,
    bytes: usize,
    /// Offset in the object, of an operand that lies there.
    place: Option<usize>,
}

impl Sight {
    fn read(said: &str) -> Self {
        let mut words = said.split(' ');
        let mut word = || words.next().unwrap().to_owned();
        Self { operation: word(), bytes: word().parse().unwrap(), place: word().parse().ok() }
    }

    fn is_allocation(&self) -> bool {
        self.operation == "-"
    }
}

/// A part of the test in a process of its own, attached to the store. Killed when dropped.
struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    fn start(store: &NodeStore, holder: u64, part: &str, reference: &str) -> Self {
        let (agents_end, processes_end) = socket_pair().unwrap();
        store.attach(holder, agents_end).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "part", "--nocapture", "--test-threads=1"])
            .env(PART, part)
            .env(REFERENCE, reference)
            .stdin(Stdio::from(processes_end))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next thing that it says.
    fn says(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the process ended");
            // The test harness may have begun the line.
            if let Some((_, said)) = line.split_once(MARK) {
                return said.trim_end().to_owned();
            }
        }
    }

    /// Everything that it says until it is through.
    fn all(&mut self) -> Vec<String> {
        std::iter::from_fn(|| Some(self.says()).filter(|said| said != END)).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Rights and name of the mapping that an object lies in, as the kernel has them.
fn mapping_of(object: &Object) -> String {
    let address = object.as_ptr() as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let holds = |line: &&str| {
        let (range, _) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        (number(from)..number(to)).contains(&address)
    };
    let line = maps.lines().find(holds).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    format!("{} {}", words[1], words[5..].join(" "))
}

fn trainer() -> Trainer {
    tch::set_num_threads(1);
    let model = LlamaConfig::from_json(&format!(
        r#"{{"model_type": "llama", "vocab_size": 50, "hidden_size": {WIDTH}, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true}}"#
    ))
    .unwrap();
    let parameters = initial_parameters(&model, 5).unwrap();
    let config =
        TrainerConfig { precision: Precision::Fp32, micro_batch_rows: ROWS, ..TrainerConfig::default() };
    let parameter = |name: &str| parameters.get(name).map(tch::Tensor::shallow_clone);
    Trainer::new(config, model, parameter, Box::new(SoloCommunicator::new())).unwrap()
}

fn tokens(number: i64) -> Vec<i64> {
    (0..=LENGTH as i64).map(|i| (i * 7 + number * 11) % 50).collect()
}

fn row(number: i64) -> OwnedRow {
    OwnedRow::next_token(&tokens(number))
}

fn numbers(text: &str) -> Vec<usize> {
    text.split(' ').map(|number| number.parse().unwrap()).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
