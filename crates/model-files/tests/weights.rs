//! Weights on disk: what does not follow from the configuration is refused by name, and what is broken never panics.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod common;

use std::fs;

use common::{safetensors, small_config, whole_model};
use lyceum_model_files::{ModelFilesError, Weights};

/// Opens a directory whose weights are `bytes`.
fn open_bytes(bytes: &[u8]) -> Result<Weights, ModelFilesError> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("model.safetensors"), bytes).unwrap();
    Weights::open(directory.path(), &small_config())
}

#[test]
fn tensors_that_the_configuration_does_not_describe_are_refused_by_name() {
    let norm = "model.norm.weight";
    let error = |tensors: &[(&str, &str, &[usize], usize)]| {
        open_bytes(&safetensors(tensors)).unwrap_err().to_string()
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
    let whole = whole_model(|_| true);
    open_bytes(&whole).unwrap();
    let header = 8 + usize::try_from(u64::from_le_bytes(whole[..8].try_into().unwrap())).unwrap();
    for length in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        assert!(open_bytes(&whole[..length]).is_err(), "cut to {length} bytes");
    }
    for at in (0..header).step_by(5) {
        for change in [0x01, 0x10, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            let _ = open_bytes(&bytes);
        }
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(open_bytes(&longer).is_err(), "a byte too many");
}

#[test]
fn a_list_of_shards_stays_in_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let load = |index: &str| {
        fs::write(directory.path().join("model.safetensors.index.json"), index).unwrap();
        Weights::open(directory.path(), &small_config()).unwrap_err().to_string()
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

#[test]
fn shards_have_each_parameter_once_between_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let index = r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}}"#;
    fs::write(path.join("model.safetensors.index.json"), index).unwrap();
    let open = |second: Vec<u8>| {
        fs::write(path.join("one.safetensors"), whole_model(|number| number % 2 == 0)).unwrap();
        fs::write(path.join("two.safetensors"), second).unwrap();
        Weights::open(path, &small_config())
    };
    let weights = open(whole_model(|number| number % 2 == 1)).unwrap();
    let counts: Vec<usize> = weights.files.iter().map(|file| file.tensors.len()).collect();
    assert_eq!(counts, [10, 10]);
    let twice = open(whole_model(|_| true)).unwrap_err().to_string();
    assert!(twice.contains("is there twice") && twice.contains("two.safetensors"), "{twice}");
    let short = open(whole_model(|number| number == 1)).unwrap_err().to_string();
    assert!(short.contains("is missing in"), "{short}");
}

#[test]
fn a_directory_without_weights_says_what_was_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let refused = Weights::open(directory.path(), &small_config()).unwrap_err();
    assert!(matches!(refused, ModelFilesError::NoWeights { .. }), "{refused}");
    assert!(refused.to_string().contains("expected model.safetensors, or model.safetensors.index.json"));
}
