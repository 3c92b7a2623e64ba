//! A Hugging Face directory, as far as can be told without loading a tensor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lyceum_cluster::strict::{Place, Source as Text, StrictError};
use lyceum_corpus::tokenizer::Tokenizer;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Architectures that can be loaded.
const ARCHITECTURES: [&str; 2] = ["llama", "mistral"];

/// What a model says of itself.
pub(super) struct ModelDirectory {
    directory: PathBuf,
    /// Positions it was made for.
    pub(super) positions: u64,
}

/// The part of a `config.json` that a run file must fit.
#[derive(Deserialize)]
struct Config {
    model_type: String,
    vocab_size: u64,
    max_position_embeddings: u64,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl ModelDirectory {
    /// Reads `config.json` and `tokenizer.json`, which must fit each other; `key` is what names the directory.
    pub(super) fn read(directory: &Path, key: &str, text: &Text) -> Result<(Self, Tokenizer), StrictError> {
        let config: Config = read_json(&directory.join("config.json"), key, text)?;
        if !ARCHITECTURES.contains(&config.model_type.as_str()) {
            let (found, known) = (config.model_type, ARCHITECTURES.join("` or `"));
            let said = format!("{}: model_type is `{found}`, expected `{known}`", directory.display());
            return Err(text.refuse(key, said));
        }
        let tokenizer = Tokenizer::load(directory.join("tokenizer.json"))
            .map_err(|error| text.refuse(key, error.to_string()))?;
        let (highest, vocabulary) = (u64::from(tokenizer.highest_id()), config.vocab_size);
        if highest >= vocabulary {
            let said = format!(
                "{}: the tokenizer has tokens up to {highest}, and the model's vocab_size is {vocabulary}",
                directory.display()
            );
            return Err(text.refuse(key, said));
        }
        Ok((Self { directory: directory.to_owned(), positions: config.max_position_embeddings }, tokenizer))
    }

    /// Weights are there, every shard of them; `otherwise` is what else could be written.
    pub(super) fn check_weights(&self, key: &str, otherwise: &str, text: &Text) -> Result<(), StrictError> {
        let directory = &self.directory;
        if directory.join("model.safetensors").is_file() {
            return Ok(());
        }
        let index = directory.join("model.safetensors.index.json");
        if !index.is_file() {
            let said = format!(
                "{}: there are no weights: expected model.safetensors, or model.safetensors.index.json with its shards{otherwise}",
                directory.display()
            );
            return Err(text.refuse(key, said));
        }
        let Index { weight_map } = read_json(&index, key, text)?;
        match weight_map.values().find(|shard| !directory.join(shard).is_file()) {
            Some(shard) => {
                Err(text.refuse(key, format!("{}: names {shard}, which is not there", index.display())))
            }
            None => Ok(()),
        }
    }
}

/// A file of JSON; what is wrong in it is refused at its own place, that it cannot be read at the run file's `key`.
fn read_json<T: DeserializeOwned>(path: &Path, key: &str, text: &Text) -> Result<T, StrictError> {
    let read = std::fs::read_to_string(path)
        .map_err(|error| text.refuse(key, format!("{}: {error}", path.display())))?;
    serde_json::from_str(&read).map_err(|error| {
        let said = error.to_string();
        let message = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said).to_owned();
        let place = Place { line: error.line().max(1), column: error.column().max(1) };
        StrictError { file: path.to_owned(), place: Some(place), message }
    })
}
