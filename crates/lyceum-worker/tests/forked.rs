//! libtorch in a worker that was forked from a template is libtorch in one that was started: as many threads in each kind of
//! operation as the agent allots, the same numbers, and random ones of its own.
//!
//! The cluster is real, and this program, which links libtorch, is its head, its agent and its workers.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lyceum_actor::{Accepts, Actor, Cluster, Context, Handler, Incoming, Registry, Role};
use lyceum_cluster::launch::{self, UpOptions};
use lyceum_cluster::manifest::Manifest;
use lyceum_cluster::state::StateDir;
use lyceum_cluster::{agent, head, worker};
use rkyv::{Archive, Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// The longest that a step may take before it counts as hanging.
const HANGING: Duration = Duration::from_secs(60);

struct Computer;

/// Compute on a new thread, after having said how many threads to use, or not.
#[derive(Archive, Serialize, Deserialize, Debug, Clone)]
struct Compute {
    told: bool,
}

#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Computed {
    forked: bool,
    /// Threads that took part in an elementwise operation, an fp32 product and a bf16 product.
    threads: [u32; 3],
    /// Sums of what came out, bit by bit.
    sums: [u64; 3],
    /// A number from the C library's seed, and one from Rust's.
    random: (u64, u64),
}

impl Role for Computer {
    const NAME: &'static str = "computer";
    type Args = ();
    type Messages = (Compute,);
}

impl Accepts<Compute> for Computer {
    type Reply = Computed;
}

struct Process;

impl Actor for Process {
    type Role = Computer;

    async fn start((): (), _: &mut Context<Self>) -> lyceum_actor::Result<Self> {
        Ok(Process)
    }
}

impl Handler<Compute> for Process {
    async fn handle(
        &mut self,
        compute: Incoming<Compute>,
        _: &mut Context<Self>,
    ) -> lyceum_actor::Result<Computed> {
        let (told, threads) = (compute.read()?.told, std::env::var("OMP_NUM_THREADS")?.parse()?);
        let environment = std::fs::read("/proc/self/environ")?;
        let mut variables = environment.split(|byte| *byte == 0);
        let forked = variables.any(|variable| variable.starts_with(b"LYCEUM_TEMPLATE_FD="));
        if told {
            tch::set_num_threads(threads);
        }
        let done = [on_new_thread(elementwise), on_new_thread(product_fp32), on_new_thread(product_bf16)];
        let random = Tensor::rand([1], (Kind::Double, Device::Cpu)).double_value(&[0]).to_bits();
        let state = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 1);
        Ok(Computed {
            forked,
            threads: done.map(|(threads, _)| threads),
            sums: done.map(|(_, sum)| sum),
            random: (random, state),
        })
    }
}

/// How many threads `compute` ran on, and the bits of what it returns. OpenMP's threads bear the name of who began them.
fn on_new_thread(compute: fn() -> f64) -> (u32, u64) {
    const NAME: &str = "computes";
    let thread = std::thread::Builder::new().name(NAME.into()).spawn(move || {
        let sum = compute().to_bits();
        let names = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = names.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        (names.filter(|name| name.trim() == NAME).count() as u32, sum)
    });
    thread.unwrap().join().unwrap()
}

fn ramp(rows: i64, columns: i64, kind: Kind) -> Tensor {
    let numbers = Tensor::arange(rows * columns, (Kind::Float, Device::Cpu));
    (numbers.remainder(251.0) / 251.0).reshape([rows, columns]).to_kind(kind)
}

fn elementwise() -> f64 {
    let numbers = ramp(2000, 1000, Kind::Float);
    numbers.exp().double_value(&[1999, 999])
}

fn product_fp32() -> f64 {
    ramp(700, 600, Kind::Float).matmul(&ramp(600, 700, Kind::Float)).double_value(&[699, 699])
}

fn product_bf16() -> f64 {
    ramp(700, 600, Kind::BFloat16)
        .matmul(&ramp(600, 700, Kind::BFloat16))
        .to_kind(Kind::Float)
        .double_value(&[699, 699])
}

fn main() -> ExitCode {
    worker::begin();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let state = || StateDir::at(PathBuf::from(after("--state").unwrap()));
    match arguments.first().map(String::as_str) {
        Some("worker") => return worker::run(Registry::new().register::<Process>()),
        Some("head") => head::run(&state(), 0).unwrap(),
        Some("agent") => agent::run(&state(), &after("--node").unwrap()).unwrap(),
        _ => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.unwrap().block_on(libtorch_is_the_same_in_a_worker_that_was_forked());
            println!("test libtorch_is_the_same_in_a_worker_that_was_forked ... ok");
        }
    }
    ExitCode::SUCCESS
}

async fn libtorch_is_the_same_in_a_worker_that_was_forked() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = "name = \"forked\"\noversubscribe = true\nstore = { capacity = \"8 MiB\", segment = \"8 MiB\" }\n\
                    [[nodes]]\nname = \"a\"\nresources = { cpus = 16 }\n";
    let manifest = Manifest::parse("forked.toml", manifest).unwrap();
    let program = std::env::current_exe().unwrap();
    let own_name = program.file_name().unwrap().to_str().unwrap().to_owned();
    let options =
        UpOptions { owned: true, ..UpOptions::at(StateDir::at(folder.path().join("state")), program) };
    let up = within(launch::up(&manifest, options)).await.unwrap();
    let job = within(up.client.begin_job("forked", true)).await.unwrap();
    let system = up.client.start_system(Registry::new()).await.unwrap();
    let cluster = job.cluster(&system);
    let cores = std::thread::available_parallelism().unwrap().get() as u32;
    let mut random = Vec::new();
    // The template is started for one of one thread.
    for threads in [1, 2, 3] {
        for told in [false, true] {
            let forked = compute(&cluster, Some(&own_name), threads, told).await;
            let started = compute(&cluster, None, threads, told).await;
            assert!(forked.forked && !started.forked);
            // More than there are cores MKL does not use unless it is told to.
            if threads <= cores {
                assert_eq!(started.threads, [threads; 3]);
            }
            assert_eq!(forked.threads, started.threads, "{threads} threads, told: {told}");
            assert_eq!(forked.sums, started.sums, "{threads} threads, told: {told}");
            random.push(forked.random);
        }
    }
    let rusts: std::collections::BTreeSet<u64> = random.iter().map(|(_, rust)| *rust).collect();
    assert_eq!(rusts.len(), random.len(), "each process has its own");
    within(up.down()).await.unwrap();
}

async fn compute(cluster: &Cluster, program: Option<&str>, threads: u32, told: bool) -> Computed {
    let spawn = cluster.spawn::<Computer>(()).cpus(threads);
    let spawn = match program {
        Some(program) => spawn.program(program),
        None => spawn,
    };
    let computer = within(spawn.into_future()).await.unwrap();
    let computed = within(computer.ask(Compute { told })).await.unwrap().read().unwrap();
    within(cluster.kill(&computer)).await.unwrap();
    computed
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGING, future).await.expect("a step hangs")
}
