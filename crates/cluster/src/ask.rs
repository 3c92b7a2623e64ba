//! Questions to the head and their answers, the same for clients and for workers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lyceum_actor::{
    ActorAddress, ActorId, ControlError, ControlPlane, GangRequest, ProcessAddress, SpawnRequest, Stall,
};
use tokio::sync::oneshot;

use crate::control::vocabulary::{Answer, Ask};

/// Questions that may be open at a time, per process.
const MAX_OPEN: usize = 65_536;

/// An answer, and the credentials that came with it.
pub(crate) type Reply = (Answer, Vec<u8>);

/// The open questions of one process.
#[derive(Debug, Default)]
pub(crate) struct Questions(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    last: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Reply>>,
    closed: Option<String>,
}

impl Questions {
    /// A new question's number, and where its answer will come.
    pub(crate) fn open(&self) -> Result<(u64, oneshot::Receiver<Reply>), ControlError> {
        let mut open = self.locked();
        if let Some(why) = &open.closed {
            return Err(ControlError::Unreachable(why.clone()));
        }
        if open.waiting.len() >= MAX_OPEN {
            return Err(ControlError::Refused(format!("{MAX_OPEN} questions to the head are open already")));
        }
        open.last += 1;
        let (answer, waiting) = oneshot::channel();
        let number = open.last;
        open.waiting.insert(number, answer);
        Ok((number, waiting))
    }

    pub(crate) fn answer(&self, number: u64, reply: Reply) {
        if let Some(waiting) = self.locked().waiting.remove(&number) {
            // Whoever asked may not wait any more.
            let _ = waiting.send(reply);
        }
    }

    /// Nobody answers any more: those who wait, and those who ask from now on, are told `why`.
    pub(crate) fn close(&self, why: &str) {
        let mut open = self.locked();
        open.closed = Some(why.to_owned());
        for (_, waiting) in std::mem::take(&mut open.waiting) {
            let _ = waiting.send((Answer::Error(ControlError::Unreachable(why.to_owned())), Vec::new()));
        }
    }

    fn locked(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A way to the head.
pub(crate) trait Line: Send + Sync + 'static {
    /// Asks. The error is what kept the question from being answered, or the head's own refusal.
    fn ask(&self, ask: Ask) -> BoxFuture<'static, Result<Reply, ControlError>>;
    /// Asks to be told of a process's death.
    fn watch(&self, process: &ProcessAddress);
    /// Tells of an actor of this process without progress, in words, or that it goes on.
    fn stalled(&self, actor: &ActorAddress, stall: Option<String>);
}

/// The control plane as the actor system of one process uses it.
#[derive(Debug)]
pub(crate) struct Control<L> {
    pub(crate) line: Arc<L>,
}

impl<L: Line> ControlPlane for Control<L> {
    fn spawn(&self, request: SpawnRequest) -> BoxFuture<'static, Result<ActorAddress, ControlError>> {
        let asked = self.line.ask(Ask::Spawn(request));
        async move {
            match asked.await? {
                (Answer::Actor(address), _) => Ok(address),
                (other, _) => Err(unexpected(&other)),
            }
        }
        .boxed()
    }

    fn spawn_gang(
        &self,
        request: GangRequest,
    ) -> BoxFuture<'static, Result<Vec<ActorAddress>, ControlError>> {
        let asked = self.line.ask(Ask::SpawnGang(request));
        async move {
            match asked.await? {
                (Answer::Actors(addresses), _) => Ok(addresses),
                (other, _) => Err(unexpected(&other)),
            }
        }
        .boxed()
    }

    fn lookup(
        &self,
        job: u64,
        namespace: Option<&str>,
        name: &str,
    ) -> BoxFuture<'static, Result<Vec<ActorAddress>, ControlError>> {
        let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
        let asked = self.line.ask(Ask::Lookup { job, namespace, name });
        async move {
            match asked.await? {
                (Answer::Actor(address), _) => Ok(vec![address]),
                (Answer::Actors(addresses), _) => Ok(addresses),
                (Answer::Nobody, _) => Ok(Vec::new()),
                (other, _) => Err(unexpected(&other)),
            }
        }
        .boxed()
    }

    fn watch(&self, process: &ProcessAddress) {
        self.line.watch(process);
    }

    fn stalled(&self, actor: &ActorAddress, stall: Option<&Stall>) {
        self.line.stalled(actor, stall.map(Stall::to_string));
    }

    fn save(&self, state: Vec<u8>) -> BoxFuture<'static, Result<(), ControlError>> {
        let asked = self.line.ask(Ask::Save { state });
        async move { asked.await.map(drop) }.boxed()
    }

    fn stop(&self, actor: ActorId, kill: bool) -> BoxFuture<'static, Result<(), ControlError>> {
        let asked = self.line.ask(Ask::StopActor { actor: actor.0, kill });
        async move { asked.await.map(drop) }.boxed()
    }
}

/// An answer that does not fit the question.
pub(crate) fn unexpected(answer: &Answer) -> ControlError {
    ControlError::Refused(format!("the head answered {answer:?}, which does not fit the question"))
}
