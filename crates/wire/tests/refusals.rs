//! L6 and the faults of the issue: whoever is not invited, or speaks garbage, is refused, and the process lives.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::*;
use lyceum_wire::testing::{Rogue, RogueHost, hostile_datagrams, oversized_frame, sound_hello};
use lyceum_wire::*;

/// A head that lets in agents and workers, and the authority behind it.
fn school() -> (Authority, Endpoint) {
    let authority = Authority::create("school").unwrap();
    let mut options = admitting();
    options.handshake_timeout = Duration::from_millis(500);
    let head = Endpoint::bind(credentials(&authority, PeerRole::Head, "n0", 1), options).unwrap();
    (authority, head)
}

fn let_in_and_refused(head: &Endpoint) -> (u64, u64) {
    let EndpointStatistics { accepted, refused, .. } = head.statistics();
    (accepted, refused)
}

/// A good agent still comes in and is heard.
async fn assert_lives(authority: &Authority, head: &Endpoint) {
    let agent = endpoint(authority, PeerRole::Agent, "n9", 999);
    let calling = agent.connect(head.local_addr(), &Expect::role(PeerRole::Head)).await.unwrap();
    let called = loop {
        let called = head.accept().await.unwrap();
        if called.peer().incarnation() == 999 {
            break called;
        }
    };
    calling.lane().unwrap().0.send(frame(1, b"still there?")).await.unwrap();
    assert_eq!(called.lane().unwrap().1.recv().await.unwrap().unwrap().payload[..], *b"still there?");
}

/// A member that follows no rule of ours beyond TLS.
async fn rogue(authority: &Authority, addr: SocketAddr) -> Rogue {
    Rogue::call(&credentials(authority, PeerRole::Agent, "n1", 66), addr).await.unwrap()
}

/// TLS itself refuses the caller, in the handshake or right after the caller's side of it.
async fn assert_refused_by_tls(called: Result<Rogue>) {
    if let Ok(rogue) = called {
        let (code, told) = rogue.told().await;
        assert_eq!(code, None, "it is TLS that refuses: {told}");
    }
}

#[tokio::test]
async fn l6_garbage_datagrams_do_no_harm() {
    let (authority, head) = school();
    let socket = std::net::UdpSocket::bind(loopback()).unwrap();
    for datagram in hostile_datagrams(1) {
        socket.send_to(&datagram, head.local_addr()).unwrap();
    }
    assert_lives(&authority, &head).await;
    // Half of them have the form of a handshake's first packet; of a burst the socket's buffer may drop some.
    let strays = head.statistics().strays;
    assert!(strays > 0, "they are seen and counted");
    assert!(strays <= hostile_datagrams(1).count() as u64, "{strays}: no packet of a member is a stray");
}

#[tokio::test]
async fn l6_a_caller_without_a_certificate_is_refused() {
    let (authority, head) = school();
    assert_refused_by_tls(Rogue::call_without_certificate(head.local_addr()).await).await;
    assert_lives(&authority, &head).await;
    assert_eq!(let_in_and_refused(&head), (1, 1));
}

#[tokio::test]
async fn l6_a_cluster_of_the_same_name_with_another_authority_is_a_stranger_in_both_directions() {
    let (authority, head) = school();
    let double = Authority::create("school").unwrap();
    let stranger = endpoint(&double, PeerRole::Agent, "n1", 2);
    let error = stranger.connect(head.local_addr(), &Expect::role(PeerRole::Head)).await.unwrap_err();
    assert!(matches!(error, WireError::Connect { .. }), "{error}");

    // The caller who checks nothing is refused by the callee all the same.
    let credentials = credentials(&double, PeerRole::Agent, "n1", 66);
    assert_refused_by_tls(Rogue::call(&credentials, head.local_addr()).await).await;
    assert_lives(&authority, &head).await;
    assert_eq!(head.statistics().accepted, 1);
}

#[tokio::test]
async fn l6_an_expired_certificate_is_refused() {
    let (authority, head) = school();
    let brief = authority.issue(&identity(PeerRole::Agent, "n1", 2), Duration::ZERO).unwrap();
    let agent = Endpoint::bind(brief, admitting()).unwrap();
    // Certificates count in seconds.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let error = agent.connect(head.local_addr(), &Expect::role(PeerRole::Head)).await.unwrap_err();
    assert!(matches!(error, WireError::Connect { .. }), "{error}");
    assert_lives(&authority, &head).await;
}

#[tokio::test]
async fn l6_a_role_that_is_not_admitted_is_told_so() {
    let (authority, head) = school();
    let client = endpoint(&authority, PeerRole::Client, "desk", 5);
    let error = client.connect(head.local_addr(), &Expect::role(PeerRole::Head)).await.unwrap_err();
    assert!(matches!(error, WireError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("a client is not admitted here, only agent, worker"), "{error}");
    assert_lives(&authority, &head).await;
    assert_eq!(let_in_and_refused(&head), (1, 1));
}

#[tokio::test]
async fn l6_an_endpoint_lets_in_nobody_unless_told_to() {
    let authority = Authority::create("school").unwrap();
    let closed =
        Endpoint::bind(credentials(&authority, PeerRole::Head, "n0", 1), EndpointOptions::new(loopback()))
            .unwrap();
    let agent = endpoint(&authority, PeerRole::Agent, "n1", 2);
    let error = agent.connect(closed.local_addr(), &Expect::role(PeerRole::Head)).await.unwrap_err();
    assert!(error.to_string().contains("takes no connections"), "{error}");
}

#[tokio::test]
async fn l6_a_caller_refuses_a_peer_that_is_not_whom_it_means() {
    let (authority, head) = school();
    let agent = endpoint(&authority, PeerRole::Agent, "n1", 2);
    let wrong = [
        (Expect::role(PeerRole::Worker), "expected role worker, found head"),
        (Expect { node: Some("n7".into()), ..Expect::role(PeerRole::Head) }, "expected node n7, found n0"),
        (Expect { incarnation: Some(4), ..Expect::role(PeerRole::Head) }, "expected incarnation 4, found 1"),
    ];
    for (expect, why) in wrong {
        let error = agent.connect(head.local_addr(), &expect).await.unwrap_err();
        assert!(matches!(error, WireError::Connect { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let right = Expect::exactly(head.identity());
    agent.connect(head.local_addr(), &right).await.unwrap();
    assert_lives(&authority, &head).await;
}

#[tokio::test]
async fn nobody_there_is_an_error_within_the_handshake_timeout() {
    let (authority, _) = school();
    let silent = std::net::UdpSocket::bind(loopback()).unwrap();
    let mut options = admitting();
    options.handshake_timeout = Duration::from_millis(200);
    let agent = Endpoint::bind(credentials(&authority, PeerRole::Agent, "n1", 2), options).unwrap();
    let addr = silent.local_addr().unwrap();
    let error = agent.connect(addr, &Expect::role(PeerRole::Head)).await.unwrap_err();
    assert!(
        error.to_string().contains(&format!("cannot connect to {addr}: no handshake within 200ms")),
        "{error}"
    );
}

#[tokio::test]
async fn bad_hellos_are_refused_with_the_reason() {
    let (authority, head) = school();
    let other_version = {
        let mut bytes = sound_hello();
        bytes[8] = 9;
        bytes
    };
    let other_format = {
        let mut bytes = sound_hello();
        bytes[12] ^= 1;
        bytes
    };
    let cases: [(&[u8], &str); 5] = [
        (b"\x0c\0\0\0GET / HTTP/1", "does not begin as lyceum's"),
        (
            &other_version,
            "agent n1 (66) has protocol version 9, head n0 (1) has 2: let both be programs of the same",
        ),
        (&other_format, "agent n1 (66) has archive format"),
        (&u32::MAX.to_le_bytes(), "at most 65536 are read"),
        (&sound_hello()[..9], "early"),
    ];
    for (bytes, why) in cases {
        let rogue = rogue(&authority, head.local_addr()).await;
        let (mut sender, _receiver) = rogue.say(bytes).await.unwrap();
        let _ = sender.finish();
        let (code, told) = rogue.told().await;
        assert_eq!(code, Some(CloseCode::BadHello as u64), "{told}");
        assert!(told.contains(why), "{told} lacks {why}");
    }
    assert_lives(&authority, &head).await;
    assert_eq!(let_in_and_refused(&head), (1, 5));
}

#[tokio::test]
async fn a_caller_that_is_answered_in_another_protocol_version_names_both_and_tells_the_called() {
    let (authority, _) = school();
    let newer = RogueHost::listen(&credentials(&authority, PeerRole::Head, "n0", 1)).unwrap();
    let agent = endpoint(&authority, PeerRole::Agent, "n1", 2);
    let mut hello = sound_hello();
    hello[8] = 9;
    let expect = Expect::role(PeerRole::Head);
    let (told, refused) = tokio::join!(newer.answer(&hello), agent.connect(newer.addr(), &expect));
    let both =
        "head n0 (1) has protocol version 9, agent n1 (2) has 2: let both be programs of the same version";
    let error = refused.unwrap_err().to_string();
    assert!(error.contains(both), "{error}");
    let (code, told) = told.unwrap();
    assert_eq!(code, Some(CloseCode::BadHello as u64), "{told}");
    assert!(told.contains(both), "{told}");
}

#[tokio::test]
async fn a_hello_that_never_comes_holds_nobody_up() {
    let (authority, head) = school();
    let mute = rogue(&authority, head.local_addr()).await;
    let stutterer = rogue(&authority, head.local_addr()).await;
    let _streams = stutterer.say(&sound_hello()[..5]).await.unwrap();
    assert_lives(&authority, &head).await;
    for rogue in [mute, stutterer] {
        rogue.told().await;
    }
    assert_lives(&authority, &head).await;
}

/// A member that says a proper hello and then `bytes` on its lane: what the reader sees, and what the rogue is told.
async fn on_the_lane(
    authority: &Authority,
    head: &Endpoint,
    bytes: &[u8],
) -> (WireError, (Option<u64>, String)) {
    let rogue = rogue(authority, head.local_addr()).await;
    let (mut sender, _receiver) = rogue.say(&sound_hello()).await.unwrap();
    let called = head.accept().await.unwrap();
    let (_sender, mut lane) = called.lane().unwrap();
    let _ = sender.write_all(bytes).await;
    let _ = sender.finish();
    let error = loop {
        match lane.recv().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("taken for a lane in good order"),
            Err(error) => break error,
        }
    };
    (error, rogue.told().await)
}

#[tokio::test]
async fn bad_frames_close_that_connection_with_the_reason_and_no_other() {
    let (authority, head) = school();
    let neighbour = endpoint(&authority, PeerRole::Worker, "n2", 3);
    let calling = neighbour.connect(head.local_addr(), &Expect::role(PeerRole::Head)).await.unwrap();
    let called = head.accept().await.unwrap();

    let long_extension = [&[0; 4][..], &5000u16.to_le_bytes(), &[0; 26]].concat();
    let truncated = [&100u32.to_le_bytes()[..], &[0; 28], &[1; 60]].concat();
    let cases: [(&[u8], &str); 5] = [
        (&oversized_frame(), "a payload of 1048577 bytes"),
        (&long_extension, "an extension of 5000 bytes"),
        (&truncated, "ended within a frame"),
        (&[1; 7], "ended within a frame"),
        (&[0xff; 4096], "a payload of 4294967295 bytes"),
    ];
    for (bytes, why) in cases {
        let (seen, (code, told)) = on_the_lane(&authority, &head, bytes).await;
        assert!(matches!(seen, WireError::Frame(_)), "{seen}");
        assert_eq!(code, Some(CloseCode::BadFrame as u64), "{told}");
        assert!(told.contains(why), "{told} lacks {why}");
    }

    calling.lane().unwrap().0.send(frame(1, b"unharmed")).await.unwrap();
    assert_eq!(called.lane().unwrap().1.recv().await.unwrap().unwrap().payload[..], *b"unharmed");
    assert_lives(&authority, &head).await;
}

#[tokio::test]
async fn bad_bulk_headers_close_that_connection_or_pass_that_stream_over() {
    let (authority, head) = school();
    let rogue = rogue(&authority, head.local_addr()).await;
    let _lane = rogue.say(&sound_hello()).await.unwrap();
    let called = head.accept().await.unwrap();

    let (mut short, _short) = rogue.say(&[9, 0, 1, 2]).await.unwrap();
    short.finish().unwrap();
    let _sound = rogue.say(&[2, 0, 7, 8]).await.unwrap();
    assert_eq!(called.accept_bulk().await.unwrap().0[..], [7, 8], "the stream given up is passed over");

    let _long = rogue.say(&[0xff, 0xff]).await.unwrap();
    assert!(matches!(called.accept_bulk().await, Err(WireError::BulkHeader { len: 65535, .. })));
    assert_eq!(rogue.told().await.0, Some(CloseCode::BadFrame as u64));
    assert_lives(&authority, &head).await;
}

#[tokio::test]
async fn the_hello_carries_the_roles_and_their_fingerprints_both_ways() {
    let authority = Authority::create("school").unwrap();
    let bind = |role, number, hosted: &str| {
        let mut options = admitting();
        options.roles = vec![RoleFingerprint { role: hosted.into(), fingerprint: number * 11 }];
        Endpoint::bind(credentials(&authority, role, "n0", number), options).unwrap()
    };
    let (head, agent) = (bind(PeerRole::Head, 1, "packer"), bind(PeerRole::Agent, 2, "trainer"));
    let expect = Expect::role(PeerRole::Head);
    let (called, calling) = tokio::join!(head.accept(), agent.connect(head.local_addr(), &expect));
    assert_eq!(called.unwrap().peer_hello().fingerprint("trainer"), Some(22));
    let calling = calling.unwrap();
    assert_eq!(calling.peer_hello().fingerprint("packer"), Some(11));
    assert_eq!(calling.peer_hello().fingerprint("trainer"), None);
}

#[tokio::test]
async fn an_endpoint_that_closes_tells_its_peers_and_accepts_no_more() {
    let pair = pair().await;
    pair.server.close(CloseCode::ShuttingDown, "lyceum down");
    let expected = CloseReason::ByPeer { code: Some(CloseCode::ShuttingDown), reason: "lyceum down".into() };
    assert_eq!(pair.calling.closed().await, expected);
    assert!(pair.server.accept().await.is_none());
    pair.server.wait_idle().await;
}
