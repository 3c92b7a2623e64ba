//! Ranks on CUDA devices: what NCCL is asked for, when, by whom, and how it ends. On doubles of NCCL and of the driver
//! that work in host memory (see `doubles/`): on a GPU these calls have still to be run, see `lyceum-train`'s `cuda` test.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod double;
mod scenario;

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use double::{Child, SCENARIO};
use lyceum_collective::*;

/// The body of a child; nothing in the parent.
#[test]
fn child() {
    if let Ok(name) = std::env::var(SCENARIO) {
        scenario::play(&name);
    }
}

#[test]
fn every_operation_does_what_it_says_and_the_communicator_is_left_in_good_order() {
    for scenario in ["operations-of-two", "operations-of-three"] {
        let Some(calls) = Child::plays(scenario).run() else { return };
        calls.assert_one_thread_a_rank();
        assert_eq!((calls.count("ncclGetUniqueId"), calls.count("ncclCommAbort")), (1, 0));
        for rank in [0, 1] {
            let called = calls.of(rank);
            let first = called.split_at(5).0;
            assert_eq!(
                first,
                [
                    "ncclCommInitRankConfig",
                    "ncclAllReduce",
                    "ncclReduceScatter",
                    "ncclAllGather",
                    "ncclBroadcast"
                ]
            );
            assert_eq!(called[called.len() - 2..], ["ncclCommFinalize", "ncclCommDestroy"]);
        }
    }
}

#[test]
fn an_operation_waits_for_the_default_stream_and_nobody_waits_for_its_start() {
    Child::plays("order").run();
}

#[test]
fn one_rank_alone_on_its_device_goes_the_same_way() {
    Child::plays("alone").run();
}

#[test]
fn l3_a_rank_that_does_not_come_is_named_and_nothing_was_launched_for_it() {
    let Some(calls) = Child::plays("straggler").run() else { return };
    assert_eq!(calls.count("ncclAllReduce"), 0, "no kernel spins for a rank that is late");
    calls.assert_one_thread_a_rank();
    assert_eq!(calls.count("ncclCommAbort"), 3, "once on every rank");
}

#[test]
fn l3_a_device_that_does_not_finish_runs_out_of_time_and_is_aborted_once() {
    let Some(calls) = Child::plays("stuck").with_fault("stuck").run() else { return };
    calls.assert_one_thread_a_rank();
    for rank in [0, 1] {
        assert_eq!(calls.of(rank), ["ncclCommInitRankConfig", "ncclAllGather", "ncclCommAbort"]);
    }
}

#[test]
fn l3_what_nccl_meets_with_reaches_every_rank_in_its_own_words() {
    let Some(calls) = Child::plays("network").with_fault("network").run() else { return };
    assert_eq!(calls.count("ncclCommAbort"), 2);
}

#[test]
fn l3_an_abort_from_any_thread_ends_what_is_under_way_on_every_rank() {
    let Some(calls) = Child::plays("abort").with_fault("stuck").run() else { return };
    calls.assert_one_thread_a_rank();
    assert_eq!(calls.count("ncclCommAbort"), 2);
}

#[test]
fn l3_a_rank_that_leaves_in_mid_operation_is_named() {
    let Some(calls) = Child::plays("leaving").with_fault("stuck").run() else { return };
    assert_eq!(calls.count("ncclCommAbort"), 2);
}

#[test]
fn l3_a_rank_whose_process_is_killed_in_mid_operation_is_named_and_the_device_is_free_again() {
    let child = Child::plays("one-process").with_fault("apart");
    let Some((mut command, log)) = child.command() else { return };
    let gang = scenario::to_line(&scenario::gang(2));
    let mut ranks = [0, 1].map(|rank: usize| {
        command.env(scenario::RANK, rank.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        process.stdin.take().unwrap().write_all(gang.as_bytes()).unwrap();
        process
    });
    let begun = Instant::now();
    while log.calls().count("ncclAllGather") < 2 {
        assert!(begun.elapsed() < Duration::from_secs(30), "both ranks launch");
        std::thread::sleep(Duration::from_millis(5));
    }
    ranks[1].kill().unwrap();
    ranks[1].wait().unwrap();
    let mut said = String::new();
    ranks[0].stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(ranks[0].wait().unwrap().success(), "{said}");
    let error = said.lines().find_map(|line| Some(line.split_once(scenario::MARK)?.1)).unwrap();
    assert_eq!(error, "rank 1 of epoch 1 is lost: its process has ended");
    let calls = log.calls();
    assert_eq!(calls.of(0), ["ncclCommInitRankConfig", "ncclAllGather", "ncclCommAbort"]);
    assert_eq!(calls.count("ncclGetUniqueId"), 1, "the id was carried to the other process");
}

#[test]
fn l3_ranks_that_never_join_run_out_of_time() {
    let Some(calls) = Child::plays("unjoined").with_fault("join").run() else { return };
    assert_eq!(calls.count("ncclCommAbort"), 2);
}

#[test]
fn ranks_that_call_different_things_are_told_so_and_nothing_is_launched() {
    let Some(calls) = Child::plays("mismatch").run() else { return };
    assert_eq!(calls.count("ncclAllReduce") + calls.count("ncclAllGather"), 0);
}

#[test]
fn a_buffer_that_lies_elsewhere_is_refused_and_the_epoch_lives() {
    Child::plays("misplaced").run();
}

#[test]
fn a_library_that_will_not_do_is_refused_on_every_rank_before_it_is_used() {
    for child in [
        Child::plays("unloaded").with_library("/nowhere/libnccl.so.2"),
        Child::plays("unloaded").with_double(&["-DLACKS_ABORT"]),
        Child::plays("unloaded").with_double(&["-DVERSION=21304"]),
    ] {
        let Some(calls) = child.run() else { return };
        assert_eq!(calls.count("ncclCommInitRankConfig"), 0);
    }
}

/// A gang on devices that is refused before NCCL is looked for.
fn refusal(nodes: [&str; 2], devices: [Option<u32>; 2], memory: bool) -> String {
    let members = nodes.into_iter().zip(devices).map(|(node, device)| Member {
        node: node.into(),
        incarnation: 0,
        addr: Some("127.0.0.1:1".parse().unwrap()),
        device,
        trusted_interface: None,
    });
    let gang = Gang { epoch: 1, members: members.collect(), token: Token::random().unwrap() };
    let memory: Option<Allocator> = memory.then(|| Box::new(|bytes| Ok(Buffer::host(bytes))) as _);
    form(&gang, 0, None, memory, Duration::from_secs(1)).err().unwrap().to_string()
}

#[test]
fn l6_a_gang_on_devices_of_several_hosts_is_refused_unless_every_node_trusts_an_interface() {
    let error = refusal(["a", "b"], [Some(0), Some(0)], true);
    assert!(error.contains("not encrypted") && error.contains("node a trusts no interface"), "{error}");
}

#[test]
fn a_gang_half_on_devices_or_without_memory_there_is_refused() {
    let error = refusal(["a", "a"], [Some(0), None], true);
    assert!(error.contains("1 of 2 ranks are on CUDA devices: all or none must be"), "{error}");
    let error = refusal(["a", "a"], [Some(0), Some(1)], false);
    assert!(error.contains("brings no memory"), "{error}");
}
