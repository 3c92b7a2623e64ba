//! What the tests of this crate share: a small model, its batches, and a world of ranks that are threads.
// Clippy allows it in test functions, not beside them; and each test program uses a part of this.
#![allow(clippy::unwrap_used, dead_code)]

use std::{
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use lyceum_collective::{
    AbortHandle, Buffer, CollectiveError, Communicator, Element, Operation, Pending, SoloCommunicator,
};
use lyceum_model::{LlamaConfig, initial_parameters};
use lyceum_train::{OwnedRow, Precision, Trainer, TrainerConfig};

/// A model of 0.05M parameters.
pub fn model() -> LlamaConfig {
    LlamaConfig::from_json(
        r#"{"model_type": "llama", "vocab_size": 64, "hidden_size": 48, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1,
            "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "tie_word_embeddings": true}"#,
    )
    .unwrap()
}

/// Rows of the batch at `position`: arithmetic sequences, which can be learnt.
pub fn rows(position: u64, count: usize) -> Vec<OwnedRow> {
    (0..count as u64)
        .map(|row| {
            let (start, stride) = (position * 5 + row * 17, 1 + (position + row) % 3);
            OwnedRow::next_token(&(0..25).map(|i| ((start + i * stride) % 64) as i64).collect::<Vec<_>>())
        })
        .collect()
}

pub fn config() -> TrainerConfig {
    TrainerConfig {
        learning_rate: 5e-3,
        minimum_learning_rate: 5e-4,
        warmup_steps: 3,
        total_steps: 40,
        micro_batch_rows: 2,
        precision: Precision::Fp32,
        collective_timeout_seconds: 30,
        ..TrainerConfig::default()
    }
}

pub fn trainer(config: TrainerConfig, communicator: Box<dyn Communicator>) -> Trainer {
    tch::set_num_threads(1);
    let parameters = initial_parameters(&model(), 3).unwrap();
    let parameter = |name: &str| parameters.get(name).map(tch::Tensor::shallow_clone);
    Trainer::new(config, model(), parameter, communicator).unwrap()
}

pub fn solo(config: TrainerConfig) -> Trainer {
    trainer(config, Box::new(SoloCommunicator::new()))
}

/// Trains on batches `from .. to` of `count` rows and returns the losses.
pub fn train(trainer: &mut Trainer, positions: std::ops::Range<u64>, count: usize) -> Vec<f64> {
    positions
        .map(|position| {
            let rows = rows(position, count);
            let rows: Vec<_> = rows.iter().map(OwnedRow::as_row).collect();
            trainer.step(&lyceum_train::Batch::new(position, &rows)).unwrap().loss
        })
        .collect()
}

/// Runs `rank` on a thread for each rank of a world, and returns what each returned.
pub fn world<T: Send>(size: usize, rank: impl Fn(Box<dyn Communicator>) -> T + Sync) -> Vec<T> {
    let table = Arc::new(Table::default());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..size)
            .map(|number| {
                let communicator =
                    ThreadCommunicator { rank: number, size, table: table.clone(), started: 0 };
                let rank = &rank;
                scope.spawn(move || rank(Box::new(communicator)))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A rank of a world in one process. Buffers are copied to a table, where those of one operation meet.
struct ThreadCommunicator {
    rank: usize,
    size: usize,
    table: Arc<Table>,
    started: u64,
}

#[derive(Default)]
struct Table {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By ticket: the bytes of each rank that has come.
    brought: std::collections::BTreeMap<u64, Vec<Option<Vec<u8>>>>,
    aborted: Option<(usize, String)>,
}

impl ThreadCommunicator {
    fn bring(&mut self, bytes: Vec<u8>) -> Result<u64, CollectiveError> {
        self.started += 1;
        let mut state = self.table.state.lock().unwrap();
        let size = self.size;
        state.brought.entry(self.started).or_insert_with(|| vec![None; size])[self.rank] = Some(bytes);
        self.table.changed.notify_all();
        self.fail_if_aborted(&state)?;
        Ok(self.started)
    }

    fn all(&self, ticket: u64, timeout: Duration) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let state = self.table.state.lock().unwrap();
        let waiting =
            |state: &mut State| state.aborted.is_none() && state.brought[&ticket].iter().any(Option::is_none);
        let (state, _) = self.table.changed.wait_timeout_while(state, timeout, waiting).unwrap();
        self.fail_if_aborted(&state)?;
        Ok(state.brought[&ticket].iter().map(|bytes| bytes.clone().expect("a rank is late")).collect())
    }

    fn fail_if_aborted(&self, state: &State) -> Result<(), CollectiveError> {
        match &state.aborted {
            None => Ok(()),
            Some((rank, reason)) => {
                Err(CollectiveError::Aborted { rank: *rank, epoch: 0, reason: reason.clone() })
            }
        }
    }
}

impl Communicator for ThreadCommunicator {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.size
    }

    fn epoch(&self) -> u64 {
        0
    }

    fn allocate(&mut self, bytes: usize) -> Result<Buffer, CollectiveError> {
        Ok(Buffer::host(bytes))
    }

    fn start(&mut self, operation: Operation, buffer: Buffer) -> Result<Pending, CollectiveError> {
        operation.check(self.rank, self.size, buffer.len())?;
        let ticket = self.bring(buffer.as_slice::<u8>().to_vec())?;
        Ok(Pending::new(operation, ticket, buffer))
    }

    fn wait(&mut self, pending: Pending, timeout: Duration) -> Result<Buffer, CollectiveError> {
        let (operation, all) = (pending.operation(), self.all(pending.ticket(), timeout)?);
        let mut buffer = pending.into_buffer();
        let part = buffer.len() / self.size;
        match operation {
            Operation::ReduceScatter(Element::F32) => {
                // What is not this rank's own part is left meaningless, as the contract allows.
                buffer.as_mut_slice::<f32>().fill(f32::NAN);
                let own = self.rank * part..(self.rank + 1) * part;
                let sums = &mut buffer.as_mut_slice::<u8>()[own.clone()];
                for (at, sum) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let value =
                        |bytes: &Vec<u8>| f32::from_le_bytes(bytes[own.clone()].as_chunks::<4>().0[at]);
                    *sum = all.iter().map(value).sum::<f32>().to_le_bytes();
                }
            }
            Operation::AllGather => {
                for (rank, bytes) in all.iter().enumerate() {
                    let theirs = rank * part..(rank + 1) * part;
                    buffer.as_mut_slice::<u8>()[theirs.clone()].copy_from_slice(&bytes[theirs]);
                }
            }
            other => panic!("the trainer does not use the {other}"),
        }
        Ok(buffer)
    }

    fn barrier(&mut self, timeout: Duration) -> Result<(), CollectiveError> {
        let ticket = self.bring(Vec::new())?;
        self.all(ticket, timeout).map(drop)
    }

    fn abort_handle(&self) -> AbortHandle {
        let (table, rank) = (self.table.clone(), self.rank);
        AbortHandle::new(move |reason| {
            table.state.lock().unwrap().aborted.get_or_insert((rank, reason.to_owned()));
            table.changed.notify_all();
        })
    }
}
