//! Jobs that bring worker binaries of their own.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use lyceum_actor::{Cause, ControlError};
use lyceum_cluster::{Client, ProgramHash};
use lyceum_wire::{Credentials, Endpoint, EndpointOptions, Expect, PeerRole};
use rustix::process::Signal;

use crate::harness::{PROGRAM, Testbed, kill, lives, look, manifest_text, until, within};
use crate::probe::{Misbehave, Probe, SpawnAnother};

/// A worker binary like the testbed's, and unlike any other.
fn program(bed: &Testbed, name: &str) -> PathBuf {
    let path = bed.folder.path().join(name);
    fs::copy(PROGRAM, &path).unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(name.as_bytes()).unwrap();
    path
}

fn cache(bed: &Testbed, node: &str) -> PathBuf {
    bed.state().node(node).join("programs")
}

/// What a node has, by its files.
fn files(bed: &Testbed, node: &str) -> Vec<String> {
    let entries = fs::read_dir(cache(bed, node)).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn digits(hash: &ProgramHash) -> String {
    hash.to_string().trim_start_matches("sha256:").to_owned()
}

fn file(bed: &Testbed, node: &str, hash: &ProgramHash) -> PathBuf {
    cache(bed, node).join(digits(hash))
}

/// How often the log of a node's agent has a line with these words.
fn logged(bed: &Testbed, node: &str, words: &[&str]) -> usize {
    let log = fs::read_to_string(bed.state().agent_log(node)).unwrap();
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

fn runs(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

fn damage(path: &Path) {
    // Another file of this name: one that runs, as a template of it may, cannot be written.
    let changed = path.with_extension("changed");
    fs::copy(path, &changed).unwrap();
    fs::set_permissions(&changed, fs::Permissions::from_mode(0o700)).unwrap();
    OpenOptions::new().append(true).open(&changed).unwrap().write_all(b"!").unwrap();
    fs::rename(&changed, path).unwrap();
}

fn died(error: ControlError) -> String {
    match error {
        ControlError::Died(report) => report.to_string(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn two_jobs_run_programs_of_their_own_and_a_node_has_each_once() {
    let bed = Testbed::start(&[("a", "{ cpus = 8 }"), ("b", "{ cpus = 8 }"), ("c", "{ cpus = 8 }")]).await;
    let paths = ["red", "blue"].map(|name| program(&bed, name));
    let (mut red, system) = bed.job().await;
    let mut blue = bed.client().begin_job("blue", true).await.unwrap();
    let hashes =
        [within(red.program(&paths[0])).await.unwrap(), within(blue.program(&paths[1])).await.unwrap()];
    assert_ne!(hashes[0], hashes[1]);
    // Another client brings what is there already.
    let other = Client::connect(&bed.state()).await.unwrap();
    assert_eq!(within(other.bring(&paths[0])).await.unwrap(), hashes[0]);

    let jobs = [(&red, &hashes[0]), (&blue, &hashes[1])];
    let mut spawns = Vec::new();
    for (job, hash) in jobs {
        for node in ["a", "b", "b", "b"] {
            let spawn = job.cluster(&system).spawn::<Probe>(hash.to_string()).node(node);
            spawns.push(async move { (node, hash, within(spawn.into_future()).await.unwrap()) });
        }
    }
    let probes = join_all(spawns).await;
    for (node, hash, probe) in &probes {
        let sight = look(probe, &[]).await;
        assert_eq!((sight.greeting, runs(sight.pid)), (hash.to_string(), file(&bed, node, hash)));
    }
    // What such a worker spawns is of the same program; a spawn that names another has that.
    let ask = SpawnAnother { node: "c".into(), bound: false };
    assert_eq!(within(probes[0].2.ask(ask)).await.unwrap().as_str(), "a child");
    let status = bed.status().await;
    let child = status.actors.iter().find(|actor| actor.node == "c").unwrap();
    assert_eq!(runs(child.pid), file(&bed, "c", &hashes[0]));
    let testbed = Path::new(PROGRAM).file_name().unwrap().to_str().unwrap();
    let spawn = red.cluster(&system).spawn::<Probe>("beside".into()).node("a").program(testbed);
    let beside = within(spawn.into_future()).await.unwrap();
    assert_eq!(runs(look(&beside, &[]).await.pid), Path::new(PROGRAM));

    for hash in hashes.map(|hash| hash.to_string()) {
        let counts = |words: &str| ["a", "b", "c"].map(|node| logged(&bed, node, &[words, &hash]));
        assert_eq!(counts("a client brought a program"), [1, 0, 0]);
        let on_c = usize::from(hash == hashes[0].to_string());
        assert_eq!(counts("a program was fetched"), [0, 1, on_c]);
    }
    for (path, mode) in [(cache(&bed, "b"), 0o700), (file(&bed, "b", &hashes[0]), 0o500)] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
    let nodes = bed.state().nodes();
    system.shut_down(Duration::ZERO).await;
    drop((red, blue, other));
    bed.down().await;
    assert!(!nodes.exists(), "what jobs brought goes with the cluster");
}

#[tokio::test]
async fn what_cannot_be_had_is_the_spawners_error_and_leaves_nothing() {
    let bed = Testbed::start(&[("a", "{ cpus = 8 }"), ("b", "{ cpus = 8 }")]).await;
    let (job, system) = bed.job().await;
    let spawn = |program: &str, node: &str| {
        let spawn = job.cluster(&system).spawn::<Probe>("".into()).program(program).node(node);
        within(spawn.into_future())
    };
    let unknown = format!("sha256:{}", "0".repeat(64));
    let refused = spawn(&unknown, "a").await.unwrap_err().to_string();
    assert!(refused.contains(&format!("no node has program {unknown}: bring it")), "{refused}");
    let refused = spawn("sha256:0", "a").await.unwrap_err().to_string();
    assert!(refused.contains("`sha256:0`: expected `sha256:` and 64 digits"), "{refused}");
    let missing = bed.client().bring(&bed.folder.path().join("nothing")).await.unwrap_err().to_string();
    assert!(missing.contains("nothing"), "{missing}");

    // What was changed where it lay is not given, and not run; of all that wait each is told.
    let path = program(&bed, "sound");
    let hash = within(bed.client().bring(&path)).await.unwrap();
    damage(&file(&bed, "a", &hash));
    let name = hash.to_string();
    for error in join_all([spawn(&name, "b"), spawn(&name, "b")]).await {
        let said = died(error.map(drop).unwrap_err());
        let expected = format!("program {name} on node `b`: not had from node `a`: its file was changed");
        assert!(said.contains(&expected), "{said}");
    }
    let none: [String; 0] = [];
    assert_eq!((files(&bed, "a"), files(&bed, "b")), (none.to_vec(), none.to_vec()));
    // It is brought again, and had.
    within(bed.client().bring(&path)).await.unwrap();
    let probe = spawn(&name, "b").await.unwrap();
    let pid = look(&probe, &[]).await.pid;
    within(probe.ask(Misbehave::Finish)).await.unwrap();
    until("its worker ends", || !lives(pid)).await;
    // So it is where the damage is found by who is to run it.
    damage(&file(&bed, "b", &hash));
    let probe = spawn(&name, "b").await.unwrap();
    assert_eq!(runs(look(&probe, &[]).await.pid), file(&bed, "b", &hash));
    assert_eq!(logged(&bed, "b", &["a program is not what it was", &name]), 1);
    assert_eq!(ProgramHash::of_file(&file(&bed, "b", &hash)).unwrap().0, hash);

    // A file that is no program.
    let text = bed.folder.path().join("text");
    fs::write(&text, "no program").unwrap();
    let hash = within(bed.client().bring(&text)).await.unwrap().to_string();
    let said = died(spawn(&hash, "a").await.map(drop).unwrap_err());
    assert!(said.contains("exited with code 127"), "{said}");
    system.shut_down(Duration::ZERO).await;
    drop(job);
    bed.down().await;
}

#[tokio::test]
async fn an_agent_that_is_killed_while_it_fetches_leaves_nothing_that_is_taken_for_a_program() {
    let bed = Testbed::start(&[("a", "{ cpus = 8 }"), ("b", "{ cpus = 8 }")]).await;
    let (mut job, system) = bed.job().await;
    let path = program(&bed, "large");
    // Large enough to be on its way for a while; its end is a hole of the file.
    OpenOptions::new().write(true).open(&path).unwrap().set_len(256 << 20).unwrap();
    let hash = within(job.program(&path)).await.unwrap();
    let cluster = job.cluster(&system);
    let spawn = move || cluster.spawn::<Probe>("".into()).node("b").into_future();
    let spawning = tokio::spawn(spawn());
    let (folder, agent) = (cache(&bed, "b"), bed.status().await.nodes[1].pid);
    let is_coming = || {
        let entries = fs::read_dir(&folder).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("new-")).count() == 1
    };
    while !is_coming() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    kill(agent, Signal::KILL);
    let error = within(spawning).await.unwrap().map(drop).unwrap_err();
    assert!(
        matches!(&error, ControlError::Died(report) if matches!(report.cause, Cause::NodeLost(_))),
        "{error}"
    );
    assert!(is_coming() && files(&bed, "b").len() == 1, "it was killed in the midst of it");

    let again = bed.try_up(&bed.manifest).await.unwrap();
    assert!(again.started);
    let probe = within(spawn()).await.unwrap();
    assert_eq!(runs(look(&probe, &[]).await.pid), file(&bed, "b", &hash));
    assert_eq!(files(&bed, "b"), [digits(&hash)]);

    // The end of what waits for its program comes at once, and the fetch with it.
    let hash = within(again.client.bring(&program(&bed, "never"))).await.unwrap().to_string();
    let agent = bed.status().await.nodes[0].pid;
    kill(agent, Signal::STOP);
    let spawn = job.cluster(&system).spawn::<Probe>("".into()).node("b").named("waits").program(&hash);
    let spawning = tokio::spawn(spawn.into_future());
    let waits = async || {
        let actors = bed.status().await.actors;
        actors.iter().any(|actor| actor.name.as_deref() == Some("waits") && actor.state == "starting")
    };
    while !waits().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    within(job.kill("the test")).await.unwrap();
    let said = died(within(spawning).await.unwrap().map(drop).unwrap_err());
    assert!(said.contains("ordered by the test"), "{said}");
    kill(agent, Signal::CONT);
    assert_eq!(files(&bed, "b").len(), 1);
    system.shut_down(Duration::ZERO).await;
    drop((job, again));
    bed.down().await;
}

#[tokio::test]
async fn l2_programs_are_bounded_and_one_that_is_used_stays() {
    let spare = 12 << 20;
    let bound = fs::metadata(PROGRAM).unwrap().len() + spare;
    let text = manifest_text(&[("a", "{ cpus = 8 }")]);
    let bed = Testbed::of(&format!("{text}[programs]\ncache = \"{bound}\"\n")).started().await;
    let (mut job, system) = bed.job().await;
    let path = program(&bed, "run");
    let run = Client::connect(&bed.state()).await.unwrap();
    let hash = within(run.bring(&path)).await.unwrap();
    let spawn = job.cluster(&system).spawn::<Probe>("".into()).program(&hash.to_string());
    let probe = within(spawn.into_future()).await.unwrap();
    drop(run);
    let others = ["one", "two"].map(|name| {
        let path = bed.folder.path().join(name);
        let mut file = File::create(&path).unwrap();
        file.write_all(name.as_bytes()).unwrap();
        file.set_len(8 << 20).unwrap();
        path
    });
    let first = Client::connect(&bed.state()).await.unwrap();
    let one = within(first.bring(&others[0])).await.unwrap();
    // As long as whoever brought it is there, and a worker runs the other.
    let full = within(bed.client().bring(&others[1])).await.unwrap_err().to_string();
    assert!(full.contains("two, program sha256:") && full.contains("was not brought"), "{full}");
    assert!(full.contains("node `a`: it has 8 MiB") && full.contains("`programs.cache` allows"), "{full}");
    assert_eq!(files(&bed, "a").len(), 2);

    drop(first);
    let two = loop {
        match within(job.program(&others[1])).await {
            Ok(hash) => break hash,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let mut expected = [digits(&hash), digits(&two)];
    expected.sort();
    assert_eq!(files(&bed, "a"), expected, "{one} was the only one that nobody used");
    assert_eq!(runs(look(&probe, &[]).await.pid), file(&bed, "a", &hash));
    system.shut_down(Duration::ZERO).await;
    drop(job);
    bed.down().await;
}

#[tokio::test]
async fn l6_a_client_brings_programs_to_an_agents_bulk_and_nothing_else() {
    let bed = Testbed::start(&[("a", "{ cpus = 1 }")]).await;
    let credentials = Credentials::load(&bed.state().client()).unwrap();
    let endpoint = Endpoint::bind(credentials, EndpointOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let agent = bed.status().await.nodes[0].address.unwrap();
    let expect = Expect::role(PeerRole::Agent);
    let bulk = || endpoint.connect_for(agent, &expect, lyceum_wire::Purpose::Bulk);
    // Not to the store.
    let connection = within(bulk()).await.unwrap();
    let _stream = within(connection.open_bulk(b"LYst")).await.unwrap();
    within(connection.closed()).await;
    // And gets none.
    let connection = within(bulk()).await.unwrap();
    let header = [&b"LYpr\x01\x02"[..], &[0; 40]].concat();
    let (_sender, mut receiver) = within(connection.open_bulk(&header)).await.unwrap();
    assert!(within(receiver.read_to_end(100)).await.is_err(), "the stream is given up");
    bed.down().await;
}
