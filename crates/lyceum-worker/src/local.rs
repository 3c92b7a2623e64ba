//! `lyceum-worker local`: a run without a cluster, one rank in this process, for sources that need no synthesizer. The
//! batches, and on the same machine the losses, are those of the same run on a cluster with one trainer (L5).

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use lyceum_corpus::batch;
use lyceum_model::Placement;
use lyceum_pretrain::feed::Feed;
use lyceum_pretrain::metrics::{Metrics, StepMetrics};
use lyceum_pretrain::run_directory::RunDirectory;
use lyceum_pretrain::run_file::RunFile;
use lyceum_pretrain::summary::nothing_trained;
use lyceum_train::{SealedBatch, keep_freed_memory, solo_communicator};
use rkyv::util::AlignedVec;

use crate::training::{checkpoint_directory, start_trainer, tokenizer_path};

/// Steps between two lines of progress.
const TOLD_EVERY: u64 = 10;

/// Runs `run` in this process, into `out`.
pub fn run(run: &RunFile, out: &Path) -> Result<()> {
    ensure!(
        run.trainer.world_size == 1,
        "trainer.world_size is {}: one process is one rank",
        run.trainer.world_size
    );
    let directory = RunDirectory::at(std::path::absolute(out)?);
    let lock = directory.claim(run)?;
    keep_freed_memory();
    let placement = Placement::choose()?;
    let epoch = lock.epoch();
    let checkpoints = checkpoint_directory(run, &directory.checkpoints(), epoch, 0)?;
    let mut trainer = start_trainer(run, &checkpoints, Box::new(solo_communicator(placement.device, epoch)))?;
    let mut feed = Feed::open(run, &directory.records(), epoch, trainer.progress().log_position)?;
    let mut metrics = Metrics::open(directory.root(), trainer.progress().step)?;
    let tokenizer = tokenizer_path(run);
    let mut saved = trainer.progress().step;
    let mut begun = Instant::now();
    while trainer.progress().step < run.trainer.steps {
        let asked = Instant::now();
        let Some((position, plan)) = feed.next_batch()? else { break };
        let mut memory = AlignedVec::<64>::new();
        memory.resize(batch::encoded_len(&plan)?, 0);
        batch::write(&plan, position, &mut memory)?;
        let waited = asked.elapsed().as_secs_f64();
        let sealed = SealedBatch::open(&memory).context("a batch that was just written")?;
        let report = trainer.step(&sealed.batch())?;
        let step = trainer.progress().step;
        metrics.add(StepMetrics {
            step,
            loss: report.loss,
            gradient_norm: report.gradient_norm,
            learning_rate: report.learning_rate,
            tokens: report.tokens,
            seconds: begun.elapsed().as_secs_f64(),
            waited,
            skipped: !report.committed,
        })?;
        begun = Instant::now();
        if step.is_multiple_of(TOLD_EVERY) {
            println!(
                "step {step} of {}: loss {:.4}, rate {:.2e}, {:.0} tokens a second",
                run.trainer.steps,
                report.loss,
                report.learning_rate,
                metrics.tokens_per_second()
            );
        }
        if step.is_multiple_of(run.checkpoint.every) {
            trainer.save_checkpoint(&checkpoints, Some(&tokenizer))?;
            saved = step;
        }
    }
    ensure!(trainer.progress().step > 0, nothing_trained(run, &feed.accounts()));
    if trainer.progress().step > saved {
        trainer.save_checkpoint(&checkpoints, Some(&tokenizer))?;
    }
    Ok(())
}
