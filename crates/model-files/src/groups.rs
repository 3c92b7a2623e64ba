//! The parameters of a model by name, in the groups a trainer walks.

use crate::LlamaConfig;

/// One parameter: what it is called and how large it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Hugging Face's name, `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// `[rows, columns]`, or `[width]` for a norm.
    pub shape: Vec<i64>,
    /// Whether weight decay applies: to matrices, not to norms.
    pub decay: bool,
}

impl ParameterSpec {
    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> i64 {
        self.shape.iter().product()
    }
}

/// The parameters of one step of the walk: the embedding, a block, or the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterGroup {
    /// `embed`, `block.0` .., `head`.
    pub name: String,
    /// The group's own parameters: each parameter of the model is in exactly one group. Those with decay come first,
    /// so that each kind is one range of a flat buffer.
    pub parameters: Vec<ParameterSpec>,
    /// Read by this group's forward but owned by another: the embedding, for a tied head. Its gradient is the sum of
    /// both.
    pub shared: Vec<ParameterSpec>,
}

/// The embedding, and with tied weights the head.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The norm before the head.
pub const FINAL_NORM: &str = "model.norm.weight";
/// The head, where it is not tied.
pub const HEAD: &str = "lm_head.weight";

impl LlamaConfig {
    /// All parameters: group 0 is the embedding, then one group per block, last the head (final norm, and `lm_head`
    /// where it is not tied).
    #[must_use]
    pub fn groups(&self) -> Vec<ParameterGroup> {
        let mut groups = vec![ParameterGroup {
            name: "embed".into(),
            parameters: vec![matrix(EMBEDDING, self.vocabulary, self.hidden)],
            shared: Vec::new(),
        }];
        groups.extend((0..self.layers).map(|layer| ParameterGroup {
            name: format!("block.{layer}"),
            parameters: self.block_parameters(layer),
            shared: Vec::new(),
        }));
        let (head, shared) =
            if self.tied { (None, groups[0].parameters.clone()) } else { (Some(HEAD), Vec::new()) };
        let mut parameters: Vec<_> =
            head.map(|name| matrix(name, self.vocabulary, self.hidden)).into_iter().collect();
        parameters.push(norm(FINAL_NORM, self.hidden));
        groups.push(ParameterGroup { name: "head".into(), parameters, shared });
        groups
    }

    /// Block `layer`: q, k, v, o, gate, up, down, then its two norms.
    fn block_parameters(&self, layer: i64) -> Vec<ParameterSpec> {
        let (queries, keys) = (self.heads * self.head_dimension, self.key_value_heads * self.head_dimension);
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        vec![
            matrix(&name("self_attn.q_proj"), queries, self.hidden),
            matrix(&name("self_attn.k_proj"), keys, self.hidden),
            matrix(&name("self_attn.v_proj"), keys, self.hidden),
            matrix(&name("self_attn.o_proj"), self.hidden, queries),
            matrix(&name("mlp.gate_proj"), self.intermediate, self.hidden),
            matrix(&name("mlp.up_proj"), self.intermediate, self.hidden),
            matrix(&name("mlp.down_proj"), self.hidden, self.intermediate),
            norm(&name("input_layernorm"), self.hidden),
            norm(&name("post_attention_layernorm"), self.hidden),
        ]
    }
}

fn matrix(name: &str, rows: i64, columns: i64) -> ParameterSpec {
    ParameterSpec { name: name.to_owned(), shape: vec![rows, columns], decay: true }
}

fn norm(name: &str, width: i64) -> ParameterSpec {
    ParameterSpec { name: name.to_owned(), shape: vec![width], decay: false }
}
