//! Tensors over the weights of a Hugging Face directory.
//!
//! Files are mapped, not read: where kind and device are the file's own, a parameter is a view of the mapping.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lyceum_model_files::{StoredTensor, StoredType, WeightFile, Weights};
use memmap2::Mmap;
use tch::{Device, Kind, Tensor};

use crate::{LlamaConfig, ModelError, Placement};

/// Tensors by Hugging Face's names.
pub type Parameters = BTreeMap<String, Tensor>;

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
/// Tensors that are as the file has them lie in its mapping, which is read-only: do not change them in place, and
/// do not change or shorten the file while they live.
///
/// # Errors
/// As [`Weights::open`].
pub fn load_parameters(
    directory: &Path,
    config: &LlamaConfig,
    placement: &Placement,
) -> Result<Parameters, ModelError> {
    let mut parameters = Parameters::new();
    // One file after the other, so that what has gone to a device does not stay mapped.
    for WeightFile { mapped, tensors, .. } in Weights::open(directory, config)?.files {
        for stored in tensors {
            let tensor = tensor(&stored, &mapped, placement)?;
            parameters.insert(stored.parameter.name, tensor);
        }
    }
    Ok(parameters)
}

fn tensor(stored: &StoredTensor, mapped: &Arc<Mmap>, placement: &Placement) -> Result<Tensor, ModelError> {
    let kind = match stored.stored {
        StoredType::F32 => Kind::Float,
        StoredType::BF16 => Kind::BFloat16,
        StoredType::F16 => Kind::Half,
    };
    let (shape, bytes) = (&stored.parameter.shape, &mapped[stored.range.clone()]);
    if !bytes.as_ptr().addr().is_multiple_of(kind.elt_size_in_bytes()) {
        // A header of odd length, which the format allows: this one is copied.
        let copy = Tensor::f_from_data_size(bytes, shape, kind)?;
        return Ok(copy.f_to_device(placement.device)?.f_to_kind(placement.kind)?);
    }
    // SAFETY: the mapping does not move with its `Arc`, is unmapped with the last of them, and nothing changes it
    // in place (the word given in `load_parameters`).
    let tensor = unsafe {
        lyceum_torch_shim::tensor_over(
            (Arc::clone(mapped), stored.range.clone()),
            |(mapped, range)| &mapped[range.clone()],
            shape,
            kind,
        )
    }?;
    debug_assert_eq!(tensor.device(), Device::Cpu);
    Ok(tensor.f_to_device(placement.device)?.f_to_kind(placement.kind)?)
}
