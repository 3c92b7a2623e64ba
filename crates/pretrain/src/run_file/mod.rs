//! The run file: what to train, on what, with how many hands. Read strictly: a wrong key, value or path is refused
//! with its place before anything starts.
//!
//! So is what a run would fail for later: a tokenizer that does not fit its model, weights that are not there, an
//! evaluation file with a bad line. The types are here, the rules in `check` and `model_directory`.
//!
//! Paths are relative to the run file's folder. Every table but `[model]`, `[[source]]` and `[trainer]` may be left
//! out.

mod check;
mod model_directory;

use std::path::{Path, PathBuf};

use lyceum_cluster::strict::{self, Document, Source as Text, StrictError};
use lyceum_corpus::document::{Content, ReaderOptions};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// A run file, checked: paths are absolute and there, values fit each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFile {
    /// Name of the job, as `lyceum status` shows it.
    pub name: String,
    /// Seed of every random decision of the run.
    #[serde(default)]
    pub seed: u64,
    /// The model that is trained.
    pub model: Model,
    /// Where texts come from.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
    /// The actors that turn raw text into instruction-augmented text.
    pub synthesizer: Option<Synthesizer>,
    /// The gang that trains.
    pub trainer: Trainer,
    /// When checkpoints are written and how many are kept.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// What is measured before the first step and after the last.
    #[serde(default)]
    pub evaluation: Evaluation,
}

/// The model that is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// A Hugging Face directory. With `start = "random"` its `config.json` and `tokenizer.json` are enough.
    pub directory: PathBuf,
    /// Whether training goes on from the directory's weights or from new ones.
    #[serde(default)]
    pub start: Start,
    /// Number format of the weights that compute; the optimizer's are always fp32.
    #[serde(default)]
    pub precision: Precision,
}

/// Where the first weights come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// The directory's safetensors.
    #[default]
    Weights,
    /// Drawn by the run's seed.
    Random,
}

/// Number format of a computation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on GPUs and on CPUs with AVX512-BF16, else fp32.
    #[default]
    Auto,
    /// bfloat16.
    Bf16,
    /// 32-bit floats.
    Fp32,
}

/// One source of texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name in accounts and logs.
    pub name: String,
    /// Files: `.jsonl` (also `.ndjson`, `.json`), `.txt` or `.md`, plain or with a further `.gz` or `.zst`.
    pub paths: Vec<PathBuf>,
    /// What the files hold.
    #[serde(default)]
    pub kind: SourceKind,
    /// Share of the run's tokens that come from this source, in proportion to the others' shares.
    #[serde(default = "whole")]
    pub share: f64,
    /// Share of this source's documents that the synthesizer converts, 0 to 1.
    #[serde(default)]
    pub converted: f64,
    /// Tuning examples of one data set that are joined into one text.
    #[serde(default = "one")]
    pub shots: u32,
    /// How often the source is read before it is dry.
    #[serde(default = "one")]
    pub epochs: u32,
    /// Largest share of lines that may be bad before the run is refused.
    #[serde(default = "one_percent")]
    pub max_bad_share: f64,
}

/// What a source's files hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// Documents; the loss is on every token.
    #[default]
    Text,
    /// Contexts with question-answer pairs, for tuning a synthesizer; the loss is on the pairs.
    Tuning,
}

/// The elastic pool of synthesizers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Synthesizer {
    /// Who generates.
    #[serde(default)]
    pub engine: EngineKind,
    /// Hugging Face directory of the synthesizer's model; not needed by the deterministic engine.
    pub directory: Option<PathBuf>,
    /// Number format of its weights.
    #[serde(default)]
    pub precision: Precision,
    /// Fewest synthesizers.
    #[serde(default = "one")]
    pub min: u32,
    /// Most synthesizers.
    #[serde(default = "one")]
    pub max: u32,
    /// Texts of a chain, 1 to 256: M of the paper's M-shot examples.
    #[serde(default = "two")]
    pub rounds: u32,
    /// Most new tokens a text.
    #[serde(default = "four_hundred")]
    pub max_new_tokens: u32,
    /// 0 is greedy.
    #[serde(default)]
    pub temperature: f64,
    /// Nucleus: smallest set of tokens whose probability reaches this.
    #[serde(default = "whole")]
    pub top_p: f64,
    /// Chains that one synthesizer works on at once, 1 to 1,024.
    #[serde(default = "eight")]
    pub chains_at_once: u32,
    /// Texts of one window, which are shuffled and chained among themselves: W of the design.
    #[serde(default = "window")]
    pub window: u32,
    /// Processors of one synthesizer.
    #[serde(default = "whole")]
    pub cpus: f64,
    /// GPUs of one synthesizer.
    #[serde(default)]
    pub gpus: f64,
}

/// Positions of the deterministic engine, which has no model to ask.
pub const DETERMINISTIC_POSITIONS: usize = 4096;

/// Who answers a synthesizer's prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// A model in the synthesizer's own process.
    #[default]
    Model,
    /// A pure function of the prompt: for tests of everything around the model.
    Deterministic,
}

/// The gang of trainers and its optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trainer {
    /// Data-parallel ranks.
    #[serde(default = "one")]
    pub world_size: u32,
    /// Optimizer steps of the whole run, 1 to 99,999,999.
    pub steps: u64,
    /// Tokens of one row.
    pub sequence_length: u32,
    /// Rows of a global batch, over all ranks.
    pub batch_rows: u32,
    /// Rows of one forward and backward; the gradients of several are added up.
    pub micro_batch_rows: Option<u32>,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup_steps: u64,
    /// The cosine's last value, as a share of `learning_rate`.
    #[serde(default = "tenth")]
    pub minimum_rate_share: f64,
    /// Decoupled weight decay.
    #[serde(default = "tenth")]
    pub weight_decay: f64,
    /// AdamW's beta 1 and beta 2.
    #[serde(default = "betas", deserialize_with = "two_numbers")]
    pub betas: [f64; 2],
    /// Gradients are scaled down to this global norm.
    #[serde(default = "whole")]
    pub clip_norm: f64,
    /// Re-run each block in the backward pass instead of keeping its activations.
    #[serde(default)]
    pub activation_checkpointing: bool,
    /// Processors of one trainer.
    #[serde(default = "whole")]
    pub cpus: f64,
    /// GPUs of one trainer: 0 or 1.
    #[serde(default)]
    pub gpus: f64,
}

/// When checkpoints are written and how many are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Steps between checkpoints; the last step always has one.
    pub every: u64,
    /// How many are kept.
    pub keep: u32,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: 100, keep: 2 }
    }
}

/// What is measured before the first step and after the last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// Documents whose mean loss a token is measured.
    pub heldout: Option<PathBuf>,
    /// Multiple-choice items (`{"prompt", "choices", "answer"}` a line), scored by length-normalised likelihood.
    pub multiple_choice: Option<PathBuf>,
}

impl Source {
    /// How its files are read.
    pub fn reading(&self) -> ReaderOptions {
        let content = match self.kind {
            SourceKind::Text => Content::Field("text".into()),
            SourceKind::Tuning => Content::Record,
        };
        ReaderOptions { bad_share: self.max_bad_share, content, ..ReaderOptions::new(self.paths.clone()) }
    }
}

fn one() -> u32 {
    1
}
fn two() -> u32 {
    2
}
fn eight() -> u32 {
    8
}
fn four_hundred() -> u32 {
    400
}
fn window() -> u32 {
    4096
}
fn whole() -> f64 {
    1.0
}
fn tenth() -> f64 {
    0.1
}
fn one_percent() -> f64 {
    0.01
}
fn betas() -> [f64; 2] {
    [0.9, 0.95]
}

/// Exactly two: what is said beyond an array's end would be passed over.
fn two_numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[f64; 2], D::Error> {
    let numbers = Vec::<f64>::deserialize(deserializer)?;
    numbers.try_into().map_err(|numbers: Vec<f64>| D::Error::invalid_length(numbers.len(), &"two numbers"))
}

impl RunFile {
    /// Reads and checks the run file at `path`, and the files that it names as far as a run would fail for them.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, StrictError> {
        Ok(Self::load_with_source(path)?.0)
    }

    /// The same, with the file's text for faults that are found later: what a cluster cannot hold, for instance.
    pub fn load_with_source(path: impl AsRef<Path>) -> Result<(Self, Text), StrictError> {
        let Document { value, source } = strict::load::<Self>(path)?;
        Ok((check::checked(value, &source)?, source))
    }

    /// Whether any source is converted.
    pub fn synthesizes(&self) -> bool {
        self.sources.iter().any(|source| source.converted > 0.0)
    }
}
