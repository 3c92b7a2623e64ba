//! `config.json`: what is impossible is refused by name and value, what `transformers` writes is understood.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod common;

use std::fs;

use common::{CONFIG, small_config};
use lyceum_model_files::{LlamaConfig, ModelFilesError, RopeScaling};

/// The small configuration's JSON with some fields replaced.
fn config_with(changes: &str) -> Result<LlamaConfig, ModelFilesError> {
    let mut json: serde_json::Value = serde_json::from_str(&small_config().to_json("float32")).unwrap();
    let changes: serde_json::Value = serde_json::from_str(changes).unwrap();
    for (name, value) in changes.as_object().unwrap() {
        json[name] = value.clone();
    }
    LlamaConfig::from_json(&json.to_string())
}

#[test]
fn impossible_configurations_are_refused_with_the_field_and_its_value() {
    for (changes, expected) in [
        (r#"{"model_type": "gpt2"}"#, r#"model_type "gpt2" is not supported"#),
        (r#"{"hidden_act": "gelu"}"#, r#"hidden_act "gelu""#),
        (r#"{"attention_bias": true}"#, "attention_bias"),
        (r#"{"quantization_config": {"bits": 4}}"#, "quantized"),
        (r#"{"vocab_size": 0}"#, "vocab_size is 0"),
        (r#"{"hidden_size": -16}"#, "hidden_size is -16"),
        (r#"{"hidden_size": 9223372036854775807}"#, "hidden_size is 9223372036854775807"),
        (r#"{"num_hidden_layers": 1000000}"#, "num_hidden_layers is 1000000"),
        (r#"{"num_key_value_heads": 3}"#, "no multiple of num_key_value_heads 3"),
        (r#"{"head_dim": null, "hidden_size": 18}"#, "no multiple of num_attention_heads"),
        (r#"{"head_dim": 5}"#, "head_dim 5 is odd"),
        (r#"{"num_attention_heads": 16777216, "num_key_value_heads": 1}"#, "wider than"),
        (r#"{"rms_norm_eps": 0}"#, "rms_norm_eps is 0"),
        (r#"{"rope_theta": -1.0}"#, "rope_theta is -1"),
        (r#"{"rope_scaling": {"rope_type": "yarn"}}"#, r#"rope scaling "yarn""#),
        (r#"{"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}"#, "needs low_freq_factor"),
        (r#"{"rope_parameters": {}, "rope_scaling": {"type": "yarn"}}"#, r#"rope scaling "yarn""#),
        (r#"{"rope_scaling": {"type": "default", "rope_type": "yarn"}}"#, r#"rope scaling "yarn""#),
        (r#"{"eos_token_id": 50}"#, "special token 50"),
        (r#"{"vocab_size": "many"}"#, "invalid type"),
    ] {
        let error = config_with(changes).unwrap_err().to_string();
        assert!(error.contains(expected), "{changes}: {error}");
    }
    for text in ["", "[]", "{", r#"{"vocab_size": NaN}"#, r#"{"rope_theta": 1e999}"#, "\u{0}"] {
        assert!(LlamaConfig::from_json(text).is_err(), "{text:?}");
    }
}

#[test]
fn both_dialects_of_rope_and_end_tokens_are_understood() {
    let llama3 = r#"{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16}"#;
    let old =
        config_with(&format!(r#"{{"rope_theta": 5e5, "rope_scaling": {llama3}, "eos_token_id": [2, 3]}}"#))
            .unwrap();
    let new = llama3.replace('{', r#"{"rope_theta": 5e5, "#);
    let new =
        config_with(&format!(r#"{{"rope_theta": 1, "rope_parameters": {new}, "eos_token_id": [2, 3]}}"#))
            .unwrap();
    assert_eq!(old, new);
    assert_eq!((old.rope_theta, &old.eos[..]), (5e5, &[2, 3][..]));
    assert!(matches!(
        old.rope_scaling,
        Some(RopeScaling::Llama3 { factor: 8.0, original_max_positions: 16, .. })
    ));
    assert_eq!(LlamaConfig::from_json(&old.to_json("float32")).unwrap(), old);
}

#[test]
fn a_file_that_is_no_configuration_is_refused_at_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let refusal = |text: &str| {
        fs::write(&path, text).unwrap();
        LlamaConfig::load(directory.path()).unwrap_err().to_string().replace(path.to_str().unwrap(), "FILE")
    };
    assert!(refusal("{\"model_type\": \"llama\",\n oops}").starts_with("FILE:2:2: key must be a string"));
    assert!(refusal("{\"model_type\": \"llama\"}").starts_with("FILE:1:23: missing field `vocab_size`"));
    let odd = CONFIG.replace("\"num_attention_heads\": 4", "\"num_attention_heads\": 6");
    assert_eq!(refusal(&odd), "FILE: hidden_size 16 is no multiple of num_attention_heads 6");
    assert!(refusal(&" ".repeat((1 << 20) + 1)).starts_with("FILE: has more than 1048576 bytes"));
    fs::write(&path, CONFIG).unwrap();
    assert_eq!(LlamaConfig::load(directory.path()).unwrap(), small_config());
}
