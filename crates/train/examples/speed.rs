//! Tokens per second of the train step, on a GPU where there is one.
//!
//! `cargo run -p lyceum-train --example speed -- [bf16|fp32] [STEPS] [SHAPE] [ROWSxLENGTH]`
//!
//! A shape is `7m` (256 wide, 4 layers, vocabulary 8192: what `docs/performance.md` compares with transformers on
//! processors) or `8b/LAYERS`, Llama 3's 8B cut to that many of its 32 layers. `speed_transformers.py` beside this file
//! takes the same arguments.

use std::collections::HashMap;
use std::time::Instant;

use lyceum_model::{LlamaConfig, Placement};
use lyceum_train::{Batch, Precision, Row, Trainer, TrainerConfig, solo_communicator};
use tch::{Device, Kind, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    lyceum_train::keep_freed_memory();
    let placement = Placement::choose()?;
    let mut arguments = std::env::args().skip(1);
    let precision = match arguments.next().as_deref() {
        Some("fp32") => Precision::Fp32,
        None | Some("bf16") => Precision::Bf16,
        Some(other) => return Err(format!("no precision `{other}`: bf16, fp32").into()),
    };
    let steps: usize = arguments.next().map_or(Ok(40), |steps| steps.parse())?;
    if steps == 0 {
        return Err("0 steps: at least 1".into());
    }
    let shape = arguments.next().unwrap_or_else(|| "7m".to_owned());
    let size = arguments.next().unwrap_or_else(|| "4x256".to_owned());
    let (rows, length) = size.split_once('x').ok_or("ROWSxLENGTH, as in 4x256")?;
    let (row_count, length): (usize, usize) = (rows.parse()?, length.parse()?);

    let model = LlamaConfig::from_json(&configuration(&shape)?)?;
    let (count, vocabulary) = (model.parameter_count(), model.vocabulary);
    let mut trainer = trainer(model, precision, &placement)?;

    let mut state = 1u64;
    let tokens: Vec<i64> = (0..row_count * length + 1)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as i64 % vocabulary
        })
        .collect();
    let rows: Vec<Row<'_>> = (0..row_count)
        .map(|row| Row {
            inputs: &tokens[row * length..][..length],
            labels: &tokens[row * length + 1..][..length],
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
    let speed = |second: f64| (row_count * length) as f64 / second;
    println!(
        "{shape} {size}: {count} parameters, {precision:?}, {:?}, {} threads: median {:.0} tokens/s, best {:.0} tokens/s",
        placement.device,
        tch::get_num_threads(),
        speed(seconds[steps / 2]),
        speed(seconds[0])
    );
    if let Device::Cuda(index) = placement.device {
        println!("{:?}", lyceum_torch_shim::device_memory(index)?);
    }
    Ok(())
}

/// The `config.json` of a shape.
fn configuration(shape: &str) -> Result<String, Box<dyn std::error::Error>> {
    let (layers, sizes) = match shape.split_once('/') {
        None if shape == "7m" => (
            4,
            r#""vocab_size": 8192, "hidden_size": 256, "intermediate_size": 688, "num_attention_heads": 8,
               "num_key_value_heads": 4, "max_position_embeddings": 512"#,
        ),
        Some(("8b", layers)) => (
            layers.parse()?,
            r#""vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
               "num_key_value_heads": 8, "max_position_embeddings": 8192, "rope_theta": 500000.0"#,
        ),
        _ => return Err(format!("no shape `{shape}`: 7m, 8b/LAYERS").into()),
    };
    Ok(format!(
        r#"{{"model_type": "llama", "num_hidden_layers": {layers}, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": false, {sizes}}}"#
    ))
}

/// A trainer of random weights, made where they are to lie, each when the trainer takes it.
fn trainer(
    model: LlamaConfig,
    precision: Precision,
    placement: &Placement,
) -> Result<Trainer, Box<dyn std::error::Error>> {
    tch::manual_seed(1);
    let shapes: HashMap<String, Vec<i64>> = model
        .groups()
        .into_iter()
        .flat_map(|group| group.parameters)
        .map(|parameter| (parameter.name, parameter.shape))
        .collect();
    let config = TrainerConfig { precision, warmup_steps: 10, ..TrainerConfig::default() };
    let communicator = Box::new(solo_communicator(placement.device, 0));
    let weights = |name: &str| {
        let shape = shapes.get(name)?;
        Some(Tensor::randn(shape.as_slice(), (Kind::Float, placement.device)) * 0.02)
    };
    Ok(Trainer::new(config, model, weights, communicator)?)
}
