//! One rank of the gang, as an actor with a thread of its own: all its tensor work is there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use lyceum_actor::{Accepts, Actor, ActorRef, CallError, Context, Handler, Incoming, Result};
use lyceum_cluster::worker;
use lyceum_collective::{CollectiveError, Communicator, Gang, Member, Seat, form, nccl};
use lyceum_corpus::tokenizer::Tokenizer;
use lyceum_model::Placement;
use lyceum_pretrain::roles::{
    Committed, Controller, Evaluate, Evaluation, Form, Formed, Grant, Join, NextBatch, Packer, ReadProgress,
    StepDone, Train, Trained, Trainer, TrainerArgs,
};
use lyceum_pretrain::run_directory::RunDirectory;
use lyceum_pretrain::run_file::RunFile;
use lyceum_store::{Object, StoreClient};
use lyceum_train::checkpoint::CheckpointDirectory;
use lyceum_train::{SealedBatch, TrainError, keep_freed_memory, memory_of};

use crate::heldout;
use crate::training::{checkpoint_directory, start_trainer, tokenizer_path};

/// How often the log is told of a step.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How long ranks wait for each other when the gang forms: one of them may be loading libtorch still.
const FORMING: Duration = Duration::from_secs(120);

/// The actor; see the module.
pub struct TrainerActor {
    run: RunFile,
    directory: RunDirectory,
    epoch: u64,
    controller: ActorRef<Controller>,
    store: StoreClient,
    placement: Placement,
    seat: Seat,
    gang: Option<InGang>,
}

/// What a trainer has once its gang is formed.
struct InGang {
    rank: u32,
    world_size: u32,
    members: Vec<Member>,
    trainer: lyceum_train::Trainer,
    checkpoints: CheckpointDirectory,
}

impl TrainerActor {
    fn gang(&mut self) -> Result<&mut InGang> {
        self.gang.as_mut().context("the gang is not formed yet")
    }

    /// Asks the Packer for batch `position` ahead of time; `None` is the end of the data.
    fn request(
        &self,
        packer: &ActorRef<Packer>,
        position: u64,
        rank: u32,
    ) -> impl Future<Output = Result<Option<Object>>> + use<> {
        let asked = packer.ask(NextBatch { position, rank }).through_silence().into_future();
        let store = self.store.clone();
        async move {
            let granted = asked
                .await
                .map_err(CallError::erase)
                .with_context(|| format!("the packer, batch {position}"))?;
            match granted.read()? {
                Grant::Batch(object) => Ok(Some(store.open(&object).await?)),
                Grant::End => Ok(None),
            }
        }
    }

    async fn train(&mut self, packer: &ActorRef<Packer>, ctx: &Context<Self>) -> Result<Trained> {
        let gang = self.gang()?;
        let (rank, world_size) = (gang.rank, gang.world_size);
        let (mut position, mut step) = (gang.trainer.progress().log_position, gang.trainer.progress().step);
        let mut saved = step;
        let tokenizer = tokenizer_path(&self.run);
        let mut next = tokio::spawn(self.request(packer, position, rank));
        let mut begun = Instant::now();
        let mut told = begun;
        let (steps, next_batch) = (self.run.trainer.steps, position);
        tracing::info!(rank, world_size, step, steps, next_batch, "training begins");
        while step < self.run.trainer.steps {
            let asked = Instant::now();
            let object = (&mut next).await.context("the request for a batch")??;
            let waited = asked.elapsed().as_secs_f64();
            let Some(object) = object else { break };
            position += 1;
            if step + 1 < self.run.trainer.steps {
                // The next batch travels while this one is trained.
                next = tokio::spawn(self.request(packer, position, rank));
            }
            let report = self.gang()?.step(&object)?;
            ctx.goes_on();
            step += 1;
            let done = StepDone {
                rank,
                step,
                loss: report.loss,
                gradient_norm: report.gradient_norm,
                learning_rate: report.learning_rate,
                tokens: report.tokens,
                waited,
                seconds: begun.elapsed().as_secs_f64(),
                skipped: !report.committed,
            };
            begun = Instant::now();
            if told.elapsed() >= TOLD_EVERY || step == 1 {
                let (loss, seconds) = (done.loss, done.seconds);
                tracing::info!(rank, step, loss, seconds, waited, "a step is done");
                told = Instant::now();
            }
            tell(&self.controller, done).await?;
            if step.is_multiple_of(self.run.checkpoint.every) {
                self.save(&tokenizer).await?;
                ctx.goes_on();
                saved = step;
            }
        }
        if step > saved {
            self.save(&tokenizer).await?;
        }
        tracing::info!(rank, world_size, step, "trained");
        Ok(Trained::To(step))
    }

    /// Writes a checkpoint, all ranks together.
    async fn save(&mut self, tokenizer: &Path) -> Result<()> {
        // Answered in order: the steps that were told before are written down then, so that whenever somebody is
        // killed, no checkpoint is ahead of the metrics.
        self.controller
            .ask(ReadProgress)
            .through_silence()
            .await
            .map_err(CallError::erase)
            .context("the controller")?;
        let gang = self.gang()?;
        let begun = Instant::now();
        let path = gang.trainer.save_checkpoint(&gang.checkpoints, Some(tokenizer))?;
        let (rank, step, seconds) = (gang.rank, gang.trainer.progress().step, begun.elapsed().as_secs_f64());
        tracing::info!(rank, step, seconds, path = %path.display(), "a checkpoint is whole");
        if gang.rank == 0 {
            let committed =
                Committed { step: gang.trainer.progress().step, path: path.display().to_string() };
            tell(&self.controller, committed).await?;
        }
        Ok(())
    }
}

impl InGang {
    /// What the collective came to, if that is why training ended.
    fn collective(error: &anyhow::Error) -> Option<&CollectiveError> {
        error.chain().find_map(|cause| match cause.downcast_ref() {
            Some(TrainError::Collective(failure)) => Some(failure),
            _ => cause.downcast_ref(),
        })
    }

    /// Where a rank runs, as a person looks for it.
    fn place(&self, rank: usize) -> String {
        match self.members.get(rank) {
            Some(Member { node, incarnation, .. }) => format!("in process {incarnation} on node {node}"),
            None => "in no process of this gang".to_owned(),
        }
    }

    /// One step over memory that the Packer sealed: this rank's rows become tensors where they lie (L4).
    fn step(&mut self, object: &Object) -> Result<lyceum_train::StepReport> {
        let sealed = SealedBatch::open(object)?;
        Ok(self.trainer.step(&sealed.batch())?)
    }
}

/// Forms the gang on a thread of its own: it blocks, which a thread that drives futures must not.
fn meet(gang: &Gang, rank: usize, seat: &Seat, device: tch::Device) -> Result<Box<dyn Communicator>> {
    let memory = device.is_cuda().then(|| memory_of(device));
    let met =
        std::thread::scope(|scope| scope.spawn(|| form(gang, rank, Some(seat), memory, FORMING)).join());
    met.map_err(|_| anyhow::anyhow!("rank {rank}: forming the gang panicked"))?.map_err(Into::into)
}

async fn tell<M>(controller: &ActorRef<Controller>, message: M) -> Result<()>
where
    Controller: Accepts<M>,
    M: lyceum_actor::Message,
{
    controller.tell(message).await.map_err(CallError::erase).context("the controller")
}

impl Actor for TrainerActor {
    type Role = Trainer;
    const DEDICATED_THREAD: bool = true;

    async fn start(args: TrainerArgs, _: &mut Context<Self>) -> Result<Self> {
        keep_freed_memory();
        tch::set_num_threads(crate::threads());
        let (Some(store), Some(place)) = (worker::store(), worker::place()) else {
            bail!("a trainer runs in a worker only");
        };
        let placement = Placement::choose()?;
        let (device, threads) = (placement.device, crate::threads());
        tracing::info!(?device, threads, epoch = args.settings.epoch, "the trainer is ready");
        Ok(Self {
            run: args.settings.run_file()?,
            directory: RunDirectory::at(PathBuf::from(&args.settings.directory)),
            epoch: args.settings.epoch,
            controller: args.controller,
            store: store.clone(),
            placement,
            seat: Seat::open(place.credentials.clone(), place.bind, place.ports.clone(), place.verdict)?,
            gang: None,
        })
    }
}

impl Handler<Join> for TrainerActor {
    async fn handle(&mut self, _: Incoming<Join>, ctx: &mut Context<Self>) -> Result<Member> {
        let process = &ctx.address().process;
        let mut addr = self.seat.addr();
        if let Some(advertise) = worker::place().and_then(|place| place.advertise) {
            addr.set_ip(advertise);
        }
        let device = match self.placement.device {
            tch::Device::Cuda(ordinal) => Some(u32::try_from(ordinal)?),
            _ => None,
        };
        Ok(Member {
            node: process.node.clone(),
            incarnation: process.process,
            addr: Some(addr),
            device,
            trusted_interface: nccl::trusted_interface(),
        })
    }
}

impl Handler<Form> for TrainerActor {
    async fn handle(&mut self, message: Incoming<Form>, _: &mut Context<Self>) -> Result<Formed> {
        let Form { gang, rank } = message.read()?;
        let world_size = gang.members.len() as u32;
        // Rank 0 claims the folder before it comes to the meeting, so that nobody reads it unclaimed.
        let checkpoints =
            checkpoint_directory(&self.run, &self.directory.checkpoints(), self.epoch, rank as usize)?;
        let communicator = match (world_size, self.placement.device) {
            (1, device) => Box::new(lyceum_train::solo_communicator(device, gang.epoch)),
            (_, device) => meet(&gang, rank as usize, &self.seat, device)?,
        };
        let nodes: Vec<&str> = gang.members.iter().map(|member| member.node.as_str()).collect();
        tracing::info!(rank, world_size, ?nodes, epoch = gang.epoch, "the gang is formed");
        let begun = Instant::now();
        let trainer = start_trainer(&self.run, &checkpoints, communicator)?;
        let progress = trainer.progress();
        let (step, next_batch, seconds) =
            (progress.step, progress.log_position, begun.elapsed().as_secs_f64());
        tracing::info!(rank, step, next_batch, seconds, "the model is loaded");
        self.gang = Some(InGang { rank, world_size, members: gang.members, trainer, checkpoints });
        Ok(Formed { step: progress.step, log_position: progress.log_position })
    }
}

impl Handler<Evaluate> for TrainerActor {
    async fn handle(&mut self, _: Incoming<Evaluate>, _: &mut Context<Self>) -> Result<Evaluation> {
        let (evaluation, tokenizer) = (self.run.evaluation.clone(), tokenizer_path(&self.run));
        let length = self.run.trainer.sequence_length as usize;
        let gang = self.gang()?;
        let share = heldout::Share { rank: gang.rank as usize, world_size: gang.world_size as usize };
        if evaluation.heldout.is_none() && evaluation.multiple_choice.is_none() {
            return Ok(Evaluation::default());
        }
        let tokenizer = Tokenizer::load(tokenizer)?;
        heldout::measure(gang.trainer.llama(), &tokenizer, &evaluation, length, share)
    }
}

impl Handler<Train> for TrainerActor {
    async fn handle(&mut self, message: Incoming<Train>, ctx: &mut Context<Self>) -> Result<Trained> {
        let Train { packer } = message.read()?;
        let abort = self.gang()?.trainer.communicator().abort_handle();
        let trained = self.train(&packer, ctx).await;
        let Err(error) = trained else { return trained };
        tracing::error!(error = format!("{error:#}"), "training ends early: the gang is told");
        // The others must not wait in a collective for a rank that has left (L3).
        abort.abort(&format!("{error:#}"));
        match InGang::collective(&error) {
            Some(lost @ CollectiveError::Lost { rank, .. }) => {
                let place = self.gang()?.place(*rank);
                Ok(Trained::PeerLost(format!("{lost} (it ran {place})")))
            }
            _ => Err(error),
        }
    }
}
