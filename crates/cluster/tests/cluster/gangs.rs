//! Gangs of real processes.

use lyceum_actor::{Cause, Group, Strategy};
use lyceum_cluster::JobEvent;
use rustix::process::Signal;

use crate::harness::{Testbed, kill, look, within};
use crate::probe::Probe;

async fn pids(gang: &Group<Probe>) -> Vec<u32> {
    let mut pids = Vec::new();
    for member in gang.members() {
        pids.push(look(member, &[]).await.pid);
    }
    pids
}

#[tokio::test]
async fn a_gang_is_started_again_whole_and_the_first_to_fail_is_named_when_it_ends() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let (mut job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let greetings = ["zero", "one", "two"];
    let spawn = cluster.spawn_gang::<Probe>(greetings.map(String::from)).cpus(1).restarts(1).named("choir");
    let gang = within(spawn.into_future()).await.unwrap();
    for (rank, greeting) in greetings.iter().enumerate() {
        assert_eq!(look(&gang[rank], &[]).await.greeting, *greeting);
    }
    let nodes: Vec<&str> = gang.members().iter().map(|member| &*member.address().process.node).collect();
    assert_eq!(nodes, ["a", "a", "b"], "ranks of one node follow each other");

    kill(pids(&gang).await[1], Signal::KILL);
    let report = within(gang[0].died()).await;
    let by = "its gang, of which rank 1 of 3 failed first: ended by signal 9 (SIGKILL)";
    assert_eq!(report.cause, Cause::OrderedBy(by.into()));
    let mut started = 0;
    while started < 6 {
        started += usize::from(matches!(within(job.next_event()).await, Some(JobEvent::Started { .. })));
    }
    let again = within(cluster.lookup_gang::<Probe>("choir")).await.unwrap().expect("it has started again");
    for (rank, greeting) in greetings.iter().enumerate() {
        assert_eq!(look(&again[rank], &[]).await.greeting, *greeting);
        assert!(again[rank].address().incarnation > gang[rank].address().incarnation);
    }

    kill(pids(&again).await[2], Signal::KILL);
    let mut ended = Vec::new();
    while ended.len() < 3 {
        if let Some(JobEvent::Ended { report, expected }) = within(job.next_event()).await {
            ended.push((report.cause, expected));
        }
    }
    let by = by.replace("rank 1", "rank 2");
    let ordered = (Cause::OrderedBy(by), true);
    assert_eq!(ended, [(Cause::Signal(9), false), ordered.clone(), ordered]);
    testbed.down().await;
}

#[tokio::test]
async fn a_gang_waits_until_all_of_it_has_room() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let first = within(cluster.spawn::<Probe>("first".into()).cpus(1).node("b").into_future()).await.unwrap();
    let gang = cluster.spawn_gang::<Probe>(["x".to_owned(), "y".to_owned()]).cpus(2);
    let gang = tokio::spawn(gang.strategy(Strategy::StrictSpread).into_future());
    let what = "2 at once, each on a node of its own: a: room for 1; b: room for 0";
    let waiting =
        |status: &lyceum_cluster::Status| status.actors.iter().any(|actor| actor.state.contains(what));
    while !waiting(&testbed.status().await) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    within(cluster.kill(&first)).await.unwrap();
    let gang = within(gang).await.unwrap().unwrap();
    let nodes: Vec<&str> = gang.members().iter().map(|member| &*member.address().process.node).collect();
    assert_eq!(nodes, ["a", "b"]);
    testbed.down().await;
}
