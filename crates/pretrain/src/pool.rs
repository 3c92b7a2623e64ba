//! The elastic pool of synthesizers: who is there, who starts, who is lost, and whether another is needed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use lyceum_actor::{ActorRef, CallError, Cause, Cluster, ControlError};

use crate::ask::ask;
use crate::autoscale::{Autoscaler, Decision, Limits, Signal};
use crate::board::Board;
use crate::failure::Failure;
use crate::roles::{
    CorpusReader, Drain, Packer, PackerState, ReleaseHolder, Settings, SynthesisReport, Synthesize,
    Synthesizer, SynthesizerArgs,
};
use crate::run_file::RunFile;

/// Synthesizers that may die one after the other without a chain recorded between them.
const FRUITLESS_DEATHS: u32 = 5;

/// How long a start may take until a person is told where to look.
pub(crate) const TOLD_AFTER: Duration = Duration::from_secs(5);

type Started = Result<ActorRef<Synthesizer>, ControlError>;

type End = (u64, Result<SynthesisReport, CallError<()>>);

/// The elastic pool of synthesizers.
pub struct Pool<'a> {
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
    deaths: Deaths,
    /// Deaths for which no other synthesizer has been asked for yet.
    to_replace: u32,
    closed: bool,
    /// When nobody was starting last.
    all_started: Instant,
}

/// What ended in the pool.
pub enum Ended {
    /// The start of a synthesizer.
    Started(Started),
    /// The work of one.
    Stopped(End),
}

/// Deaths in a row with nothing done between them.
#[derive(Debug, Default)]
struct Deaths {
    fruitless: u32,
    converted: u64,
}

impl Deaths {
    /// One more death, when so many chains of synthesizers were recorded in all; returns whether it is one too many.
    fn add(&mut self, converted: u64) -> bool {
        self.fruitless = if converted > self.converted { 1 } else { self.fruitless + 1 };
        self.converted = converted;
        self.fruitless >= FRUITLESS_DEATHS
    }
}

impl<'a> Pool<'a> {
    /// An empty pool.
    pub fn new(
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
            deaths: Deaths::default(),
            to_replace: 0,
            closed: false,
            all_started: Instant::now(),
        }
    }

    /// Whether nobody works or starts.
    pub fn is_empty(&self) -> bool {
        self.work.is_empty() && self.starting.is_empty()
    }

    /// Nobody is added any more.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether nobody is added any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn count(&self) -> u32 {
        (self.present.len() + self.starting.len()) as u32
    }

    /// Waits until something ends in it.
    pub async fn next_end(&mut self) -> Ended {
        tokio::select! {
            Some(started) = self.starting.next() => Ended::Started(started),
            Some(stopped) = self.work.next() => Ended::Stopped(stopped),
            else => std::future::pending().await,
        }
    }

    /// Draws the consequences of what ended.
    pub async fn take_end(&mut self, ended: Ended, board: &Board) -> Result<()> {
        match ended {
            Ended::Started(Err(ControlError::Died(report))) if was_killed(&report.cause) => {
                self.take_death(&report).await?;
            }
            Ended::Started(started) => {
                let synthesizer = started.map_err(|error| Failure::of_start("a synthesizer", error))?;
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
                    Err(error) => self.take_death(&error).await?,
                }
                // It may still be there when its handler failed; its chains must not wait for it.
                ask(&self.reader, ReleaseHolder { holder: id })
                    .await
                    .map_err(|error| Failure::new("the corpus reader", error))?;
            }
        }
        board.set_synthesizers(self.present.len() as u32);
        Ok(())
    }

    /// A synthesizer is lost: the run goes on, unless they all die before they do anything.
    async fn take_death(&mut self, error: &impl std::fmt::Display) -> Result<()> {
        tracing::warn!(%error, "a synthesizer is lost: its chains go to others");
        let state =
            ask(&self.packer, PackerState).await.map_err(|error| Failure::new("the packer", error))?;
        if self.deaths.add(state.converted) {
            bail!(
                "{FRUITLESS_DEATHS} synthesizers were lost in a row and no chain was done meanwhile; the last: {error}"
            );
        }
        self.to_replace += 1;
        Ok(())
    }

    /// Adds or drains a synthesizer, if it is time.
    pub async fn scale(&mut self, board: &Board, work_left: bool, saturated: bool) -> Result<()> {
        let Some(options) = &self.run.synthesizer else { return Ok(()) };
        if self.starting.is_empty() {
            self.all_started = Instant::now();
        }
        let long = self.all_started.elapsed() > TOLD_AFTER && self.present.len() < options.min as usize;
        board.set_note(
            long.then_some("a synthesizer is still starting: `lyceum status` says whether it waits for room"),
        );
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
                // Also one that is killed before it has started was started again.
                if self.to_replace > 0 {
                    self.to_replace -= 1;
                    board.with_metrics(|metrics| metrics.progress.restarts += 1);
                }
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
        board.set_synthesizers(self.present.len() as u32);
        Ok(())
    }

    fn add(&mut self, cpus: f64, gpus: f64) {
        let args = SynthesizerArgs {
            settings: self.settings.clone(),
            reader: self.reader.clone(),
            packer: self.packer.clone(),
        };
        let worker = &self.settings.worker;
        let spawn = self.cluster.spawn::<Synthesizer>(args).program(worker).cpus(cpus).gpus(gpus);
        self.starting.push(spawn.into_future().boxed());
    }
}

/// Whether a process that died while it started may do better when it is started again: not when it said itself what
/// is wrong.
fn was_killed(cause: &Cause) -> bool {
    matches!(cause, Cause::Signal(_) | Cause::Unknown(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_deaths_are_fruitless_only_while_no_chain_is_recorded_between_them() {
        let mut deaths = Deaths::default();
        // However large a batch is: every chain counts when it is recorded, not when it is in a batch.
        for converted in 1..50 {
            assert!(!deaths.add(converted));
        }
        let of_five: Vec<bool> = (0..4).map(|_| deaths.add(49)).collect();
        assert_eq!(of_five, [false, false, false, true]);
    }
}
