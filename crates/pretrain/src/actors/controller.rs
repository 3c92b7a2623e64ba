//! The Controller as an actor: it answers at once, and the run itself is a task beside it.

use std::sync::Arc;

use lyceum_actor::{Actor, Context, Handler, Incoming, Result};

use crate::board::Board;
use crate::conduct::conduct;
use crate::failure::Failure;
use crate::roles::{
    Committed, Controller, ControllerArgs, Progress, ReadProgress, Run, Settings, StepDone, Stop,
};
use crate::run_directory::RunDirectory;

/// The actor; see the module.
pub struct ControllerActor {
    settings: Settings,
    board: Arc<Board>,
    begun: bool,
}

impl Actor for ControllerActor {
    type Role = Controller;

    async fn start(args: ControllerArgs, _: &mut Context<Self>) -> Result<Self> {
        let run = args.settings.run_file()?;
        let Settings { directory, epoch, .. } = &args.settings;
        let (steps, world_size) = (run.trainer.steps, run.trainer.world_size);
        tracing::info!(run = run.name, directory, epoch, steps, world_size, "the controller is ready");
        Ok(Self { settings: args.settings, board: Arc::new(Board::new(&run)), begun: false })
    }
}

impl Handler<Run> for ControllerActor {
    async fn handle(&mut self, _: Incoming<Run>, ctx: &mut Context<Self>) -> Result<String> {
        anyhow::ensure!(!self.begun, "the run has begun already");
        self.begun = true;
        let (settings, board, cluster, me) =
            (self.settings.clone(), self.board.clone(), ctx.cluster(), ctx.me());
        let mut kept = None;
        let later = ctx.reply_later(|responder| kept = Some(responder));
        if let Some(responder) = kept {
            ctx.spawn_task(async move {
                let directory = RunDirectory::at(&settings.directory);
                let outcome = conduct(settings, &board, &cluster, me).await;
                let outcome = outcome.map_err(|error| told(error, &directory));
                responder.finish(outcome.and_then(|summary| Ok(serde_json::to_string(&summary)?)));
            });
        }
        later
    }
}

/// What a person reads of a run that failed: after a loss, also where the same command goes on; after anything else, what
/// is left of its training.
fn told(error: anyhow::Error, directory: &RunDirectory) -> anyhow::Error {
    tracing::error!(error = format!("{error:#}"), "the run cannot go on");
    match (error.downcast_ref::<Failure>(), directory.newest_checkpoint()) {
        (Some(failure), _) if failure.is_passing() => {
            anyhow::anyhow!("{failure}\n{}", directory.resumption())
        }
        (_, Some((step, _))) => anyhow::anyhow!("{error:#}\nthe newest checkpoint is of step {step}"),
        (_, None) => error,
    }
}

impl Handler<Stop> for ControllerActor {
    async fn handle(&mut self, _: Incoming<Stop>, _: &mut Context<Self>) -> Result<()> {
        self.board.stop();
        Ok(())
    }
}

impl Handler<ReadProgress> for ControllerActor {
    async fn handle(&mut self, _: Incoming<ReadProgress>, _: &mut Context<Self>) -> Result<Progress> {
        Ok(self.board.progress())
    }
}

impl Handler<StepDone> for ControllerActor {
    async fn handle(&mut self, done: Incoming<StepDone>, _: &mut Context<Self>) -> Result<()> {
        self.board.step_done(&done.read()?)
    }
}

impl Handler<Committed> for ControllerActor {
    async fn handle(&mut self, committed: Incoming<Committed>, _: &mut Context<Self>) -> Result<()> {
        self.board.committed(committed.read()?)
    }
}
