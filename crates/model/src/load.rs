//! Weights from a Hugging Face directory: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
//!
//! Files are mapped, not read: where kind and device are the file's own, a parameter is a view of the mapping.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::groups::HEAD;
use crate::{LlamaConfig, ModelError, ParameterSpec, Parameters, Placement};

/// A list of shards is at most this large; those of the largest published models have 100 KiB.
const LARGEST_INDEX_BYTES: u64 = 64 << 20;

/// Reads configuration and weights of `directory`.
///
/// # Errors
/// As [`LlamaConfig::load`] and [`load_parameters`].
pub fn load_directory(
    directory: &Path,
    placement: &Placement,
) -> Result<(LlamaConfig, Parameters), ModelError> {
    let config = LlamaConfig::load(directory)?;
    let parameters = load_parameters(directory, &config, placement)?;
    Ok((config, parameters))
}

/// Reads the parameters of `config` from `directory`, each by name, on the device and in the kind of `placement`.
///
/// Tensors that are as the file has them lie in its mapping, which is private and read-only: do not change them in
/// place, and do not shorten the file while they live.
///
/// # Errors
/// A file is missing, cut short or not safetensors; a parameter is missing, unknown, of another shape than `config`
/// says, or of a kind other than F32, BF16, F16.
pub fn load_parameters(
    directory: &Path,
    config: &LlamaConfig,
    placement: &Placement,
) -> Result<Parameters, ModelError> {
    let mut wanted: BTreeMap<String, ParameterSpec> = config
        .groups()
        .into_iter()
        .flat_map(|group| group.parameters)
        .map(|spec| (spec.name.clone(), spec))
        .collect();
    let mut parameters = Parameters::new();
    for path in files(directory)? {
        let mapped = Arc::new(map(&path)?);
        let archive =
            SafeTensors::deserialize(&mapped).map_err(|e| ModelError::file(&path, e.to_string()))?;
        for (name, view) in archive.iter() {
            let Some(spec) = wanted.remove(name) else {
                if is_redundant(config, name) {
                    continue;
                }
                let reason = if parameters.contains_key(name) {
                    "is there twice"
                } else {
                    "is unknown to its config.json"
                };
                return Err(ModelError::parameter(name, format!("{reason} ({})", path.display())));
            };
            let offset = view.data().as_ptr().addr() - mapped.as_ptr().addr();
            let stored = Stored {
                shape: view.shape(),
                dtype: view.dtype(),
                range: offset..offset + view.data().len(),
            };
            parameters.insert(spec.name.clone(), stored.tensor(&spec, &mapped, placement)?);
        }
    }
    match wanted.into_keys().next() {
        Some(name) => Err(ModelError::parameter(&name, format!("is missing in {}", directory.display()))),
        None => Ok(parameters),
    }
}

/// Old checkpoints repeat a tied head and the rotary frequencies; both follow from the rest.
fn is_redundant(config: &LlamaConfig, name: &str) -> bool {
    (config.tied && name == HEAD) || name.ends_with(".rotary_emb.inv_freq")
}

/// One tensor as a safetensors header describes it.
struct Stored<'a> {
    shape: &'a [usize],
    dtype: Dtype,
    range: std::ops::Range<usize>,
}

impl Stored<'_> {
    fn tensor(
        &self,
        spec: &ParameterSpec,
        mapped: &Arc<Mmap>,
        placement: &Placement,
    ) -> Result<Tensor, ModelError> {
        let wrong = |reason: String| ModelError::parameter(&spec.name, reason);
        let shape: Option<Vec<i64>> = self.shape.iter().map(|size| i64::try_from(*size).ok()).collect();
        if shape.as_ref() != Some(&spec.shape) {
            return Err(wrong(format!("has shape {:?}, its config.json says {:?}", self.shape, spec.shape)));
        }
        let kind = match self.dtype {
            Dtype::F32 => Kind::Float,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F16 => Kind::Half,
            other => return Err(wrong(format!("is stored as {other:?}; expected F32, BF16 or F16"))),
        };
        let bytes = &mapped[self.range.clone()];
        if !bytes.as_ptr().addr().is_multiple_of(kind.elt_size_in_bytes()) {
            // A header of odd length, which the format allows: this one is copied.
            let copy = Tensor::f_from_data_size(bytes, &spec.shape, kind)?;
            return Ok(copy.f_to_device(placement.device)?.f_to_kind(placement.kind)?);
        }
        // SAFETY: the mapping does not move with its `Arc`, is unmapped with the last of them, and nothing changes it
        // in place (the word given in `load_parameters`).
        let tensor = unsafe {
            lyceum_torch_shim::tensor_over(
                (Arc::clone(mapped), self.range.clone()),
                |(mapped, range)| &mapped[range.clone()],
                &spec.shape,
                kind,
            )
        }?;
        debug_assert_eq!(tensor.device(), Device::Cpu);
        Ok(tensor.f_to_device(placement.device)?.f_to_kind(placement.kind)?)
    }
}

fn map(path: &Path) -> Result<Mmap, ModelError> {
    let file = File::open(path).map_err(|e| ModelError::io(path, e))?;
    // SAFETY: nobody shortens a published checkpoint while it is read (the word asked for in `load_parameters`); its
    // bytes are checked as untrusted input.
    unsafe { Mmap::map(&file) }.map_err(|e| ModelError::io(path, e))
}

/// The safetensors files of a directory, in a fixed order.
fn files(directory: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let single = directory.join("model.safetensors");
    let index = directory.join("model.safetensors.index.json");
    if single.exists() || !index.exists() {
        return Ok(vec![single]);
    }
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bytes = std::fs::metadata(&index).map_err(|e| ModelError::io(&index, e))?.len();
    if bytes > LARGEST_INDEX_BYTES {
        return Err(ModelError::file(&index, format!("{bytes} bytes are too many for a list of shards")));
    }
    let text = std::fs::read_to_string(&index).map_err(|e| ModelError::io(&index, e))?;
    let parsed: Index = serde_json::from_str(&text).map_err(|e| ModelError::file(&index, e.to_string()))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    names
        .into_iter()
        .map(|name| {
            let plain = Path::new(&name).file_name().is_some_and(|file| file == name.as_str());
            if plain {
                Ok(directory.join(name))
            } else {
                Err(ModelError::file(&index, format!("shard {name:?} is not a file name in this directory")))
            }
        })
        .collect()
}
