//! The run file: what to train, on what, with how many hands. Read strictly: a wrong key, value or path is refused
//! with its place before anything starts.
//!
//! Paths are relative to the run file's folder. Every table but `[model]`, `[[source]]` and `[trainer]` may be left
//! out.

use std::path::{Path, PathBuf};

use lyceum_cluster::strict::{self, Document, StrictError};
use serde::{Deserialize, Serialize};

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
    /// Files: `.jsonl` or `.txt`, plain, `.gz` or `.zst`.
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
    /// Texts of a chain: M of the paper's M-shot examples.
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
    /// Chains that one synthesizer works on at once.
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
    /// Optimizer steps of the whole run.
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
    #[serde(default = "betas")]
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

impl RunFile {
    /// Reads and checks the run file at `path`.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, StrictError> {
        let document = strict::load::<Self>(path)?;
        let run = document.value.clone().with_absolute_paths(&document)?;
        run.check(&document)?;
        Ok(run)
    }

    /// Whether any source is converted.
    pub fn synthesizes(&self) -> bool {
        self.sources.iter().any(|source| source.converted > 0.0)
    }

    fn with_absolute_paths(mut self, document: &Document<Self>) -> Result<Self, StrictError> {
        let existing = |key: &str, path: &Path| -> Result<PathBuf, StrictError> {
            let found = document.source.resolve_existing(key, path)?;
            found
                .canonicalize()
                .map_err(|error| document.refuse(key, format!("{}: {error}", found.display())))
        };
        self.model.directory = existing("model.directory", &self.model.directory)?;
        for file in ["config.json", "tokenizer.json"] {
            existing("model.directory", &self.model.directory.join(file))?;
        }
        for (number, source) in self.sources.iter_mut().enumerate() {
            for (index, path) in source.paths.iter_mut().enumerate() {
                *path = existing(&format!("source[{number}].paths[{index}]"), path)?;
            }
        }
        if let Some(directory) =
            self.synthesizer.as_mut().and_then(|synthesizer| synthesizer.directory.as_mut())
        {
            *directory = existing("synthesizer.directory", directory)?;
        }
        if let Some(path) = &mut self.evaluation.heldout {
            *path = existing("evaluation.heldout", path)?;
        }
        if let Some(path) = &mut self.evaluation.multiple_choice {
            *path = existing("evaluation.multiple_choice", path)?;
        }
        Ok(self)
    }

    fn check(&self, document: &Document<Self>) -> Result<(), StrictError> {
        let require = |holds: bool, key: &str, message: String| {
            if holds { Ok(()) } else { Err(document.refuse(key, message)) }
        };
        let name_fits = !self.name.is_empty()
            && self.name.len() <= 64
            && self.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        require(
            name_fits,
            "name",
            format!("'{}': expected 1 to 64 letters, digits, '-', '_' or '.'", self.name),
        )?;
        require(!self.sources.is_empty(), "source", "expected at least one [[source]]".into())?;
        for (number, source) in self.sources.iter().enumerate() {
            self.check_source(number, source, &require)?;
        }
        if self.synthesizes() {
            require(
                self.synthesizer.is_some(),
                "source",
                "a source has `converted` above 0, and there is no [synthesizer]".into(),
            )?;
        }
        if let Some(synthesizer) = &self.synthesizer {
            check_synthesizer(synthesizer, &require)?;
        }
        self.check_trainer(&require)?;
        require(self.checkpoint.every > 0, "checkpoint.every", "0: expected at least 1 step".into())?;
        require(self.checkpoint.keep > 0, "checkpoint.keep", "0: expected at least 1 checkpoint".into())
    }

    fn check_source(&self, number: usize, source: &Source, require: &Require<'_>) -> Result<(), StrictError> {
        let key = |field: &str| format!("source[{number}].{field}");
        let twice = self.sources[..number].iter().any(|other| other.name == source.name);
        require(!twice, &key("name"), format!("'{}' names two sources", source.name))?;
        require(!source.paths.is_empty(), &key("paths"), "expected at least one file".into())?;
        let unit = 0.0..=1.0;
        for (field, value) in [("converted", source.converted), ("max_bad_share", source.max_bad_share)] {
            require(unit.contains(&value), &key(field), format!("{value}: expected 0 to 1"))?;
        }
        let share = source.share;
        let fits = share.is_finite() && share > 0.0;
        require(fits, &key("share"), format!("{share}: expected a number above 0"))?;
        for (field, value) in [("epochs", source.epochs), ("shots", source.shots)] {
            require(value > 0, &key(field), "0: expected at least 1".into())?;
        }
        require(
            source.converted == 0.0 || source.kind == SourceKind::Text,
            &key("converted"),
            "tuning examples cannot be converted".into(),
        )
    }

    fn check_trainer(&self, require: &Require<'_>) -> Result<(), StrictError> {
        let trainer = &self.trainer;
        let counts = [
            ("trainer.world_size", u64::from(trainer.world_size)),
            ("trainer.steps", trainer.steps),
            ("trainer.batch_rows", trainer.batch_rows.into()),
            ("trainer.micro_batch_rows", trainer.micro_batch_rows.unwrap_or(1).into()),
        ];
        for (key, value) in counts {
            require(value > 0, key, "0: expected at least 1".into())?;
        }
        let length = trainer.sequence_length;
        let fits = length > 0 && length.is_multiple_of(8) && length <= 1 << 20;
        require(
            fits,
            "trainer.sequence_length",
            format!("{length}: expected a multiple of 8 up to 1,048,576"),
        )?;
        if let Some(positions) = positions_of(&self.model.directory) {
            let directory = self.model.directory.display();
            require(
                u64::from(length) <= positions,
                "trainer.sequence_length",
                format!("{length}: the model in {directory} has {positions} positions"),
            )?;
        }
        require(
            trainer.batch_rows.is_multiple_of(trainer.world_size),
            "trainer.batch_rows",
            format!(
                "{} rows cannot be shared out evenly to {} ranks",
                trainer.batch_rows, trainer.world_size
            ),
        )?;
        let positive =
            [("trainer.learning_rate", trainer.learning_rate), ("trainer.clip_norm", trainer.clip_norm)];
        for (key, value) in positive {
            require(value.is_finite() && value > 0.0, key, format!("{value}: expected a number above 0"))?;
        }
        let unit = 0.0..1.0;
        for value in trainer.betas {
            require(unit.contains(&value), "trainer.betas", format!("{value}: expected 0 up to below 1"))?;
        }
        let share = trainer.minimum_rate_share;
        require(
            (0.0..=1.0).contains(&share),
            "trainer.minimum_rate_share",
            format!("{share}: expected 0 to 1"),
        )?;
        let decay = trainer.weight_decay;
        require(
            decay.is_finite() && decay >= 0.0,
            "trainer.weight_decay",
            format!("{decay}: expected at least 0"),
        )?;
        check_processors("trainer", trainer.cpus, require)?;
        let gpus = trainer.gpus;
        require(gpus == 0.0 || gpus == 1.0, "trainer.gpus", format!("{gpus}: a rank has no GPU or one"))
    }
}

/// Positions that a model's `config.json` names; what else is wrong with it is told by who loads it.
fn positions_of(directory: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(directory.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    config.get("max_position_embeddings")?.as_u64()
}

type Require<'a> = dyn Fn(bool, &str, String) -> Result<(), StrictError> + 'a;

fn check_synthesizer(synthesizer: &Synthesizer, require: &Require<'_>) -> Result<(), StrictError> {
    require(
        synthesizer.engine != EngineKind::Model || synthesizer.directory.is_some(),
        "synthesizer",
        "expected `directory`, the model that generates".into(),
    )?;
    let Synthesizer { min, max, .. } = *synthesizer;
    require(min > 0, "synthesizer.min", "0: expected at least 1".into())?;
    require(min <= max, "synthesizer.max", format!("{max} is below min = {min}"))?;
    let counts = [
        ("synthesizer.rounds", synthesizer.rounds),
        ("synthesizer.max_new_tokens", synthesizer.max_new_tokens),
        ("synthesizer.chains_at_once", synthesizer.chains_at_once),
        ("synthesizer.window", synthesizer.window),
    ];
    for (key, value) in counts {
        require(value > 0, key, "0: expected at least 1".into())?;
    }
    let Synthesizer { temperature, top_p, gpus, .. } = *synthesizer;
    require(
        temperature.is_finite() && temperature >= 0.0,
        "synthesizer.temperature",
        format!("{temperature}: expected at least 0"),
    )?;
    require(top_p > 0.0 && top_p <= 1.0, "synthesizer.top_p", format!("{top_p}: expected above 0, up to 1"))?;
    require(gpus.is_finite() && gpus >= 0.0, "synthesizer.gpus", format!("{gpus}: expected at least 0"))?;
    check_processors("synthesizer", synthesizer.cpus, require)
}

fn check_processors(table: &str, cpus: f64, require: &Require<'_>) -> Result<(), StrictError> {
    let fits = cpus.is_finite() && cpus > 0.0;
    require(fits, &format!("{table}.cpus"), format!("{cpus}: expected a number above 0"))
}
