//! Lanes over real QUIC: order, bounds, ends, on a clean and on a bad network.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::Duration;

use common::*;
use lyceum_wire::testing::Faults;
use lyceum_wire::*;

/// Sends frames of many sizes both ways at once and checks that each side gets them whole and in order.
async fn exchange(pair: &Pair, count: u64) {
    let size = |number: u64| match number % 97 {
        0 => 200_000,
        1 => 9_000,
        rest => rest as usize * 7,
    };
    let one_way = async |(sender, mut receiver): (LaneSender, LaneReceiver)| {
        let send = async {
            for number in 0..count {
                sender.send(frame(number, &vec![number as u8; size(number)])).await.unwrap();
            }
            sender.finish().await.unwrap();
        };
        let receive = async {
            for number in 0..count {
                let seen = receiver.recv().await.unwrap().unwrap();
                assert_eq!(seen.header.trace, number);
                assert_eq!(seen.extension[..], number.to_le_bytes());
                assert_eq!(seen.payload.len(), size(number));
                assert!(seen.payload.iter().all(|byte| *byte == number as u8), "payload of frame {number}");
                assert!(seen.payload.is_empty() || seen.payload.as_ptr().addr().is_multiple_of(16));
            }
            assert_eq!(receiver.recv().await.unwrap(), None);
        };
        tokio::join!(send, receive);
    };
    tokio::join!(one_way(pair.calling.lane().unwrap()), one_way(pair.called.lane().unwrap()));
}

#[tokio::test]
async fn frames_arrive_whole_and_in_order_both_ways() {
    exchange(&pair().await, 5_000).await;
}

#[tokio::test]
async fn frames_arrive_whole_and_in_order_over_a_network_that_loses_delays_reorders_and_duplicates() {
    for seed in [1, 2, 3] {
        println!("seed {seed}");
        let (pair, sockets) = pair_with(admitting(), Some(Faults::bad(seed))).await;
        exchange(&pair, 500).await;
        assert!(sockets.iter().all(|socket| socket.lost() > 0), "the network was bad (seed {seed})");
    }
}

#[tokio::test]
async fn a_lane_is_handed_out_once() {
    let pair = pair().await;
    let _lane = pair.calling.lane().unwrap();
    assert!(matches!(pair.calling.lane(), Err(WireError::LaneTaken)));
}

#[tokio::test]
async fn dropping_the_last_sender_finishes_the_lane_after_what_waits() {
    let pair = pair().await;
    let (sender, _receiver) = pair.calling.lane().unwrap();
    let clone = sender.clone();
    sender.send(frame(1, b"one")).await.unwrap();
    drop(sender);
    clone.send(frame(2, b"two")).await.unwrap();
    drop(clone);
    let (_sender, mut receiver) = pair.called.lane().unwrap();
    assert_eq!(receiver.recv().await.unwrap().unwrap().payload[..], *b"one");
    assert_eq!(receiver.recv().await.unwrap().unwrap().payload[..], *b"two");
    assert_eq!(receiver.recv().await.unwrap(), None);
}

#[tokio::test]
async fn l2_a_lane_whose_reader_sleeps_fills_its_bounds_and_then_takes_no_more() {
    let mut options = admitting();
    options.lane = LaneOptions { queue_bytes: 2 << 20, queue_frames: 64 };
    options.transport.stream_window = 1 << 20;
    options.transport.connection_window = 2 << 20;
    options.transport.send_window = 1 << 20;
    let (pair, _) = pair_with(options, None).await;
    let (sender, _unused) = pair.calling.lane().unwrap();
    let (_unused, mut receiver) = pair.called.lane().unwrap();

    // What can be taken at most: the queue, one batch at the writer, the send window, the peer's window.
    let bound = 2 * 64 + 4;
    let mut taken = 0u64;
    loop {
        match sender.try_send(frame(taken, &[7; 100_000])) {
            Ok(()) => taken += 1,
            Err(TrySendError::Full(returned)) => {
                assert_eq!(returned.header.trace, taken, "the frame comes back");
                // Full for good, or until the writer has had its turn?
                let waited = tokio::time::timeout(Duration::from_millis(300), sender.send(*returned)).await;
                match waited {
                    Ok(sent) => sent.unwrap(),
                    Err(_) => break,
                }
                taken += 1;
            }
            Err(other) => panic!("{other}"),
        }
        assert!(taken <= bound, "{taken} frames of 100 kB were taken");
    }
    for number in 0..taken {
        assert_eq!(receiver.recv().await.unwrap().unwrap().header.trace, number);
    }
    sender.send(frame(taken, b"room again")).await.unwrap();
}

#[tokio::test]
async fn l2_small_frames_are_bounded_in_number() {
    let mut options = admitting();
    options.lane = LaneOptions { queue_bytes: 2 << 20, queue_frames: 10 };
    let (pair, _) = pair_with(options, None).await;
    let (sender, _unused) = pair.calling.lane().unwrap();
    // The writer has no turn before the first await.
    let taken = (0..20).take_while(|number| sender.try_send(frame(*number, b"x")).is_ok()).count();
    assert_eq!(taken, 9, "each of at most ten costs a tenth, rounded up");
}

#[tokio::test]
async fn a_frame_above_the_limits_comes_back_to_its_sender() {
    let pair = pair().await;
    let (sender, _receiver) = pair.calling.lane().unwrap();
    let error = sender.send(frame(1, &vec![0; MAX_PAYLOAD + 1])).await.unwrap_err();
    assert_eq!(error.frame.payload.len(), MAX_PAYLOAD + 1);
    assert!(error.reason.to_string().contains("1048577"), "{error}");
    sender.send(frame(1, &vec![0; MAX_PAYLOAD])).await.unwrap();
}

#[tokio::test]
async fn l3_a_closed_connection_ends_waiting_senders_and_receivers_with_the_peers_reason() {
    let mut options = admitting();
    options.lane = LaneOptions { queue_bytes: 2 << 20, queue_frames: 4 };
    options.transport.send_window = 1 << 16;
    let (pair, _) = pair_with(options, None).await;
    let (sender, mut receiver) = pair.calling.lane().unwrap();
    let send = async {
        loop {
            if let Err(error) = sender.send(frame(9, &[0; 100_000])).await {
                return error;
            }
        }
    };
    let close = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        pair.called.close(CloseCode::Protocol, "enough");
    };
    let (unsent, received, ()) = tokio::join!(send, receiver.recv(), close);
    let expected = CloseReason::ByPeer { code: Some(CloseCode::Protocol), reason: "enough".into() };
    assert_eq!(unsent.frame.header.trace, 9);
    assert_eq!(unsent.reason, expected);
    assert!(matches!(received, Err(WireError::Closed(reason)) if reason == expected));
    assert_eq!(pair.calling.closed().await, expected);
}

#[tokio::test]
async fn l3_a_peer_that_falls_silent_is_noticed_after_the_idle_timeout() {
    let mut options = admitting();
    options.transport.keep_alive = Duration::from_millis(100);
    options.transport.idle_timeout = Duration::from_millis(500);
    let faults = Faults { loss: 0.0, duplication: 0.0, ..Faults::bad(4) };
    let (pair, sockets) = pair_with(options, Some(faults)).await;
    let (_sender, mut receiver) = pair.calling.lane().unwrap();
    sockets[0].sever();
    assert!(matches!(receiver.recv().await, Err(WireError::Closed(CloseReason::TimedOut))));
}

#[tokio::test]
async fn dropping_a_receive_loses_no_frame() {
    let pair = pair().await;
    let (sender, _unused) = pair.calling.lane().unwrap();
    let (_unused, mut receiver) = pair.called.lane().unwrap();
    let send = async {
        for number in 0..2_000 {
            sender.send(frame(number, &[1; 3_000])).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let receive = async {
        let mut next = 0;
        while next < 2_000 {
            tokio::select! {
                biased;
                seen = receiver.recv() => {
                    assert_eq!(seen.unwrap().unwrap().header.trace, next);
                    next += 1;
                }
                () = tokio::task::yield_now() => {}
            }
        }
    };
    tokio::join!(send, receive);
}
