//! Reads a Hugging Face directory and writes it again: `cargo run -p lyceum-model --example convert -- IN OUT [bf16]`.

use std::path::Path;

use anyhow::{Context, Result};
use lyceum_model::{Placement, StoredKind, load_directory, save_directory};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, target, rest @ ..] = arguments.as_slice() else {
        anyhow::bail!("expected: convert IN OUT [bf16]");
    };
    let kind = if rest.first().is_some_and(|kind| kind == "bf16") {
        StoredKind::BFloat16
    } else {
        StoredKind::Float
    };
    let source = Path::new(source);
    let (config, parameters) = load_directory(source, &Placement::reference())?;
    let tokenizer = source.join("tokenizer.json");
    save_directory(
        target.as_ref(),
        &config,
        &parameters,
        kind,
        tokenizer.exists().then_some(tokenizer.as_path()),
    )
    .with_context(|| format!("writing {target}"))
}
