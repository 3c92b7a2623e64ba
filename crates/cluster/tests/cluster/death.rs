//! L3: deaths of processes, agents and heads, and who is told.

use std::time::Duration;

use lyceum_actor::{Cause, Registry};
use rustix::process::Signal;

use crate::harness::{Testbed, kill, lives, look, next_end, until, until_held, within};
use crate::probe::{AskOther, Ended, Probe, Question, WaitOn, clock, hold};

/// Calls that wait on the victim from each of the places.
const CALLERS: u32 = 20;

#[tokio::test]
async fn l3_death_is_an_error_at_every_caller_that_waits() {
    let kills = std::env::var("LYCEUM_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(3);
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let (mut job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let spawn = async |name: &str, node: &str| {
        within(cluster.spawn::<Probe>(name.into()).node(node).into_future()).await.unwrap()
    };
    let (near, far) = (spawn("near", "a").await, spawn("far", "b").await);
    let mut delays: [Vec<u64>; 3] = Default::default();
    for _ in 0..kills {
        let victim = spawn("victim", "a").await;
        let pid = look(&victim, &[]).await.pid;
        let wait_on = WaitOn { other: victim.address().clone(), calls: CALLERS };
        let elsewhere = [&near, &far].map(|of| tokio::spawn(of.ask(wait_on.clone()).into_future()));
        let here: Vec<_> = (0..CALLERS).map(|_| tokio::spawn(hold(victim.clone()))).collect();
        let end = tokio::spawn({
            let victim = victim.clone();
            async move { victim.died().await }
        });
        until_held(&victim, 3 * CALLERS).await;

        let killed = clock();
        kill(pid, Signal::KILL);
        let mut told: [Vec<Ended>; 3] = Default::default();
        for waiter in here {
            told[0].push(within(waiter).await.unwrap());
        }
        for (place, waiter) in elsewhere.into_iter().enumerate() {
            told[place + 1] = within(waiter).await.unwrap().unwrap().read().unwrap();
        }
        for (place, ends) in told.iter().enumerate() {
            assert_eq!(ends.len(), CALLERS as usize);
            for Ended { words, at } in ends {
                // Who, where, how, and its last words.
                let actor = victim.address().actor;
                let expected = format!(
                    "probe {actor} in process {} on node a ended by signal 9 (SIGKILL)",
                    victim.address().process.process
                );
                assert!(words.starts_with(&expected), "{words}");
                assert!(words.contains("a probe starts with \"victim\""), "{words}");
                assert!(*at > killed);
                delays[place].push(at - killed);
            }
        }
        assert_eq!(within(end).await.unwrap().cause, Cause::Signal(9));
        let (report, expected) = next_end(&mut job).await;
        assert_eq!((report.cause, expected), (Cause::Signal(9), false));
    }
    for (place, delays) in ["a process outside", "the same node", "another node"].into_iter().zip(&mut delays)
    {
        delays.sort_unstable();
        let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize] as f64 / 1e6;
        println!(
            "{kills} kills, callers in {place}: told after {:.1} ms (median), {:.1} ms (p99), {:.1} ms (longest)",
            at(0.5),
            at(0.99),
            at(1.0)
        );
        // Far above what it takes, far below any time-out.
        assert!(at(1.0) < 2000.0, "{place}: {delays:?}");
    }
    testbed.down().await;
}

#[tokio::test]
async fn a_killed_agent_takes_its_workers_along_and_up_starts_it_again() {
    let mut testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let (mut job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let lost = within(cluster.spawn::<Probe>("lost".into()).node("a").into_future()).await.unwrap();
    let watcher = within(cluster.spawn::<Probe>("watcher".into()).node("b").into_future()).await.unwrap();
    let sight = look(&lost, &[]).await;
    let ask = AskOther { other: lost.address().clone(), what: Question::Spin };
    let waiting = tokio::spawn(watcher.ask(ask).into_future());
    tokio::time::sleep(Duration::from_millis(300)).await;

    kill(sight.parent, Signal::KILL);
    until("the worker of a killed agent ends", || !lives(sight.pid)).await;
    let words = within(waiting).await.unwrap().unwrap();
    assert!(
        words.as_str().contains("on node a lost with its node: its agent, process"),
        "{}",
        words.as_str()
    );
    let (report, expected) = next_end(&mut job).await;
    assert!(matches!(report.cause, Cause::NodeLost(_)) && !expected, "{report}");
    assert!(report.log_tail.iter().any(|line| line.contains("joined the head")), "{report}");
    let loss = testbed.up.as_ref().unwrap().agent_loss("a").expect("it is gone").to_string();
    let how = format!(
        "the agent of node `a`, process {} of this machine, ended by signal 9 (SIGKILL)",
        sight.parent
    );
    assert!(loss.starts_with(&how) && loss.contains("joined the head"), "{loss}");
    let node = &testbed.status().await.nodes[0];
    assert!(node.state.starts_with("lost: its agent, process"), "{}", node.state);

    testbed.up = None;
    let up = testbed.try_up(&testbed.manifest).await.unwrap();
    assert!(up.started, "the dead agent is started again");
    testbed.up = Some(up);
    let (job, system) = testbed.job().await;
    let again = job.cluster(&system).spawn::<Probe>("again".into()).node("a");
    within(again.into_future()).await.unwrap();
    testbed.down().await;
}

/// The inodes of the store's segments that process `pid` maps.
fn segments_of(pid: u32) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let lines = maps.lines().filter(|line| line.contains("/memfd:lyceum-store-"));
    lines.filter_map(|line| line.split_whitespace().nth(4).map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_killed_agent_leaves_no_shared_memory_behind_and_the_next_one_no_files_of_it() {
    let mut testbed = Testbed::start(&[("a", "{ cpus = 2 }")]).await;
    let (job, system) = testbed.job().await;
    let spawn = job.cluster(&system).spawn::<Probe>("lost".into()).node("a");
    let sight = look(&within(spawn.into_future()).await.unwrap(), &[]).await;
    let segments = segments_of(sight.parent);
    assert!(!segments.is_empty(), "its store is in memory that it maps");
    let spill = testbed.state().node("a").join("spill");
    std::fs::write(spill.join("7.spill"), b"of an object that nobody can name any more").unwrap();

    kill(sight.parent, Signal::KILL);
    until("nobody maps the store of a killed agent", || {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok());
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        !pids.any(|pid| segments_of(pid).iter().any(|segment| segments.contains(segment)))
    })
    .await;
    testbed.up = None;
    testbed.up = Some(testbed.try_up(&testbed.manifest).await.unwrap());
    assert_eq!(std::fs::read_dir(&spill).unwrap().count(), 0);
    testbed.down().await;
    assert!(!spill.exists());
}

#[tokio::test]
async fn a_standing_cluster_outlives_its_head() {
    let mut testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let job = testbed.client().begin_job("long", false).await.unwrap();
    let system = testbed.client().start_system(Registry::new()).await.unwrap();
    let spawn = job.cluster(&system).spawn::<Probe>("survivor".into()).node("b").named("survivor");
    let probe = within(spawn.into_future()).await.unwrap();
    let before = look(&probe, &[]).await;
    let head = testbed.pid_of("head");
    kill(head, Signal::KILL);
    until("the head ends", || !lives(head)).await;
    assert_eq!(look(&probe, &[]).await.pid, before.pid, "calls need no head");
    let losses = testbed.up.as_ref().unwrap().losses();
    let [loss] = &losses[..] else { panic!("the head alone is gone: {losses:?}") };
    let loss = loss.to_string();
    let how = format!("the head, process {head} of this machine, ended by signal 9 (SIGKILL)\n  | ");
    assert!(loss.starts_with(&how) && loss.contains("an agent joins"), "{loss}");

    testbed.up = None;
    testbed.up = Some(testbed.try_up(&testbed.manifest).await.unwrap());
    let status = testbed.status().await;
    let found: Vec<_> = status.actors.iter().map(|actor| (actor.pid, actor.state.as_str())).collect();
    assert_eq!(found, [(before.pid, "running")], "the new head knows the process that went on");
    within(testbed.client().end_job(job.id(), "the test")).await.unwrap();
    assert!(!lives(before.pid));
    testbed.down().await;
}
