//! L6: who has no certificate may ask for one, where somebody is awaited, and nothing else.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::Duration;

use common::*;
use lyceum_wire::testing::Rogue;
use lyceum_wire::*;

const PATIENCE: Duration = Duration::from_secs(5);

/// A head that awaits guests, and its authority.
fn school() -> (Authority, Endpoint, Door) {
    let authority = Authority::create("school").unwrap();
    let door = Door::default();
    door.set_open(true);
    let options = EndpointOptions { door: Some(door.clone()), ..admitting() };
    let head = Endpoint::bind(credentials(&authority, PeerRole::Head, "n0", 1), options).unwrap();
    (authority, head, door)
}

async fn ask(head: &Endpoint, authority: Fingerprint) -> Result<Vec<u8>> {
    ask_as_guest(head.local_addr(), "school", authority, b"may I?", PATIENCE).await
}

#[tokio::test]
async fn a_guest_asks_and_is_answered_or_refused_with_the_reason() {
    let (authority, head, _door) = school();
    let serving = async {
        let guest = head.accept_guest().await.unwrap();
        assert_eq!(guest.request(), b"may I?");
        guest.answer(&[7; 100_000]).await.unwrap();
        head.accept_guest().await.unwrap().refuse("the list is full");
    };
    let asking = async {
        assert_eq!(ask(&head, authority.fingerprint()).await.unwrap(), [7; 100_000]);
        let error = ask(&head, authority.fingerprint()).await.unwrap_err();
        assert!(
            matches!(&error, WireError::Refused { reason, .. } if reason == "the list is full"),
            "{error}"
        );
    };
    tokio::join!(serving, asking);
    assert_eq!(head.statistics().accepted, 0, "a guest is no member");
}

#[tokio::test]
async fn l6_a_guest_says_nothing_to_whoever_is_not_the_head_of_the_cluster_that_it_means() {
    let (authority, head, door) = school();
    let double = Authority::create("school").unwrap();
    let error = ask(&head, double.fingerprint()).await.unwrap_err().to_string();
    let both = format!("expected the authority {}, found {}", double.fingerprint(), authority.fingerprint());
    assert!(error.contains(&both), "{error}");

    // Nor to a member that is not the head, nor to the head of a cluster of another name.
    let options = EndpointOptions { door: Some(door.clone()), ..admitting() };
    let agent = Endpoint::bind(credentials(&authority, PeerRole::Agent, "n1", 2), options).unwrap();
    let error = ask(&agent, authority.fingerprint()).await.unwrap_err().to_string();
    assert!(error.contains("expected role head, found agent"), "{error}");
    let asked = ask_as_guest(head.local_addr(), "theatre", authority.fingerprint(), b"may I?", PATIENCE);
    let error = asked.await.unwrap_err().to_string();
    assert!(error.contains("expected cluster theatre, found school"), "{error}");

    let heard = tokio::time::timeout(Duration::from_millis(50), async {
        tokio::select! {
            guest = head.accept_guest() => guest,
            guest = agent.accept_guest() => guest,
        }
    });
    assert!(heard.await.is_err(), "somebody was told something");
}

#[tokio::test]
async fn l6_where_nobody_is_awaited_a_guest_is_refused_in_the_handshake() {
    let (authority, head, door) = school();
    door.set_open(false);
    let error = ask(&head, authority.fingerprint()).await.unwrap_err();
    assert!(
        matches!(&error, WireError::Refused { reason, .. } if reason == "nobody is awaited here"),
        "{error}"
    );
    // And so it is where there is no door at all.
    let plain = endpoint(&authority, PeerRole::Head, "n0", 2);
    let error = ask(&plain, authority.fingerprint()).await.unwrap_err();
    assert!(matches!(error, WireError::Connect { .. }), "{error}");
}

#[tokio::test]
async fn l6_who_has_no_certificate_is_no_member_while_guests_are_awaited_either() {
    let (authority, head, _door) = school();
    let rogue = Rogue::call_without_certificate(head.local_addr()).await.unwrap();
    let (code, told) = rogue.told().await;
    assert_eq!(code, Some(CloseCode::NotAdmitted as u64), "{told}");
    assert_eq!(told, "the peer showed no certificate: it may ask to join, and nothing else");
    assert_eq!(head.statistics().refused, 1);
    let agent = endpoint(&authority, PeerRole::Agent, "n1", 2);
    agent.connect(head.local_addr(), &Expect::role(PeerRole::Head)).await.unwrap();
}

#[tokio::test]
async fn l2_guests_are_served_a_few_at_a_time_and_members_come_in_beside_them() {
    let (authority, head, _door) = school();
    let (addr, fingerprint) = (head.local_addr(), authority.fingerprint());
    let ask = move || ask_as_guest(addr, "school", fingerprint, b"may I?", PATIENCE);
    let waiting: Vec<_> = (0..MAX_GUESTS).map(|_| tokio::spawn(ask())).collect();
    let mut guests = Vec::new();
    for _ in 0..MAX_GUESTS {
        guests.push(head.accept_guest().await.unwrap());
    }
    let error = ask().await.unwrap_err();
    assert!(
        matches!(&error, WireError::Refused { reason, .. } if reason.contains("too many ask at a time")),
        "{error}"
    );
    let agent = endpoint(&authority, PeerRole::Agent, "n1", 2);
    agent.connect(addr, &Expect::role(PeerRole::Head)).await.unwrap();
    for guest in guests {
        guest.answer(b"yes").await.unwrap();
    }
    for asked in waiting {
        assert_eq!(asked.await.unwrap().unwrap(), b"yes");
    }
}
