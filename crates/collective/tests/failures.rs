//! L3: whatever goes wrong with one rank, all get an error that names it, and none hangs.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::Duration;

use common::*;
use lyceum_collective::*;

const SPREADS: [&[&str]; 4] = [&["a", "a", "a"], &["a", "b"], &["a", "b", "c"], &["a", "a", "b", "b"]];

/// What each rank's barrier says when rank `culprit` does `deed` instead of coming.
fn without(
    nodes: &[&str],
    culprit: usize,
    deed: impl Fn(Box<dyn Communicator>) + Sync,
) -> Vec<Option<CollectiveError>> {
    let seats = seats(nodes);
    attempt(&gang(1, nodes, &seats), &seats, |formed| {
        // What is done may end the epoch before others have heard that the gang stands.
        let mut ranks = match formed {
            Ok(ranks) => ranks,
            Err(error) => return Some(error),
        };
        if ranks.rank() == culprit {
            deed(ranks);
            return None;
        }
        let first = ranks.barrier(PATIENCE).unwrap_err();
        let second = ranks.allocate(8).unwrap_err();
        assert_eq!(first, second, "the first failure stands");
        Some(first)
    })
}

#[test]
fn l3_an_abort_reaches_every_rank_with_its_reason() {
    for nodes in SPREADS {
        for culprit in 0..nodes.len() {
            let seen = without(nodes, culprit, |ranks| {
                ranks.abort("the loss is not a number");
                ranks.abort("a later reason");
            });
            for error in seen.into_iter().flatten() {
                let reason = "the loss is not a number".into();
                let expected = CollectiveError::Aborted { rank: culprit, epoch: 1, reason };
                assert_eq!(error, expected, "rank {culprit} of {nodes:?}");
            }
        }
    }
}

#[test]
fn l3_a_rank_that_leaves_while_others_wait_is_named() {
    for nodes in SPREADS {
        for culprit in 0..nodes.len() {
            for error in without(nodes, culprit, drop).into_iter().flatten() {
                assert_eq!(error.rank(), culprit, "{error} ({nodes:?})");
                assert!(matches!(error, CollectiveError::Lost { .. }), "{error}");
            }
        }
    }
}

#[test]
fn l3_a_rank_that_does_not_come_runs_the_others_out_of_time_and_is_named() {
    for nodes in [&["a", "a", "a"][..], &["a", "b"], &["a", "a", "b"]] {
        let culprit = nodes.len() - 1;
        let seen = on_ranks(nodes, |mut ranks| {
            let mut buffer = ranks.allocate(64).unwrap();
            buffer.as_mut_slice::<u8>().fill(1);
            if ranks.rank() == culprit {
                // Busy elsewhere until the others have given up.
                loop {
                    std::thread::sleep(Duration::from_millis(20));
                    if let Err(error) = ranks.allocate(8) {
                        return error;
                    }
                }
            }
            let pending = ranks.start(Operation::AllReduce(Element::F32), buffer).unwrap();
            ranks.wait(pending, Duration::from_millis(100)).unwrap_err()
        });
        for error in seen {
            assert!(matches!(error, CollectiveError::Deadline { .. }), "{error}");
            assert_eq!(error.rank(), culprit, "{error} ({nodes:?})");
            assert!(error.to_string().contains("did not finish the all-reduce of f32 within 10"), "{error}");
        }
    }
}

#[test]
fn ranks_that_call_different_things_are_told_who_called_what() {
    for nodes in [&["a", "a"][..], &["a", "b"]] {
        let seen = on_ranks(nodes, |mut ranks| {
            let buffer = ranks.allocate(64).unwrap();
            let operation = match ranks.rank() {
                0 => Operation::AllReduce(Element::F32),
                _ => Operation::AllGather,
            };
            ranks.run(operation, buffer, PATIENCE).unwrap_err().to_string()
        });
        for error in seen {
            assert!(error.contains("all-reduce of f32 on 64 bytes"), "{error}");
            assert!(error.contains("all-gather on 64 bytes"), "{error}");
        }
    }
}

#[test]
fn a_buffer_from_elsewhere_is_refused_and_the_epoch_lives() {
    on_ranks(&["a", "a"], |mut ranks| {
        let error = ranks.start(Operation::AllGather, Buffer::host(64)).unwrap_err();
        assert!(error.to_string().contains("was not allocated by this communicator"), "{error}");
        ranks.barrier(PATIENCE).unwrap();
    });
}

#[test]
fn leaving_after_the_last_operation_harms_nobody() {
    for nodes in SPREADS {
        for _ in 0..5 {
            on_ranks(nodes, |mut ranks| {
                let mut buffer = ranks.allocate(2_000_004 / 12 * 12).unwrap();
                buffer.as_mut_slice::<f32>().fill(1.0);
                let buffer = ranks.run(Operation::AllReduce(Element::F32), buffer, PATIENCE).unwrap();
                assert!(buffer.as_slice::<f32>().iter().all(|v| *v == nodes.len() as f32));
            });
        }
    }
}

#[test]
fn a_buffer_outlives_its_communicator() {
    let buffers = on_ranks(&["a", "a"], |mut ranks| {
        let mut buffer = ranks.allocate(4096).unwrap();
        buffer.as_mut_slice::<f32>().fill(ranks.rank() as f32);
        buffer
    });
    for (rank, buffer) in buffers.iter().enumerate() {
        assert!(buffer.as_slice::<f32>().iter().all(|value| *value == rank as f32));
    }
}

#[test]
fn epochs_follow_one_another_on_the_same_seats() {
    for nodes in [&["a", "a"][..], &["a", "b"], &["a", "a", "b"]] {
        let seats = seats(nodes);
        for epoch in 1..5 {
            let gang = gang(epoch, nodes, &seats);
            on_seats(&gang, &seats, |mut ranks| {
                assert_eq!(ranks.epoch(), epoch);
                let aborts = epoch % 2 == 1;
                if aborts && ranks.rank() == 0 {
                    // Once all have come to this epoch.
                    std::thread::sleep(Duration::from_millis(100));
                    ranks.abort("next");
                }
                assert_eq!(ranks.barrier(PATIENCE).is_err(), aborts);
            });
        }
    }
}

#[test]
fn a_rank_that_never_comes_is_named_when_the_gang_cannot_be_formed() {
    let brief = Duration::from_millis(300);
    for nodes in [&["a", "a"][..], &["a", "b"]] {
        for absent in [0, 1] {
            let seats = seats(nodes);
            let gang = gang(1, nodes, &seats);
            let present = 1 - absent;
            let error = form(&gang, present, seats[present].as_ref(), None, brief).err().unwrap();
            assert_eq!(error.rank(), absent, "{error}");
            assert!(matches!(error, CollectiveError::Deadline { .. }), "{error}");
            assert!(error.to_string().contains("gang's forming"), "{error}");
        }
    }
}

#[test]
fn l6_who_has_another_token_or_epoch_is_not_let_in() {
    let brief = Duration::from_millis(400);
    for nodes in [&["a", "a"][..], &["a", "b"]] {
        let seats = seats(nodes);
        let gang = gang(5, nodes, &seats);
        let stranger = Gang { token: Token::random().unwrap(), ..gang.clone() };
        let zombie = Gang { epoch: 4, ..gang.clone() };
        for other in [&stranger, &zombie] {
            std::thread::scope(|scope| {
                let outsider = scope.spawn(|| form(other, 1, seats[1].as_ref(), None, brief));
                assert!(form(&gang, 0, seats[0].as_ref(), None, brief).is_err());
                assert!(outsider.join().unwrap().is_err());
            });
        }
    }
}
