//! A small model's directory, written byte by byte.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]
#![allow(dead_code, reason = "each test program uses its part")]

use lyceum_model_files::LlamaConfig;

/// `config.json` of a two-layer model with grouped queries and a tied head.
pub const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2}"#;

/// [`CONFIG`], read.
pub fn small_config() -> LlamaConfig {
    LlamaConfig::from_json(CONFIG).unwrap()
}

/// A safetensors file of zeros: name, type, shape and bytes of each tensor.
pub fn safetensors(tensors: &[(&str, &str, &[usize], usize)]) -> Vec<u8> {
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

/// A safetensors file with each parameter of [`CONFIG`], those of `part`.
pub fn whole_model(part: impl Fn(usize) -> bool) -> Vec<u8> {
    let parameters: Vec<_> = small_config().groups().into_iter().flat_map(|group| group.parameters).collect();
    let shapes: Vec<Vec<usize>> = parameters
        .iter()
        .map(|parameter| parameter.shape.iter().map(|size| usize::try_from(*size).unwrap()).collect())
        .collect();
    let tensors: Vec<_> = parameters
        .iter()
        .zip(&shapes)
        .enumerate()
        .filter(|(number, _)| part(*number))
        .map(|(_, (parameter, shape))| {
            (parameter.name.as_str(), "F32", shape.as_slice(), shape.iter().product::<usize>() * 4)
        })
        .collect();
    safetensors(&tensors)
}
