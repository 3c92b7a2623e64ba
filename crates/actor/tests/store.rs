//! Large payloads between systems that have a store.

#![allow(clippy::unwrap_used)]

mod common;

use std::{sync::Arc, time::Duration};

use common::*;
use lyceum_store::{NodeStore, StoreClient, StoreOptions, socket_pair};

/// Two systems on one node, whose store they share.
fn pair_with_store() -> (Pair, NodeStore) {
    let pair = pair();
    let store = NodeStore::new(StoreOptions::new("n1", 1, 16 << 20)).unwrap();
    for system in [&pair.here, &pair.there] {
        let (agents_end, processes_end) = socket_pair().unwrap();
        store.attach(system.address().process, agents_end).unwrap();
        system.set_large_payloads(Arc::new(StoreClient::attach(processes_end).unwrap()));
    }
    (pair, store)
}

#[test]
fn l2_large_payloads_lie_in_the_store_keep_their_place_in_the_order_and_leave_nothing_behind() {
    let (pair, store) = pair_with_store();
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        let bytes = pattern(3_000_001);
        let sum = bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        // The small one is sent behind the large one and must not overtake it.
        let (large, small, counted) =
            tokio::join!(desk.ask(Sum(bytes)), desk.ask(Count(7)), desk.ask(Bytes(2_500_003)));
        assert_eq!(large.unwrap().to_native(), sum);
        assert_eq!(small.unwrap().to_native(), 1);
        let reply = counted.unwrap();
        assert_eq!(reply.as_slice(), pattern(2_500_003));
        assert!(store.usage().bytes_in_use >= 2_500_003, "the reply is read where it lies");
        drop(reply);
        while store.usage().bytes_in_use > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}
