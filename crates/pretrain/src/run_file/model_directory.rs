//! What a model's directory says of itself, held against what a run file asks of it. No tensor is made.

use std::path::{Path, PathBuf};

use lyceum_cluster::strict::{Place, Source as Text, StrictError};
use lyceum_corpus::tokenizer::Tokenizer;
use lyceum_model_files::{LlamaConfig, ModelFilesError, Weights};

/// A model that could be loaded, as far as its configuration tells.
pub(super) struct ModelDirectory {
    directory: PathBuf,
    config: LlamaConfig,
}

impl ModelDirectory {
    /// Reads `config.json` and `tokenizer.json`, which must fit each other; `key` is what names the directory.
    pub(super) fn read(directory: &Path, key: &str, text: &Text) -> Result<(Self, Tokenizer), StrictError> {
        let config = LlamaConfig::load(directory).map_err(|error| refusal(error, key, text))?;
        let tokenizer = Tokenizer::load(directory.join("tokenizer.json"))
            .map_err(|error| text.refuse(key, error.to_string()))?;
        let (highest, vocabulary) = (i64::from(tokenizer.highest_id()), config.vocabulary);
        if highest >= vocabulary {
            let said = format!(
                "{}: the tokenizer has tokens up to {highest}, and the model's vocab_size is {vocabulary}",
                directory.display()
            );
            return Err(text.refuse(key, said));
        }
        Ok((Self { directory: directory.to_owned(), config }, tokenizer))
    }

    /// Positions the model was made for.
    pub(super) fn positions(&self) -> u64 {
        self.config.max_positions.unsigned_abs()
    }

    /// The weights are there and are the configuration's; `otherwise` is what else could be written where there are none.
    pub(super) fn check_weights(&self, key: &str, otherwise: &str, text: &Text) -> Result<(), StrictError> {
        match Weights::open(&self.directory, &self.config) {
            Ok(_) => Ok(()),
            Err(error @ ModelFilesError::NoWeights { .. }) => {
                Err(text.refuse(key, format!("{error}{otherwise}")))
            }
            Err(error @ ModelFilesError::Parameter { .. }) => {
                Err(text.refuse(key, format!("{}: {error}", self.directory.display())))
            }
            Err(error) => Err(refusal(error, key, text)),
        }
    }
}

/// What is wrong in a file of JSON is refused at its own place, all else at the run file's `key`.
fn refusal(error: ModelFilesError, key: &str, text: &Text) -> StrictError {
    match error {
        ModelFilesError::Json { path, line, column, reason } => {
            StrictError { file: path, place: Some(Place { line, column }), message: reason }
        }
        error => text.refuse(key, error.to_string()),
    }
}
