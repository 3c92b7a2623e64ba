//! Logits equal those of `transformers` on the models that `tests/reference/make.py` made.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod common;

use common::{load, reference};
use lyceum_model::IGNORED_LABEL;
use tch::{Kind, Tensor, no_grad};

/// `(ids, logits)` as `transformers` gave them.
fn expected(name: &str) -> (Tensor, Tensor) {
    let tensors = Tensor::read_safetensors(reference(name).join("reference.safetensors")).unwrap();
    let take = |wanted: &str| tensors.iter().find(|(name, _)| name == wanted).unwrap().1.shallow_clone();
    (take("ids"), take("logits"))
}

fn assert_logits_equal(name: &str) {
    let _no_grad = tch::no_grad_guard();
    let llama = load(name);
    let (ids, expected) = expected(name);
    let logits = llama.logits(&llama.hidden(&ids).unwrap()).unwrap();
    assert_eq!(logits.kind(), Kind::Float);
    let difference = (logits - expected).abs().max().double_value(&[]);
    assert!(difference < 1e-4, "{name}: logits differ by {difference}");
}

#[test]
fn a_tied_llama_with_grouped_queries_equals_transformers() {
    assert_logits_equal("llama-tied");
}

#[test]
fn an_untied_llama_with_as_many_key_heads_equals_transformers() {
    assert_logits_equal("llama-untied");
}

#[test]
fn stretched_rotary_wavelengths_and_a_head_width_of_its_own_equal_transformers() {
    assert_logits_equal("llama-llama3-rope");
}

#[test]
fn mistrals_sliding_window_and_single_key_head_equal_transformers() {
    assert_logits_equal("mistral-window");
}

#[test]
fn a_model_in_shards_equals_transformers() {
    assert_logits_equal("mistral-sharded");
}

#[test]
fn the_heads_loss_is_the_cross_entropy_of_the_reference_logits() {
    let llama = load("llama-tied");
    let (ids, logits) = expected("llama-tied");
    let length = ids.size()[1];
    // Next-token labels, the last position and every fifth ignored.
    let labels = ids.roll([-1], [1]);
    let _ = labels.narrow(1, length - 1, 1).fill_(IGNORED_LABEL);
    let _ = labels.slice(1, 0, length, 5).fill_(IGNORED_LABEL);
    let loss = no_grad(|| llama.head_loss_sum(&llama.hidden(&ids).unwrap(), &labels).unwrap());
    let expected = logits.reshape([-1, 96]).cross_entropy_loss(
        &labels.reshape([-1]),
        None::<&Tensor>,
        tch::Reduction::Sum,
        IGNORED_LABEL,
        0.0,
    );
    let (loss, expected) = (loss.double_value(&[]), expected.double_value(&[]));
    assert!((loss - expected).abs() < 1e-3, "{loss} is not {expected}");
}
