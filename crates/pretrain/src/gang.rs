//! The gang of trainers, as the Controller leads it: every rank is asked the same, and all must answer.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{Stream, StreamExt as _};
use lyceum_actor::{ActorRef, CallError, Cluster, Group};
use lyceum_collective::Token;

use crate::ask::ask;
use crate::failure::{Failure, Fault, root_cause};
use crate::roles::{
    Controller, Evaluate, Evaluation, Form, Join, Packer, Settings, Train, Trained, Trainer, TrainerArgs,
};
use crate::run_file::RunFile;

/// The program that hosts what needs libtorch.
pub(crate) const TORCH_PROGRAM: &str = "lyceum-worker";

/// A gang's beginning: the step and batch that come next.
pub struct Beginning {
    /// Steps that are done.
    pub step: u64,
    /// Number of the batch that comes next.
    pub log_position: u64,
}

/// The trainers, in rank order.
pub struct Gang {
    trainers: Group<Trainer>,
}

impl Gang {
    /// Starts the trainers of a run.
    pub async fn start(
        run: &RunFile,
        settings: &Settings,
        cluster: &Cluster,
        controller: ActorRef<Controller>,
    ) -> Result<Self, Failure> {
        let args = TrainerArgs { settings: settings.clone(), controller };
        // All are placed at once or none is, so that two runs never wait for each other's half; and ranks of one node
        // follow one another, so that they reduce in its memory first.
        let trainers = cluster
            .spawn_gang::<Trainer>((0..run.trainer.world_size).map(|_| args.clone()))
            .program(&settings.worker)
            .cpus(run.trainer.cpus)
            .gpus(run.trainer.gpus)
            .named("trainers")
            .await;
        Ok(Self { trainers: trainers.map_err(|error| Failure::of_start("the trainers", error))? })
    }

    /// Makes the ranks known to each other and has them load what they go on from.
    pub async fn form(&self, epoch: u64) -> Result<Beginning> {
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

    /// Has the ranks train until the last step or the end of data; returns the steps done.
    pub async fn train(&self, packer: &ActorRef<Packer>) -> Result<u64, Failure> {
        let steps = self.all("training", |_, trainer| {
            let trained = ask(trainer, Train { packer: packer.clone() });
            async move {
                match trained.await? {
                    Trained::To(step) => Ok(step),
                    Trained::PeerLost(why) => Err(Fault::PeerLost(why)),
                }
            }
        });
        Ok(steps.await?.first().copied().unwrap_or(0))
    }

    /// Asks every rank the same. Of those that fail, the one is named that the others fail for.
    async fn all<T, F, E>(
        &self,
        doing: &str,
        ask: impl Fn(u32, &ActorRef<Trainer>) -> F,
    ) -> Result<Vec<T>, Failure>
    where
        F: Future<Output = Result<T, E>>,
        E: Into<Fault>,
    {
        let asks = (0..).zip(self.trainers.members()).map(|(rank, trainer)| {
            let answer = ask(rank, trainer);
            let failed = move |error| Failure::new(format!("trainer {rank}, {doing}"), error);
            async move { answer.await.map(|answer| (rank, answer)).map_err(failed) }
        });
        let mut asks: FuturesUnordered<_> = asks.collect();
        let mut answers = BTreeMap::new();
        while let Some(answered) = asks.next().await {
            match answered {
                Ok((rank, answer)) => _ = answers.insert(rank, answer),
                Err(first) => {
                    let others = asks.filter_map(|answered| std::future::ready(answered.err()));
                    return Err(root_cause(first, stream::select(others, self.deaths(doing))).await);
                }
            }
        }
        Ok(answers.into_values().collect())
    }

    /// The deaths of ranks, as they are told. One that fails with its node has often said so before its process is gone:
    /// that its node is lost is the nearer cause.
    fn deaths(&self, doing: &str) -> impl Stream<Item = Failure> {
        let deaths = (0..).zip(self.trainers.members()).map(|(rank, trainer)| {
            let who = format!("trainer {rank}, {doing}");
            async move { Failure::new(who, CallError::Dead(Box::new(trainer.died().await))) }
        });
        deaths.collect::<FuturesUnordered<_>>()
    }

    /// Held-out loss and multiple-choice accuracy: the means over all ranks' shares.
    pub async fn evaluate(&self) -> Result<(Option<f64>, Option<f64>), Failure> {
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
