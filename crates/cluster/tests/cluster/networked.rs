//! Clusters across hosts with addresses of their own, whose links are cut, healed and slow.

use std::path::Path;
use std::time::Duration;

use lyceum_actor::{ActorRef, CallError, Cause, System};
use lyceum_cluster::manifest::Manifest;
use lyceum_cluster::{Job, launch};
use rustix::process::Signal;

use crate::harness::{Testbed, kill, lives, look, processes_of, until, until_held, within};
use crate::network::{Network, have_namespaces};
use crate::probe::{AskOther, Hold, LetGo, Look, Probe, Question};

/// Nodes `a`, `b` and `c`, each on a host of its own, and a job with a probe on each.
struct Bed {
    testbed: Testbed,
    network: Network,
    job: Job,
    system: System,
    probes: Vec<ActorRef<Probe>>,
}

fn manifest(network: &Network, config: &Path) -> Manifest {
    let mut text = format!(
        "name = \"test\"\nlauncher = \"ssh\"\noversubscribe = true\n[ssh]\nconfig = \"{}\"\n[head]\nbind = \"{}\"\n\
         [store]\ncapacity = \"32 MiB\"\nsegment = \"32 MiB\"\n[health]\nunreachable = 1.0\nverdict = 4.0\nstop = 2.0\n",
        config.display(),
        network.head()
    );
    for node in ["a", "b", "c"] {
        text += &format!("[[nodes]]\nname = \"{node}\"\nhost = \"{node}\"\nresources = {{ cpus = 2 }}\n");
    }
    Manifest::parse("test.toml", &text).unwrap()
}

impl Bed {
    async fn up() -> Bed {
        let mut testbed = Testbed::prepare(&[("a", "{ cpus = 1 }")]);
        let network = Network::start(&["a", "b", "c"], testbed.folder.path());
        testbed.manifest = manifest(&network, &network.path("ssh_config"));
        let testbed = testbed.started().await;
        let (job, system) = testbed.job().await;
        let mut probes = Vec::new();
        for node in ["a", "b", "c"] {
            let spawn = job.cluster(&system).spawn::<Probe>(format!("on {node}")).node(node).cpus(1);
            probes.push(within(spawn.into_future()).await.unwrap());
        }
        Bed { testbed, network, job, system, probes }
    }

    async fn state_of(&self, node: &str) -> String {
        let nodes = self.testbed.status().await.nodes;
        nodes.into_iter().find(|found| found.name == node).unwrap().state
    }

    async fn until_node_is(&self, node: &str, state: &str) {
        while !self.state_of(node).await.starts_with(state) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What one probe hears from another that it asks.
    async fn asks(&self, from: usize, to: usize, what: Question) -> String {
        let ask = AskOther { other: self.probes[to].address().clone(), what };
        within(self.probes[from].ask(ask)).await.unwrap().read().unwrap()
    }

    async fn all_speak(&self) {
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            let greeting = format!("on {}", ["a", "b", "c"][to]);
            assert_eq!(self.asks(from, to, Question::Greeting).await, greeting);
        }
    }

    async fn down(self) {
        let Bed { testbed, network, job, system, probes } = self;
        drop((job, probes));
        system.shut_down(Duration::ZERO).await;
        let (state, folder) = (testbed.state(), testbed.folder.path().to_owned());
        let mut testbed = testbed;
        drop(testbed.up.take());
        assert!(within(launch::down(&state)).await.unwrap());
        assert_eq!(processes_of(&folder), Vec::<u32>::new(), "processes are left");
        drop(network);
    }
}

#[tokio::test]
async fn l3_a_host_whose_link_is_cut_is_lost_and_joins_again_without_its_workers_when_it_is_healed() {
    if !have_namespaces() {
        return;
    }
    let mut bed = Bed::up().await;
    bed.all_speak().await;
    for (at, node) in ["a", "b", "c"].into_iter().enumerate() {
        let there = bed.probes[at].address().process.addr.ip().to_string();
        assert_eq!(there, bed.network.address(node), "each listens at its host's own address");
    }
    let lost = look(&bed.probes[2], &[]).await;
    let held = tokio::spawn(bed.probes[2].ask(Hold).through_silence().into_future());
    until_held(&bed.probes[2], 1).await;
    bed.network.cut("c");
    let error = within(held).await.unwrap().unwrap_err();
    assert!(matches!(error.death().map(|report| &report.cause), Some(Cause::NodeLost(_))), "{error}");
    bed.until_node_is("c", "lost").await;
    assert_eq!(bed.asks(0, 1, Question::Greeting).await, "on b", "the others go on");
    let told = bed.asks(0, 2, Question::Greeting).await;
    assert!(told.contains("lost"), "{told}");
    assert!(lives(lost.pid), "nobody could tell it");

    // What was given up may not go on where it was.
    bed.network.heal("c");
    until("the worker of a lost node ends", || !lives(lost.pid)).await;
    bed.until_node_is("c", "joined").await;
    assert!(lives(lost.parent), "its agent needed nobody to be started again");
    let spawn = bed.job.cluster(&bed.system).spawn::<Probe>("on c".to_owned()).node("c").cpus(1);
    bed.probes[2] = within(spawn.into_future()).await.unwrap();
    bed.all_speak().await;

    // An agent that is killed takes its workers with it, and nothing else.
    let sight = look(&bed.probes[1], &[]).await;
    kill(sight.parent, Signal::KILL);
    within(bed.probes[1].died()).await;
    until("its worker ends", || !lives(sight.pid)).await;
    assert_eq!(bed.asks(0, 2, Question::Greeting).await, "on c");
    bed.down().await;
}

#[tokio::test]
async fn a_link_that_is_cut_for_a_moment_costs_no_node_and_one_way_is_no_way() {
    if !have_namespaces() {
        return;
    }
    let bed = Bed::up().await;
    let (head, c) = (bed.network.head(), bed.network.address("c"));
    // For less than the verdict takes: nothing is lost, and a call that waits through it is answered.
    let held = tokio::spawn(bed.probes[2].ask(Hold).through_silence().into_future());
    until_held(&bed.probes[2], 1).await;
    let pid = look(&bed.probes[2], &[]).await.pid;
    bed.network.cut("c");
    bed.until_node_is("c", "unreachable").await;
    bed.network.heal("c");
    bed.until_node_is("c", "joined").await;
    while within(bed.probes[2].ask(LetGo)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    within(held).await.unwrap().expect("it waited through the silence");
    assert_eq!(look(&bed.probes[2], &[]).await.pid, pid);

    // Two nodes that do not hear each other: who waits is told, and neither is lost.
    bed.network.mute("a", c);
    let told = bed.asks(0, 2, Question::Greeting).await;
    assert!(!told.starts_with("on c"), "{told}");
    assert_eq!(bed.asks(1, 2, Question::Greeting).await, "on c", "others hear it");
    for node in ["a", "c"] {
        assert_eq!(bed.state_of(node).await, "joined");
    }
    bed.network.unmute("a", c);
    while bed.asks(0, 2, Question::Greeting).await != "on c" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bed.asks(2, 0, Question::Greeting).await, "on a");

    // The head does not hear what it says, though it hears all.
    bed.network.unroute("c", &head);
    within(bed.probes[2].died()).await;
    bed.until_node_is("c", "lost").await;
    bed.network.reroute("c", &head);
    until("it hears of that, and ends", || !lives(pid)).await;
    bed.until_node_is("c", "joined").await;

    // It is heard, and hears nothing.
    let pid = look(&bed.probes[1], &[]).await.pid;
    bed.network.mute_head("b");
    bed.until_node_is("b", "lost").await;
    bed.network.unmute_head("b");
    until("it hears of that, and ends", || !lives(pid)).await;
    bed.until_node_is("b", "joined").await;
    match within(bed.probes[1].ask(Look { variables: Vec::new() })).await {
        Err(CallError::Dead(report)) => assert!(matches!(report.cause, Cause::NodeLost(_)), "{report}"),
        other => panic!("{:?}", other.map(drop)),
    }
    assert_eq!(look(&bed.probes[0], &[]).await.greeting, "on a");
    bed.down().await;
}

#[tokio::test]
async fn a_slow_link_is_no_silence() {
    if !have_namespaces() {
        return;
    }
    let bed = Bed::up().await;
    // 2.5 MB/s: less than a node that is given bulk could use.
    bed.network.slow_down("c", "20mbit");
    let watched = async {
        loop {
            assert_eq!(bed.state_of("c").await, "joined");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let bulk = async {
        for (from, to) in [(0, 2), (2, 1)] {
            assert_eq!(bed.asks(from, to, Question::Echo(4 << 20)).await, "true");
        }
    };
    tokio::select! {
        () = bulk => {}
        () = watched => {}
    }
    bed.down().await;
}
