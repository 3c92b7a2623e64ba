//! Hugging Face directories: what is written is read back, and what is broken is an error, never a panic.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{small_config, small_parameters};
use lyceum_model::{
    LlamaConfig, ModelError, Parameters, Placement, RopeScaling, StoredKind, load_directory, load_parameters,
    save_directory,
};
use lyceum_torch_shim::{Seen, observe};
use tch::{Device, Kind, Tensor};

const FP32: Placement = Placement { device: Device::Cpu, kind: Kind::Float };

fn saved(tied: bool, kind: StoredKind) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    save_directory(&directory.path().join("model"), &small_config(tied), &small_parameters(tied), kind, None)
        .unwrap();
    directory
}

fn assert_equal(found: &Parameters, expected: &Parameters) {
    assert!(found.keys().eq(expected.keys()));
    for (name, tensor) in expected {
        assert_eq!(found[name], *tensor, "{name}");
    }
}

#[test]
fn a_saved_model_is_loaded_again_bit_for_bit() {
    for tied in [true, false] {
        let directory = saved(tied, StoredKind::Float);
        let (config, parameters) = load_directory(&directory.path().join("model"), &FP32).unwrap();
        assert_eq!(config, small_config(tied));
        assert_equal(&parameters, &small_parameters(tied));
    }
}

#[test]
fn a_model_saved_in_bf16_is_the_rounded_one_and_half_as_large() {
    let directory = saved(true, StoredKind::BFloat16);
    let path = directory.path().join("model");
    let (_, parameters) = load_directory(&path, &FP32).unwrap();
    let rounded = small_parameters(true)
        .into_iter()
        .map(|(name, tensor)| (name, tensor.to_kind(Kind::BFloat16).to_kind(Kind::Float)))
        .collect();
    assert_equal(&parameters, &rounded);
    let bytes = fs::metadata(path.join("model.safetensors")).unwrap().len();
    assert!(bytes < 2 * small_config(true).parameter_count() as u64 + 4096, "{bytes}");
    let bf16 = Placement { device: Device::Cpu, kind: Kind::BFloat16 };
    let (_, parameters) = load_directory(&path, &bf16).unwrap();
    assert!(parameters.values().all(|tensor| tensor.kind() == Kind::BFloat16));
}

#[test]
fn weights_of_the_files_own_kind_are_mapped_and_not_allocated() {
    let directory = saved(true, StoredKind::Float);
    let path = directory.path().join("model");
    let (parameters, seen) = observe(|| load_parameters(&path, &small_config(true), &FP32).unwrap()).unwrap();
    assert_eq!(seen.iter().find_map(Seen::allocated), None);
    drop(directory);
    // The mapping outlives the file's name.
    assert_equal(&parameters, &small_parameters(true));
}

#[test]
fn saving_again_replaces_the_whole_directory_and_copies_the_tokenizer() {
    let directory = saved(false, StoredKind::Float);
    let path = directory.path().join("model");
    let tokenizer = directory.path().join("some-tokenizer.json");
    fs::write(&tokenizer, "{}").unwrap();
    fs::write(path.join("stale"), "").unwrap();
    save_directory(&path, &small_config(true), &small_parameters(true), StoredKind::Float, Some(&tokenizer))
        .unwrap();
    let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left beside it");
    assert_equal(&load_directory(&path, &FP32).unwrap().1, &small_parameters(true));
}

/// Saves the small model with the `tokenizer.json` of `source`; returns where.
fn saved_with_tokenizer_of(source: &Path) -> PathBuf {
    let (path, tokenizer) = (source.join("model"), source.join("tokenizer.json"));
    save_directory(&path, &small_config(true), &small_parameters(true), StoredKind::Float, Some(&tokenizer))
        .unwrap();
    path
}

#[test]
fn what_lies_beside_the_tokenizer_goes_with_it() {
    let source = tempfile::tempdir().unwrap();
    let files = [
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", r#"{"bos_token": "<s>"}"#),
        ("special_tokens_map.json", r#"{"pad_token": "<pad>"}"#),
    ];
    for (name, text) in files {
        fs::write(source.path().join(name), text).unwrap();
    }
    let path = saved_with_tokenizer_of(source.path());
    for (name, text) in files {
        assert_eq!(fs::read_to_string(path.join(name)).unwrap(), text, "{name}");
    }
}

#[test]
fn a_tokenizer_without_a_configuration_gets_one_that_names_its_first_and_last_token() {
    let source = tempfile::tempdir().unwrap();
    let written = |added_tokens: &str| -> serde_json::Value {
        let text =
            format!(r#"{{"version": "1.0", "added_tokens": {added_tokens}, "model": {{"vocab": {{}}}}}}"#);
        fs::write(source.path().join("tokenizer.json"), text).unwrap();
        let path = saved_with_tokenizer_of(source.path());
        assert!(!path.join("special_tokens_map.json").exists());
        serde_json::from_slice(&fs::read(path.join("tokenizer_config.json")).unwrap()).unwrap()
    };
    let tokens = r#"[{"id": 0, "content": "<unk>", "special": true}, {"id": 1, "content": "<s>"}, {"id": 2, "content": "</s>"}]"#;
    assert_eq!(
        written(tokens),
        serde_json::json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "model_max_length": 32,
            "clean_up_tokenization_spaces": false,
        })
    );
    let without = written(r#"[{"id": 2, "content": "</s>"}]"#);
    assert_eq!((without.get("bos_token"), &without["eos_token"]), (None, &serde_json::json!("</s>")));
}

#[test]
fn every_file_of_a_saved_model_may_be_read_by_whom_its_config_may() {
    let directory = saved(true, StoredKind::Float);
    let mode = |name: &str| {
        let metadata = fs::metadata(directory.path().join("model").join(name)).unwrap();
        metadata.permissions().mode()
    };
    assert_eq!(mode("model.safetensors"), mode("config.json"));
    assert_eq!(mode("generation_config.json"), mode("config.json"));
}

#[test]
fn a_save_that_fails_leaves_what_was_there() {
    let directory = saved(true, StoredKind::Float);
    let path = directory.path().join("model");
    let mut broken = small_parameters(true);
    broken.remove("model.norm.weight");
    let failed = save_directory(&path, &small_config(true), &broken, StoredKind::Float, None);
    assert!(matches!(failed, Err(ModelError::Parameter { .. })));
    let missing = directory.path().join("no-tokenizer.json");
    assert!(
        save_directory(
            &path,
            &small_config(true),
            &small_parameters(true),
            StoredKind::Float,
            Some(&missing)
        )
        .is_err()
    );
    assert_equal(&load_directory(&path, &FP32).unwrap().1, &small_parameters(true));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
}

/// Loads a directory whose weights are `bytes`.
fn load_bytes(bytes: &[u8]) -> Result<Parameters, ModelError> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("model.safetensors"), bytes).unwrap();
    load_parameters(directory.path(), &small_config(true), &FP32)
}

fn safetensors(tensors: &[(&str, &str, &[usize], usize)]) -> Vec<u8> {
    let mut end = 0;
    let entries: Vec<String> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            let start = end;
            end += bytes;
            format!("{name:?}:{{\"dtype\":{dtype:?},\"shape\":{shape:?},\"data_offsets\":[{start},{end}]}}")
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end, 0);
    bytes
}

#[test]
fn tensors_that_the_configuration_does_not_describe_are_refused_by_name() {
    let norm = "model.norm.weight";
    let error = |tensors: &[(&str, &str, &[usize], usize)]| {
        load_bytes(&safetensors(tensors)).unwrap_err().to_string()
    };
    assert!(error(&[]).contains("is missing"));
    assert!(error(&[("surprise", "F32", &[1], 4)]).contains("surprise: is unknown"));
    assert!(error(&[(norm, "F32", &[17], 68)]).contains("has shape [17], its config.json says [16]"));
    assert!(error(&[(norm, "F64", &[16], 128)]).contains("stored as F64"));
    assert!(error(&[(norm, "I64", &[16], 128)]).contains("stored as I64"));
    // A tied head may be repeated; the next complaint is about what is really missing.
    assert!(error(&[("lm_head.weight", "F32", &[50, 16], 3200)]).contains("is missing"));
    assert!(error(&[(norm, "F32", &[usize::MAX, usize::MAX], 64)]).contains("safetensors"));
}

#[test]
fn a_file_cut_anywhere_or_with_any_header_byte_changed_is_no_panic() {
    let directory = saved(true, StoredKind::Float);
    let whole = fs::read(directory.path().join("model/model.safetensors")).unwrap();
    let header = 8 + usize::try_from(u64::from_le_bytes(whole[..8].try_into().unwrap())).unwrap();
    for length in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        assert!(load_bytes(&whole[..length]).is_err(), "cut to {length} bytes");
    }
    for at in (0..header).step_by(5) {
        for change in [0x01, 0x10, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            let _ = load_bytes(&bytes);
        }
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(load_bytes(&longer).is_err(), "a byte too many");
}

#[test]
fn a_header_of_odd_length_is_read_all_the_same() {
    let directory = saved(true, StoredKind::Float);
    let path = directory.path().join("model/model.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap());
    let mut odd = (header + 1).to_le_bytes().to_vec();
    odd.extend(&whole[8..8 + header as usize]);
    odd.push(b' ');
    odd.extend(&whole[8 + header as usize..]);
    assert_equal(&load_bytes(&odd).unwrap(), &small_parameters(true));
}

#[test]
fn a_list_of_shards_stays_in_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let load = |index: &str| {
        fs::write(directory.path().join("model.safetensors.index.json"), index).unwrap();
        load_parameters(directory.path(), &small_config(true), &FP32).unwrap_err().to_string()
    };
    for escape in ["../secret", "/etc/passwd", "a/b", "..", ""] {
        let index = format!(r#"{{"weight_map": {{"model.norm.weight": {escape:?}}}}}"#);
        assert!(load(&index).contains("not a file name"), "{escape}");
    }
    assert!(load("[]").contains("index.json"));
    assert!(
        load(r#"{"weight_map": {"model.norm.weight": "gone.safetensors"}}"#).contains("gone.safetensors")
    );
    assert!(load(r#"{"weight_map": {}}"#).contains("is missing"));
}

/// The small configuration's JSON with some fields replaced.
fn config_with(changes: &str) -> Result<LlamaConfig, ModelError> {
    let mut json: serde_json::Value = serde_json::from_str(&small_config(true).to_json("float32")).unwrap();
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
fn a_directory_that_is_not_there_is_named() {
    let error = load_directory(Path::new("/no/such/model"), &FP32).unwrap_err().to_string();
    assert!(error.contains("/no/such/model/config.json"), "{error}");
}

#[test]
fn views_and_gradient_leaves_can_be_saved() {
    let mut parameters = small_parameters(true);
    let wide = Tensor::zeros([16, 2], tch::kind::FLOAT_CPU).set_requires_grad(true);
    parameters.insert("model.norm.weight".into(), wide.select(1, 0));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model");
    save_directory(&path, &small_config(true), &parameters, StoredKind::Float, None).unwrap();
    let loaded = load_directory(&path, &FP32).unwrap().1;
    assert_eq!(loaded["model.norm.weight"], Tensor::zeros([16], tch::kind::FLOAT_CPU));
}
