//! Clusters of real processes on this machine.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::time::{Duration, Instant};

use lyceum_actor::{ActorRef, CallError, Cause, ControlError, Registry};
use lyceum_cluster::launch::local;
use lyceum_cluster::manifest::Manifest;
use lyceum_cluster::{Client, JobEvent};
use lyceum_wire::{Authority, Credentials, Endpoint, EndpointOptions, Expect, PeerIdentity, PeerRole};
use rustix::process::Signal;

mod harness;
#[path = "../testbed/probe.rs"]
#[allow(dead_code, reason = "the testbed uses the other half")]
mod probe;

use harness::{
    HANGING, PROGRAM, Testbed, kill, lives, look, manifest_text, next_end, processes_of, until, within,
};
use probe::{AskOther, Look, Misbehave, Probe, Question, SpawnAnother};

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
async fn an_actor_finds_the_resources_that_were_asked_for() {
    let gpus = "{ cpus = 1, gpus = 2, memory = \"1 GiB\", custom = { seat = 1.5 } }";
    let testbed = Testbed::start(&[("a", gpus)]).await;
    let (_job, system) = testbed.job().await;
    let cluster = _job.cluster(&system);
    let spawn =
        cluster.spawn::<Probe>("rich".into()).cpus(1).gpus(1).resource("seat", 0.5).env("COLOUR", "red");
    let probe = within(spawn.into_future()).await.unwrap();
    let variables =
        ["OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES", "COLOUR"];
    let sight = look(&probe, &variables).await;
    let seen: Vec<&str> = sight.variables.iter().flatten().map(String::as_str).collect();
    assert_eq!(seen, ["1", "1", "passive", "0", "red"]);
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
async fn l3_a_killed_worker_is_an_error_to_waiters_on_its_node_and_on_others() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let (mut job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let victim = within(cluster.spawn::<Probe>("victim".into()).node("a").into_future()).await.unwrap();
    let near = within(cluster.spawn::<Probe>("near".into()).node("a").into_future()).await.unwrap();
    let far = within(cluster.spawn::<Probe>("far".into()).node("b").into_future()).await.unwrap();
    let pid = look(&victim, &[]).await.pid;

    let spin = |of: &ActorRef<Probe>| {
        of.ask(AskOther { other: victim.address().clone(), what: Question::Spin }).into_future()
    };
    let (near, far) = (tokio::spawn(spin(&near)), tokio::spawn(spin(&far)));
    let own = tokio::spawn(victim.ask(Misbehave::Spin(3_600_000)).into_future());
    tokio::time::sleep(Duration::from_millis(300)).await;
    kill(pid, Signal::KILL);
    let Err(CallError::Dead(report)) = within(own).await.unwrap() else {
        panic!("a dead actor cannot answer")
    };
    assert_eq!(report.cause, Cause::Signal(9));
    for waiter in [near, far] {
        let words = within(waiter).await.unwrap().unwrap();
        assert!(words.as_str().contains("on node a ended by signal 9 (SIGKILL)"), "{}", words.as_str());
    }
    assert_eq!(next_end(&mut job).await.0.cause, Cause::Signal(9));
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
    assert!(words.as_str().contains("node lost: its agent"), "{}", words.as_str());
    let (report, expected) = next_end(&mut job).await;
    assert!(matches!(report.cause, Cause::NodeLost(_)) && !expected, "{report}");
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

#[tokio::test]
async fn a_standing_cluster_outlives_its_head() {
    let mut testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let job = testbed.client().begin_job("long", false).await.unwrap();
    let system = testbed.client().start_system(job.id(), Registry::new()).await.unwrap();
    let spawn = job.cluster(&system).spawn::<Probe>("survivor".into()).node("b").named("survivor");
    let probe = within(spawn.into_future()).await.unwrap();
    let before = look(&probe, &[]).await;
    let head = testbed.pid_of("head");
    kill(head, Signal::KILL);
    until("the head ends", || !lives(head)).await;
    assert_eq!(look(&probe, &[]).await.pid, before.pid, "calls need no head");

    testbed.up = None;
    testbed.up = Some(testbed.try_up(&testbed.manifest).await.unwrap());
    let status = testbed.status().await;
    let found: Vec<_> = status.actors.iter().map(|actor| (actor.pid, actor.state.as_str())).collect();
    assert_eq!(found, [(before.pid, "running")], "the new head knows the process that went on");
    within(testbed.client().end_job(job.id(), "the test")).await.unwrap();
    assert!(!lives(before.pid));
    testbed.down().await;
}

#[tokio::test]
async fn an_owned_cluster_ends_with_its_runner_and_with_its_head() {
    for victim in ["runner", "head"] {
        let testbed = Testbed::prepare(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]);
        let manifest = testbed.folder.path().join("owned.toml");
        std::fs::write(&manifest, manifest_text(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")])).unwrap();
        let mut runner = std::process::Command::new(PROGRAM)
            .args(["runner", "--manifest", manifest.to_str().unwrap(), "--state"])
            .arg(testbed.state().root())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = std::io::BufReader::new(runner.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        assert!(line.starts_with("up "), "{line}");
        let refused = testbed.try_up(&testbed.manifest).await.unwrap_err().to_string();
        assert!(refused.contains("belongs to another `lyceum run`"), "{refused}");

        let pid = if victim == "runner" { runner.id() } else { testbed.pid_of("head") };
        kill(pid, Signal::KILL);
        let daemons = || {
            let left = processes_of(testbed.folder.path());
            left.into_iter().filter(|pid| *pid != runner.id()).collect::<Vec<_>>()
        };
        until("everything ends", || daemons().is_empty()).await;
        runner.kill().unwrap();
        runner.wait().unwrap();
    }
}

#[tokio::test]
async fn a_second_up_finds_the_first_and_another_manifest_is_refused() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }")]).await;
    let before = processes_of(testbed.folder.path());
    let again = testbed.try_up(&testbed.manifest).await.unwrap();
    assert!(!again.started);
    assert_eq!(processes_of(testbed.folder.path()), before);

    let other = Manifest::parse("other.toml", &manifest_text(&[("a", "{ cpus = 1 }")])).unwrap();
    let refused = testbed.try_up(&other).await.unwrap_err().to_string();
    assert!(refused.contains("runs with another manifest"), "{refused}");
    drop(again);
    let state = testbed.state();
    let folder = testbed.folder.path().to_owned();
    let mut testbed = testbed;
    testbed.up = None;
    assert!(within(local::down(&state)).await.unwrap());
    assert!(!within(local::down(&state)).await.unwrap(), "there is nothing to end twice");
    assert_eq!(processes_of(&folder), Vec::<u32>::new());
    assert!(!state.authority().exists() && !state.client().exists(), "keys are left");
}

#[tokio::test]
async fn a_node_that_does_not_start_is_named_with_its_log_and_nothing_stays() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let testbed = Testbed::prepare(&[("a", "{ cpus = 1 }")]);
    let text = manifest_text(&[("a", "{ cpus = 1 }")]);
    let text = format!("ports = {{ first = {}, count = 3 }}\n{text}", port - 1);
    let manifest = Manifest::parse("test.toml", &text).unwrap();
    let error = testbed.try_up(&manifest).await.unwrap_err().to_string();
    assert!(error.contains("node `a`: its agent has ended"), "{error}");
    assert!(error.contains(&format!("cannot bind 127.0.0.1:{port}")), "{error}");
    assert_eq!(processes_of(testbed.folder.path()), Vec::<u32>::new());
}

#[tokio::test]
async fn l6_strangers_are_refused_and_the_cluster_lives() {
    let testbed = Testbed::start(&[("a", "{ cpus = 1 }")]).await;
    let status = testbed.status().await;
    let agent = status.nodes[0].address.unwrap();
    let address = std::fs::read_to_string(testbed.state().head_address()).unwrap();
    let address: serde_json::Value = serde_json::from_str(&address).unwrap();
    let head = address["advertised"].as_str().unwrap().parse().unwrap();

    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for round in 0..200u32 {
        let garbage: Vec<u8> =
            (0..1200u32).map(|at| (at.wrapping_mul(2_654_435_761) >> (round % 24)) as u8).collect();
        socket.send_to(&garbage, head).unwrap();
        socket.send_to(&garbage[..round as usize], agent).unwrap();
    }

    let hour = Duration::from_secs(3600);
    let identity = |role, node: &str| PeerIdentity::new("test", role, node, 99).unwrap();
    let own = Authority::load(&testbed.state().authority()).unwrap();
    let foreign = Authority::create("test").unwrap();
    let reach = |credentials: Credentials, to, expect: PeerRole| async move {
        let options = EndpointOptions::new("127.0.0.1:0".parse().unwrap());
        let endpoint = Endpoint::bind(credentials, options).unwrap();
        within(endpoint.connect(to, &Expect::role(expect))).await.map(drop).unwrap_err().to_string()
    };
    let worker = own.issue(&identity(PeerRole::Worker, "a"), hour).unwrap();
    let refused = reach(worker.clone(), head, PeerRole::Head).await;
    assert!(refused.contains("a worker may not speak to the head"), "{refused}");
    let refused = reach(worker, agent, PeerRole::Agent).await;
    assert!(refused.contains("a worker is not admitted here"), "{refused}");
    let unknown = own.issue(&identity(PeerRole::Agent, "z"), hour).unwrap();
    let refused = reach(unknown, head, PeerRole::Head).await;
    assert!(refused.contains("the manifest has no node `z`"), "{refused}");
    let stranger = foreign.issue(&identity(PeerRole::Client, "client"), hour).unwrap();
    reach(stranger, head, PeerRole::Head).await;
    for path in [testbed.state().root().to_owned(), testbed.state().head(), testbed.state().client()] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", path.display());
    }

    assert!(testbed.status().await.nodes[0].joined, "the cluster lives");
    testbed.down().await;
}

#[tokio::test]
async fn what_can_never_be_is_refused_and_what_is_taken_is_waited_for() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 1 }")]).await;
    let (mut job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let refused = within(cluster.spawn::<Probe>("".into()).cpus(3).into_future()).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "probe: no node can ever hold this request: node `a`: cpus: 3 asked, 2 in all; \
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
    assert!(testbed.status().await.actors.iter().any(|actor| actor.state == "waiting for room"));
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
    let child = within(a.ask(SpawnAnother { node: "b".into() })).await.unwrap();
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
    let system = client.start_system(job.id(), Registry::new()).await.unwrap();
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
