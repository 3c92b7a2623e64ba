//! Ranks as processes of their own, and what is left when one is killed.
//!
//! The test program starts itself again as each rank: `rank_process` does nothing unless it is such a child.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use lyceum_collective::*;

const CHILD: &str = "LYCEUM_COLLECTIVE_RANK";

/// From a peer's death to the error at whoever waits for it, on one host: far above what it takes, far below a timeout.
const NOTICE: Duration = Duration::from_secs(2);

/// The body of a child: reduces for ever, and says how it ended.
#[test]
fn rank_process() {
    let Ok(rank) = std::env::var(CHILD) else { return };
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let bytes: Vec<u8> = line.trim().split(',').map(|byte| byte.parse().unwrap()).collect();
    let gang = rkyv::from_bytes::<Gang, rkyv::rancor::Error>(&bytes).unwrap();
    let mut ranks = form(&gang, rank.parse().unwrap(), None, None, PATIENCE).unwrap();
    let (own, world, len) = (ranks.rank(), ranks.world_size(), 300_000);
    let mut buffer = ranks.allocate(len * 4).unwrap();
    for round in 0.. {
        buffer.as_mut_slice::<f32>().copy_from_slice(&values(own, len));
        match ranks.run(Operation::AllReduce(Element::F32), buffer, PATIENCE) {
            Ok(reduced) => buffer = reduced,
            Err(error) => {
                println!("ended: {error}");
                return;
            }
        }
        if round == 0 {
            let sound = bits(buffer.as_slice()) == bits(&sequential_sum(world, len));
            println!("reduced: {sound}");
        }
    }
}

struct Rank {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Rank {
    fn start(gang: &Gang, rank: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "rank_process", "--nocapture", "--test-threads=1"])
            .env(CHILD, rank.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(gang).unwrap();
        let text: Vec<String> = bytes.iter().map(u8::to_string).collect();
        writeln!(child.stdin.take().unwrap(), "{}", text.join(",")).unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The rest of the next line that has `mark`.
    fn says(&mut self, mark: &str) -> String {
        loop {
            let line = self.lines.next().expect("the rank says more").unwrap();
            if let Some((_, rest)) = line.split_once(mark) {
                return rest.trim().to_owned();
            }
        }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Abstract sockets with this gang's name.
fn sockets(gang: &Gang) -> usize {
    let name = format!("{:?}", gang.token);
    let name = name.trim_start_matches("Token(").trim_end_matches(')');
    std::fs::read_to_string("/proc/net/unix").unwrap().lines().filter(|line| line.contains(name)).count()
}

#[test]
fn l3_a_rank_killed_in_mid_reduction_is_named_by_all_others_and_nothing_is_left() {
    for (world, victim) in [(2, 0), (2, 1), (4, 0), (4, 2)] {
        let nodes = vec!["a"; world];
        let gang = gang(1, &nodes, &vec![None; world]);
        let mut ranks: Vec<Rank> = (0..world).map(|rank| Rank::start(&gang, rank)).collect();
        for rank in &mut ranks {
            assert_eq!(rank.says("reduced:"), "true", "the sequential sum, across processes");
        }
        ranks[victim].child.kill().unwrap();
        let killed = Instant::now();
        for (rank, process) in ranks.iter_mut().enumerate().filter(|(rank, _)| *rank != victim) {
            let error = process.says("ended:");
            assert_eq!(
                error,
                format!("rank {victim} of epoch 1 is lost: its process has ended"),
                "rank {rank} of {world}"
            );
        }
        assert!(killed.elapsed() < NOTICE, "{world} ranks took {:?} to notice", killed.elapsed());
        drop(ranks);
        assert_eq!(sockets(&gang), 0, "a socket is left behind");
    }
}

#[test]
fn waiting_ranks_sleep() {
    // In ticks of 10 ms: /proc/self/task/*/stat, fields 14 and 15.
    let ticks = || -> u64 {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        tasks
            .filter_map(|task| {
                let path = task.unwrap().path();
                let name = std::fs::read_to_string(path.join("comm")).ok()?;
                let stat = std::fs::read_to_string(path.join("stat")).ok()?;
                let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
                let used = fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?;
                name.starts_with("lyceum-coll").then_some(used)
            })
            .sum()
    };
    on_ranks(&["a", "a"], |mut ranks| {
        if ranks.rank() == 0 {
            let before = ticks();
            std::thread::sleep(Duration::from_millis(500));
            assert!(ticks() - before <= 10, "who waits half a second does not compute for a tenth");
        }
        ranks.barrier(PATIENCE).unwrap();
    });
}
