//! Who is let in with a token, and whose certificates are taken no more.

use std::collections::BTreeMap;

use lyceum_actor::{Cause, ControlError};
use lyceum_cluster::control::papers::{CertificateState, Revoked};
use lyceum_cluster::control::record::{Key, Record, Value};
use lyceum_cluster::control::vocabulary::{Answer, Ask, Command, Notice, Origin};
use lyceum_cluster::control::{HeadEffect, HeadEvent, Shown};

use super::harness::{CLIENT, Cluster};

const MINUTE: u64 = 60_000;
const SECRET: [u8; 32] = [7; 32];

/// A head that writes down what it decides, and can be started again from that at any time.
struct Written {
    cluster: Cluster,
    records: BTreeMap<Key, Value>,
}

impl Written {
    /// Node `a` has joined, as incarnation 1; node `b` never has.
    fn new() -> Written {
        let mut written = Written { cluster: Cluster::after([]), records: BTreeMap::new() };
        written.cluster.head.set_date(1_000_000);
        // Numbers below it are used up, as by earlier lives.
        written.event(HeadEvent::Asked {
            origin: CLIENT,
            request: 1,
            ask: Ask::IssueNode { node: "a".into() },
        });
        written.joins("a", 1);
        written
    }

    fn event(&mut self, event: HeadEvent) -> Vec<HeadEffect> {
        let (records, effects) = self.cluster.head.apply(event, self.cluster.now);
        for Record { key, value } in records {
            match value {
                Some(value) => self.records.insert(key, value),
                None => self.records.remove(&key),
            };
        }
        effects
    }

    fn joins(&mut self, node: &str, incarnation: u64) -> Vec<HeadEffect> {
        let address = super::harness::address();
        let (node, running, ended) = (node.to_owned(), Vec::new(), Vec::new());
        self.event(HeadEvent::Joined { node, incarnation, address, pid: 1, running, ended, offer: None })
    }

    /// The head ends after it has written down what it decided last, and is started again.
    fn crash(&mut self) {
        self.cluster = Cluster::after(self.records.clone());
        self.cluster.head.set_date(1_000_000);
    }

    fn answer(&mut self, ask: Ask) -> Answer {
        let effects = self.event(HeadEvent::Asked { origin: CLIENT, request: 1, ask });
        let answer = effects.into_iter().find_map(|effect| match effect {
            HeadEffect::Reply { answer, .. } => Some(answer),
            _ => None,
        });
        answer.expect("an answer at once")
    }

    fn token(&mut self, id: u64, node: &str) {
        let ask = Ask::CreateToken { id, node: node.into(), hash: SECRET, ttl_ms: 15 * MINUTE };
        assert_eq!(self.answer(ask), Answer::Done);
    }

    /// Shows token `id` with a secret and a key: the incarnation that it is given, or why not.
    fn show(&mut self, id: u64, hash: [u8; 32], key: u8) -> Result<u64, String> {
        let shown = Shown { id, hash, key: [key; 32] };
        let effects = self.event(HeadEvent::TokenShown { guest: 5, shown });
        match effects.into_iter().next() {
            Some(HeadEffect::Admit { guest: 5, incarnation, .. }) => Ok(incarnation),
            Some(HeadEffect::TurnAway { guest: 5, why }) => Err(why),
            other => panic!("{other:?}"),
        }
    }
}

fn refusal(answer: Answer) -> String {
    match answer {
        Answer::Error(ControlError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn l6_a_token_lets_one_key_in_once_over_restarts_of_the_head_too() {
    let mut head = Written::new();
    assert!(!head.cluster.head.awaits_guests());
    head.token(3, "b");
    assert!(head.cluster.head.awaits_guests());
    head.crash();
    let incarnation = head.show(3, SECRET, 1).unwrap();
    // The head may have ended before it said so: the same key comes for the same certificate, and no other gets one.
    head.crash();
    let used = format!("token 0000000000000003 was used already, for incarnation {incarnation} of node `b`");
    assert_eq!(head.show(3, SECRET, 2).unwrap_err(), used);
    assert_eq!(head.show(3, SECRET, 1), Ok(incarnation));
    head.joins("b", incarnation);
    assert_eq!(head.show(3, SECRET, 2).unwrap_err(), used);
    // Numbers are never given twice.
    head.token(4, "b");
    let why = head.show(4, SECRET, 3).unwrap_err();
    assert!(why.contains(&format!("node `b` has joined already, as incarnation {incarnation}")), "{why}");
    let lost = HeadEvent::AgentEnded {
        node: "b".into(),
        incarnation,
        evidence: "seen to end".into(),
        log_tail: Vec::new(),
    };
    head.event(lost);
    assert!(head.show(4, SECRET, 3).unwrap() > incarnation);
}

#[test]
fn l6_a_wrong_secret_lets_nobody_in_and_a_few_of_them_end_the_token() {
    let mut head = Written::new();
    head.token(3, "b");
    for left in (1..8).rev() {
        let why = head.show(3, [8; 32], 1).unwrap_err();
        assert!(why.contains("the secret is not that of token 0000000000000003"), "{why}");
        assert!(why.contains(&format!("after {left} more such")), "{why}");
        head.crash();
    }
    let locked = "token 0000000000000003 was shown with 8 wrong secrets and lets nobody in any more";
    assert_eq!(head.show(3, [8; 32], 1).unwrap_err(), locked);
    head.crash();
    assert_eq!(head.show(3, SECRET, 1).unwrap_err(), locked);
}

#[test]
fn l6_a_token_that_expired_was_revoked_or_is_unknown_lets_nobody_in() {
    let mut head = Written::new();
    head.token(3, "b");
    head.token(4, "b");
    assert_eq!(head.answer(Ask::RevokeToken { id: 4 }), Answer::Done);
    for id in [4, 5] {
        let why = head.show(id, SECRET, 1).unwrap_err();
        assert!(why.contains(&format!("token {id:016x} is not known here")), "{why}");
    }
    assert_eq!(refusal(head.answer(Ask::RevokeToken { id: 4 })), "there is no token 0000000000000004");
    head.cluster.head.set_date(1_000_000 + 15 * MINUTE - 1);
    assert_eq!(head.answer(Ask::Tokens), Answer::Tokens(vec![status(3, "open")]));
    head.cluster.head.set_date(1_000_000 + 15 * MINUTE + 2000);
    assert_eq!(head.show(3, SECRET, 1).unwrap_err(), "token 0000000000000003 expired 2 s ago");
    assert_eq!(head.answer(Ask::Tokens), Answer::Tokens(vec![status(3, "expired 2 s ago")]));
    // After an hour nothing is known of it, and nobody is awaited.
    head.cluster.head.set_date(1_000_000 + 75 * MINUTE);
    head.event(HeadEvent::Tick);
    assert!(!head.cluster.head.awaits_guests());
    head.crash();
    assert!(!head.cluster.head.awaits_guests());
}

fn status(id: u64, state: &str) -> lyceum_cluster::TokenStatus {
    let (node, state) = ("b".to_owned(), state.to_owned());
    lyceum_cluster::TokenStatus { id, node, expires: 1_000_000 + 15 * MINUTE, state }
}

#[test]
fn tokens_are_bounded_in_number_and_time_and_for_names_that_a_node_may_have() {
    let mut head = Written::new();
    let create = |id, node: &str, ttl_ms| Ask::CreateToken { id, node: node.into(), hash: SECRET, ttl_ms };
    assert!(refusal(head.answer(create(1, "head", MINUTE))).contains("node name `head` is taken"));
    assert!(refusal(head.answer(create(1, "a b", MINUTE))).contains("node name `a b`"));
    let longest = 30 * 24 * 60 * MINUTE;
    for ttl in [0, longest + 1] {
        assert!(refusal(head.answer(create(1, "b", ttl))).contains("expected up to 2592000000 ms"));
    }
    assert_eq!(head.answer(create(1, "b", longest)), Answer::Done);
    assert_eq!(refusal(head.answer(create(1, "b", MINUTE))), "there is a token 0000000000000001 already");
    (2..=1024).for_each(|id| head.token(id, "b"));
    assert!(refusal(head.answer(create(1025, "b", MINUTE))).contains("1024 tokens are known already"));
}

#[test]
fn l6_what_is_a_persons_to_do_no_worker_may() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let worker = Origin::Worker(cluster.process(job, 1));
    let asks = [
        Ask::CreateToken { id: 1, node: "b".into(), hash: SECRET, ttl_ms: MINUTE },
        Ask::Tokens,
        Ask::RevokeToken { id: 1 },
        Ask::Revoke { node: "b".into(), by: "a worker".into() },
        Ask::Certificates,
        Ask::RenewNodes { node: None },
    ];
    for ask in asks {
        let why = refusal(cluster.answer(worker, ask));
        assert!(why.contains("this is for clients of the cluster only"), "{why}");
    }
    assert_eq!(cluster.state_of("b"), "joined");
}

#[test]
fn l6_a_revoked_node_is_given_up_and_stays_out_until_a_token_lets_it_in() {
    let mut head = Written::new();
    head.token(3, "a");
    let Answer::Job(job) = head.answer(Ask::BeginJob { name: "job".into(), bound: false }) else {
        panic!("no job")
    };
    let spawn = Ask::Spawn(super::harness::spawn(job, 1));
    let launched = head.event(HeadEvent::Asked { origin: CLIENT, request: 2, ask: spawn });
    let (_, process) = launched.iter().find_map(super::harness::launch).unwrap();
    let incarnation = head.cluster.head.status().nodes[0].incarnation;

    let order = Ask::Revoke { node: "a".into(), by: "a person".into() };
    let effects = head.event(HeadEvent::Asked { origin: CLIENT, request: 3, ask: order });
    let revoked = effects.iter().find_map(|effect| match effect {
        HeadEffect::Revoke(revoked) => Some(revoked),
        _ => None,
    });
    let revoked = revoked.expect("it is revoked");
    // Of its agent and of all its workers, as they have numbers of one row.
    assert!(revoked.before > process && revoked.before > incarnation, "{revoked:?}");
    let notice = Notice::Revoked(vec![revoked.clone()]);
    assert!(effects.contains(&HeadEffect::Notify { client: 1, notice }), "{effects:?}");
    let why = "lost: its certificate was revoked by a person";
    assert_eq!(head.cluster.state_of("a"), why);
    let dead = effects.iter().find_map(|effect| match effect {
        HeadEffect::Reply { answer: Answer::Error(ControlError::Died(report)), .. } => {
            Some(report.cause.clone())
        }
        _ => None,
    });
    assert_eq!(dead, Some(Cause::NodeLost("its certificate was revoked by a person".into())));
    assert!(head.show(3, SECRET, 1).is_err(), "the tokens of the node are of no use any more");

    // It is so after a restart of the head too, and whoever joins is told.
    head.crash();
    assert!(head.cluster.head.is_barred("a", incarnation));
    assert!(
        refusal(head.answer(Ask::IssueNode { node: "a".into() })).contains("`lyceum token create --node a`")
    );
    let told = head.joins("b", 9);
    let to_b = |effect: &HeadEffect| matches!(effect, HeadEffect::ToAgent { node, command: Command::Revoked(all), .. } if node == "b" && all[..] == [revoked.clone()]);
    assert!(told.iter().any(to_b), "{told:?}");

    head.token(4, "a");
    let next = head.show(4, SECRET, 1).unwrap();
    assert!(!head.cluster.head.is_barred("a", next));
    head.joins("a", next);
    assert_eq!(head.cluster.state_of("a"), "joined");
    assert!(matches!(head.answer(Ask::IssueNode { node: "a".into() }), Answer::Identity { .. }));

    // Once the last of its certificates has expired there is nothing to refuse.
    head.cluster.head.set_date(1000 * (revoked.until + 1));
    head.event(HeadEvent::Tick);
    assert!(!head.cluster.head.is_barred("a", incarnation));
    assert!(!head.records.contains_key(&Key::Revoked("a".into())));
}

#[test]
fn certificates_are_written_down_and_forgotten_when_they_have_expired_or_are_many() {
    let mut head = Written::new();
    let certificate = |incarnation, until| CertificateState {
        node: "a".into(),
        incarnation,
        fingerprint: [incarnation as u8; 32],
        from: 900,
        until,
    };
    head.event(HeadEvent::Certified(certificate(1, 2000)));
    head.event(HeadEvent::Certified(certificate(2, 3000)));
    head.crash();
    let shown = |head: &mut Written| match head.answer(Ask::Certificates) {
        Answer::Certificates(found) => found.issued.iter().map(|one| one.incarnation).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(shown(&mut head), [1, 2]);
    head.cluster.head.set_date(2_001_000);
    head.event(HeadEvent::Tick);
    assert_eq!(shown(&mut head), [2]);
    (10..40).for_each(|number| drop(head.event(HeadEvent::Certified(certificate(number, 3000)))));
    assert_eq!(shown(&mut head), (24..40).collect::<Vec<_>>(), "the last sixteen of a node");
    head.crash();
    assert_eq!(shown(&mut head).len(), 16);
}

#[test]
fn whoever_asks_for_a_new_certificate_gets_its_own() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let process = cluster.process(job, 1);
    let node = cluster.head.node_of(process).unwrap();
    let ask = Ask::Renew { public_key: vec![1] };
    let certified = |origin, node: &str, number| HeadEffect::Certify {
        origin,
        request: 1,
        node: node.into(),
        number,
        public_key: vec![1],
    };
    let worker = Origin::Worker(process);
    assert_eq!(cluster.ask(worker, ask.clone()), [certified(worker, &node, process)]);
    assert!(
        refusal(cluster.answer(Origin::Worker(999), ask.clone())).contains("is not one of this cluster's")
    );
    assert!(refusal(cluster.answer(CLIENT, ask.clone())).contains("has no certificate of its own"));
    let Answer::Identity { incarnation, .. } = cluster.answer(CLIENT, Ask::IssueClient) else {
        panic!("none")
    };
    assert_eq!(cluster.ask(CLIENT, ask), [certified(CLIENT, "client", incarnation)]);
}

#[test]
fn l2_revocations_are_told_in_portions_that_fit_into_a_message() {
    let revoked = |number: u64| {
        let node = format!("node-{number:043}");
        (Key::Revoked(node.clone()), Value::Revoked(Revoked { node, before: number, until: u64::MAX }))
    };
    let cluster = Cluster::after((0..10_000).map(revoked));
    let portions = cluster.head.revocations();
    assert_eq!(portions.iter().map(Vec::len).collect::<Vec<_>>(), [4096, 4096, 1808]);
}
