//! What the trainer relies on: the walk by blocks is the model, and its gradients are autograd's.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod common;

use common::{model, small_config, small_parameters};
use lyceum_model::{IGNORED_LABEL, Llama, LlamaConfig, Parameters, initial_parameters};
use tch::{Kind, Tensor, no_grad};

/// Leaves that require gradients, cut out of one flat buffer as a trainer does.
fn flat_leaves(config: &LlamaConfig, parameters: &Parameters) -> (Tensor, Parameters) {
    let total = config.parameter_count();
    let flat = Tensor::zeros([total], tch::kind::FLOAT_CPU);
    let mut offset = 0;
    let mut leaves = Parameters::new();
    for spec in config.groups().into_iter().flat_map(|group| group.parameters) {
        let view = no_grad(|| {
            let mut view = flat.narrow(0, offset, spec.elements()).view(spec.shape.as_slice());
            view.copy_(&parameters[&spec.name]);
            view.detach()
        });
        offset += spec.elements();
        leaves.insert(spec.name, view.set_requires_grad(true));
    }
    assert_eq!(offset, total);
    (flat, leaves)
}

fn batch() -> (Tensor, Tensor) {
    let ids = Tensor::arange(20, (Kind::Int64, tch::Device::Cpu)).view([2, 10]).g_mul_scalar(7).remainder(50);
    let labels = ids.roll([-1], [1]);
    let _ = labels.narrow(1, 8, 2).fill_(IGNORED_LABEL);
    (ids, labels)
}

/// All gradients of the loss by one call of autograd, by name.
fn whole_gradients(llama: &Llama, leaves: &Parameters, ids: &Tensor, labels: &Tensor) -> Parameters {
    let loss = llama.head_loss_sum(&llama.hidden(ids).unwrap(), labels).unwrap();
    let inputs: Vec<&Tensor> = leaves.values().collect();
    let gradients = Tensor::run_backward(&[loss], &inputs, false, false);
    leaves.keys().cloned().zip(gradients).collect()
}

fn assert_near(found: &Tensor, expected: &Tensor, what: &str) {
    let difference = (found - expected).abs().max().double_value(&[]);
    assert!(difference < 1e-4, "{what} differs by {difference}");
}

#[test]
fn each_parameter_is_in_one_group_with_the_decayed_ones_first() {
    for tied in [true, false] {
        let groups = small_config(tied).groups();
        let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["embed", "block.0", "block.1", "head"]);
        let mut seen = std::collections::BTreeSet::new();
        for group in &groups {
            assert!(group.parameters.is_sorted_by_key(|spec| !spec.decay), "{}", group.name);
            assert!(group.parameters.iter().all(|spec| seen.insert(spec.name.clone())), "{}", group.name);
        }
        assert_eq!(groups[3].shared.len(), usize::from(tied));
        assert_eq!(small_config(tied).parameter_count(), 50 * 16 * if tied { 1 } else { 2 } + 16 + 2 * 1952);
    }
}

#[test]
fn the_walk_by_blocks_gives_autograds_gradients_for_all_parameters() {
    for tied in [true, false] {
        let (_flat, leaves) = flat_leaves(&small_config(tied), &small_parameters(tied));
        let llama = model(small_config(tied), &leaves);
        let (ids, labels) = batch();
        let expected = whole_gradients(&llama, &leaves, &ids, &labels);

        let groups = small_config(tied).groups();
        let positions = llama.positions(10).unwrap();
        let mut found = Parameters::new();
        let mut add = |name: &str, gradient: &Tensor| {
            let sum = found.remove(name).map_or(gradient.shallow_clone(), |sum: Tensor| sum + gradient);
            found.insert(name.to_owned(), sum);
        };
        // Forward keeps each block's input only.
        let mut inputs = vec![no_grad(|| llama.embed(&ids).unwrap())];
        for index in 0..2 {
            inputs.push(no_grad(|| llama.block(index, &inputs[index], &positions).unwrap()));
        }
        let head = &groups[3];
        let names: Vec<&str> =
            head.parameters.iter().chain(&head.shared).map(|spec| spec.name.as_str()).collect();
        let (loss, mut gradient) = llama
            .head_backward(&inputs[2], &labels, 1.0, |index, gradient| {
                add(names[index], gradient);
                Ok(())
            })
            .unwrap();
        let plain = no_grad(|| llama.head_loss_sum(&inputs[2], &labels).unwrap());
        assert_near(&loss, &plain, "loss");
        for index in (0..2).rev() {
            let input = inputs[index].detach().set_requires_grad(true);
            let output = llama.block(index, &input, &positions).unwrap();
            let names: Vec<&str> =
                groups[index + 1].parameters.iter().map(|spec| spec.name.as_str()).collect();
            let wanted: Vec<&Tensor> =
                std::iter::once(&input).chain(names.iter().map(|name| &leaves[*name])).collect();
            let mut gradients =
                Tensor::run_backward(&[output * &gradient], &wanted, false, false).into_iter();
            gradient = gradients.next().unwrap();
            names.iter().zip(gradients).for_each(|(name, gradient)| add(name, &gradient));
        }
        let output = llama.embed(&ids).unwrap() * &gradient;
        let embedding = groups[0].parameters[0].name.as_str();
        add(embedding, &Tensor::run_backward(&[output], &[&leaves[embedding]], false, false)[0]);

        assert!(found.keys().eq(expected.keys()));
        for (name, expected) in &expected {
            assert_near(&found[name], expected, name);
        }
    }
}

#[test]
fn a_step_on_the_flat_buffer_changes_the_model() {
    let (mut flat, leaves) = flat_leaves(&small_config(true), &small_parameters(true));
    let llama = model(small_config(true), &leaves);
    let (ids, _) = batch();
    let run = || no_grad(|| llama.logits(&llama.hidden(&ids).unwrap()).unwrap());
    let before = run();
    no_grad(|| {
        let _ = flat.g_mul_scalar_(0.5);
    });
    assert!((run() - before).abs().max().double_value(&[]) > 1e-3);
}

#[test]
fn logits_too_many_to_hold_at_once_are_taken_in_chunks_with_the_same_result() {
    tch::set_num_threads(1);
    // 2^20 tokens in the vocabulary: 16 rows of logits at once, 20 rows in all.
    let mut config = small_config(false);
    (config.vocabulary, config.hidden) = (1 << 20, 4);
    let mut parameters = initial_parameters(&config, 3).unwrap();
    for tensor in parameters.values_mut() {
        *tensor = tensor.set_requires_grad(true);
    }
    let llama = model(config.clone(), &parameters);
    let hidden = Tensor::from_slice(&(0..80).map(|i| (i as f32).sin()).collect::<Vec<_>>()).view([2, 10, 4]);
    let labels = Tensor::arange(20, (Kind::Int64, tch::Device::Cpu)).view([2, 10]) * 52_000;
    let mut calls = 0;
    let mut head_gradient = Tensor::zeros([1 << 20, 4], tch::kind::FLOAT_CPU);
    let (loss, gradient) = llama
        .head_backward(&hidden, &labels, 0.25, |index, gradient| {
            calls += 1;
            if index == 0 {
                let _ = head_gradient.g_add_(gradient);
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(calls, 2 * 2);

    let leaf = hidden.set_requires_grad(true);
    let logits = llama.logits(&leaf).unwrap().view([20, -1]);
    let expected =
        logits.cross_entropy_loss(&labels.view([20]), None::<&Tensor>, tch::Reduction::Sum, -100, 0.0);
    let scaled = &expected * 0.25;
    let gradients = Tensor::run_backward(&[scaled], &[&leaf, &parameters["lm_head.weight"]], false, false);
    assert!((loss.double_value(&[]) - expected.double_value(&[])).abs() < 1e-2, "{loss} is not {expected}");
    assert_near(&gradient, &gradients[0], "gradient of the hidden states");
    assert_near(&head_gradient, &gradients[1], "gradient of the head");
    assert_near(&no_grad(|| llama.head_loss_sum(&leaf, &labels).unwrap()), &loss, "loss without gradients");
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let llama = model(small_config(true), &small_parameters(true));
    let (ids, labels) = batch();
    let hidden = no_grad(|| llama.hidden(&ids).unwrap());
    assert!(llama.positions(0).is_err() && llama.positions(33).is_err());
    assert!(llama.hidden(&(&ids + 50)).is_err());
    assert!(llama.block(2, &hidden, &llama.positions(10).unwrap()).is_err());
    assert!(llama.block(0, &hidden, &llama.positions(9).unwrap()).is_err());
    assert!(llama.head_loss_sum(&hidden, &labels.narrow(1, 0, 9)).is_err());
    assert!(llama.head_loss_sum(&hidden, &labels.to_kind(Kind::Int)).is_err());
    assert!(llama.head_loss_sum(&hidden, &(&labels + 50)).is_err());
    assert!(
        llama.head_backward(&hidden, &labels, 1.0, |_, _| Ok(())).is_err(),
        "no parameter requires gradients"
    );
}

#[test]
fn parameters_of_another_shape_or_kind_are_refused_by_name() {
    let config = small_config(true);
    let with = |name: &str, tensor: Option<Tensor>| {
        let mut parameters = small_parameters(true);
        match tensor {
            Some(tensor) => parameters.insert(name.into(), tensor),
            None => parameters.remove(name),
        };
        Llama::from_parameters(config.clone(), |name| parameters.remove(name)).unwrap_err().to_string()
    };
    let norm = "model.layers.1.input_layernorm.weight";
    assert_eq!(with(norm, None), format!("parameter {norm}: is missing"));
    let short = Tensor::ones([15], tch::kind::FLOAT_CPU);
    assert_eq!(with(norm, Some(short)), format!("parameter {norm}: has shape [15], expected [16]"));
    let double = Tensor::ones([16], tch::kind::DOUBLE_CPU);
    assert!(with(norm, Some(double)).contains("Double"));
}

#[test]
fn the_same_seed_draws_the_same_weights_and_norms_are_one() {
    let config = small_config(false);
    let (first, again, other) =
        (small_parameters(false), small_parameters(false), initial_parameters(&config, 12).unwrap());
    for (name, tensor) in &first {
        assert_eq!(*tensor, again[name], "{name}");
        if name.contains("norm") {
            assert_eq!(tensor.min().double_value(&[]), 1.0);
        } else {
            assert_ne!(*tensor, other[name], "{name}");
        }
    }
    let drawn = &first["model.embed_tokens.weight"];
    assert!((drawn.std(true).double_value(&[]) - 0.2).abs() < 0.02);
    assert!(drawn.mean(Kind::Float).double_value(&[]).abs() < 0.03);
}
