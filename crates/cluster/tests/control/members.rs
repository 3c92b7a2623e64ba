//! Nodes that join at any time, whether the manifest has them or not, and leave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lyceum_actor::{ControlError, GangRequest, LabelRule, Restarts, SpawnRequest};
use lyceum_cluster::control::elastic::Elastic;
use lyceum_cluster::control::offer::Offer;
use lyceum_cluster::control::record::{Key, Record, Value};
use lyceum_cluster::control::resources::Capacity;
use lyceum_cluster::control::vocabulary::{Answer, Ask, Command, Labels, Running};
use lyceum_cluster::control::{HeadEffect, HeadEvent};
use lyceum_cluster::units::Milli;

use super::harness::{CLIENT, Cluster, address, launched_on, spawn};

fn offer(cpus: u64) -> Offer {
    let capacity = Capacity { cpus: Milli::whole(cpus), ..Capacity::default() };
    Offer { capacity, labels: Labels::from([("disk".into(), "fast".into())]), ..Offer::default() }
}

/// The agent of `node` comes and says what it has.
fn comes(
    cluster: &mut Cluster,
    node: &str,
    incarnation: u64,
    offer: Option<Offer>,
) -> (Vec<Record>, Vec<HeadEffect>) {
    let joined = HeadEvent::Joined {
        node: node.into(),
        incarnation,
        address: address(),
        pid: 1,
        running: Vec::<Running>::new(),
        ended: Vec::new(),
        offer,
    };
    cluster.head.apply(joined, cluster.now)
}

fn refusal(effects: &[HeadEffect]) -> Option<&str> {
    effects.iter().find_map(|effect| match effect {
        HeadEffect::RefuseAgent { reason, .. } => Some(reason.as_str()),
        _ => None,
    })
}

fn knows(cluster: &Cluster, node: &str) -> bool {
    cluster.head.status().nodes.iter().any(|found| found.name == node)
}

/// Keeps what is written down.
fn keep(disk: &mut BTreeMap<Key, Value>, records: Vec<Record>) {
    for Record { key, value } in records {
        match value {
            Some(value) => drop(disk.insert(key, value)),
            None => drop(disk.remove(&key)),
        }
    }
}

/// Time passes, in which `a` and `b` are heard of; what is written down meanwhile.
fn seconds(cluster: &mut Cluster, seconds: u64) -> Vec<Record> {
    let mut written = Vec::new();
    for _ in 0..2 * seconds {
        cluster.now += Duration::from_millis(500);
        cluster.heard("a");
        cluster.heard("b");
        written.extend(cluster.head.apply(HeadEvent::Tick, cluster.now).0);
    }
    written
}

/// The agent of `node` is seen to end.
fn ends(cluster: &mut Cluster, node: &str) {
    let (node, evidence) = (node.to_owned(), "it was seen to end".to_owned());
    cluster.event(HeadEvent::AgentEnded { node, incarnation: 7, evidence, log_tail: Vec::new() });
}

#[test]
fn c9_a_node_that_the_manifest_does_not_have_joins_and_takes_what_waits() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    for _ in 0..2 {
        cluster.process(job, 2);
    }
    cluster.ask(CLIENT, Ask::Spawn(spawn(job, 2)));
    let three = Ask::Spawn(spawn(job, 3));
    let Answer::Error(ControlError::Refused(why)) = cluster.answer(CLIENT, three.clone()) else {
        panic!("3 cores fit nowhere")
    };
    assert!(
        why.starts_with(
            "role: no present node can ever hold this request: node `a`: cpus: 3 asked, 2 in all"
        ),
        "{why}"
    );

    let (_, effects) = comes(&mut cluster, "c", 7, Some(offer(5)));
    assert_eq!(launched_on(&effects).as_deref(), Some("c"), "what waits is tried again");
    assert_eq!(
        launched_on(&cluster.ask(CLIENT, three)).as_deref(),
        Some("c"),
        "what fitted nowhere fits now"
    );
    let labels = vec![LabelRule { label: "disk".into(), values: vec!["fast".into()], not: false }];
    let fast = Ask::Spawn(SpawnRequest { labels, ..spawn(job, 0) });
    assert_eq!(launched_on(&cluster.ask(CLIENT, fast)).as_deref(), Some("c"), "its labels are its own");
    let status = cluster.head.status();
    let listed: Vec<(&str, bool)> = status.nodes.iter().map(|node| (&*node.name, node.in_manifest)).collect();
    assert_eq!(listed, [("a", true), ("b", true), ("c", false)]);
    assert_eq!(status.nodes[2].capacity.cpus, Milli::whole(5));
}

#[test]
fn who_may_not_join_is_told_why() {
    let mut cluster = Cluster::new();
    let bad = Offer { capacity: Capacity { gpus: 2000, ..Capacity::default() }, ..Offer::default() };
    for (node, offer, said) in [
        ("c", None, "the manifest has no node `c`, and its agent does not say what that has"),
        ("c", Some(bad), "what node `c` has cannot be: 2000 GPUs are offered, expected at most 1024"),
        ("../c", Some(offer(1)), "node name `../c`: expected letters"),
        ("client", Some(offer(1)), "node name `client` is taken by the cluster itself"),
    ] {
        let (records, effects) = comes(&mut cluster, node, 7, offer);
        let refused = refusal(&effects).unwrap_or_else(|| panic!("{node} joins"));
        assert!(refused.starts_with(said), "{refused}");
        assert_eq!(records, []);
        assert!(!knows(&cluster, node));
    }
    comes(&mut cluster, "c", 7, Some(offer(1)));
    let (_, effects) = comes(&mut cluster, "c", 6, Some(offer(1)));
    assert_eq!(refusal(&effects), Some("incarnation 6 of node `c` was succeeded by 7"));
    let issue = Ask::IssueNode { node: "head".into() };
    assert!(matches!(cluster.answer(CLIENT, issue), Answer::Error(ControlError::Refused(_))));
    assert!(matches!(cluster.answer(CLIENT, Ask::IssueNode { node: "d".into() }), Answer::Identity { .. }));
    assert!(!knows(&cluster, "d"), "it is a node when it has joined");
    cluster.event(HeadEvent::Shutdown { by: "the test".into() });
    let (_, effects) = comes(&mut cluster, "e", 8, Some(offer(1)));
    assert_eq!(refusal(&effects), Some("the cluster is ending"));
}

#[test]
fn l2_the_nodes_of_a_cluster_are_bounded() {
    let offered = |number: u32| (Key::Offer(format!("n{number:04}")), Value::Offer(offer(1)));
    let mut cluster = Cluster::after((2..10_001).map(offered));
    assert!(knows(&cluster, "n9999") && !knows(&cluster, "n10000"), "of damaged records there are no more");
    let (_, effects) = comes(&mut cluster, "one-more", 7, Some(offer(1)));
    assert_eq!(refusal(&effects), Some("the cluster has 10000 nodes already"));
    comes(&mut cluster, "n9999", 8, Some(offer(1)));
    assert_eq!(cluster.state_of("n9999"), "joined", "who is one of them may come again");
}

#[test]
fn c9_a_node_that_has_joined_is_one_in_later_terms() {
    let mut cluster = Cluster::new();
    let mut disk = BTreeMap::new();
    keep(&mut disk, comes(&mut cluster, "c", 7, Some(offer(5))).0);
    let cordon = Ask::Cordon { node: "c".into(), why: "it smells of smoke".into() };
    keep(&mut disk, cluster.orders(cordon));

    let mut cluster = Cluster::after(disk.clone());
    assert_eq!(cluster.state_of("c"), "absent");
    let job = cluster.job();
    cluster.ask(CLIENT, Ask::Spawn(spawn(job, 5)));
    let waits = cluster.head.status().actors[0].state.clone();
    assert_eq!(waits, "waiting for room: c: absent", "what it has is known");
    comes(&mut cluster, "c", 7, Some(offer(9)));
    assert_eq!(cluster.state_of("c"), "joined, closed: it smells of smoke");
    let nodes = cluster.head.status().nodes;
    assert_eq!(nodes[2].capacity.cpus, Milli::whole(5), "an agent says the same as long as it lives");
    keep(&mut disk, comes(&mut cluster, "c", 8, Some(offer(6))).0);
    assert_eq!(disk[&Key::Offer("c".into())], Value::Offer(offer(6)));
}

#[test]
fn c9_a_drained_node_is_forgotten_when_it_has_left_and_one_that_was_lost_after_a_while() {
    for (drained, kept, enough) in [(true, 7, 15), (false, 595, 605)] {
        let mut cluster = Cluster::new();
        let mut disk = BTreeMap::new();
        keep(&mut disk, comes(&mut cluster, "c", 7, Some(offer(5))).0);
        if drained {
            let drain = Ask::Drain { node: "c".into(), within_ms: 0, by: "a person".into() };
            keep(&mut disk, cluster.orders(drain));
            keep(&mut disk, seconds(&mut cluster, 1));
        }
        ends(&mut cluster, "c");
        keep(&mut disk, seconds(&mut cluster, kept));
        assert_eq!(cluster.state_of("c"), "lost: it was seen to end");
        // Who joins now was away when it was told.
        let told = |effect: &HeadEffect| matches!(effect, HeadEffect::ToAgent { node, command: Command::NodeLost { .. }, .. } if node == "a");
        assert!(cluster.joins("a", Vec::new()).iter().any(told));
        keep(&mut disk, seconds(&mut cluster, enough - kept));
        assert!(!knows(&cluster, "c"), "drained: {drained}");
        let left: Vec<&Key> = disk
            .keys()
            .filter(|key| matches!(key, Key::Node(name) | Key::Offer(name) if name == "c"))
            .collect();
        assert_eq!(left, Vec::<&Key>::new());
        comes(&mut cluster, "c", 8, Some(offer(1)));
        assert_eq!(cluster.state_of("c"), "joined", "its name is free");
    }
    // A node of the manifest stays.
    let mut cluster = Cluster::new();
    cluster.event(HeadEvent::AgentEnded {
        node: "b".into(),
        incarnation: 1,
        evidence: "it was seen to end".into(),
        log_tail: Vec::new(),
    });
    seconds(&mut cluster, 1000);
    assert_eq!(cluster.state_of("b"), "lost: it was seen to end");
}

#[test]
fn c9_a_node_is_not_forgotten_while_something_waits_that_could_be_nowhere_else() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    comes(&mut cluster, "c", 7, Some(offer(5)));
    let restarts = Restarts { count: 1, ..Restarts::default() };
    let process = cluster.head.apply(
        HeadEvent::Asked {
            origin: CLIENT,
            request: 1,
            ask: Ask::Spawn(SpawnRequest { restarts, ..spawn(job, 5) }),
        },
        cluster.now,
    );
    let process = process.1.iter().find_map(super::harness::launch).unwrap().1;
    let report = lyceum_cluster::control::vocabulary::Report::Ready { process, address: address(), pid: 2 };
    cluster.event(HeadEvent::Reported { node: "c".into(), incarnation: 7, report });
    cluster.ask(CLIENT, Ask::Drain { node: "c".into(), within_ms: 3_600_000, by: "a person".into() });
    ends(&mut cluster, "c");
    seconds(&mut cluster, 60);
    let waits = cluster.head.status().actors[0].state.clone();
    assert_eq!(waits, "waiting for room: c: lost");
    assert!(knows(&cluster, "c"));
    comes(&mut cluster, "d", 9, Some(offer(5)));
    let now = cluster.head.status().actors[0].node.clone();
    assert_eq!(now, "d", "it goes where it can");
    cluster.event(HeadEvent::Disconnected { node: "d".into(), incarnation: 9 });
    seconds(&mut cluster, 1);
    assert!(knows(&cluster, "c"), "not all have heard of it");
    for _ in 0..8 {
        cluster.event(HeadEvent::Heartbeat { node: "d".into(), incarnation: 9, store: Default::default() });
        seconds(&mut cluster, 1);
    }
    assert!(!knows(&cluster, "c"));
}

#[test]
fn what_a_node_of_the_manifest_has_may_be_for_its_agent_to_say() {
    let mut cluster = Cluster::with_found("b");
    cluster.joins("a", Vec::new());
    let job = cluster.job();
    // Nobody knows yet that it does not fit.
    cluster.ask(CLIENT, Ask::Spawn(spawn(job, 3)));
    assert_eq!(cluster.head.status().actors[0].state, "waiting for room: b: absent");
    assert_eq!(cluster.head.status().nodes[1].capacity, Capacity::default());
    let (_, effects) = comes(&mut cluster, "b", 7, None);
    let said =
        "its agent does not say what node `b` has, and the manifest does not either: give `resources` there";
    assert_eq!(refusal(&effects), Some(said));
    let (records, effects) = comes(&mut cluster, "b", 7, Some(offer(3)));
    assert_eq!(launched_on(&effects).as_deref(), Some("b"));
    assert!(records.iter().any(|record| record.key == Key::Offer("b".into())));
    // Where the manifest says it, that counts, and nothing of it is written down.
    let (records, _) = comes(&mut cluster, "a", 7, Some(offer(9)));
    assert!(!records.iter().any(|record| matches!(record.key, Key::Offer(_))));
    assert_eq!(cluster.head.status().nodes[0].capacity.cpus, Milli::whole(2));
}

#[test]
fn c4_what_further_nodes_would_hold_waits_for_them_and_what_they_would_not_is_refused() {
    let mut cluster = Cluster::with_elastic(Elastic {
        most: 2,
        capacity: offer(8).capacity,
        labels: Labels::new(),
        patience: Duration::from_secs(10),
        idle: Duration::from_secs(60),
    });
    let job = cluster.job();
    let gang = |size: usize| GangRequest { member: spawn(job, 5), args: vec![Vec::new(); size] };
    let refused = |cluster: &mut Cluster, ask| match cluster.answer(CLIENT, ask) {
        Answer::Error(ControlError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    let why = refused(&mut cluster, Ask::Spawn(spawn(job, 9)));
    assert!(why.ends_with("node `a further node`: cpus: 9 asked, 8 in all"), "{why}");
    let why = refused(&mut cluster, Ask::SpawnGang(gang(3)));
    let further = "node `a further node`: can hold 1 of them";
    assert!(why.ends_with(&format!("{further}; {further}")), "{why}");

    cluster.ask(CLIENT, Ask::Spawn(spawn(job, 5)));
    cluster.ask(CLIENT, Ask::SpawnGang(gang(2)));
    let status = cluster.head.status();
    assert_eq!(status.actors[0].state, "waiting for room: a further node: asked for in time");
    assert_eq!(status.wanting, ["3 actors wait for room: cpus 15"]);
    let lines = vec!["Slurm was asked".to_owned()];
    cluster.event(HeadEvent::Scaled { lines: lines.clone() });
    assert_eq!(cluster.head.status().wanting[1..], lines);

    let waiting = cluster.head.demand(&BTreeSet::new(), 0, 2).waiting;
    let lacks = |cluster: &Cluster, patient: &[u64], coming| {
        cluster.head.demand(&patient.iter().copied().collect(), coming, 2).lacking
    };
    assert_eq!(lacks(&cluster, &[], 0), 0, "nobody has waited for long");
    assert_eq!(lacks(&cluster, &waiting[..1], 0), 1);
    assert_eq!(lacks(&cluster, &waiting[1..], 0), 2);
    assert_eq!(lacks(&cluster, &waiting[1..], 1), 1, "one is on its way");
    let (_, effects) = comes(&mut cluster, "further-1", 7, Some(offer(8)));
    assert_eq!(launched_on(&effects).as_deref(), Some("further-1"));
    let members = cluster.head.demand(&BTreeSet::new(), 0, 2).members;
    assert!(
        members.len() == 1 && members[0].present && !members[0].empty && !members[0].drained,
        "{members:?}"
    );
}
