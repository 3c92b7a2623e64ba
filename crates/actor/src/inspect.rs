//! Looking into a process: what its actors are at, and the stacks of its threads.
//!
//! Each process has an actor for this, [`Inspector`], under a number that all others know. It owns a thread, so that it
//! answers when nothing else of the process does. Beside that, whoever passes its progress deadline is told of without being
//! asked: in the process's log, with the stacks, and to the control plane.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use rkyv::{Archive, Deserialize, Serialize};

use crate::{
    Accepts, Actor, ActorAddress, ActorId, CallError, Context, Handler, Incoming, ProcessAddress, Result,
    Role, System,
    cell::Cell,
    life::Args,
    work::{Handling, Look},
};

/// Actors that an answer tells of.
const MAX_ACTORS: usize = 64;
/// How long a process may take to answer: all its threads are looked at, and names are read from its program and libraries.
const PATIENCE: Duration = Duration::from_secs(30);
/// Frames of a stack that an answer, or a log, has.
const MAX_FRAMES: usize = 128;

/// The role that every process of a cluster plays for those who look into it.
pub(crate) struct Inspecting;

/// "What are you doing, and this actor above all?"
#[derive(Archive, Serialize, Deserialize, Debug)]
pub(crate) struct Inspect {
    actor: u64,
}

/// What a process is doing.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct Inspection {
    /// The actor that was asked for, if it lives there, and then others that are at work, 64 at most.
    pub actors: Vec<ActorWork>,
    /// All threads but the one that answers.
    pub threads: Vec<ThreadStack>,
}

/// What one actor is doing.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct ActorWork {
    /// The actor.
    pub actor: ActorId,
    /// Its role.
    pub role: String,
    /// Which of its lives.
    pub incarnation: u64,
    /// Messages in its mailbox.
    pub waiting: u64,
    /// Milliseconds that it may go without progress; `None` for any number.
    pub deadline_ms: Option<u64>,
    /// What it handles, the longest first; several only of messages that read.
    pub handles: Vec<Handling>,
}

/// Where a thread is.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct ThreadStack {
    /// Its number on its machine.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// What the kernel says of it: `running`, `sleeping`, ...
    pub state: String,
    /// Its functions, the innermost first; or one line in parentheses that says why there are none.
    pub frames: Vec<String>,
}

/// An actor that has passed its progress deadline.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct Stall {
    /// What it handles.
    pub handles: Handling,
    /// Messages in its mailbox.
    pub waiting: u64,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no progress: it handles {}, {}", self.handles, Waiting(self.waiting))
    }
}

impl fmt::Display for ActorWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (incarnation {}) ", self.role, self.actor, self.incarnation)?;
        match self.handles.as_slice() {
            [] => write!(f, "handles nothing")?,
            [first, others @ ..] => {
                write!(f, "handles {first}")?;
                others.iter().try_for_each(|other| write!(f, "; {other}"))?;
            }
        }
        write!(f, "; {}", Waiting(self.waiting))?;
        match self.deadline_ms {
            Some(ms) => write!(f, "; its progress deadline is {} s", ms as f64 / 1000.0),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ThreadStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {} \"{}\", {}", self.number, self.name, self.state)?;
        self.frames.iter().try_for_each(|frame| write!(f, "\n    {frame}"))
    }
}

struct Waiting(u64);

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => write!(f, "no message waits"),
            1 => write!(f, "1 message waits in its mailbox"),
            waiting => write!(f, "{waiting} messages wait in its mailbox"),
        }
    }
}

impl Role for Inspecting {
    const NAME: &'static str = "inspector";
    type Args = ();
    type Messages = (Inspect,);
}

impl Accepts<Inspect> for Inspecting {
    type Reply = Inspection;
}

/// The actor that looks.
pub(crate) struct Inspector;

impl Actor for Inspector {
    type Role = Inspecting;
    const DEDICATED_THREAD: bool = true;

    async fn start((): (), _: &mut Context<Self>) -> Result<Self> {
        Ok(Inspector)
    }
}

impl Handler<Inspect> for Inspector {
    async fn handle(&mut self, message: Incoming<Inspect>, ctx: &mut Context<Self>) -> Result<Inspection> {
        let asked = ActorId(message.actor.to_native());
        let me = ctx.address().actor;
        let mut cells = ctx.system().inner().actors.all();
        cells.retain(|cell| cell.address.actor != me);
        cells.sort_by_key(|cell| (cell.address.actor != asked, cell.address.actor));
        let works = cells.iter().map(|cell| work_of(cell));
        let shown = works.filter(|work| work.actor == asked || !work.handles.is_empty());
        Ok(Inspection { actors: shown.take(MAX_ACTORS).collect(), threads: stacks() })
    }
}

impl Inspector {
    /// Starts this process's.
    pub(crate) fn start_in(system: &System) {
        let cell = Cell::of::<Inspector>(address(system.address()));
        if let Err(error) = system.launch::<Inspector>(Arc::new(cell), Args::Made(Inspector)) {
            tracing::warn!(%error, "nobody can look into this process");
        }
    }
}

/// The number of the inspector of a process.
pub(crate) fn number(process: u64) -> ActorId {
    ActorId::local(process, u32::MAX)
}

fn address(process: &ProcessAddress) -> ActorAddress {
    ActorAddress {
        actor: number(process.process),
        incarnation: 1,
        role: Inspecting::NAME.to_owned(),
        process: process.clone(),
        job: 0,
    }
}

fn work_of(cell: &Cell) -> ActorWork {
    let deadline = cell.work.deadline();
    ActorWork {
        actor: cell.address.actor,
        role: cell.address.role.clone(),
        incarnation: cell.address.incarnation,
        waiting: cell.waiting(),
        deadline_ms: u64::try_from(deadline.as_millis()).ok(),
        handles: cell.work.handlings(),
    }
}

/// The stacks of this process's threads; where they cannot be had, one that says why.
fn stacks() -> Vec<ThreadStack> {
    let threads = match lyceum_stacks::of_all_threads() {
        Ok(threads) => threads,
        Err(error) => {
            let frames = vec![format!("(the stacks cannot be had: {error})")];
            return vec![ThreadStack { number: 0, name: String::new(), state: String::new(), frames }];
        }
    };
    let stack = |thread: lyceum_stacks::Thread| {
        let mut frames = thread.frames.unwrap_or_else(|why| vec![format!("({why})")]);
        frames.truncate(MAX_FRAMES);
        ThreadStack { number: thread.number, name: thread.name, state: thread.state.to_owned(), frames }
    };
    threads.into_iter().map(stack).collect()
}

/// Held while a thread takes stacks for the log.
struct Telling(System);

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.inner().telling_stalls.store(false, Ordering::Release);
    }
}

impl System {
    /// What the process of an actor is doing: its actors, that one first, and the stacks of its threads. It answers also when
    /// all its actors are at work, or at nothing any more.
    pub async fn inspect(&self, actor: &ActorAddress) -> Result<Inspection, CallError<()>> {
        let unreadable = |why: String| CallError::Unknown(why);
        let inspector = self.actor_ref::<Inspecting>(address(&actor.process)).map_err(unreadable)?;
        let answer = inspector
            .ask(Inspect { actor: actor.actor.0 })
            .deadline(PATIENCE)
            .await
            .map_err(CallError::erase)?;
        answer.read().map_err(|error| unreadable(error.to_string()))
    }

    /// Tells of an actor that has passed its progress deadline since the last time, or goes on after it had. Returns whether it
    /// has passed it.
    pub(crate) fn look_at_progress(&self, cell: &Cell) -> bool {
        match cell.work.look() {
            Look::AsBefore => false,
            Look::GoesOn => {
                self.tell_stall(cell, None);
                false
            }
            Look::Stalled(handles) => {
                let stall = Stall { handles, waiting: cell.waiting() };
                self.tell_stall(cell, Some(&stall));
                tracing::warn!("{}: {stall}", cell.address);
                true
            }
        }
    }

    /// Tells what the threads of this process do. Runs on the I/O runtime: the stacks are taken by a thread of their own, and not
    /// while it is at it still.
    pub(crate) fn tell_stacks(&self) {
        if self.inner().telling_stalls.swap(true, Ordering::AcqRel) {
            return;
        }
        let telling = Telling(self.clone());
        let look = move || {
            let threads: Vec<String> = stacks().iter().map(ToString::to_string).collect();
            tracing::warn!("the threads of this process:\n{}", threads.join("\n"));
            drop(telling);
        };
        if let Err(error) = thread::Builder::new().name("lyceum-stalls".into()).spawn(look) {
            tracing::warn!(%error, "actors make no progress, and no thread can be started to look at it");
        }
    }

    fn tell_stall(&self, cell: &Cell, stall: Option<&Stall>) {
        if let Some(control) = self.inner().control.get() {
            control.stalled(&cell.address, stall);
        }
    }
}
