//! On a GPU: the one binary finds it, model and batches lie there, and the numbers are those of the CPU to rounding.
//!
//! Without a GPU these tests say so and pass. On a machine with one, beside a Python environment that has torch 2.11.0:
//!
//! ```text
//! export LYCEUM_TORCH_LIB=$(python3 -c "import torch, os; print(os.path.join(os.path.dirname(torch.__file__), 'lib'))")
//! cargo test -p lyceum-train --test cuda -- --nocapture
//! ```
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::OnceLock;
use std::time::Duration;

use lyceum_collective::{Communicator, Element, Gang, Member, Operation, Token, form};
use lyceum_model::Placement;
use lyceum_train::checkpoint::CheckpointDirectory;
use lyceum_train::evaluate::{held_out_loss, log_likelihood};
use lyceum_train::{OwnedRow, Precision, Trainer, TrainerConfig, memory_of, solo_communicator};
use support::{config, rows, solo, train, trainer};
use tch::{Device, Kind, Tensor};

const PATIENCE: Duration = Duration::from_secs(60);

/// The GPU, if there is one. CUDA is loaded before this process's first tensor.
fn gpu() -> Option<Device> {
    static PLACEMENT: OnceLock<Device> = OnceLock::new();
    let device = *PLACEMENT.get_or_init(|| Placement::choose().unwrap().device);
    if !device.is_cuda() {
        println!("skipped: no GPU");
    }
    device.is_cuda().then_some(device)
}

fn on(device: Device, config: TrainerConfig) -> Trainer {
    trainer(config, Box::new(solo_communicator(device, 0)))
}

/// Ranks over NCCL, one a GPU.
fn gang(world: usize) -> Gang {
    let members = (0..world).map(|rank| Member {
        node: "here".into(),
        incarnation: rank as u64,
        addr: None,
        device: Some(rank as u32),
        trusted_interface: None,
    });
    Gang { epoch: 1, members: members.collect(), token: Token::random().unwrap() }
}

/// NCCL with one rank: the whole way, on one GPU.
fn nccl(device: Device) -> Box<dyn Communicator> {
    form(&gang(1), 0, None, Some(memory_of(device)), PATIENCE).unwrap()
}

fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
    let near = |(found, expected): (&f64, &f64)| (found - expected).abs() <= tolerance * expected.abs();
    assert!(found.iter().zip(expected).all(near), "{found:?} for {expected:?}");
}

#[test]
fn a_trainer_on_a_gpu_keeps_its_model_there_and_has_the_losses_of_the_cpu() {
    let Some(device) = gpu() else { return };
    let expected = train(&mut solo(config()), 0..12, 6);
    for activation_checkpointing in [false, true] {
        let mut trainer = on(device, TrainerConfig { activation_checkpointing, ..config() });
        assert_eq!(trainer.llama().device(), device);
        assert_near(&train(&mut trainer, 0..12, 6), &expected, 1e-3);
    }
    let mut trainer = on(device, TrainerConfig { precision: Precision::Auto, ..config() });
    assert_eq!(trainer.llama().kind(), Kind::BFloat16);
    assert_near(&train(&mut trainer, 0..12, 6), &expected, 0.03);
}

#[test]
fn a_rank_over_nccl_has_the_losses_of_one_without() {
    let Some(device) = gpu() else { return };
    let expected = train(&mut on(device, config()), 0..8, 4);
    assert_near(&train(&mut trainer(config(), nccl(device)), 0..8, 4), &expected, 1e-3);
}

#[test]
fn l5_two_ranks_on_two_gpus_have_the_losses_of_one() {
    let Some(device) = gpu() else { return };
    if tch::Cuda::device_count() < 2 {
        return println!("skipped: one GPU");
    }
    let expected = train(&mut on(device, config()), 0..12, 6);
    let gang = gang(2);
    std::thread::scope(|scope| {
        let gang = &gang;
        let ranks = [0, 1].map(|rank| {
            scope.spawn(move || {
                let memory = memory_of(Device::Cuda(rank));
                let ranks = form(gang, rank, None, Some(memory), PATIENCE).unwrap();
                train(&mut trainer(config(), ranks), 0..12, 6)
            })
        });
        for losses in ranks {
            assert_near(&losses.join().unwrap(), &expected, 1e-3);
        }
    });
}

#[test]
fn nccl_waits_for_what_libtorch_has_put_on_the_default_stream() {
    let Some(device) = gpu() else { return };
    let mut ranks = nccl(device);
    for round in 1..20 {
        let buffer = ranks.allocate(4 << 20).unwrap();
        // SAFETY: device memory of the buffer, which lives until the operation has given it back.
        let mut view =
            unsafe { Tensor::f_from_blob(buffer.as_ptr(), &[1 << 20], &[], Kind::Float, device).unwrap() };
        // Long enough to be under way still when the operation begins.
        let busy = Tensor::ones([2048, 2048], (Kind::Float, device));
        let product = (0..4).fold(busy.shallow_clone(), |product, _| product.matmul(&busy) / 2048.0);
        view.copy_(&(product.mean(Kind::Float) * f64::from(round)).expand([1 << 20], false));
        let buffer = ranks.run(Operation::AllReduce(Element::F32), buffer, PATIENCE).unwrap();
        assert_eq!(view.min().double_value(&[]), f64::from(round));
        assert_eq!(view.max().double_value(&[]), f64::from(round));
        drop(buffer);
    }
    ranks.barrier(PATIENCE).unwrap();
}

#[test]
fn a_checkpoint_from_a_gpu_goes_on_there_and_on_the_cpu() {
    let Some(device) = gpu() else { return };
    let temporary = tempfile::tempdir().unwrap();
    let directory = CheckpointDirectory::claim(temporary.path(), 1, 2).unwrap();
    let mut trainer = on(device, config());
    train(&mut trainer, 0..4, 4);
    trainer.save_checkpoint(&directory, None).unwrap();
    let expected = train(&mut trainer, 4..8, 4);
    for device in [device, Device::Cpu] {
        let checkpoint = directory.newest().unwrap().unwrap();
        let alone = Box::new(solo_communicator(device, 0));
        let mut resumed = Trainer::resume(config(), &checkpoint, alone).unwrap();
        assert_near(&train(&mut resumed, 4..8, 4), &expected, 1e-3);
    }
}

#[test]
fn a_model_on_a_gpu_is_measured_as_on_the_cpu() {
    let Some(device) = gpu() else { return };
    let (here, there) = (on(device, config()), solo(config()));
    let rows = rows(3, 3);
    let rows: Vec<_> = rows.iter().map(OwnedRow::as_row).collect();
    let loss = |trainer: &Trainer| held_out_loss(trainer.llama(), &rows).unwrap().loss;
    assert_near(&[loss(&here)], &[loss(&there)], 1e-4);
    let likelihood = |trainer: &Trainer| log_likelihood(trainer.llama(), &[1, 2, 3], &[4, 5]).unwrap();
    assert_near(&[likelihood(&here)], &[likelihood(&there)], 1e-4);
}
