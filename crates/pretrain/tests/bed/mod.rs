//! A small run on disk: a tokenizer, documents, a run file.

use std::fs;
use std::path::PathBuf;

use lyceum_corpus::tokenizer::{Tokenizer, TrainOptions};
use lyceum_pretrain::run_file::RunFile;
use tempfile::TempDir;

/// A folder with `model/`, `texts.jsonl` and `run.toml`.
pub struct Bed {
    pub folder: TempDir,
}

/// The model's `config.json`.
pub const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 64}"#;

/// A document of its own words.
pub fn document(number: usize) -> String {
    format!(
        "package number {number} copies files, shows {} pictures and listens to port {}.",
        number * 7,
        1000 + number
    )
}

impl Bed {
    /// With so many documents of one source.
    pub fn new(documents: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let texts: Vec<String> = (0..documents).map(document).collect();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        fs::write(model.join("config.json"), CONFIG).unwrap();
        let options = TrainOptions { vocabulary: 300, ..TrainOptions::default() };
        Tokenizer::train(texts.iter(), options).unwrap().save(model.join("tokenizer.json")).unwrap();
        let bed = Self { folder };
        bed.write_documents("texts.jsonl", 0..documents);
        bed
    }

    /// Writes JSON lines of these documents.
    pub fn write_documents(&self, name: &str, numbers: std::ops::Range<usize>) {
        let line = |number| format!("{}\n", serde_json::json!({ "text": document(number) }));
        fs::write(self.folder.path().join(name), numbers.map(line).collect::<String>()).unwrap();
    }

    /// The run file's text, before a test changes it.
    pub fn text() -> String {
        r#"name = "bed"
seed = 3

[model]
directory = "model"
start = "random"

[[source]]
name = "texts"
paths = ["texts.jsonl"]

[synthesizer]
engine = "deterministic"
rounds = 2
window = 8

[trainer]
steps = 100
sequence_length = 32
batch_rows = 2
learning_rate = 1e-3
"#
        .to_owned()
    }

    /// Writes a run file and tells where.
    pub fn write(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join("run.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// A run file that must be right.
    pub fn run(&self, text: &str) -> RunFile {
        RunFile::load(self.write(text)).unwrap()
    }
}
