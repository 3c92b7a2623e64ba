//! The conduct of a run: start everybody, watch everybody, scale the synthesizers, tell the end.
//!
//! A role that is lost ends the run with its report, but for synthesizers: their chains go to others (L1), and another is
//! started. Nobody is waited for that could be dead: every wait here is on an answer whose asker is told of a death (L3).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use lyceum_actor::{ActorRef, Cluster};
use lyceum_corpus::chain::Accounts;

use crate::ask::ask;
use crate::board::Board;
use crate::failure::{Failure, root_cause};
use crate::gang::Gang;
use crate::metrics::Metrics;
use crate::packing::Packing;
use crate::pool::{Pool, TOLD_AFTER};
use crate::roles::{
    AccountsBelow, Attach, Attend, Close, Controller, CorpusReader, CorpusReaderArgs, Opened, Packer,
    PackerArgs, PackerState, ReaderState, Settings,
};
use crate::run_directory::RunDirectory;
use crate::run_file::{RunFile, Start};
use crate::summary::{Documents, Pairs, Summary, nothing_trained};

/// How often the pool is looked at.
const TICK: Duration = Duration::from_millis(500);

const PACKER: &str = "the packer";
const READER: &str = "the corpus reader";

/// Conducts the run to its end, or to a [`crate::roles::Stop`], and gives its summary; `None` where it was stopped before
/// there was anything to sum up.
pub async fn conduct(
    settings: Settings,
    board: &Board,
    cluster: &Cluster,
    me: ActorRef<Controller>,
) -> Result<Option<Summary>> {
    let run = settings.run_file()?;
    let started = async {
        let gang = Gang::start(&run, &settings, cluster, me).await?;
        let formed = gang.form(settings.epoch).await?;
        anyhow::Ok((gang, formed))
    };
    let (gang, formed) = tokio::select! {
        started = told(board, started) => started?,
        () = board.until_stopped() => return Ok(None),
    };
    board.set_metrics(
        Metrics::open(Path::new(&settings.directory), formed.step).context("the run's metrics")?,
    );
    if formed.step >= run.trainer.steps {
        // All steps are done: what may be missing is the measure after them.
        let missing = board.with_metrics(|metrics| metrics.progress.heldout.after.is_none()).unwrap_or(false);
        if missing {
            measure_after(&gang, board).await?;
        }
        let records = RunDirectory::at(&settings.directory).records();
        let packing = Packing::open(&run, &records, settings.epoch, formed.log_position)?;
        let accounts = packing.accounts_below(formed.log_position)?;
        ensure_learnt(&run, board)?;
        return summarise(&run, board, accounts, &settings).map(Some);
    }

    let packer = cluster
        .spawn::<Packer>(PackerArgs { settings: settings.clone(), from_position: formed.log_position })
        .named("packer")
        .await
        .map_err(|error| Failure::of_start(PACKER, error))?;
    let recorded = ask(&packer, Opened).await.map_err(|error| Failure::new(PACKER, error))?.sources;
    let reader = cluster
        .spawn::<CorpusReader>(CorpusReaderArgs { settings: settings.clone(), recorded })
        .named("corpus-reader")
        .await
        .map_err(|error| Failure::of_start(READER, error))?;
    ask(&packer, Attach { reader: reader.clone() }).await.map_err(|error| Failure::new(PACKER, error))?;

    let mut pool = Pool::new(&run, &settings, cluster, reader.clone(), packer.clone());
    let course = Course { run: &run, board, gang: &gang, packer: &packer, reader: &reader };
    let accounts = course.follow(&mut pool, formed.step).await?;
    let step = board.with_metrics(|metrics| metrics.step()).unwrap_or(0);
    ensure!(step > 0 || board.stopped(), nothing_trained(&run, &accounts));
    ensure_learnt(&run, board)?;
    summarise(&run, board, accounts, &settings).map(Some)
}

/// An error where the steps that there were have come to nothing, now or in an earlier attempt.
fn ensure_learnt(run: &RunFile, board: &Board) -> Result<()> {
    let Some((step, skipped, last)) =
        board.with_metrics(|metrics| (metrics.step(), metrics.skipped(), metrics.loss().last))
    else {
        return Ok(());
    };
    let directory = run.model.directory.display();
    let doubt = match run.model.start {
        Start::Weights => format!("are the weights in {directory} whole?"),
        Start::Random => format!("is `initializer_range` in {directory}/config.json as it should be?"),
    };
    ensure!(
        step == 0 || skipped < step,
        "none of {step} steps changed the model: each had a gradient that is not finite; {doubt}"
    );
    ensure!(
        last.is_none_or(f64::is_finite),
        "the model has diverged: the losses of its last steps are not finite, {skipped} of {step} steps were skipped; \
         begin again in another folder, with a lower `trainer.learning_rate`"
    );
    Ok(())
}

/// Does `starting`, and lets the board say where to look when that takes long.
async fn told<T>(board: &Board, starting: impl Future<Output = T>) -> T {
    let mut starting = std::pin::pin!(starting);
    if let Ok(started) = tokio::time::timeout(TOLD_AFTER, &mut starting).await {
        return started;
    }
    board.set_note(Some("trainers are still starting: `lyceum status` says who waits for room"));
    let started = starting.await;
    board.set_note(None);
    started
}

/// From the first step to the last.
struct Course<'a> {
    run: &'a RunFile,
    board: &'a Board,
    gang: &'a Gang,
    packer: &'a ActorRef<Packer>,
    reader: &'a ActorRef<CorpusReader>,
}

impl Course<'_> {
    async fn follow(&self, pool: &mut Pool<'_>, begun_at: u64) -> Result<Accounts> {
        let reader = ask(self.reader, Attend).map(|ended| Failure::of_attended(READER, ended)).boxed();
        let packer = ask(self.packer, Attend).map(|ended| Failure::of_attended(PACKER, ended)).boxed();
        let mut attended: FuturesUnordered<_> = [reader, packer].into_iter().collect();
        let mut work = std::pin::pin!(self.train(begun_at));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut closing: Option<BoxFuture<'_, Result<(), Failure>>> = None;
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    let Err(failure) = done else { break };
                    return Err(root_cause(failure, attended).await.into());
                }
                Some(failure) = attended.next() => {
                    let others = work.into_stream().filter_map(|done| std::future::ready(done.err()));
                    return Err(root_cause(failure, others).await.into());
                }
                ended = pool.next_end(), if !pool.is_empty() => pool.take_end(ended, self.board).await?,
                closed = async { closing.as_mut().expect("checked by the guard").await }, if closing.is_some() => {
                    closed?;
                    closing = None;
                }
                () = self.board.until_stopped(), if closing.is_none() && !pool.is_closed() => {
                    pool.close();
                    let packer = self.packer.clone();
                    closing = Some(async move {
                        ask(&packer, Close).await.map(drop).map_err(|error| Failure::new(PACKER, error))
                    }.boxed());
                }
                _ = tick.tick() => self.look(pool).await?,
            }
        }
        // A batch's number is the step that trains it.
        let position = self.board.with_metrics(|metrics| metrics.step()).unwrap_or(0);
        Ok(ask(self.packer, AccountsBelow { position }).await.map_err(|error| Failure::new(PACKER, error))?)
    }

    /// The gang's work: measure, train, measure.
    async fn train(&self, begun_at: u64) -> Result<(), Failure> {
        if begun_at == 0 {
            self.board.set_phase("measuring before");
            let (heldout, choices) = tokio::select! {
                measured = self.gang.evaluate() => measured?,
                () = self.board.until_stopped() => return Ok(()),
            };
            self.board.with_metrics(|metrics| {
                metrics.progress.heldout.before = heldout;
                metrics.progress.multiple_choice.before = choices;
            });
        }
        self.board.set_phase("training");
        let step = self.gang.train(self.packer).await?;
        if !self.board.stopped() || step >= self.run.trainer.steps {
            measure_after(self.gang, self.board).await?;
        }
        self.board.set_phase("done");
        Ok(())
    }

    /// Reads the gauges and scales the pool.
    async fn look(&self, pool: &mut Pool<'_>) -> Result<()> {
        let (packed, read) = tokio::join!(ask(self.packer, PackerState), ask(self.reader, ReaderState));
        // Who has died is told by its own watch, with more to say.
        let (Ok(packed), Ok(read)) = (packed, read) else { return Ok(()) };
        self.board.set_packer(packed.ready, packed.accounts);
        pool.scale(self.board, read.work_left, packed.saturated).await
    }
}

/// Measures after the last step, and notes it.
async fn measure_after(gang: &Gang, board: &Board) -> Result<(), Failure> {
    board.set_phase("measuring after");
    // Who is stopped here measures when the run is taken up again.
    let (heldout, choices) = tokio::select! {
        measured = gang.evaluate() => measured?,
        () = board.until_stopped() => return Ok(()),
    };
    board.with_metrics(|metrics| {
        metrics.progress.heldout.after = heldout;
        metrics.progress.multiple_choice.after = choices;
    });
    Ok(())
}

/// What the run came to; what stays of it beside the steps is written down.
fn summarise(run: &RunFile, board: &Board, accounts: Accounts, settings: &Settings) -> Result<Summary> {
    let newest = || RunDirectory::at(&settings.directory).newest_checkpoint().map(|(_, path)| path);
    let checkpoint = board.checkpoint().or_else(newest);
    board.with_metrics(|metrics| metrics.save_progress()).unwrap_or(Ok(())).context("the run's progress")?;
    board
        .with_metrics(|metrics| Summary {
            steps: metrics.step(),
            steps_skipped: metrics.skipped(),
            tokens: metrics.tokens(),
            documents: Documents {
                read: accounts.read(),
                raw: accounts.raw,
                augmented: accounts.augmented,
                skipped: accounts.skipped,
            },
            pairs: Pairs { kept: accounts.pairs_kept, dropped: accounts.pairs_dropped },
            loss: metrics.loss(),
            heldout: metrics.progress.heldout.clone(),
            multiple_choice: metrics.progress.multiple_choice.clone(),
            tokens_per_second: metrics.tokens_per_second(),
            trainer_wait_share: metrics.wait_share(),
            world_size: run.trainer.world_size,
            synthesizers_peak: metrics.progress.synthesizers_peak,
            restarts: metrics.progress.restarts,
            checkpoint,
        })
        .context("the run has no metrics")
}
