//! A command-line process's way to the head: jobs, spawns, status.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lyceum_actor::{ActorAddress, Cluster, ControlError, ProcessAddress, Registry, System, SystemOptions};
use lyceum_wire::{
    CloseCode, Connection, Credentials, Endpoint, EndpointOptions, Expect, Fingerprint, LaneReceiver,
    LaneSender, Membership, PeerRole, WireError,
};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use crate::ask::{Control, Line, Questions, Reply, unexpected};
use crate::bring;
use crate::control::papers::{Certificates, Revoked, TokenStatus};
use crate::control::vocabulary::{Answer, Ask, JobEvent, Notice, Status, Warning};
use crate::error::ClusterError;
use crate::head::{HeadAddress, HeadConfig};
use crate::message::{ClientToHead, HeadToClient, Message, Unknown, Unread};
use crate::program::ProgramHash;
use crate::state::StateDir;
use crate::token::JoinToken;

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
    /// Its own end, and where that is served.
    endpoint: OnceLock<(Endpoint, Handle)>,
    /// Connections to the agents that programs were brought to, which keep them for as long.
    brought: Mutex<BTreeMap<ProgramHash, Connection>>,
    /// That of this process's own part in the cluster, and what was revoked so far.
    membership: OnceLock<Membership>,
    revoked: Mutex<BTreeMap<String, Revoked>>,
    state: StateDir,
    authority: Fingerprint,
    /// Nodes of which the head hears nothing.
    silent: Mutex<BTreeSet<String>>,
    /// Why the connection ended, once it has.
    ended: watch::Sender<Option<String>>,
    local: IpAddr,
    /// What the manifest keeps for processes such as this one; empty where the system chooses.
    ports: Range<u16>,
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
            endpoint: OnceLock::new(),
            brought: Mutex::default(),
            membership: OnceLock::new(),
            revoked: Mutex::default(),
            state: state.clone(),
            authority: credentials.authority_fingerprint(),
            silent: Mutex::default(),
            ended,
            local: address.bound.ip(),
            // Who has no manifest is no part of the cluster's machine.
            ports: HeadConfig::load(state).map_or(0..0, |config| config.manifest.client_ports()),
            cluster: credentials.identity().cluster().to_owned(),
        });
        let block = shared.ports.clone();
        let (connected, connection) = oneshot::channel();
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new()
            .name("lyceum-client".into())
            .spawn(move || run_thread(credentials, (address.advertised, block), leaving, &weak, connected))
            .map_err(ClusterError::system("start the client's thread"))?;
        let served =
            connection.await.map_err(|_| ClusterError::Refused("the client's thread ended".into()))??;
        // Set once: this is the only place.
        let _ = shared.endpoint.set(served);
        Ok(Client { shared })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.shared.cluster
    }

    /// SHA-256 of the certificate of the cluster's authority.
    pub fn authority(&self) -> Fingerprint {
        self.shared.authority
    }

    /// Begins a job; everything that is started in it ends with it. A `bound` job ends with this client too.
    pub async fn begin_job(&self, name: &str, bound: bool) -> Result<Job, ClusterError> {
        let id = match self.ask(Ask::BeginJob { name: name.to_owned(), bound }).await? {
            (Answer::Job(id), _) => id,
            (other, _) => return Err(unexpected(&other).into()),
        };
        let events = locked(&self.shared.begun).remove(&id);
        let events = events.ok_or_else(|| ClusterError::Refused(format!("job {id} was begun twice")))?;
        Ok(Job { client: self.clone(), id, events, program: None })
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

    /// Brings a worker binary to the cluster and returns what spawns name it by: [`Spawn::program`](lyceum_actor::Spawn::program),
    /// or, for all that a job spawns, [`Job::program`]. It goes to one node, which keeps it for as long as this client is
    /// connected; the others have it from there when they need it. What the cluster has already is not sent again.
    ///
    /// It is run as `PROGRAM worker` and calls [`worker::run`](crate::worker::run). Of what is beside it, and of its libraries,
    /// nothing comes with it.
    ///
    /// # Errors
    /// It cannot be read, or no node takes it: each with its reason.
    pub async fn bring(&self, program: &Path) -> Result<ProgramHash, ClusterError> {
        let (endpoint, runtime) = self.shared.endpoint.get().cloned().ok_or_else(Self::closing)?;
        let path = program.to_owned();
        let reading = runtime.spawn_blocking(move || bring::Binary::read(&path));
        let file = reading.await.map_err(|_| Self::closing())??;
        let hash = file.hash();
        let status = self.status().await?;
        let bringing = runtime.spawn(async move { bring::to_one_of(&endpoint, &status, &file).await });
        let (node, connection) = bringing.await.map_err(|_| Self::closing())??;
        self.done(Ask::HasProgram { node, program: hash.to_string() }).await?;
        locked(&self.shared.brought).insert(hash, connection);
        Ok(hash)
    }

    fn closing() -> ClusterError {
        ClusterError::Refused("the client is ending".into())
    }

    /// The state of everything.
    pub async fn status(&self) -> Result<Status, ClusterError> {
        match self.ask(Ask::Status).await? {
            (Answer::Status(status), _) => Ok(status),
            (other, _) => Err(unexpected(&other).into()),
        }
    }

    /// What is wrong in the cluster and costs speed: of each node, and of the head.
    pub async fn warnings(&self) -> Result<Vec<Warning>, ClusterError> {
        match self.ask(Ask::Warnings).await? {
            (Answer::Warnings(warnings), _) => Ok(warnings),
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
        let membership = Membership::from(credentials);
        let bind = SocketAddr::new(self.shared.local, 0);
        let ports = self.shared.ports.clone();
        let options = SystemOptions { ports, ..SystemOptions::networked(membership.clone(), bind, roles) };
        let system = System::start(options).map_err(|error| ClusterError::Refused(error.to_string()))?;
        if self.shared.system.set(system.clone()).is_err() {
            system.shut_down(Duration::ZERO).await;
            return Err(ClusterError::Refused("this client has started its system already".into()));
        }
        self.shared.keep_membership(membership, Arc::downgrade(&self.shared));
        // A weak line: the system must not keep the client, and with it its jobs, alive.
        let line = Arc::new(WeakLine(Arc::downgrade(&self.shared)));
        system.set_control(Arc::new(Control { line }));
        // What was said before there was a system to tell.
        locked(&self.shared.silent).iter().for_each(|node| system.node_suspected(node, true));
        Ok(system)
    }

    /// A token that lets a host in as `node`, once, for as long as `ttl`: [`launch::join`](crate::launch::join) takes it there.
    pub async fn create_token(&self, node: &str, ttl: Duration) -> Result<JoinToken, ClusterError> {
        let manifest = HeadConfig::load(&self.shared.state)?.manifest;
        let token = JoinToken {
            cluster: self.shared.cluster.clone(),
            node: node.to_owned(),
            heads: HeadAddress::of_candidates(&self.shared.state, &manifest)?,
            authority: self.shared.authority,
            id: u64::from_le_bytes(lyceum_wire::random_bytes()?),
            secret: lyceum_wire::random_bytes()?,
        };
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let hash = Sha256::digest(token.secret).into();
        self.done(Ask::CreateToken { id: token.id, node: node.to_owned(), hash, ttl_ms }).await?;
        Ok(token)
    }

    /// What is known of tokens.
    pub async fn tokens(&self) -> Result<Vec<TokenStatus>, ClusterError> {
        match self.ask(Ask::Tokens).await? {
            (Answer::Tokens(tokens), _) => Ok(tokens),
            (other, _) => Err(unexpected(&other).into()),
        }
    }

    /// Has nobody let in with a token any more.
    pub async fn revoke_token(&self, id: u64) -> Result<(), ClusterError> {
        self.done(Ask::RevokeToken { id }).await
    }

    /// What is known of certificates.
    pub async fn certificates(&self) -> Result<Certificates, ClusterError> {
        match self.ask(Ask::Certificates).await? {
            (Answer::Certificates(certificates), _) => Ok(certificates),
            (other, _) => Err(unexpected(&other).into()),
        }
    }

    /// Orders that the certificates of a node, or of all and of the head, are renewed now.
    pub async fn renew_certificates(&self, node: Option<&str>) -> Result<(), ClusterError> {
        self.done(Ask::RenewNodes { node: node.map(str::to_owned) }).await
    }

    /// Has no certificate of a node taken any more, and the node given up.
    pub async fn revoke(&self, node: &str, by: &str) -> Result<(), ClusterError> {
        self.done(Ask::Revoke { node: node.to_owned(), by: by.to_owned() }).await
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
    program: Option<ProgramHash>,
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

    /// Gives the job a worker binary of its own, and [brings](Client::bring) it: it hosts what is spawned through
    /// [`cluster`](Self::cluster) from now on, and what that spawns, unless a spawn names another program. Other jobs may have
    /// others.
    ///
    /// # Errors
    /// As [`Client::bring`].
    pub async fn program(&mut self, program: &Path) -> Result<ProgramHash, ClusterError> {
        let hash = self.client.bring(program).await?;
        self.program = Some(hash);
        Ok(hash)
    }

    /// The cluster as seen from this job: what is spawned there ends with it. `system` is this client's.
    pub fn cluster(&self, system: &System) -> Cluster {
        let cluster = system.cluster().for_job(self.id);
        match self.program {
            Some(program) => cluster.program(&program.to_string()),
            None => cluster,
        }
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
    /// Keeps the certificate of this process's own part new, and refuses whom the head says.
    fn keep_membership(&self, membership: Membership, shared: std::sync::Weak<Shared>) {
        if let Some((_, io)) = self.endpoint.get() {
            let line = WeakLine(shared);
            let ask = move |ask| line.ask(ask);
            io.spawn(crate::renewal::keep(membership.clone(), Arc::default(), None, ask));
        }
        let revoked = locked(&self.revoked);
        refuse(&membership, revoked.values().cloned());
        // Set once: a client has one system.
        let _ = self.membership.set(membership);
    }

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
            HeadToClient::Notice(Notice::Revoked(revoked)) => {
                let mut known = locked(&self.revoked);
                known.extend(revoked.iter().map(|one| (one.node.clone(), one.clone())));
                if let Some(membership) = self.membership.get() {
                    refuse(membership, revoked);
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

fn refuse(membership: &Membership, revoked: impl IntoIterator<Item = Revoked>) {
    for one in revoked {
        if let Err(error) = membership.revoke(one.into()) {
            tracing::error!(%error, "a revocation is not kept");
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of the client's thread.
fn run_thread(
    credentials: Credentials,
    (head, ports): (SocketAddr, Range<u16>),
    leaving: mpsc::Receiver<(u64, Ask)>,
    shared: &std::sync::Weak<Shared>,
    connected: oneshot::Sender<Result<(Endpoint, Handle), ClusterError>>,
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
        let (endpoint, connection) = match connect(credentials, head, ports).await {
            Ok(both) => both,
            Err(error) => return drop(connected.send(Err(error))),
        };
        let _ = connected.send(Ok((endpoint.clone(), Handle::current())));
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

async fn connect(
    credentials: Credentials,
    head: SocketAddr,
    ports: Range<u16>,
) -> Result<(Endpoint, Connection), ClusterError> {
    let any = match head {
        // A head of this machine alone is called from this machine alone.
        _ if head.ip().is_loopback() => SocketAddr::new(head.ip(), 0),
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    };
    let endpoint = Endpoint::bind(credentials, EndpointOptions { ports, ..EndpointOptions::new(any) })?;
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
