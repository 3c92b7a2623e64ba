//! A model as a Hugging Face directory that `transformers` loads.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, View};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::{LlamaConfig, ModelError, ParameterSpec, Parameters};

/// How weights are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredKind {
    /// Half the bytes, eight bits of mantissa.
    BFloat16,
    /// Exact.
    Float,
}

/// Writes `config.json`, `generation_config.json`, `model.safetensors` and a copy of `tokenizer` (a `tokenizer.json`)
/// to `directory`, with the `tokenizer_config.json` and `special_tokens_map.json` that lie beside `tokenizer`; where there
/// is no `tokenizer_config.json`, one is written that names the tokens of `config`. Either all of it is there afterwards
/// or what was there before: it is written beside, synced, and renamed into place.
///
/// # Errors
/// A parameter of `config` is missing or of another shape; `tokenizer` is not a `tokenizer.json`; the disk refuses.
pub fn save_directory(
    directory: &Path,
    config: &LlamaConfig,
    parameters: &Parameters,
    kind: StoredKind,
    tokenizer: Option<&Path>,
) -> Result<(), ModelError> {
    let name = directory
        .file_name()
        .ok_or_else(|| ModelError::file(directory, "has no last part to name a model's directory by"))?;
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|e| ModelError::io(parent, e))?;
    let beside =
        |suffix: &str| parent.join(format!(".{}.{suffix}.{}", name.to_string_lossy(), std::process::id()));
    let (new, old) = (beside("new"), beside("old"));
    let written = write_all(&new, config, parameters, kind, tokenizer)
        .and_then(|()| replace(directory, &new, &old))
        .and_then(|()| sync(parent));
    if written.is_err() {
        // What is left of the attempt; the error that matters is the one above.
        let _ = fs::remove_dir_all(&new);
    }
    written
}

fn write_all(
    directory: &Path,
    config: &LlamaConfig,
    parameters: &Parameters,
    kind: StoredKind,
    tokenizer: Option<&Path>,
) -> Result<(), ModelError> {
    if directory.exists() {
        fs::remove_dir_all(directory).map_err(|e| ModelError::io(directory, e))?;
    }
    fs::create_dir(directory).map_err(|e| ModelError::io(directory, e))?;
    let torch_dtype = match kind {
        StoredKind::BFloat16 => "bfloat16",
        StoredKind::Float => "float32",
    };
    let config_path = directory.join("config.json");
    write(&config_path, &config.to_json(torch_dtype))?;
    let generation = serde_json::json!({ "bos_token_id": config.bos, "eos_token_id": config.eos });
    write(&directory.join("generation_config.json"), &format!("{generation:#}\n"))?;
    if let Some(tokenizer) = tokenizer {
        save_tokenizer(directory, config, tokenizer)?;
    }
    let views: Vec<(String, Stored)> = config
        .groups()
        .into_iter()
        .flat_map(|group| group.parameters)
        .map(|spec| Ok((spec.name.clone(), Stored::new(&spec, parameters, kind)?)))
        .collect::<Result<_, ModelError>>()?;
    let path = directory.join("model.safetensors");
    let format = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(format), &path)
        .map_err(|e| ModelError::file(&path, e.to_string()))?;
    // It comes from a temporary file, which only its owner may read; the rest of the directory is as the umask says.
    fs::metadata(&config_path)
        .and_then(|siblings| fs::set_permissions(&path, siblings.permissions()))
        .map_err(|e| ModelError::io(&path, e))?;
    sync(&path)?;
    sync(directory)
}

/// Copies `tokenizer` and what `transformers` reads with it.
fn save_tokenizer(directory: &Path, config: &LlamaConfig, tokenizer: &Path) -> Result<(), ModelError> {
    let copy = directory.join("tokenizer.json");
    fs::copy(tokenizer, &copy).map_err(|e| ModelError::io(tokenizer, e))?;
    sync(&copy)?;
    copy_from_beside(tokenizer, directory, "special_tokens_map.json")?;
    if !copy_from_beside(tokenizer, directory, "tokenizer_config.json")? {
        write(&directory.join("tokenizer_config.json"), &tokenizer_config(config, tokenizer)?)?;
    }
    Ok(())
}

/// Copies the file `name` that lies beside `tokenizer`; false where there is none.
fn copy_from_beside(tokenizer: &Path, directory: &Path, name: &str) -> Result<bool, ModelError> {
    let (from, to) = (tokenizer.with_file_name(name), directory.join(name));
    match fs::copy(&from, &to) {
        Ok(_) => sync(&to).map(|()| true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ModelError::io(&from, error)),
    }
}

/// A `tokenizer_config.json`: without one `AutoTokenizer` knows of no beginning and no end, for a `tokenizer.json` does
/// not say which of its tokens they are.
fn tokenizer_config(config: &LlamaConfig, tokenizer: &Path) -> Result<String, ModelError> {
    let bytes = fs::read(tokenizer).map_err(|e| ModelError::io(tokenizer, e))?;
    let described: TokenizerJson =
        serde_json::from_slice(&bytes).map_err(|e| ModelError::file(tokenizer, e.to_string()))?;
    let text = |id: u32| {
        described.added_tokens.iter().find(|token| token.id == id).map(|token| token.content.as_str())
    };
    let mut value = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_positions,
        "clean_up_tokenization_spaces": false,
    });
    // Only one end has a place here; generation_config.json names all of them.
    for (key, id) in [("bos_token", config.bos), ("eos_token", config.eos.first().copied())] {
        if let Some(text) = id.and_then(text) {
            value[key] = text.into();
        }
    }
    Ok(format!("{value:#}\n"))
}

/// What a `tokenizer_config.json` needs of a `tokenizer.json`.
#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// Puts `new` at `directory`, by way of `old` where something is there.
fn replace(directory: &Path, new: &Path, old: &Path) -> Result<(), ModelError> {
    let rename = |from: &Path, to: &Path| fs::rename(from, to).map_err(|e| ModelError::io(to, e));
    if !directory.exists() {
        return rename(new, directory);
    }
    rename(directory, old)?;
    if let Err(error) = rename(new, directory) {
        rename(old, directory)?;
        return Err(error);
    }
    fs::remove_dir_all(old).map_err(|e| ModelError::io(old, e))
}

fn write(path: &PathBuf, text: &str) -> Result<(), ModelError> {
    fs::write(path, text).map_err(|e| ModelError::io(path, e))?;
    sync(path)
}

fn sync(path: &Path) -> Result<(), ModelError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| ModelError::io(path, e))
}

/// A parameter on its way to the file: converted and brought to the CPU when its turn comes, one at a time.
struct Stored {
    tensor: Tensor,
    shape: Vec<usize>,
    kind: StoredKind,
}

impl Stored {
    fn new(spec: &ParameterSpec, parameters: &Parameters, kind: StoredKind) -> Result<Self, ModelError> {
        let tensor =
            parameters.get(&spec.name).ok_or_else(|| ModelError::parameter(&spec.name, "is missing"))?;
        let shape = tensor.size();
        if shape != spec.shape {
            return Err(ModelError::parameter(
                &spec.name,
                format!("has shape {shape:?}, expected {:?}", spec.shape),
            ));
        }
        let shape = shape.iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
        Ok(Self { tensor: tensor.shallow_clone(), shape, kind })
    }

    fn torch_kind(&self) -> Kind {
        match self.kind {
            StoredKind::BFloat16 => Kind::BFloat16,
            StoredKind::Float => Kind::Float,
        }
    }
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        match self.kind {
            StoredKind::BFloat16 => Dtype::BF16,
            StoredKind::Float => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        let mut bytes = vec![0; self.data_len()];
        let stored = self.tensor.detach().to_device(Device::Cpu).to_kind(self.torch_kind()).contiguous();
        stored.copy_data_u8(&mut bytes, stored.numel());
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.torch_kind().elt_size_in_bytes()
    }
}
