//! Gangs: placed, started again and ended together.

use lyceum_actor::{Cause, ControlError, DeathReport, GangRequest, Restarts, SpawnRequest, Strategy};
use lyceum_cluster::control::vocabulary::{Answer, Ask, JobEvent, Notice};
use lyceum_cluster::control::{HeadEffect, HeadEvent};

use super::harness::{CLIENT, Cluster, launch, spawn, stops};

fn gang(member: SpawnRequest, size: usize) -> Ask {
    Ask::SpawnGang(GangRequest { member, args: vec![Vec::new(); size] })
}

fn launches(effects: &[HeadEffect]) -> Vec<(String, u64)> {
    effects.iter().filter_map(launch).collect()
}

fn answers(effects: &[HeadEffect]) -> Vec<Answer> {
    let answer = |effect: &HeadEffect| match effect {
        HeadEffect::Reply { answer, .. } => Some(answer.clone()),
        _ => None,
    };
    effects.iter().filter_map(answer).collect()
}

/// How actors ended for good, and whether that was expected.
fn ended(effects: &[HeadEffect]) -> Vec<(DeathReport, bool)> {
    let ended = |effect: &HeadEffect| match effect {
        HeadEffect::Notify {
            notice: Notice::Job { event: JobEvent::Ended { report, expected }, .. },
            ..
        } => Some((report.clone(), *expected)),
        _ => None,
    };
    effects.iter().filter_map(ended).collect()
}

/// A gang of which all have started; its processes by rank.
fn started(cluster: &mut Cluster, member: SpawnRequest, size: usize) -> Vec<u64> {
    let launched = launches(&cluster.ask(CLIENT, gang(member, size)));
    assert_eq!(launched.len(), size);
    let effects: Vec<HeadEffect> =
        launched.iter().flat_map(|(node, process)| cluster.ready(node, *process)).collect();
    assert!(matches!(&answers(&effects)[..], [Answer::Actors(all)] if all.len() == size), "{effects:?}");
    launched.into_iter().map(|(_, process)| process).collect()
}

#[test]
fn c8_a_gang_is_placed_whole_or_not_at_all() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let first = cluster.process(job, 1);
    assert!(cluster.ask(CLIENT, gang(spawn(job, 1), 4)).is_empty(), "three would fit");
    let waiting = cluster.head.status().actors.iter().find(|actor| actor.process == 0).unwrap().clone();
    assert_eq!(waiting.state, "waiting for room: 4 at once: a: room for 1; b: room for 2");
    assert_eq!(waiting.rank, Some((0, 4)));
    let launched = launches(&cluster.dies(first));
    let nodes: Vec<&str> = launched.iter().map(|(node, _)| &**node).collect();
    assert_eq!(nodes, ["a", "a", "b", "b"]);
    let mut effects = Vec::new();
    // Whoever starts first, the answer comes with the last, in the order of ranks.
    for (node, process) in launched.iter().rev() {
        assert!(answers(&effects).is_empty());
        effects.extend(cluster.ready(node, *process));
    }
    let Some(Answer::Actors(addresses)) = answers(&effects).pop() else { panic!("{effects:?}") };
    let processes: Vec<u64> = addresses.iter().map(|address| address.process.process).collect();
    assert_eq!(processes, launched.iter().map(|(_, process)| *process).collect::<Vec<_>>());
}

#[test]
fn c4_a_gang_that_the_nodes_can_never_hold_is_refused_at_once() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let mut refused = |strategy, size| match cluster
        .answer(CLIENT, gang(SpawnRequest { strategy, ..spawn(job, 1) }, size))
    {
        Answer::Error(ControlError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    let each = "node `a`: can hold 2 of them; node `b`: can hold 2 of them";
    let never = "role: the present nodes can never hold a gang of";
    assert_eq!(refused(Strategy::Spread, 5), format!("{never} 5: {each}"));
    assert_eq!(refused(Strategy::StrictPack, 3), format!("{never} 3, all on one node: {each}"));
    // With strict spreading each node takes one, however much room it has.
    let one = each.replace('2', "1");
    assert_eq!(refused(Strategy::StrictSpread, 3), format!("{never} 3, each on a node of its own: {one}"));
    assert_eq!(refused(Strategy::Spread, 0), "a gang of 0 roles is asked for, expected 1 to 4096");
    let env = [("NAME".to_owned(), "x".repeat(60 << 10))].into();
    let wordy = gang(SpawnRequest { env, ..spawn(job, 0) }, 100);
    let Answer::Error(ControlError::Refused(why)) = cluster.answer(CLIENT, wordy) else { panic!("6 MB") };
    assert!(why.ends_with("bytes, expected at most 4194304"), "{why}");
}

#[test]
fn the_first_of_a_gang_to_fail_ends_the_others_and_is_named() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let processes = started(&mut cluster, spawn(job, 1), 3);
    let effects = cluster.dies(processes[1]);
    assert_eq!(stops(&effects), [processes[0], processes[2]]);
    assert!(ended(&effects).is_empty(), "it has ended when all have");
    let mut effects = cluster.dies(processes[0]);
    effects.extend(cluster.dies(processes[2]));
    let ended = ended(&effects);
    let causes: Vec<(&Cause, bool)> =
        ended.iter().map(|(report, expected)| (&report.cause, *expected)).collect();
    let by =
        Cause::OrderedBy("its gang, of which rank 1 of 3 failed first: ended by signal 9 (SIGKILL)".into());
    assert_eq!(causes, [(&Cause::Signal(9), false), (&by, true), (&by, true)]);
    assert!(cluster.head.status().actors.is_empty());
    assert!(cluster.head.status().nodes.iter().all(|node| node.used == Default::default()));
}

#[test]
fn a_gang_with_restarts_is_started_again_whole() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let restarts = Restarts { count: 1, ..Restarts::default() };
    let mut processes = started(&mut cluster, SpawnRequest { restarts, ..spawn(job, 1) }, 3);
    cluster.dies(processes[2]);
    assert!(launches(&cluster.dies(processes[0])).is_empty(), "one of them runs still");
    let launched = launches(&cluster.dies(processes[1]));
    assert_eq!(launched.len(), 3);
    for (node, process) in &launched {
        assert!(*process > processes[2], "new incarnations");
        cluster.ready(node, *process);
    }
    processes = launched.into_iter().map(|(_, process)| process).collect();
    for process in processes {
        let again = cluster.dies(process);
        assert!(launches(&again).is_empty(), "that was its last");
    }
    assert!(cluster.head.status().actors.is_empty());
}

#[test]
fn a_gang_is_found_by_its_name_when_all_have_started() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let member = SpawnRequest { name: Some("choir".into()), ..spawn(job, 1) };
    let lookup = || Ask::Lookup { job, namespace: None, name: "choir".into() };
    let launched = launches(&cluster.ask(CLIENT, gang(member.clone(), 2)));
    cluster.ready(&launched[0].0, launched[0].1);
    assert_eq!(cluster.answer(CLIENT, lookup()), Answer::Nobody);
    cluster.ready(&launched[1].0, launched[1].1);
    assert!(matches!(cluster.answer(CLIENT, lookup()), Answer::Actors(all) if all.len() == 2));
    for taken in [gang(member.clone(), 1), Ask::Spawn(member.clone())] {
        let answer = cluster.answer(CLIENT, taken);
        assert!(
            matches!(&answer, Answer::Error(ControlError::Refused(why)) if why.contains("`choir` is taken")),
            "{answer:?}"
        );
    }
    cluster.dies(launched[0].1);
    assert_eq!(cluster.answer(CLIENT, lookup()), Answer::Nobody);
    cluster.dies(launched[1].1);
    assert_eq!(launches(&cluster.ask(CLIENT, gang(member, 2))).len(), 2, "the name is free again");
}

#[test]
fn a_gang_that_fails_before_all_have_started_is_its_spawners_error() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let restarts = Restarts { count: 9, ..Restarts::default() };
    let launched = launches(&cluster.ask(CLIENT, gang(SpawnRequest { restarts, ..spawn(job, 1) }, 2)));
    cluster.ready(&launched[0].0, launched[0].1);
    assert_eq!(stops(&cluster.dies(launched[1].1)), [launched[0].1]);
    let effects = cluster.dies(launched[0].1);
    assert!(launches(&effects).is_empty());
    let answers = answers(&effects);
    assert!(
        matches!(&answers[..], [Answer::Error(ControlError::Died(report))] if report.cause == Cause::Signal(9)),
        "{answers:?}"
    );
}

#[test]
fn who_leaves_a_gang_in_good_order_ends_nobody_and_it_is_not_started_again() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let restarts = Restarts { count: 9, ..Restarts::default() };
    let processes = started(&mut cluster, SpawnRequest { restarts, ..spawn(job, 1) }, 3);
    let actor = |cluster: &Cluster, process| {
        cluster.head.status().actors.iter().find(|actor| actor.process == process).unwrap().actor
    };
    let ordered = actor(&cluster, processes[0]);
    cluster.ask(CLIENT, Ask::StopActor { actor: ordered, kill: false });
    assert!(stops(&cluster.dies(processes[0])).is_empty());
    assert_eq!(cluster.head.status().actors.len(), 2);
    assert_eq!(stops(&cluster.dies(processes[1])), [processes[2]]);
    assert!(launches(&cluster.dies(processes[2])).is_empty(), "it is not whole any more");
    assert!(cluster.head.status().actors.is_empty());
}

#[test]
fn the_end_of_one_that_waits_ends_those_that_wait_with_it() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    cluster.process(job, 1);
    cluster.ask(CLIENT, gang(spawn(job, 1), 4));
    let actor = cluster.head.status().actors.iter().find(|actor| actor.process == 0).unwrap().actor;
    let effects = cluster.ask(CLIENT, Ask::StopActor { actor, kill: false });
    assert!(
        matches!(&answers(&effects)[..], [Answer::Error(ControlError::Died(_)), Answer::Done]),
        "{effects:?}"
    );
    assert_eq!(ended(&effects).len(), 4);
    assert_eq!(cluster.head.status().actors.len(), 1);
}

#[test]
fn a_gang_on_a_drained_node_moves_whole_when_there_is_room() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let restarts = Restarts { count: 1, ..Restarts::default() };
    let member = SpawnRequest { restarts, strategy: Strategy::StrictPack, ..spawn(job, 1) };
    let processes = started(&mut cluster, member, 2);
    assert_eq!(cluster.head.node_of(processes[0]).as_deref(), Some("a"));
    cluster.ask(CLIENT, Ask::Drain { node: "a".into(), within_ms: 0, by: "the test".into() });
    assert_eq!(stops(&cluster.event(HeadEvent::Tick)), processes);
    cluster.dies(processes[0]);
    let moved = launches(&cluster.dies(processes[1]));
    assert!(moved.len() == 2 && moved.iter().all(|(node, _)| node == "b"), "{moved:?}");
    for (node, process) in &moved {
        cluster.ready(node, *process);
    }
    cluster.ask(CLIENT, Ask::Uncordon { node: "a".into() });
    // It has its restart still.
    cluster.dies(moved[0].1);
    assert_eq!(launches(&cluster.dies(moved[1].1)).len(), 2);
}
