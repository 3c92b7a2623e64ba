//! What the tests of this crate set up.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use lyceum_corpus::tokenizer::{Tokenizer, TrainOptions};
use lyceum_model_files::LlamaConfig;
use lyceum_pretrain::run_file::RunFile;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

/// Writes a `config.json` and a `tokenizer.json` that fit each other, learnt from `texts`.
pub fn write_model(folder: &Path, texts: &[&str]) {
    fs::create_dir_all(folder).unwrap();
    let config = r#"{"model_type": "llama", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 512}"#;
    fs::write(folder.join("config.json"), config).unwrap();
    let options = TrainOptions { vocabulary: 300, ..TrainOptions::default() };
    Tokenizer::train(texts.iter(), options).unwrap().save(folder.join("tokenizer.json")).unwrap();
}

/// Writes weights of zeros for the `config.json` of `folder`; the file says that they are `made_by`.
pub fn write_weights(folder: &Path, made_by: &str) {
    let parameters: Vec<_> =
        LlamaConfig::load(folder).unwrap().groups().into_iter().flat_map(|group| group.parameters).collect();
    let zeros = vec![0; parameters.iter().map(|parameter| parameter.elements() as usize * 2).max().unwrap()];
    let tensors = parameters.iter().map(|parameter| {
        let shape = parameter.shape.iter().map(|size| *size as usize).collect();
        let bytes = &zeros[..parameter.elements() as usize * 2];
        (parameter.name.as_str(), TensorView::new(Dtype::BF16, shape, bytes).unwrap())
    });
    let said = HashMap::from([("made_by".to_owned(), made_by.to_owned())]);
    safetensors::serialize_to_file(tensors, Some(said), &folder.join("model.safetensors")).unwrap();
}

/// Whom the weights of `folder` say they are made by.
pub fn weights_made_by(folder: &Path) -> String {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    header.metadata().as_ref().unwrap()["made_by"].clone()
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
