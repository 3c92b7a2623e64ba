//! Asking an actor, with the answer owned and an error that forgets what was asked.

use lyceum_actor::{Accepts, ActorRef, CallError, Message, ReplyOf};

/// Sends `message` to `actor` when it is first polled, and waits through a silence of its node: a run is given up when
/// somebody is lost, not when a node is busy.
pub fn ask<R, M>(
    actor: &ActorRef<R>,
    message: M,
) -> impl Future<Output = Result<ReplyOf<R, M>, CallError<()>>> + Send + use<R, M>
where
    R: Accepts<M>,
    M: Message,
{
    let asked = actor.ask(message).through_silence().into_future();
    async move {
        let answer = asked.await.map_err(CallError::erase)?;
        answer.read().map_err(|error| CallError::Failed(vec![error.to_string()]))
    }
}
