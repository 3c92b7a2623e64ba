//! Workers that are forked from a template of their program are like those that are started.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use lyceum_actor::{ActorRef, CallError, Cause, Cluster, Spawn};
use lyceum_cluster::launch::{self, UpOptions};
use rustix::process::Signal;

use crate::harness::{PROGRAM, Testbed, kill, lives, look, processes_of, until, within};
use crate::probe::{Misbehave, Probe, Sight};

/// The program by its name, which an agent forks from a template.
fn program() -> &'static str {
    Path::new(PROGRAM).file_name().unwrap().to_str().unwrap()
}

fn forked(cluster: &Cluster, greeting: &str) -> Spawn<Probe> {
    cluster.spawn::<Probe>(greeting.into()).program(program())
}

async fn started(spawn: Spawn<Probe>) -> (ActorRef<Probe>, Sight) {
    let probe = within(spawn.into_future()).await.unwrap();
    let sight = look(&probe, &[]).await;
    (probe, sight)
}

/// Of what it was told when it was loaded: the environment of a process that was forked is its template's.
fn was_forked(pid: u32) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(b"LYCEUM_TEMPLATE_FD="))
}

fn name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn templates(testbed: &Testbed) -> Vec<u32> {
    processes_of(testbed.folder.path()).into_iter().filter(|pid| name(*pid) == "lyceum-template").collect()
}

fn children(pid: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |of: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{of}/stat")).unwrap_or_default();
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok())
    };
    pids.filter(|of| parent(*of) == Some(pid)).collect()
}

#[tokio::test]
async fn a_forked_worker_is_given_what_a_started_one_is_given() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2, gpus = 2 }")]).await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let variables = [
        "OMP_NUM_THREADS",
        "OMP_WAIT_POLICY",
        "CUDA_VISIBLE_DEVICES",
        "LYCEUM_NODE",
        "LYCEUM_TEMPLATE_FD",
        "LYCEUM_TETHER_FD",
    ];
    let mut seen = Vec::new();
    for spawn in [forked(&cluster, "forked"), cluster.spawn::<Probe>("started".into())] {
        let probe = within(spawn.cpus(1).gpus(1).into_future()).await.unwrap();
        seen.push((look(&probe, &variables).await, probe));
    }
    let agent = testbed.status().await.nodes[0].pid;
    for (gpu, (sight, probe)) in seen.iter().enumerate() {
        let gpu = gpu.to_string();
        let expected = [Some("1"), Some("passive"), Some(&*gpu), Some("a"), None, None];
        assert_eq!(sight.variables.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
        assert_eq!((sight.parent, sight.group, sight.cores.len()), (agent, sight.pid, 1));
        assert_eq!(sight.store_holder, probe.address().process.process, "its store knows it");
        let (log, errors) =
            (["1", "2"]).map(|fd| std::fs::read_link(format!("/proc/{}/fd/{fd}", sight.pid))).into();
        assert_eq!(log.as_ref().unwrap(), errors.as_ref().unwrap());
        assert!(std::fs::read_to_string(log.unwrap()).unwrap().contains(&format!("{:?}", sight.greeting)));
        let inspection = within(system.inspect(probe.address())).await.unwrap();
        assert!(inspection.threads.iter().any(|thread| thread.name == "lyceum-io"), "{inspection:#?}");
    }
    let [(forked, _), (started, _)] = &seen[..] else { panic!("two were spawned") };
    assert_eq!((was_forked(forked.pid), was_forked(started.pid)), (true, false));
    assert_eq!(name(forked.pid), name(started.pid));
    assert_eq!(children(agent).len(), 3, "one template, two workers");
    testbed.down().await;
}

#[tokio::test]
async fn a_forked_worker_ends_as_a_started_one_ends() {
    let testbed = Testbed::start(&[("a", "{ cpus = 4, memory = \"1 GiB\" }")]).await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let (probe, sight) = started(forked(&cluster, "leaves")).await;
    assert!(was_forked(sight.pid));
    let asked = within(probe.ask(Misbehave::Exit(7, "these are my last words".into()))).await;
    let Err(CallError::Dead(report)) = asked else { panic!("it has ended: {asked:?}") };
    assert_eq!(report.cause, Cause::Exited(7));
    assert!(report.log_tail.iter().any(|line| line.contains("these are my last words")), "{report}");

    let (probe, sight) = started(forked(&cluster, "is killed")).await;
    within(probe.ask(Misbehave::Beget)).await.unwrap();
    let orphans = children(sight.pid);
    assert_eq!(orphans.len(), 1);
    kill(sight.pid, Signal::KILL);
    assert_eq!(within(probe.died()).await.cause, Cause::Signal(9));
    until("what it has started ends with it", || !lives(orphans[0])).await;

    let (probe, sight) = started(forked(&cluster, "is hungry").memory(96 << 20)).await;
    assert!(was_forked(sight.pid));
    let asked = within(probe.ask(Misbehave::Hoard(1 << 30))).await;
    let Err(CallError::Dead(report)) = asked else { panic!("it took more than it may: {asked:?}") };
    assert!(matches!(report.cause, Cause::OutOfMemory(_)), "{report}");

    let failing = within(forked(&cluster, "fail: no appetite").into_future()).await.unwrap_err().to_string();
    assert!(failing.contains("no appetite"), "{failing}");
    assert_eq!(templates(&testbed).len(), 1);
    testbed.down().await;
}

#[tokio::test]
async fn who_is_given_variables_of_its_own_is_started_with_them() {
    let testbed = Testbed::start(&[("a", "{ cpus = 4 }")]).await;
    let (job, system) = testbed.job().await;
    let spawn = forked(&job.cluster(&system), "coloured").env("LD_BIND_NOW", "1");
    let probe = within(spawn.into_future()).await.unwrap();
    let sight = look(&probe, &["LD_BIND_NOW"]).await;
    assert_eq!(sight.variables, [Some("1".to_owned())]);
    assert!(!was_forked(sight.pid), "libraries read theirs when they are loaded");
    testbed.down().await;
}

#[tokio::test]
async fn workers_outlive_their_template_and_another_takes_its_place() {
    let testbed = Testbed::start(&[("a", "{ cpus = 8 }")]).await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let (first, _) = started(forked(&cluster, "first")).await;
    let [template] = templates(&testbed)[..] else { panic!("there is one template") };
    kill(template, Signal::KILL);
    until("the template ends", || !lives(template)).await;
    let (_second, sight) = started(forked(&cluster, "second")).await;
    assert!(was_forked(sight.pid));
    let [another] = templates(&testbed)[..] else { panic!("there is one template") };
    assert_ne!(another, template);

    // An order is under way when this one is killed: it is stopped, and does not take it.
    kill(another, Signal::STOP);
    let third = tokio::spawn(forked(&cluster, "third").into_future());
    let logs = testbed.state().worker_logs("a");
    let is_log =
        |entry: std::fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "log");
    let logged = || std::fs::read_dir(&logs).unwrap().flatten().map(is_log).filter(|log| *log).count() == 3;
    until("the third is ordered", logged).await;
    kill(another, Signal::KILL);
    let third = within(third).await.unwrap().unwrap();
    assert!(!was_forked(look(&third, &[]).await.pid), "nobody was there to fork it");
    assert_eq!(look(&first, &[]).await.greeting, "first");
    testbed.down().await;
}

#[tokio::test]
async fn a_killed_agent_takes_its_template_and_what_was_forked_along() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }")]).await;
    let (job, system) = testbed.job().await;
    let (_probe, sight) = started(forked(&job.cluster(&system), "lost")).await;
    let [template] = templates(&testbed)[..] else { panic!("there is one template") };
    kill(sight.parent, Signal::KILL);
    until("what a killed agent has started ends", || !lives(template) && !lives(sight.pid)).await;
    testbed.down().await;
}

#[tokio::test]
async fn a_program_that_is_no_template_is_started_for_each_worker() {
    let mut testbed = Testbed::prepare(&[("a", "{ cpus = 4 }")]);
    let programs = testbed.folder.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    let (own, other) = (programs.join("own"), programs.join("other"));
    let script = "#!/bin/sh\n[ -z \"$LYCEUM_TEMPLATE_FD\" ] || exit 9\nexec \"${0%/*}/own\" \"$@\"\n";
    let text = testbed.folder.path().join("script");
    std::fs::write(&text, script).unwrap();
    std::fs::set_permissions(&text, std::fs::Permissions::from_mode(0o755)).unwrap();
    // By another process: what this one has written may be held open by what another test has just forked.
    for (from, to) in [(Path::new(PROGRAM), &own), (&text, &other)] {
        assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
    }
    testbed.up =
        Some(within(launch::up(&testbed.manifest, UpOptions::at(testbed.state(), own))).await.unwrap());
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    for greeting in ["first", "second"] {
        let (_, sight) = started(cluster.spawn::<Probe>(greeting.into()).program("other")).await;
        assert!(!was_forked(sight.pid));
        assert_eq!(sight.greeting, greeting);
    }
    assert!(templates(&testbed).is_empty());
    testbed.down().await;
}
