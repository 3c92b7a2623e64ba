//! Who is told of a process's end by the agents.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use lyceum_actor::{Cause, ProcessAddress, ProcessDeath, ProcessKind};
use lyceum_cluster::control::vocabulary::{CLIENT_NODE, Launch};
use lyceum_cluster::control::{AgentEffect, AgentEvent, Watcher};
use lyceum_cluster::control::{resources::Allotment, vocabulary::Command};

use super::harness::{agent, spawn};

fn process(kind: ProcessKind, node: &str, process: u64) -> ProcessAddress {
    ProcessAddress { kind, node: node.into(), process, addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)) }
}

#[test]
fn l3_what_is_said_of_a_process_by_a_wrong_address_is_not_said_of_the_one_that_has_its_number() {
    let mut agent = agent("a");
    let mut apply = |event| agent.apply(event, Duration::ZERO);
    for process in [1, 2] {
        let launch =
            Launch { process, actor: 6, request: spawn(5, 1), allotment: Allotment::default(), saved: None };
        apply(AgentEvent::Commanded(Command::Launch(launch)));
    }
    let mut watch = |watcher, target| apply(AgentEvent::Watch { watcher: Watcher::Worker(watcher), target });

    // A worker of this node is said to be on another one, and one of that node to be on a third.
    let wrong = process(ProcessKind::Worker, "b", 2);
    assert_eq!(watch(1, wrong.clone()), [AgentEffect::WatchAt(wrong)]);
    let wrong = process(ProcessKind::Worker, "c", 7);
    assert_eq!(watch(1, wrong.clone()), [AgentEffect::WatchAt(wrong)]);
    assert_eq!(watch(1, process(ProcessKind::Worker, "a", 2)), []);
    let right = process(ProcessKind::Worker, "b", 7);
    assert_eq!(watch(2, right.clone()), [AgentEffect::WatchAt(right)]);
    // What nobody could be.
    assert_eq!(watch(1, process(ProcessKind::Client, "a", 2)), []);
    assert_eq!(watch(1, process(ProcessKind::Worker, CLIENT_NODE, 2)), []);
    assert_eq!(watch(1, process(ProcessKind::Agent, "a", 3)), []);

    let death = |process, node: &str| ProcessDeath {
        process,
        node: node.into(),
        cause: Cause::Unknown("its agent knows of no such process".into()),
        log_tail: Vec::new(),
    };
    let told = |process, death| AgentEffect::TellWorker { process, death };
    let mut reported = |death| apply(AgentEvent::PeerReported(death));
    assert_eq!(reported(death(2, "b")), [told(1, death(2, "b"))]);
    assert_eq!(reported(death(7, "c")), [told(1, death(7, "c"))]);
    assert_eq!(reported(death(7, "b")), [told(2, death(7, "b"))], "this one was meant");
    let ended = AgentEvent::Ended { process: 2, cause: Cause::Signal(9), log_tail: Vec::new() };
    let effects = apply(ended);
    let tells = |effect: &AgentEffect| match effect {
        AgentEffect::TellWorker { process: 1, death } => death.process == 2 && death.node == "a",
        _ => false,
    };
    assert!(effects.iter().any(tells), "{effects:?}");
}
