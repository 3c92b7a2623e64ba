//! One message to many actors, in the shape of a tree.
//!
//! Whoever sends to more processes than [`FANOUT`] sends to that many of them only: each gets the message with the part of the
//! receivers that it is to pass it on to, does the same, and answers with the answers of all of them. So nobody sends or reads
//! more than a few large messages, and a thousand receivers are three steps away.
//!
//! Each process has an actor for this, [`Relay`], under a number that all others know. What is passed on is a call like any
//! other: deadlines, cancellation, credits, deaths and large payloads are those of the calls that it is made of.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, join_all};
use lyceum_wire::AlignedBytes;
use rkyv::{Archive, Deserialize, Serialize};

use crate::{
    Accepts, Actor, ActorAddress, ActorId, Context, Incoming, ProcessAddress, Reader, Reads, Result, Role,
    System,
    cell::Cell,
    fingerprint,
    large::Payload,
    life::Args,
    protocol::{decode_outcome, encode_outcome},
    reference::Route,
    slot::Outcome,
    submission::{Letter, Submission},
};

/// Processes that one process sends to, of one message.
const FANOUT: usize = 16;
/// Of the time that is left, what a process keeps for itself to say what it knows: a tenth, this at most.
const MARGIN: Duration = Duration::from_secs(1);

/// Receivers of one message that a process passes on.
const MAX_RECEIVERS: usize = 65_536;

/// The role that every process of a cluster plays for the others.
pub(crate) struct Relaying;

/// "Pass this on, and say how it ended at each."
#[derive(Archive, Serialize, Deserialize)]
pub(crate) struct PassOn {
    to: Vec<ActorAddress>,
    /// Of their role, as the first sender knows it.
    fingerprint: u64,
    message: u64,
    payload: Vec<u8>,
    ask: bool,
    patient: bool,
}

/// How it ended at one of them, as [`encode_outcome`] writes it.
#[derive(Archive, Serialize, Deserialize)]
pub(crate) struct End {
    status: u32,
    payload: Vec<u8>,
}

impl Role for Relaying {
    const NAME: &'static str = "relay";
    type Args = ();
    type Messages = (Reads<PassOn>,);
}

impl Accepts<PassOn> for Relaying {
    type Reply = Vec<End>;
}

/// The actor that passes messages on.
pub(crate) struct Relay;

impl Actor for Relay {
    type Role = Relaying;
    /// They wait for others' answers, and some of these may wait for messages that come through here.
    const READERS: usize = 1024;

    async fn start((): (), _: &mut Context<Self>) -> Result<Self> {
        Ok(Relay)
    }
}

impl Reader<PassOn> for Relay {
    async fn read(&self, message: Incoming<PassOn>, ctx: &mut Context<Self>) -> Result<Vec<End>> {
        if message.to.len() > MAX_RECEIVERS {
            anyhow::bail!("a message is for {} at once, {MAX_RECEIVERS} are the most", message.to.len());
        }
        let PassOn { to, fingerprint, message, payload, ask, patient } = message.read()?;
        let payload = AlignedBytes::copy_from(&payload);
        let deadline = ctx.deadline().map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            left - MARGIN.min(left / 10)
        });
        let trace = ctx.trace();
        let letter = Letter {
            fingerprint,
            message,
            payload: Payload::Inline(payload),
            origin: None,
            ask,
            patient,
            deadline,
            trace,
            key: None,
            again: false,
            first: true,
        };
        let outcomes = spread(ctx.system().clone(), letter, to).await;
        let end = |outcome: Outcome| {
            let (status, payload) = match outcome {
                Outcome::Sent => {
                    encode_outcome(Outcome::Reply { bytes: AlignedBytes::default(), origin: None })
                }
                outcome => encode_outcome(outcome),
            };
            End { status, payload: payload.to_vec() }
        };
        Ok(outcomes.into_iter().map(end).collect())
    }
}

impl Relay {
    /// Starts this process's.
    pub(crate) fn start_in(system: &System) {
        let cell = Cell::of::<Relay>(address(system.address()));
        if let Err(error) = system.launch::<Relay>(Arc::new(cell), Args::Made(Relay)) {
            tracing::warn!(%error, "this process passes no messages on");
        }
    }
}

/// Where the relay of a process is.
fn address(process: &ProcessAddress) -> ActorAddress {
    ActorAddress {
        actor: number(process.process),
        incarnation: 1,
        role: Relaying::NAME.to_owned(),
        process: process.clone(),
        job: 0,
    }
}

/// The number of the relay of a process.
pub(crate) fn number(process: u64) -> ActorId {
    ActorId::local(process, 0)
}

/// Sends to all of `to`, and tells how it ended at each, in their order. Dropping it gives up what is under way.
pub(crate) fn spread(
    system: System,
    letter: Letter,
    to: Vec<ActorAddress>,
) -> BoxFuture<'static, Vec<Outcome>> {
    Box::pin(async move {
        let mut branches = Vec::new();
        for places in branches_of(&to, system.address().process) {
            let addresses: Vec<ActorAddress> = places.iter().filter_map(|at| to.get(*at).cloned()).collect();
            let ends = branch(system.clone(), letter.clone(), addresses);
            branches.push(async move { (places, ends.await) });
        }
        let unheard = || Outcome::Unknown("nothing was said of it".to_owned());
        let mut outcomes: Vec<Outcome> = to.iter().map(|_| unheard()).collect();
        for (places, ends) in join_all(branches).await {
            for (place, end) in places.into_iter().zip(ends) {
                if let Some(outcome) = outcomes.get_mut(place) {
                    *outcome = end;
                }
            }
        }
        outcomes
    })
}

/// Which of `to` are sent to together, by their places: those of one process always are, those of this process (`here`) and
/// single ones each by itself. At most [`FANOUT`] beside those.
fn branches_of(to: &[ActorAddress], here: u64) -> Vec<Vec<usize>> {
    let process = |place: &usize| to.get(*place).map_or(0, |address| address.process.process);
    let (mut branches, mut others) = (Vec::new(), Vec::new());
    for place in 0..to.len() {
        match process(&place) == here {
            true => branches.push(vec![place]),
            false => others.push(place),
        }
    }
    others.sort_by_key(process);
    let processes: Vec<&[usize]> = others.chunk_by(|one, next| process(one) == process(next)).collect();
    let parts = processes.len().min(FANOUT);
    for part in 0..parts {
        let range = processes.len() * part / parts..processes.len() * (part + 1) / parts;
        branches.push(processes.get(range).unwrap_or_default().concat());
    }
    branches
}

/// Sends to one branch: to a single receiver itself, else to the relay of the first one's process.
async fn branch(system: System, letter: Letter, to: Vec<ActorAddress>) -> Vec<Outcome> {
    let (Some(first), false) = (to.first(), to.len() == 1) else {
        return join_all(to.iter().map(|address| send(&system, letter.clone(), address))).await;
    };
    let first = first.process.clone();
    match pass_on(&system, &letter, &first, &to).await {
        Ok(ends) => ends,
        // Nobody has it yet: the first process's own are sent to as they are, the rest goes another way.
        Err(Outcome::NotSent(_) | Outcome::Refused(_)) => {
            let (own, rest): (Vec<_>, Vec<_>) =
                (0..to.len()).partition(|at| to.get(*at).is_some_and(|to| to.process == first));
            let of =
                |places: &[usize]| places.iter().filter_map(|at| to.get(*at).cloned()).collect::<Vec<_>>();
            let directly = of(&own);
            let directly = join_all(directly.iter().map(|address| send(&system, letter.clone(), address)));
            let (own_ends, rest_ends) =
                futures_util::future::join(directly, spread(system.clone(), letter.clone(), of(&rest))).await;
            let mut ends: Vec<(usize, Outcome)> =
                own.into_iter().zip(own_ends).chain(rest.into_iter().zip(rest_ends)).collect();
            ends.sort_by_key(|(place, _)| *place);
            ends.into_iter().map(|(_, end)| end).collect()
        }
        Err(outcome) => to.iter().map(|address| behind(&outcome, address.process == first, &first)).collect(),
    }
}

/// What is known of a receiver when the process that was to pass the message on did not say.
fn behind(outcome: &Outcome, is_there: bool, relay: &ProcessAddress) -> Outcome {
    match outcome {
        Outcome::Deadline | Outcome::Cancelled => outcome.clone(),
        outcome if is_there => outcome.clone(),
        outcome => {
            let why = outcome.clone().into_error::<()>(None);
            Outcome::Unknown(format!("{relay} was to pass it on: {why}"))
        }
    }
}

/// Has the relay of `process` pass the message on.
async fn pass_on(
    system: &System,
    letter: &Letter,
    process: &ProcessAddress,
    to: &[ActorAddress],
) -> Result<Vec<Outcome>, Outcome> {
    let order = PassOn {
        to: to.to_vec(),
        fingerprint: letter.fingerprint,
        message: letter.message,
        payload: letter.payload.bytes().to_vec(),
        ask: letter.ask,
        patient: letter.patient,
    };
    let order = Letter {
        patient: letter.patient,
        deadline: letter.deadline,
        trace: letter.trace,
        ..Letter::of(&order, fingerprint::<Relaying>())?
    };
    let bytes = match send(system, order, &address(process)).await {
        Outcome::Reply { bytes, .. } => bytes,
        outcome => return Err(outcome),
    };
    let ends = Incoming::<Vec<End>>::checked(bytes, system).map_err(Outcome::Unknown)?;
    if ends.len() != to.len() {
        return Err(Outcome::Unknown(format!("it answered for {} of {}", ends.len(), to.len())));
    }
    let read = |end: &rkyv::Archived<End>| {
        decode_outcome(end.status.to_native(), AlignedBytes::copy_from(&end.payload))
            .unwrap_or_else(Outcome::Unknown)
    };
    Ok(ends.iter().map(read).collect())
}

/// Sends to one receiver, and tells how it ended; a reply is taken out of the store.
async fn send(system: &System, letter: Letter, to: &ActorAddress) -> Outcome {
    let ask = letter.ask;
    let sent =
        route(system, to, letter.fingerprint).and_then(|route| Submission::new(system, to, route, letter));
    let outcome = match sent {
        Ok(mut submission) => std::future::poll_fn(|cx| submission.poll(cx)).await,
        Err(outcome) => outcome,
    };
    match outcome {
        Outcome::Stored(parcel) if ask => match parcel.open().await {
            Ok(bytes) => Outcome::Reply { bytes, origin: None },
            Err(why) => {
                Outcome::Unknown(format!("it was executed, but its reply could not be opened: {why}"))
            }
        },
        outcome => outcome,
    }
}

fn route(system: &System, to: &ActorAddress, fingerprint: u64) -> Result<Route, Outcome> {
    if to.process.process != system.address().process {
        return system.link_to(&to.process).map(Route::Remote);
    }
    let cell = system.find(to.actor, to.incarnation)?;
    match cell.fingerprint == fingerprint {
        true => Ok(Route::Local(cell)),
        false => Err(Outcome::Refused(format!(
            "role {} differs: its fingerprint is {:#x} here and {fingerprint:#x} at the caller; build both programs from the \
             same sources",
            to.role, cell.fingerprint
        ))),
    }
}

#[cfg(test)]
impl PassOn {
    pub(crate) fn sample(to: Vec<ActorAddress>) -> PassOn {
        PassOn { to, fingerprint: 1, message: 2, payload: vec![3; 20], ask: true, patient: false }
    }
}

#[cfg(test)]
impl End {
    pub(crate) fn sample(status: u32) -> End {
        End { status, payload: vec![4; 12] }
    }
}
