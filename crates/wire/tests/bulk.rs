//! Bulk streams and datagrams over real QUIC.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use bytes::Bytes;
use common::*;
use lyceum_wire::testing::Faults;
use lyceum_wire::*;

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 7) as u8).collect()
}

/// `streams` transfers of `len` bytes side by side, each answered with its header.
async fn transfer(pair: &Pair, streams: u64, len: usize) {
    let serve = async {
        let mut served = tokio::task::JoinSet::new();
        for _ in 0..streams {
            let (header, mut sender, mut receiver) = pair.called.accept_bulk().await.unwrap();
            served.spawn(async move {
                let seed = u64::from_le_bytes(header[..8].try_into().unwrap());
                let mut body = vec![0; len];
                receiver.read_exact(&mut body).await.unwrap();
                assert_eq!(receiver.read(&mut [0]).await.unwrap(), None);
                assert!(body == pattern(len, seed), "body of stream {seed}");
                sender.write(&header).await.unwrap();
                sender.finish().unwrap();
                sender.delivered().await.unwrap();
            });
        }
        served.join_all().await;
    };
    let ask = async {
        let mut asked = tokio::task::JoinSet::new();
        for seed in 0..streams {
            let connection = pair.calling.clone();
            asked.spawn(async move {
                let header = seed.to_le_bytes();
                let (mut sender, mut receiver) = connection.open_bulk(&header).await.unwrap();
                let body = Bytes::from(pattern(len, seed));
                sender.write_bytes(body.slice(..len / 2)).await.unwrap();
                sender.write(&body[len / 2..]).await.unwrap();
                sender.finish().unwrap();
                assert_eq!(receiver.read_to_end(100).await.unwrap(), header);
            });
        }
        asked.join_all().await;
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn streams_carry_their_header_and_every_byte_side_by_side() {
    transfer(&pair().await, 8, 3_000_000).await;
}

#[tokio::test]
async fn a_path_on_which_large_packets_vanish_is_found_and_carries_all_in_small_ones() {
    let check = async |pair: &Pair| {
        let expect = Expect::exactly(pair.server.identity());
        pair.client.check_path(pair.server.local_addr(), &expect).await.unwrap()
    };
    assert_eq!(check(&pair().await).await, PathCheck::Carries { payload: 65_000 });
    let narrow = Faults { longest: 1400, ..Faults::none() };
    let (pair, _) = pair_with(admitting(), Some(narrow)).await;
    let found = check(&pair).await;
    assert!(matches!(found, PathCheck::BlackHole { payload: 65_000, .. }), "{found:?}");
    transfer(&pair, 2, 300_000).await;
}

#[tokio::test]
async fn streams_carry_every_byte_over_a_bad_network() {
    for seed in [11, 12] {
        println!("seed {seed}");
        transfer(&pair_with(admitting(), Some(Faults::bad(seed))).await.0, 4, 100_000).await;
    }
}

#[tokio::test]
async fn a_header_may_be_empty_or_of_the_largest_size_but_no_larger() {
    let pair = pair().await;
    for len in [0, 1, MAX_BULK_HEADER] {
        let header = vec![5; len];
        let (opened, accepted) = tokio::join!(pair.calling.open_bulk(&header), pair.called.accept_bulk());
        opened.unwrap();
        assert_eq!(accepted.unwrap().0, header);
    }
    let error = pair.calling.open_bulk(&[0; MAX_BULK_HEADER + 1]).await.unwrap_err();
    assert!(matches!(error, WireError::BulkHeader { len: 4097, limit: 4096 }), "{error}");
}

#[tokio::test]
async fn an_abandoned_sender_is_an_error_at_the_receiver_never_a_short_transfer() {
    let pair = pair().await;
    let (mut sender, _receiver) = pair.calling.open_bulk(b"half").await.unwrap();
    sender.write(&[1; 1000]).await.unwrap();
    let (_, _, mut receiver) = pair.called.accept_bulk().await.unwrap();
    drop(sender);
    assert!(matches!(receiver.read_to_end(5000).await, Err(WireError::Bulk(_))));
}

#[tokio::test]
async fn a_receiver_that_goes_stops_the_sender() {
    let pair = pair().await;
    let (mut sender, _receiver) = pair.calling.open_bulk(b"unwanted").await.unwrap();
    drop(pair.called.accept_bulk().await.unwrap());
    let error = loop {
        if let Err(error) = sender.write(&[1; 100_000]).await {
            break error;
        }
    };
    assert!(matches!(error, WireError::Bulk(_)), "{error}");
}

#[tokio::test]
async fn dropping_an_accept_loses_no_stream() {
    let pair = pair().await;
    let open = async {
        let mut kept = vec![];
        for number in 0u64..100 {
            kept.push(pair.calling.open_bulk(&number.to_le_bytes()).await.unwrap());
        }
        kept
    };
    let accept = async {
        let mut kept = vec![];
        while kept.len() < 100 {
            tokio::select! {
                biased;
                arrived = pair.called.accept_bulk() => kept.push(arrived.unwrap()),
                () = tokio::task::yield_now() => {}
            }
        }
        kept
    };
    let (_opened, accepted) = tokio::join!(open, accept);
    let mut seen: Vec<_> =
        accepted.iter().map(|(header, ..)| u64::from_le_bytes(header[..].try_into().unwrap())).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn datagrams_arrive_and_too_large_ones_are_refused() {
    let pair = pair().await;
    pair.calling.send_datagram(Bytes::from_static(b"alive")).unwrap();
    assert_eq!(pair.called.read_datagram().await.unwrap(), "alive");
    assert!(pair.calling.max_datagram() >= 1100);
    let error = pair.calling.send_datagram(vec![0; 70_000].into()).unwrap_err();
    assert!(error.to_string().contains("70000 bytes"), "{error}");
}

#[tokio::test]
async fn a_connection_says_what_it_is_for() {
    let pair = pair().await;
    let expect = Expect::role(PeerRole::Head);
    let bulk = pair.client.connect_for(pair.server.local_addr(), &expect, Purpose::Bulk).await.unwrap();
    assert_eq!(bulk.purpose(), Purpose::Bulk);
    assert_eq!(pair.server.accept().await.unwrap().purpose(), Purpose::Bulk);
    assert_eq!(pair.called.purpose(), Purpose::Lane);
}

#[tokio::test]
async fn l3_a_peer_that_closes_in_the_midst_of_its_sending_is_still_heard() {
    let pair = pair().await;
    let (mut sender, _receiver) = pair.calling.open_bulk(b"much").await.unwrap();
    // More than any window takes, and nobody reads it.
    let much = vec![1; 100 << 20];
    let sending = tokio::time::timeout(std::time::Duration::from_millis(200), sender.write(&much)).await;
    assert!(sending.is_err(), "it is in the midst");
    pair.calling.close(CloseCode::Protocol, "rank 3 is lost");
    let expected = CloseReason::ByPeer { code: Some(CloseCode::Protocol), reason: "rank 3 is lost".into() };
    assert_eq!(pair.called.closed().await, expected);
}
