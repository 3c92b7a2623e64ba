//! What the tests of this crate set up.

use std::fs;
use std::path::Path;

use lyceum_corpus::tokenizer::{Tokenizer, TrainOptions};
use lyceum_pretrain::run_file::RunFile;

/// Writes a `config.json` and a `tokenizer.json` that fit each other, learnt from `texts`.
pub fn write_model(folder: &Path, texts: &[&str]) {
    fs::create_dir_all(folder).unwrap();
    let config = r#"{"model_type": "llama", "vocab_size": 300, "max_position_embeddings": 512}"#;
    fs::write(folder.join("config.json"), config).unwrap();
    let options = TrainOptions { vocabulary: 300, ..TrainOptions::default() };
    Tokenizer::train(texts.iter(), options).unwrap().save(folder.join("tokenizer.json")).unwrap();
}

/// Writes `run.toml` with all that it names: a run of `steps` steps on `texts`, from random weights.
pub fn write_run(folder: &Path, texts: &[&str], steps: u64) -> RunFile {
    write_model(folder, texts);
    let lines: Vec<String> =
        texts.iter().map(|text| serde_json::json!({ "text": text }).to_string()).collect();
    fs::write(folder.join("a.jsonl"), lines.join("\n")).unwrap();
    let run = format!(
        "name = \"x\"\n[model]\ndirectory = \".\"\nstart = \"random\"\n[[source]]\nname = \"a\"\npaths = [\"a.jsonl\"]\n\
         [trainer]\nsteps = {steps}\nsequence_length = 8\nbatch_rows = 1\nlearning_rate = 1e-3\n"
    );
    fs::write(folder.join("run.toml"), run).unwrap();
    RunFile::load(folder.join("run.toml")).unwrap()
}
