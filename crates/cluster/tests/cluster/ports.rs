//! The block of ports of a manifest, and who keeps to it.

use std::net::UdpSocket;
use std::ops::Range;
use std::time::Duration;

use lyceum_actor::ControlError;
use lyceum_cluster::Client;

use crate::harness::{Testbed, look, manifest_text, until, within};
use crate::probe::{Misbehave, Probe};
use crate::strangers;

/// So many neighbouring ports of loopback that nobody holds now, below those that the system gives away.
fn block(count: u16) -> Range<u16> {
    let first = 16_000 + (std::process::id() % 500) as u16 * 16;
    let mut blocks = (0..500).map(|at| first + at * count..first + (at + 1) * count);
    let free = |port: u16| UdpSocket::bind(("127.0.0.1", port)).is_ok();
    blocks.find(|block| block.clone().all(free)).expect("free ports")
}

#[tokio::test]
async fn all_of_a_nodes_processes_keep_to_its_block_and_pass_over_what_another_holds() {
    // One is the head's, three are of command-line processes, and four of the node.
    let block = block(8);
    let (of_clients, of_node) = (block.start + 1..block.start + 4, block.start + 4..block.end);
    let text = manifest_text(&[("a", "{ cpus = 8 }")]);
    let ports = format!("[ports]\nfirst = {}\ncount = 8\nclients = 3\n", block.start);
    let other = UdpSocket::bind(("127.0.0.1", of_node.start + 1)).unwrap();
    let bed = Testbed::of(&format!("{text}{ports}")).started().await;
    let us = format!("process {}", std::process::id());
    let log = std::fs::read_to_string(bed.state().agent_log("a")).unwrap();
    let said = |line: &str| {
        line.contains("is held already, and is passed over")
            && line.contains(&format!("port={}", of_node.start + 1))
            && line.contains(&us)
    };
    assert_eq!(log.lines().filter(|line| said(line)).count(), 1, "{log}");

    let (job, system) = bed.job().await;
    assert!(of_clients.contains(&system.address().addr.port()), "{}", system.address());
    let cluster = job.cluster(&system);
    let spawn = || within(cluster.spawn::<Probe>("".into()).into_future());
    let probes = [spawn().await.unwrap(), spawn().await.unwrap()];
    let agent = bed.status().await.nodes[0].pid;
    let mut held = vec![of_node.start + 1];
    for pid in [agent, look(&probes[0], &[]).await.pid, look(&probes[1], &[]).await.pid] {
        held.extend(strangers::ports(pid).iter().map(|address| address.port()));
    }
    held.sort();
    assert_eq!(held, of_node.clone().collect::<Vec<_>>(), "each has one of them, and no other");
    let variable = look(&probes[0], &["LYCEUM_PORTS"]).await.variables;
    assert_eq!(variable, [Some(format!("{}-{}", of_node.start, of_node.end - 1))]);

    // One more than fits: who has them is said.
    let ControlError::Died(report) = spawn().await.map(drop).unwrap_err() else { panic!("no port is free") };
    let said = report.to_string();
    let expected = format!("none of the ports {} to {}", of_node.start, of_node.end - 1);
    let theirs = format!("{} has {us}", of_node.start + 1);
    let ours = format!("{} has process {agent} (", of_node.start);
    for words in [&expected, &theirs, &ours, "`ports.count`"] {
        assert!(said.contains(words), "{said} lacks {words}");
    }
    drop(other);
    let third = spawn().await.unwrap();
    assert_eq!(third.address().process.addr.port(), of_node.start + 1);
    // The port of one that has ended is free.
    within(probes[0].ask(Misbehave::Finish)).await.unwrap();
    until("its port is free", || UdpSocket::bind(probes[0].address().process.addr).is_ok()).await;
    spawn().await.unwrap();

    // Of the clients' three two are this one's.
    let second = Client::connect(&bed.state()).await.unwrap();
    let refused = Client::connect(&bed.state()).await.unwrap_err().to_string();
    assert!(
        refused.contains(&format!("none of the ports {} to {}", of_clients.start, of_clients.end - 1)),
        "{refused}"
    );
    drop(second);
    system.shut_down(Duration::ZERO).await;
    drop(job);
    bed.down().await;
}

#[tokio::test]
async fn a_head_whose_port_is_held_says_by_whom() {
    let block = block(4);
    let ports = format!("[ports]\nfirst = {}\ncount = 4\n", block.start);
    let other = UdpSocket::bind(("127.0.0.1", block.start)).unwrap();
    let bed = Testbed::of(&format!("{}{ports}", manifest_text(&[("a", "{ cpus = 1 }")])));
    let refused = bed.try_up(&bed.manifest).await.map(drop).unwrap_err().to_string();
    let expected = format!("cannot bind {}: ", other.local_addr().unwrap());
    assert!(refused.contains(&expected), "{refused}");
    assert!(refused.contains(&format!("{} has process {}", block.start, std::process::id())), "{refused}");
}
