//! What keeps a process safe from its own handlers and from its peers.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::*;
use lyceum_actor::*;
use lyceum_wire::{
    AlignedBytes, Authority, CloseReason, Endpoint, EndpointOptions, Expect, Frame, FrameHeader,
    PeerIdentity, PeerRole,
};

#[test]
fn handlers_that_spin_delay_neither_the_network_nor_other_actors() {
    let pair = pair();
    block_on(async {
        // More of them than there are actor threads.
        let mut spinners = Vec::new();
        for number in 0..4 {
            let spinner = pair.there.spawn::<Clerk>(format!("spinner {number}")).await.unwrap();
            spinner.tell(Spin(10_000)).await.unwrap();
            spinners.push(spinner);
        }
        let desk = pair.desk::<Clerk>("ada").await;
        let began = std::time::Instant::now();
        for _ in 0..20 {
            assert_eq!(desk.ask(Echo("hello".into())).await.unwrap(), "ada: hello");
        }
        let spinning = spinners[0].ask(Counted).deadline(Duration::from_millis(1)).await;
        // They still spin, so nothing above waited for them.
        assert!(matches!(spinning, Err(CallError::Deadline)));
        println!("20 calls beside 4 spinning actors took {:?}", began.elapsed());
    });
}

mod newer {
    //! The same role as a later version of the program would know it.
    use super::*;

    pub struct Desk;
    impl Role for Desk {
        const NAME: &'static str = "desk";
        type Args = String;
        type Messages = (super::Echo,);
    }
    impl Accepts<super::Echo> for Desk {
        type Reply = String;
    }
}

#[test]
fn a_role_with_another_fingerprint_is_refused_by_name_and_others_work() {
    for registered in [registry(), Registry::new()] {
        let pair = pair_with(Registry::new(), registered);
        block_on(async {
            let desk = pair.desk::<Clerk>("ada").await;
            let newer = pair.here.actor_ref::<newer::Desk>(desk.address().clone()).unwrap();
            match newer.ask(Echo("hello".into())).await {
                Err(CallError::Refused(why)) => {
                    assert!(why.contains("role desk differs"), "{why}");
                    for known in [fingerprint::<Desk>(), fingerprint::<newer::Desk>()] {
                        assert!(why.contains(&format!("{known:#x}")), "{why} lacks {known:#x}");
                    }
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(desk.ask(Echo("hello".into())).await.unwrap(), "ada: hello");
        });
    }
}

#[test]
fn a_peer_that_breaks_the_protocol_is_cut_off_and_the_process_lives() {
    let authority = Authority::create("school").unwrap();
    let issue = |role, process| {
        let identity = PeerIdentity::new("school", role, "n1", process).unwrap();
        authority.issue(&identity, Duration::from_secs(60)).unwrap()
    };
    let bind = "127.0.0.1:0".parse().unwrap();
    let system =
        System::start(SystemOptions::networked(issue(PeerRole::Worker, 1), bind, registry())).unwrap();
    let desk = block_on(system.spawn::<Clerk>("ada".to_owned())).unwrap();
    let life = desk.address().clone();
    let extension = |actor: u64, length: usize| {
        let mut bytes = actor.to_le_bytes().to_vec();
        bytes.resize(length, 0);
        bytes
    };
    let bad: [(&str, u16, Vec<u8>, Vec<u8>); 6] = [
        ("unknown kind", 99, extension(life.actor.0, 48), vec![]),
        ("short extension", 1, extension(life.actor.0, 47), vec![]),
        ("call without credit", 1, extension(life.actor.0, 48), vec![]),
        ("piece of nothing", 2, extension(life.actor.0, 48), vec![1]),
        ("credit that was never given", 10, [extension(life.actor.0, 24), vec![1; 24]].concat(), vec![]),
        ("death report that is none", 12, extension(life.actor.0, 48), vec![7; 9]),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (number, (what, kind, extension, payload)) in bad.into_iter().enumerate() {
        let closed = runtime.block_on(async {
            let peer = issue(PeerRole::Client, 100 + number as u64);
            let endpoint = Endpoint::bind(peer, EndpointOptions::new(bind)).unwrap();
            let connection =
                endpoint.connect(life.process.addr, &Expect::role(PeerRole::Worker)).await.unwrap();
            let (sender, _receiver) = connection.lane().unwrap();
            let header = FrameHeader { kind, incarnation: life.incarnation, ..FrameHeader::default() };
            let mut frame = Frame::new(header, AlignedBytes::copy_from(&payload));
            frame.extension = extension.into();
            sender.send(frame).await.unwrap();
            connection.closed().await
        });
        assert!(matches!(closed, CloseReason::ByPeer { .. }), "{what}: {closed:?}");
    }
    assert_eq!(block_on(desk.ask(Echo("hello".into()))).unwrap(), "ada: hello");
}

#[test]
fn l2_idle_credits_come_back_so_that_others_can_have_all_of_it() {
    let pair = pair();
    block_on(async {
        let (theirs, ours) = pair.both_sides::<Clerk<2>>("ada").await;
        // Each side in turn needs more than half of what the other was given.
        for _ in 0..20 {
            assert!(ours.ask(Sum(vec![1; 9 << 20])).await.is_ok());
            assert!(theirs.ask(Sum(vec![1; 9 << 20])).await.is_ok());
        }
    });
}

/// The same pseudo-random number for the same `at`.
fn draw(at: u64) -> u64 {
    let mixed = (at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33
}

#[test]
fn l2_calls_that_are_given_up_while_they_wait_lose_no_credit() {
    let pair = pair();
    block_on(async {
        let (theirs, ours) = pair.both_sides::<Clerk<2>>("ada").await;
        // Both processes want all of the small mailbox, and give up now before and now after their credit has come.
        let senders = [(0, &ours), (1, &theirs), (2, &ours), (3, &theirs)].map(|(sender, desk)| async move {
            for round in 0..1000 {
                let patience = Duration::from_micros(draw(sender << 32 | round) % 600);
                let given_up = desk.ask(Count(1)).deadline(patience).await;
                assert!(matches!(given_up, Ok(_) | Err(CallError::Deadline)), "{given_up:?}");
            }
        });
        let [a, b, c, d] = senders;
        tokio::join!(a, b, c, d);
        for desk in [&ours, &theirs] {
            for _ in 0..4 {
                let all = desk.ask(Sum(vec![1; 15 << 20])).deadline(Duration::from_secs(20)).await;
                assert!(all.is_ok(), "credit is missing: {all:?}");
            }
        }
    });
}
