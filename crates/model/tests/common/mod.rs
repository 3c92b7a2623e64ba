//! Small models for the tests of this crate.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::PathBuf;

use lyceum_model::{Llama, LlamaConfig, Parameters, Placement, initial_parameters, load_directory};
use tch::Tensor;

/// All of the folders that `tests/reference/make.py` makes.
pub const REFERENCES: [&str; 5] =
    ["llama-tied", "llama-untied", "llama-llama3-rope", "mistral-window", "mistral-sharded"];

pub fn reference(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference").join(name)
}

/// A reference model in fp32 on one thread.
pub fn load(name: &str) -> Llama {
    tch::set_num_threads(1);
    let (config, parameters) = load_directory(&reference(name), &Placement::reference()).unwrap();
    model(config, &parameters)
}

pub fn model(config: LlamaConfig, parameters: &Parameters) -> Llama {
    Llama::from_parameters(config, |name| parameters.get(name).map(Tensor::shallow_clone)).unwrap()
}

/// A two-layer configuration with grouped queries.
pub fn small_config(tied: bool) -> LlamaConfig {
    LlamaConfig::from_json(&format!(
        r#"{{"model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 32, "initializer_range": 0.2, "tie_word_embeddings": {tied},
            "bos_token_id": 1, "eos_token_id": 2}}"#
    ))
    .unwrap()
}

pub fn small_parameters(tied: bool) -> Parameters {
    tch::set_num_threads(1);
    initial_parameters(&small_config(tied), 11).unwrap()
}
