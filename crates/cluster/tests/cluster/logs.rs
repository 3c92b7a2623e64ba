//! Logs of processes, read through their agents.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use lyceum_actor::{ActorRef, Cluster};
use lyceum_cluster::logs::{Incarnations, LogItem, LogQuery, LogReader};
use rustix::process::Signal;

use crate::harness::{PROGRAM, Testbed, kill, lives, look, manifest_text, until, within};
use crate::probe::{Misbehave, Probe};

fn of(target: &str) -> LogQuery {
    LogQuery { target: target.to_owned(), ..LogQuery::default() }
}

async fn open(testbed: &Testbed, query: LogQuery) -> LogReader {
    within(LogReader::open(&testbed.state(), query)).await.unwrap()
}

/// Why a query is refused.
async fn refused(testbed: &Testbed, query: LogQuery) -> String {
    match within(LogReader::open(&testbed.state(), query)).await {
        Ok(_) => panic!("it is not refused"),
        Err(error) => error.to_string(),
    }
}

/// What is read, in words: lines as `TITLE on NODE: TEXT`.
async fn next(reader: &mut LogReader) -> Option<String> {
    Some(match within(reader.next()).await? {
        LogItem::Line { node, label, text } => {
            format!("{} on {node}: {}", label.title(), String::from_utf8_lossy(&text))
        }
        LogItem::Ended { node, label } => {
            format!("{} on {node} {}", label.title(), label.end.as_ref().unwrap().cause)
        }
        LogItem::Note(text) => text,
    })
}

async fn all(testbed: &Testbed, query: LogQuery) -> Vec<String> {
    let mut reader = open(testbed, query).await;
    let mut read = Vec::new();
    while let Some(item) = next(&mut reader).await {
        read.push(item);
    }
    reader.close().await;
    read
}

async fn say(probe: &ActorRef<Probe>, words: &str) {
    within(probe.ask(Misbehave::Say(words.into()))).await.unwrap();
}

async fn again(cluster: &Cluster, probe: &ActorRef<Probe>, name: &str) -> ActorRef<Probe> {
    within(probe.died()).await;
    loop {
        match within(cluster.lookup::<Probe>(name)).await.unwrap() {
            Some(again) if again.address() != probe.address() => return again,
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn position(read: &[String], of: &str) -> usize {
    read.iter().position(|line| line.contains(of)).unwrap_or_else(|| panic!("no `{of}` in {read:#?}"))
}

#[tokio::test]
async fn every_life_of_an_actor_is_read_through_its_agent_also_when_all_are_over() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }")]).await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let spawn = cluster.spawn::<Probe>("mortal".into()).restarts(3).named("mortal");
    let first = within(spawn.into_future()).await.unwrap();
    say(&first, "of the first life").await;
    let _ = within(first.ask(Misbehave::Panic("a fault in its head".into()))).await;
    let second = again(&cluster, &first, "mortal").await;
    say(&second, "of the second life").await;

    let read = all(&testbed, of("mortal")).await;
    assert!(read[0].starts_with("mortal on a: a probe starts with"), "{read:#?}");
    let order = ["of the first life", "a fault in its head", "mortal on a panicked", "of the second life"];
    assert!(order.map(|words| position(&read, words)).is_sorted(), "{read:#?}");
    let (actor, job_number) = (first.address().actor.to_string(), job.id().to_string());
    for name in [&*actor, "actor/mortal", &job_number, "job/test", "test"] {
        assert_eq!(all(&testbed, of(name)).await, read, "{name}");
    }

    let lives = [&first, &second].map(|life| life.address().incarnation);
    let only = |incarnations, tail| LogQuery { incarnations, tail, ..of("mortal") };
    let previous = all(&testbed, only(Incarnations::Previous, None)).await;
    assert!(previous.iter().any(|line| line.ends_with("of the first life")));
    assert!(!previous.iter().any(|line| line.ends_with("of the second life")));
    assert_eq!(all(&testbed, only(Incarnations::One(lives[0]), None)).await, previous);
    assert_eq!(all(&testbed, of(&lives[0].to_string())).await, previous);
    let last = all(&testbed, only(Incarnations::One(lives[1]), Some(1))).await;
    assert_eq!(last, ["mortal on a: of the second life"]);
    let why = refused(&testbed, only(Incarnations::One(999), None)).await;
    let there = format!("`mortal` has no log of incarnation 999; there are: {}, {}", lives[0], lives[1]);
    assert_eq!(why, there);
    let hour = LogQuery { within: Some(Duration::from_secs(3600)), ..of("mortal") };
    assert_eq!(all(&testbed, hour).await, read);

    within(job.end("the test")).await.unwrap();
    let over = all(&testbed, of("mortal")).await;
    assert_eq!(over[..read.len()], read[..]);
    assert_eq!(over.last().unwrap(), "mortal on a ended as ordered by the test");
    // With nothing of it left there is nothing to wait for.
    assert_eq!(all(&testbed, LogQuery { follow: true, ..of("mortal") }).await, over);
    let why = refused(&testbed, of("mortel")).await;
    assert_eq!(
        why,
        "no node, job or actor is called `mortel`, did you mean `mortal`? (there are `a`, `mortal`, `test`, and numbers)"
    );

    // An actor of that name that lives is meant before one that does not.
    let other = testbed.client().begin_job("another", true).await.unwrap();
    let spawn = other.cluster(&system).spawn::<Probe>("a namesake".into()).named("mortal");
    let namesake = within(spawn.into_future()).await.unwrap();
    let read = all(&testbed, of("mortal")).await;
    let note = format!("of several actors that were called `mortal` this is {}", namesake.address().actor);
    assert!(read[0].starts_with(&note), "{read:#?}");
    assert_eq!(read[1..], ["mortal on a: a probe starts with \"a namesake\""]);
    testbed.down().await;
}

#[tokio::test]
async fn jobs_gangs_and_nodes_are_read_from_all_agents_and_those_that_are_not_there_are_named() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 1 }")]).await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let spawn = cluster.spawn_gang::<Probe>(["zero", "one", "two"].map(String::from)).cpus(1).named("choir");
    let gang = within(spawn.into_future()).await.unwrap();
    assert_eq!(gang[2].address().process.node, "b");
    let nameless = within(cluster.spawn::<Probe>("nameless".into()).node("a").into_future()).await.unwrap();

    let starts = |who: &str, greeting: &str| format!("{who}: a probe starts with {greeting:?}");
    let choir =
        [starts("choir[0] on a", "zero"), starts("choir[1] on a", "one"), starts("choir[2] on b", "two")];
    assert_eq!(all(&testbed, of("choir")).await, choir);
    assert_eq!(all(&testbed, of("choir[1]")).await, choir[1..2]);
    let title = format!("probe/{}", nameless.address().actor);
    let whole = [&choir[..], &[starts(&format!("{title} on a"), "nameless")]].concat();
    assert_eq!(all(&testbed, of("test")).await, whole);

    let node = all(&testbed, of("b")).await;
    let is_up = |line: &&String| line.starts_with("agent on b: ") && line.contains("the agent is up");
    assert!(node.iter().any(|line| is_up(&line)), "{node:#?}");
    assert_eq!(node.last().unwrap(), &choir[2]);
    assert!(node.iter().all(|line| line.contains(" on b: ")));
    let only = LogQuery { incarnations: Incarnations::One(0), ..of("node/b") };
    assert!(all(&testbed, only).await.iter().all(|line| line.starts_with("agent on b: ")));
    let spawn = cluster.spawn::<Probe>("of that name".into()).named("b");
    within(spawn.into_future()).await.unwrap();
    let why = refused(&testbed, of("b")).await;
    assert_eq!(why, "several things are called `b`, say which is meant: `node/b` or `actor/b`");

    let agent = look(&gang[2], &[]).await.parent;
    kill(agent, Signal::KILL);
    within(gang[2].died()).await;
    let read = all(&testbed, of("choir")).await;
    let note = "what node `b` has of it is not shown: it is lost: its agent, process";
    assert!(read[0].starts_with(note), "{read:#?}");
    assert!(choir[..2].iter().all(|line| read.contains(line)) && !read.contains(&choir[2]), "{read:#?}");
    testbed.down().await;
}

#[tokio::test]
async fn what_is_followed_goes_on_over_cuts_and_restarts_and_ends_with_its_actor() {
    let text = manifest_text(&[("a", "{ cpus = 1 }"), ("b", "{ cpus = 1 }")]) + "[logs]\nsize = \"64 KiB\"\n";
    let testbed = Testbed::of(&text).started().await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let spawn = cluster.spawn::<Probe>("chatty".into()).cpus(1).restarts(1).named("chatty");
    let mut chatty = within(spawn.into_future()).await.unwrap();
    let mut reader = open(&testbed, LogQuery { follow: true, ..of("chatty") }).await;
    assert!(next(&mut reader).await.unwrap().contains(": a probe starts with"));

    // Who keeps up sees every line once, whatever is cut behind it.
    let mut lines = 0;
    let mut cut = 0;
    while cut == 0 {
        let node = &chatty.address().process.node;
        within(chatty.ask(Misbehave::Count(lines, lines + 1000))).await.unwrap();
        for line in lines..lines + 1000 {
            assert_eq!(next(&mut reader).await.unwrap(), format!("chatty on {node}: line {line:010}"));
        }
        lines += 1000;
        let listed = open(&testbed, of("chatty")).await;
        cut = listed.found()[0].1.cut;
        listed.close().await;
    }
    assert!(lines * 16 > 64 << 10);
    let read = all(&testbed, of("chatty")).await;
    assert!(
        read[0].starts_with("the first ") && read[0].ends_with(" were cut (see `logs.size`)"),
        "{}",
        read[0]
    );
    assert!(read[1].contains(": line ") && read.len() <= 4098, "whole lines are left: {}", read[1]);

    // Its next life may be elsewhere.
    kill(look(&chatty, &[]).await.pid, Signal::KILL);
    chatty = again(&cluster, &chatty, "chatty").await;
    say(&chatty, "on and on").await;
    let node = &chatty.address().process.node;
    // From two agents, in whatever order they come; what one says is in order.
    let mut lines = vec![];
    for _ in 0..3 {
        lines.push(next(&mut reader).await.unwrap());
    }
    let ended = lines.iter().position(|line| line.ends_with("ended by signal 9 (SIGKILL)"));
    lines.remove(ended.unwrap_or_else(|| panic!("{lines:?}")));
    let starts = format!("chatty on {node}: a probe starts with \"chatty\"");
    assert_eq!(lines, [starts, format!("chatty on {node}: on and on")]);
    within(cluster.kill(&chatty)).await.unwrap();
    assert!(next(&mut reader).await.unwrap().starts_with(&format!("chatty on {node} ended as ordered by")));
    assert_eq!(next(&mut reader).await, None);
    testbed.down().await;
}

/// The memory that a process has, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn l2_readers_that_do_not_read_hold_nothing_up_and_nothing_piles_up_for_them() {
    let text = manifest_text(&[("a", "{ cpus = 1 }")]) + "[logs]\nsize = \"64 MiB\"\n";
    let testbed = Testbed::of(&text).started().await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let spawn = cluster.spawn::<Probe>("long".into()).named("long");
    let long = within(spawn.into_future()).await.unwrap();
    let lines = 2 << 20;
    within(long.ask(Misbehave::Count(0, lines))).await.unwrap();
    let agent = look(&long, &[]).await.parent;

    let mut readers = Vec::new();
    for follow in [false, true].into_iter().cycle().take(8) {
        let mut reader = open(&testbed, LogQuery { follow, ..of("long") }).await;
        assert_eq!(next(&mut reader).await.unwrap(), "long on a: a probe starts with \"long\"");
        readers.push(reader);
    }
    // One that reads is served beside them, all of it.
    let before = resident(agent);
    let mut reader = open(&testbed, of("long")).await;
    next(&mut reader).await.unwrap();
    for line in 0..lines {
        let LogItem::Line { text, .. } = within(reader.next()).await.unwrap() else { panic!("no line") };
        assert_eq!(text, format!("line {line:010}").into_bytes());
    }
    assert!(next(&mut reader).await.is_none());
    let after = resident(agent);
    assert!(after < before + (8 << 20), "32 MiB were read: {before} bytes became {after}");
    // They go on where they are.
    for mut reader in readers {
        assert_eq!(next(&mut reader).await.unwrap(), "long on a: line 0000000000");
    }
    testbed.down().await;
}

#[tokio::test]
async fn a_follower_that_is_killed_is_not_served_for_ever() {
    let testbed = Testbed::start(&[("a", "{ cpus = 1 }")]).await;
    let (job, system) = testbed.job().await;
    let spawn = job.cluster(&system).spawn::<Probe>("watched".into()).named("watched");
    let watched = within(spawn.into_future()).await.unwrap();
    let agent = look(&watched, &[]).await.parent;
    let process = watched.address().process.process;
    let log = testbed.state().worker_logs("a").join(format!("{process:08}-probe.log"));
    let is_open = || {
        let open = std::fs::read_dir(format!("/proc/{agent}/fd")).unwrap().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|path: PathBuf| path == log)
    };
    assert!(!is_open());
    let state = testbed.state();
    let mut follower = Command::new(PROGRAM)
        .args(["follow", "watched", "--state"])
        .arg(state.root())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the agent reads the log", is_open).await;
    kill(follower.id(), Signal::KILL);
    follower.wait().unwrap();
    until("the agent closes the log", || !is_open()).await;
    assert!(lives(agent));
    testbed.down().await;
}

#[tokio::test]
async fn logs_of_those_who_have_ended_are_kept_for_their_time_and_of_those_who_live_for_ever() {
    let text = manifest_text(&[("a", "{ cpus = 1 }")]) + "[logs]\nkeep = 0\n";
    let testbed = Testbed::of(&text).started().await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let [short, long] = ["short", "long"].map(|name| cluster.spawn::<Probe>(name.into()).named(name));
    let short = within(short.into_future()).await.unwrap();
    within(long.into_future()).await.unwrap();
    let logs = || std::fs::read_dir(testbed.state().worker_logs("a")).unwrap().count();
    assert_eq!(logs(), 4, "each has its label");
    within(cluster.kill(&short)).await.unwrap();
    until("a log that was kept long enough is deleted with its label", || logs() == 2).await;
    assert_eq!(all(&testbed, of("long")).await, ["long on a: a probe starts with \"long\""]);
    testbed.down().await;
}

#[tokio::test]
async fn a_follower_finds_the_next_agent_of_its_node_and_goes_on_where_it_was() {
    let mut testbed = Testbed::start(&[("a", "{ cpus = 1 }")]).await;
    let mut reader = open(&testbed, LogQuery { follow: true, ..of("node/a") }).await;
    let mut earlier = Vec::new();
    while !earlier.iter().any(|line: &String| line.contains("joined the head")) {
        earlier.push(next(&mut reader).await.unwrap());
    }
    kill(testbed.pid_of("agent"), Signal::KILL);
    let lost = loop {
        let line = next(&mut reader).await.unwrap();
        if line.starts_with("node `a` is not heard: ") {
            break line;
        }
        earlier.push(line);
    };
    assert!(lost.ends_with("; it is tried again"), "{lost}");
    testbed.up = None;
    testbed.up = Some(testbed.try_up(&testbed.manifest).await.unwrap());
    assert_eq!(next(&mut reader).await.unwrap(), "node `a` is heard again");
    let mut later = Vec::new();
    while !later.iter().any(|line: &String| line.contains("joined the head")) {
        later.push(next(&mut reader).await.unwrap());
    }
    assert!(later.iter().all(|line| !earlier.contains(line)), "{later:#?} after {earlier:#?}");
    assert!(later.iter().any(|line| line.contains("the agent is up")), "{later:#?}");
    testbed.down().await;
}
