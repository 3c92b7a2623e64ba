//! A command-line process's way to the head: jobs, spawns, status.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lyceum_actor::{ActorAddress, Cluster, ControlError, ProcessAddress, Registry, System, SystemOptions};
use lyceum_wire::{
    CloseCode, Connection, Credentials, Endpoint, EndpointOptions, Expect, LaneReceiver, LaneSender,
    PeerRole, WireError,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::ask::{Control, Line, Questions, Reply, unexpected};
use crate::control::vocabulary::{Answer, Ask, JobEvent, Notice, Status};
use crate::error::ClusterError;
use crate::head::HeadAddress;
use crate::message::{ClientToHead, HeadToClient, Message, Unknown, Unread};
use crate::state::StateDir;

/// Questions that may wait to be sent.
const MAX_QUEUED: usize = 4096;
/// Events of one job that may wait to be read.
const MAX_EVENTS: usize = 65_536;
/// How long the head may take to let a client in.
const CONNECT: Duration = Duration::from_secs(6);
/// How long the last question may take to leave.
const FAREWELL: Duration = Duration::from_millis(500);

/// A connection to a cluster's head. Cheap to clone; it closes with the last clone, and jobs bound to it end then.
///
/// It has a thread of its own, so its futures may be awaited on any executor.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    questions: Questions,
    outbox: mpsc::Sender<(u64, Ask)>,
    jobs: Mutex<BTreeMap<u64, mpsc::Sender<JobEvent>>>,
    /// Streams of jobs that have begun and that nobody has taken yet.
    begun: Mutex<BTreeMap<u64, mpsc::Receiver<JobEvent>>>,
    system: OnceLock<System>,
    /// Nodes of which the head hears nothing.
    silent: Mutex<BTreeSet<String>>,
    /// Why the connection ended, once it has.
    ended: watch::Sender<Option<String>>,
    local: IpAddr,
    cluster: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client of cluster {}", self.shared.cluster)
    }
}

impl Client {
    /// Connects with the credentials in `state` to the head of that cluster.
    pub async fn connect(state: &StateDir) -> Result<Client, ClusterError> {
        let address = HeadAddress::load(state)
            .map_err(|_| ClusterError::Refused(format!("no cluster runs in {}", state.root().display())))?;
        let error = match Client::connect_to(state, address).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        // Another may have taken over.
        for other in
            HeadAddress::all(state).into_iter().filter(|other| other.advertised != address.advertised)
        {
            if let Ok(client) = Client::connect_to(state, other).await {
                return Ok(client);
            }
        }
        Err(error)
    }

    async fn connect_to(state: &StateDir, address: HeadAddress) -> Result<Client, ClusterError> {
        let credentials = Credentials::load(&state.client())?;
        let (outbox, leaving) = mpsc::channel(MAX_QUEUED);
        let (ended, _) = watch::channel(None);
        let shared = Arc::new(Shared {
            questions: Questions::default(),
            outbox,
            jobs: Mutex::default(),
            begun: Mutex::default(),
            system: OnceLock::new(),
            silent: Mutex::default(),
            ended,
            local: address.bound.ip(),
            cluster: credentials.identity().cluster().to_owned(),
        });
        let (connected, connection) = oneshot::channel();
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new()
            .name("lyceum-client".into())
            .spawn(move || run_thread(credentials, address.advertised, leaving, &weak, connected))
            .map_err(ClusterError::system("start the client's thread"))?;
        connection.await.map_err(|_| ClusterError::Refused("the client's thread ended".into()))??;
        Ok(Client { shared })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.shared.cluster
    }

    /// Begins a job; everything that is started in it ends with it. A `bound` job ends with this client too.
    pub async fn begin_job(&self, name: &str, bound: bool) -> Result<Job, ClusterError> {
        let id = match self.ask(Ask::BeginJob { name: name.to_owned(), bound }).await? {
            (Answer::Job(id), _) => id,
            (other, _) => return Err(unexpected(&other).into()),
        };
        let events = locked(&self.shared.begun).remove(&id);
        let events = events.ok_or_else(|| ClusterError::Refused(format!("job {id} was begun twice")))?;
        Ok(Job { client: self.clone(), id, events })
    }

    /// What happens in a job from now on, whoever began it; once per client. It ends with the job, or with the connection.
    pub(crate) async fn follow(&self, job: u64) -> Result<mpsc::Receiver<JobEvent>, ClusterError> {
        let (sender, events) = mpsc::channel(MAX_EVENTS);
        locked(&self.shared.jobs).insert(job, sender);
        self.done(Ask::Follow { job }).await?;
        Ok(events)
    }

    /// Ends a job; returns when nothing of it is left.
    pub async fn end_job(&self, job: u64, by: &str) -> Result<(), ClusterError> {
        self.done(Ask::EndJob { job, by: by.to_owned(), kill: false }).await
    }

    /// Ends a job without asking its processes; returns when nothing of it is left.
    pub async fn kill_job(&self, job: u64, by: &str) -> Result<(), ClusterError> {
        self.done(Ask::EndJob { job, by: by.to_owned(), kill: true }).await
    }

    /// The state of everything.
    pub async fn status(&self) -> Result<Status, ClusterError> {
        match self.ask(Ask::Status).await? {
            (Answer::Status(status), _) => Ok(status),
            (other, _) => Err(unexpected(&other).into()),
        }
    }

    /// Has nothing new started on a node, for this reason.
    pub async fn cordon(&self, node: &str, why: &str) -> Result<(), ClusterError> {
        self.done(Ask::Cordon { node: node.to_owned(), why: why.to_owned() }).await
    }

    /// The opposite of [`cordon`](Self::cordon) and [`drain`](Self::drain).
    pub async fn uncordon(&self, node: &str) -> Result<(), ClusterError> {
        self.done(Ask::Uncordon { node: node.to_owned() }).await
    }

    /// Has nothing new started on a node, and what is on it after `within` ended, or started elsewhere where it has
    /// restarts; returns when nothing of it is left there.
    pub async fn drain(&self, node: &str, within: Duration, by: &str) -> Result<(), ClusterError> {
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.done(Ask::Drain { node: node.to_owned(), within_ms, by: by.to_owned() }).await
    }

    /// Ends the cluster; returns when its agents have ended.
    pub async fn shut_down(&self, by: &str) -> Result<(), ClusterError> {
        self.done(Ask::Shutdown { by: by.to_owned() }).await
    }

    /// Waits for the end of the connection and says why it ended.
    pub async fn closed(&self) -> String {
        let mut ended = self.shared.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the client was closed".to_owned(),
        }
    }

    /// Has it done; the answer says no more than that.
    async fn done(&self, ask: Ask) -> Result<(), ClusterError> {
        Ok(self.ask(ask).await.map(drop)?)
    }

    /// Starts this process's own part in the cluster, so that it can call actors and be called: once per client. The
    /// system hosts `roles`, as far as they are started in this process itself.
    pub async fn start_system(&self, roles: Registry) -> Result<System, ClusterError> {
        let credentials = match self.ask(Ask::IssueClient).await? {
            (Answer::Identity { .. }, credentials) => Credentials::from_bytes(&credentials)?,
            (other, _) => return Err(unexpected(&other).into()),
        };
        let options = SystemOptions::networked(credentials, SocketAddr::new(self.shared.local, 0), roles);
        let system = System::start(options).map_err(|error| ClusterError::Refused(error.to_string()))?;
        if self.shared.system.set(system.clone()).is_err() {
            system.shut_down(Duration::ZERO).await;
            return Err(ClusterError::Refused("this client has started its system already".into()));
        }
        // A weak line: the system must not keep the client, and with it its jobs, alive.
        let line = Arc::new(WeakLine(Arc::downgrade(&self.shared)));
        system.set_control(Arc::new(Control { line }));
        // What was said before there was a system to tell.
        locked(&self.shared.silent).iter().for_each(|node| system.node_suspected(node, true));
        Ok(system)
    }

    pub(crate) async fn issue_node(&self, node: &str) -> Result<Credentials, ClusterError> {
        match self.ask(Ask::IssueNode { node: node.to_owned() }).await? {
            (Answer::Identity { .. }, credentials) => Ok(Credentials::from_bytes(&credentials)?),
            (other, _) => Err(unexpected(&other).into()),
        }
    }

    fn ask(&self, ask: Ask) -> BoxFuture<'static, Result<Reply, ControlError>> {
        self.shared.ask(ask)
    }
}

/// A job that this client began.
#[derive(Debug)]
pub struct Job {
    client: Client,
    id: u64,
    events: mpsc::Receiver<JobEvent>,
}

impl Job {
    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The client that began it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The cluster as seen from this job: what is spawned there ends with it. `system` is this client's.
    pub fn cluster(&self, system: &System) -> Cluster {
        system.cluster().for_job(self.id)
    }

    /// What happens in the job, in order; `None` when the job has ended or the connection to the head is lost.
    pub async fn next_event(&mut self) -> Option<JobEvent> {
        self.events.recv().await
    }

    /// Ends it; returns when nothing of it is left.
    pub async fn end(&self, by: &str) -> Result<(), ClusterError> {
        self.client.end_job(self.id, by).await
    }

    /// Ends it without asking its processes; returns when nothing of it is left.
    pub async fn kill(&self, by: &str) -> Result<(), ClusterError> {
        self.client.kill_job(self.id, by).await
    }
}

impl Shared {
    fn ask(&self, ask: Ask) -> BoxFuture<'static, Result<Reply, ControlError>> {
        let asked = self.questions.open().and_then(|(number, answer)| {
            let sent = self.outbox.try_send((number, ask));
            sent.map_err(|error| ControlError::Unreachable(format!("the way to the head: {error}")))?;
            Ok(answer)
        });
        async move {
            match asked?.await {
                Ok((Answer::Error(error), _)) => Err(error),
                Ok(reply) => Ok(reply),
                Err(_) => Err(ControlError::Unreachable("the client was closed".into())),
            }
        }
        .boxed()
    }

    fn take_in(&self, message: HeadToClient) {
        match message {
            HeadToClient::Answer { request, answer, credentials } => {
                if let Answer::Job(job) = answer {
                    let (sender, receiver) = mpsc::channel(MAX_EVENTS);
                    locked(&self.jobs).insert(job, sender);
                    locked(&self.begun).insert(job, receiver);
                }
                self.questions.answer(request, (answer, credentials));
            }
            HeadToClient::Notice(Notice::Job { job, event }) => {
                let over = matches!(event, JobEvent::JobEnded { .. });
                let mut jobs = locked(&self.jobs);
                if let Some(events) = jobs.get(&job)
                    && let Err(mpsc::error::TrySendError::Full(event)) = events.try_send(event)
                {
                    tracing::warn!(job, ?event, "{MAX_EVENTS} events of a job wait: this one is dropped");
                }
                if over {
                    jobs.remove(&job);
                }
            }
            HeadToClient::Notice(Notice::Died(death)) => {
                if let Some(system) = self.system.get() {
                    system.process_died(death);
                }
            }
            HeadToClient::Notice(Notice::Suspect { node, unreachable }) => {
                let mut silent = locked(&self.silent);
                match unreachable {
                    true => silent.insert(node.clone()),
                    false => silent.remove(&node),
                };
                if let Some(system) = self.system.get() {
                    system.node_suspected(&node, unreachable);
                }
            }
        }
    }

    fn close(&self, why: String) {
        self.questions.close(&why);
        locked(&self.jobs).clear();
        self.ended.send_replace(Some(why));
    }
}

struct WeakLine(std::sync::Weak<Shared>);

impl Line for WeakLine {
    fn ask(&self, ask: Ask) -> BoxFuture<'static, Result<Reply, ControlError>> {
        match self.0.upgrade() {
            Some(shared) => shared.ask(ask),
            None => async { Err(ControlError::Unreachable("the client was closed".into())) }.boxed(),
        }
    }

    fn watch(&self, process: &ProcessAddress) {
        let Some(shared) = self.0.upgrade() else { return };
        // Number 0 is never answered.
        if let Err(error) = shared.outbox.try_send((0, Ask::Watch(process.clone()))) {
            tracing::warn!(%process, %error, "a process is not watched");
        }
    }

    /// A person's program logs it, and is on no node.
    fn stalled(&self, _: &ActorAddress, _: Option<String>) {}
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of the client's thread.
fn run_thread(
    credentials: Credentials,
    head: SocketAddr,
    leaving: mpsc::Receiver<(u64, Ask)>,
    shared: &std::sync::Weak<Shared>,
    connected: oneshot::Sender<Result<(), ClusterError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            let doing = "start the client's runtime".to_owned();
            let _ = connected.send(Err(ClusterError::System { doing, source }));
            return;
        }
    };
    runtime.block_on(async {
        let (endpoint, connection) = match connect(credentials, head).await {
            Ok(both) => both,
            Err(error) => return drop(connected.send(Err(error))),
        };
        let _ = connected.send(Ok(()));
        let why = match converse(&connection, leaving, shared).await {
            Ok(()) => "the client was closed".to_owned(),
            Err(error) => format!("the connection to the head is lost: {error}"),
        };
        connection.close(CloseCode::Done, "the client has ended");
        if let Some(shared) = shared.upgrade() {
            shared.close(why);
        }
        let _ = tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await;
    });
}

async fn connect(credentials: Credentials, head: SocketAddr) -> Result<(Endpoint, Connection), ClusterError> {
    let any = match head {
        // A head of this machine alone is called from this machine alone.
        _ if head.ip().is_loopback() => SocketAddr::new(head.ip(), 0),
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    };
    let endpoint = Endpoint::bind(credentials, EndpointOptions::new(any))?;
    let expect = Expect::role(PeerRole::Head);
    match tokio::time::timeout(CONNECT, endpoint.connect(head, &expect)).await {
        Ok(connection) => Ok((endpoint, connection?)),
        Err(_) => Err(ClusterError::Refused(format!("the head at {head} does not answer"))),
    }
}

async fn converse(
    connection: &Connection,
    mut leaving: mpsc::Receiver<(u64, Ask)>,
    shared: &std::sync::Weak<Shared>,
) -> Result<(), WireError> {
    let (lane, mut frames) = connection.lane()?;
    tokio::select! {
        read = read_frames(&mut frames, shared) => read,
        written = write_asks(&lane, &mut leaving) => {
            written?;
            // The last clone of the client is gone: what it asked last still leaves.
            let _ = tokio::time::timeout(FAREWELL, lane.finish()).await;
            Ok(())
        }
    }
}

async fn read_frames(frames: &mut LaneReceiver, shared: &std::sync::Weak<Shared>) -> Result<(), WireError> {
    let mut unknown = Unknown::default();
    while let Some(frame) = frames.recv().await? {
        let message = match HeadToClient::from_frame(&frame)? {
            Some(message) => message,
            None => match unknown.pass_by(&frame, &"the head") {
                Some(Unread { request, answer, .. }) => {
                    HeadToClient::Answer { request, answer, credentials: Vec::new() }
                }
                None => continue,
            },
        };
        let Some(shared) = shared.upgrade() else { return Ok(()) };
        shared.take_in(message);
    }
    Ok(())
}

async fn write_asks(lane: &LaneSender, leaving: &mut mpsc::Receiver<(u64, Ask)>) -> Result<(), WireError> {
    while let Some((request, ask)) = leaving.recv().await {
        lane.send(ClientToHead::Ask { request, ask }.into_frame()?).await?;
    }
    Ok(())
}
