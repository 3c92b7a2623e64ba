//! Clusters whose agents are the tasks of a job of Slurm.

use std::fs;
use std::process::Command;

use lyceum_actor::Registry;
use lyceum_cluster::{Client, Status};
use rustix::process::Signal;

use crate::harness::{HANGING, PROGRAM, Testbed, kill, lives, look, processes_of, until, within};
use crate::probe::{AskOther, Probe, Question};
use crate::slurmd::{Slurm, have_slurm};

const HEAD: &str = "name = \"test\"\nlauncher = \"slurm\"\n[head]\nbind = \"127.0.0.1\"\n\
                    [store]\ncapacity = \"8 MiB\"\nsegment = \"8 MiB\"\n\
                    [health]\nunreachable = 1.0\nverdict = 3.0\nstop = 2.0\n";

/// Runs a command of the testbed in this Slurm; whether it ended well, and what it said.
fn run(slurm: &Slurm, bed: &Testbed, command: &str, manifest: &str) -> (bool, String) {
    let file = bed.folder.path().join("slurm.toml");
    fs::write(&file, manifest).unwrap();
    let mut run: Command = slurm.command(PROGRAM);
    run.args([command, "--manifest", file.to_str().unwrap(), "--state"]).arg(bed.state().root());
    let output = run.output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    (output.status.success(), said)
}

fn nodes(extra: &str) -> String {
    let node = |name| format!("[[nodes]]\nname = \"{name}\"\nresources = {{ cpus = 1 }}\n");
    format!("{HEAD}{}{}{}{extra}", node("a"), node("b"), node("c"))
}

/// The agents' processes, in the order of their nodes.
fn agents(bed: &Testbed) -> Vec<u32> {
    let mut agents: Vec<(String, u32)> = processes_of(bed.folder.path())
        .into_iter()
        .filter_map(|pid| {
            let line = String::from_utf8(fs::read(format!("/proc/{pid}/cmdline")).ok()?).ok()?;
            let words: Vec<&str> = line.split('\0').collect();
            (words.get(1) == Some(&"agent")).then(|| (words[3].to_owned(), pid))
        })
        .collect();
    agents.sort();
    agents.into_iter().map(|(_, pid)| pid).collect()
}

fn jobs(slurm: &Slurm) -> String {
    slurm.call("squeue", &["-h", "-o", "%i %j %T"]).trim().to_owned()
}

fn nothing_is_left(slurm: &Slurm, bed: &Testbed) {
    assert_eq!(jobs(slurm), "", "a job is left");
    assert_eq!(processes_of(bed.folder.path()), Vec::<u32>::new(), "processes are left");
    let state = bed.state();
    let keys = [state.head(), state.client(), state.nodes(), state.root().join("slurm")];
    assert!(keys.iter().all(|keys| !keys.exists()), "keys are left");
}

async fn status(client: &Client) -> Status {
    within(client.status()).await.unwrap()
}

#[tokio::test]
async fn a_cluster_is_one_job_of_slurm_is_found_again_and_leaves_nothing() {
    if !have_slurm() {
        return;
    }
    let slurm = Slurm::start().await;
    let bed = Testbed::prepare(&[("a", "{}")]);

    // What Slurm refuses is said in its own words, and what a host lacks is its node's fault.
    let (good, said) = run(&slurm, &bed, "up", &nodes("[slurm]\npartition = \"none\"\n"));
    assert!(!good && said.contains("Slurm's `sbatch` failed"), "{said}");
    assert!(said.contains("invalid partition specified"), "{said}");
    nothing_is_left(&slurm, &bed);
    let (good, said) = run(&slurm, &bed, "up", &nodes("interface = \"nowhere0\"\n"));
    assert!(
        !good && said.contains("node `c`: its agent was not started: there is no interface `nowhere0`"),
        "{said}"
    );
    nothing_is_left(&slurm, &bed);

    let (good, said) = run(&slurm, &bed, "up", &nodes(""));
    assert!(good && said.contains("started: true"), "{said}");
    let job = jobs(&slurm);
    assert!(job.ends_with(" lyceum-test RUNNING") && job.lines().count() == 1, "{job}");
    let script = slurm.call("scontrol", &["write", "batch_script", job.split(' ').next().unwrap(), "-"]);
    assert!(script.contains("srun ") && !script.contains("PRIVATE KEY"), "{script}");
    assert_eq!(fs::read_dir(bed.state().root().join("slurm")).unwrap().count(), 0, "orders are left");

    let client = Client::connect(&bed.state()).await.unwrap();
    assert!(status(&client).await.nodes.iter().all(|node| node.joined));
    let work = client.begin_job("test", true).await.unwrap();
    let system = client.start_system(Registry::new()).await.unwrap();
    let mut probes = Vec::new();
    for node in ["a", "c"] {
        let spawned = work.cluster(&system).spawn::<Probe>(format!("on {node}")).node(node).into_future();
        probes.push(within(spawned).await.unwrap());
    }
    let ask = AskOther { other: probes[1].address().clone(), what: Question::Greeting };
    assert_eq!(within(probes[0].ask(ask)).await.unwrap().read().unwrap(), "on c");
    let names = ["SLURMD_NODENAME".to_owned()];
    let sights = [look(&probes[0], &[&names[0]]).await, look(&probes[1], &[&names[0]]).await];
    assert_ne!(sights[0].variables, sights[1].variables, "each node has a host of its own");
    within(work.end("the test")).await.unwrap();

    let before = agents(&bed);
    let (good, said) = run(&slurm, &bed, "up", &nodes(""));
    assert!(good && said.contains("started: false"), "{said}");
    assert_eq!((agents(&bed), jobs(&slurm)), (before.clone(), job.clone()));

    // An agent that has died is started again by the next `up`, in the same job.
    kill(before[1], Signal::KILL);
    until("its task tells of it", || bed.state().node("b").join("ended.json").exists()).await;
    assert!(!lives(before[1]));
    let (good, said) = run(&slurm, &bed, "up", &nodes(""));
    assert!(good && said.contains("started: true"), "{said}");
    assert!(status(&client).await.nodes.iter().all(|node| node.joined));
    let after = agents(&bed);
    assert_eq!((after[0], after[2], jobs(&slurm)), (before[0], before[2], job));
    assert_ne!(after[1], before[1]);

    // A job that has come to its end is followed by another, for which hosts may have to be waited for.
    let (first, rest) =
        jobs(&slurm).split_once(' ').map(|(id, rest)| (id.to_owned(), rest.to_owned())).unwrap();
    slurm.call("scancel", &[&first]);
    until("the job is over", || jobs(&slurm).is_empty()).await;
    let other = slurm.call(
        "sbatch",
        &["--parsable", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 600"],
    );
    let other = other.trim();
    until("another has all hosts", || jobs(&slurm).contains(" wrap RUNNING")).await;
    let (good, said) = std::thread::scope(|scope| {
        let up = scope.spawn(|| run(&slurm, &bed, "up", &nodes("")));
        let began = std::time::Instant::now();
        while !jobs(&slurm).contains(" lyceum-test PENDING") {
            assert!(began.elapsed() < HANGING, "never: the job waits");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        slurm.call("scancel", &[other]);
        up.join().unwrap()
    });
    assert!(good && said.contains("started: true"), "{said}");
    until("the job runs alone", || jobs(&slurm).lines().count() == 1).await;
    assert!(jobs(&slurm).ends_with(&rest) && !jobs(&slurm).starts_with(&first), "{}", jobs(&slurm));
    assert!(status(&client).await.nodes.iter().all(|node| node.joined));

    within(system.shut_down(std::time::Duration::ZERO)).await;
    drop((work, client));
    let (good, said) = run(&slurm, &bed, "down", "");
    assert!(good && said.contains("was up: true"), "{said}");
    nothing_is_left(&slurm, &bed);
}

/// The number of the cluster's jobs that run, and of those that wait.
fn count(slurm: &Slurm) -> (usize, usize) {
    let jobs = jobs(slurm);
    let of = |state: &str| jobs.lines().filter(|job| job.ends_with(state)).count();
    (of(" RUNNING"), of(" PENDING"))
}

#[tokio::test]
async fn what_waits_gets_further_nodes_from_slurm_which_go_when_nothing_needs_them() {
    if !have_slurm() {
        return;
    }
    let slurm = Slurm::start().await;
    let bed = Testbed::prepare(&[("a", "{}")]);
    let elastic = "[elastic]\nmax_nodes = 2\npatience = 0.5\nidle = 1.0\nresources = { cpus = 2 }\n\
                   labels = { kind = \"further\" }\n";
    let manifest = format!("{HEAD}{elastic}[[nodes]]\nname = \"a\"\nresources = {{ cpus = 1 }}\n");
    let (good, said) = run(&slurm, &bed, "up", &manifest);
    assert!(good, "{said}");

    let client = Client::connect(&bed.state()).await.unwrap();
    let job = client.begin_job("test", true).await.unwrap();
    let system = client.start_system(Registry::new()).await.unwrap();
    let cluster = job.cluster(&system);
    // What no further node could hold either is refused at once.
    let refused = within(cluster.spawn::<Probe>("large".into()).cpus(3).into_future()).await.unwrap_err();
    assert!(refused.to_string().contains("node `a further node`: cpus: 3 asked, 2 in all"), "{refused}");
    let [first, second] = ["first", "second"].map(|name| {
        let spawn = cluster.spawn::<Probe>(name.into()).cpus(2).label("kind", "further");
        tokio::spawn(spawn.into_future())
    });
    let nodes = [within(first).await.unwrap().unwrap(), within(second).await.unwrap().unwrap()]
        .map(|probe| probe.address().process.node.clone());
    assert_eq!(std::collections::BTreeSet::from(nodes), ["further-1", "further-2"].map(str::to_owned).into());
    assert_eq!(count(&slurm), (3, 0), "{}", jobs(&slurm));
    // No more than there may be.
    let third = cluster.spawn::<Probe>("third".into()).cpus(2).label("kind", "further");
    let third = tokio::spawn(third.into_future());
    let says_so = |status: &Status| {
        let said = "of further nodes there may be 2, and 2 are asked for";
        status.wanting.iter().any(|line| line == said)
            && status.wanting[0] == "an actor waits for room: cpus 2"
    };
    until_status(&client, "it is said", says_so).await;
    third.abort();
    assert_eq!(count(&slurm), (3, 0), "{}", jobs(&slurm));

    within(job.end("the test")).await.unwrap();
    until("the further nodes are given back", || count(&slurm) == (1, 0)).await;
    until_status(&client, "they are forgotten", |status| status.nodes.len() == 1).await;

    // Hosts that others have now are waited for, by a head that is started again too, and `down` leaves no request.
    let other = slurm.call(
        "sbatch",
        &["--parsable", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 600"],
    );
    until("another has the other hosts", || jobs(&slurm).contains(" wrap RUNNING")).await;
    let job = client.begin_job("test", false).await.unwrap();
    let spawn = job.cluster(&system).spawn::<Probe>("late".into()).cpus(2).into_future();
    let late = tokio::spawn(spawn);
    until("a node is asked for", || count(&slurm) == (2, 1)).await;
    let told = |status: &Status| {
        status.wanting.iter().any(|line| line.contains("Slurm was asked for node `further-3`: job "))
    };
    until_status(&client, "it is told", told).await;
    let head = bed.pid_of("head");
    kill(head, Signal::KILL);
    until("the head is gone", || !lives(head)).await;
    late.abort();
    within(system.shut_down(std::time::Duration::ZERO)).await;
    drop((job, client));
    let (good, said) = run(&slurm, &bed, "up", &manifest);
    assert!(good, "{said}");
    let client = Client::connect(&bed.state()).await.unwrap();
    until_status(&client, "the new head knows of it", told).await;
    assert_eq!(count(&slurm), (2, 1), "it is not asked for twice: {}", jobs(&slurm));
    slurm.call("scancel", &[other.trim()]);
    until_status(&client, "it comes", |status| {
        status.nodes.iter().any(|node| node.name == "further-3" && node.joined)
    })
    .await;
    drop(client);
    let (good, said) = run(&slurm, &bed, "down", "");
    assert!(good && said.contains("was up: true"), "{said}");
    until("the other is gone", || !jobs(&slurm).contains(" wrap ")).await;
    nothing_is_left(&slurm, &bed);
}

/// Waits until the status is as it should be.
async fn until_status(client: &Client, what: &str, is: impl Fn(&Status) -> bool) {
    let began = std::time::Instant::now();
    loop {
        let status = status(client).await;
        if is(&status) {
            return;
        }
        assert!(began.elapsed() < HANGING, "never: {what}: {status:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
