//! L6: whoever is not invited is refused, at every port of every process, and the process lives.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lyceum_wire::testing::{Rogue, hostile_datagrams, oversized_frame, sound_hello};
use lyceum_wire::{Authority, CloseCode, Credentials, PeerIdentity, PeerRole};

use crate::harness::{Testbed, lives, look, within};
use crate::probe::{Probe, SpawnAnother};

/// A process of the cluster, what it may be called by, and what not.
struct Target {
    what: &'static str,
    pid: u32,
    log: PathBuf,
    /// Is admitted, so that it may speak; what it says is another matter.
    member: Credentials,
    /// Are of the cluster, and have no business here: each with what it is told.
    misplaced: Vec<(Credentials, &'static str)>,
}

/// The UDP ports that process `pid` holds, and that it holds no TCP port at all: see proc_net(5).
pub fn ports(pid: u32) -> Vec<SocketAddr> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let sockets: BTreeSet<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let of_this_process = |table: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        let lines: Vec<Vec<String>> =
            text.lines().skip(1).map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
        lines.into_iter().filter(|fields| sockets.contains(&fields[9])).collect::<Vec<_>>()
    };
    for table in ["tcp", "tcp6", "udp6"] {
        assert!(of_this_process(table).is_empty(), "process {pid} has a port of another kind: {table}");
    }
    let address = |fields: &Vec<String>| {
        let (ip, port) = fields[1].split_once(':').unwrap();
        let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).unwrap().to_be());
        SocketAddr::from((ip, u16::from_str_radix(port, 16).unwrap()))
    };
    of_this_process("udp").iter().map(address).collect()
}

/// TLS refuses the caller, in the handshake or right after the caller's side of it.
async fn assert_refused_by_tls(called: lyceum_wire::Result<Rogue>, what: &str) {
    if let Ok(rogue) = called {
        let (code, told) = within(rogue.told()).await;
        assert_eq!(code, None, "{what}: {told}");
    }
}

async fn attack(target: &Target, addr: SocketAddr, stranger: &Credentials) {
    let Target { what, member, misplaced, .. } = target;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for datagram in hostile_datagrams(u64::from(addr.port())) {
        socket.send_to(&datagram, addr).unwrap();
    }
    assert_refused_by_tls(Rogue::call_without_certificate(addr).await, what).await;
    assert_refused_by_tls(Rogue::call(stranger, addr).await, what).await;
    for (credentials, why) in misplaced {
        let rogue = Rogue::call(credentials, addr).await.unwrap();
        let (code, told) = within(rogue.told()).await;
        assert_eq!(code, Some(CloseCode::NotAdmitted as u64), "{what}: {told}");
        assert!(told.contains(why), "{what}: {told}");
    }
    let hello = sound_hello();
    let bad: [(Vec<u8>, CloseCode, &str); 5] = [
        (b"\x0c\0\0\0GET / HTTP/1".to_vec(), CloseCode::BadHello, "does not begin as lyceum's"),
        (hello[..9].to_vec(), CloseCode::BadHello, "early"),
        ([&hello[..], &oversized_frame()].concat(), CloseCode::BadFrame, "a payload of 1048577 bytes"),
        ([&hello[..], &[0xff; 4096]].concat(), CloseCode::BadFrame, "a payload of 4294967295 bytes"),
        ([&hello[..], &[1; 7]].concat(), CloseCode::BadFrame, "ended within a frame"),
    ];
    for (bytes, code, why) in bad {
        let rogue = Rogue::call(member, addr).await.unwrap();
        let (mut sender, _receiver) = rogue.say(&bytes).await.unwrap();
        let _ = sender.finish();
        let (seen, told) = within(rogue.told()).await;
        assert_eq!(seen, Some(code as u64), "{what}: {told}");
        assert!(told.contains(why), "{what}: {told} lacks {why}");
    }
}

fn log_has(log: &Path, words: &[&str]) {
    let text = std::fs::read_to_string(log).unwrap();
    for word in words {
        assert!(text.contains(word), "{} lacks `{word}`:\n{text}", log.display());
    }
}

#[tokio::test]
async fn l6_every_port_of_every_process_refuses_whoever_is_not_invited_and_the_processes_live() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let (job, system) = testbed.job().await;
    let spawn = job.cluster(&system).spawn::<Probe>("target".into()).node("a");
    let probe = within(spawn.into_future()).await.unwrap();
    let worker = look(&probe, &[]).await.pid;
    let state = testbed.state();
    let logs = std::fs::read_dir(state.worker_logs("a")).unwrap().flatten();
    let mut logs = logs.map(|entry| entry.path());
    let worker_log = logs.find(|path| path.extension().is_some_and(|extension| extension == "log")).unwrap();

    let own = Authority::load(&state.authority()).unwrap();
    let issue = |authority: &Authority, role, node: &str| {
        let identity = PeerIdentity::new("test", role, node, 99).unwrap();
        authority.issue(&identity, Duration::from_secs(3600)).unwrap()
    };
    let stranger = issue(&Authority::create("test").unwrap(), PeerRole::Agent, "a");
    let [head, agent, of_worker, client] =
        [PeerRole::Head, PeerRole::Agent, PeerRole::Worker, PeerRole::Client]
            .map(|role| issue(&own, role, "elsewhere"));
    let status = testbed.status().await;
    let agents = status.nodes.iter().map(|node| Target {
        what: "an agent",
        pid: node.pid,
        log: state.agent_log(&node.name),
        member: agent.clone(),
        misplaced: vec![(of_worker.clone(), "a worker is not admitted here")],
    });
    let others = [
        Target {
            what: "the head",
            pid: testbed.pid_of("head"),
            log: state.head_log(),
            member: client.clone(),
            misplaced: vec![
                (of_worker.clone(), "a worker may not speak to the head"),
                (issue(&own, PeerRole::Agent, "head"), "node name `head` is taken by the cluster itself"),
                (head.clone(), "a head may not speak to the head"),
            ],
        },
        Target {
            what: "a worker",
            pid: worker,
            log: worker_log,
            member: of_worker.clone(),
            misplaced: vec![
                (agent.clone(), "an agent is not admitted here"),
                (head.clone(), "a head is not admitted here"),
            ],
        },
    ];
    let targets: Vec<Target> = agents.chain(others).collect();
    assert_eq!(targets.len(), 4);
    for target in &targets {
        let ports = ports(target.pid);
        assert!(!ports.is_empty(), "{} listens somewhere", target.what);
        for port in ports {
            attack(target, port, &stranger).await;
        }
    }

    for target in &targets {
        assert!(lives(target.pid), "{} has ended", target.what);
        let words = [
            "connection refused",
            "peer sent no certificates",
            "invalid peer certificate",
            "bad frame, connection closed",
            "datagram refused",
        ];
        log_has(&target.log, &words);
    }
    assert_eq!(look(&probe, &[]).await.pid, worker, "calls work");
    let another = within(probe.ask(SpawnAnother { node: "b".into(), bound: false })).await.unwrap();
    assert_eq!(another.as_str(), "a child", "spawns work");
    assert!(testbed.status().await.nodes.iter().all(|node| node.joined));
    testbed.down().await;
}

/// The files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries
        .flat_map(|entry| match entry.file_type().unwrap() {
            kind if kind.is_dir() => files(&entry.path()),
            kind if kind.is_file() => vec![entry.path()],
            _ => Vec::new(),
        })
        .collect()
}

#[tokio::test]
async fn l6_the_clusters_folders_are_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let testbed = Testbed::start(&[("a", "{ cpus = 1 }")]).await;
    let state = testbed.state();
    for path in [state.root().to_owned(), state.head(), state.authority(), state.client(), state.node("a")] {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", path.display());
    }
    let key = std::fs::read(state.authority().join("ca.key")).unwrap();
    let elsewhere: Vec<PathBuf> =
        files(state.root()).into_iter().filter(|path| !path.starts_with(state.head())).collect();
    assert!(elsewhere.iter().any(|path| path.starts_with(state.node("a"))), "{elsewhere:?}");
    for path in elsewhere {
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(key.len()).any(|window| window == key);
        assert!(!found, "the authority's key is in {}", path.display());
        if path.extension().is_some_and(|extension| extension == "key") {
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
    }
    testbed.down().await;
}
