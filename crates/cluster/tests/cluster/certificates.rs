//! Certificates that are renewed while everything goes on, and nodes whose certificates are taken no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lyceum_actor::{ActorRef, Cause};
use lyceum_cluster::{CertificateStatus, Client, launch};
use lyceum_wire::{Credentials, Endpoint, EndpointOptions, Expect, PeerRole, WireError};
use rustix::process::Signal;

use crate::harness::{Testbed, kill, lives, look, manifest_text, next_end, until, until_held, within};
use crate::joining::{host, join};
use crate::probe::{AskOther, Look, Probe, Question, WaitOn, hold};

async fn certificates(client: &Client) -> Vec<CertificateStatus> {
    within(client.certificates()).await.unwrap().issued
}

/// The newest certificate of each holder.
async fn newest(client: &Client) -> BTreeMap<(String, String, u64), [u8; 32]> {
    let mut newest: BTreeMap<_, (u64, [u8; 32])> = BTreeMap::new();
    for one in certificates(client).await {
        let place = newest.entry((one.role, one.node, one.incarnation)).or_insert((0, [0; 32]));
        // Those of one holder come in order of signing.
        if one.until >= place.0 {
            *place = (one.until, one.fingerprint);
        }
    }
    newest.into_iter().map(|(holder, (_, fingerprint))| (holder, fingerprint)).collect()
}

/// Waits until every one of these holders has another certificate.
async fn until_renewed(client: &Client, before: &BTreeMap<(String, String, u64), [u8; 32]>) {
    loop {
        let now = newest(client).await;
        if before.iter().all(|(holder, fingerprint)| now.get(holder).is_some_and(|now| now != fingerprint)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn calls_go_on_while_every_certificate_is_renewed() {
    let testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let (job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let spawn = async |name: &str, node: &str| {
        within(cluster.spawn::<Probe>(name.into()).node(node).into_future()).await.unwrap()
    };
    let (near, far) = (spawn("near", "a").await, spawn("far", "b").await);
    let client = testbed.client();
    let before = newest(client).await;
    let roles: BTreeSet<&str> = before.keys().map(|(role, ..)| role.as_str()).collect();
    assert_eq!(roles, PeerRole::ALL.iter().map(|role| role.as_str()).collect(), "every holder is shown");
    let sight = look(&far, &[]).await;

    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let other = far.address().clone();
    let calling = tokio::spawn({
        let (stop, calls) = (stop.clone(), calls.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                let what = Question::Greeting;
                let answer =
                    near.ask(AskOther { other: other.clone(), what }).await.expect("a call from a to b");
                assert_eq!(answer.as_str(), "far");
                calls.fetch_add(1, Ordering::Relaxed);
            }
            near
        }
    });
    for _ in 0..2 {
        let before: BTreeMap<_, _> = newest(client)
            .await
            .into_iter()
            .filter(|((role, node, _), _)| role != "client" || node != "client")
            .collect();
        let so_far = calls.load(Ordering::Relaxed);
        within(client.renew_certificates(None)).await.unwrap();
        within(until_renewed(client, &before)).await;
        // And calls have gone on since.
        let since = calls.load(Ordering::Relaxed);
        assert!(since >= so_far);
        while calls.load(Ordering::Relaxed) < since + 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let near: ActorRef<Probe> = within(calling).await.unwrap();
    assert_eq!(look(&far, &[]).await.pid, sight.pid, "nobody was started again");

    // Who connects now is shown the new ones: by agents and the head, and by workers.
    let fresh = spawn("fresh", "b").await;
    let what = Question::Greeting;
    let answer = within(fresh.ask(AskOther { other: near.address().clone(), what })).await.unwrap();
    assert_eq!(answer.as_str(), "near");
    // What an agent shows is what its next start finds.
    let kept = Credentials::load(&testbed.state().node("b")).unwrap();
    let agent = ("agent".to_owned(), "b".to_owned(), kept.identity().incarnation());
    assert_eq!(newest(client).await[&agent], kept.fingerprint().0);
    // One node alone can be told too, if it is there.
    within(client.renew_certificates(Some("a"))).await.unwrap();
    let error = within(client.renew_certificates(Some("c"))).await.unwrap_err().to_string();
    assert!(error.contains("unknown node `c`"), "{error}");
    drop((near, far, fresh));
    testbed.down().await;
}

#[tokio::test]
async fn certificates_are_renewed_in_time_also_when_the_head_was_away_then() {
    let text = manifest_text(&[("a", "{ cpus = 1 }")]) + "[certificates]\nlifetime = 16.0\n";
    let mut testbed = Testbed::of(&text).started().await;
    let before: BTreeMap<_, _> =
        newest(testbed.client()).await.into_iter().filter(|((role, ..), _)| role == "agent").collect();
    assert_eq!(before.len(), 1);
    let head = testbed.pid_of("head");
    kill(head, Signal::KILL);
    until("the head ends", || !lives(head)).await;
    let log = testbed.state().agent_log("a");
    let waits = || std::fs::read_to_string(&log).unwrap().contains("the certificate is not renewed yet");
    until("the agent wants a new certificate", waits).await;
    testbed.up = Some(testbed.try_up(&testbed.manifest).await.unwrap());
    within(until_renewed(testbed.client(), &before)).await;
    assert!(testbed.status().await.nodes[0].joined);
    testbed.down().await;
}

/// Calls `addr` with the certificate of `credentials`: why it is refused.
async fn refusal(credentials: &Credentials, addr: std::net::SocketAddr, role: PeerRole) -> String {
    let endpoint =
        Endpoint::bind(credentials.clone(), EndpointOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    match within(endpoint.connect(addr, &Expect::role(role))).await {
        Err(WireError::Refused { reason, .. }) => reason,
        other => panic!("{role} at {addr}: {other:?}"),
    }
}

#[tokio::test]
async fn l6_a_revoked_node_is_cut_off_everywhere_and_comes_back_with_a_token_alone() {
    let mut testbed = Testbed::start(&[("a", "{ cpus = 2 }"), ("b", "{ cpus = 2 }")]).await;
    let (mut job, system) = testbed.job().await;
    let cluster = job.cluster(&system);
    let spawn = async |name: &str, node: &str| {
        within(cluster.spawn::<Probe>(name.into()).node(node).into_future()).await.unwrap()
    };
    let (stays, goes) = (spawn("stays", "a").await, spawn("goes", "b").await);
    let sight = look(&goes, &[]).await;
    let state = testbed.state();
    let old = Credentials::load(&state.node("b")).unwrap();
    let incarnation = old.identity().incarnation();
    let from_a = tokio::spawn(stays.ask(WaitOn { other: goes.address().clone(), calls: 3 }).into_future());
    let from_here = tokio::spawn(hold(goes.clone()));
    until_held(&goes, 4).await;

    within(testbed.client().revoke("b", "a person at the desk")).await.unwrap();
    // Everybody who waits is told why; so is whoever follows the job.
    let mut ends = within(from_a).await.unwrap().unwrap().read().unwrap();
    ends.push(within(from_here).await.unwrap());
    assert_eq!(ends.len(), 4);
    for end in ends {
        assert!(end.words.contains("its certificate was revoked by a person at the desk"), "{}", end.words);
    }
    let (report, _) = next_end(&mut job).await;
    assert_eq!(report.cause, Cause::NodeLost("its certificate was revoked by a person at the desk".into()));
    let status = testbed.status().await;
    assert_eq!(status.nodes[1].state, "lost: its certificate was revoked by a person at the desk");
    // Its agent is told too, and ends with its workers.
    until("the agent and its workers end", || !lives(sight.parent) && !lives(sight.pid)).await;
    let told = std::fs::read_to_string(state.agent_log("b")).unwrap();
    let why = format!("the certificate of node `b`, incarnation {incarnation}, was revoked");
    assert!(told.contains(&why), "{told}");

    // Its certificate opens no door any more: not the head's, nor an agent's, nor a worker's.
    let head = head_address(&state);
    let agent = status.nodes[0].address.unwrap();
    let worker = stays.address().process.addr;
    for (addr, role) in [(head, PeerRole::Head), (agent, PeerRole::Agent), (worker, PeerRole::Worker)] {
        assert_eq!(refusal(&old, addr, role).await, why);
    }
    let mut revoked = certificates(testbed.client()).await.into_iter().filter(|one| one.revoked);
    assert!(revoked.all(|one| one.node == "b" && one.incarnation == incarnation));
    // A worker that is started later knows it as well.
    let later = spawn("later", "a").await;
    assert_eq!(refusal(&old, later.address().process.addr, PeerRole::Worker).await, why);

    // It is written down: after a restart of the head it is so still, and `up` does not let it in either.
    drop((later, system));
    let pid = testbed.pid_of("head");
    kill(pid, Signal::KILL);
    until("the head ends", || !lives(pid)).await;
    testbed.up = None;
    let error = testbed.try_up(&testbed.manifest).await.unwrap_err().to_string();
    assert!(
        error.contains("the certificate of node `b` was revoked: `lyceum token create --node b`"),
        "{error}"
    );
    assert_eq!(refusal(&old, head_address(&state), PeerRole::Head).await, why);

    let client = within(Client::connect(&state)).await.unwrap();
    let token = within(client.create_token("b", Duration::from_secs(900))).await.unwrap();
    let joined = join(&token, host(&testbed, "again")).await.unwrap();
    assert!(joined.incarnation > incarnation);
    let nodes = within(client.status()).await.unwrap().nodes;
    assert_eq!((nodes[1].joined, nodes[1].incarnation), (true, joined.incarnation));
    assert_eq!(refusal(&old, head_address(&state), PeerRole::Head).await, why, "the old one stays out");
    let job = within(client.begin_job("again", true)).await.unwrap();
    let system = within(client.start_system(lyceum_actor::Registry::new())).await.unwrap();
    let spawn = job.cluster(&system).spawn::<Probe>("again".into()).node("b");
    let probe = within(spawn.into_future()).await.unwrap();
    assert_eq!(
        within(probe.ask(Look { variables: vec![] })).await.unwrap().read().unwrap().parent,
        joined.pid
    );
    drop((probe, system, job, client));
    assert!(within(launch::down(&host(&testbed, "again").state)).await.unwrap());
    testbed.down().await;
}

/// Where the head of the cluster in `state` listens.
fn head_address(state: &lyceum_cluster::state::StateDir) -> std::net::SocketAddr {
    let text = std::fs::read_to_string(state.head_address()).unwrap();
    let (_, rest) = text.split_once("\"bound\": \"").unwrap();
    rest.split('"').next().unwrap().parse().unwrap()
}
