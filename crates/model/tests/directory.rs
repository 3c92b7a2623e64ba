//! Hugging Face directories: what is written is read back, and what is broken is an error, never a panic.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{small_config, small_parameters};
use lyceum_model::{
    ModelError, ModelFilesError, Parameters, Placement, StoredKind, load_directory, load_parameters,
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
    assert!(matches!(failed, Err(ModelError::Files(ModelFilesError::Parameter { .. }))));
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
    fs::write(&path, odd).unwrap();
    let read = load_parameters(&directory.path().join("model"), &small_config(true), &FP32).unwrap();
    assert_equal(&read, &small_parameters(true));
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
