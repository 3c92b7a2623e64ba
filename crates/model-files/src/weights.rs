//! Weights as Hugging Face writes them: `model.safetensors`, or the shards that `model.safetensors.index.json` names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::groups::HEAD;
use crate::json::read_json;
use crate::{LlamaConfig, ModelFilesError, ParameterSpec};

/// A list of shards is at most this large; those of the largest published models have 100 KiB.
const LARGEST_INDEX_BYTES: u64 = 64 << 20;

/// How an element is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// 32 bits.
    F32,
    /// The upper half of an F32.
    BF16,
    /// IEEE's 16 bits.
    F16,
}

/// One parameter in a file: where its elements lie, and how they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// What it is; the file's name and shape are these.
    pub parameter: ParameterSpec,
    /// How each element is stored.
    pub stored: StoredType,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// One safetensors file, mapped and its header checked.
///
/// The mapping is read-only. Whoever changes the file while it lives changes what is read, and whoever shortens the file while it lives ends the process that reads it.
#[derive(Debug)]
pub struct WeightFile {
    /// Where it is.
    pub path: PathBuf,
    /// All of it; pages are read when they are touched.
    pub mapped: Arc<Mmap>,
    /// The parameters in it.
    pub tensors: Vec<StoredTensor>,
}

/// The weights of a model: each of its parameters once, in one of these files.
#[derive(Debug)]
pub struct Weights {
    /// In a fixed order.
    pub files: Vec<WeightFile>,
}

impl Weights {
    /// Reads the headers of `directory`'s weights and holds them against `config`.
    ///
    /// # Errors
    /// A file is missing, cut short or not safetensors; a parameter is missing, unknown, in two files, of another shape
    /// than `config` says, or of a kind other than F32, BF16, F16.
    pub fn open(directory: &Path, config: &LlamaConfig) -> Result<Self, ModelFilesError> {
        let mut wanted: BTreeMap<String, ParameterSpec> = config
            .groups()
            .into_iter()
            .flat_map(|group| group.parameters)
            .map(|parameter| (parameter.name.clone(), parameter))
            .collect();
        let mut found = BTreeSet::new();
        let mut files = Vec::new();
        for path in paths(directory)? {
            let mapped = Arc::new(map(&path)?);
            let mut tensors = Vec::new();
            let archive = SafeTensors::deserialize(&mapped)
                .map_err(|error| ModelFilesError::file(&path, error.to_string()))?;
            for (name, view) in archive.iter() {
                if let Some(parameter) = wanted.remove(name) {
                    let start = view.data().as_ptr().addr() - mapped.as_ptr().addr();
                    let range = start..start + view.data().len();
                    tensors.push(stored(parameter, view.shape(), view.dtype(), range)?);
                    found.insert(name.to_owned());
                } else if !is_redundant(config, name) {
                    let reason =
                        if found.contains(name) { "is there twice" } else { "is unknown to its config.json" };
                    let reason = format!("{reason} ({})", path.display());
                    return Err(ModelFilesError::parameter(name, reason));
                }
            }
            files.push(WeightFile { path, mapped, tensors });
        }
        match wanted.into_keys().next() {
            Some(name) => {
                Err(ModelFilesError::parameter(&name, format!("is missing in {}", directory.display())))
            }
            None => Ok(Self { files }),
        }
    }
}

/// Old checkpoints repeat a tied head and the rotary frequencies; both follow from the rest.
fn is_redundant(config: &LlamaConfig, name: &str) -> bool {
    (config.tied && name == HEAD) || name.ends_with(".rotary_emb.inv_freq")
}

fn stored(
    parameter: ParameterSpec,
    shape: &[usize],
    dtype: Dtype,
    range: Range<usize>,
) -> Result<StoredTensor, ModelFilesError> {
    let wrong = |reason: String| ModelFilesError::parameter(&parameter.name, reason);
    let as_said: Option<Vec<i64>> = shape.iter().map(|size| i64::try_from(*size).ok()).collect();
    if as_said.as_ref() != Some(&parameter.shape) {
        let said = &parameter.shape;
        return Err(wrong(format!("has shape {shape:?}, its config.json says {said:?}")));
    }
    let stored = match dtype {
        Dtype::F32 => StoredType::F32,
        Dtype::BF16 => StoredType::BF16,
        Dtype::F16 => StoredType::F16,
        other => return Err(wrong(format!("is stored as {other:?}; expected F32, BF16 or F16"))),
    };
    Ok(StoredTensor { parameter, stored, range })
}

fn map(path: &Path) -> Result<Mmap, ModelFilesError> {
    let file = File::open(path).map_err(|error| ModelFilesError::io(path, error))?;
    // SAFETY: nobody shortens a published checkpoint while it is read (the word asked for at `WeightFile`); its bytes are
    // checked as untrusted input.
    unsafe { Mmap::map(&file) }.map_err(|error| ModelFilesError::io(path, error))
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The safetensors files of a directory, in a fixed order.
fn paths(directory: &Path) -> Result<Vec<PathBuf>, ModelFilesError> {
    let single = directory.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = directory.join("model.safetensors.index.json");
    if !index.is_file() {
        return Err(ModelFilesError::NoWeights { directory: directory.to_owned() });
    }
    let parsed: Index = read_json(&index, LARGEST_INDEX_BYTES)?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    let place = |name: String| {
        let refuse = |reason: &str| ModelFilesError::file(&index, format!("names {name:?}, which {reason}"));
        // A path has other names for the same file, and ways out of the directory.
        if Path::new(&name).file_name().is_none_or(|file| file != name.as_str()) {
            return Err(refuse("is not a file name in this directory"));
        }
        let path = directory.join(&name);
        if path.is_file() { Ok(path) } else { Err(refuse("is not there")) }
    };
    names.into_iter().map(place).collect()
}
