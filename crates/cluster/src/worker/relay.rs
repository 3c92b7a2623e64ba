//! The worker's way to the head: through its agent.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lyceum_actor::{ActorAddress, ControlError, ProcessAddress};
use tokio::sync::mpsc;

use crate::ask::{Line, Questions, Reply};
use crate::control::vocabulary::{Answer, Ask};
use crate::message::WorkerToAgent;

#[derive(Debug)]
pub(super) struct Relay {
    questions: Questions,
    outbox: mpsc::Sender<WorkerToAgent>,
}

impl Relay {
    pub(super) fn new(outbox: mpsc::Sender<WorkerToAgent>) -> Relay {
        Relay { questions: Questions::default(), outbox }
    }

    pub(super) fn answered(&self, request: u64, answer: Answer) {
        self.questions.answer(request, (answer, Vec::new()));
    }

    pub(super) fn close(&self, why: &str) {
        self.questions.close(why);
    }

    fn send(&self, message: WorkerToAgent) -> Result<(), ControlError> {
        self.outbox
            .try_send(message)
            .map_err(|error| ControlError::Unreachable(format!("the way to the node's agent: {error}")))
    }
}

impl Line for Relay {
    fn ask(&self, ask: Ask) -> BoxFuture<'static, Result<Reply, ControlError>> {
        let asked = self.questions.open().and_then(|(request, answer)| {
            self.send(WorkerToAgent::Ask { request, ask })?;
            Ok(answer)
        });
        async move {
            match asked?.await {
                Ok((Answer::Error(error), _)) => Err(error),
                Ok(reply) => Ok(reply),
                Err(_) => Err(ControlError::Unreachable("the worker is ending".into())),
            }
        }
        .boxed()
    }

    fn watch(&self, process: &ProcessAddress) {
        if let Err(error) = self.send(WorkerToAgent::Watch(process.clone())) {
            tracing::warn!(%process, %error, "a process is not watched");
        }
    }

    fn stalled(&self, actor: &ActorAddress, stall: Option<String>) {
        let message = WorkerToAgent::Stalled { actor: actor.actor, role: actor.role.clone(), stall };
        if let Err(error) = self.send(message) {
            tracing::warn!(%actor, %error, "that an actor makes no progress, or does again, is not told");
        }
    }
}
