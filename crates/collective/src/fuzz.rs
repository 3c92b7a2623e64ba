//! What the ranks of a gang say to each other, given as anything at all.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use lyceum_fuzz::Fuzz;
use lyceum_wire::{AlignedBytes, access_checked};
use rkyv::{Archived, rancor};

use crate::failure::{self, MAX_FAILURE};
use crate::gang::Topology;
use crate::shared::{Descriptor, Segment, rendezvous};
use crate::{CollectiveError, Element, Gang, Member, Operation, Token};

fn gang() -> Gang {
    let member = |rank: u64, node: &str| Member {
        node: node.into(),
        incarnation: rank,
        addr: Some("10.1.2.3:7401".parse().unwrap()),
        device: Some(0),
        trusted_interface: Some("ib0".into()),
    };
    let members = vec![member(0, "a"), member(1, "a"), member(2, "node-b"), member(3, "node-b")];
    Gang { epoch: 3, members, token: Token::of_bytes([5; 32]) }
}

fn told(data: &[u8]) {
    let read = failure::decode(data, 2, 7);
    // Passed on, it is cut to what fits, at any byte.
    let again = failure::encode(&read, 2);
    assert!(again.len() <= MAX_FAILURE);
    assert_eq!(failure::decode(&again, 2, 7).rank(), read.rank());
    assert!(!read.to_string().is_empty());
}

#[test]
fn failures_are_read_whatever_they_are() {
    let reason = || "it fell silent".to_owned();
    let waited = std::time::Duration::from_secs(7);
    let seeds = [
        CollectiveError::Lost { rank: 1, epoch: 3, reason: reason() },
        CollectiveError::Deadline { rank: 2, epoch: 3, operation: "all-reduce".into(), waited },
        CollectiveError::Aborted { rank: 3, epoch: 3, reason: reason() },
    ];
    let seeds = seeds.map(|error| failure::encode(&error, 1));
    Fuzz::new("collective failure").seeds(seeds).runs(20_000).longest(4096).memory(64 << 10).run(told);
}

fn called(data: &[u8]) {
    let (numbers, _) = data.as_chunks::<8>();
    let [code, bytes, place, ..] = numbers else { return };
    let words = [code, bytes, place].map(|number| u64::from_le_bytes(*number));
    assert!(!Descriptor::describe(words).is_empty());
}

#[test]
fn calls_of_other_ranks_are_described_whatever_they_are() {
    let operations = [
        None,
        Some(Operation::AllReduce(Element::Bf16)),
        Some(Operation::ReduceScatter(Element::F32)),
        Some(Operation::AllGather),
        Some(Operation::Broadcast { root: 3 }),
    ];
    let seeds = operations.map(|operation| {
        Descriptor { operation, bytes: 4096, place: 64 }.to_words().map(u64::to_le_bytes).concat()
    });
    Fuzz::new("collective call").seeds(seeds).runs(5000).memory(4096).run(called);
}

/// Who comes to a host's rendezvous.
fn greeting(data: &[u8]) {
    thread_local!(static SEGMENT: Segment = Segment::create(3).unwrap());
    let (here, mut there) = UnixStream::pair().unwrap();
    there.write_all(data).unwrap();
    there.shutdown(Shutdown::Write).unwrap();
    if let Ok((rank, _)) = SEGMENT.with(|segment| rendezvous::admit(&gang(), here, segment)) {
        assert_eq!(rendezvous::greeting(&gang(), rank as u64), data[..rendezvous::GREETING_BYTES]);
    }
}

#[test]
fn greetings_at_a_rendezvous_are_believed_or_refused() {
    let seeds = [rendezvous::greeting(&gang(), 1), rendezvous::greeting(&gang(), u64::MAX)];
    Fuzz::new("collective greeting").seeds(seeds).runs(2000).longest(200).memory(64 << 10).run(greeting);
}

/// The first byte is the rank.
fn membership(data: &[u8]) {
    let Some((rank, bytes)) = data.split_first() else { return };
    let bytes = AlignedBytes::copy_from(bytes);
    let Ok(archived) = access_checked::<Archived<Gang>>(&bytes) else { return };
    let gang = rkyv::deserialize::<Gang, rancor::Error>(archived).unwrap();
    if let Ok(topology) = Topology::of(&gang, usize::from(*rank)) {
        let ranks: usize = topology.groups.iter().map(std::ops::Range::len).sum();
        assert_eq!(ranks, gang.members.len());
        assert!(topology.groups[topology.group_of(usize::from(*rank))].contains(&usize::from(*rank)));
    }
}

#[test]
fn memberships_are_read_or_refused() {
    let archive = rkyv::to_bytes::<rancor::Error>(&gang()).unwrap();
    let seed = [&[1][..], &archive].concat();
    Fuzz::new("collective gang").seeds([seed]).runs(60_000).memory(1 << 20).run(membership);
}
