//! Tokens per second of the 7.1M-parameter model that FACTS measures transformers on: 4 x 256 tokens a step.
//!
//! `cargo run -p lyceum-train --example speed -- [bf16|fp32] [steps]`

use std::time::Instant;

use lyceum_model::{LlamaConfig, Placement, initial_parameters};
use lyceum_train::{Batch, Precision, Row, Trainer, TrainerConfig, solo_communicator};

const ROWS: usize = 4;
const LENGTH: usize = 256;
const VOCABULARY: i64 = 8192;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    lyceum_train::keep_freed_memory();
    let placement = Placement::choose()?;
    let mut arguments = std::env::args().skip(1);
    let precision = match arguments.next().as_deref() {
        Some("fp32") => Precision::Fp32,
        _ => Precision::Bf16,
    };
    let steps: usize = arguments.next().map_or(Ok(40), |steps| steps.parse())?;

    let model = LlamaConfig::from_json(&format!(
        r#"{{"model_type": "llama", "vocab_size": {VOCABULARY}, "hidden_size": 256, "intermediate_size": 688,
            "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
            "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": false}}"#
    ))?;
    let parameters = initial_parameters(&model, 1)?;
    let config = TrainerConfig { precision, warmup_steps: 10, ..TrainerConfig::default() };
    let count = model.parameter_count();
    let communicator = Box::new(solo_communicator(placement.device, 0));
    let mut trainer = Trainer::new(
        config,
        model,
        |name| parameters.get(name).map(tch::Tensor::shallow_clone),
        communicator,
    )?;

    let mut state = 1u64;
    let tokens: Vec<i64> = (0..ROWS * LENGTH + 1)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as i64 % VOCABULARY
        })
        .collect();
    let rows: Vec<Row<'_>> = (0..ROWS)
        .map(|row| Row {
            inputs: &tokens[row * LENGTH..][..LENGTH],
            labels: &tokens[row * LENGTH + 1..][..LENGTH],
        })
        .collect();
    let mut seconds = Vec::new();
    for step in 0..steps {
        let start = Instant::now();
        let report = trainer.step(&Batch::new(step as u64, &rows))?;
        seconds.push(start.elapsed().as_secs_f64());
        if step % 10 == 0 {
            println!("step {step}: loss {:.4}, gradient norm {:.3}", report.loss, report.gradient_norm);
        }
    }
    seconds.sort_by(f64::total_cmp);
    let speed = |second: f64| (ROWS * LENGTH) as f64 / second;
    println!(
        "{count} parameters, {precision:?}, {:?}, {} threads: median {:.0} tokens/s, best {:.0} tokens/s",
        placement.device,
        tch::get_num_threads(),
        speed(seconds[steps / 2]),
        speed(seconds[0])
    );
    Ok(())
}
