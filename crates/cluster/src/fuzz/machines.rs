//! What members say, as it is acted on: by the head, and by an agent. Whoever has a certificate may say anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lyceum_actor::{Cause, ProcessAddress, ProcessKind};
use lyceum_fuzz::Fuzz;
use lyceum_wire::Frame;
use lyceum_wire::testing::{to_bytes, to_frames};

use crate::committed;
use crate::control::record::{Key, Value};
use crate::control::resources::Capacity;
use crate::control::vocabulary::*;
use crate::control::*;
use crate::head::database;
use crate::message::*;
use crate::samples;
use crate::units::Milli;

/// Who speaks is in the lowest bits of a frame's job, the milliseconds since the frame before in the others.
const SPEAKERS: u64 = 8;

fn options() -> HeadOptions {
    let node = NodeOptions {
        capacity: Some(Capacity { cpus: Milli::whole(4), gpus: 4, memory: 4 << 30, custom: BTreeMap::new() }),
        labels: Labels::from([("disk".into(), "slow".into())]),
    };
    HeadOptions {
        cluster: "school".into(),
        owned: false,
        unreachable: Duration::from_millis(2500),
        verdict: Duration::from_secs(10),
        stop_grace: Duration::from_secs(1),
        cordon: CordonRule { failures: 3, within: Duration::from_secs(60) },
        // The other one is there when it has joined.
        nodes: [("a".to_owned(), node)].into(),
        elastic: None,
    }
}

/// Applies, commits and sends as the head's process does; gives the kinds of what was sent.
fn apply(head: &mut Head, event: HeadEvent, now: Duration) -> Vec<u16> {
    let (records, effects) = head.apply(event, now);
    let mut sent = Vec::new();
    for record in records {
        if let Some(value) = &record.value {
            database::to_bytes(&record.key, value).unwrap();
        }
    }
    for effect in effects {
        match effect {
            HeadEffect::ToAgent { command, .. } => {
                let credentials = Vec::new();
                sent.push(HeadToAgent::Command { command, credentials }.into_frame().unwrap());
            }
            HeadEffect::Notify { notice, .. } => {
                sent.push(HeadToClient::Notice(notice).into_frame().unwrap())
            }
            HeadEffect::Reply { request, answer, .. } => {
                let credentials = Vec::new();
                sent.push(HeadToClient::Answer { request, answer, credentials }.into_frame().unwrap());
            }
            HeadEffect::Certify { request, .. } => {
                let answer = Answer::Certified { chain: Vec::new() };
                sent.push(
                    HeadToClient::Answer { request, answer, credentials: Vec::new() }.into_frame().unwrap(),
                );
            }
            HeadEffect::Revoke(_)
            | HeadEffect::Admit { .. }
            | HeadEffect::TurnAway { .. }
            | HeadEffect::RefuseAgent { .. }
            | HeadEffect::CutAgent { .. }
            | HeadEffect::Probe { .. }
            | HeadEffect::Exit => {}
        }
    }
    sent.iter().map(|frame| frame.header.kind).collect()
}

/// What happens to the head with this frame: two agents, a client and a worker speak, or one of them goes.
fn heard_by_head(speaker: u64, frame: &Frame) -> Option<HeadEvent> {
    let node = if speaker == 0 { "a" } else { "node-b" }.to_owned();
    let incarnation = 1;
    let asked = |origin| {
        let ClientToHead::Ask { request, ask } = Message::from_frame(frame).ok()??;
        Some(HeadEvent::Asked { origin, request, ask })
    };
    match speaker {
        0 | 1 => {}
        2 => return asked(Origin::Client(1)),
        3 => return asked(Origin::Worker(frame.header.incarnation)),
        4 => return Some(HeadEvent::ClientGone { client: 1 }),
        5 => return Some(HeadEvent::Disconnected { node, incarnation }),
        6 => return Some(HeadEvent::Probed { node, incarnation, answered: false }),
        _ => {
            let store = StoreUse { capacity_bytes: frame.header.trace, ..StoreUse::default() };
            return Some(HeadEvent::Heartbeat { node, incarnation, store });
        }
    }
    Some(match Message::from_frame(frame).ok()?? {
        AgentToHead::Join { join: Join { address, pid, host: _, running, ended }, offer } => {
            let offer = offer.map(|offer| *offer);
            HeadEvent::Joined { node, incarnation, address, pid, running, ended, offer }
        }
        AgentToHead::Report(report) => HeadEvent::Reported { node, incarnation, report },
        AgentToHead::Ask { process, request, ask } => {
            HeadEvent::Asked { origin: Origin::Worker(process), request, ask }
        }
    })
}

/// A conversation with the head: frames, each from somebody and some time after the one before.
fn head(data: &[u8]) {
    converse(data);
}

/// The kinds of what the head says in it.
fn converse(data: &[u8]) -> BTreeSet<u16> {
    let mut head = Head::new(options(), []);
    let mut now = Duration::ZERO;
    let mut sent = BTreeSet::new();
    for frame in to_frames(data) {
        let (speaker, passed) = (frame.header.job % SPEAKERS, frame.header.job / SPEAKERS);
        now = now.saturating_add(Duration::from_millis(passed % 1_000_000));
        if let Some(event) = heard_by_head(speaker, &frame) {
            sent.extend(apply(&mut head, event, now));
        }
        sent.extend(apply(&mut head, HeadEvent::Tick, now));
    }
    let ask = HeadEvent::Asked { origin: Origin::Client(1), request: 1, ask: Ask::Status };
    sent.extend(apply(&mut head, ask, now));
    for end in 1..=3 {
        let by = "the end".to_owned();
        apply(&mut head, HeadEvent::Shutdown { by }, now + Duration::from_secs(100 * end));
    }
    sent
}

/// `message` as `speaker` says it `ms` after the one before.
fn said(speaker: u64, ms: u64, message: impl Message) -> Frame {
    let mut frame = message.into_frame().unwrap();
    frame.header.job = speaker + SPEAKERS * ms;
    frame
}

/// A job, and in it whatever `asks` say; with what agents then say of it.
fn conversation(asks: impl IntoIterator<Item = Ask>, reports: &[Report]) -> Vec<u8> {
    let joins = |offer| {
        let (address, host) = ("127.0.0.1:7401".parse().unwrap(), "host".into());
        AgentToHead::Join { join: Join { address, pid: 1, host, running: vec![], ended: vec![] }, offer }
    };
    let offer = Some(Box::new(samples::offer()));
    let mut frames = vec![said(0, 0, joins(None)), said(1, 0, joins(offer))];
    let begin = Ask::BeginJob { name: "a job".into(), bound: true };
    frames.push(said(2, 1, ClientToHead::Ask { request: 1, ask: begin }));
    frames.extend(asks.into_iter().map(|ask| said(2, 1, ClientToHead::Ask { request: 2, ask })));
    frames.extend(reports.iter().map(|report| said(0, 1, AgentToHead::Report(report.clone()))));
    frames.extend(reports.iter().map(|report| said(1, 7000, AgentToHead::Report(report.clone()))));
    to_bytes(&frames)
}

#[test]
fn whatever_members_say_the_head_stands() {
    let spawn = |role: &str| lyceum_actor::SpawnRequest {
        role: role.into(),
        job: 1,
        resources: lyceum_actor::Resources { milli_cpus: 1000, ..Default::default() },
        restarts: lyceum_actor::Restarts { count: 3, within_ms: 1000, pause_ms: 100 },
        ..Default::default()
    };
    let ready = |process| Report::Ready { process, address: "127.0.0.1:1".parse().unwrap(), pid: 7 };
    let ended =
        |process| Report::Ended(lyceum_actor::ProcessDeath { process, ..samples::death(Cause::Exited(1)) });
    let stalled = |process, stall: Option<&str>| Report::Stalled { process, stall: stall.map(str::to_owned) };
    let life = |process| {
        [ready(process), stalled(process, Some("it waits")), stalled(process, None), ended(process)]
    };
    let life: Vec<Report> = (2..7).flat_map(life).collect();
    let named = lyceum_actor::SpawnRequest {
        name: Some("it".into()),
        namespace: Some("shared".into()),
        lifetime: lyceum_actor::Lifetime::Detached,
        or_get: true,
        ..spawn("named")
    };
    let gang = lyceum_actor::GangRequest { member: spawn("member"), args: vec![vec![1], vec![2], vec![3]] };
    let closing = [
        Ask::Drain { node: "a".into(), within_ms: 100, by: "somebody".into() },
        Ask::Cordon { node: "node-b".into(), why: "it smells".into() },
        Ask::Uncordon { node: "node-b".into() },
        Ask::EndJob { job: 1, by: "somebody".into(), kill: false },
    ];
    let papers = [
        Ask::IssueClient,
        Ask::Renew { public_key: vec![7; 91] },
        Ask::CreateToken { id: 3, node: "a".into(), hash: [5; 32], ttl_ms: 900_000 },
        Ask::Tokens,
        Ask::RevokeToken { id: 3 },
        Ask::RenewNodes { node: None },
        Ask::Revoke { node: "node-b".into(), by: "somebody".into() },
        Ask::Certificates,
    ];
    let hosted = lyceum_actor::SpawnRequest { program: Some(samples::program()), ..spawn("hosted") };
    let brought = [
        Ask::HasProgram { node: "a".into(), program: samples::program() },
        Ask::Spawn(hosted.clone()),
        Ask::Spawn(hosted),
        Ask::Warnings,
    ];
    let spawns = || [Ask::Spawn(spawn("one")), Ask::Spawn(named.clone()), Ask::SpawnGang(gang.clone())];
    let watch = ProcessAddress {
        kind: ProcessKind::Worker,
        node: "a".into(),
        process: 3,
        addr: "127.0.0.1:1".parse().unwrap(),
    };
    let seeds = [
        conversation(spawns(), &life),
        conversation(spawns().into_iter().chain(closing), &life),
        conversation([Ask::Watch(watch), Ask::SpawnGang(gang.clone())], &life[..3]),
        conversation(samples::asks(), &samples::reports()),
        conversation(papers, &life[..2]),
        conversation(brought, &life[..2]),
        to_bytes(&[said(0, 0, samples::join()), said(1, 20_000, samples::join())]),
        // All of a gang start; then the client goes, and a node is silent and cannot be reached in another way either.
        [
            conversation([Ask::SpawnGang(gang), Ask::IssueClient], &(2..9).map(ready).collect::<Vec<_>>()),
            to_bytes(&[4, 7, 5, 6, 6, 0].map(|speaker| said(speaker, 12_000, samples::join()))),
        ]
        .concat(),
    ];
    // What is mutated goes through most of what a head does.
    let sent: BTreeSet<u16> = seeds.iter().flat_map(|seed| converse(seed)).collect();
    let quiet = samples::all().into_iter().map(|said| said.into_frame().unwrap().header.kind);
    let quiet: BTreeSet<u16> =
        quiet.filter(|kind| matches!(kind >> 8, 2 | 5 | 6) && !sent.contains(kind)).collect();
    assert_eq!(quiet, BTreeSet::from([]), "kinds that no seed makes the head say");
    Fuzz::new("cluster head").seeds(seeds).runs(40_000).run(head);
}

/// What the head says to an agent, and what happens there.
fn agent(data: &[u8]) {
    let mut agent = Agent::new(AgentOptions {
        node: "a".into(),
        owned: true,
        verdict: Duration::from_secs(10),
        stop_grace: Duration::from_secs(1),
        cores: vec![0, 1, 2],
    });
    let mut now = Duration::ZERO;
    for frame in to_frames(data) {
        now = now.saturating_add(Duration::from_millis(frame.header.job % 1_000_000));
        let process = frame.header.incarnation;
        let events = [
            match Message::from_frame(&frame) {
                Ok(Some(HeadToAgent::Command { command, .. })) => Some(AgentEvent::Commanded(command)),
                _ => None,
            },
            match Message::from_frame(&frame) {
                Ok(Some(AgentToAgent::Watch(target))) => {
                    Some(AgentEvent::Watch { watcher: Watcher::Agent("node-b".into()), target })
                }
                Ok(Some(AgentToAgent::Died(death))) => Some(AgentEvent::PeerReported(death)),
                _ => None,
            },
            match Message::from_frame(&frame) {
                Ok(Some(WorkerToAgent::Ready { address })) => {
                    Some(AgentEvent::Ready { process, address, pid: 7 })
                }
                Ok(Some(WorkerToAgent::Ended { cause })) => {
                    Some(AgentEvent::Ended { process, cause, log_tail: vec![] })
                }
                Ok(Some(WorkerToAgent::Watch(target))) => {
                    Some(AgentEvent::Watch { watcher: Watcher::Worker(process), target })
                }
                _ => None,
            },
            Some(AgentEvent::Tick),
        ];
        for event in events.into_iter().flatten() {
            drop(agent.apply(event, now));
        }
        let (running, ended) = agent.inventory();
        assert!(running.len() <= data.len() && ended.len() <= data.len());
    }
}

#[test]
fn whatever_an_agent_is_told_it_stands() {
    let command = |ms, command| {
        let mut frame = HeadToAgent::Command { command, credentials: vec![] }.into_frame().unwrap();
        frame.header.job = ms;
        frame
    };
    let worker = |process, message: WorkerToAgent| {
        let mut frame = message.into_frame().unwrap();
        frame.header.incarnation = process;
        frame
    };
    let launch = |process| {
        Command::Launch(Launch {
            process,
            actor: 9,
            request: samples::spawn(),
            allotment: samples::allotment(),
            saved: None,
        })
    };
    let target = ProcessAddress {
        kind: ProcessKind::Worker,
        node: "a".into(),
        process: 12,
        addr: "127.0.0.1:1".parse().unwrap(),
    };
    let life = [
        command(0, launch(12)),
        worker(12, WorkerToAgent::Ready { address: "127.0.0.1:1".parse().unwrap() }),
        worker(12, WorkerToAgent::Watch(target.clone())),
        AgentToAgent::Watch(target).into_frame().unwrap(),
        command(1, launch(13)),
        worker(13, WorkerToAgent::Ended { cause: Cause::Exited(1) }),
        command(1000, Command::Stop { process: 12, grace_ms: 10, by: "somebody".into() }),
        command(1000, Command::End { grace_ms: 10, by: "somebody".into() }),
    ];
    let all: Vec<Frame> = samples::commands().into_iter().map(|said| command(500, said)).collect();
    let seeds = [to_bytes(&life), to_bytes(&all)];
    Fuzz::new("cluster agent").seeds(seeds).runs(40_000).run(agent);
}

/// Records as a database holds them, each in a frame; the head goes on from those that can be read.
fn restored(data: &[u8]) {
    let frames = to_frames(data);
    let records: Vec<(Key, Value)> =
        frames.iter().filter_map(|frame| database::from_bytes(&frame.payload).ok()).collect();
    for (key, value) in &records {
        let again = database::to_bytes(key, value).unwrap();
        assert_eq!(database::from_bytes(&again).unwrap(), (key.clone(), value.clone()));
    }
    let mut head = Head::new(options(), records);
    for second in [0, 1, 20, 2_000] {
        let joined = |node: &str| HeadEvent::Joined {
            node: node.into(),
            incarnation: second + 3,
            address: "127.0.0.1:1".parse().unwrap(),
            pid: 1,
            running: vec![],
            ended: vec![],
            offer: Some(samples::offer()),
        };
        let ask = HeadEvent::Asked { origin: Origin::Client(1), request: 1, ask: Ask::Status };
        for event in [HeadEvent::Tick, joined("a"), ask, joined("node-b"), HeadEvent::Tick] {
            apply(&mut head, event, Duration::from_secs(second));
        }
    }
}

/// Makes lengths and checksums of the records right.
fn repair(data: &mut Vec<u8>) {
    let frames = to_frames(data).into_iter().map(|frame| {
        let mut record = frame.payload.to_vec();
        database::seal(&mut record);
        Frame::new(frame.header, lyceum_wire::AlignedBytes::copy_from(&record))
    });
    *data = to_bytes(&frames.collect::<Vec<_>>());
}

#[test]
fn whatever_its_database_holds_the_head_stands() {
    let frame = |(key, value): &(Key, Value)| {
        let record = database::to_bytes(key, value).unwrap();
        Frame::new(Default::default(), lyceum_wire::AlignedBytes::copy_from(&record))
    };
    let records = committed::records();
    let all: Vec<Frame> = records.iter().map(frame).collect();
    let seeds = std::iter::once(to_bytes(&all)).chain(all.iter().map(|one| to_bytes([one])));
    Fuzz::new("cluster records").seeds(seeds).repair(repair).runs(40_000).run(restored);
}
