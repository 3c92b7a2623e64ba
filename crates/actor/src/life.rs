//! The life of an actor: start, one message after the other, end.

use std::{
    any::{Any, TypeId},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::Poll,
    thread,
    time::Instant,
};

use futures_util::FutureExt;

use crate::{
    Actor, Cause, Context, Incoming, Role, System,
    cell::{Cell, Envelope, LOCAL, Taken},
    credit::Credits,
    dispatch::{Body, HandledBy, Way},
    large::{LARGE, Payload},
    reply::chain_of,
    slot::{Outcome, Slot},
};

/// What an actor is started with.
pub(crate) enum Args<A: Actor> {
    /// The actor itself, made already.
    Made(A),
    Value(<A::Role as Role>::Args),
    Archived(Incoming<<A::Role as Role>::Args>),
}

/// Sets the actor going, on the pool or on a thread of its own. `started` is completed with `Sent` once its
/// `start` has returned, or with `Dead`.
pub(crate) fn launch<A: Actor>(
    system: &System,
    cell: Arc<Cell>,
    args: Args<A>,
    started: Arc<Slot>,
) -> std::io::Result<()> {
    let life = live::<A>(system.clone(), cell, args, started);
    if A::DEDICATED_THREAD {
        let tokio = system.executor().tokio().clone();
        // 15 bytes is what the kernel keeps of a thread's name.
        let name = A::Role::NAME.chars().take(15).collect();
        thread::Builder::new().name(name).spawn(move || tokio.block_on(life))?;
    } else {
        system.executor().spawn(life);
    }
    Ok(())
}

async fn live<A: Actor>(system: System, cell: Arc<Cell>, args: Args<A>, started: Arc<Slot>) {
    let mut ctx = Context::<A>::new(system.clone(), cell.clone());
    let mut actor = None;
    let ended = {
        let run = AssertUnwindSafe(run(&mut actor, &mut ctx, args, &started)).catch_unwind();
        let mut run = pin!(run);
        std::future::poll_fn(|cx| {
            cell.register(cx.waker());
            match cell.killed() {
                Some(cause) => Poll::Ready(Ok(cause)),
                None => run.as_mut().poll(cx),
            }
        })
        .await
    };
    let cause = ended.unwrap_or_else(|panic| Cause::Panicked(panic_text(&*panic)));
    let report = cell.report(cause);
    system.actor_died(&cell, report.clone());
    // What is left is dropped only now that everyone has been told: state may take long to go, or panic.
    for envelope in ctx.batch.drain(..) {
        envelope.reply.finish(Outcome::Dead(Box::new(report.clone())));
    }
    started.complete(Outcome::Dead(Box::new(report)));
    ctx.close();
    // Readers may be at work on other threads still, and none of them is to be the last that has the state.
    std::future::poll_fn(|cx| {
        cell.register(cx.waker());
        match ctx.shared.as_ref().is_some_and(|shared| Arc::strong_count(shared) > 1) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    })
    .await;
    if std::panic::catch_unwind(AssertUnwindSafe(move || drop((actor, ctx)))).is_err() {
        tracing::warn!(actor = %cell.address, "the state of a dead actor panicked while it was dropped");
    }
}

/// Everything that runs the actor's own code; returns how it ended.
async fn run<A: Actor>(actor: &mut Option<A>, ctx: &mut Context<A>, args: Args<A>, started: &Slot) -> Cause {
    let cell = ctx.cell().clone();
    cell.work.starts();
    let made = match args {
        Args::Made(made) => Ok(made),
        Args::Value(args) => A::start(args, ctx).await,
        Args::Archived(args) => match args.read() {
            Ok(args) => A::start(args, ctx).await,
            Err(error) => return Cause::Failed(vec![format!("the arguments cannot be read: {error}")]),
        },
    };
    match made {
        Ok(made) => *actor = Some(made),
        Err(error) => return Cause::Failed(chain_of(&error)),
    }
    cell.work.end();
    started.complete(Outcome::Sent);
    let mut batch = std::mem::take(&mut ctx.batch);
    loop {
        let taken = std::future::poll_fn(|_| match cell.take_batch(&mut batch) {
            Taken::Nothing => Poll::Pending,
            taken => Poll::Ready(taken),
        })
        .await;
        if let Taken::Ended(cause) = taken {
            if let Some(actor) = actor {
                cell.work.stops();
                actor.stop(ctx).await;
            }
            return cause;
        }
        ctx.batch = batch;
        let mut done: Vec<(u64, Credits)> = Vec::new();
        while let Some(next) = ctx.batch.front() {
            let way = way_of::<A>(next);
            if let Some(Way::Beside { session, .. }) = way {
                settle(ctx, &mut done).await;
                let Some(whole) = actor.take() else { break };
                *actor = Some(session(whole, ctx).await);
                continue;
            }
            let Some(envelope) = ctx.batch.pop_front() else { break };
            cell.work.taken(ctx.batch.len());
            if let Some((peer, cost)) = envelope.paid {
                match done.iter_mut().find(|(known, _)| *known == peer) {
                    Some((_, sum)) => *sum = sum.plus(cost),
                    None => done.push((peer, cost)),
                }
            }
            let large = envelope.payload.len() >= LARGE;
            if let Some(actor) = actor {
                handle(actor, ctx, way, envelope).await;
            }
            if large {
                settle(ctx, &mut done).await;
            }
        }
        settle(ctx, &mut done).await;
        batch = std::mem::take(&mut ctx.batch);
        // Neighbours come first now and then, however full this mailbox is.
        yield_once().await;
    }
}

/// How the actor handles a message; `None`: not at all.
pub(crate) fn way_of<A: Actor>(envelope: &Envelope) -> Option<Way<A>> {
    <A::Role as Role>::Messages::handler(envelope.message).map(|handle| handle.0)
}

async fn handle<A: Actor>(actor: &mut A, ctx: &mut Context<A>, way: Option<Way<A>>, envelope: Envelope) {
    let Some(Way::Alone(handler)) = way else {
        envelope.reply.finish(Outcome::Refused(format!(
            "role {} has no message {:#x}: list it in the role's `Messages`",
            A::Role::NAME,
            envelope.message
        )));
        return;
    };
    let message = envelope.message;
    let Some(accepted) = accept(ctx, envelope) else { return };
    let Some(body) = open(ctx, accepted).await else { return };
    ctx.cell().work.begin(message);
    if let Err(why) = handler(actor, ctx, body).await {
        refuse_bytes(ctx, &why);
    }
    ctx.cell().work.end();
}

/// The bytes were no such message.
pub(crate) fn refuse_bytes<A: Actor>(ctx: &mut Context<A>, why: &str) {
    if let Some(mut owed) = ctx.take_owed() {
        owed.finish(Outcome::Refused(format!("the bytes are no such message: {why}")));
    }
}

/// A message that is to be handled, and whose answer is owed.
pub(crate) struct Accepted {
    payload: Payload,
    origin: Option<TypeId>,
}

/// The message, if it is to be handled still; its answer is owed from here on.
pub(crate) fn accept<A: Actor>(ctx: &mut Context<A>, envelope: Envelope) -> Option<Accepted> {
    if envelope.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        envelope.reply.pass_by(Outcome::Deadline);
        return None;
    }
    if envelope.reply.pass_by_if_unwanted() {
        return None;
    }
    ctx.begin(envelope.reply, envelope.trace, envelope.deadline);
    Some(Accepted { payload: envelope.payload, origin: envelope.origin })
}

/// Its bytes, taken out of the store where they lie there.
pub(crate) async fn open<A: Actor>(ctx: &mut Context<A>, accepted: Accepted) -> Option<Body> {
    let bytes = match accepted.payload {
        Payload::Inline(bytes) => bytes,
        Payload::Stored(parcel) => match parcel.open().await {
            Ok(bytes) => bytes,
            Err(why) => {
                if let Some(owed) = ctx.take_owed() {
                    owed.not_opened(why);
                }
                return None;
            }
        },
    };
    Some(Body { bytes, origin: accepted.origin })
}

/// Gives the credits of done messages back, and waits while a caller's share of the network is full of replies.
pub(crate) async fn settle<A: Actor>(ctx: &Context<A>, done: &mut Vec<(u64, Credits)>) {
    if done.is_empty() {
        return;
    }
    let untold = ctx.cell().consumed(done);
    ctx.system().apply(ctx.cell(), untold);
    for (peer, _) in done.drain(..).filter(|(peer, _)| *peer != LOCAL) {
        ctx.system().reply_room(peer).await;
    }
}

async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            Poll::Ready(())
        } else {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}
