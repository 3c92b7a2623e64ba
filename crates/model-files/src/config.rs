//! `config.json`: what a Llama or Mistral checkpoint says about its own shape.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::ModelFilesError;
use crate::json::read_json;

/// No dimension of a published model comes near this; larger ones are refused before any size is multiplied.
const LARGEST_DIMENSION: i64 = 1 << 24;
/// More layers than any dense decoder has.
const MOST_LAYERS: i64 = 1 << 12;
/// `config.json` files are a few KiB; a larger one is not a configuration.
const LARGEST_CONFIG_BYTES: u64 = 1 << 20;

/// The two architectures, alike but for Mistral's sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelType {
    /// `LlamaForCausalLM`.
    Llama,
    /// `MistralForCausalLM`.
    Mistral,
}

/// How rotary frequencies are stretched beyond the length a model was first trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between them.
    Llama3 {
        /// The stretch of the longest wavelengths.
        factor: f64,
        /// Wavelengths above `original_max_positions / low_frequency_factor` are stretched fully.
        low_frequency_factor: f64,
        /// Wavelengths below `original_max_positions / high_frequency_factor` are left alone.
        high_frequency_factor: f64,
        /// Positions of the first training.
        original_max_positions: i64,
    },
}

/// The shape of a Llama or Mistral model, as Hugging Face's `config.json` gives it. A value of this type is possible:
/// dimensions are positive and bounded, heads divide, numbers are finite.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Which of the two architectures; decides what `transformers` loads a saved directory as.
    pub model_type: ModelType,
    /// Rows of the embedding.
    pub vocabulary: i64,
    /// Width of the residual stream.
    pub hidden: i64,
    /// Width inside the SwiGLU.
    pub intermediate: i64,
    /// Number of blocks.
    pub layers: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; `heads` is a multiple of it.
    pub key_value_heads: i64,
    /// Width of a head, even.
    pub head_dimension: i64,
    /// Positions the model was made for.
    pub max_positions: i64,
    /// Inside the root of RMSNorm.
    pub norm_epsilon: f64,
    /// Base of the rotary wavelengths.
    pub rope_theta: f64,
    /// Stretch of the rotary wavelengths, if any.
    pub rope_scaling: Option<RopeScaling>,
    /// Mistral: a token sees this many tokens, itself included. `None`: all before it.
    pub sliding_window: Option<i64>,
    /// The output head is the embedding.
    pub tied: bool,
    /// Standard deviation of freshly drawn weights.
    pub initializer_range: f64,
    /// Beginning of a sequence.
    pub bos: Option<u32>,
    /// Ends of a sequence: any of these stops generation.
    pub eos: Vec<u32>,
}

impl LlamaConfig {
    /// Reads `config.json` of a Hugging Face directory.
    ///
    /// # Errors
    /// The file is missing, not JSON, or [`LlamaConfig::from_json`] refuses it.
    pub fn load(directory: &Path) -> Result<Self, ModelFilesError> {
        let path = directory.join("config.json");
        let raw: RawConfig = read_json(&path, LARGEST_CONFIG_BYTES)?;
        raw.check().map_err(|reason| ModelFilesError::file(&path, reason))
    }

    /// Parses the text of a `config.json`, of `transformers` 4 (`rope_theta`, `rope_scaling`) or 5
    /// (`rope_parameters`).
    ///
    /// # Errors
    /// Not JSON, a field missing or of a wrong type, another architecture, or a shape that cannot be.
    pub fn from_json(text: &str) -> Result<Self, ModelFilesError> {
        let raw: RawConfig =
            serde_json::from_str(text).map_err(|e| ModelFilesError::Config(e.to_string()))?;
        raw.check().map_err(ModelFilesError::Config)
    }

    /// The text of a `config.json` that `transformers` 4 and 5 read. `torch_dtype` is theirs: `"bfloat16"`, `"float32"`.
    #[must_use]
    pub fn to_json(&self, torch_dtype: &str) -> String {
        let (architecture, model_type) = match self.model_type {
            ModelType::Llama => ("LlamaForCausalLM", "llama"),
            ModelType::Mistral => ("MistralForCausalLM", "mistral"),
        };
        let rope_scaling = self.rope_scaling.map(
            |RopeScaling::Llama3 {
                 factor,
                 low_frequency_factor,
                 high_frequency_factor,
                 original_max_positions,
             }| {
                json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_frequency_factor,
                    "high_freq_factor": high_frequency_factor,
                    "original_max_position_embeddings": original_max_positions,
                })
            },
        );
        let mut value = json!({
            "architectures": [architecture],
            "model_type": model_type,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos,
            "eos_token_id": if let [only] = self.eos[..] { json!(only) } else if self.eos.is_empty() { Value::Null } else { json!(self.eos) },
            "head_dim": self.head_dimension,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.max_positions,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.key_value_heads,
            "rms_norm_eps": self.norm_epsilon,
            "rope_scaling": rope_scaling,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tied,
            "torch_dtype": torch_dtype,
            "vocab_size": self.vocabulary,
        });
        if self.model_type == ModelType::Mistral {
            value["sliding_window"] = json!(self.sliding_window);
        }
        format!("{value:#}\n")
    }

    /// Number of parameters, a tied head counted once.
    #[must_use]
    pub fn parameter_count(&self) -> i64 {
        self.groups().iter().flat_map(|group| &group.parameters).map(crate::ParameterSpec::elements).sum()
    }
}

/// The fields of `config.json` that say something about the mathematics. Others are metadata and are passed over.
#[derive(Deserialize)]
struct RawConfig {
    model_type: String,
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    #[serde(default = "silu")]
    hidden_act: String,
    max_position_embeddings: Option<i64>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    sliding_window: Option<i64>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    initializer_range: Option<f64>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
    quantization_config: Option<Value>,
}

#[derive(Deserialize)]
struct RawRope {
    rope_type: Option<String>,
    /// What `rope_type` was called before, and is beside it in some files.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

fn silu() -> String {
    "silu".to_owned()
}

impl RawConfig {
    /// What is impossible or not supported is told by name and value.
    fn check(self) -> Result<LlamaConfig, String> {
        let model_type = match self.model_type.as_str() {
            "llama" => ModelType::Llama,
            "mistral" => ModelType::Mistral,
            other => {
                return Err(format!(
                    "model_type {other:?} is not supported; expected \"llama\" or \"mistral\""
                ));
            }
        };
        if self.hidden_act != "silu" {
            return Err(format!("hidden_act {:?} is not supported; expected \"silu\"", self.hidden_act));
        }
        if self.attention_bias == Some(true) || self.mlp_bias == Some(true) {
            return Err("attention_bias and mlp_bias are not supported".into());
        }
        if self.quantization_config.is_some_and(|value| !value.is_null()) {
            return Err("quantized weights are not supported; give the bf16 or fp32 checkpoint".into());
        }

        let vocabulary = dimension("vocab_size", self.vocab_size, LARGEST_DIMENSION)?;
        let hidden = dimension("hidden_size", self.hidden_size, LARGEST_DIMENSION)?;
        let intermediate = dimension("intermediate_size", self.intermediate_size, LARGEST_DIMENSION)?;
        let layers = dimension("num_hidden_layers", self.num_hidden_layers, MOST_LAYERS)?;
        let heads = dimension("num_attention_heads", self.num_attention_heads, LARGEST_DIMENSION)?;
        // What `transformers` takes where a file says nothing.
        let (default_positions, default_key_value_heads) = match model_type {
            ModelType::Llama => (2048, heads),
            ModelType::Mistral => (4096 * 32, 8),
        };
        let key_value_heads = dimension(
            "num_key_value_heads",
            self.num_key_value_heads.unwrap_or(default_key_value_heads),
            LARGEST_DIMENSION,
        )?;
        if heads % key_value_heads != 0 {
            return Err(format!(
                "num_attention_heads {heads} is no multiple of num_key_value_heads {key_value_heads}"
            ));
        }
        if self.head_dim.is_none() && hidden % heads != 0 {
            return Err(format!("hidden_size {hidden} is no multiple of num_attention_heads {heads}"));
        }
        let head_dimension = dimension("head_dim", self.head_dim.unwrap_or(hidden / heads), 1 << 12)?;
        if head_dimension % 2 != 0 {
            return Err(format!("head_dim {head_dimension} is odd; rotary embeddings need pairs"));
        }
        if heads * head_dimension > LARGEST_DIMENSION {
            return Err(format!("{heads} heads of {head_dimension} are wider than {LARGEST_DIMENSION}"));
        }
        let max_positions = dimension(
            "max_position_embeddings",
            self.max_position_embeddings.unwrap_or(default_positions),
            LARGEST_DIMENSION,
        )?;
        let sliding_window = match (model_type, self.sliding_window) {
            (ModelType::Mistral, Some(window)) => Some(dimension("sliding_window", window, i64::MAX)?),
            _ => None,
        };

        let theta = self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta).or(self.rope_theta);
        let config = LlamaConfig {
            model_type,
            vocabulary,
            hidden,
            intermediate,
            layers,
            heads,
            key_value_heads,
            head_dimension,
            max_positions,
            norm_epsilon: positive("rms_norm_eps", self.rms_norm_eps.unwrap_or(1e-6))?,
            rope_theta: positive("rope_theta", theta.unwrap_or(10_000.0))?,
            rope_scaling: self
                .rope_parameters
                .filter(RawRope::says_its_type)
                .or(self.rope_scaling)
                .map_or(Ok(None), |rope| rope.check(max_positions))?,
            sliding_window,
            tied: self.tie_word_embeddings.unwrap_or(false),
            initializer_range: positive("initializer_range", self.initializer_range.unwrap_or(0.02))?,
            bos: self.bos_token_id,
            eos: match self.eos_token_id {
                None => Vec::new(),
                Some(OneOrMany::One(id)) => vec![id],
                Some(OneOrMany::Many(ids)) => ids,
            },
        };
        if let Some(id) = config.bos.iter().chain(&config.eos).find(|id| i64::from(**id) >= vocabulary) {
            return Err(format!("special token {id} is outside a vocabulary of {vocabulary}"));
        }
        Ok(config)
    }
}

impl RawRope {
    fn says_its_type(&self) -> bool {
        self.rope_type.is_some() || self.old_type.is_some()
    }

    fn check(self, max_positions: i64) -> Result<Option<RopeScaling>, String> {
        let given = |name: &str, value: Option<f64>| match value {
            Some(value) => positive(name, value),
            None => Err(format!("llama3 rope scaling needs {name}")),
        };
        match self.rope_type.as_deref().or(self.old_type.as_deref()) {
            None | Some("default") => Ok(None),
            Some("llama3") => {
                let low_frequency_factor = given("low_freq_factor", self.low_freq_factor)?;
                let high_frequency_factor = given("high_freq_factor", self.high_freq_factor)?;
                if high_frequency_factor <= low_frequency_factor {
                    return Err(format!(
                        "high_freq_factor {high_frequency_factor} must be above low_freq_factor {low_frequency_factor}"
                    ));
                }
                Ok(Some(RopeScaling::Llama3 {
                    factor: given("factor", self.factor)?,
                    low_frequency_factor,
                    high_frequency_factor,
                    original_max_positions: dimension(
                        "original_max_position_embeddings",
                        self.original_max_position_embeddings.unwrap_or(max_positions),
                        LARGEST_DIMENSION,
                    )?,
                }))
            }
            Some(other) => {
                Err(format!("rope scaling {other:?} is not supported; expected \"default\" or \"llama3\""))
            }
        }
    }
}

fn dimension(name: &str, value: i64, largest: i64) -> Result<i64, String> {
    if (1..=largest).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{name} is {value}; expected 1 to {largest}"))
    }
}

fn positive(name: &str, value: f64) -> Result<f64, String> {
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err(format!("{name} is {value}; expected a positive number"))
    }
}
