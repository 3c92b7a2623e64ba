//! The trainer: its configuration, its state, and the step.

use std::time::Duration;

use lyceum_collective::{Communicator, Location};
use lyceum_model::{Llama, LlamaConfig, ModelFilesError, Placement, Positions};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{
    Batch, Row, Schedule, TrainError,
    adamw::{self, AdamW},
    device,
    flat::FlatGroup,
    layout::GroupLayout,
    parallel::threads,
    vote::{Ballot, Verdict},
    walk::Walk,
};

/// How to train. Every field has a default; all ranks of a world have the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainerConfig {
    /// Learning rate at the end of the warm-up.
    pub learning_rate: f64,
    /// Learning rate at the last step: the cosine's end.
    pub minimum_learning_rate: f64,
    /// Steps over which the learning rate rises linearly.
    pub warmup_steps: u64,
    /// Steps at which the cosine ends, those of the warm-up included.
    pub total_steps: u64,
    /// AdamW: decay of the mean of gradients.
    pub beta1: f64,
    /// AdamW: decay of the mean of squared gradients.
    pub beta2: f64,
    /// AdamW: added to the root of the second moment.
    pub epsilon: f64,
    /// AdamW: decoupled decay of matrices; norms are not decayed.
    pub weight_decay: f64,
    /// Global norm that gradients are scaled down to; 0 to leave them as they are.
    pub clip_norm: f64,
    /// Rows that are computed at once; a rank's share of a batch is accumulated from as many micro-batches as it takes.
    pub micro_batch_rows: usize,
    /// What the model computes in; masters, accumulated gradients and moments are fp32 in any case.
    pub precision: Precision,
    /// Keep only each block's input and compute the block again in the backward: less memory, a third more work.
    pub activation_checkpointing: bool,
    /// Seconds that a rank waits for the others in one collective before the epoch is aborted.
    pub collective_timeout_seconds: u64,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 3e-4,
            minimum_learning_rate: 3e-5,
            warmup_steps: 100,
            total_steps: 1000,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip_norm: 1.0,
            micro_batch_rows: 4,
            precision: Precision::Auto,
            activation_checkpointing: false,
            collective_timeout_seconds: 300,
        }
    }
}

/// What the model's weights and activations are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 where this host multiplies it fast (AVX512-BF16, or a GPU), else fp32. Ranks on unlike hosts need it named.
    #[default]
    Auto,
    /// bfloat16, with fp32 masters.
    Bf16,
    /// Single precision: the weights are the masters.
    Fp32,
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step's number, from 0.
    pub step: u64,
    /// The batch that it trained on.
    pub log_position: u64,
    /// Mean cross-entropy per target token over the global batch, before the update, in nats.
    pub loss: f64,
    /// Labels with loss in the global batch.
    pub target_tokens: u64,
    /// Tokens in the global batch.
    pub tokens: u64,
    /// Norm of the global gradient, before clipping.
    pub gradient_norm: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Whether the ranks committed the update; if not, some rank's gradient was not finite and no parameter changed.
    pub committed: bool,
}

/// How far training has come: what a checkpoint's manifest says and a resumed trainer starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done, skipped ones included.
    pub step: u64,
    /// Updates done: AdamW's *t*.
    pub updates: u64,
    /// Steps that the ranks did not commit.
    pub skipped: u64,
    /// The next position of the batch log.
    pub log_position: u64,
    /// Tokens of all batches so far.
    pub tokens: u64,
}

/// One rank of a world that trains one model, data-parallel, its optimizer sharded (ZeRO-1: each rank holds moments and
/// masters of, and updates, one part of every group; Rajbhandari et al., arXiv 1910.02054).
///
/// All tensor work is on the thread that calls it.
pub struct Trainer {
    pub(crate) config: TrainerConfig,
    pub(crate) communicator: Box<dyn Communicator>,
    pub(crate) llama: Llama,
    /// The embedding, the blocks, the head.
    pub(crate) groups: Vec<FlatGroup>,
    pub(crate) progress: Progress,
    head_parameters: Vec<(usize, usize)>,
    positions: Option<Positions>,
    ballot: Ballot,
    /// Set by the first error: the communicator's epoch is over.
    failed: bool,
}

impl Trainer {
    /// One step: forward and backward of this rank's share of `batch`, gradients reduced while the next block computes,
    /// the vote, the update of this rank's shard, the gather.
    ///
    /// An error ends the epoch for all ranks: build a new trainer from the newest checkpoint.
    pub fn step(&mut self, batch: &Batch<'_>) -> Result<StepReport, TrainError> {
        self.guarded(|trainer| trainer.try_step(batch))
    }

    fn try_step(&mut self, batch: &Batch<'_>) -> Result<StepReport, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let model = self.llama.config();
        batch.check(model.vocabulary, model.max_positions)?;
        let rows = batch.share(self.communicator.rank(), self.communicator.world_size());
        let timeout = self.timeout();

        // Gradients. Those of a block travel as soon as the last micro-batch has added its own.
        let mut losses = Vec::new();
        let mut micro_batches = rows.chunks(self.config.micro_batch_rows).peekable();
        if micro_batches.peek().is_none() {
            for group in self.groups.iter_mut().rev() {
                group.start_reduction(&mut *self.communicator)?;
            }
        }
        while let Some(micro_batch) = micro_batches.next() {
            let last = micro_batches.peek().is_none();
            losses.extend(self.micro_batch(micro_batch, batch, last)?);
        }
        for group in self.groups.iter_mut().rev() {
            group.finish_reduction(&mut *self.communicator, timeout)?;
        }

        // The vote. Whatever the ranks learn of each other here, they add up in rank order.
        let verdict = self.vote(rows, &losses, batch)?;
        let gradient_norm = verdict.squared_norm.sqrt();
        let learning_rate = self.schedule().rate(self.progress.step);

        // The update, and nothing else, changes a parameter.
        if verdict.commit {
            self.update(learning_rate, clip_factor(gradient_norm, self.config.clip_norm))?;
            for group in self.groups.iter_mut() {
                group.start_gather(&mut *self.communicator)?;
            }
            for group in self.groups.iter_mut() {
                group.finish_gather(&mut *self.communicator, timeout)?;
            }
        } else {
            tracing::warn!(
                step = self.progress.step,
                gradient_norm,
                "step skipped: a rank's gradient is not finite"
            );
        }

        let report = StepReport {
            step: self.progress.step,
            log_position: batch.log_position,
            loss: verdict.loss_sum / batch.target_tokens as f64,
            target_tokens: batch.target_tokens,
            tokens: (batch.rows.len() * batch.sequence_length()) as u64,
            gradient_norm,
            learning_rate,
            committed: verdict.commit,
        };
        self.progress.step += 1;
        self.progress.updates += u64::from(report.committed);
        self.progress.skipped += u64::from(!report.committed);
        self.progress.log_position = batch.log_position + 1;
        self.progress.tokens += report.tokens;
        Ok(report)
    }

    /// A trainer at step 0 of the model that `parameter(name)` gives, in any kind. A collective call.
    pub fn new(
        config: TrainerConfig,
        model: LlamaConfig,
        parameter: impl FnMut(&str) -> Option<Tensor>,
        communicator: Box<dyn Communicator>,
    ) -> Result<Self, TrainError> {
        let mut trainer = Self::blank(config, model, communicator)?;
        trainer.set_parameters(parameter)?;
        Ok(trainer)
    }

    /// The model, as of the last update.
    pub fn llama(&self) -> &Llama {
        &self.llama
    }

    /// How far training has come.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// How it trains.
    pub fn config(&self) -> &TrainerConfig {
        &self.config
    }

    /// This rank's place in the world, to hand the trainer's abort to others for instance.
    pub fn communicator(&self) -> &dyn Communicator {
        &*self.communicator
    }

    /// The learning rate's schedule.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            peak: self.config.learning_rate,
            minimum: self.config.minimum_learning_rate,
            warmup_steps: self.config.warmup_steps,
            total_steps: self.config.total_steps,
        }
    }

    /// A trainer whose parameters are all zero.
    pub(crate) fn blank(
        config: TrainerConfig,
        model: LlamaConfig,
        mut communicator: Box<dyn Communicator>,
    ) -> Result<Self, TrainError> {
        config.check()?;
        let specs = model.groups();
        let (rank, world_size) = (communicator.rank(), communicator.world_size());
        let ballot = Ballot::new(&mut *communicator)?;
        let kind = config.precision.kind(ballot.location());
        let groups: Vec<FlatGroup> = specs
            .iter()
            .map(|spec| FlatGroup::new(GroupLayout::new(spec, rank, world_size), kind, &mut *communicator))
            .collect::<Result<_, _>>()?;
        let place = |name: &str| {
            groups.iter().enumerate().find_map(|(group, flat)| {
                flat.layout.parameters.iter().position(|p| p.name == name).map(|index| (group, index))
            })
        };
        let head = specs.last().into_iter().flat_map(|head| head.parameters.iter().chain(&head.shared));
        let head_parameters = head.filter_map(|spec| place(&spec.name)).collect();
        let llama = Llama::from_parameters(model, |name| {
            place(name).map(|(group, index)| groups[group].leaves()[index].shallow_clone())
        })?;
        Ok(Self {
            config,
            communicator,
            llama,
            groups,
            progress: Progress::default(),
            head_parameters,
            positions: None,
            ballot,
            failed: false,
        })
    }

    /// Runs `work`, unless an earlier error has ended the epoch; an error of `work` ends it, for all ranks.
    pub(crate) fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        if self.failed {
            return Err(TrainError::Failed);
        }
        let outcome = work(self);
        if let Err(error) = &outcome {
            self.failed = true;
            self.communicator.abort(&error.to_string());
        }
        outcome
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.config.collective_timeout_seconds)
    }

    fn set_parameters(
        &mut self,
        mut parameter: impl FnMut(&str) -> Option<Tensor>,
    ) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        for group in &mut self.groups {
            group.set_parameters(|name, shape| {
                let missing =
                    |reason: String| TrainError::Model(ModelFilesError::parameter(name, reason).into());
                let tensor = parameter(name).ok_or_else(|| missing("is missing".into()))?;
                if tensor.size() != shape {
                    return Err(missing(format!("has shape {:?}, expected {shape:?}", tensor.size())));
                }
                Ok(tensor)
            })?;
        }
        Ok(())
    }

    fn micro_batch(
        &mut self,
        rows: &[Row<'_>],
        batch: &Batch<'_>,
        last: bool,
    ) -> Result<Vec<Tensor>, TrainError> {
        let length = batch.sequence_length() as i64;
        if self.positions.as_ref().is_none_or(|positions| positions.length() != length) {
            self.positions = Some(self.llama.positions(length)?);
        }
        let Some(positions) = &self.positions else { return Err(TrainError::Failed) };
        let walk = Walk {
            llama: &self.llama,
            positions,
            recompute: self.config.activation_checkpointing,
            scale: 1.0 / batch.target_tokens as f64,
            head_parameters: &self.head_parameters,
        };
        let communicator = &mut self.communicator;
        walk.run(rows, &mut self.groups, |group| {
            if last { group.start_reduction(&mut **communicator) } else { Ok(()) }
        })
    }

    fn vote(
        &mut self,
        rows: &[Row<'_>],
        losses: &[Tensor],
        batch: &Batch<'_>,
    ) -> Result<Verdict, TrainError> {
        // One transfer, where they are on a GPU; added up in the order of the rows.
        let losses = match losses {
            [] => Vec::new(),
            losses => Vec::<f32>::try_from(Tensor::f_stack(losses, 0)?)?,
        };
        let loss_sum = losses.into_iter().map(f64::from).sum();
        let squared_norm = match self.ballot.location() {
            Location::Host => {
                let shards: Vec<_> =
                    self.groups.iter().map(FlatGroup::owned_gradient).collect::<Result<_, _>>()?;
                adamw::sum_of_squares(&shards, threads())
            }
            Location::Cuda(_) => device::sum_of_squares(&self.groups)?,
        };
        let vote = crate::vote::Vote {
            step: self.progress.step,
            log_position: batch.log_position,
            target_tokens: batch.target_tokens,
            own_targets: rows.iter().map(Row::targets).sum(),
            loss_sum,
            squared_norm,
        };
        let timeout = self.timeout();
        self.ballot.cast(vote, &mut *self.communicator, timeout)
    }

    fn update(&mut self, learning_rate: f64, gradient_scale: f64) -> Result<(), TrainError> {
        let adamw = AdamW {
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            epsilon: self.config.epsilon,
            weight_decay: self.config.weight_decay,
        };
        let update = self.progress.updates + 1;
        match self.ballot.location() {
            Location::Host => {
                let (step, keep) = adamw.step(update, learning_rate, gradient_scale);
                let shards = self.groups.iter_mut().map(FlatGroup::shard).collect::<Result<_, _>>()?;
                adamw::update(shards, &step, keep, threads());
                Ok(())
            }
            Location::Cuda(_) => device::update(&self.groups, &adamw, update, learning_rate, gradient_scale),
        }
    }
}

impl TrainerConfig {
    /// That every field is one that training can work with.
    pub fn check(&self) -> Result<(), TrainError> {
        let refuse = |setting, value: String, expected| Err(TrainError::Setting { setting, value, expected });
        let numbers = [
            ("learning_rate", self.learning_rate, 0.0..=f64::MAX, "a number of at least 0"),
            (
                "minimum_learning_rate",
                self.minimum_learning_rate,
                0.0..=self.learning_rate,
                "at least 0 and at most learning_rate",
            ),
            ("beta1", self.beta1, 0.0..=1.0 - f64::EPSILON, "at least 0 and below 1"),
            ("beta2", self.beta2, 0.0..=1.0 - f64::EPSILON, "at least 0 and below 1"),
            ("epsilon", self.epsilon, 0.0..=1.0, "at least 0 and at most 1"),
            ("weight_decay", self.weight_decay, 0.0..=f64::MAX, "a number of at least 0"),
            ("clip_norm", self.clip_norm, 0.0..=f64::MAX, "a number of at least 0 (0 means no clipping)"),
        ];
        for (setting, value, allowed, expected) in numbers {
            if !allowed.contains(&value) {
                return refuse(setting, value.to_string(), expected);
            }
        }
        if self.micro_batch_rows == 0 {
            return refuse("micro_batch_rows", "0".into(), "at least 1");
        }
        if self.collective_timeout_seconds == 0 {
            return refuse("collective_timeout_seconds", "0".into(), "at least 1");
        }
        Ok(())
    }
}

impl Precision {
    /// The kind of weights that lie at `location`.
    pub fn kind(self, location: Location) -> Kind {
        match self {
            Self::Fp32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
            Self::Auto if matches!(location, Location::Cuda(_)) => Kind::BFloat16,
            Self::Auto => Placement::cpu().kind,
        }
    }
}

/// What gradients of this norm are multiplied by, as `torch.nn.utils.clip_grad_norm_` does it.
pub(crate) fn clip_factor(norm: f64, clip_norm: f64) -> f64 {
    if clip_norm > 0.0 { (clip_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}
