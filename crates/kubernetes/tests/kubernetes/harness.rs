//! A cluster in a folder of its own and a double of Kubernetes, for one test.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lyceum_cluster::launch::{self, Up, UpOptions};
use lyceum_cluster::manifest::Manifest;
use lyceum_cluster::state::StateDir;
use lyceum_cluster::{Client, ClusterError};
use rustix::process::{Pid, Signal, kill_process};

use crate::double::{IMAGE, Kubernetes};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_lyceum-kubernetes-testbed");

/// The longest that any step of these tests may take before it counts as hanging.
const HANGING: Duration = Duration::from_secs(60);

/// Whatever is left of it is ended when the test ends.
pub struct Testbed {
    pub kubernetes: Kubernetes,
    pub folder: tempfile::TempDir,
}

impl Testbed {
    pub fn start() -> Testbed {
        Testbed { kubernetes: Kubernetes::start(PROGRAM), folder: tempfile::tempdir().unwrap() }
    }

    pub fn state(&self) -> StateDir {
        StateDir::at(self.folder.path().join("state"))
    }

    pub fn options(&self) -> UpOptions {
        UpOptions {
            pods: Some(lyceum_kubernetes::pods),
            ..UpOptions::at(self.state(), PathBuf::from(PROGRAM))
        }
    }

    /// A manifest with those nodes, each of a name and what else it says, and further keys of `[kubernetes]`.
    pub fn manifest(&self, nodes: &[(&str, &str)], keys: &str) -> Manifest {
        let image = if keys.contains("image") { String::new() } else { format!("image = \"{IMAGE}\"\n") };
        let mut text = format!(
            "name = \"test\"\nlauncher = \"kubernetes\"\n[head]\nbind = \"127.0.0.1\"\n[store]\ncapacity = \"8 MiB\"\n\
             segment = \"8 MiB\"\n[health]\nunreachable = 1.0\nverdict = 3.0\nstop = 2.0\n\
             [kubernetes]\nkubeconfig = \"{}\"\n{image}{keys}\n",
            self.kubernetes.kubeconfig().display()
        );
        for (name, rest) in nodes {
            text += &format!("[[nodes]]\nname = \"{name}\"\n{rest}\n");
        }
        Manifest::parse("test.toml", &text).unwrap()
    }

    pub async fn up(&self, manifest: &Manifest) -> Result<Up, ClusterError> {
        within(launch::up(manifest, self.options())).await
    }

    /// An `up` that must fail and leave nothing; what it says.
    pub async fn refused(&self, manifest: &Manifest) -> String {
        let refused = self.up(manifest).await.expect_err("refused").to_string();
        self.nothing_is_left();
        refused
    }

    pub async fn down(&self) -> Result<bool, ClusterError> {
        within(launch::down_with(&self.state(), Some(lyceum_kubernetes::pods))).await
    }

    pub fn head_runs(&self) -> bool {
        !processes_of(self.folder.path()).is_empty()
    }

    pub fn nothing_is_left(&self) {
        for plural in ["configmaps", "pods", "secrets"] {
            assert_eq!(self.kubernetes.all(plural), Vec::<serde_json::Value>::new(), "{plural} are left");
        }
        assert_eq!(processes_of(self.folder.path()), Vec::<u32>::new(), "processes are left");
        assert_eq!(
            processes_of(self.kubernetes.folder.path()),
            Vec::<u32>::new(),
            "processes of pods are left"
        );
        let state = self.state();
        let keys = [state.head(), state.client(), state.nodes()];
        assert!(keys.iter().all(|keys| !keys.exists()), "keys are left");
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        for pid in processes_of(self.folder.path()) {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGING, future).await.expect("a step hangs")
}

pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < HANGING, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The nodes that have joined and are not lost, in their order.
pub async fn joined(client: &Client) -> Vec<String> {
    let status = within(client.status()).await.unwrap();
    status.nodes.into_iter().filter(|node| node.joined).map(|node| node.name).collect()
}

/// Processes whose arguments name `folder`.
fn processes_of(folder: &Path) -> Vec<u32> {
    let name = folder.to_str().unwrap().as_bytes();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let named = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != std::process::id() && line.windows(name.len()).any(|window| window == name)
    };
    pids.filter(named).collect()
}
