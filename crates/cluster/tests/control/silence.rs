//! Nodes of which nothing is heard.

use std::time::Duration;

use lyceum_cluster::control::record::{Key, NodeState, Value};
use lyceum_cluster::control::resources::Allotment;
use lyceum_cluster::control::vocabulary::{Ask, Command, Launch, Notice};
use lyceum_cluster::control::{AgentEffect, AgentEvent, HeadEffect, HeadEvent};

use super::harness::{CLIENT, Cluster, address, agent, spawn, tells_suspicion};

#[test]
fn l3_a_silent_node_is_unreachable_within_3_s_and_lost_only_when_a_second_path_failed() {
    for second_path_answers in [true, false] {
        let mut cluster = Cluster::new();
        let mut suspected = None;
        let mut lost = None;
        let mut sent_away = None;
        for _ in 0..40 {
            for effect in cluster.half_a_second() {
                if tells_suspicion(&effect) {
                    suspected.get_or_insert(cluster.now);
                }
                if let HeadEffect::Probe { node, incarnation, .. } = &effect {
                    let (node, incarnation) = (node.clone(), *incarnation);
                    cluster.event(HeadEvent::Probed { node, incarnation, answered: second_path_answers });
                }
                if matches!(&effect, HeadEffect::ToAgent { command: Command::NodeLost { .. }, .. }) {
                    lost.get_or_insert(cluster.now);
                }
                if matches!(&effect, HeadEffect::CutAgent { node, incarnation: 1 } if node == "a") {
                    sent_away.get_or_insert(cluster.now);
                }
            }
        }
        assert!(suspected.unwrap() <= Duration::from_secs(3), "suspected after {suspected:?}");
        match second_path_answers {
            true => assert_eq!(lost, None, "a node that answers on a second path is not lost"),
            false => assert_eq!(lost, Some(Duration::from_secs(10))),
        }
        match second_path_answers {
            true => assert_eq!(sent_away, None),
            false => assert_eq!(sent_away, lost, "its connection may be whole again by now"),
        }
    }
}

#[test]
fn a_node_that_is_heard_again_is_not_lost() {
    let mut cluster = Cluster::new();
    for _ in 0..16 {
        cluster.half_a_second();
    }
    let effects = cluster.heard("a");
    let cleared = |effect: &HeadEffect| {
        matches!(effect, HeadEffect::ToAgent { command: Command::Suspect { unreachable: false, .. }, .. })
    };
    assert!(effects.iter().any(cleared), "{effects:?}");
    assert!(cluster.head.status().nodes[0].joined);
}

#[test]
fn whoever_comes_late_hears_which_nodes_are_silent() {
    let mut cluster = Cluster::new();
    for _ in 0..6 {
        cluster.half_a_second();
    }
    assert_eq!(cluster.head.status().nodes[0].state, "unreachable");
    let b_joins = HeadEvent::Joined {
        node: "b".into(),
        incarnation: 1,
        address: address(),
        pid: 1,
        running: Vec::new(),
        ended: Vec::new(),
        offer: None,
    };
    let told = |node: &str| Command::Suspect { node: node.into(), unreachable: true };
    let effects = cluster.event(b_joins);
    let to_b = HeadEffect::ToAgent { node: "b".into(), incarnation: 1, command: told("a") };
    assert!(effects.contains(&to_b), "an agent that joins: {effects:?}");
    let effects = cluster.ask(CLIENT, Ask::IssueClient);
    let notice = Notice::Suspect { node: "a".into(), unreachable: true };
    assert!(effects.contains(&HeadEffect::Notify { client: 1, notice }), "a client's process: {effects:?}");

    let mut agent = agent("b");
    agent.apply(AgentEvent::Commanded(told("a")), Duration::ZERO);
    let launch =
        Launch { process: 7, actor: 6, request: spawn(5, 1), allotment: Allotment::default(), saved: None };
    let effects = agent.apply(AgentEvent::Commanded(Command::Launch(launch)), Duration::ZERO);
    let suspicion = AgentEffect::TellSuspicion { node: "a".into(), unreachable: true };
    assert!(matches!(effects[..], [AgentEffect::Start { .. }, _]), "{effects:?}");
    assert_eq!(effects[1], suspicion, "a process that starts");
}

#[test]
fn l3_after_a_restart_of_the_head_a_node_that_does_not_come_back_is_silent_within_3_s() {
    let node = |name: &str| {
        let state = NodeState { incarnation: 1, closure: None };
        (Key::Node(name.into()), Value::Node(state))
    };
    let mut cluster = Cluster::after([node("a"), node("b")]);
    cluster.joins("b", Vec::new());
    let mut suspected = None;
    while suspected.is_none() && cluster.now < Duration::from_secs(9) {
        let tells = cluster.half_a_second().iter().any(tells_suspicion);
        suspected = tells.then_some(cluster.now);
    }
    assert!(suspected.is_some_and(|at| at <= Duration::from_secs(3)), "suspected after {suspected:?}");
    let effects = cluster.joins("a", Vec::new());
    let cleared = |effect: &HeadEffect| {
        matches!(effect, HeadEffect::ToAgent { command: Command::Suspect { unreachable: false, .. }, .. })
    };
    assert!(effects.iter().any(cleared), "{effects:?}");
}
