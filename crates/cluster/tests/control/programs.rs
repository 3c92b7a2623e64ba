//! Programs that jobs bring: who is told where they are.

use lyceum_actor::{ControlError, SpawnRequest};
use lyceum_cluster::control::vocabulary::{Answer, Ask, Command, Origin, Report};
use lyceum_cluster::control::{HeadEffect, HeadEvent};

use super::harness::{CLIENT, Cluster, spawn};

fn program(digit: &str) -> String {
    format!("sha256:{}", digit.repeat(64))
}

fn named(job: u64, program: &str, node: &str) -> Ask {
    let (program, node) = (Some(program.to_owned()), Some(node.to_owned()));
    Ask::Spawn(SpawnRequest { program, node, ..spawn(job, 0) })
}

fn refusal(answer: Answer) -> String {
    match answer {
        Answer::Error(ControlError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// What an agent is told in turn: who has the program, and to launch it.
fn told(effects: &[HeadEffect]) -> (&str, &[String]) {
    match effects {
        [
            HeadEffect::ToAgent { command: Command::Caption { .. }, .. },
            HeadEffect::ToAgent { node, command: Command::Program { holders, .. }, .. },
            HeadEffect::ToAgent { node: same, command: Command::Launch(_), .. },
        ] if node == same => (node, holders),
        other => panic!("{other:?}"),
    }
}

fn holds(cluster: &mut Cluster, node: &str, programs: &[String]) {
    let report = Report::Programs { programs: programs.to_vec() };
    cluster.event(HeadEvent::Reported { node: node.into(), incarnation: 1, report });
}

#[test]
fn an_agent_is_told_who_has_the_program_that_it_is_to_launch() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let ours = program("1");
    let brought = Ask::HasProgram { node: "a".into(), program: ours.clone() };
    assert_eq!(cluster.answer(CLIENT, brought), Answer::Done);
    // What an agent has said before that, and what is heard only now.
    holds(&mut cluster, "a", &[]);
    assert_eq!(told(&cluster.ask(CLIENT, named(job, &ours, "b"))), ("b", &["a".to_owned()][..]));
    assert_eq!(told(&cluster.ask(CLIENT, named(job, &ours, "a"))), ("a", &[][..]), "it knows itself");
    holds(&mut cluster, "b", &[ours.clone(), program("2")]);
    assert_eq!(told(&cluster.ask(CLIENT, named(job, &ours, "a"))), ("a", &["b".to_owned()][..]));
    // It said that it has it, and now that it has not.
    holds(&mut cluster, "a", std::slice::from_ref(&ours));
    holds(&mut cluster, "a", &[]);
    assert_eq!(told(&cluster.ask(CLIENT, named(job, &ours, "b"))), ("b", &[][..]));
    // A launch that comes again comes with it.
    assert!(matches!(cluster.joins("b", Vec::new())[..2], [HeadEffect::ToAgent { .. }, _]));
    let launches = cluster.joins("b", Vec::new());
    let is_program =
        |effect: &&HeadEffect| matches!(effect, HeadEffect::ToAgent { command: Command::Program { .. }, .. });
    assert_eq!(launches.iter().filter(is_program).count(), 2, "{launches:?}");
}

#[test]
fn what_nobody_has_is_refused_at_once() {
    let mut cluster = Cluster::new();
    let job = cluster.job();
    let unknown = refusal(cluster.answer(CLIENT, named(job, &program("1"), "b")));
    let expected = format!("role: no node has program {}: bring it to the cluster first", program("1"));
    assert!(unknown.starts_with(&expected), "{unknown}");
    let bad = refusal(cluster.answer(CLIENT, named(job, "sha256:12", "b")));
    assert_eq!(bad, "program `sha256:12`: expected `sha256:` and 64 digits of 0-9 and a-f");
    let place = |node: &str, program: String| Ask::HasProgram { node: node.into(), program };
    assert!(refusal(cluster.answer(CLIENT, place("c", program("1")))).contains("unknown node `c`"));
    assert!(refusal(cluster.answer(CLIENT, place("a", "worker".into()))).contains("expected `sha256:`"));
    let worker = cluster.process(job, 1);
    let theirs = refusal(cluster.answer(Origin::Worker(worker), place("a", program("1"))));
    assert!(theirs.contains("for clients of the cluster only"), "{theirs}");

    // One whose node is gone.
    holds(&mut cluster, "a", &[program("1")]);
    cluster.event(HeadEvent::AgentEnded {
        node: "a".into(),
        incarnation: 1,
        evidence: "it was seen".into(),
        log_tail: Vec::new(),
    });
    refusal(cluster.answer(CLIENT, named(job, &program("1"), "b")));
}
