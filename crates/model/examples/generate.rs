//! How fast this machine generates: `cargo run -p lyceum-model --example generate -- [directory] [key=value ..]`.
//!
//! Without a directory, random weights of the shape in the project's peer table: 40M parameters, 8 rows, prompts of 64
//! tokens, 64 new. Keys: `rows`, `prompts`, `prompt`, `new`, `threads`, `kind` (`fp32`, `bf16`), `temperature`.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use lyceum_model::generate::{Choice, GenerationLimits, Generator, Request, Stop};
use lyceum_model::{Llama, LlamaConfig, Placement, initial_parameters, load_directory};
use rand::SeedableRng;
use tch::Kind;

const PEER: &str = r#"{"model_type": "llama", "vocab_size": 16384, "hidden_size": 512, "intermediate_size": 1376,
    "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048,
    "tie_word_embeddings": false}"#;

fn main() -> Result<()> {
    let (settings, directories): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|a| a.contains('='));
    let settings: BTreeMap<&str, &str> =
        settings.iter().filter_map(|setting| setting.split_once('=')).collect();
    let number = |key: &str, default: usize| match settings.get(key) {
        Some(text) => text.parse().with_context(|| format!("{key}={text}")),
        None => Ok(default),
    };
    let (rows, prompt, new) = (number("rows", 8)?, number("prompt", 64)?, number("new", 64)?);
    let count = number("prompts", rows)?;
    tch::set_num_threads(number("threads", 2)? as i32);
    let mut placement = Placement::choose()?;
    match settings.get("kind").copied() {
        None => {}
        Some("fp32") => placement.kind = Kind::Float,
        Some("bf16") => placement.kind = Kind::BFloat16,
        Some(other) => bail!("kind={other}; expected fp32 or bf16"),
    }

    let (config, mut parameters) = match directories.first() {
        Some(directory) => load_directory(directory.as_ref(), &placement)?,
        None => {
            let config = LlamaConfig::from_json(PEER)?;
            let mut parameters = initial_parameters(&config, 1)?;
            for tensor in parameters.values_mut() {
                *tensor = tensor.to(placement.device).to_kind(placement.kind);
            }
            (config, parameters)
        }
    };
    println!(
        "{} parameters, {placement:?}, {rows} rows, {count} x ({prompt} + {new}) tokens",
        config.parameter_count()
    );
    let vocabulary = config.vocabulary as u64;
    let llama = Llama::from_parameters(config, |name| parameters.remove(name))?;
    let limits =
        GenerationLimits { rows, cached_tokens: rows * (prompt + new), ..GenerationLimits::default() };
    let mut generator = Generator::new(llama, limits)?;
    let temperature = settings.get("temperature").map_or(Ok(0.0), |text| text.parse::<f32>())?;
    let requests: Vec<Request> = (0..count as u64)
        .map(|i| Request {
            tokens: (0..prompt as u64).map(|j| ((i * 977 + j * 31 + 5) % vocabulary) as u32).collect(),
            max_new_tokens: new,
            choice: if temperature == 0.0 {
                Choice::Greedy
            } else {
                let random = Box::new(SeedableRng::seed_from_u64(i));
                Choice::Sampled { temperature, top_p: 0.95, random }
            },
        })
        .collect();
    for _ in 0..4 {
        let start = Instant::now();
        let made: usize = generator
            .generate(requests.clone(), &Stop::default())?
            .iter()
            .map(|done| done.tokens.len())
            .sum();
        let seconds = start.elapsed().as_secs_f64();
        println!("{made} tokens in {seconds:.3} s: {:.0} tokens/s", made as f64 / seconds);
    }
    Ok(())
}
