//! Readers at work beside each other.
//!
//! When the next message in line is one that only reads, the actor is shared out to tasks, one a message, for as long as such
//! messages follow each other; then it comes back to the one who handles the others. Nothing is held while it is in one
//! hand, and nobody who changes it waits for longer than for the readers before it.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
};

use futures_util::{
    FutureExt,
    future::{Either, select},
};

use crate::{
    Actor, Cause, Context,
    cell::{Cell, Ending, Taken},
    credit::Credits,
    dispatch::{ReadOne, Way},
    life::{self, Accepted, panic_text},
};

/// Reads for as long as only readers follow in `ctx.batch`: takes the actor and gives it back. What is next stays there, where
/// the actor's end finds it, as it finds the actor in `ctx.shared`.
pub(crate) type Session<A> =
    for<'a> fn(A, &'a mut Context<A>) -> Pin<Box<dyn Future<Output = A> + Send + 'a>>;

/// Numbers of this process's readers.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// See [`Session`].
pub(crate) async fn session<A: Actor + Sync>(actor: A, ctx: &mut Context<A>) -> A {
    let actor = Arc::new(actor);
    ctx.shared = Some(actor.clone());
    let at_work = Arc::new(AtomicUsize::new(0));
    while let Some(Way::Beside { one, .. }) = ctx.batch.front().and_then(life::way_of::<A>) {
        let Some(envelope) = ctx.batch.pop_front() else { break };
        ctx.cell().work.taken(ctx.batch.len());
        at_work.fetch_add(1, Ordering::Relaxed);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let mut reader = ctx.of_reader(number);
        ctx.cell().work.reader_begins(number, envelope.message);
        let done = Done { number, cell: ctx.cell().clone(), at_work: at_work.clone() };
        let hold = Hold { actor: actor.clone(), done };
        let paid = envelope.paid;
        // Its answer is owed from here on, however early the task is ended.
        let accepted = life::accept(&mut reader, envelope);
        ctx.spawn_task(read(hold, reader, one, accepted, paid));
        if !following(ctx, &at_work, A::READERS.max(1)).await {
            break;
        }
    }
    wait(&at_work, |readers| readers == 0).await;
    ctx.shared = None;
    match Arc::into_inner(actor) {
        Some(actor) => actor,
        None => unreachable!("a reader gives the actor back before it is counted out"),
    }
}

/// Whether there is a next message, once fewer than `limit` readers are at work; not when all are done and there is none.
async fn following<A: Actor>(ctx: &mut Context<A>, at_work: &AtomicUsize, limit: usize) -> bool {
    wait(at_work, |readers| readers < limit).await;
    let cell = ctx.cell().clone();
    std::future::poll_fn(|_| {
        if ctx.batch.is_empty() {
            let idle = at_work.load(Ordering::Acquire) == 0;
            match cell.take_batch(&mut ctx.batch) {
                Taken::Some => cell.work.taken(ctx.batch.len()),
                // Whoever has the actor looks again, and sees an end.
                Taken::Nothing | Taken::Ended(_) if idle => return Poll::Ready(false),
                Taken::Nothing | Taken::Ended(_) => return Poll::Pending,
            }
        }
        Poll::Ready(true)
    })
    .await
}

/// Waits for a number of readers at work. Each that is done wakes the actor.
async fn wait(at_work: &AtomicUsize, enough: impl Fn(usize) -> bool) {
    std::future::poll_fn(|_| match enough(at_work.load(Ordering::Acquire)) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

/// Counts a reader out, however it ended, and wakes the actor.
struct Done {
    number: u64,
    cell: Arc<Cell>,
    at_work: Arc<AtomicUsize>,
}

impl Drop for Done {
    fn drop(&mut self) {
        self.cell.work.reader_ends(self.number);
        self.at_work.fetch_sub(1, Ordering::AcqRel);
        self.cell.wake();
    }
}

/// What a reader has of the actor, given back in this order.
struct Hold<A> {
    actor: Arc<A>,
    done: Done,
}

/// One reader: from its message to its answer, and its credit back.
async fn read<A: Actor + Sync>(
    hold: Hold<A>,
    mut ctx: Context<A>,
    one: ReadOne<A>,
    accepted: Option<Accepted>,
    paid: Option<(u64, Credits)>,
) {
    let reading = async {
        let Some(accepted) = accepted else { return };
        let Some(body) = life::open(&mut ctx, accepted).await else { return };
        let given_up = ctx.cancelled();
        let ended = match select(one(&hold.actor, &mut ctx, body), given_up).await {
            Either::Left((ended, _)) => ended,
            Either::Right(_) => Ok(()),
        };
        if let Err(why) = ended {
            life::refuse_bytes(&mut ctx, &why);
        }
    };
    let ended = pin!(AssertUnwindSafe(reading).catch_unwind()).await;
    let Hold { actor, done } = hold;
    drop(actor);
    if let Err(panic) = ended {
        done.cell.end(Ending::Kill(Cause::Panicked(panic_text(&*panic))));
        // Its answer is owed until the actor's end is known, and says that then.
        std::future::pending::<()>().await;
    }
    life::settle(&ctx, &mut Vec::from_iter(paid)).await;
    drop(done);
}
