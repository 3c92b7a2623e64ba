//! The conduct of a run: start everybody, watch everybody, scale the synthesizers, tell the end.
//!
//! A role that is lost ends the run with its report, but for synthesizers: their chains go to others (L1), and another is
//! started. Nobody is waited for that could be dead: every wait here is on an answer whose asker is told of a death (L3).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _, try_join_all};
use futures_util::stream::FuturesUnordered;
use lyceum_actor::{Accepts, ActorRef, CallError, Cause, Cluster, ControlError, Message, ReplyOf};
use lyceum_collective::Token;
use lyceum_corpus::chain::Accounts;

use crate::autoscale::{Autoscaler, Decision, Limits, Signal};
use crate::board::Board;
use crate::metrics::Metrics;
use crate::packing::Packing;
use crate::roles::{
    AccountsBelow, Attach, Attend, Close, Controller, CorpusReader, CorpusReaderArgs, Drain, Evaluate,
    Evaluation, Form, Join, Opened, Packer, PackerArgs, PackerState, ReaderState, ReleaseHolder, Settings,
    SynthesisReport, Synthesize, Synthesizer, SynthesizerArgs, Train, Trained, Trainer, TrainerArgs,
};
use crate::run_directory::RunDirectory;
use crate::run_file::RunFile;
use crate::summary::{Documents, Pairs, Summary};

/// How often the pool is looked at.
const TICK: Duration = Duration::from_millis(500);

/// How long a failed rank's error is held back for the death that caused it.
const ROOT_CAUSE_WITHIN: Duration = Duration::from_millis(500);

/// Synthesizers that may die one after the other without any of them having answered a chain.
const FRUITLESS_DEATHS: u32 = 5;

/// The program that hosts what needs libtorch.
const TORCH_PROGRAM: &str = "lyceum-worker";

/// Share of a processor that a torch-free role is given.
const LIGHT: f64 = 0.1;

/// Conducts the run to its end, or to a [`crate::roles::Stop`], and gives its summary.
pub async fn conduct(
    settings: Settings,
    board: &Board,
    cluster: &Cluster,
    me: ActorRef<Controller>,
) -> Result<Summary> {
    let run = settings.run_file()?;
    let gang = Gang::start(&run, &settings, cluster, me).await?;
    let formed = gang.form(settings.epoch).await?;
    board.set_metrics(
        Metrics::open(Path::new(&settings.directory), formed.step).context("the run's metrics")?,
    );
    if formed.step >= run.trainer.steps {
        // All steps are done: what may be missing is the measure after them.
        let missing = board.with_metrics(|metrics| metrics.progress.heldout.after.is_none()).unwrap_or(false);
        if missing {
            gang.measure_after(board).await?;
        }
        let records = RunDirectory::at(&settings.directory).records();
        let packing = Packing::open(&run, &records, settings.epoch, formed.log_position)?;
        return summarise(&run, board, packing.accounts_below(formed.log_position)?, &settings);
    }

    let packer = cluster
        .spawn::<Packer>(PackerArgs { settings: settings.clone(), from_position: formed.log_position })
        .cpus(LIGHT)
        .named("packer")
        .await
        .context("starting the packer")?;
    let recorded = ask(&packer, Opened).await.context("the packer")?.sources;
    let reader = cluster
        .spawn::<CorpusReader>(CorpusReaderArgs {
            settings: settings.clone(),
            packer: packer.clone(),
            recorded,
        })
        .cpus(LIGHT)
        .named("corpus-reader")
        .await
        .context("starting the corpus reader")?;
    ask(&packer, Attach { reader: reader.clone() }).await.context("the packer")?;

    let mut pool = Pool::new(&run, &settings, cluster, reader.clone(), packer.clone());
    let course = Course { run: &run, board, gang: &gang, packer: &packer, reader: &reader };
    let accounts = course.follow(&mut pool, formed.step).await?;
    summarise(&run, board, accounts, &settings)
}

/// Sends `message`; the answer is owned, and errors forget what was asked.
fn ask<R, M>(
    actor: &ActorRef<R>,
    message: M,
) -> impl Future<Output = Result<ReplyOf<R, M>, CallError<()>>> + Send + use<R, M>
where
    R: Accepts<M>,
    M: Message,
{
    let asked = actor.ask(message).into_future();
    async move {
        let answer = asked.await.map_err(CallError::erase)?;
        answer.read().map_err(|error| CallError::Failed(vec![error.to_string()]))
    }
}

/// A gang's beginning: the step and batch that come next.
struct Beginning {
    step: u64,
    log_position: u64,
}

/// The trainers, in rank order.
struct Gang {
    trainers: Vec<ActorRef<Trainer>>,
}

impl Gang {
    async fn start(
        run: &RunFile,
        settings: &Settings,
        cluster: &Cluster,
        controller: ActorRef<Controller>,
    ) -> Result<Self> {
        let trainers = (0..run.trainer.world_size).map(|number| {
            let args = TrainerArgs { settings: settings.clone(), controller: controller.clone() };
            let spawn = cluster
                .spawn::<Trainer>(args)
                .program(TORCH_PROGRAM)
                .cpus(run.trainer.cpus)
                .gpus(run.trainer.gpus)
                .named(&format!("trainer-{number}"));
            async move { spawn.await.with_context(|| format!("starting trainer {number}")) }
        });
        let mut trainers = try_join_all(trainers).await?;
        // Ranks of one node follow one another, so that they reduce in its memory first.
        trainers.sort_by_key(|trainer| trainer.address().process.node.clone());
        Ok(Self { trainers })
    }

    /// Makes the ranks known to each other and has them load what they go on from.
    async fn form(&self, epoch: u64) -> Result<Beginning> {
        let members = self.all("joining the gang", |_, trainer| ask(trainer, Join)).await?;
        let gang =
            lyceum_collective::Gang { epoch, members, token: Token::random().context("the gang's token")? };
        let formed = self
            .all("forming the gang", |rank, trainer| ask(trainer, Form { gang: gang.clone(), rank }))
            .await?;
        let first = formed.first().context("a gang has at least one rank")?;
        for (rank, other) in formed.iter().enumerate() {
            if (other.step, other.log_position) != (first.step, first.log_position) {
                let (here, there) = (other.step, first.step);
                bail!(
                    "trainer {rank} begins at step {here}, trainer 0 at step {there}: they read different checkpoints"
                );
            }
        }
        Ok(Beginning { step: first.step, log_position: first.log_position })
    }

    /// Asks every rank the same; the first that fails is named.
    async fn all<T, F>(&self, doing: &str, ask: impl Fn(u32, &ActorRef<Trainer>) -> F) -> Result<Vec<T>>
    where
        F: Future<Output = Result<T, CallError<()>>>,
    {
        let asks = (0..).zip(&self.trainers).map(|(rank, trainer)| {
            let answer = ask(rank, trainer);
            async move { answer.await.with_context(|| format!("trainer {rank}, {doing}")) }
        });
        try_join_all(asks).await
    }

    /// Measures after the last step, and writes it down.
    async fn measure_after(&self, board: &Board) -> Result<()> {
        board.set_phase("measuring after");
        let (heldout, choices) = self.evaluate().await?;
        let saved = board.with_metrics(|metrics| {
            metrics.progress.heldout.after = heldout;
            metrics.progress.multiple_choice.after = choices;
            metrics.save_progress()
        });
        saved.unwrap_or(Ok(())).context("the run's progress")
    }

    /// The means over all ranks' shares.
    async fn evaluate(&self) -> Result<(Option<f64>, Option<f64>)> {
        let shares = self.all("measuring", |_, trainer| ask(trainer, Evaluate)).await?;
        let sum = shares.iter().fold(Evaluation::default(), |sum, share| Evaluation {
            heldout_loss: sum.heldout_loss + share.heldout_loss,
            heldout_tokens: sum.heldout_tokens + share.heldout_tokens,
            choices_right: sum.choices_right + share.choices_right,
            choices: sum.choices + share.choices,
        });
        let mean = |total: f64, count: u64| (count > 0).then(|| total / count as f64);
        Ok((mean(sum.heldout_loss, sum.heldout_tokens), mean(sum.choices_right as f64, sum.choices)))
    }
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
        let mut reader_lost = std::pin::pin!(ask(self.reader, Attend));
        let mut packer_lost = std::pin::pin!(ask(self.packer, Attend));
        let mut work = std::pin::pin!(self.train(begun_at));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut closing: Option<BoxFuture<'_, Result<()>>> = None;
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    let Err(error) = done else { break };
                    // A trainer that lost its packer fails too, perhaps first: who died is named before who noticed.
                    tokio::select! {
                        lost = &mut reader_lost => bail!("the corpus reader: {}", told(lost)),
                        lost = &mut packer_lost => bail!("the packer: {}", told(lost)),
                        () = tokio::time::sleep(ROOT_CAUSE_WITHIN) => return Err(error),
                    }
                }
                lost = &mut reader_lost => bail!("the corpus reader: {}", told(lost)),
                lost = &mut packer_lost => bail!("the packer: {}", told(lost)),
                ended = pool.next_end(), if !pool.is_empty() => pool.take_end(ended, self.board).await?,
                closed = async { closing.as_mut().expect("checked by the guard").await }, if closing.is_some() => {
                    closed?;
                    closing = None;
                }
                () = self.board.until_stopped(), if closing.is_none() && !pool.closed => {
                    pool.closed = true;
                    let packer = self.packer.clone();
                    closing = Some(async move {
                        ask(&packer, Close).await.context("closing the packer")?;
                        Ok(())
                    }.boxed());
                }
                _ = tick.tick() => self.look(pool).await?,
            }
        }
        // A batch's number is the step that trains it.
        let position = self.board.with_metrics(|metrics| metrics.step()).unwrap_or(0);
        ask(self.packer, AccountsBelow { position }).await.context("the packer's accounts")
    }

    /// The gang's work: measure, train, measure.
    async fn train(&self, begun_at: u64) -> Result<()> {
        if begun_at == 0 {
            self.board.set_phase("measuring before");
            let (heldout, choices) = self.gang.evaluate().await?;
            self.board.with_metrics(|metrics| {
                metrics.progress.heldout.before = heldout;
                metrics.progress.multiple_choice.before = choices;
            });
        }
        self.board.set_phase("training");
        let trained: Vec<Trained> = self
            .gang
            .all("training", |_, trainer| ask(trainer, Train { packer: self.packer.clone() }))
            .await?;
        let step = trained.first().map_or(0, |trained| trained.step);
        if !self.board.stopped() || step >= self.run.trainer.steps {
            self.gang.measure_after(self.board).await?;
        }
        self.board.set_phase("done");
        Ok(())
    }

    /// Reads the gauges and scales the pool.
    async fn look(&self, pool: &mut Pool<'_>) -> Result<()> {
        let (packed, read) = tokio::try_join!(ask(self.packer, PackerState), ask(self.reader, ReaderState),)
            // Who has died is told by its own watch, with more to say.
            .or_else(|error| if error.death().is_some() { Ok(Default::default()) } else { Err(error) })?;
        self.board.set_packer(packed.ready, packed.accounts);
        pool.scale(self.board, read.work_left, packed.saturated).await
    }
}

/// What a watch that ended says.
fn told(lost: Result<(), CallError<()>>) -> String {
    match lost {
        Ok(()) => "it ended by itself".into(),
        Err(error) => error.to_string(),
    }
}

type Started = Result<ActorRef<Synthesizer>, ControlError>;

type End = (u64, Result<SynthesisReport, CallError<()>>);

/// The elastic pool of synthesizers.
struct Pool<'a> {
    settings: &'a Settings,
    run: &'a RunFile,
    cluster: &'a Cluster,
    reader: ActorRef<CorpusReader>,
    packer: ActorRef<Packer>,
    present: BTreeMap<u64, ActorRef<Synthesizer>>,
    draining: BTreeMap<u64, ActorRef<Synthesizer>>,
    work: FuturesUnordered<BoxFuture<'static, End>>,
    starting: FuturesUnordered<BoxFuture<'static, Started>>,
    autoscaler: Autoscaler,
    begun: Instant,
    fruitless: u32,
    records_at_death: u64,
    closed: bool,
}

/// What ended in the pool.
enum Ended {
    Started(Started),
    Stopped(End),
}

impl<'a> Pool<'a> {
    fn new(
        run: &'a RunFile,
        settings: &'a Settings,
        cluster: &'a Cluster,
        reader: ActorRef<CorpusReader>,
        packer: ActorRef<Packer>,
    ) -> Self {
        Self {
            settings,
            run,
            cluster,
            reader,
            packer,
            present: BTreeMap::new(),
            draining: BTreeMap::new(),
            work: FuturesUnordered::new(),
            starting: FuturesUnordered::new(),
            autoscaler: Autoscaler::default(),
            begun: Instant::now(),
            fruitless: 0,
            records_at_death: 0,
            closed: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.work.is_empty() && self.starting.is_empty()
    }

    fn count(&self) -> u32 {
        (self.present.len() + self.starting.len()) as u32
    }

    async fn next_end(&mut self) -> Ended {
        tokio::select! {
            Some(started) = self.starting.next() => Ended::Started(started),
            Some(stopped) = self.work.next() => Ended::Stopped(stopped),
            else => std::future::pending().await,
        }
    }

    async fn take_end(&mut self, ended: Ended, board: &Board) -> Result<()> {
        match ended {
            Ended::Started(Err(ControlError::Died(report))) if was_killed(&report.cause) => {
                self.take_death(&report, board).await?;
            }
            Ended::Started(started) => {
                let synthesizer = started.context("starting a synthesizer")?;
                let id = synthesizer.address().actor.0;
                let answer = ask(&synthesizer, Synthesize);
                self.work.push(async move { (id, answer.await) }.boxed());
                self.present.insert(id, synthesizer);
            }
            Ended::Stopped((id, outcome)) => {
                let drained = self.draining.remove(&id).is_some();
                self.present.remove(&id);
                match outcome {
                    Ok(report) => {
                        tracing::info!(synthesizer = id, chains = report.chains, "done");
                    }
                    Err(_) if drained => {}
                    // Its last word was lost on the way.
                    Err(error) if error.death().is_some_and(|report| report.cause == Cause::Finished) => {}
                    Err(error) => self.take_death(&error, board).await?,
                }
                // It may still be there when its handler failed; its chains must not wait for it.
                ask(&self.reader, ReleaseHolder { holder: id }).await.context("the corpus reader")?;
            }
        }
        board.set_synthesizers(self.count());
        Ok(())
    }

    /// A synthesizer is lost: the run goes on, unless they all die before they do anything.
    async fn take_death(&mut self, error: &impl std::fmt::Display, board: &Board) -> Result<()> {
        tracing::warn!(%error, "a synthesizer is lost: its chains go to others");
        let recorded = ask(&self.packer, PackerState).await.context("the packer")?.accounts.read();
        self.fruitless = if recorded > self.records_at_death { 1 } else { self.fruitless + 1 };
        self.records_at_death = recorded;
        if self.fruitless >= FRUITLESS_DEATHS {
            bail!(
                "{FRUITLESS_DEATHS} synthesizers were lost in a row and no document was done meanwhile; the last: {error}"
            );
        }
        board.with_metrics(|metrics| metrics.progress.restarts += 1);
        Ok(())
    }

    async fn scale(&mut self, board: &Board, work_left: bool, saturated: bool) -> Result<()> {
        let Some(options) = &self.run.synthesizer else { return Ok(()) };
        let starved = board.take_starved();
        if !self.run.synthesizes() || self.closed {
            return Ok(());
        }
        let signal =
            Signal { now: self.begun.elapsed(), starved, present: self.count(), work_left, saturated };
        match self.autoscaler.decide(signal, &Limits::between(options.min, options.max)) {
            Decision::Keep => {}
            Decision::Add(why) => {
                tracing::info!(why, "one synthesizer more");
                self.add(options.cpus, options.gpus);
            }
            Decision::Remove(why) => {
                if let Some((id, synthesizer)) = self.present.pop_last() {
                    tracing::info!(synthesizer = id, why, "one synthesizer less");
                    // One that died meanwhile is told of by its own watch.
                    _ = synthesizer.tell(Drain).await;
                    self.draining.insert(id, synthesizer);
                }
            }
        }
        board.set_synthesizers(self.count());
        Ok(())
    }

    fn add(&mut self, cpus: f64, gpus: f64) {
        let args = SynthesizerArgs {
            settings: self.settings.clone(),
            reader: self.reader.clone(),
            packer: self.packer.clone(),
        };
        let spawn = self.cluster.spawn::<Synthesizer>(args).program(TORCH_PROGRAM).cpus(cpus).gpus(gpus);
        self.starting.push(spawn.into_future().boxed());
    }
}

/// Whether a process that died while it started may do better when it is started again: not when it said itself what
/// is wrong.
fn was_killed(cause: &Cause) -> bool {
    matches!(cause, Cause::Signal(_) | Cause::Unknown(_))
}

fn summarise(run: &RunFile, board: &Board, accounts: Accounts, settings: &Settings) -> Result<Summary> {
    let checkpoint = board.checkpoint().or_else(|| newest_checkpoint(&RunDirectory::at(&settings.directory)));
    board
        .with_metrics(|metrics| Summary {
            steps: metrics.step(),
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

/// The folder with the highest step, by name.
fn newest_checkpoint(directory: &RunDirectory) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory.checkpoints()).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-")))
        .max()
}
