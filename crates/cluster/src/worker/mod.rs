//! A worker's process: the main of every program that hosts actors.
//!
//! The node's agent starts it, or forks it from a [template](begin) of its program, with two inherited sockets, one to itself and
//! one to the node's store. Over the first come its identity and the role it is to play. It ends with its actor, when it is told to, or with its agent.

mod relay;
mod template;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lyceum_actor::{ActorId, Cause, Registry, System, SystemOptions};
use lyceum_store::StoreClient;
use lyceum_wire::Credentials;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use self::relay::Relay;
pub use self::template::begin;
use crate::agent::{AGENT_VARIABLE, STORE_VARIABLE};
use crate::ask::Control;
use crate::message::{self, AgentToWorker, LocalFrames, Message, Unknown, Unread, WorkerInit, WorkerToAgent};
use crate::spawn::inherited_fd;

/// Messages that may wait in either direction.
const MAX_QUEUED: usize = 65_536;
/// Exit code of a worker whose actor failed.
const FAILED: u8 = 1;
/// Exit code of a program that no agent started.
const NOT_STARTED_BY_AGENT: u8 = 2;
/// Exit code of a worker that lost its agent.
const AGENT_LOST: i32 = 3;
/// Waiters of a lost connection are kept this much longer than the head takes for its verdict.
const VERDICT_MARGIN: Duration = Duration::from_secs(5);

/// How long the last message to the agent may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

static STORE: OnceLock<StoreClient> = OnceLock::new();
static PLACE: OnceLock<Place> = OnceLock::new();

/// What a worker needs for an endpoint of its own, beside the one that its actors are called over.
#[derive(Debug, Clone)]
pub struct Place {
    /// Who it is.
    pub credentials: Credentials,
    /// The node's address, port 0.
    pub bind: SocketAddr,
    /// The address that others reach the node by, where it is not `bind`'s.
    pub advertise: Option<IpAddr>,
    /// After this much silence of a node the head's verdict on it has come (`health.verdict`, and a margin).
    pub verdict: Duration,
}

/// The worker's own place in the network; `None` outside of a worker process.
pub fn place() -> Option<&'static Place> {
    PLACE.get()
}

/// The client of the node's object store; `None` outside of a worker process.
pub fn store() -> Option<&'static StoreClient> {
    STORE.get()
}

/// The main of a worker process: hosts the actor that the agent names, if `roles` has an implementation of it.
///
/// Returns when the actor has ended; it is for the caller to end the process with the code.
pub fn run(roles: Registry) -> ExitCode {
    let (Some(agent), Some(store)) = (inherited_fd(AGENT_VARIABLE), inherited_fd(STORE_VARIABLE)) else {
        eprintln!(
            "this program hosts actors and is started by a node's agent (which sets {AGENT_VARIABLE}): \
             start a cluster with `lyceum up`, and actors with `spawn`"
        );
        return ExitCode::from(NOT_STARTED_BY_AGENT);
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the worker's runtime: {error}");
            return ExitCode::from(FAILED);
        }
    };
    match runtime.block_on(serve(roles, agent, store)) {
        Ok(()) | Err(Cause::OrderedBy(_)) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("the worker's actor {cause}");
            ExitCode::from(FAILED)
        }
    }
}

/// The two directions of the socket to the agent.
pub(crate) struct AgentLine {
    inbox: mpsc::Receiver<AgentToWorker>,
    outbox: mpsc::Sender<WorkerToAgent>,
    writing: tokio::task::JoinHandle<()>,
}

impl AgentLine {
    pub(crate) fn open(socket: OwnedFd) -> std::io::Result<AgentLine> {
        let socket = StdStream::from(socket);
        socket.set_nonblocking(true)?;
        let (reader, mut writer) = UnixStream::from_std(socket)?.into_split();
        let (arrived, inbox) = mpsc::channel(MAX_QUEUED);
        let (outbox, mut leaving) = mpsc::channel(MAX_QUEUED);
        tokio::spawn(async move {
            let (mut frames, mut unknown) = (LocalFrames::new(reader), Unknown::default());
            // At its end, or at garbage, the channel closes: the agent is lost.
            while let Ok(Some(frame)) = frames.next().await {
                let message = match AgentToWorker::from_frame(&frame) {
                    Ok(Some(message)) => message,
                    Ok(None) => match unknown.pass_by(&frame, &"the node's agent") {
                        Some(Unread { request, answer, .. }) => AgentToWorker::Answer { request, answer },
                        None => continue,
                    },
                    Err(_) => return,
                };
                if arrived.send(message).await.is_err() {
                    return;
                }
            }
        });
        let writing = tokio::spawn(async move {
            while let Some(message) = leaving.recv().await {
                let last = matches!(message, WorkerToAgent::Ended { .. });
                if message::write_local(&mut writer, message).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(AgentLine { inbox, outbox, writing })
    }

    /// The next message; where the agent is lost the process ends at once, with everything in it.
    pub(crate) async fn next(&mut self) -> AgentToWorker {
        match self.inbox.recv().await {
            Some(message) => message,
            None => {
                eprintln!("the node's agent is gone: this worker ends");
                std::process::exit(AGENT_LOST);
            }
        }
    }

    async fn say(&self, message: WorkerToAgent) {
        // A broken socket shows as the end of the inbox.
        let _ = self.outbox.send(message).await;
    }
}

async fn serve(roles: Registry, agent: OwnedFd, store: OwnedFd) -> Result<(), Cause> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| Cause::Failed(vec![what.to_owned(), error.to_string()]);
    let mut agent = AgentLine::open(agent).map_err(|error| failed("the agent's socket", &error))?;
    let AgentToWorker::Init { init, credentials } = agent.next().await else {
        return Err(Cause::Failed(vec!["the agent's first message is not an introduction".into()]));
    };
    let ended = host(&mut agent, *init, &credentials, roles, store).await;
    let cause = match &ended {
        Ok(()) => Cause::Finished,
        Err(cause) => cause.clone(),
    };
    agent.say(WorkerToAgent::Ended { cause }).await;
    // It is done when its last message is out; an agent that does not read any more is not waited for.
    let _ = tokio::time::timeout(LAST_WORDS, agent.writing).await;
    ended
}

/// Starts the system and the actor, and serves both until the actor has ended.
async fn host(
    agent: &mut AgentLine,
    init: WorkerInit,
    credentials: &[u8],
    roles: Registry,
    store: OwnedFd,
) -> Result<(), Cause> {
    let failed = |what: String| Cause::Failed(vec![what]);
    check_fingerprint(&init, &roles)?;
    let credentials = Credentials::from_bytes(credentials).map_err(|error| failed(error.to_string()))?;
    let bind = SocketAddr::new(init.bind.ip(), 0);
    let verdict = Duration::from_millis(init.verdict_ms) + VERDICT_MARGIN;
    _ = PLACE.set(Place { credentials: credentials.clone(), bind, advertise: init.advertise, verdict });
    let store = StoreClient::attach(store).map_err(|error| failed(format!("the node's store: {error}")))?;
    let options = SystemOptions {
        advertise: init.advertise,
        actor_threads: init.threads.max(1) as usize,
        verdict_grace: verdict,
        ..SystemOptions::networked(credentials, init.bind, roles)
    };
    let system = System::start(options).map_err(|error| failed(error.to_string()))?;
    let relay = Arc::new(Relay::new(agent.outbox.clone()));
    system.set_control(Arc::new(Control { line: relay.clone() }));
    system.set_large_payloads(Arc::new(store.clone()));
    // Set once: a process hosts one root actor.
    let _ = STORE.set(store);

    let ended = play(agent, &init, &system, &relay).await;
    relay.close("the worker is ending");
    system.shut_down(Duration::from_millis(init.stop_ms)).await;
    ended
}

async fn play(agent: &mut AgentLine, init: &WorkerInit, system: &System, relay: &Relay) -> Result<(), Cause> {
    let actor = ActorId(init.actor);
    let request = &init.request;
    let saved = init.saved.as_deref();
    let starting = system.start_again(&request.role, &request.args, actor, init.process, request.job, saved);
    tokio::pin!(starting);
    let started = loop {
        tokio::select! {
            started = &mut starting => break started,
            message = agent.next() => match message {
                AgentToWorker::Stop { by } => return Err(Cause::OrderedBy(by)),
                other => take_in(other, system, relay),
            },
        }
    };
    started.map_err(|error| match error {
        lyceum_actor::SpawnError::Died(report) => report.cause,
        other => Cause::Failed(vec![other.to_string()]),
    })?;
    agent.say(WorkerToAgent::Ready { address: system.address().addr }).await;

    let ended = system.actor_ended(actor);
    tokio::pin!(ended);
    loop {
        tokio::select! {
            report = &mut ended => return match report.map(|report| report.cause) {
                Some(Cause::Finished) | None => Ok(()),
                Some(cause) => Err(cause),
            },
            message = agent.next() => match message {
                AgentToWorker::Stop { by } => _ = system.stop_actor(actor, &by),
                other => take_in(other, system, relay),
            },
        }
    }
}

fn take_in(message: AgentToWorker, system: &System, relay: &Relay) {
    match message {
        AgentToWorker::Answer { request, answer } => relay.answered(request, answer),
        AgentToWorker::Died(death) => system.process_died(death),
        AgentToWorker::Suspect { node, unreachable } => system.node_suspected(&node, unreachable),
        AgentToWorker::Init { .. } | AgentToWorker::Stop { .. } => {}
    }
}

/// The spawner and this program must mean the same by the role.
fn check_fingerprint(init: &WorkerInit, roles: &Registry) -> Result<(), Cause> {
    let role = &init.request.role;
    let here = roles.fingerprints().into_iter().find(|hosted| hosted.role == *role);
    match here {
        None => Err(Cause::Failed(vec![format!(
            "this program has no implementation of role {role}, it has: {}",
            roles.roles().join(", ")
        )])),
        Some(hosted) if hosted.fingerprint != init.request.fingerprint => Err(Cause::Failed(vec![format!(
            "role {role} differs: its fingerprint is {:#x} in this program and {:#x} at the spawner; build both from the \
             same sources",
            hosted.fingerprint, init.request.fingerprint
        )])),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use lyceum_actor::{Actor, Context, Role, SpawnRequest, fingerprint};

    use super::*;

    struct Desk;

    impl Role for Desk {
        const NAME: &'static str = "desk";
        type Args = ();
        type Messages = ();
    }

    struct Clerk;

    impl Actor for Clerk {
        type Role = Desk;

        async fn start((): (), _: &mut Context<Self>) -> lyceum_actor::Result<Self> {
            Ok(Clerk)
        }
    }

    #[test]
    fn a_role_that_the_spawner_knows_differently_is_refused_by_name_with_both_fingerprints() {
        let init = |fingerprint| WorkerInit {
            bind: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            threads: 1,
            verdict_ms: 1,
            stop_ms: 1,
            actor: 1,
            process: 1,
            request: SpawnRequest { role: "desk".into(), fingerprint, ..SpawnRequest::default() },
            saved: None,
        };
        let known = Registry::new().register::<Clerk>();
        assert_eq!(check_fingerprint(&init(fingerprint::<Desk>()), &known), Ok(()));
        let refused = check_fingerprint(&init(0x5eed), &known).unwrap_err().to_string();
        let here = fingerprint::<Desk>();
        let both = format!(
            "role desk differs: its fingerprint is {here:#x} in this program and 0x5eed at the spawner"
        );
        assert!(refused.contains(&both), "{refused}");
        let unknown = check_fingerprint(&init(0x5eed), &Registry::new()).unwrap_err().to_string();
        assert!(unknown.contains("no implementation of role desk"), "{unknown}");
    }
}
