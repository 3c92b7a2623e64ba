//! Nodes that no manifest names join a cluster that runs, and leave it.

use std::process::{Child, Command};
use std::time::Duration;

use lyceum_cluster::launch;
use lyceum_cluster::units::Milli;
use lyceum_cluster::{NodeStatus, Status};
use rustix::process::Signal;

use crate::harness::{PROGRAM, Testbed, kill, lives, look, manifest_text, until, within};
use crate::probe::Probe;

/// An agent of a node that the cluster's manifest does not have.
fn join(bed: &Testbed, node: &str, section: &str) -> Child {
    let file = bed.folder.path().join(format!("{node}.toml"));
    std::fs::write(&file, format!("{}{section}", manifest_text(&[(node, "{ cpus = 2 }")]))).unwrap();
    let mut agent = Command::new(PROGRAM);
    agent
        .args(["join", "--node", node, "--manifest", file.to_str().unwrap(), "--state"])
        .arg(bed.state().root());
    agent.spawn().unwrap()
}

fn node<'a>(status: &'a Status, name: &str) -> Option<&'a NodeStatus> {
    status.nodes.iter().find(|node| node.name == name)
}

/// Waits until the status is as it should be.
async fn until_status(bed: &Testbed, what: &str, is: impl Fn(&Status) -> bool) -> Status {
    let began = std::time::Instant::now();
    loop {
        let status = bed.status().await;
        if is(&status) {
            return status;
        }
        assert!(began.elapsed() < crate::harness::HANGING, "never: {what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn c9_an_agent_of_a_new_name_joins_is_a_node_after_a_restart_of_the_head_and_leaves_for_good() {
    let mut bed = Testbed::start(&[("a", "{ cpus = 1 }")]).await;
    let (job, system) = bed.job().await;
    let cluster = job.cluster(&system);
    let refused = within(cluster.spawn::<Probe>("large".into()).cpus(2).into_future()).await.unwrap_err();
    let said = "no present node can ever hold this request: node `a`: cpus: 2 asked, 1 in all";
    assert!(refused.to_string().contains(said), "{refused}");
    let first = within(cluster.spawn::<Probe>("first".into()).cpus(1).into_future()).await.unwrap();
    let waits = tokio::spawn(cluster.spawn::<Probe>("second".into()).cpus(1).into_future());
    until_status(&bed, "it waits", |status| {
        status.actors.iter().any(|actor| actor.state.starts_with("waiting"))
    })
    .await;

    let mut agent = join(&bed, "c", "labels = { disk = \"fast\" }\n");
    let second = within(waits).await.unwrap().unwrap();
    assert_eq!(second.address().process.node, "c", "what waits is tried again");
    let fast = cluster.spawn::<Probe>("fast".into()).cpus(1).label("disk", "fast");
    within(fast.into_future()).await.unwrap();
    let status = bed.status().await;
    let found = node(&status, "c").unwrap();
    assert!(found.joined && !found.in_manifest && found.capacity.cpus == Milli::whole(2), "{found:?}");
    let pids = [look(&first, &[]).await.pid, look(&second, &[]).await.pid];
    within(job.end("the test")).await.unwrap();
    until("they have ended", || !pids.iter().any(|pid| lives(*pid))).await;
    within(system.shut_down(Duration::ZERO)).await;
    drop((job, first, second));

    let head = bed.pid_of("head");
    kill(head, Signal::KILL);
    until("the head is gone", || !lives(head)).await;
    drop(bed.up.take());
    bed = bed.started().await;
    let status =
        until_status(&bed, "it joins again", |status| node(status, "c").is_some_and(|node| node.joined))
            .await;
    assert_eq!(node(&status, "c").unwrap().pid, agent.id());

    within(bed.client().drain("c", Duration::ZERO, "the test")).await.unwrap();
    kill(agent.id(), Signal::TERM);
    assert!(agent.wait().unwrap().success());
    until_status(&bed, "it is forgotten", |status| node(status, "c").is_none()).await;
    assert_eq!(bed.status().await.nodes.len(), 1);

    // One that is there when the cluster ends goes with it.
    let mut another = join(&bed, "d", "");
    until_status(&bed, "another joins", |status| node(status, "d").is_some_and(|node| node.joined)).await;
    bed.down().await;
    assert!(another.wait().unwrap().success());
}

#[tokio::test]
async fn a_node_that_says_nothing_of_its_resources_has_what_is_found_here() {
    let text = "name = \"test\"\nreserve = \"256 MiB\"\n[store]\ncapacity = \"8 MiB\"\nsegment = \"8 MiB\"\n\
                [[nodes]]\nname = \"a\"\n";
    let bed = Testbed::of(text).started().await;
    let status = bed.status().await;
    let has = &node(&status, "a").unwrap().capacity;
    let machine = launch::machine_memory().unwrap().0;
    assert!(has.cpus > Milli(0) && has.memory > 0, "{has:?}");
    assert!(has.memory <= machine - (256 << 20) - (8 << 20), "{} of {machine}", has.memory);
    let found = launch::with_found(&bed.manifest).unwrap().nodes.remove(0).resources.unwrap();
    assert_eq!((has.cpus, has.gpus, has.memory), (found.cpus, found.gpus, found.memory.0));
    let (job, system) = bed.job().await;
    let spawn = job.cluster(&system).spawn::<Probe>("found".into()).cpus(0.5).memory(64 << 20);
    let probe = within(spawn.into_future()).await.unwrap();
    assert_eq!(look(&probe, &[]).await.greeting, "found");
    bed.down().await;
}
