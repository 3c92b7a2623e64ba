//! What the files of a test say.

use std::fmt;

/// Seed of the corpora, the runs and the kills; a failing test shows it.
pub const SEED: u64 = 20_260_122;

/// A run file. Rows have 64 tokens, batches 4 rows; precision is fp32.
#[derive(Debug, Clone)]
pub struct RunText {
    /// Data-parallel ranks.
    pub world_size: u32,
    /// Optimizer steps.
    pub steps: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// The file of a source that is trained as it is.
    pub raw: Option<&'static str>,
    /// The file of a source that is converted by synthesizers.
    pub converted: Option<&'static str>,
    /// Synthesizers, fewest and most.
    pub synthesizers: (u32, u32),
    /// Held-out documents.
    pub heldout: Option<&'static str>,
    /// Lines for the first source's table.
    pub source_extra: &'static str,
}

impl Default for RunText {
    fn default() -> Self {
        Self {
            world_size: 1,
            steps: 40,
            checkpoint_every: 1000,
            raw: Some("raw.jsonl"),
            converted: Some("converted.jsonl"),
            synthesizers: (1, 1),
            heldout: None,
            source_extra: "",
        }
    }
}

impl fmt::Display for RunText {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "name = \"test\"\nseed = {SEED}\n")?;
        writeln!(out, "[model]\ndirectory = \"model\"\nstart = \"random\"\nprecision = \"fp32\"\n")?;
        let sources = [(self.raw, "raw", 0.0), (self.converted, "converted", 1.0)];
        let mut extra = self.source_extra;
        for (path, name, converted) in sources {
            if let Some(path) = path {
                writeln!(
                    out,
                    "[[source]]\nname = \"{name}\"\npaths = [\"{path}\"]\nconverted = {converted:?}"
                )?;
                writeln!(out, "{}", std::mem::take(&mut extra))?;
            }
        }
        if self.converted.is_some() {
            let (min, max) = self.synthesizers;
            writeln!(out, "[synthesizer]\nengine = \"deterministic\"\nmin = {min}\nmax = {max}")?;
            writeln!(out, "rounds = 2\nmax_new_tokens = 400\nchains_at_once = 2\nwindow = 64\n")?;
        }
        let Self { world_size, steps, checkpoint_every, .. } = self;
        writeln!(out, "[trainer]\nworld_size = {world_size}\nsteps = {steps}\nsequence_length = 64")?;
        writeln!(out, "batch_rows = 4\nlearning_rate = 3e-3\nwarmup_steps = 5\n")?;
        writeln!(out, "[checkpoint]\nevery = {checkpoint_every}\nkeep = 3")?;
        if let Some(path) = self.heldout {
            writeln!(out, "\n[evaluation]\nheldout = \"{path}\"")?;
        }
        Ok(())
    }
}

/// The manifest of a cluster named `cluster`: two nodes, small stores, and quick verdicts.
pub fn manifest(cluster: &str) -> String {
    let node =
        |name| format!("\n[[nodes]]\nname = \"{name}\"\nresources = {{ cpus = 4, memory = \"4 GiB\" }}\n");
    format!(
        "name = \"{cluster}\"\noversubscribe = true\n\n[store]\ncapacity = \"16 MiB\"\nsegment = \"8 MiB\"\n\n\
         [health]\nunreachable = 1.0\nverdict = 3.0\nstop = 3.0\n{}{}",
        node("a"),
        node("b")
    )
}

/// `config.json` of a model of 25,000 parameters.
pub fn model(vocabulary: usize) -> String {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": true,
        "bos_token_id": 0,
        "eos_token_id": 1,
    })
    .to_string()
}
