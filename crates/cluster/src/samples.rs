//! One of each word of the control plane, for the tests of what they look like on the wire.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lyceum_actor::{
    ActorAddress, ActorId, Cause, ControlError, DeathReport, GangRequest, LabelRule, Lifetime,
    ProcessAddress, ProcessDeath, ProcessKind, Resources, Restarts, SpawnRequest, Strategy,
};
use lyceum_wire::{Frame, WireError};

use crate::control::offer::{Gpu, Offer};
use crate::control::papers::{CertificateStatus, Certificates, Revoked, TokenStatus};
use crate::control::resources::{Allotment, Capacity};
use crate::control::vocabulary::*;
use crate::logs::words::{AgentToClient, ClientToAgent, LogSelector, ReadLogs};
use crate::logs::{LogEnd, LogEntry, LogLabel};
use crate::message::*;
use crate::units::Milli;

/// A message of any lane.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    AgentToHead(AgentToHead),
    HeadToAgent(HeadToAgent),
    ClientToHead(ClientToHead),
    HeadToClient(HeadToClient),
    AgentToAgent(AgentToAgent),
    AgentToWorker(AgentToWorker),
    WorkerToAgent(WorkerToAgent),
    GuestToHead(GuestToHead),
    HeadToGuest(HeadToGuest),
    ClientToAgent(ClientToAgent),
    AgentToClient(AgentToClient),
}

impl Said {
    pub(crate) const LANES: [&str; 11] = [
        "AgentToHead",
        "HeadToAgent",
        "ClientToHead",
        "HeadToClient",
        "AgentToAgent",
        "AgentToWorker",
        "WorkerToAgent",
        "GuestToHead",
        "HeadToGuest",
        "ClientToAgent",
        "AgentToClient",
    ];

    pub(crate) fn lane(&self) -> &'static str {
        let lane = match self {
            Said::AgentToHead(_) => 0,
            Said::HeadToAgent(_) => 1,
            Said::ClientToHead(_) => 2,
            Said::HeadToClient(_) => 3,
            Said::AgentToAgent(_) => 4,
            Said::AgentToWorker(_) => 5,
            Said::WorkerToAgent(_) => 6,
            Said::GuestToHead(_) => 7,
            Said::HeadToGuest(_) => 8,
            Said::ClientToAgent(_) => 9,
            Said::AgentToClient(_) => 10,
        };
        Said::LANES[lane]
    }

    pub(crate) fn into_frame(self) -> Result<Frame, WireError> {
        match self {
            Said::AgentToHead(message) => message.into_frame(),
            Said::HeadToAgent(message) => message.into_frame(),
            Said::ClientToHead(message) => message.into_frame(),
            Said::HeadToClient(message) => message.into_frame(),
            Said::AgentToAgent(message) => message.into_frame(),
            Said::AgentToWorker(message) => message.into_frame(),
            Said::WorkerToAgent(message) => message.into_frame(),
            Said::GuestToHead(message) => message.into_frame(),
            Said::HeadToGuest(message) => message.into_frame(),
            Said::ClientToAgent(message) => message.into_frame(),
            Said::AgentToClient(message) => message.into_frame(),
        }
    }

    /// What is read on `lane`.
    pub(crate) fn read(lane: &str, frame: &Frame) -> Result<Option<Said>, WireError> {
        Ok(match lane {
            "AgentToHead" => Message::from_frame(frame)?.map(Said::AgentToHead),
            "HeadToAgent" => Message::from_frame(frame)?.map(Said::HeadToAgent),
            "ClientToHead" => Message::from_frame(frame)?.map(Said::ClientToHead),
            "HeadToClient" => Message::from_frame(frame)?.map(Said::HeadToClient),
            "AgentToAgent" => Message::from_frame(frame)?.map(Said::AgentToAgent),
            "AgentToWorker" => Message::from_frame(frame)?.map(Said::AgentToWorker),
            "WorkerToAgent" => Message::from_frame(frame)?.map(Said::WorkerToAgent),
            "GuestToHead" => Message::from_frame(frame)?.map(Said::GuestToHead),
            "HeadToGuest" => Message::from_frame(frame)?.map(Said::HeadToGuest),
            "ClientToAgent" => Message::from_frame(frame)?.map(Said::ClientToAgent),
            "AgentToClient" => Message::from_frame(frame)?.map(Said::AgentToClient),
            other => panic!("no lane is called {other}"),
        })
    }
}

fn address() -> SocketAddr {
    "10.1.2.3:7401".parse().unwrap()
}

fn words(word: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("LYCEUM_WORD".into(), word.into()), ("PATH".into(), "/usr/bin".into())])
}

pub(crate) fn allotment() -> Allotment {
    Allotment {
        cpus: Milli(1500),
        gpus: BTreeMap::from([(0, Milli(1000)), (3, Milli(500))]),
        memory: 2 << 30,
        custom: BTreeMap::from([("licences".into(), Milli(1000))]),
    }
}

pub(crate) fn spawn() -> SpawnRequest {
    SpawnRequest {
        role: "trainer".into(),
        fingerprint: 0x0123_4567_89ab_cdef,
        args: vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
        job: 7,
        resources: Resources {
            milli_cpus: 1500,
            milli_gpus: 1000,
            memory: 2 << 30,
            custom: BTreeMap::from([("licences".into(), 1000)]),
        },
        name: Some("the trainer of rank 0".into()),
        namespace: Some("shared".into()),
        or_get: true,
        lifetime: Lifetime::Detached,
        node: Some("a".into()),
        labels: vec![LabelRule { label: "disk".into(), values: vec!["fast".into()], not: true }],
        strategy: Strategy::Pack,
        program: Some("lyceum-worker".into()),
        env: words("a value"),
        restarts: Restarts { count: 3, within_ms: 60_000, pause_ms: 500 },
    }
}

pub(crate) fn program() -> String {
    format!("sha256:{}", "0123456789abcdef".repeat(4))
}

fn stall() -> Option<String> {
    Some("it has been at one message for 30 s".into())
}

fn process() -> ProcessAddress {
    ProcessAddress { kind: ProcessKind::Worker, node: "node-b".into(), process: 12, addr: address() }
}

fn actor() -> ActorAddress {
    ActorAddress { actor: ActorId(9), incarnation: 12, role: "trainer".into(), process: process(), job: 7 }
}

pub(crate) fn death(cause: Cause) -> ProcessDeath {
    let log_tail = vec!["the last line but one".into(), "the last line".into()];
    ProcessDeath { process: 12, node: "node-b".into(), cause, log_tail }
}

/// Of each cause one death.
fn deaths() -> Vec<ProcessDeath> {
    let text = || "in some words of evidence".to_owned();
    let causes = [
        Cause::Exited(3),
        Cause::Signal(9),
        Cause::OutOfMemory(text()),
        Cause::OrderedBy(text()),
        Cause::Panicked(text()),
        Cause::Failed(vec![text(), "because".into()]),
        Cause::Finished,
        Cause::NodeLost(text()),
        Cause::Unknown(text()),
    ];
    causes.map(death).into()
}

fn report() -> DeathReport {
    death(Cause::Failed(vec!["it could not".into()])).report("trainer", Some(ActorId(9)))
}

fn status() -> Status {
    let capacity = Capacity {
        cpus: Milli::whole(8),
        gpus: 4,
        memory: 64 << 30,
        custom: BTreeMap::from([("licences".into(), Milli::whole(2))]),
    };
    let node = NodeStatus {
        name: "node-b".into(),
        state: "joined".into(),
        joined: true,
        incarnation: 2,
        address: Some(address()),
        pid: 4711,
        capacity,
        in_manifest: false,
        gpus: vec![gpu()],
        used: allotment(),
        processes: 1,
        store: StoreUse { capacity_bytes: 1 << 30, used_bytes: 4096, objects: 1, spilled_bytes: 8192 },
    };
    let job = JobStatus { job: 7, name: "a job with a name".into(), ending: true, actors: 1 };
    let actor = ActorStatus {
        actor: 9,
        job: 7,
        role: "trainer".into(),
        rank: Some((0, 4)),
        name: Some("the trainer of rank 0".into()),
        namespace: None,
        state: "running".into(),
        node: "node-b".into(),
        process: 12,
        pid: 4712,
        address: Some(address()),
        allotment: allotment(),
    };
    let wanting = vec!["3 actors wait for room: cpus 12".into()];
    let (nodes, jobs, actors) = (vec![node], vec![job], vec![actor]);
    Status { cluster: "school".into(), owned: true, nodes, jobs, actors, wanting }
}

pub(crate) fn revoked() -> Revoked {
    Revoked { node: "node-b".into(), before: 40, until: 1_700_000_000 }
}

fn certificates() -> Certificates {
    let issued = CertificateStatus {
        role: "agent".into(),
        node: "node-b".into(),
        incarnation: 3,
        fingerprint: [6; 32],
        from: 1_690_000_000,
        until: 1_700_000_000,
        revoked: true,
    };
    Certificates {
        authority: "a certificate".into(),
        issued: vec![issued],
        omitted: 2,
        revoked: vec![revoked()],
    }
}

pub(crate) fn asks() -> Vec<Ask> {
    let node = || "node-b".to_owned();
    let by = || "a person at the desk".to_owned();
    let gang = GangRequest {
        member: SpawnRequest { or_get: false, lifetime: Lifetime::Spawner, ..spawn() },
        args: vec![vec![1; 12], vec![2; 3]],
    };
    vec![
        Ask::BeginJob { name: "a job with a name".into(), bound: true },
        Ask::EndJob { job: 7, by: by(), kill: true },
        Ask::Follow { job: 7 },
        Ask::Spawn(spawn()),
        Ask::Spawn(SpawnRequest { role: "clerk".into(), job: 7, ..SpawnRequest::default() }),
        Ask::SpawnGang(gang),
        Ask::Lookup { job: 7, namespace: Some("shared".into()), name: "the trainer of rank 0".into() },
        Ask::StopActor { actor: 9, kill: true },
        Ask::Watch(process()),
        Ask::Status,
        Ask::IssueNode { node: node() },
        Ask::IssueClient,
        Ask::Cordon { node: node(), why: "its disk is full".into() },
        Ask::Uncordon { node: node() },
        Ask::Drain { node: node(), within_ms: 60_000, by: by() },
        Ask::Shutdown { by: by() },
        Ask::Save { state: vec![7; 20] },
        Ask::Warnings,
        Ask::HasProgram { node: node(), program: program() },
        Ask::CreateToken { id: 0x1234, node: node(), hash: [5; 32], ttl_ms: 900_000 },
        Ask::Tokens,
        Ask::RevokeToken { id: 0x1234 },
        Ask::RenewNodes { node: Some(node()) },
        Ask::Renew { public_key: vec![7; 91] },
        Ask::Certificates,
        Ask::Revoke { node: node(), by: by() },
    ]
}

fn answers() -> Vec<Answer> {
    vec![
        Answer::Job(7),
        Answer::Actor(actor()),
        Answer::Actors(vec![actor(), actor()]),
        Answer::Nobody,
        Answer::Done,
        Answer::Status(status()),
        Answer::Warnings(vec![Warning { by: "node-b".into(), text: "it is slow".into() }]),
        Answer::Identity { node: "node-b".into(), incarnation: 3 },
        Answer::Tokens(vec![TokenStatus {
            id: 0x1234,
            node: "node-b".into(),
            expires: 1_700_000_000_000,
            state: "open".into(),
        }]),
        Answer::Certificates(certificates()),
        Answer::Certified { chain: b"a certificate and its authority's".to_vec() },
        Answer::Error(ControlError::Refused("it cannot be".into())),
        Answer::Error(ControlError::Died(Box::new(report()))),
        Answer::Error(ControlError::Unreachable("for the time being".into())),
    ]
}

pub(crate) fn commands() -> Vec<Command> {
    let node = || "node-b".to_owned();
    let by = || "a person at the desk".to_owned();
    vec![
        Command::Launch(Launch {
            process: 12,
            actor: 9,
            request: spawn(),
            allotment: allotment(),
            saved: Some(vec![7; 20]),
        }),
        Command::Stop { process: 12, grace_ms: 5000, by: by() },
        Command::Forget { process: 12 },
        Command::Peer { node: node(), incarnation: 3, address: address() },
        Command::Suspect { node: node(), unreachable: true },
        Command::NodeLost { node: node(), before: 40, reason: "in some words of evidence".into() },
        Command::Died(death(Cause::Signal(6))),
        Command::End { grace_ms: 5000, by: by() },
        Command::Program { program: program(), holders: vec![node(), "node-c".into()] },
        Command::Revoked(vec![revoked()]),
        Command::Renew,
        Command::Caption {
            process: 12,
            caption: Caption { job_name: "a job with a name".into(), rank: Some((1, 4)) },
        },
    ]
}

pub(crate) fn reports() -> Vec<Report> {
    let ready = Report::Ready { process: 12, address: address(), pid: 4712 };
    let stalled = Report::Stalled { process: 12, stall: stall() };
    let programs = Report::Programs { programs: vec![program()] };
    let warnings = Report::Warnings { warnings: vec!["it is slow".into()] };
    [ready, stalled, programs, warnings].into_iter().chain(deaths().into_iter().map(Report::Ended)).collect()
}

fn notices() -> Vec<Notice> {
    let events = [
        JobEvent::Started { address: actor(), name: Some("the trainer of rank 0".into()) },
        JobEvent::Restarting { report: report(), restarts_left: 2 },
        JobEvent::Ended { report: report(), expected: true },
        JobEvent::JobEnded { by: "a person at the desk".into() },
        JobEvent::Stalled { address: actor(), stall: stall() },
    ];
    let told = [
        Notice::Died(death(Cause::NodeLost("its node fell silent".into()))),
        Notice::Suspect { node: "node-b".into(), unreachable: true },
        Notice::Revoked(vec![revoked()]),
    ];
    events.into_iter().map(|event| Notice::Job { job: 7, event }).chain(told).collect()
}

pub(crate) fn join() -> AgentToHead {
    let running = vec![
        Running { process: 12, allotment: allotment(), ready: Some((address(), 4712)), stall: stall() },
        Running { process: 13, allotment: Allotment::default(), ready: None, stall: None },
    ];
    let host = "boot and space".into();
    let join = Join { address: address(), pid: 4711, host, running, ended: vec![death(Cause::Exited(1))] };
    AgentToHead::Join { join, offer: None }
}

fn gpu() -> Gpu {
    let (uuid, model) = ("GPU-8f6cc5a1-5b39".into(), "NVIDIA H100 80GB HBM3".into());
    Gpu { uuid, model, pci: "00000000:18:00.0".into(), memory: 80 << 30 }
}

pub(crate) fn offer() -> Offer {
    let Status { mut nodes, .. } = status();
    Offer {
        capacity: nodes.remove(0).capacity,
        labels: words("a value"),
        gpus: vec![gpu()],
        trusted_interface: Some("ib0".into()),
    }
}

/// One of each, in an order that stays.
pub(crate) fn all() -> Vec<Said> {
    let credentials = || b"a certificate and a key".to_vec();
    let mut all = vec![Said::AgentToHead(join())];
    if let AgentToHead::Join { join, .. } = join() {
        all.push(Said::AgentToHead(AgentToHead::Join { join, offer: Some(Box::new(offer())) }));
    }
    all.extend(reports().into_iter().map(AgentToHead::Report).map(Said::AgentToHead));
    let ask = |ask| AgentToHead::Ask { process: 12, request: 5, ask };
    all.extend(asks().into_iter().map(ask).map(Said::AgentToHead));

    let welcome = Welcome { pid: 4710, host: "boot and space".into() };
    all.push(Said::HeadToAgent(HeadToAgent::Welcome(welcome)));
    all.push(Said::HeadToAgent(HeadToAgent::Heads(vec![address()])));
    let command = |command| HeadToAgent::Command { command, credentials: credentials() };
    all.extend(commands().into_iter().map(command).map(Said::HeadToAgent));
    let answer = |answer| HeadToAgent::Answer { process: 12, request: 5, answer };
    all.extend(answers().into_iter().map(answer).map(Said::HeadToAgent));

    let ask = |ask| ClientToHead::Ask { request: 5, ask };
    all.extend(asks().into_iter().map(ask).map(Said::ClientToHead));
    let answer = |answer| HeadToClient::Answer { request: 5, answer, credentials: credentials() };
    all.extend(answers().into_iter().map(answer).map(Said::HeadToClient));
    all.extend(notices().into_iter().map(HeadToClient::Notice).map(Said::HeadToClient));

    let told = [AgentToAgent::Watch(process()), AgentToAgent::Died(death(Cause::Finished))];
    all.extend(told.map(Said::AgentToAgent));

    let init = Box::new(WorkerInit {
        bind: address(),
        advertise: Some(address().ip()),
        threads: 2,
        verdict_ms: 10_000,
        stop_ms: 5000,
        actor: 9,
        process: 12,
        request: spawn(),
        saved: Some(vec![7; 20]),
    });
    all.push(Said::AgentToWorker(AgentToWorker::Init { init, credentials: credentials() }));
    let told = [
        AgentToWorker::Stop { by: "a person at the desk".into() },
        AgentToWorker::Died(death(Cause::Signal(9))),
        AgentToWorker::Suspect { node: "node-b".into(), unreachable: false },
        AgentToWorker::Revoked(vec![revoked()]),
        AgentToWorker::Renew,
    ];
    all.extend(told.map(Said::AgentToWorker));
    let answer = |answer| AgentToWorker::Answer { request: 5, answer };
    all.extend(answers().into_iter().map(answer).map(Said::AgentToWorker));

    let told = [
        WorkerToAgent::Ready { address: address() },
        WorkerToAgent::Ended { cause: Cause::Panicked("in some words".into()) },
        WorkerToAgent::Watch(process()),
        WorkerToAgent::Stalled { actor: ActorId(9), role: "trainer".into(), stall: stall() },
    ];
    all.extend(told.map(Said::WorkerToAgent));
    let ask = |ask| WorkerToAgent::Ask { request: 5, ask };
    all.extend(asks().into_iter().map(ask).map(Said::WorkerToAgent));

    let application = Application { id: 0x1234, secret: [3; 32], public_key: vec![7; 91] };
    all.push(Said::GuestToHead(GuestToHead::Apply(application)));
    let admission = Admission { chain: b"a certificate and its authority's".to_vec(), order: b"{}".to_vec() };
    all.push(Said::HeadToGuest(HeadToGuest::Admitted(admission)));
    all.extend(of_readers().map(Said::ClientToAgent));
    all.extend(to_readers().map(Said::AgentToClient));
    all
}

fn of_readers() -> impl Iterator<Item = ClientToAgent> {
    let selectors = [
        LogSelector::Called("trainer[1]".into()),
        LogSelector::Actors(vec![9, 10]),
        LogSelector::Processes(vec![12, 0]),
        LogSelector::Job(7),
        LogSelector::Node,
    ];
    let read = ReadLogs {
        of: LogSelector::Job(7),
        from: vec![(12, 4096)],
        tail: Some(100),
        within_ms: Some(600_000),
        follow: true,
    };
    let others = [ClientToAgent::Read(read), ClientToAgent::More { bytes: 65_536 }, ClientToAgent::Finish];
    selectors.into_iter().map(|of| ClientToAgent::List { of }).chain(others)
}

fn to_readers() -> impl Iterator<Item = AgentToClient> {
    let label = LogLabel {
        process: 12,
        actor: 9,
        job: 7,
        job_name: "a job with a name".into(),
        role: "trainer".into(),
        name: Some("the trainer of rank 0".into()),
        namespace: Some("shared".into()),
        rank: Some((1, 4)),
        began_ms: 1_790_000_000_000,
        end: Some(LogEnd { at_ms: 1_790_000_600_000, cause: "ended by signal 9 (SIGKILL)".into() }),
    };
    let words = [
        AgentToClient::Log { entry: LogEntry { label, cut: 8192, written: 65_536 }, place: 8195 },
        AgentToClient::Piece { process: 12, place: 8192, bytes: b"a line\n".to_vec() },
        AgentToClient::Lost { process: 12, bytes: 4096 },
        AgentToClient::Done,
        AgentToClient::Refused { why: "it cannot be".into() },
    ];
    words.into_iter()
}
