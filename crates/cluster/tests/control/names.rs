//! Names, and what an actor ends with.

use lyceum_actor::{ControlError, Lifetime, SpawnRequest};
use lyceum_cluster::control::vocabulary::{Answer, Ask, Origin};
use lyceum_cluster::control::{HeadEffect, HeadEvent};

use super::harness::{CLIENT, Cluster, launch, named, spawn, stops};

#[test]
fn names_are_a_jobs_own_or_a_namespaces() {
    let mut cluster = Cluster::new();
    let (job, other) = (cluster.job(), cluster.job());
    let own = cluster.started(CLIENT, named(job, None, false));
    let others = cluster.started(CLIENT, named(other, None, false));
    let shared = cluster.started(CLIENT, named(job, Some("school"), false));
    assert_eq!(cluster.lookup(CLIENT, job, None, "ada"), Some(own));
    assert_eq!(
        cluster.lookup(Origin::Worker(others), job, None, "ada"),
        Some(others),
        "a worker's are its job's"
    );
    for worker in [own, others] {
        assert_eq!(cluster.lookup(Origin::Worker(worker), 0, Some("school"), "ada"), Some(shared));
    }
    assert_eq!(cluster.lookup(CLIENT, job, Some("college"), "ada"), None);
    cluster.dies(shared);
    assert_eq!(cluster.lookup(CLIENT, job, Some("school"), "ada"), None, "a name ends with its actor");
    cluster.started(CLIENT, named(other, Some("school"), false));
}

#[test]
fn c5_of_all_that_ask_for_a_name_at_once_all_get_the_same_actor() {
    let mut cluster = Cluster::new();
    let (job, other) = (cluster.job(), cluster.job());
    let first = cluster.ask(CLIENT, Ask::Spawn(named(job, Some("school"), true)));
    let (node, process) = first.iter().find_map(launch).expect("it is launched at once");
    for job in [job, other] {
        assert!(cluster.ask(CLIENT, Ask::Spawn(named(job, Some("school"), true))).is_empty(), "it waits");
    }
    let started = cluster.ready(&node, process);
    let answers = started.iter().filter(|effect| {
        matches!(effect, HeadEffect::Reply { answer: Answer::Actor(address), .. } if address.incarnation == process)
    });
    assert_eq!(answers.count(), 3, "{started:?}");
    let late = cluster.answer(CLIENT, Ask::Spawn(named(other, Some("school"), true)));
    assert!(matches!(late, Answer::Actor(address) if address.incarnation == process));

    let taken = named(job, Some("school"), false);
    let another_role = SpawnRequest { role: "teacher".into(), ..named(job, Some("school"), true) };
    let another_build = SpawnRequest { fingerprint: 7, ..named(job, Some("school"), true) };
    let nameless = SpawnRequest { or_get: true, ..spawn(job, 1) };
    for (request, why) in [
        (taken, "the name `ada` is taken by a role"),
        (another_role, "`ada` is a role, and a teacher is asked for"),
        (another_build, "knows another role"),
        (nameless, "needs a name"),
    ] {
        let answer = cluster.answer(CLIENT, Ask::Spawn(request));
        let Answer::Error(ControlError::Refused(said)) = &answer else { panic!("{answer:?}") };
        assert!(said.contains(why), "{said}");
    }
    cluster.ask(CLIENT, Ask::EndJob { job, by: "the test".into(), kill: false });
    let answer = cluster.answer(CLIENT, Ask::Spawn(named(other, Some("school"), true)));
    assert!(
        matches!(&answer, Answer::Error(ControlError::Refused(why)) if why.contains("ended by the test"))
    );
}

#[test]
fn c6_an_actor_that_is_bound_to_its_spawner_ends_with_it() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let parent = cluster.process(job, 1);
    let bound = |cpus| SpawnRequest { lifetime: Lifetime::Spawner, ..spawn(job, cpus) };
    let child = cluster.started(Origin::Worker(parent), bound(1));
    let grandchild = cluster.started(Origin::Worker(child), bound(1));
    let free = cluster.started(Origin::Worker(parent), spawn(job, 1));
    assert!(cluster.ask(Origin::Worker(parent), Ask::Spawn(bound(2))).is_empty(), "it waits for room");
    assert_eq!(stops(&cluster.dies(parent)), [child]);
    assert_eq!(cluster.head.status().actors.len(), 3, "the one that waited is gone at once");
    assert_eq!(stops(&cluster.dies(child)), [grandchild]);
    cluster.dies(grandchild);
    assert_eq!(cluster.head.status().actors[0].process, free);

    cluster.started(Origin::Client(2), bound(1));
    assert_eq!(stops(&cluster.event(HeadEvent::ClientGone { client: 2 })).len(), 1);
}

#[test]
fn a_detached_actor_outlives_its_job_and_spawns_for_itself() {
    let mut cluster = Cluster::new();
    let (job, other) = (cluster.job(), cluster.job());
    let detached = |namespace| SpawnRequest { lifetime: Lifetime::Detached, ..named(job, namespace, true) };
    let answer = cluster.answer(CLIENT, Ask::Spawn(detached(None)));
    assert!(
        matches!(&answer, Answer::Error(ControlError::Refused(why)) if why.contains("a name in a namespace"))
    );
    let worker = cluster.process(job, 1);
    let process = cluster.started(Origin::Worker(worker), detached(Some("school")));
    let status = cluster.head.status();
    let found = status.actors.iter().find(|actor| actor.process == process).unwrap();
    let (actor, own) = (found.actor, found.job);
    assert!(own != job && own != 0, "it has a job of its own");
    let mut in_job = |job| cluster.started(Origin::Worker(process), spawn(job, 1));
    let child = in_job(own);
    cluster.ask(CLIENT, Ask::EndJob { job, by: "the test".into(), kill: false });
    cluster.dies(worker);
    assert!(cluster.head.status().jobs.iter().all(|found| found.job != job), "the job has ended");
    assert_eq!(cluster.lookup(CLIENT, other, Some("school"), "ada"), Some(process));
    let pupil = cluster.process(other, 1);
    let ended = cluster.ask(Origin::Worker(pupil), Ask::StopActor { actor, kill: true });
    assert_eq!(stops(&ended), [process], "whoever finds it may end it");
    assert_eq!(stops(&cluster.dies(process)), [child], "what it spawned ends with it");
    cluster.dies(child);
    assert!(cluster.head.status().jobs.iter().all(|found| found.job == other), "its job has ended");
}

#[test]
fn two_detached_actors_share_no_names_and_may_not_end_each_others_actors() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let detached = |name: &str| SpawnRequest {
        lifetime: Lifetime::Detached,
        name: Some(name.into()),
        ..named(job, Some("school"), false)
    };
    let processes = ["ada", "bob"].map(|name| cluster.started(CLIENT, detached(name)));
    let [ours, theirs] = processes.map(|process| {
        let status = cluster.head.status();
        let own = status.actors.iter().find(|actor| actor.process == process).unwrap().job;
        cluster.started(Origin::Worker(process), named(own, None, false))
    });
    let status = cluster.head.status();
    let actor = status.actors.iter().find(|actor| actor.process == theirs).unwrap().actor;
    let refused = cluster.answer(Origin::Worker(processes[0]), Ask::StopActor { actor, kill: true });
    assert!(
        matches!(&refused, Answer::Error(ControlError::Refused(why)) if why.contains("may not act in job"))
    );
    assert_ne!(ours, theirs);
}

#[test]
fn an_actor_that_asks_for_its_own_name_while_it_starts_is_told_so() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let effects = cluster.ask(CLIENT, Ask::Spawn(named(job, None, true)));
    let (_, process) = effects.iter().find_map(launch).unwrap();
    let answer = cluster.answer(Origin::Worker(process), Ask::Spawn(named(job, None, true)));
    assert!(
        matches!(&answer, Answer::Error(ControlError::Refused(why)) if why.contains("is the role that asks")),
        "{answer:?}"
    );
}
