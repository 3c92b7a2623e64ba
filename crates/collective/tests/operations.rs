//! Every operation, on every way of spreading ranks over hosts: the same bits as one after the other.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::*;
use half::bf16;
use lyceum_collective::*;

const SPREADS: [&[&str]; 7] = [
    &["a", "a"],
    &["a", "a", "a", "a"],
    &["a", "b"],
    &["a", "a", "b", "b"],
    &["a", "b", "c"],
    &["a", "a", "a", "b"],
    &["a", "b", "b", "c"],
];

/// Lengths with ragged ends, within one piece of the chain and over several. Multiples of 12, for 2, 3 and 4 ranks.
const LENGTHS: [usize; 4] = [12, 1_212, 4_104, 400_020];

#[test]
fn l5_all_reduce_gives_the_bits_of_the_sequential_sum_on_every_spread() {
    for nodes in SPREADS {
        for (rank, lengths) in on_ranks(nodes, |mut ranks| {
            LENGTHS.map(|len| {
                let mut buffer = ranks.allocate(len * 4).unwrap();
                buffer.as_mut_slice::<f32>().copy_from_slice(&values(ranks.rank(), len));
                let buffer = ranks.run(Operation::AllReduce(Element::F32), buffer, PATIENCE).unwrap();
                buffer.as_slice::<f32>().to_vec()
            })
        })
        .into_iter()
        .enumerate()
        {
            for (seen, len) in lengths.iter().zip(LENGTHS) {
                let same = bits(seen) == bits(&sequential_sum(nodes.len(), len));
                assert!(same, "rank {rank} of {nodes:?}, {len} elements");
            }
        }
    }
}

#[test]
fn l5_bf16_all_reduce_is_formed_in_f32_and_rounded_once_on_every_spread() {
    for nodes in SPREADS {
        let len = 300_012;
        let seen = on_ranks(nodes, |mut ranks| {
            let mut buffer = ranks.allocate(len * 2).unwrap();
            let rounded: Vec<bf16> = values(ranks.rank(), len).into_iter().map(bf16::from_f32).collect();
            buffer.as_mut_slice::<bf16>().copy_from_slice(&rounded);
            let buffer = ranks.run(Operation::AllReduce(Element::Bf16), buffer, PATIENCE).unwrap();
            buffer.as_slice::<bf16>().to_vec()
        });
        let expected = sequential_bf16_sum(nodes.len(), len);
        for (rank, seen) in seen.into_iter().enumerate() {
            assert!(seen == expected, "rank {rank} of {nodes:?}");
        }
    }
}

#[test]
fn l5_reduce_scatter_leaves_each_rank_its_part_of_the_sequential_sum() {
    for nodes in SPREADS {
        for len in LENGTHS {
            let seen = on_ranks(nodes, |mut ranks| {
                let mut buffer = ranks.allocate(len * 4).unwrap();
                buffer.as_mut_slice::<f32>().copy_from_slice(&values(ranks.rank(), len));
                let buffer = ranks.run(Operation::ReduceScatter(Element::F32), buffer, PATIENCE).unwrap();
                let part = len / ranks.world_size();
                buffer.as_slice::<f32>()[ranks.rank() * part..][..part].to_vec()
            });
            let same = bits(&seen.concat()) == bits(&sequential_sum(nodes.len(), len));
            assert!(same, "{nodes:?}, {len} elements");
        }
    }
}

#[test]
fn all_gather_brings_every_part_to_every_rank() {
    for nodes in SPREADS {
        for len in LENGTHS {
            let part = len / nodes.len() * 4;
            let seen = on_ranks(nodes, |mut ranks| {
                let mut buffer = ranks.allocate(part * ranks.world_size()).unwrap();
                let own = ranks.rank() * part;
                buffer.as_mut_slice::<u8>()[own..own + part].fill(ranks.rank() as u8 + 1);
                ranks.run(Operation::AllGather, buffer, PATIENCE).unwrap().as_slice::<u8>().to_vec()
            });
            let expected: Vec<u8> = (0..nodes.len()).flat_map(|rank| vec![rank as u8 + 1; part]).collect();
            assert!(seen.iter().all(|seen| *seen == expected), "{nodes:?}, {len}");
        }
    }
}

#[test]
fn broadcast_brings_the_roots_bytes_to_every_rank() {
    for nodes in SPREADS {
        let len = 700_001;
        let seen = on_ranks(nodes, |mut ranks| {
            let mut buffer = ranks.allocate(len).unwrap();
            (0..ranks.world_size())
                .map(|root| {
                    let mut own = std::mem::replace(&mut buffer, Buffer::host(0));
                    let fill = (10 * ranks.rank() + root) as u8;
                    own.as_mut_slice::<u8>().fill(fill);
                    buffer = ranks.run(Operation::Broadcast { root }, own, PATIENCE).unwrap();
                    let bytes = buffer.as_slice::<u8>();
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                    bytes[0]
                })
                .collect::<Vec<_>>()
        });
        let expected: Vec<u8> = (0..nodes.len()).map(|root| 11 * root as u8).collect();
        assert!(seen.iter().all(|seen| *seen == expected), "{nodes:?}: {seen:?}");
    }
}

#[test]
fn operations_started_together_are_done_in_order_and_each_has_its_own_bits() {
    for nodes in [&["a", "a"][..], &["a", "a", "b"]] {
        let results = on_ranks(nodes, |mut ranks| {
            let lengths = [50_000, 7, 200_000, 1];
            let mut pending = Vec::new();
            for (bucket, len) in lengths.into_iter().enumerate() {
                let mut buffer = ranks.allocate(len * 4).unwrap();
                buffer.as_mut_slice::<f32>().copy_from_slice(&values(ranks.rank() + bucket, len));
                pending.push(ranks.start(Operation::AllReduce(Element::F32), buffer).unwrap());
            }
            ranks.barrier(PATIENCE).unwrap();
            // Awaited in another order than they were started.
            pending.reverse();
            pending
                .into_iter()
                .map(|pending| ranks.wait(pending, PATIENCE).unwrap().as_slice::<f32>().to_vec())
                .collect::<Vec<_>>()
        });
        let world = nodes.len();
        for (rank, seen) in results.iter().enumerate() {
            for (place, bucket) in (0..4).rev().enumerate() {
                let len = [50_000, 7, 200_000, 1][bucket];
                let mut sum = values(bucket, len);
                for other in 1..world {
                    sum.iter_mut().zip(values(other + bucket, len)).for_each(|(sum, value)| *sum += value);
                }
                assert!(bits(&seen[place]) == bits(&sum), "rank {rank} of {nodes:?}, bucket {bucket}");
            }
        }
    }
}

#[test]
fn a_buffer_is_reused_for_operation_after_operation() {
    for nodes in [&["a", "a"][..], &["a", "b"]] {
        on_ranks(nodes, |mut ranks| {
            let mut buffer = ranks.allocate(4096).unwrap();
            let address = buffer.as_ptr();
            for round in 0..200 {
                buffer.as_mut_slice::<f32>().fill((round + ranks.rank()) as f32);
                buffer = ranks.run(Operation::AllReduce(Element::F32), buffer, PATIENCE).unwrap();
                assert_eq!(buffer.as_ptr(), address, "in place");
                assert_eq!(buffer.as_slice::<f32>()[1023], (2 * round + 1) as f32);
            }
        });
    }
}

#[test]
fn a_gang_of_one_needs_nobody() {
    let seen = on_ranks(&["a"], |mut ranks| {
        let mut buffer = ranks.allocate(8).unwrap();
        buffer.as_mut_slice::<f32>().fill(3.0);
        let buffer = ranks.run(Operation::AllReduce(Element::F32), buffer, PATIENCE).unwrap();
        (ranks.world_size(), buffer.as_slice::<f32>().to_vec())
    });
    assert_eq!(seen, [(1, vec![3.0, 3.0])]);
}
