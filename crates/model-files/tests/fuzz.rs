//! A model's directory comes from anywhere: its configuration, list of shards and weights' headers, given as anything at all.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;

use common::{CONFIG, safetensors, small_config, whole_model};
use lyceum_fuzz::Fuzz;
use lyceum_model_files::{LlamaConfig, Weights};

const WORDS: [&str; 22] = [
    "\"model_type\": \"mistral\"",
    "\"rope_scaling\": {",
    "\"rope_type\": \"llama3\"",
    "\"factor\": 8.0",
    "\"low_freq_factor\": 1.0",
    "\"high_freq_factor\": 4.0",
    "\"rope_parameters\": {",
    "\"head_dim\": ",
    "\"sliding_window\": ",
    "null",
    "\"eos_token_id\": [1, 2]",
    "\"hidden_act\": \"silu\"",
    "\"__metadata__\": {",
    "\"dtype\":\"BF16\"",
    "\"data_offsets\":[0,4]",
    "\"shape\":[",
    "\"F8_E4M3\"",
    "\"weight_map\": {",
    "model.safetensors",
    "../",
    ".rotary_emb.inv_freq",
    "lm_head.weight",
];

fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(config) = LlamaConfig::from_json(text) else { return };
    // A value of this type is possible: its parameters can be counted, and it is written so that it reads the same.
    let elements =
        config.groups().into_iter().flat_map(|group| group.parameters).map(|parameter| {
            parameter.shape.iter().map(|size| u128::try_from(*size).unwrap()).product::<u128>()
        });
    assert!(elements.sum::<u128>() > 0);
    assert_eq!(LlamaConfig::from_json(&config.to_json("bfloat16")).unwrap(), config);
}

#[test]
fn configurations_are_read_or_refused() {
    let llama31 = r#"{"model_type": "llama", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "hidden_act": "silu",
        "rope_theta": 500000.0, "rms_norm_eps": 1e-05, "initializer_range": 0.02, "rope_scaling": {"factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32, "rope_type": "llama3"},
        "bos_token_id": 1, "eos_token_id": [2, 3], "tie_word_embeddings": false, "sliding_window": null}"#;
    let mistral = llama31.replace("\"llama\",", "\"mistral\",").replace("null", "4096");
    let seeds = [CONFIG, llama31, &mistral];
    Fuzz::new("model-files config")
        .seeds(seeds)
        .words(WORDS)
        .runs(20_000)
        .longest(4096)
        .memory(32 << 20)
        .run(config);
}

/// A directory with a list of shards, if the first byte says so, else with one file of weights.
fn weights(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    if kind % 2 == 0 {
        fs::write(path("model.safetensors"), bytes).unwrap();
    } else {
        fs::write(path("model.safetensors.index.json"), bytes).unwrap();
        for (name, part) in [("1.safetensors", 0), ("2.safetensors", 1)] {
            fs::write(path(name), whole_model(|number| number % 2 == part)).unwrap();
        }
    }
    let Ok(weights) = Weights::open(folder.path(), &small_config()) else { return };
    for file in &weights.files {
        for tensor in &file.tensors {
            let elements: i64 = tensor.parameter.shape.iter().product();
            let bytes = file.mapped.get(tensor.range.clone()).expect("its bytes are of the file");
            assert_eq!(bytes.len() % usize::try_from(elements).unwrap(), 0);
        }
    }
}

#[test]
fn weights_are_found_or_refused() {
    let whole = whole_model(|_| true);
    let header = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let odd = safetensors(&[("a", "F32", &[2, 3], 24), ("b", "F16", &[1], 2)]);
    let names: Vec<String> = small_config()
        .groups()
        .into_iter()
        .flat_map(|group| group.parameters)
        .map(|spec| spec.name)
        .collect();
    let map: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(number, name)| format!("{name:?}: \"{}.safetensors\"", 1 + number % 2))
        .collect();
    let index = format!("{{\"metadata\": {{}}, \"weight_map\": {{{}}}}}", map.join(", "));
    let seed = |kind: u8, bytes: &[u8]| [&[kind][..], bytes].concat();
    let seeds = [seed(0, &whole), seed(0, &whole[..header]), seed(0, &odd), seed(1, index.as_bytes())];
    Fuzz::new("model-files weights")
        .seeds(seeds)
        .words(WORDS)
        .runs(4000)
        .longest(64 << 10)
        .memory(4 << 20)
        .run(weights);
}
