//! What a checkpoint promises.
#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, path::Path};

use lyceum_collective::SoloCommunicator;
use lyceum_train::{
    Precision, Trainer, TrainerConfig,
    checkpoint::{Checkpoint, CheckpointDirectory, CheckpointError},
    local::LocalJob,
};
use support::{config, rows, solo, train, trainer, world};

fn resume(path: &Path, config: TrainerConfig) -> Trainer {
    tch::set_num_threads(1);
    let checkpoint = Checkpoint::open(path).unwrap();
    Trainer::resume(config, &checkpoint, Box::new(SoloCommunicator::new())).unwrap()
}

#[test]
fn l5_a_resumed_run_has_the_losses_of_an_uninterrupted_one_bit_for_bit() {
    for precision in [Precision::Fp32, Precision::Bf16] {
        let config = TrainerConfig { precision, ..config() };
        let temporary = tempfile::tempdir().unwrap();
        let directory = CheckpointDirectory::claim(temporary.path(), 0, 2).unwrap();
        let mut uninterrupted = solo(config.clone());
        train(&mut uninterrupted, 0..5, 4);
        let path = uninterrupted.save_checkpoint(&directory, None).unwrap();
        let expected = train(&mut uninterrupted, 5..12, 4);
        let mut resumed = resume(&path, config);
        assert_eq!((resumed.progress().step, resumed.progress().log_position), (5, 5));
        assert_eq!(train(&mut resumed, 5..12, 4), expected, "{precision:?}");
    }
}

#[test]
fn l5_a_checkpoint_of_two_ranks_is_resumed_by_two_bit_for_bit_and_by_one_or_three_to_rounding() {
    let temporary = tempfile::tempdir().unwrap();
    CheckpointDirectory::claim(temporary.path(), 0, 2).unwrap();
    let expected = world(2, |ranks| {
        let mut trainer = trainer(config(), ranks);
        train(&mut trainer, 0..4, 4);
        trainer.save_checkpoint(&CheckpointDirectory::of(temporary.path(), 0, 2), None).unwrap();
        train(&mut trainer, 4..8, 4)
    });
    for size in [2, 1, 3] {
        let losses = world(size, |ranks| {
            tch::set_num_threads(1);
            let newest = CheckpointDirectory::of(temporary.path(), 0, 2).newest().unwrap().unwrap();
            train(&mut Trainer::resume(config(), &newest, ranks).unwrap(), 4..8, 4)
        });
        if size == 2 {
            assert_eq!(losses, expected);
        }
        for (a, b) in losses[0].iter().zip(&expected[0]) {
            assert!((a - b).abs() < 1e-4 * b, "{size} ranks: {losses:?} for {expected:?}");
        }
    }
}

#[test]
fn the_model_in_a_checkpoint_is_a_hugging_face_directory() {
    let temporary = tempfile::tempdir().unwrap();
    let tokenizer = temporary.path().join("tokenizer.json");
    fs::write(&tokenizer, "{}").unwrap();
    let directory = CheckpointDirectory::claim(&temporary.path().join("run"), 0, 2).unwrap();
    let mut trainer = solo(config());
    train(&mut trainer, 0..2, 2);
    let path = trainer.save_checkpoint(&directory, Some(&tokenizer)).unwrap();
    let model = Checkpoint::open(&path).unwrap().model_directory();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        assert!(model.join(file).exists(), "{file}");
    }
    let placement = lyceum_model::Placement::reference();
    let (config, parameters) = lyceum_model::load_directory(&model, &placement).unwrap();
    assert_eq!(config, support::model());
    let llama = lyceum_model::Llama::from_parameters(config, |name| {
        parameters.get(name).map(tch::Tensor::shallow_clone)
    })
    .unwrap();
    let ids = tch::Tensor::from_slice(&[1i64, 2, 3]).view([1, 3]);
    let _no_grad = tch::no_grad_guard();
    assert_eq!(llama.hidden(&ids).unwrap(), trainer.llama().hidden(&ids).unwrap());
}

/// Every file below `path`, relative to it.
fn files(path: &Path) -> Vec<String> {
    let mut names = vec!["manifest".to_owned()];
    for directory in ["optimizer", "model"] {
        for entry in fs::read_dir(path.join(directory)).unwrap() {
            names.push(format!("{directory}/{}", entry.unwrap().file_name().into_string().unwrap()));
        }
    }
    names
}

#[test]
fn a_cut_changed_or_missing_file_is_refused_by_name() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = CheckpointDirectory::claim(temporary.path(), 0, 2).unwrap();
    let path = solo(config()).save_checkpoint(&directory, None).unwrap();
    let load = || -> Result<(), String> {
        let checkpoint = Checkpoint::open(&path).map_err(|error| error.to_string())?;
        Trainer::resume(config(), &checkpoint, Box::new(SoloCommunicator::new()))
            .map(drop)
            .map_err(|error| error.to_string())
    };
    load().unwrap();
    for name in files(&path) {
        let file = path.join(&name);
        let whole = fs::read(&file).unwrap();
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        for damage in [Some(&whole[..whole.len() - 1]), Some(&changed[..]), Some(&[][..]), None] {
            match damage {
                Some(bytes) => fs::write(&file, bytes).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            let error = load().unwrap_err();
            assert!(error.contains(&name), "{name}: {error}");
        }
        fs::write(&file, &whole).unwrap();
    }
    load().unwrap();
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = CheckpointDirectory::claim(temporary.path(), 0, 2).unwrap();
    let mut trainer = solo(config());
    train(&mut trainer, 0..1, 1);
    let path = trainer.save_checkpoint(&directory, None).unwrap();
    // A manifest that claims two ranks: its shards would be of other sizes.
    let text = fs::read_to_string(path.join("manifest")).unwrap();
    let json = text.split_once('\n').unwrap().1.replace("\"world_size\": 1", "\"world_size\": 2");
    let header = format!("lyceum-checkpoint 1 {} {:08x}\n", json.len(), crc32fast::hash(json.as_bytes()));
    fs::write(path.join("manifest"), header + &json).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let error = Trainer::resume(config(), &checkpoint, Box::new(SoloCommunicator::new())).err().unwrap();
    assert!(error.to_string().contains("of another model"), "{error}");
}

#[test]
fn a_trainer_of_an_older_epoch_cannot_commit() {
    let temporary = tempfile::tempdir().unwrap();
    let old = CheckpointDirectory::claim(temporary.path(), 1, 2).unwrap();
    let mut zombie = solo(config());
    CheckpointDirectory::claim(temporary.path(), 2, 2).unwrap();
    let error = zombie.save_checkpoint(&old, None).unwrap_err();
    let lyceum_train::TrainError::Checkpoint(error) = error else { panic!("{error}") };
    assert!(matches!(error, CheckpointError::StaleEpoch { newest: 2, own: 1, .. }), "{error}");
}

#[test]
fn l5_a_local_run_that_is_broken_off_goes_on_to_the_same_losses() {
    tch::set_num_threads(1);
    let run = |directory: &Path, stop_after: usize| {
        let job = LocalJob {
            config: TrainerConfig { total_steps: 9, ..config() },
            model: support::model(),
            device: tch::Device::Cpu,
            directory: directory.to_owned(),
            tokenizer: None,
            checkpoint_every: 4,
            keep: 1,
        };
        let mut losses = Vec::new();
        job.run(
            || Ok(lyceum_model::initial_parameters(&support::model(), 3)?),
            |position| (position..).map(|position| rows(position, 2)),
            |_, step| {
                losses.push(step.report.loss);
                if losses.len() == stop_after {
                    std::ops::ControlFlow::Break(())
                } else {
                    std::ops::ControlFlow::Continue(())
                }
            },
        )
        .unwrap();
        losses
    };
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = run(whole.path(), usize::MAX);
    assert_eq!(expected.len(), 9);
    let losses = [run(parts.path(), 3), run(parts.path(), 2), run(parts.path(), usize::MAX)].concat();
    assert_eq!(losses, expected);
    assert!(run(parts.path(), usize::MAX).is_empty(), "a finished run does nothing");
}
