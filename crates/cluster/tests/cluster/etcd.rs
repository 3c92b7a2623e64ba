//! Heads that stand by, and take over.

use std::path::Path;
use std::time::Instant;

use lyceum_actor::{ActorRef, System};
use lyceum_cluster::{Client, Status};
use rustix::process::Signal;

use crate::etcd_server::{EtcdServer, have_etcd};
use crate::harness::{Testbed, kill, lives, look, manifest_text, processes_of, until, within};
use crate::probe::{Hold, LetGo, Probe, Save};

/// A cluster whose state is in `etcd`, with one head that stands by.
fn testbed_of(etcd: &EtcdServer) -> Testbed {
    testbed_at(&etcd.member())
}

fn testbed_at(members: &str) -> Testbed {
    let text = manifest_text(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]);
    let head = format!("[head]\nstate = \"etcd://{members}\"\nstandbys = 1\n[health]");
    Testbed::of(&text.replace("[health]", &head))
}

/// The process that leads, as it says itself.
fn leader(testbed: &Testbed) -> u32 {
    let text = std::fs::read_to_string(testbed.state().head_address()).unwrap();
    let address: serde_json::Value = serde_json::from_str(&text).unwrap();
    address["pid"].as_u64().unwrap() as u32
}

/// A client of the head that leads now and is not `before`, and how long that took.
async fn next_client(testbed: &Testbed, before: u32) -> Client {
    let began = Instant::now();
    until("another head leads", || leader(testbed) != before).await;
    let client = loop {
        match within(Client::connect(&testbed.state())).await {
            Ok(client) => break client,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    };
    loop {
        let status = within(client.status()).await.unwrap();
        if status.nodes.iter().all(|node| node.joined) {
            println!("another head leads, and all nodes have joined it, after {:?}", began.elapsed());
            return client;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// What must be as before, whoever leads.
fn lasting(status: &Status) -> Vec<(u64, u64, u32, Option<String>, String)> {
    let row = |actor: &lyceum_cluster::ActorStatus| {
        (actor.actor, actor.process, actor.pid, actor.name.clone(), actor.node.clone())
    };
    status.actors.iter().map(row).collect()
}

async fn spawn(system: &System, job: u64, name: &str) -> ActorRef<Probe> {
    let cluster = system.cluster().for_job(job);
    let spawn = cluster.spawn::<Probe>(name.to_owned()).named(name).cpus(1).restarts(3);
    within(spawn.into_future()).await.unwrap()
}

#[tokio::test]
async fn l3_who_stands_by_takes_over_and_everything_is_as_before() {
    if !have_etcd() {
        return;
    }
    let etcd = EtcdServer::start();
    let testbed = testbed_of(&etcd).started().await;
    let heads = heads_of(testbed.folder.path());
    assert_eq!(heads.len(), 2);
    let job = within(testbed.client().begin_job("lasting", false)).await.unwrap().id();
    let system = within(testbed.client().start_system(lyceum_actor::Registry::new())).await.unwrap();
    let (first, second) = (spawn(&system, job, "first").await, spawn(&system, job, "second").await);
    within(first.ask(Save("what I know".into()))).await.unwrap();
    let before = lasting(&testbed.status().await);
    assert_eq!(before.len(), 2);

    // Killed: a conversation goes on meanwhile.
    let held = first.ask(Hold);
    let scene = async {
        let killed = leader(&testbed);
        kill(killed, Signal::KILL);
        let client = next_client(&testbed, killed).await;
        assert_eq!(lasting(&within(client.status()).await.unwrap()), before);
        within(first.ask(LetGo)).await.unwrap();
        (killed, client)
    };
    let (held, (killed, client)) = tokio::join!(held, scene);
    held.unwrap();
    assert!(!lives(killed));

    // The new one does what a head does, from what the old one wrote down.
    let system = within(client.start_system(lyceum_actor::Registry::new())).await.unwrap();
    let cluster = system.cluster().for_job(job);
    let found = within(cluster.lookup::<Probe>("first")).await.unwrap().unwrap();
    assert_eq!(found.address(), first.address());
    kill(look(&found, &[]).await.pid, Signal::KILL);
    let again = loop {
        match within(cluster.lookup::<Probe>("first")).await.unwrap() {
            Some(again) if again.address() != first.address() => break again,
            _ => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    };
    assert_eq!(look(&again, &[]).await.saved.as_deref(), Some("what I know"));
    assert_eq!(look(&second, &[]).await.greeting, "second");
    let third = spawn(&system, job, "third").await;
    assert_eq!(look(&third, &[]).await.greeting, "third");

    // `up` starts who died: it stands by now.
    let up = testbed.try_up(&testbed.manifest).await.unwrap();
    assert!(up.started);
    assert_eq!(heads_of(testbed.folder.path()).len(), 2);
    let before = lasting(&within(up.client.status()).await.unwrap());

    // Stopped for longer than its lease, and going on: it does no harm, and leads again when its turn comes.
    let stopped = leader(&testbed);
    kill(stopped, Signal::STOP);
    let client = next_client(&testbed, stopped).await;
    kill(stopped, Signal::CONT);
    assert_eq!(lasting(&within(client.status()).await.unwrap()), before);
    let other = leader(&testbed);
    kill(other, Signal::KILL);
    let client = next_client(&testbed, other).await;
    assert_eq!(leader(&testbed), stopped);
    assert_eq!(lasting(&within(client.status()).await.unwrap()), before);
    within(client.end_job(job, "the test")).await.unwrap();
    assert!(within(client.status()).await.unwrap().actors.is_empty());
    drop((client, up));
    testbed.down().await;
    assert_eq!(keys_of(&etcd), 0, "what a cluster that has ended leaves");
}

#[tokio::test]
async fn l3_any_one_of_three_members_may_be_lost() {
    if !have_etcd() {
        return;
    }
    let mut members = EtcdServer::start_three();
    let testbed = testbed_at(&members.each_ref().map(EtcdServer::member).join(",")).started().await;
    let begin =
        async |client: &Client, name: &str| within(client.begin_job(name, false)).await.map(|job| job.id());
    let mut jobs = vec![begin(testbed.client(), "with all").await.unwrap()];

    // The one that is asked first.
    members[0].kill();
    let leads = leader(&testbed);
    let client = match begin(testbed.client(), "without the first").await {
        Ok(job) => {
            jobs.push(job);
            testbed.client().clone()
        }
        // The others took longer than the lease to agree.
        Err(_) => next_client(&testbed, leads).await,
    };
    let known = within(client.status()).await.unwrap().jobs;
    assert!(jobs.iter().all(|job| known.iter().any(|known| known.job == *job)), "{known:?}");
    drop(client);

    // The head as well.
    let killed = leader(&testbed);
    kill(killed, Signal::KILL);
    let client = next_client(&testbed, killed).await;
    let known = within(client.status()).await.unwrap().jobs;
    assert!(jobs.iter().all(|job| known.iter().any(|known| known.job == *job)), "{known:?}");
    assert!(members[0].serve());
    jobs.push(begin(&client, "with all again").await.unwrap());
    drop(client);
    testbed.down().await;
    assert_eq!(keys_of(&members[0]), 0, "what a cluster that has ended leaves");
}

#[tokio::test]
async fn a_head_outlives_an_etcd_that_is_away_for_a_moment() {
    if !have_etcd() {
        return;
    }
    let mut etcd = EtcdServer::start();
    let testbed = testbed_of(&etcd).started().await;
    let leads = leader(&testbed);
    let job = within(testbed.client().begin_job("lasting", false)).await.unwrap().id();
    etcd.kill();
    // What is asked for meanwhile is done when it can be written down.
    let begun = tokio::spawn({
        let client = testbed.client().clone();
        async move { within(client.begin_job("meanwhile", false)).await.map(|job| job.id()) }
    });
    assert!(etcd.serve());
    let meanwhile = begun.await.unwrap();
    let client = match meanwhile {
        Ok(meanwhile) => {
            assert_ne!(meanwhile, job);
            testbed.client().clone()
        }
        // It was away for longer than the lease: somebody leads again.
        Err(_) => next_client(&testbed, leads).await,
    };
    let jobs = within(client.status()).await.unwrap().jobs;
    assert!(jobs.iter().any(|known| known.job == job), "{jobs:?}");
    drop(client);
    testbed.down().await;
}

#[tokio::test]
async fn l3_a_head_that_stands_by_and_cannot_have_its_port_again_is_found_at_another() {
    if !have_etcd() {
        return;
    }
    let etcd = EtcdServer::start();
    let testbed = testbed_of(&etcd).started().await;
    let leads = leader(&testbed);
    let stands_by = heads_of(testbed.folder.path()).into_iter().find(|pid| *pid != leads).unwrap();
    let places = || -> Vec<(u32, std::net::SocketAddr)> {
        let read = |number| {
            let text = std::fs::read_to_string(testbed.state().candidate_address(number)).unwrap();
            let address: serde_json::Value = serde_json::from_str(&text).unwrap();
            let place = address["bound"].as_str().unwrap().parse().unwrap();
            (address["pid"].as_u64().unwrap() as u32, place)
        };
        vec![read(0), read(1)]
    };
    let place = places().into_iter().find(|(pid, _)| *pid == stands_by).unwrap().1;
    kill(stands_by, Signal::KILL);
    until("it is gone", || !lives(stands_by)).await;
    let mut taken = None;
    until("its port is free", || {
        taken = std::net::UdpSocket::bind(place).ok();
        taken.is_some()
    })
    .await;
    let up = testbed.try_up(&testbed.manifest).await.unwrap();
    assert!(up.started);
    let moved = places().into_iter().find(|(pid, _)| *pid != leads).unwrap();
    assert_ne!(moved.1, place);
    let knows = |node: &str| {
        let log = std::fs::read_to_string(testbed.state().agent_log(node)).unwrap();
        log.lines().any(|line| line.contains("other places") && line.contains(&moved.1.to_string()))
    };
    until("all agents know", || knows("a") && knows("b")).await;

    kill(leads, Signal::KILL);
    let client = next_client(&testbed, leads).await;
    assert_eq!(leader(&testbed), moved.0);
    drop((client, up, taken));
    testbed.down().await;
}

fn heads_of(folder: &Path) -> Vec<u32> {
    let is_head = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"head")
    };
    processes_of(folder).into_iter().filter(is_head).collect()
}

/// How many keys of ours there are.
fn keys_of(etcd: &EtcdServer) -> u64 {
    // `/` to `0`, its successor: all that begin with a slash.
    let body = r#"{"key":"Lw==","range_end":"MA==","count_only":true}"#;
    let mut answer = ureq::post(format!("http://{}/v3/kv/range", etcd.member())).send(body).unwrap();
    let answer: serde_json::Value =
        serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
    answer["count"].as_str().map_or(0, |count| count.parse().unwrap())
}
