//! What a step promises.

mod support;

use lyceum_train::{Batch, OwnedRow, Precision, Row, TrainError, TrainerConfig};
use support::{config, rows, solo, train, trainer, world};

/// The greatest relative difference of two runs' losses.
fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max)
}

#[test]
fn the_loss_falls_when_a_tiny_batch_is_learnt_by_heart_in_both_precisions() {
    for precision in [Precision::Fp32, Precision::Bf16] {
        let mut trainer = solo(TrainerConfig { precision, ..config() });
        let rows = rows(0, 2);
        let rows: Vec<_> = rows.iter().map(OwnedRow::as_row).collect();
        let losses: Vec<f64> =
            (0..40).map(|step| trainer.step(&Batch::new(step, &rows)).unwrap().loss).collect();
        assert!((losses[0] - 64f64.ln()).abs() < 0.7, "{precision:?} starts at {}", losses[0]);
        assert!(losses[39] < 0.4, "{precision:?} ends at {}", losses[39]);
    }
}

#[test]
fn l5_two_ranks_have_the_losses_of_one_on_the_same_batches() {
    let alone = train(&mut solo(config()), 0..12, 6);
    for losses in world(2, |ranks| train(&mut trainer(config(), ranks), 0..12, 6)) {
        assert!(difference(&losses, &alone) < 1e-4, "{losses:?} for {alone:?}");
    }
}

#[test]
fn l5_ranks_with_unequal_shares_or_none_have_the_losses_of_one_too() {
    for (size, count) in [(2, 3), (3, 2)] {
        let alone = train(&mut solo(config()), 0..5, count);
        let all = world(size, |ranks| train(&mut trainer(config(), ranks), 0..5, count));
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "ranks differ: {all:?}");
        assert!(difference(&all[0], &alone) < 1e-4, "{all:?} for {alone:?}");
    }
}

#[test]
fn two_ranks_in_bf16_stay_near_one() {
    let config = || TrainerConfig { precision: Precision::Bf16, ..config() };
    let alone = train(&mut solo(config()), 0..8, 4);
    let all = world(2, |ranks| train(&mut trainer(config(), ranks), 0..8, 4));
    assert!(difference(&all[0], &alone) < 0.02, "{all:?} for {alone:?}");
}

#[test]
fn l5_the_same_run_gives_the_same_bits_and_so_does_one_that_recomputes_its_blocks() {
    for precision in [Precision::Fp32, Precision::Bf16] {
        let config = TrainerConfig { precision, ..config() };
        let losses = train(&mut solo(config.clone()), 0..6, 4);
        assert_eq!(train(&mut solo(config.clone()), 0..6, 4), losses);
        let recomputing = TrainerConfig { activation_checkpointing: true, ..config };
        assert_eq!(train(&mut solo(recomputing), 0..6, 4), losses);
    }
}

#[test]
fn micro_batches_of_any_size_give_the_same_losses() {
    let losses = train(&mut solo(TrainerConfig { micro_batch_rows: 6, ..config() }), 0..8, 6);
    for micro_batch_rows in [1, 4] {
        let others = train(&mut solo(TrainerConfig { micro_batch_rows, ..config() }), 0..8, 6);
        assert!(difference(&others, &losses) < 1e-4, "{micro_batch_rows}: {others:?} for {losses:?}");
    }
}

#[test]
fn labels_without_loss_take_no_part_and_the_loss_is_per_target_token() {
    let mut row = rows(0, 1).remove(0);
    let mut first = solo(config());
    let whole = first.step(&Batch::new(0, &[row.as_row()])).unwrap();
    assert_eq!((whole.target_tokens, whole.tokens), (24, 24));
    row.labels[..12].fill(lyceum_train::IGNORED_LABEL);
    let mut second = solo(config());
    let half = second.step(&Batch::new(0, &[row.as_row()])).unwrap();
    assert_eq!((half.target_tokens, half.tokens), (12, 24));
    assert!((half.loss - whole.loss).abs() < 0.5, "{} and {}", half.loss, whole.loss);
}

#[test]
fn clipping_bounds_what_adamw_sees_but_not_what_is_reported() {
    // AdamW forgets a gradient's scale but for epsilon: with a large one, a clipped step is a shorter step.
    let after = |clip_norm| {
        let config =
            TrainerConfig { clip_norm, epsilon: 1.0, weight_decay: 0.0, warmup_steps: 0, ..config() };
        let mut trainer = solo(TrainerConfig { learning_rate: 0.5, minimum_learning_rate: 0.5, ..config });
        let rows = rows(0, 4);
        let rows: Vec<_> = rows.iter().map(OwnedRow::as_row).collect();
        let first = trainer.step(&Batch::new(0, &rows)).unwrap();
        (first.gradient_norm, first.loss - trainer.step(&Batch::new(1, &rows)).unwrap().loss)
    };
    let ((norm, gain), (same_norm, little_gain)) = (after(0.0), after(0.1));
    assert_eq!(norm, same_norm);
    assert!(norm > 0.2, "{norm}");
    assert!(little_gain > 0.0 && little_gain < 0.5 * gain, "{little_gain} of {gain}");
}

#[test]
fn a_step_with_a_gradient_that_is_not_finite_is_skipped_by_all_ranks_and_counted() {
    let reports = world(2, |ranks| {
        tch::set_num_threads(1);
        let parameters = lyceum_model::initial_parameters(&support::model(), 3).unwrap();
        let parameter = |name: &str| {
            let tensor = parameters.get(name).map(|tensor| tensor.copy());
            if name == "model.embed_tokens.weight" {
                // Only rows that hold the token 63, as input, are lost.
                let _ = tensor.as_ref().map(|tensor| tensor.get(63).fill_(f64::INFINITY));
            }
            tensor
        };
        // Untied, so that the head does not see that token's row.
        let model = lyceum_model::LlamaConfig { tied: false, ..support::model() };
        let head = parameters["model.embed_tokens.weight"].shallow_clone();
        let parameter =
            |name: &str| if name == "lm_head.weight" { Some(head.copy()) } else { parameter(name) };
        let mut trainer = lyceum_train::Trainer::new(config(), model, parameter, ranks).unwrap();
        let good = [1i64; 8];
        let bad = [1i64, 2, 63, 4, 5, 6, 7, 8];
        let row = |inputs| Row { inputs, labels: &good };
        let mut reports = Vec::new();
        for (position, second) in [&good, &bad, &good].into_iter().enumerate() {
            // The second row is rank 1's.
            let report = trainer.step(&Batch::new(position as u64, &[row(&good), row(second)])).unwrap();
            reports.push(report.committed);
        }
        (reports, trainer.progress())
    });
    for (committed, progress) in reports {
        assert_eq!(committed, [true, false, true]);
        assert_eq!((progress.step, progress.updates, progress.skipped), (3, 2, 1));
        assert_eq!(progress.log_position, 3);
    }
}

#[test]
fn l3_ranks_at_different_batches_all_fail_and_say_so() {
    let errors = world(2, |ranks| {
        let position = 7 + ranks.rank() as u64;
        let mut trainer = trainer(config(), ranks);
        let rows = rows(0, 2);
        let rows: Vec<_> = rows.iter().map(OwnedRow::as_row).collect();
        let error = trainer.step(&Batch::new(position, &rows)).unwrap_err();
        let after = trainer.step(&Batch::new(position, &rows)).unwrap_err();
        assert!(matches!(after, TrainError::Failed), "{after}");
        error.to_string()
    });
    assert!(errors.iter().any(|error| error.contains("log position")), "{errors:?}");
}

#[test]
fn l3_a_rank_that_fails_ends_the_wait_of_the_others() {
    let errors = world(2, |ranks| {
        let token = if ranks.rank() == 1 { 999 } else { 1 };
        let row = [token; 8];
        let rows = [Row { inputs: &row, labels: &[1; 8] }; 2];
        trainer(config(), ranks).step(&Batch::new(0, &rows)).unwrap_err().to_string()
    });
    assert!(
        errors[0].contains("rank 1 aborted epoch 0: batch at log position 0: row 0 has token 999"),
        "{errors:?}"
    );
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    let refusal = |config: TrainerConfig| config.check().unwrap_err().to_string();
    assert_eq!(
        refusal(TrainerConfig { beta2: 1.0, ..config() }),
        "trainer setting beta2 is 1: at least 0 and below 1"
    );
    assert!(refusal(TrainerConfig { learning_rate: f64::NAN, ..config() }).contains("learning_rate is NaN"));
    assert!(
        refusal(TrainerConfig { minimum_learning_rate: 1.0, ..config() }).contains("at most learning_rate")
    );
    assert!(refusal(TrainerConfig { micro_batch_rows: 0, ..config() }).contains("micro_batch_rows is 0"));
    TrainerConfig::default().check().unwrap();
}
