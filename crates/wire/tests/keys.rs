//! Keys on disk: theirs alone who own them, whole, and refused when they are not.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::*;
use lyceum_wire::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn l6_every_file_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, node) = (dir.path().join("state/ca"), dir.path().join("state/nodes/n0"));
    let authority = Authority::create("school").unwrap();
    authority.save(&ca).unwrap();
    credentials(&authority, PeerRole::Agent, "n0", 1).save(&node).unwrap();
    for dir in [&ca, &node] {
        assert_eq!(mode(dir), 0o700, "{}", dir.display());
        let files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty());
        files.iter().for_each(|file| assert_eq!(mode(file), 0o600, "{}", file.display()));
    }
}

#[test]
fn l6_the_authoritys_key_is_in_no_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create("school").unwrap();
    authority.save(dir.path()).unwrap();
    let key = fs::read_to_string(dir.path().join("ca.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    let issued = String::from_utf8(credentials(&authority, PeerRole::Worker, "n0", 1).to_bytes()).unwrap();
    assert!(!issued.contains(secret));
    assert_eq!(issued.matches("PRIVATE KEY-----").count(), 2, "one key, its own");
}

#[test]
fn l6_keys_that_others_may_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create("school").unwrap();
    authority.save(dir.path()).unwrap();
    fs::set_permissions(dir.path().join("ca.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let error = Authority::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("ca.key") && error.contains("mode 640") && error.contains("chmod 600"), "{error}");
}

#[tokio::test]
async fn what_was_saved_loads_and_works_with_what_was_not() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create("school").unwrap();
    authority.save(&dir.path().join("ca")).unwrap();
    let reloaded = Authority::load(&dir.path().join("ca")).unwrap();
    assert_eq!(reloaded.cluster(), "school");
    credentials(&reloaded, PeerRole::Agent, "n1", 7).save(&dir.path().join("n1")).unwrap();
    let agent = Credentials::load(&dir.path().join("n1")).unwrap();
    assert_eq!(*agent.identity(), identity(PeerRole::Agent, "n1", 7));

    let head = endpoint(&authority, PeerRole::Head, "n0", 1);
    let agent = Endpoint::bind(agent, admitting()).unwrap();
    agent.connect(head.local_addr(), &Expect::role(PeerRole::Head)).await.unwrap();
}

#[test]
fn damaged_credentials_are_refused() {
    let authority = Authority::create("school").unwrap();
    let sound = credentials(&authority, PeerRole::Agent, "n0", 1).to_bytes();
    assert!(Credentials::from_bytes(&sound).is_ok());
    assert!(Credentials::from_bytes(b"").is_err());
    assert!(Credentials::from_bytes(&sound[..sound.len() / 2]).is_err());
    assert!(Credentials::from_bytes(&[&sound[..], &sound[..]].concat()).is_err());
}

#[test]
fn an_authority_signs_for_its_own_cluster_only() {
    let authority = Authority::create("school").unwrap();
    let stranger = PeerIdentity::new("theatre", PeerRole::Agent, "n0", 1).unwrap();
    assert!(matches!(authority.issue(&stranger, HOUR), Err(WireError::Identity { what: "cluster", .. })));
}
