//! Processes of a cluster in which nothing is done: what they hold, and what they use of a core.
//!
//! The cluster is real: one process per agent, which says its heartbeats, and QUIC between all of them.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;

use super::Options;
use crate::cluster::BenchCluster;
use crate::row::Row;

/// Workers of the agent that is measured.
const WORKERS: u32 = 8;
/// Agents of the head that is measured.
const AGENTS: u32 = 200;
/// How long the processes are watched.
const WATCHED: Duration = Duration::from_secs(20);
/// Before that they come to rest.
const REST: Duration = Duration::from_secs(3);
/// MiB that a process may hold, and more for each peer that it speaks with over the network.
const HELD: (f64, f64) = (30.0, 1.0);
/// Percent of a core that it may use.
const USED: f64 = 0.5;

/// Measures an agent with eight workers, and a head with 200 agents.
pub async fn measure(options: &Options) -> Result<Vec<Row>> {
    let agent = BenchCluster::start(options.program.clone(), &manifest(1)).await?;
    let spawned = (0..WORKERS).map(|_| agent.target("0"));
    let workers = try_join_all(spawned).await?;
    // Its peer is the head.
    let mut rows = watch(&format!("an agent with {WORKERS} workers"), agent.agent("0").await?, 1).await?;
    drop(workers);
    agent.end().await?;

    let head = BenchCluster::start(options.program.clone(), &manifest(AGENTS)).await?;
    rows.extend(watch(&format!("a head with {AGENTS} agents"), head.head()?, AGENTS).await?);
    head.end().await?;
    Ok(rows)
}

/// Nodes on this machine, named by number. Their stores are empty: no page of them is anybody's.
fn manifest(nodes: u32) -> String {
    let mut text =
        "name = \"bench\"\noversubscribe = true\nstore = { capacity = \"64 MiB\", segment = \"64 MiB\", prefault = false }\n"
            .to_owned();
    for node in 0..nodes {
        text += &format!("[[nodes]]\nname = \"{node}\"\nresources = {{ cpus = 1, memory = \"64 MiB\" }}\n");
    }
    text
}

async fn watch(who: &str, pid: u32, peers: u32) -> Result<Vec<Row>> {
    tokio::time::sleep(REST).await;
    let (began, before) = (Instant::now(), core_seconds(pid)?);
    tokio::time::sleep(WATCHED).await;
    let used = 100.0 * (core_seconds(pid)? - before) / began.elapsed().as_secs_f64();
    let held = resident_mib(pid)?;
    let allowed = HELD.0 + HELD.1 * f64::from(peers);
    Ok(vec![
        Row::within(&format!("idle: memory of {who}"), "MiB", held, allowed),
        Row::within(&format!("idle: processor of {who}"), "% of a core", used, USED),
    ])
}

/// Time of processors that all threads of a process have had; see "Scheduler Statistics" of the kernel's documentation.
fn core_seconds(pid: u32) -> Result<f64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))?;
    let mut nanoseconds = 0;
    for task in tasks {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let first = text.split_whitespace().next().context("a schedstat of nothing")?;
        nanoseconds += first.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// Memory that is resident of a process, with what it shares.
pub fn resident_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    let kib: f64 = kib.with_context(|| format!("{path} does not tell the memory"))?;
    Ok(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_computes_uses_time_and_holds_memory() {
        let own = std::process::id();
        let before = core_seconds(own).unwrap();
        let sum = (0..50_000_000_u64).fold(0, |sum, number| std::hint::black_box(sum ^ number));
        assert!(core_seconds(own).unwrap() > before, "{sum}");
        let (held, more) = (resident_mib(own).unwrap(), vec![1_u8; 64 << 20]);
        assert!(resident_mib(own).unwrap() > held + 32.0, "{}", more.len());
    }

    #[test]
    fn the_manifest_has_its_nodes() {
        let manifest = lyceum_cluster::manifest::Manifest::parse("idle", &manifest(AGENTS)).unwrap();
        assert_eq!(manifest.nodes.len(), AGENTS as usize);
    }
}
