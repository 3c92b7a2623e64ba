//! Hosts that join with a token, and whoever is not let in.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use lyceum_cluster::launch::{self, JoinOptions, Joined};
use lyceum_cluster::state::StateDir;
use lyceum_cluster::{ClusterError, JoinToken};
use lyceum_wire::testing::Rogue;
use lyceum_wire::{CloseCode, Credentials, Fingerprint, WireError};
use rustix::process::Signal;

use crate::harness::{PROGRAM, Testbed, kill, lives, look, until, within};
use crate::probe::Probe;

const TTL: Duration = Duration::from_secs(900);

/// A host with nothing of the cluster on it: a folder of its own.
pub fn host(testbed: &Testbed, name: &str) -> JoinOptions {
    JoinOptions {
        state: StateDir::at(testbed.folder.path().join(name)),
        program: PROGRAM.into(),
        bind: None,
        interface: None,
        advertise: None,
    }
}

pub async fn join(token: &JoinToken, options: JoinOptions) -> Result<Joined, ClusterError> {
    within(launch::join(token, options)).await
}

async fn refused(token: &JoinToken, options: JoinOptions) -> String {
    match join(token, options).await {
        Err(ClusterError::Wire(WireError::Refused { reason, .. })) => reason,
        other => panic!("{other:?}"),
    }
}

/// Ends the agent of node `b` of a testbed of two, so that the node is one that is named and not started.
async fn without_b(testbed: &Testbed) {
    let pid = testbed.status().await.nodes[1].pid;
    kill(pid, Signal::KILL);
    while !testbed.status().await.nodes[1].state.starts_with("lost") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A token as whoever holds it might change it.
fn changed(token: &JoinToken, change: impl Fn(&mut JoinToken)) -> JoinToken {
    let mut token = token.clone();
    change(&mut token);
    token
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn l6_a_host_without_a_key_joins_with_a_token_that_is_of_no_use_to_anybody_else() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    without_b(&testbed).await;
    let before = testbed.status().await.nodes[1].incarnation;
    let client = testbed.client();
    let refusal = within(client.create_token("head", TTL)).await.unwrap_err().to_string();
    assert!(refusal.contains("node name `head` is taken by the cluster itself"), "{refusal}");
    let token: JoinToken = within(client.create_token("b", TTL)).await.unwrap().to_string().parse().unwrap();
    assert_eq!((token.cluster.as_str(), token.node.as_str()), ("test", "b"));

    // Whoever has no certificate may ask to join now, and nothing else.
    let rogue = Rogue::call_without_certificate(token.heads[0]).await.unwrap();
    let (code, told) = within(rogue.told()).await;
    assert_eq!(code, Some(CloseCode::NotAdmitted as u64), "{told}");
    assert!(told.contains("it may ask to join, and nothing else"), "{told}");

    // Somebody in between, with an authority of his own, is told nothing.
    let forged = changed(&token, |token| token.authority = Fingerprint([1; 32]));
    let error = join(&forged, host(&testbed, "forged")).await.unwrap_err().to_string();
    assert!(error.contains("is not of the cluster that is meant: expected the authority 0101"), "{error}");

    let joined = join(&token, host(&testbed, "joined")).await.unwrap();
    assert!(joined.incarnation > before, "{joined:?}");
    let node = testbed.status().await.nodes[1].clone();
    assert_eq!((node.state.as_str(), node.incarnation, node.pid), ("joined", joined.incarnation, joined.pid));
    let (job, system) = testbed.job().await;
    let spawn = job.cluster(&system).spawn::<Probe>("joined".into()).node("b");
    let probe = within(spawn.into_future()).await.unwrap();
    assert_eq!(look(&probe, &[]).await.parent, joined.pid);

    // Its key was made there and is there alone.
    let state = host(&testbed, "joined").state;
    let credentials = Credentials::load(&state.node("b")).unwrap();
    assert_eq!(credentials.identity().incarnation(), joined.incarnation);
    assert_eq!((mode(&state.node("b")), mode(&state.node("b").join("credentials.pem"))), (0o700, 0o600));
    assert!(!state.authority().exists() && !state.client().exists());
    let listed = within(client.certificates()).await.unwrap().issued;
    let its = |one: &&lyceum_cluster::CertificateStatus| one.fingerprint == credentials.fingerprint().0;
    assert_eq!(listed.iter().find(its).unwrap().incarnation, joined.incarnation);

    // Nobody else comes in with it.
    let used = format!(
        "token {:016x} was used already, for incarnation {} of node `b`",
        token.id, joined.incarnation
    );
    assert_eq!(refused(&token, host(&testbed, "second")).await, used);
    let error = join(&token, host(&testbed, "joined")).await.unwrap_err().to_string();
    assert!(error.contains(&format!("runs here already, process {}", joined.pid)), "{error}");

    // A node that the manifest does not have joins in the same way, with what is found on its host.
    let further = within(client.create_token("c", TTL)).await.unwrap();
    let third = join(&further, host(&testbed, "further")).await.unwrap();
    let node = testbed.status().await.nodes[2].clone();
    assert_eq!((node.name.as_str(), node.joined, node.in_manifest, node.pid), ("c", true, false, third.pid));
    assert!(within(launch::down(&host(&testbed, "further").state)).await.unwrap());

    // The host leaves as it came.
    drop((probe, system, job));
    assert!(within(launch::down(&state)).await.unwrap());
    until("the joined agent ends", || !lives(joined.pid)).await;
    assert!(!state.nodes().exists(), "keys are left");
    testbed.down().await;
}

#[tokio::test]
async fn l6_tokens_that_are_wrong_expired_revoked_or_of_another_cluster_let_nobody_in() {
    let testbed = Testbed::start(&[("a", "{ cpus = 1 }"), ("b", "{ cpus = 1 }")]).await;
    without_b(&testbed).await;
    let client = testbed.client();
    let token = within(client.create_token("b", TTL)).await.unwrap();
    let stranger = host(&testbed, "stranger");

    let text = token.to_string();
    let wrong = |at: usize| {
        let mut other = text.clone().into_bytes();
        other[at] ^= 1;
        String::from_utf8(other).unwrap().parse::<JoinToken>()
    };
    assert!(wrong(text.len() / 2).unwrap_err().contains("no whole token"));
    // One that is whole, of another secret: another token's number.
    let other = within(client.create_token("b", TTL)).await.unwrap();
    let mixed = changed(&token, |token| token.id = other.id);
    let why = refused(&mixed, stranger.clone()).await;
    assert!(why.contains(&format!("the secret is not that of token {:016x}", other.id)), "{why}");
    let unknown = changed(&token, |token| token.id ^= 1);
    assert!(refused(&unknown, stranger.clone()).await.contains("is not known here"));

    let brief = within(client.create_token("b", Duration::from_millis(1))).await.unwrap();
    while within(client.tokens())
        .await
        .unwrap()
        .iter()
        .any(|known| known.id == brief.id && known.state == "open")
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let why = refused(&brief, stranger.clone()).await;
    assert!(why.contains(&format!("token {:016x} expired ", brief.id)), "{why}");

    // Of another cluster of the same name, shown at the head of this one.
    let double = Testbed::start(&[("a", "{ cpus = 1 }")]).await;
    let foreign = within(double.client().create_token("a", TTL)).await.unwrap();
    let foreign = changed(&foreign, |foreign| foreign.heads = token.heads.clone());
    let error = join(&foreign, stranger.clone()).await.unwrap_err().to_string();
    assert!(error.contains("is not of the cluster that is meant"), "{error}");
    double.down().await;

    for known in within(client.tokens()).await.unwrap() {
        within(client.revoke_token(known.id)).await.unwrap();
    }
    // The door is shut with the last of them.
    assert_eq!(refused(&token, stranger.clone()).await, "nobody is awaited here");
    assert!(!stranger.state.nodes().exists(), "nothing was given out");
    testbed.down().await;
}
