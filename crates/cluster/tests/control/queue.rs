//! Those who wait for room: for how long, and for whom.

use std::time::Duration;

use lyceum_actor::{GangRequest, SpawnRequest};
use lyceum_cluster::control::vocabulary::{Answer, Ask, Origin};
use lyceum_cluster::control::{HeadEffect, HeadEvent};

use super::harness::{CLIENT, Cluster, launch, launched_on, named, spawn};

const OTHER: Origin = Origin::Client(2);

fn gang(member: SpawnRequest, size: usize) -> Ask {
    Ask::SpawnGang(GangRequest { member, args: vec![Vec::new(); size] })
}

/// The job of a client that may go without it.
fn lasting_job(cluster: &mut Cluster) -> u64 {
    match cluster.answer(CLIENT, Ask::BeginJob { name: "job".into(), bound: false }) {
        Answer::Job(job) => job,
        other => panic!("no job: {other:?}"),
    }
}

/// So many seconds later, with all nodes heard of.
fn later(cluster: &mut Cluster, seconds: u64) -> Vec<HeadEffect> {
    cluster.now += Duration::from_secs(seconds);
    let mut effects: Vec<HeadEffect> = ["a", "b"].iter().flat_map(|node| cluster.heard(node)).collect();
    effects.extend(cluster.event(HeadEvent::Tick));
    effects
}

fn waiting(cluster: &Cluster) -> Vec<String> {
    let actors = cluster.head.status().actors;
    actors.into_iter().filter(|actor| actor.process == 0).map(|actor| actor.state).collect()
}

#[test]
fn what_a_client_alone_has_waited_for_goes_with_it() {
    let mut cluster = Cluster::new();
    let job = lasting_job(&mut cluster);
    let held = ["a", "b"].map(|_| cluster.process(job, 2));
    cluster.ask(OTHER, Ask::Spawn(spawn(job, 1)));
    cluster.ask(OTHER, gang(spawn(job, 2), 2));
    for who in [OTHER, CLIENT] {
        assert!(cluster.ask(who, Ask::Spawn(named(job, None, true))).is_empty());
    }
    assert_eq!(waiting(&cluster).len(), 4);
    cluster.event(HeadEvent::ClientGone { client: 2 });
    assert_eq!(waiting(&cluster).len(), 1, "one is waited for by somebody else");
    let launched: Vec<_> = held.iter().flat_map(|process| cluster.dies(*process)).collect();
    assert_eq!(launched.iter().filter_map(launch).count(), 1);
    assert_eq!(cluster.head.status().actors.len(), 1);
}

#[test]
fn what_a_client_has_waited_for_is_not_started_by_the_next_head() {
    let mut cluster = Cluster::new();
    let job = lasting_job(&mut cluster);
    for _ in ["a", "b"] {
        cluster.process(job, 2);
    }
    let mut records = cluster.orders(Ask::BeginJob { name: "another".into(), bound: false });
    records.extend(cluster.orders(Ask::Spawn(spawn(job, 1))));
    records.extend(cluster.orders(gang(spawn(job, 2), 2)));
    assert_eq!(waiting(&cluster).len(), 3);
    let written = records.into_iter().filter_map(|record| Some((record.key, record.value?)));
    let next = Cluster::after(written);
    assert!(next.head.status().actors.is_empty());
    assert_eq!(next.head.status().jobs.len(), 1, "it has read what was written");
}

#[test]
fn a_gang_is_not_overtaken_for_ever_and_holds_nobody_up_for_ever() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let first = cluster.on_a_core(job, "a");
    let second = cluster.on_a_core(job, "b");
    assert!(cluster.ask(CLIENT, gang(spawn(job, 2), 2)).is_empty());
    let number = cluster.head.status().actors.iter().find(|actor| actor.process == 0).unwrap().actor - 1;

    // At first whatever fits goes before it.
    later(&mut cluster, 59);
    let small = cluster.process(job, 1);
    cluster.dies(small);
    later(&mut cluster, 1);
    assert!(cluster.ask(CLIENT, Ask::Spawn(spawn(job, 1))).is_empty(), "there would be room");
    let kept = format!("its room is kept for gang {number}, which has waited for long");
    assert_eq!(waiting(&cluster).last().unwrap(), &format!("waiting for room: a: {kept}; b: {kept}"));
    assert_eq!(launched_on(&cluster.dies(first)), None);
    assert_eq!(launched_on(&later(&mut cluster, 59)), None);

    // It had its time: what is smaller goes on, and then it has a longer one.
    let effects = later(&mut cluster, 1);
    let (node, small) = effects.iter().find_map(launch).expect("the small one is started");
    cluster.ready(&node, small);
    later(&mut cluster, 120);
    assert!(cluster.ask(CLIENT, Ask::Spawn(spawn(job, 1))).is_empty());
    assert_eq!(launched_on(&cluster.dies(small)), None);
    let launched = cluster.dies(second);
    assert_eq!(launched.iter().filter_map(launch).count(), 2, "the gang is started, and the small one waits");
    assert_eq!(waiting(&cluster).len(), 1);
}

#[test]
fn room_is_kept_for_a_large_actor_where_it_can_be_and_nowhere_else() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let busy = cluster.on_a_core(job, "a");
    cluster.on_a_core(job, "b");
    assert!(
        cluster.ask(CLIENT, Ask::Spawn(SpawnRequest { node: Some("a".into()), ..spawn(job, 2) })).is_empty()
    );
    later(&mut cluster, 60);
    let small = cluster.ask(CLIENT, Ask::Spawn(spawn(job, 1)));
    assert_eq!(launched_on(&small).as_deref(), Some("b"));
    assert_eq!(launched_on(&cluster.dies(busy)).as_deref(), Some("a"));
    assert!(waiting(&cluster).is_empty());
}
