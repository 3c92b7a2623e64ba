//! The words that head, agents and clients speak. Each has a number, its kind (`kinds.rs`), and an archive of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lyceum_actor::{
    ActorAddress, ActorId, ControlError, DeathReport, GangRequest, ProcessAddress, ProcessDeath, ProcessKind,
    SpawnRequest,
};
use rkyv::{Archive, Deserialize, Serialize};

use super::offer::Gpu;
use super::papers::{Certificates, Revoked, TokenStatus};
use super::resources::{Allotment, Capacity};
use crate::kinds::kinds;

/// The node name in the certificates of clients: they live on no node of the manifest.
pub const CLIENT_NODE: &str = "client";
/// The node name in the head's certificate.
pub const HEAD_NODE: &str = "head";

/// What the head tells an agent. Every command may arrive twice and does the same then as once.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "commands go one by one into a frame")]
pub enum Command {
    /// Start a process. Its number makes the command the same command when it arrives again.
    Launch(Launch),
    /// End a process: ask it, and kill it once `grace_ms` have passed; at once for 0.
    Stop {
        /// The process.
        process: u64,
        /// Milliseconds it has to end by itself.
        grace_ms: u64,
        /// Who ordered it, for its death report.
        by: String,
    },
    /// The head has written down how this process ended: the agent need not keep it.
    Forget {
        /// The process.
        process: u64,
    },
    /// Where another node's agent is.
    Peer {
        /// Its node.
        node: String,
        /// Its incarnation.
        incarnation: u64,
        /// Its endpoint.
        address: SocketAddr,
    },
    /// A node is silent, or no longer.
    Suspect {
        /// The node.
        node: String,
        /// Is it silent?
        unreachable: bool,
    },
    /// A node is lost with all its processes of a number below `before`.
    NodeLost {
        /// The node.
        node: String,
        /// Processes with a lower number are gone.
        before: u64,
        /// The evidence in words.
        reason: String,
    },
    /// A process that is on no node (a client's) is gone.
    Died(ProcessDeath),
    /// Where a program is that a job brought; before a launch that names it.
    Program {
        /// Its hash, as spawns name it.
        program: String,
        /// Other nodes that have it, the first to be asked first.
        holders: Vec<String>,
    },
    /// Certificates are taken no more.
    Revoked(Vec<Revoked>),
    /// Renew the certificates of this node now.
    Renew,
    /// What the log of a process is to say of it. Comes before its launch, for people alone.
    Caption {
        /// The process.
        process: u64,
        /// What its launch does not say.
        caption: Caption,
    },
    /// End all workers and then yourself.
    End {
        /// Milliseconds the workers have to end by themselves.
        grace_ms: u64,
        /// Who ordered it.
        by: String,
    },
}

/// A process to start.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct Launch {
    /// Its number, unique in the cluster; also the incarnation of its actor.
    pub process: u64,
    /// Its actor.
    pub actor: u64,
    /// What was asked for.
    pub request: SpawnRequest,
    /// What it was given.
    pub allotment: Allotment,
    /// What an earlier life of its actor has saved last.
    pub saved: Option<Vec<u8>>,
}

/// What people are told of a process beyond what its launch says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Caption {
    /// The name of its job.
    pub job_name: String,
    /// Its actor's number in its gang, and that gang's size, if it is of one.
    pub rank: Option<(u32, u32)>,
}

/// What an agent tells the head about a process of its own.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// Its actor has started.
    Ready {
        /// The process.
        process: u64,
        /// Its endpoint.
        address: SocketAddr,
        /// Its number on its own machine.
        pid: u32,
    },
    /// It has ended, or never began. Told again on every joining until the head says [`Command::Forget`].
    Ended(ProcessDeath),
    /// Actors of it make no progress, in words; without them, all go on.
    Stalled {
        /// The process.
        process: u64,
        /// What is known of them.
        stall: Option<String>,
    },
    /// What is wrong on the node and costs speed, in words, all of it. Told on every joining, and when it changes.
    Warnings {
        /// One sentence each.
        warnings: Vec<String>,
    },
    /// The programs that jobs brought and that are there now, by their hashes. Told on every joining, and when they change.
    Programs {
        /// All of them.
        programs: Vec<String>,
    },
}

/// One line of an agent's inventory: a process that runs there.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct Running {
    /// The process.
    pub process: u64,
    /// What it holds.
    pub allotment: Allotment,
    /// Its endpoint and its number on its machine, once its actor has started.
    pub ready: Option<(SocketAddr, u32)>,
    /// What is known of its actors that make no progress.
    pub stall: Option<String>,
}

/// What a client, or a worker through its agent, asks of the head.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Begin a job. Answered by [`Answer::Job`]. Clients only.
    BeginJob {
        /// Its name, for people.
        name: String,
        /// Does it end when this client goes?
        bound: bool,
    },
    /// End a job and everything in it. Answered by [`Answer::Done`] when nothing of it is left.
    EndJob {
        /// The job.
        job: u64,
        /// Who orders it, for the death reports.
        by: String,
        /// At once, without asking its processes?
        kill: bool,
    },
    /// Be told of a job's events from now on. Clients only.
    Follow {
        /// The job.
        job: u64,
    },
    /// Start an actor in a process of its own. Answered by [`Answer::Actor`] when it has started.
    Spawn(SpawnRequest),
    /// Start actors as one gang. Answered by [`Answer::Actors`] when all have started.
    SpawnGang(GangRequest),
    /// Where is the actor of this name, or the gang? Answered by [`Answer::Actor`], [`Answer::Actors`] or [`Answer::Nobody`].
    Lookup {
        /// The job whose names are meant; a worker's own job whatever it says.
        job: u64,
        /// The namespace that is meant instead.
        namespace: Option<String>,
        /// The name.
        name: String,
    },
    /// End an actor with its process. Answered by [`Answer::Done`] once ordered.
    StopActor {
        /// The actor.
        actor: u64,
        /// At once, without asking it?
        kill: bool,
    },
    /// Keep this for the asker's next life, in place of what was kept before. Answered by [`Answer::Done`] when it is written
    /// down. Workers only.
    Save {
        /// What its actor wants to find there.
        state: Vec<u8>,
    },
    /// Be told when this process is gone. Never answered.
    Watch(ProcessAddress),
    /// This client has brought a program to a node. Answered by [`Answer::Done`]. Clients only.
    HasProgram {
        /// The node.
        node: String,
        /// The program's hash.
        program: String,
    },
    /// What is the state of everything? Answered by [`Answer::Status`].
    Status,
    /// What is wrong and costs speed? Answered by [`Answer::Warnings`].
    Warnings,
    /// A new incarnation of a node's agent is to be started, of the manifest's or of another. Answered by
    /// [`Answer::Identity`]. Clients only.
    IssueNode {
        /// The node.
        node: String,
    },
    /// This client wants to take part with a process of its own. Answered by [`Answer::Identity`]. Clients only.
    IssueClient,
    /// Start nothing new on a node. Answered by [`Answer::Done`]. Clients only.
    Cordon {
        /// The node.
        node: String,
        /// Why, for people.
        why: String,
    },
    /// The opposite. Answered by [`Answer::Done`]. Clients only.
    Uncordon {
        /// The node.
        node: String,
    },
    /// Start nothing new on a node, and have it empty in time. Answered by [`Answer::Done`] when it is. Clients only.
    Drain {
        /// The node.
        node: String,
        /// Milliseconds after which what is left there is ended, and started elsewhere where it has restarts.
        within_ms: u64,
        /// Who orders it, for people and death reports.
        by: String,
    },
    /// Let a node in that shows this token, once. Answered by [`Answer::Done`]. Clients only.
    CreateToken {
        /// The token's number.
        id: u64,
        /// The node.
        node: String,
        /// SHA-256 of its secret.
        hash: [u8; 32],
        /// Milliseconds until it expires.
        ttl_ms: u64,
    },
    /// Which tokens are known? Answered by [`Answer::Tokens`]. Clients only.
    Tokens,
    /// Let nobody in with this token. Answered by [`Answer::Done`]. Clients only.
    RevokeToken {
        /// The token's number.
        id: u64,
    },
    /// Take no certificate of a node any more, and give it up. Answered by [`Answer::Done`]. Clients only.
    Revoke {
        /// The node.
        node: String,
        /// Who orders it, for people and death reports.
        by: String,
    },
    /// Which certificates were issued? Answered by [`Answer::Certificates`]. Clients only.
    Certificates,
    /// Have the certificates of a node, or of all, renewed now. Answered by [`Answer::Done`] when that is ordered. Clients only.
    RenewNodes {
        /// The node.
        node: Option<String>,
    },
    /// Sign a certificate for a new key of the asker's own process. Answered by [`Answer::Certified`].
    Renew {
        /// Its public half.
        public_key: Vec<u8>,
    },
    /// End the cluster. Answered by [`Answer::Done`] once nothing runs any more. Clients only.
    Shutdown {
        /// Who orders it.
        by: String,
    },
}

/// What the head answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The job's number.
    Job(u64),
    /// Where the actor is.
    Actor(ActorAddress),
    /// Where the members of the gang are, by rank.
    Actors(Vec<ActorAddress>),
    /// There is no such actor.
    Nobody,
    /// Done.
    Done,
    /// The state of everything.
    Status(Status),
    /// What is wrong and costs speed.
    Warnings(Vec<Warning>),
    /// The incarnation that was allotted; the credentials for it come with the answer.
    Identity {
        /// The node it is for.
        node: String,
        /// Its incarnation.
        incarnation: u64,
    },
    /// What is known of tokens.
    Tokens(Vec<TokenStatus>),
    /// What is known of certificates.
    Certificates(Certificates),
    /// The certificate that was asked for, and the authority's, as PEM text.
    Certified {
        /// Both.
        chain: Vec<u8>,
    },
    /// Not done, and why.
    Error(ControlError),
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Archive, Serialize, Deserialize)]
pub enum Origin {
    /// A client, by the number of its connection.
    Client(u64),
    /// A worker, by its process.
    Worker(u64),
}

/// What clients are told without asking again.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// Something happened in a job that this client follows.
    Job {
        /// The job.
        job: u64,
        /// What happened.
        event: JobEvent,
    },
    /// Certificates are taken no more.
    Revoked(Vec<Revoked>),
    /// A process that this client watches is gone.
    Died(ProcessDeath),
    /// A node is silent, or no longer.
    Suspect {
        /// The node.
        node: String,
        /// Is it silent?
        unreachable: bool,
    },
}

/// What happens in a job.
#[derive(Debug, Clone, PartialEq)]
pub enum JobEvent {
    /// An actor has started.
    Started {
        /// The actor and where it is.
        address: ActorAddress,
        /// Its name, if it has one.
        name: Option<String>,
    },
    /// An actor died and is being started again.
    Restarting {
        /// How it died.
        report: DeathReport,
        /// How often it may be started again after this.
        restarts_left: u32,
    },
    /// An actor has passed its progress deadline, or goes on after it had.
    Stalled {
        /// The actor and where it is.
        address: ActorAddress,
        /// What it is at; without it, it goes on.
        stall: Option<String>,
    },
    /// An actor has ended for good.
    Ended {
        /// How.
        report: DeathReport,
        /// Did somebody order it, or did it finish by itself? If neither, it is a fault.
        expected: bool,
    },
    /// The job has ended; nothing of it is left.
    JobEnded {
        /// By whom.
        by: String,
    },
}

/// The state of a cluster, for people.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's name.
    pub cluster: String,
    /// Does it end with its runner?
    pub owned: bool,
    /// Every node, of the manifest or joined since, by name.
    pub nodes: Vec<NodeStatus>,
    /// Every job.
    pub jobs: Vec<JobStatus>,
    /// Every actor that has a process or waits for one.
    pub actors: Vec<ActorStatus>,
    /// What waits for room in all, and what is done about it, in lines for people.
    pub wanting: Vec<String>,
}

/// The state of a node.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// `joined`, `absent`, `unreachable` or `lost: why`; of one that takes nothing new, `joined, closed: why`.
    pub state: String,
    /// May processes be placed on it now?
    pub joined: bool,
    /// Incarnation of its agent; 0 before the first one.
    pub incarnation: u64,
    /// Where its agent is.
    pub address: Option<SocketAddr>,
    /// Its agent's number on its own machine.
    pub pid: u32,
    /// What it has; nothing as long as only its agent knows, and that has not joined.
    pub capacity: Capacity,
    /// Does the manifest have it?
    pub in_manifest: bool,
    /// What is known of its GPUs, by their numbers.
    pub gpus: Vec<Gpu>,
    /// What its processes hold.
    pub used: Allotment,
    /// Its processes.
    pub processes: u32,
    /// Its object store.
    pub store: StoreUse,
}

/// Something that is wrong and costs speed.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct Warning {
    /// Who has found it: a node, or `head`.
    pub by: String,
    /// What it is, and what to do.
    pub text: String,
}

/// What is in a node's store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct StoreUse {
    /// Bytes it has.
    pub capacity_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Objects, those on disk too.
    pub objects: u64,
    /// Bytes of objects on disk.
    pub spilled_bytes: u64,
}

/// The state of a job.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its number.
    pub job: u64,
    /// Its name.
    pub name: String,
    /// Is it ending?
    pub ending: bool,
    /// Actors that it has.
    pub actors: u32,
}

/// The state of an actor.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct ActorStatus {
    /// Its number.
    pub actor: u64,
    /// Its job.
    pub job: u64,
    /// Its role.
    pub role: String,
    /// Its number in its gang, and that gang's size, if it is of one.
    pub rank: Option<(u32, u32)>,
    /// Its name.
    pub name: Option<String>,
    /// The namespace of its name; the job's own names where absent.
    pub namespace: Option<String>,
    /// `running`, `running, no progress: why`, `starting`, `stopping`, `waiting for room: why` or `waiting to be started again`.
    pub state: String,
    /// Its node; empty while it waits for one.
    pub node: String,
    /// Its process; 0 while it waits for one.
    pub process: u64,
    /// That process's number on its machine; 0 until it has started.
    pub pid: u32,
    /// Where its process listens, once it has started.
    pub address: Option<SocketAddr>,
    /// What it was given.
    pub allotment: Allotment,
}

impl ActorStatus {
    /// Where it can be called, if it has started.
    pub fn running_at(&self) -> Option<ActorAddress> {
        let process = ProcessAddress {
            kind: ProcessKind::Worker,
            node: self.node.clone(),
            process: self.process,
            addr: self.address?,
        };
        Some(ActorAddress {
            actor: ActorId(self.actor),
            incarnation: self.process,
            role: self.role.clone(),
            process,
            job: self.job,
        })
    }
}

kinds! { Command:
    0x0201 = Launch(launch),
    0x0202 = Stop { process, grace_ms, by },
    0x0203 = Forget { process },
    0x0204 = Peer { node, incarnation, address },
    0x0205 = Suspect { node, unreachable },
    0x0206 = NodeLost { node, before, reason },
    0x0207 = Died(death),
    0x0208 = End { grace_ms, by },
    0x0230 = Program { program, holders },
    0x0220 = Revoked(revoked),
    0x0221 = Renew,
    0x0209 = Caption { process, caption },
}

kinds! { Report:
    0x0301 = Ready { process, address, pid },
    0x0302 = Ended(death),
    0x0303 = Stalled { process, stall },
    0x0320 = Programs { programs },
    0x0321 = Warnings { warnings },
}

kinds! { Ask:
    0x0401 = BeginJob { name, bound },
    0x0402 = EndJob { job, by, kill },
    0x0403 = Follow { job },
    0x0404 = Spawn(request),
    0x0405 = SpawnGang(request),
    0x0406 = Lookup { job, namespace, name },
    0x0407 = StopActor { actor, kill },
    0x0408 = Watch(process),
    0x0409 = Status,
    0x040a = IssueNode { node },
    0x040b = IssueClient,
    0x040c = Cordon { node, why },
    0x040d = Uncordon { node },
    0x040e = Drain { node, within_ms, by },
    0x040f = Shutdown { by },
    0x0410 = Save { state },
    0x0430 = HasProgram { node, program },
    0x0431 = Warnings,
    0x0420 = CreateToken { id, node, hash, ttl_ms },
    0x0421 = Tokens,
    0x0422 = RevokeToken { id },
    0x0423 = Revoke { node, by },
    0x0424 = Certificates,
    0x0425 = RenewNodes { node },
    0x0426 = Renew { public_key },
}

kinds! { Answer:
    0x0501 = Job(job),
    0x0502 = Actor(address),
    0x0503 = Actors(addresses),
    0x0504 = Nobody,
    0x0505 = Done,
    0x0507 = Identity { node, incarnation },
    0x0508 = Error(error),
    0x0530 = Warnings(warnings),
    0x0520 = Tokens(tokens),
    0x0521 = Certificates(certificates),
    0x0522 = Certified { chain },
    // 0x0506 was a status that knew nothing of nodes beside the manifest's.
    0x0510 = Status(status),
}

kinds! { JobEvent:
    0x0601 = Started { address, name },
    0x0602 = Restarting { report, restarts_left },
    0x0603 = Ended { report, expected },
    0x0604 = JobEnded { by },
    0x0605 = Stalled { address, stall },
}

/// Free words by name: labels of a node.
pub type Labels = BTreeMap<String, String>;
