//! The store with real processes and real QUIC. Processes are this very program, started again to perform a script, so
//! that they can be killed at each step.

#![allow(clippy::unwrap_used)]

mod disk;
mod hostile;
mod local;
mod node;
mod process;
mod regions;
mod remote;
mod spread;

use std::time::{Duration, Instant};

use lyceum_store::{
    NodeStore, ObjectRef, Receiver, RegionRef, StoreClient, StoreOptions, TransitRules, Usage, socket_pair,
};

const MIB: usize = 1 << 20;

/// Short times, so that the tests of the rules for the forgotten are quick.
const RULES: TransitRules =
    TransitRules { unclaimed: Duration::from_secs(60), orphaned: Duration::from_millis(200) };

/// A process of node `n1` as the one that a reference is for.
fn here(process: u64) -> Receiver {
    Receiver { node: "n1".into(), process }
}

fn options(node: &str, incarnation: u64, capacity: usize) -> StoreOptions {
    let mut options = StoreOptions::new(node, incarnation, capacity as u64);
    options.prefault = false;
    options.transit = RULES;
    options.stall = Duration::from_millis(700);
    options
}

fn client(store: &NodeStore, holder: u64) -> StoreClient {
    let (agents_end, processes_end) = socket_pair().unwrap();
    store.attach(holder, agents_end).unwrap();
    StoreClient::attach(processes_end).unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Waits until the store is as it should be; a bound on hanging, not a measurement.
fn until(store: &NodeStore, what: &str, right: impl Fn(&Usage) -> bool) {
    let begun = Instant::now();
    while !right(&store.usage()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "not {what}: {:?}", store.usage());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn until_empty(store: &NodeStore) {
    until(store, "empty", |usage| {
        *usage == Usage { capacity_bytes: usage.capacity_bytes, ..Usage::default() }
    });
}

/// The bytes of every test object.
fn pattern(len: usize) -> impl Iterator<Item = u8> {
    (0..len).map(|i| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0])
}

fn fill(bytes: &mut [u8]) {
    let len = bytes.len();
    bytes.iter_mut().zip(pattern(len)).for_each(|(byte, value)| *byte = value);
}

fn is_whole(bytes: &[u8]) -> bool {
    bytes.iter().copied().eq(pattern(bytes.len()))
}

fn write_reference(reference: &ObjectRef) -> String {
    let ObjectRef { id, node, len, ticket } = reference;
    format!("{}/{}/{node}/{len}/{ticket}", id.origin, id.sequence)
}

fn write_region(reference: &RegionRef) -> String {
    format!("{}/{}/{}", reference.origin, reference.slot, reference.ticket)
}

fn read_region(text: &str) -> RegionRef {
    let parts: Vec<&str> = text.split('/').collect();
    RegionRef {
        origin: parts[0].parse().unwrap(),
        slot: parts[1].parse().unwrap(),
        ticket: parts[2].parse().unwrap(),
    }
}

fn read_reference(text: &str) -> ObjectRef {
    let parts: Vec<&str> = text.split('/').collect();
    let number = |i: usize| parts[i].parse().unwrap();
    let id = lyceum_store::ObjectId { origin: number(0), sequence: number(1) };
    ObjectRef { id, node: parts[2].into(), len: number(3), ticket: number(4) }
}
