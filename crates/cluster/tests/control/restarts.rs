//! Restarts, and the pauses before them.

use std::time::Duration;

use lyceum_actor::{Restarts, SpawnRequest};
use lyceum_cluster::control::vocabulary::Ask;

use super::harness::{CLIENT, Cluster, next_launch, spawn};

#[test]
fn restarts_pause_twice_as_long_each_time_and_end_with_their_count() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let restarts = Restarts { count: 4, within_ms: 0, pause_ms: 20_000 };
    let mut process = cluster.started(CLIENT, SpawnRequest { restarts, ..spawn(job, 1) });
    let mut pauses = Vec::new();
    loop {
        let died = cluster.dies(process);
        let Some((pause, next)) = next_launch(&mut cluster, died) else { break };
        assert!(next > process);
        pauses.push(pause.as_secs());
        process = next;
    }
    assert_eq!(pauses, [20, 40, 60, 60], "a minute at most");
    assert!(cluster.head.status().actors.is_empty());
}

#[test]
fn restarts_that_are_long_past_do_not_count_where_there_is_a_window() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let restarts = Restarts { count: 2, within_ms: 60_000, pause_ms: 0 };
    let mut process = cluster.started(CLIENT, SpawnRequest { restarts, ..spawn(job, 1) });
    for round in 0..5 {
        for _ in 0..2 {
            let died = cluster.dies(process);
            let (pause, next) = next_launch(&mut cluster, died).unwrap_or_else(|| panic!("round {round}"));
            assert_eq!(pause, Duration::ZERO);
            process = next;
        }
        cluster.now += Duration::from_secs(60);
    }
    for _ in 0..2 {
        let died = cluster.dies(process);
        process = next_launch(&mut cluster, died).expect("two within the window").1;
    }
    cluster.dies(process);
    assert!(cluster.head.status().actors.is_empty(), "the third within the window is the last");
}

#[test]
fn an_actor_that_rests_before_its_restart_can_be_ended() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let restarts = Restarts { count: 1, within_ms: 0, pause_ms: 20_000 };
    let process = cluster.started(CLIENT, SpawnRequest { restarts, ..spawn(job, 1) });
    cluster.dies(process);
    let actor = cluster.head.status().actors[0].clone();
    assert_eq!(actor.state, "waiting to be started again");
    cluster.ask(CLIENT, Ask::StopActor { actor: actor.actor, kill: false });
    assert!(cluster.head.status().actors.is_empty());
    assert_eq!(next_launch(&mut cluster, Vec::new()), None);
}
