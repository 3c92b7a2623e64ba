//! Clusters whose agents are started through SSH.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lyceum_cluster::launch;
use lyceum_cluster::state::StateDir;
use rustix::process::Signal;

use crate::harness::{PROGRAM, Testbed, kill, lives, look, processes_of, two_ports, until, within};
use crate::probe::{AskOther, Probe, Question};
use crate::sshd::{SshHosts, have_sshd};

/// A cluster with node `a` on host `one` and, if wanted, `b` on `two`; none of it runs yet.
struct Bed {
    testbed: Testbed,
    hosts: SshHosts,
}

/// The sections before the nodes'; `head` is where the head listens.
fn text(head: &str, config: &Path, nodes: &[(&str, &str)]) -> String {
    let mut text = format!(
        "name = \"test\"\nlauncher = \"ssh\"\noversubscribe = true\n[ssh]\nconfig = \"{}\"\n[head]\nbind = \"{head}\"\n\
         [store]\ncapacity = \"8 MiB\"\nsegment = \"8 MiB\"\n[health]\nunreachable = 1.0\nverdict = 3.0\nstop = 2.0\n",
        config.display()
    );
    for (node, host) in nodes {
        text += &format!("[[nodes]]\nname = \"{node}\"\nhost = \"{host}\"\nresources = {{ cpus = 2 }}\n");
    }
    text
}

impl Bed {
    fn prepare(nodes: &[(&str, &str)]) -> Bed {
        Bed::listening("127.0.0.1", nodes)
    }

    fn listening(head: &str, nodes: &[(&str, &str)]) -> Bed {
        let mut testbed = Testbed::prepare(&[("a", "{ cpus = 1 }")]);
        let names: Vec<&str> = nodes.iter().map(|(_, host)| *host).collect();
        let hosts = SshHosts::start(&names, testbed.folder.path());
        let text = text(head, &hosts.path("ssh_config"), nodes);
        testbed.manifest = lyceum_cluster::manifest::Manifest::parse("test.toml", &text).unwrap();
        Bed { testbed, hosts }
    }

    async fn up(&mut self) {
        self.testbed.up =
            Some(self.testbed.try_up(&self.testbed.manifest).await.expect("the cluster starts"));
    }

    async fn refused(&self) -> String {
        self.testbed.try_up(&self.testbed.manifest).await.unwrap_err().to_string()
    }

    /// The folder that the cluster has on a host.
    fn state_on(&self, host: &str) -> PathBuf {
        self.testbed.folder.path().join(host).join("state/test")
    }

    /// The programs that lie on a host, by their inodes.
    fn programs_on(&self, host: &str) -> Vec<u64> {
        let folder = self.testbed.folder.path().join(host).join("cache/lyceum/programs");
        let entries =
            fs::read_dir(folder).into_iter().flatten().flatten().flat_map(|set| fs::read_dir(set.path()));
        entries.flatten().flatten().map(|program| program.metadata().unwrap().ino()).collect()
    }

    fn agents(&self) -> Vec<(String, u32)> {
        let mut agents: Vec<(String, u32)> = processes_of(self.testbed.folder.path())
            .into_iter()
            .filter_map(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                let words: Vec<&str> =
                    line.split(|byte| *byte == 0).map(|w| std::str::from_utf8(w).unwrap()).collect();
                let at = words.iter().position(|word| *word == "--node")?;
                Some((words[at + 1].to_owned(), pid))
            })
            .collect();
        agents.sort();
        agents
    }

    /// Asserts that nothing runs, on any host, and that nothing but programs lies on those named.
    fn nothing_is_left(&self, hosts: &[&str]) {
        assert_eq!(processes_of(self.testbed.folder.path()), Vec::<u32>::new(), "processes are left");
        for host in hosts {
            assert!(!self.state_on(host).exists(), "{} is left", self.state_on(host).display());
        }
        let state = self.testbed.state();
        assert!(!state.authority().exists() && !state.client().exists(), "keys are left");
    }
}

#[tokio::test]
async fn a_cluster_over_ssh_runs_a_job_is_found_again_and_leaves_nothing() {
    if !have_sshd() {
        return;
    }
    let mut bed = Bed::prepare(&[("a", "one"), ("b", "two")]);
    bed.up().await;
    assert!(bed.testbed.status().await.nodes.iter().all(|node| node.joined));
    until("the connections of `up` close", || !bed.hosts.connected()).await;

    // Each host has one key, its own, which nobody else may read, and not the authority's.
    for (node, host) in [("a", "one"), ("b", "two")] {
        let state = StateDir::at(bed.state_on(host));
        assert_eq!(fs::read_dir(state.nodes()).unwrap().count(), 1);
        let credentials = state.node(node).join("credentials.pem");
        assert_eq!(fs::metadata(&credentials).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&credentials).unwrap().matches("PRIVATE KEY-----").count(), 2);
        assert_eq!(fs::metadata(state.node(node)).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(!state.head().exists() && !state.client().exists());
    }

    let (job, system) = bed.testbed.job().await;
    let mut probes = Vec::new();
    for node in ["a", "b"] {
        let spawned = job.cluster(&system).spawn::<Probe>(format!("on {node}")).node(node).into_future();
        probes.push(within(spawned).await.unwrap());
    }
    let ask = AskOther { other: probes[1].address().clone(), what: Question::Greeting };
    assert_eq!(within(probes[0].ask(ask)).await.unwrap().read().unwrap(), "on b");
    let worker = look(&probes[0], &[]).await.pid;
    job.end("the test").await.unwrap();
    until("the worker ends", || !lives(worker)).await;
    system.shut_down(std::time::Duration::ZERO).await;

    let before = processes_of(bed.testbed.folder.path());
    let again = bed.testbed.try_up(&bed.testbed.manifest).await.unwrap();
    assert!(!again.started);
    assert_eq!(processes_of(bed.testbed.folder.path()), before);
    drop(again);

    let programs = ["one", "two"].map(|host| bed.programs_on(host));
    assert!(programs.iter().all(|programs| programs.len() == 1), "{programs:?}");
    bed.testbed.up = None;
    assert!(within(launch::down(&bed.testbed.state())).await.unwrap());
    bed.nothing_is_left(&["one", "two"]);
    assert!(!within(launch::down(&bed.testbed.state())).await.unwrap(), "there is nothing to end twice");

    // What is there by its hash is not copied again.
    bed.up().await;
    assert_eq!(["one", "two"].map(|host| bed.programs_on(host)), programs);
    bed.testbed.up = None;
    assert!(within(launch::down(&bed.testbed.state())).await.unwrap());
    bed.nothing_is_left(&["one", "two"]);
}

#[tokio::test]
async fn each_host_that_cannot_be_used_is_named_with_its_own_words_and_nothing_is_started() {
    if !have_sshd() {
        return;
    }
    let mut bed = Bed::prepare(&[("a", "one"), ("b", "two")]);
    let folder = bed.hosts.folder.path().to_owned();
    let ready = "node `a`: its host was ready, and nothing was started there";
    let refused = async |bed: &Bed, words: &[&str]| {
        let said = bed.refused().await;
        for words in [&["cluster `test`: 1 of its nodes did not start", ready], words].concat() {
            assert!(said.contains(words), "`{words}` is expected in:\n{said}");
        }
        bed.nothing_is_left(&["one", "two"]);
    };

    bed.hosts.configure("two", &format!("    IdentityFile {}/other_key", folder.display()));
    refused(&bed, &["node `b`: its host two cannot be reached; it says:", "Permission denied (publickey)"])
        .await;

    // Whose key is not known is not believed: nothing of ours turns that off.
    let unknown = format!("    UserKnownHostsFile {}/none", folder.display());
    bed.hosts.configure("two", &unknown);
    refused(&bed, &["node `b`: its host two cannot be reached", "Host key verification failed"]).await;

    bed.hosts.configure("", "");
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("uname"), "#!/bin/sh\ncase $1 in -s) echo Linux;; *) echo riscv64;; esac\n").unwrap();
    fs::set_permissions(bin.join("uname"), fs::Permissions::from_mode(0o755)).unwrap();
    bed.hosts.set("two", &format!("PATH={}:/usr/bin:/bin", bin.display()));
    let program = format!("this program is for linux {}", std::env::consts::ARCH);
    refused(&bed, &["node `b`: its host two is a Linux riscv64 machine", &program]).await;

    // A folder that cannot be made, as on a full disk.
    fs::write(folder.join("full"), "").unwrap();
    bed.hosts.set("two", &format!("PATH=/usr/bin:/bin XDG_CACHE_HOME={}/full", folder.display()));
    refused(&bed, &["node `b`: its host two was not given this program: it failed", "Not a directory"]).await;

    bed.hosts.stop("two");
    refused(&bed, &["node `b`: its host two cannot be reached; it says:", "Connection refused"]).await;
    until("all connections close", || !bed.hosts.connected()).await;
}

#[tokio::test]
async fn an_agent_on_a_host_that_does_not_start_is_named_with_its_log_and_all_are_ended_again() {
    if !have_sshd() {
        return;
    }
    let mut bed = Bed::prepare(&[("a", "one"), ("b", "two")]);
    // Both of node b's ports, of a block with 2 for each node.
    let taken = two_ports();
    let port = taken[0].local_addr().unwrap().port();
    bed.testbed.manifest.ports = lyceum_cluster::manifest::Ports { first: port - 3, count: 5, clients: 0 };
    let said = bed.refused().await;
    for words in [
        "cluster `test`: 1 of its nodes did not start",
        "node `b`: its agent exited with code 1; the end of ",
        "state/test/logs/agent-b.log on two:",
        &format!("none of the ports {port} to {}", port + 1),
        &format!("{port} has process {}", std::process::id()),
        "node `a`: its agent ",
    ] {
        assert!(said.contains(words), "`{words}` is expected in:\n{said}");
    }
    bed.nothing_is_left(&["one", "two"]);
    until("all connections close", || !bed.hosts.connected()).await;
}

#[tokio::test]
async fn what_has_died_is_started_by_the_next_up_and_the_rest_goes_on() {
    if !have_sshd() {
        return;
    }
    let mut bed = Bed::prepare(&[("a", "one"), ("b", "two")]);
    bed.up().await;
    bed.testbed.up = None;
    let before = bed.agents();
    let names = |agents: &[(String, u32)]| agents.iter().map(|(node, _)| node.clone()).collect::<Vec<_>>();
    assert_eq!(names(&before), ["a", "b"]);
    // Who is killed with its head is found again by the new one; the other is started.
    for pid in [before[1].1, bed.testbed.pid_of("head")] {
        kill(pid, Signal::KILL);
        until("it ends", || !lives(pid)).await;
    }
    bed.up().await;
    assert!(bed.testbed.up.as_ref().unwrap().started);
    assert!(bed.testbed.status().await.nodes.iter().all(|node| node.joined));
    let after = bed.agents();
    assert_eq!(names(&after), ["a", "b"]);
    assert!(after[0] == before[0] && after[1] != before[1], "{before:?} {after:?}");

    // The same name from another folder, as from another machine: the agents there are not its own.
    let mut other = Testbed::prepare(&[("a", "{ cpus = 1 }")]);
    other.manifest = bed.testbed.manifest.clone();
    let said = other.try_up(&other.manifest).await.unwrap_err().to_string();
    assert!(said.contains("an agent of node `a` of a cluster `test` that was started from "), "{said}");
    assert!(!within(launch::down(&other.state())).await.unwrap());
    assert_eq!(bed.agents(), after);

    bed.testbed.up = None;
    assert!(within(launch::down(&bed.testbed.state())).await.unwrap());
    bed.nothing_is_left(&["one", "two"]);
}

#[tokio::test]
async fn down_names_a_host_that_it_does_not_reach_and_goes_on_with_it_later() {
    if !have_sshd() {
        return;
    }
    let mut bed = Bed::prepare(&[("a", "one"), ("b", "two")]);
    bed.up().await;
    bed.testbed.up = None;
    // The head cannot ask the agents to end any more, and one cannot be reached.
    let head = bed.testbed.pid_of("head");
    kill(head, Signal::KILL);
    until("the head ends", || !lives(head)).await;
    bed.hosts.stop("two");
    let said = within(launch::down(&bed.testbed.state())).await.unwrap_err().to_string();
    for words in [
        "cluster `test` has ended here; on a host of 1 of its nodes an agent may still run",
        "`lyceum down test` tries again",
        "node `b`: its host two cannot be reached; it says:",
        "Connection refused",
    ] {
        assert!(said.contains(words), "`{words}` is expected in:\n{said}");
    }
    assert_eq!(bed.agents().len(), 1);
    assert!(!bed.state_on("one").exists());
    assert!(!bed.testbed.state().authority().exists(), "keys are left");
    bed.hosts.serve("two");
    assert!(within(launch::down(&bed.testbed.state())).await.unwrap());
    bed.nothing_is_left(&["one", "two"]);
}

#[tokio::test]
async fn an_owned_cluster_over_ssh_ends_with_its_runner_on_every_host() {
    if !have_sshd() {
        return;
    }
    let bed = Bed::prepare(&[("a", "one"), ("b", "two")]);
    let manifest = bed.testbed.folder.path().join("owned.toml");
    let nodes = [("a", "one"), ("b", "two")];
    fs::write(&manifest, text("127.0.0.1", &bed.hosts.path("ssh_config"), &nodes)).unwrap();
    let mut runner = Command::new(PROGRAM)
        .args(["runner", "--manifest", manifest.to_str().unwrap(), "--state"])
        .arg(bed.testbed.state().root())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = std::io::BufReader::new(runner.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert!(line.starts_with("up "), "{line}");
    assert_eq!(bed.agents().len(), 2);
    runner.kill().unwrap();
    runner.wait().unwrap();
    let folder = bed.testbed.folder.path();
    until("everything ends", || processes_of(folder).is_empty()).await;
    until("nothing lies there", || ["one", "two"].iter().all(|host| !bed.state_on(host).exists())).await;
    bed.nothing_is_left(&["one", "two"]);
}

#[tokio::test]
async fn an_agent_listens_where_it_reaches_the_head_of_either_family() {
    if !have_sshd() {
        return;
    }
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6 loopback");
        return;
    }
    let mut bed = Bed::listening("::1", &[("a", "one")]);
    bed.up().await;
    let (job, system) = bed.testbed.job().await;
    let probe = within(job.cluster(&system).spawn::<Probe>("six".into()).into_future()).await.unwrap();
    assert!(probe.address().process.addr.is_ipv6(), "{:?}", probe.address());
    assert_eq!(look(&probe, &[]).await.greeting, "six");
    system.shut_down(std::time::Duration::ZERO).await;
    bed.testbed.up = None;
    drop(job);
    assert!(within(launch::down(&bed.testbed.state())).await.unwrap());
    bed.nothing_is_left(&["one"]);
}
