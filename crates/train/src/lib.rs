//! Block-by-block backward, flat optimizer, step and checkpoint.
//!
//! A [`Trainer`] is one rank of a data-parallel world. Each [`step`](Trainer::step) of it
//!
//! 1. walks its share of the [`Batch`] forward and, **one block at a time**, backward, adding the gradients in fp32 to one
//!    flat bucket per block, which lies in the memory of the [`Communicator`](lyceum_collective::Communicator);
//! 2. hands each bucket to the collective as soon as it is complete, while the next block computes;
//! 3. **votes**: only if every rank's gradient is finite does anything change, and all ranks learn loss and norm alike;
//! 4. updates its own shard of the fp32 masters and moments in one pass of AdamW, which also rounds the weights to bf16;
//! 5. gathers the other ranks' shards of the weights.
//!
//! The loss of a batch is the sum of cross-entropies over all ranks' rows divided by the batch's target tokens, whatever
//! the number of ranks and micro-batches: worlds of other sizes have the same losses to rounding, and the same world has the
//! same bits, resumed or not (L5).
//!
//! ```no_run,standalone_crate
//! use lyceum_model::{LlamaConfig, initial_parameters};
//! use lyceum_train::{Batch, OwnedRow, Trainer, TrainerConfig, solo_communicator};
//!
//! let model = LlamaConfig::from_json(
//!     r#"{"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
//!         "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 8, "rms_norm_eps": 1e-5}"#,
//! )?;
//! let parameters = initial_parameters(&model, 1)?;
//! let config = TrainerConfig { learning_rate: 1e-2, warmup_steps: 0, total_steps: 20, ..TrainerConfig::default() };
//! let alone = Box::new(solo_communicator(tch::Device::Cpu, 0));
//! let mut trainer = Trainer::new(config, model, |name| parameters.get(name).map(|t| t.shallow_clone()), alone)?;
//!
//! let row = OwnedRow::next_token(&[1, 2, 3, 4, 5, 6]);
//! let first = trainer.step(&Batch::new(0, &[row.as_row()]))?;
//! let mut last = first.clone();
//! for position in 1..20 {
//!     last = trainer.step(&Batch::new(position, &[row.as_row()]))?;
//! }
//! assert!(last.loss < first.loss);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`checkpoint`] writes and reads whole checkpoints, [`evaluate`] measures a model, [`local`] trains without a cluster.
#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

mod adamw;
mod batch;
pub mod checkpoint;
mod device;
mod error;
pub mod evaluate;
mod flat;
mod kernel;
mod layout;
pub mod local;
mod memory;
mod parallel;
mod schedule;
mod trainer;
mod vote;
mod walk;

pub use batch::{Batch, IGNORED_LABEL, OwnedRow, Row, SealedBatch};
pub use error::TrainError;
pub use memory::{keep_freed_memory, memory_of, solo_communicator};
pub use schedule::Schedule;
pub use trainer::{Precision, Progress, StepReport, Trainer, TrainerConfig};
