//! Starting clusters and ending them.

use lyceum_actor::Registry;
use lyceum_cluster::launch;
use lyceum_cluster::manifest::Manifest;
use lyceum_cluster::state::StateDir;
use rustix::process::Signal;

use crate::harness::{
    PROGRAM, Testbed, kill, lives, look, manifest_text, processes_of, two_ports, until, within,
};
use crate::probe::Probe;

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
        if victim == "runner" {
            let state = testbed.state();
            let keys = [state.authority(), state.client(), state.nodes()];
            assert!(keys.iter().all(|keys| !keys.exists()), "keys are left");
            let began = std::time::Instant::now();
            let said = launch::status(&state).await.unwrap_err().to_string();
            assert!(said.contains("does not run: its head, process "), "{said}");
            assert!(began.elapsed().as_secs() < 1, "somebody was waited for");
        }
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
    assert!(within(launch::down(&state)).await.unwrap());
    assert!(!within(launch::down(&state)).await.unwrap(), "there is nothing to end twice");
    assert_eq!(processes_of(&folder), Vec::<u32>::new());
    assert!(!state.authority().exists() && !state.client().exists(), "keys are left");
}

#[tokio::test]
async fn a_node_that_does_not_start_is_named_with_its_log_and_nothing_stays() {
    let taken = two_ports();
    let port = taken[0].local_addr().unwrap().port();
    let testbed = Testbed::prepare(&[("a", "{ cpus = 1 }")]);
    let text = manifest_text(&[("a", "{ cpus = 1 }")]);
    let text = format!("ports = {{ first = {}, count = 3 }}\n{text}", port - 1);
    let manifest = Manifest::parse("test.toml", &text).unwrap();
    let error = testbed.try_up(&manifest).await.unwrap_err().to_string();
    assert!(error.contains("node `a`: its agent exited with code 1"), "{error}");
    assert!(error.contains(&format!("none of the ports {port} to {}", port + 1)), "{error}");
    assert!(error.contains(&format!("{port} has process {}", std::process::id())), "{error}");
    assert_eq!(processes_of(testbed.folder.path()), Vec::<u32>::new());
}

#[tokio::test]
async fn an_agent_that_others_cannot_reach_where_it_says_does_not_join() {
    let testbed = Testbed::prepare(&[("a", "{ cpus = 1 }")]);
    // Nobody listens there: the whole of 127.0.0.0/8 is this machine.
    let text = manifest_text(&[("a", "{ cpus = 1 }")]) + "advertise = \"127.0.0.2\"\n";
    let manifest = Manifest::parse("test.toml", &text).unwrap();
    let error = testbed.try_up(&manifest).await.unwrap_err().to_string();
    assert!(error.contains("node `a`: its agent exited with code 0"), "{error}");
    assert!(error.contains("because the head refused it: others are to reach it at 127.0.0.2:"), "{error}");
    assert_eq!(processes_of(testbed.folder.path()), Vec::<u32>::new());
}

#[tokio::test]
async fn down_leaves_nothing_of_a_cluster_whose_head_was_killed() {
    let mut testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let job = testbed.client().begin_job("long", false).await.unwrap();
    let system = testbed.client().start_system(Registry::new()).await.unwrap();
    let probe = within(job.cluster(&system).spawn::<Probe>("left".into()).into_future()).await.unwrap();
    let worker = look(&probe, &[]).await.pid;
    let head = testbed.pid_of("head");
    kill(head, Signal::KILL);
    until("the head ends", || !lives(head)).await;
    testbed.up = None;
    let state = testbed.state();
    testbed.down().await;
    assert!(!lives(worker));
    assert!(!state.authority().exists() && !state.client().exists(), "keys are left");
}

#[tokio::test]
async fn down_ends_processes_that_nobody_wrote_down() {
    let mut testbed = Testbed::start(&[("a", "{ cpus = 2 }")]).await;
    testbed.up = None;
    // As if `up` had been killed between starting them and writing that down.
    std::fs::remove_file(testbed.state().root().join("run.json")).unwrap();
    testbed.down().await;
}

#[tokio::test]
async fn down_touches_no_folder_in_which_no_cluster_was_started() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("head/kept");
    std::fs::create_dir(folder.path().join("head")).unwrap();
    std::fs::write(&kept, "of somebody else").unwrap();
    assert!(!within(launch::down(&StateDir::at(folder.path()))).await.unwrap());
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "of somebody else");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "not even a lock is left");
}
