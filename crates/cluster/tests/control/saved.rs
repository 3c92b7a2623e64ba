//! What actors save for their next lives.

use std::collections::BTreeMap;

use lyceum_actor::{Cause, ControlError, ProcessDeath, Restarts, SpawnRequest};
use lyceum_cluster::control::record::{JobState, Key, Record, Value};
use lyceum_cluster::control::vocabulary::{Answer, Ask, Command, Origin, Report};
use lyceum_cluster::control::{HeadEffect, HeadEvent};

use super::harness::{CLIENT, Cluster, launch, next_launch, spawn};

fn save(bytes: &[u8]) -> Ask {
    Ask::Save { state: bytes.to_vec() }
}

fn refusal(answer: Answer) -> String {
    match answer {
        Answer::Error(ControlError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn saved(effects: &[HeadEffect]) -> Option<Vec<u8>> {
    let launched = effects.iter().find_map(|effect| match effect {
        HeadEffect::ToAgent { command: Command::Launch(launch), .. } => Some(launch.saved.clone()),
        _ => None,
    });
    launched.expect("it is launched")
}

#[test]
fn what_an_actor_has_saved_is_there_in_its_next_life_and_goes_with_it() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let restarts = Restarts { count: 5, ..Restarts::default() };
    let first = cluster.started(CLIENT, SpawnRequest { restarts, ..spawn(job, 1) });
    assert_eq!(cluster.answer(Origin::Worker(first), save(b"one")), Answer::Done);
    // Written down before it is answered, and in place of what was before.
    let (records, effects) = cluster.head.apply(
        HeadEvent::Asked { origin: Origin::Worker(first), request: 9, ask: save(b"two") },
        cluster.now,
    );
    let Some(Record { key: Key::Saved(actor), value: Some(Value::Saved(state)) }) = records.first() else {
        panic!("{records:?}")
    };
    assert_eq!((records.len(), state.as_slice()), (1, b"two".as_slice()));
    assert!(matches!(effects[..], [HeadEffect::Reply { answer: Answer::Done, .. }]));

    let effects = cluster.dies(first);
    let second = match effects.iter().find_map(launch) {
        Some((node, process)) => {
            assert_eq!(saved(&effects).as_deref(), Some(b"two".as_slice()));
            cluster.ready(&node, process);
            process
        }
        None => next_launch(&mut cluster, effects).expect("it is started again").1,
    };
    let late = refusal(cluster.answer(Origin::Worker(first), save(b"late")));
    assert!(late.contains("given up"), "{late}");
    assert_eq!(cluster.answer(Origin::Worker(second), save(b"three")), Answer::Done);

    let actor = *actor;
    cluster.orders(Ask::EndJob { job, by: "test".into(), kill: true });
    let node = cluster.head.node_of(second).unwrap();
    let death =
        ProcessDeath { process: second, node: node.clone(), cause: Cause::Signal(9), log_tail: Vec::new() };
    let event = HeadEvent::Reported { node, incarnation: 1, report: Report::Ended(death) };
    let (records, _) = cluster.head.apply(event, cluster.now);
    assert!(records.contains(&Record { key: Key::Saved(actor), value: None }), "{records:?}");
}

#[test]
fn what_is_saved_outlives_the_head() {
    let mut records = BTreeMap::new();
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let mut note = |cluster: &mut Cluster, origin, ask| {
        let event = HeadEvent::Asked { origin, request: 1, ask };
        let (written, effects) = cluster.head.apply(event, cluster.now);
        records.extend(written.into_iter().filter_map(|record| Some((record.key, record.value?))));
        effects
    };
    let request = SpawnRequest { restarts: Restarts { count: 5, ..Restarts::default() }, ..spawn(job, 1) };
    let effects = note(&mut cluster, CLIENT, Ask::Spawn(request));
    assert_eq!(saved(&effects), None);
    let (_, process) = effects.iter().find_map(launch).unwrap();
    note(&mut cluster, Origin::Worker(process), save(b"kept"));
    records.insert(Key::Job(job), Value::Job(JobState { name: "j".into(), bound_to: None, ended_by: None }));
    let mut again = Cluster::after(records);
    // The agent knows nothing of the process, which had not started: it is launched again.
    assert_eq!(saved(&again.joins("a", Vec::new())).as_deref(), Some(b"kept".as_slice()));
}

#[test]
fn l2_what_is_saved_is_bounded() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let process = cluster.started(CLIENT, spawn(job, 0));
    let why = refusal(cluster.answer(Origin::Worker(process), save(&[0; (64 << 10) + 1])));
    assert!(why.contains("65537 bytes, expected at most 65536"), "{why}");
    let why = refusal(cluster.answer(CLIENT, save(b"x")));
    assert!(why.contains("only an actor"), "{why}");
    let full = [1; 64 << 10];
    let processes: Vec<u64> = (0..1025).map(|_| cluster.started(CLIENT, spawn(job, 0))).collect();
    for (at, process) in processes.iter().enumerate() {
        let answer = cluster.answer(Origin::Worker(*process), save(&full));
        match at {
            0..1024 => assert_eq!(answer, Answer::Done, "{at}"),
            _ => assert!(refusal(answer).contains("67108864 bytes already")),
        }
    }
    // Less in place of more always finds room, and makes some.
    assert_eq!(cluster.answer(Origin::Worker(processes[0]), save(b"little")), Answer::Done);
    assert_eq!(cluster.answer(Origin::Worker(processes[1024]), save(&full[6..])), Answer::Done);
}
