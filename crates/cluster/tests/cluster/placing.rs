//! Where actors go, and what is refused.

use std::time::Duration;

use lyceum_actor::{Cause, ControlError, Strategy};

use crate::harness::{Testbed, lives, look, manifest_text, next_end, within};
use crate::probe::{Misbehave, Probe};

#[tokio::test]
async fn what_can_never_be_is_refused_and_what_is_taken_is_waited_for() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 1 }")]).await;
    let (mut job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let refused = within(cluster.spawn::<Probe>("".into()).cpus(3).into_future()).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "probe: no present node can ever hold this request: node `a`: cpus: 3 asked, 2 in all; \
         node `b`: cpus: 3 asked, 1 in all"
    );
    let program = within(cluster.spawn::<Probe>("".into()).program("no-such-program").into_future()).await;
    let Err(ControlError::Died(report)) = program else { panic!("there is no such program") };
    assert!(report.cause.to_string().contains("program `no-such-program` does not exist"), "{report}");
    let failing = within(cluster.spawn::<Probe>("fail: no appetite".into()).into_future()).await;
    let Err(ControlError::Died(report)) = failing else { panic!("its start fails") };
    assert!(report.cause.to_string().contains("no appetite"), "{report}");

    let first =
        within(cluster.spawn::<Probe>("first".into()).cpus(2).named("chair").into_future()).await.unwrap();
    let taken = within(cluster.spawn::<Probe>("".into()).named("chair").into_future()).await.unwrap_err();
    assert!(taken.to_string().contains("the name `chair` is taken"), "{taken}");
    let second = tokio::spawn(cluster.spawn::<Probe>("second".into()).cpus(2).into_future());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let waits = "waiting for room: a: cpus: 2 asked, 0 free";
    assert!(testbed.status().await.actors.iter().any(|actor| actor.state == waits));
    within(first.ask(Misbehave::Finish)).await.unwrap();
    let second = within(second).await.unwrap().unwrap();
    assert_eq!(look(&second, &[]).await.greeting, "second");
    while next_end(&mut job).await.0.cause != Cause::Finished {}

    let pid = look(&second, &[]).await.pid;
    within(job.end("the test")).await.unwrap();
    assert!(!lives(pid), "a job's end ends what was started in it");
    let status = testbed.status().await;
    assert!(status.actors.is_empty() && status.jobs.is_empty(), "{status:?}");
    assert!(status.nodes.iter().all(|node| node.used.cpus.0 == 0 && node.processes == 0), "{status:?}");
    testbed.down().await;
}

#[tokio::test]
async fn labels_and_strategy_say_where_an_actor_goes() {
    let mut text = manifest_text(&[]);
    for (name, labels) in
        [("a", "disk = \"fast\", zone = \"1\""), ("b", "disk = \"slow\", zone = \"2\""), ("c", "")]
    {
        text +=
            &format!("[[nodes]]\nname = \"{name}\"\nresources = {{ cpus = 4 }}\nlabels = {{ {labels} }}\n");
    }
    let testbed = Testbed::of(&text).started().await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let probe = || cluster.spawn::<Probe>("placed".into()).cpus(1);
    let placed = async |spawn: lyceum_actor::Spawn<Probe>| {
        within(spawn.into_future()).await.map(|probe| probe.address().process.node.clone())
    };
    assert_eq!(placed(probe().label("disk", "slow")).await.unwrap(), "b");
    assert_eq!(
        placed(probe().label_in("disk", ["slow", "fast"]).label_not_in("zone", ["2"])).await.unwrap(),
        "a"
    );
    assert_eq!(placed(probe().label_not_in("disk", ["fast", "slow"])).await.unwrap(), "c");
    // All hold one core now: the least full is the first by name, and after that one the next.
    for node in ["a", "b", "c"] {
        assert_eq!(placed(probe()).await.unwrap(), node, "spread is what is done unless asked");
    }
    for _ in 0..2 {
        assert_eq!(
            placed(probe().strategy(Strategy::Pack)).await.unwrap(),
            "a",
            "the fullest that it fits on"
        );
    }
    assert_eq!(placed(probe().strategy(Strategy::Pack)).await.unwrap(), "b", "a is full");

    let refused = placed(probe().label("disk", "tape").label_not_in("zone", ["1"])).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "probe: no present node can ever hold this request: node `a`: label `disk` is `fast`, `tape` asked; \
         node `b`: label `disk` is `slow`, `tape` asked; node `c`: has no label `disk`, `tape` asked"
    );
    testbed.down().await;
}

#[tokio::test]
async fn a_drained_node_is_empty_and_what_has_restarts_goes_on_elsewhere() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let (mut job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let lasting = cluster.spawn::<Probe>("lasting".into()).node("a").named("lasting").restarts(1);
    let pinned = within(lasting.into_future()).await.unwrap();
    let brief = within(cluster.spawn::<Probe>("brief".into()).named("brief").into_future()).await.unwrap();
    let free = cluster.spawn::<Probe>("free".into()).named("free").restarts(1).cpus(0.5);
    let free = within(free.into_future()).await.unwrap();
    let on = |probe: &lyceum_actor::ActorRef<Probe>| probe.address().process.node.clone();
    let client = testbed.client();
    within(client.cordon("b", "the test")).await.unwrap();
    let error = within(client.cordon("bb", "the test")).await.unwrap_err().to_string();
    assert!(error.contains("did you mean `b`"), "{error}");
    within(client.uncordon("b")).await.unwrap();

    let node = on(&free);
    let other = if node == "a" { "b" } else { "a" };
    within(client.drain(&node, Duration::from_millis(100), "the test")).await.unwrap();
    let status = testbed.status().await;
    let drained = status.nodes.iter().find(|found| found.name == node).unwrap();
    assert_eq!((drained.processes, &*drained.state), (0, "joined, closed: drained by the test"));
    let moved = loop {
        match within(cluster.lookup::<Probe>("free")).await.unwrap() {
            Some(moved) if moved.address() != free.address() => break moved,
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    assert_eq!(on(&moved), other);
    assert_eq!(look(&moved, &[]).await.greeting, "free");
    for probe in [&pinned, &brief] {
        if on(probe) == node {
            assert!(matches!(within(probe.died()).await.cause, Cause::OrderedBy(_)));
        }
    }
    within(job.end("the test")).await.unwrap();
    while !matches!(job.next_event().await, Some(lyceum_cluster::JobEvent::JobEnded { .. }) | None) {}
    testbed.down().await;
}
