//! Certificates that change while connections stand: renewed ones, and revoked ones.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::*;
use lyceum_wire::*;

fn in_an_hour() -> u64 {
    (SystemTime::now() + HOUR).duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Credentials with a key of the holder's own making.
fn renewed(authority: &Authority, role: PeerRole, node: &str, incarnation: u64) -> Credentials {
    let key = FreshKey::generate().unwrap();
    let identity = identity(role, node, incarnation);
    let Certified { chain, fingerprint, .. } = authority.certify(&identity, &key.public_key(), HOUR).unwrap();
    let credentials = Credentials::with_key(&chain, key).unwrap();
    assert_eq!(credentials.fingerprint(), fingerprint);
    credentials
}

async fn connected(server: &Endpoint, client: &Endpoint) -> (Connection, Connection) {
    let expect = Expect::exactly(server.identity());
    let (called, calling) = tokio::join!(server.accept(), client.connect(server.local_addr(), &expect));
    (called.unwrap(), calling.unwrap())
}

#[tokio::test]
async fn connections_stand_while_both_ends_renew_and_new_ones_show_the_new_certificates() {
    let authority = Authority::create("school").unwrap();
    let brief = |role, node, number| {
        Membership::from(authority.issue(&identity(role, node, number), Duration::from_secs(1)).unwrap())
    };
    let (of_head, of_agent) = (brief(PeerRole::Head, "n0", 1), brief(PeerRole::Agent, "n1", 2));
    let head = Endpoint::bind(of_head.clone(), admitting()).unwrap();
    let agent = Endpoint::bind(of_agent.clone(), admitting()).unwrap();
    let (called, calling) = connected(&head, &agent).await;
    let (sender, mut receiver) = (calling.lane().unwrap().0, called.lane().unwrap().1);

    let before = of_agent.credentials().fingerprint();
    of_head.renew(renewed(&authority, PeerRole::Head, "n0", 1)).unwrap();
    of_agent.renew(renewed(&authority, PeerRole::Agent, "n1", 2)).unwrap();
    assert_ne!(of_agent.credentials().fingerprint(), before);
    // The certificates that the connection began with expire.
    let (_, ends) =
        authority.issue(&identity(PeerRole::Agent, "n1", 2), Duration::from_secs(1)).unwrap().validity();
    while SystemTime::now() <= ends + Duration::from_secs(1) {
        sender.send(frame(1, b"on the old connection")).await.unwrap();
        assert_eq!(receiver.recv().await.unwrap().unwrap().payload[..], *b"on the old connection");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_called, again) = connected(&head, &agent).await;
    assert_eq!(again.peer(), head.identity());
}

#[tokio::test]
async fn a_certificate_of_somebody_else_or_of_another_authority_is_no_renewal() {
    let authority = Authority::create("school").unwrap();
    let membership = Membership::from(credentials(&authority, PeerRole::Agent, "n1", 2));
    let error = membership.renew(renewed(&authority, PeerRole::Agent, "n1", 3)).unwrap_err().to_string();
    assert!(error.contains("it is for lyceum://school/agent/n1/3, and this process is"), "{error}");
    let double = Authority::create("school").unwrap();
    let error = membership.renew(renewed(&double, PeerRole::Agent, "n1", 2)).unwrap_err().to_string();
    assert!(error.contains("of another authority"), "{error}");
}

#[test]
fn a_certificate_for_another_key_is_refused() {
    let authority = Authority::create("school").unwrap();
    let (key, other) = (FreshKey::generate().unwrap(), FreshKey::generate().unwrap());
    let signed = authority.certify(&identity(PeerRole::Agent, "n1", 2), &key.public_key(), HOUR).unwrap();
    let error = Credentials::with_key(&signed.chain, other).unwrap_err().to_string();
    assert!(error.contains("KeyMismatch"), "{error}");
    let error =
        authority.certify(&identity(PeerRole::Agent, "n1", 2), &[7; 300], HOUR).unwrap_err().to_string();
    assert!(error.contains("a public key of 300 bytes, expected at most 256"), "{error}");
}

#[test]
fn a_renewal_is_due_when_half_of_the_time_has_passed() {
    let authority = Authority::create("school").unwrap();
    let membership = Membership::from(credentials(&authority, PeerRole::Agent, "n1", 2));
    let due = membership.renewal_due();
    assert!(due <= HOUR / 2 && due > HOUR / 2 - Duration::from_secs(60), "{due:?}");
    let over = authority.issue(&identity(PeerRole::Agent, "n1", 2), Duration::ZERO).unwrap();
    assert_eq!(Membership::from(over).renewal_due(), Duration::ZERO);
}

#[tokio::test]
async fn l6_who_is_revoked_is_cut_off_and_refused_by_name_whoever_calls() {
    let authority = Authority::create("school").unwrap();
    let head = endpoint(&authority, PeerRole::Head, "n0", 1);
    let agent = endpoint(&authority, PeerRole::Agent, "n1", 3);
    let worker = endpoint(&authority, PeerRole::Worker, "n1", 4);
    let neighbour = endpoint(&authority, PeerRole::Agent, "n2", 2);
    let (called, calling) = connected(&head, &agent).await;
    let (called_by_worker, from_worker) = connected(&head, &worker).await;
    let (bulk, receiving) = called_by_worker.open_bulk(b"a transfer").await.unwrap();
    let (_called, of_neighbour) = connected(&head, &neighbour).await;
    // Whatever is held of a connection, it is found.
    let lane = called.lane().unwrap();
    drop((called, called_by_worker));

    let revocation = Revocation { node: "n1".into(), before: 5, until: in_an_hour() };
    head.membership().revoke(revocation.clone()).unwrap();
    let why = "the certificate of node `n1`, incarnation 3, was revoked";
    let told = CloseReason::ByPeer { code: Some(CloseCode::NotAdmitted), reason: why.into() };
    assert_eq!(calling.closed().await, told);
    let CloseReason::ByPeer { reason, .. } = from_worker.closed().await else { panic!("closed otherwise") };
    assert_eq!(reason, "the certificate of node `n1`, worker 4, was revoked");
    drop((lane, bulk, receiving));

    let expect = Expect::exactly(head.identity());
    let error = agent.connect(head.local_addr(), &expect).await.unwrap_err();
    assert!(matches!(&error, WireError::Refused { reason, .. } if reason == why), "{error}");
    // Nor is it called.
    let error = head.connect(agent.local_addr(), &Expect::exactly(agent.identity())).await.unwrap_err();
    assert!(matches!(&error, WireError::Refused { reason, .. } if reason == why), "{error}");

    // A later incarnation, and everybody else, is as welcome as before.
    assert_eq!(of_neighbour.close_reason(), None);
    let next = endpoint(&authority, PeerRole::Agent, "n1", 5);
    let (_called, _calling) = connected(&head, &next).await;
    // An older order takes nothing back.
    head.membership().revoke(Revocation { before: 1, ..revocation }).unwrap();
    assert!(agent.connect(head.local_addr(), &expect).await.is_err());
}

#[tokio::test]
async fn a_revocation_is_forgotten_when_what_it_is_about_has_expired() {
    let authority = Authority::create("school").unwrap();
    let head = endpoint(&authority, PeerRole::Head, "n0", 1);
    let agent = endpoint(&authority, PeerRole::Agent, "n1", 3);
    let over = Revocation { node: "n1".into(), before: 5, until: 1 };
    head.membership().revoke(over).unwrap();
    let other = Revocation { node: "n2".into(), before: 5, until: in_an_hour() };
    head.membership().revoke(other).unwrap();
    connected(&head, &agent).await;
}

#[test]
fn l2_revocations_are_bounded() {
    let authority = Authority::create("school").unwrap();
    let membership = Membership::from(credentials(&authority, PeerRole::Head, "n0", 1));
    let of = |number: usize| Revocation { node: format!("n{number}"), before: 5, until: in_an_hour() };
    // One by one would look through all of them each time.
    for number in 0..MAX_REVOCATIONS {
        membership.revoke(of(number)).unwrap();
    }
    membership.revoke(of(0)).unwrap();
    let error = membership.revoke(of(MAX_REVOCATIONS)).unwrap_err().to_string();
    assert!(error.contains("certificates of 16384 nodes are revoked already"), "{error}");
}
