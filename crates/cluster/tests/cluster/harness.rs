//! A cluster in a folder of its own, for one test.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lyceum_actor::{ActorRef, DeathReport, Registry, System};
use lyceum_cluster::launch::{self, Up, UpOptions};
use lyceum_cluster::manifest::Manifest;
use lyceum_cluster::state::StateDir;
use lyceum_cluster::{Client, ClusterError, Job, JobEvent, Status};
use rustix::process::Signal;

use crate::probe::{Held, Look, Probe, Sight};

/// The longest that any step of these tests may take before it counts as hanging.
pub const HANGING: Duration = Duration::from_secs(60);

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_lyceum-cluster-testbed");

/// A cluster in a folder of its own; whatever is left of it is ended when the test ends.
pub struct Testbed {
    pub folder: tempfile::TempDir,
    pub manifest: Manifest,
    pub up: Option<Up>,
}

impl Testbed {
    pub async fn start(nodes: &[(&str, &str)]) -> Testbed {
        Testbed::prepare(nodes).started().await
    }

    pub fn prepare(nodes: &[(&str, &str)]) -> Testbed {
        Testbed::of(&manifest_text(nodes))
    }

    /// A cluster of that manifest, not yet started.
    pub fn of(manifest: &str) -> Testbed {
        let folder = tempfile::tempdir().unwrap();
        let manifest = Manifest::parse("test.toml", manifest).unwrap();
        Testbed { folder, manifest, up: None }
    }

    pub async fn started(mut self) -> Testbed {
        self.up = Some(self.try_up(&self.manifest).await.expect("the cluster starts"));
        self
    }

    pub fn state(&self) -> StateDir {
        StateDir::at(self.folder.path().join("state"))
    }

    pub async fn try_up(&self, manifest: &Manifest) -> Result<Up, ClusterError> {
        let options = UpOptions::at(self.state(), PathBuf::from(PROGRAM));
        within(launch::up(manifest, options)).await
    }

    pub fn client(&self) -> &Client {
        &self.up.as_ref().expect("the cluster is up").client
    }

    pub async fn status(&self) -> Status {
        within(self.client().status()).await.unwrap()
    }

    pub fn pid_of(&self, command: &str) -> u32 {
        let named = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(command.as_bytes())
        };
        processes_of(self.folder.path()).into_iter().find(named).expect("it runs")
    }

    /// A job with this process taking part in it.
    pub async fn job(&self) -> (Job, System) {
        let job = self.client().begin_job("test", true).await.unwrap();
        let system = self.client().start_system(Registry::new()).await.unwrap();
        (job, system)
    }

    /// Ends the cluster and asserts that nothing of it runs any more.
    pub async fn down(mut self) {
        let state = self.state();
        drop(self.up.take());
        assert!(within(launch::down(&state)).await.unwrap(), "there was a cluster to end");
        assert_eq!(processes_of(self.folder.path()), Vec::<u32>::new(), "processes are left");
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        for pid in processes_of(self.folder.path()) {
            kill(pid, Signal::KILL);
        }
    }
}

pub fn manifest_text(nodes: &[(&str, &str)]) -> String {
    let mut text =
        "name = \"test\"\noversubscribe = true\n[store]\ncapacity = \"8 MiB\"\nsegment = \"8 MiB\"\n\
                    [health]\nunreachable = 1.0\nverdict = 3.0\nstop = 2.0\n"
            .to_owned();
    for (name, resources) in nodes {
        text += &format!("[[nodes]]\nname = \"{name}\"\nresources = {resources}\n");
    }
    text
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGING, future).await.expect("a step hangs")
}

/// Processes whose arguments or environment name `folder`: head, agents, and the workers that inherit from them.
pub fn processes_of(folder: &Path) -> Vec<u32> {
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

pub fn kill(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Two neighbouring UDP ports of loopback, held for as long as these live.
pub fn two_ports() -> [UdpSocket; 2] {
    let bound = |port: u16| UdpSocket::bind(("127.0.0.1", port)).ok();
    let pairs = std::iter::repeat_with(|| {
        let first = bound(0)?;
        let next = bound(first.local_addr().ok()?.port().checked_add(1)?)?;
        Some([first, next])
    });
    pairs.flatten().next().expect("two free ports")
}

/// Waits until `probe` holds so many calls.
pub async fn until_held(probe: &ActorRef<Probe>, calls: u32) {
    while within(probe.ask(Held)).await.expect("the probe counts").to_native() < calls {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Does the process run? A zombie does not.
pub fn lives(pid: u32) -> bool {
    lyceum_cluster::launch::ProcessMark::of(pid).is_some()
}

pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < HANGING, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn look(probe: &ActorRef<Probe>, variables: &[&str]) -> Sight {
    let variables = variables.iter().map(|name| (*name).to_owned()).collect();
    within(probe.ask(Look { variables })).await.expect("the probe looks").read().unwrap()
}

pub async fn next_end(job: &mut Job) -> (DeathReport, bool) {
    loop {
        let event = within(job.next_event()).await.expect("the job goes on");
        if let JobEvent::Ended { report, expected } = event {
            return (report, expected);
        }
    }
}
