//! Actors in processes of their own: what they are given, how they are found, how they end.

use std::process::Command;
use std::time::{Duration, Instant};

use lyceum_actor::{CallError, Cause, Cluster, Lifetime, Registry};
use lyceum_cluster::{Client, JobEvent};
use rustix::process::Signal;

use crate::harness::{HANGING, PROGRAM, Testbed, kill, lives, look, next_end, until, within};
use crate::probe::{AskOther, Look, Misbehave, Probe, Question, Save, SpawnAnother};

#[tokio::test]
async fn a_spawned_actor_answers_and_its_death_is_an_error_with_the_cause() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let (mut job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let probe = within(cluster.spawn::<Probe>("hello".into()).cpus(1).node("b").named("first").into_future())
        .await
        .unwrap();
    let sight = look(&probe, &[]).await;
    assert_eq!(sight.greeting, "hello");
    assert_eq!(probe.address().process.node, "b");

    let found = within(cluster.lookup::<Probe>("first")).await.unwrap().expect("it has a name");
    assert_eq!(found.address(), probe.address());

    let asked = within(probe.ask(Misbehave::Exit(7, "these are my last words".into()))).await;
    let Err(CallError::Dead(report)) = asked else { panic!("a dead actor cannot answer: {asked:?}") };
    assert_eq!(report.cause, Cause::Exited(7));
    assert_eq!(report.node, "b");
    assert!(report.log_tail.iter().any(|line| line.contains("these are my last words")), "{report}");

    let (ended, expected) = next_end(&mut job).await;
    assert_eq!((ended.cause, expected), (Cause::Exited(7), false));
    testbed.down().await;
}

#[tokio::test]
async fn an_actor_that_is_started_again_finds_what_it_has_saved() {
    let testbed = Testbed::start(&[("a", "{ cpus = 1 }"), ("b", "{ cpus = 1 }")]).await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let spawn = cluster.spawn::<Probe>("mortal".into()).cpus(1).restarts(3).named("mortal");
    let mut probe = within(spawn.into_future()).await.unwrap();
    assert_eq!(look(&probe, &[]).await.saved, None);
    for words in ["first", "second"] {
        within(probe.ask(Save("overwritten".into()))).await.unwrap();
        within(probe.ask(Save(words.into()))).await.unwrap();
        kill(look(&probe, &[]).await.pid, Signal::KILL);
        within(probe.died()).await;
        probe = loop {
            match within(cluster.lookup::<Probe>("mortal")).await.unwrap() {
                Some(again) if again.address() != probe.address() => break again,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        assert_eq!(look(&probe, &[]).await.saved.as_deref(), Some(words));
    }
    let large = within(probe.ask(Save("x".repeat(70_000)))).await.unwrap_err().to_string();
    assert!(large.contains("expected at most 65536"), "{large}");
    testbed.down().await;
}

#[tokio::test]
async fn l3_an_actor_without_progress_shows_in_the_status_and_can_be_looked_into() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }")]).await;
    let (mut job, system) = testbed.job().await;
    let probe = within(job.cluster(&system).spawn::<Probe>("lost".into()).into_future()).await.unwrap();
    within(probe.tell(Misbehave::Spin(3_600_000)).into_future()).await.unwrap();
    within(probe.tell(Look { variables: Vec::new() }).into_future()).await.unwrap();
    let stalled = loop {
        match within(job.next_event()).await.expect("the job goes on") {
            JobEvent::Stalled { address, stall } => break (address, stall.unwrap()),
            _ => continue,
        }
    };
    assert_eq!(stalled.0, *probe.address());
    let words = "no progress: it handles `Misbehave` for ";
    assert!(
        stalled.1.starts_with(words) && stalled.1.ends_with("1 message waits in its mailbox"),
        "{stalled:?}"
    );
    let status = testbed.status().await;
    assert_eq!(status.actors[0].state, format!("running, {}", stalled.1));
    assert_eq!(status.actors[0].running_at().as_ref(), Some(probe.address()));

    let inspection = within(system.inspect(probe.address())).await.unwrap();
    assert_eq!(inspection.actors[0].actor, probe.address().actor);
    let spins = |frame: &String| frame.contains("spin_loop") || frame.contains("probe.rs");
    assert!(inspection.threads.iter().any(|thread| thread.frames.iter().any(spins)), "{inspection:#?}");
    assert!(inspection.threads.iter().any(|thread| thread.name == "lyceum-io"), "{inspection:#?}");
    // The process took no harm of it.
    let again = within(system.inspect(probe.address())).await.unwrap();
    assert!(again.actors[0].to_string().contains("handles `Misbehave` for "));
    assert!(lives(status.actors[0].pid));
    testbed.down().await;
}

#[tokio::test]
async fn an_actor_finds_the_resources_that_were_asked_for() {
    let gpus = "{ cpus = 1, gpus = 2, memory = \"1 GiB\", custom = { seat = 1.5 } }";
    let testbed = Testbed::start(&[("a", gpus)]).await;
    let (_job, system) = testbed.job().await;
    let cluster = _job.cluster(&system);
    let spawn =
        cluster.spawn::<Probe>("rich".into()).cpus(1).gpus(1).resource("seat", 0.5).env("COLOUR", "red");
    let probe = within(spawn.into_future()).await.unwrap();
    let variables = [
        "OMP_NUM_THREADS",
        "RAYON_NUM_THREADS",
        "OMP_WAIT_POLICY",
        "CUDA_DEVICE_ORDER",
        "CUDA_VISIBLE_DEVICES",
        "COLOUR",
        "LYCEUM_TRUSTED_INTERFACE",
    ];
    let sight = look(&probe, &variables).await;
    let seen: Vec<&str> = sight.variables.iter().flatten().map(String::as_str).collect();
    assert_eq!(seen, ["1", "1", "passive", "PCI_BUS_ID", "0", "red", ""]);
    assert_eq!(sight.cores.len(), 1, "one core of its own: {:?}", sight.cores);
    assert_eq!(sight.group, sight.pid, "it leads a process group of its own");
    assert_eq!(sight.store_holder, probe.address().process.process, "its store knows it");

    let status = testbed.status().await;
    assert_eq!(status.nodes[0].pid, sight.parent, "its agent is its parent");
    assert_eq!(status.nodes[0].used.cpus.to_string(), "1");
    assert_eq!(status.nodes[0].used.custom["seat"].to_string(), "0.5");
    assert_eq!(status.actors[0].pid, sight.pid);

    // The second GPU goes to the next one.
    let other = within(cluster.spawn::<Probe>("poor".into()).gpus(0.5).into_future()).await.unwrap();
    assert_eq!(look(&other, &["CUDA_VISIBLE_DEVICES"]).await.variables, [Some("1".to_owned())]);
    testbed.down().await;
}

#[tokio::test]
async fn a_memory_limit_is_enforced_and_named_as_the_cause() {
    let testbed = Testbed::start(&[("a", "{ cpus = 1, memory = \"1 GiB\" }")]).await;
    let (job, system) = testbed.job().await;
    let spawn = job.cluster(&system).spawn::<Probe>("hungry".into()).memory(96 << 20);
    let probe = within(spawn.into_future()).await.unwrap();
    let asked = within(probe.ask(Misbehave::Hoard(1 << 30))).await;
    let Err(CallError::Dead(report)) = asked else { panic!("it took more than it may: {asked:?}") };
    assert!(matches!(report.cause, Cause::OutOfMemory(_)), "{report}");
    testbed.down().await;
}

#[tokio::test]
async fn a_restarted_actor_has_a_new_incarnation_under_its_old_name() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }")]).await;
    let (mut job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let probe =
        within(cluster.spawn::<Probe>("cat".into()).restarts(1).named("cat").into_future()).await.unwrap();
    kill(look(&probe, &[]).await.pid, Signal::KILL);
    let mut told = Vec::new();
    while told.len() < 3 {
        told.push(within(job.next_event()).await.unwrap());
    }
    assert!(matches!(&told[0], JobEvent::Started { address, .. } if address == probe.address()), "{told:?}");
    assert!(
        matches!(&told[1], JobEvent::Restarting { report, restarts_left: 0 }
        if report.cause == Cause::Signal(9)),
        "{told:?}"
    );
    let again = within(cluster.lookup::<Probe>("cat")).await.unwrap().expect("it lives again");
    assert_eq!(again.address().actor, probe.address().actor);
    assert!(again.address().incarnation > probe.address().incarnation);
    assert_eq!(look(&again, &[]).await.greeting, "cat");
    let old = within(probe.ask(Look { variables: Vec::new() })).await;
    assert!(matches!(old, Err(CallError::Dead(_))), "the old incarnation is dead");
    testbed.down().await;
}

#[tokio::test]
async fn workers_spawn_and_call_each_other_across_nodes_with_large_messages() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let a = within(cluster.spawn::<Probe>("on a".into()).node("a").into_future()).await.unwrap();
    let b = within(cluster.spawn::<Probe>("on b".into()).node("b").into_future()).await.unwrap();
    let ask = |what| AskOther { other: b.address().clone(), what };
    assert_eq!(within(a.ask(ask(Question::Greeting))).await.unwrap().as_str(), "on b");
    assert_eq!(within(a.ask(ask(Question::Echo(3 << 20)))).await.unwrap().as_str(), "true");
    let child = within(a.ask(SpawnAnother { node: "b".into(), bound: false })).await.unwrap();
    assert_eq!(child.as_str(), "a child");
    testbed.down().await;
}

#[tokio::test]
async fn a_worker_that_does_not_stop_is_killed_after_the_grace() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }")]).await;
    let (mut job, system) = testbed.job().await;
    let probe = within(job.cluster(&system).spawn::<Probe>("deaf".into()).into_future()).await.unwrap();
    let pid = look(&probe, &[]).await.pid;
    let spinning = tokio::spawn(probe.ask(Misbehave::Spin(3_600_000)).into_future());
    tokio::time::sleep(Duration::from_millis(200)).await;
    within(job.end("the test")).await.unwrap();
    assert!(!lives(pid));
    let (report, expected) = next_end(&mut job).await;
    assert_eq!((report.cause, expected), (Cause::OrderedBy("the test".into()), true));
    assert!(matches!(within(spinning).await.unwrap(), Err(CallError::Dead(_))));
    testbed.down().await;
}

#[tokio::test]
async fn a_bound_job_ends_with_its_client() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }")]).await;
    let client = Client::connect(&testbed.state()).await.unwrap();
    let job = client.begin_job("bound", true).await.unwrap();
    let system = client.start_system(Registry::new()).await.unwrap();
    let probe = within(job.cluster(&system).spawn::<Probe>("bound".into()).into_future()).await.unwrap();
    let pid = look(&probe, &[]).await.pid;
    drop((client, job));
    until("the worker of a bound job ends", || !lives(pid)).await;
    let began = Instant::now();
    while !testbed.status().await.jobs.is_empty() {
        assert!(began.elapsed() < HANGING, "the job is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    testbed.down().await;
}

#[tokio::test]
async fn jobs_that_ask_for_a_name_at_once_share_one_actor_which_outlives_them() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let (job, system) = testbed.job().await;
    let client = Client::connect(&testbed.state()).await.unwrap();
    let other = client.begin_job("another", true).await.unwrap();
    let others_system = client.start_system(Registry::new()).await.unwrap();
    let ask = |cluster: Cluster| {
        let ada = cluster.namespace("school").spawn::<Probe>("ada".into()).named("ada").or_get();
        within(ada.lifetime(Lifetime::Detached).into_future())
    };
    let (ada, same) = tokio::join!(ask(job.cluster(&system)), ask(other.cluster(&others_system)));
    let (ada, same) = (ada.unwrap(), same.unwrap());
    assert_eq!(ada.address(), same.address());
    within(job.end("the test")).await.unwrap();
    assert_eq!(look(&same, &[]).await.greeting, "ada");
    let school = other.cluster(&others_system).namespace("school");
    let found = within(school.lookup::<Probe>("ada")).await.unwrap().expect("it has a name");
    assert_eq!(found.address(), ada.address());
    within(school.kill(&found)).await.unwrap();
    assert!(matches!(within(found.died()).await.cause, Cause::OrderedBy(_)));
    testbed.down().await;
}

#[tokio::test]
async fn an_actor_that_is_bound_to_its_spawner_ends_when_that_is_killed() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let parent = within(cluster.spawn::<Probe>("parent".into()).node("a").into_future()).await.unwrap();
    within(parent.ask(SpawnAnother { node: "b".into(), bound: true })).await.unwrap();
    let child = within(cluster.lookup::<Probe>("child")).await.unwrap().expect("it has a name");
    let pid = look(&child, &[]).await.pid;
    kill(look(&parent, &[]).await.pid, Signal::KILL);
    let cause = within(child.died()).await.cause;
    assert!(matches!(&cause, Cause::OrderedBy(by) if by.contains("which spawned it")), "{cause:?}");
    until("its process has ended", || !lives(pid)).await;
    testbed.down().await;
}

#[tokio::test]
async fn what_clients_have_waited_for_goes_with_them_when_they_are_killed() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let mut holders = Vec::new();
    for node in ["a", "b"] {
        let spawn = cluster.spawn::<Probe>("holder".into()).cpus(2).node(node);
        holders.push(within(spawn.into_future()).await.unwrap());
    }
    let ask = |how: &[&str]| {
        let state = testbed.state();
        Command::new(PROGRAM).arg("ask").args(how).arg("--state").arg(state.root()).spawn().unwrap()
    };
    let mut clients = [ask(&["--bound"]), ask(&[])];
    let until_waiting = async |count: usize| {
        let began = Instant::now();
        loop {
            let actors = testbed.status().await.actors;
            if actors.iter().filter(|actor| actor.process == 0).count() == count {
                return;
            }
            assert!(began.elapsed() < HANGING, "never {count} of {actors:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    until_waiting(6).await;
    for client in &mut clients {
        kill(client.id(), Signal::KILL);
        client.wait().unwrap();
    }
    until_waiting(0).await;
    for holder in &holders {
        within(cluster.kill(holder)).await.unwrap();
        within(holder.died()).await;
    }
    // What comes next has the room: nobody was before it.
    let spawn = cluster.spawn::<Probe>("next".into()).cpus(2);
    let next = within(spawn.into_future()).await.unwrap();
    let status = testbed.status().await;
    let actors: Vec<u64> = status.actors.iter().map(|actor| actor.actor).collect();
    assert_eq!(actors, [next.address().actor.0]);
    testbed.down().await;
}
