//! Clusters of real processes on this machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lyceum_actor::{ActorRef, CallError, Cause, ControlError, DeathReport, Registry, System};
use lyceum_cluster::launch::local::{self, Up, UpOptions};
use lyceum_cluster::manifest::Manifest;
use lyceum_cluster::state::StateDir;
use lyceum_cluster::{Client, ClusterError, Job, JobEvent};

#[path = "../testbed/probe.rs"]
#[allow(dead_code, reason = "the testbed uses the other half")]
mod probe;

use probe::{AskOther, Look, Misbehave, Probe, Sight, SpawnAnother};

/// The longest that any step of these tests may take before it counts as hanging.
const HANGING: Duration = Duration::from_secs(60);

const PROGRAM: &str = env!("CARGO_BIN_EXE_lyceum-cluster-testbed");

/// A cluster in a folder of its own; whatever is left of it is ended when the test ends.
struct Testbed {
    folder: tempfile::TempDir,
    manifest: Manifest,
    up: Option<Up>,
}

impl Testbed {
    async fn start(nodes: &[(&str, &str)]) -> Testbed {
        let mut testbed = Testbed::prepare(nodes);
        testbed.up = Some(testbed.try_up(&testbed.manifest).await.expect("the cluster starts"));
        testbed
    }

    fn prepare(nodes: &[(&str, &str)]) -> Testbed {
        let folder = tempfile::tempdir().unwrap();
        let manifest = Manifest::parse("test.toml", &manifest_text(nodes)).unwrap();
        Testbed { folder, manifest, up: None }
    }

    fn state(&self) -> StateDir {
        StateDir::at(self.folder.path().join("state"))
    }

    async fn try_up(&self, manifest: &Manifest) -> Result<Up, ClusterError> {
        let options = UpOptions { state: self.state(), owned: false, program: PathBuf::from(PROGRAM) };
        within(local::up(manifest, options)).await
    }

    fn client(&self) -> &Client {
        &self.up.as_ref().expect("the cluster is up").client
    }

    /// A job with this process taking part in it.
    async fn job(&self) -> (Job, System) {
        let job = self.client().begin_job("test", true).await.unwrap();
        let system = self.client().start_system(job.id(), Registry::new()).await.unwrap();
        (job, system)
    }

    /// Ends the cluster and asserts that nothing of it runs any more.
    async fn down(mut self) {
        let state = self.state();
        drop(self.up.take());
        assert!(within(local::down(&state)).await.unwrap(), "there was a cluster to end");
        assert_eq!(processes_of(self.folder.path()), Vec::<u32>::new(), "processes are left");
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        for pid in processes_of(self.folder.path()) {
            kill(pid, rustix::process::Signal::KILL);
        }
    }
}

fn manifest_text(nodes: &[(&str, &str)]) -> String {
    let mut text = "name = \"test\"\noversubscribe = true\n[store]\ncapacity = \"8 MiB\"\nsegment = \"8 MiB\"\n\
                    [health]\nunreachable = 0.5\nverdict = 2.0\nstop = 2.0\n"
        .to_owned();
    for (name, resources) in nodes {
        text += &format!("[[nodes]]\nname = \"{name}\"\nresources = {resources}\n");
    }
    text
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGING, future).await.expect("a step hangs")
}

/// Processes whose arguments or environment name `folder`: head, agents, and the workers that inherit from them.
fn processes_of(folder: &Path) -> Vec<u32> {
    let name = folder.to_str().unwrap().as_bytes();
    let mentions = |path: PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(name.len()).any(|window| window == name)
    };
    let mut found: Vec<u32> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let folder = PathBuf::from(format!("/proc/{pid}"));
            let stdout = std::fs::read_link(folder.join("fd/1")).unwrap_or_default();
            mentions(folder.join("cmdline")) || stdout.starts_with(std::str::from_utf8(name).unwrap())
        })
        .collect();
    found.sort();
    found
}

fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < HANGING, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn look(probe: &ActorRef<Probe>, variables: &[&str]) -> Sight {
    let variables = variables.iter().map(|name| (*name).to_owned()).collect();
    within(probe.ask(Look { variables })).await.expect("the probe looks").read().unwrap()
}

async fn next_end(job: &mut Job) -> (DeathReport, bool) {
    loop {
        match within(job.next_event()).await.expect("the job goes on") {
            JobEvent::Ended { report, expected } => return (report, expected),
            _ => {}
        }
    }
}

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
