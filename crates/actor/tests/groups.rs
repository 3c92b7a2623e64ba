//! One message to many actors, over many processes' worth of systems on loopback.

#![allow(clippy::unwrap_used)]

mod common;

use std::{pin::pin, time::Duration};

use common::*;
use futures_util::future::{Either, join_all, select};
use lyceum_actor::*;

/// `each` desks in every system but the first, named by their rank, as the first one sees them.
async fn desks(school: &[System], each: usize) -> Group<Desk> {
    let mut members = Vec::new();
    // Neighbours in rank are not in one process.
    for round in 0..each {
        for (place, system) in school[1..].iter().enumerate() {
            let name = (round * (school.len() - 1) + place).to_string();
            let desk = system.spawn::<Clerk>(name).await.unwrap();
            members.push(school[0].actor_ref(desk.address().clone()).unwrap());
        }
    }
    members.into_iter().collect()
}

async fn close(school: Vec<System>) {
    join_all(school.iter().map(|system| system.shut_down(Duration::from_secs(1)))).await;
}

#[test]
fn a_thousand_members_answer_by_rank_and_no_process_sends_to_more_than_a_few() {
    block_on(async {
        let school = school(41);
        let group = desks(&school, 25).await;
        assert_eq!(group.len(), 1000);
        let answers = group.ask(Echo("here".into())).await;
        for (rank, answer) in answers.iter().enumerate() {
            assert_eq!(*answer.as_ref().unwrap(), format!("{rank}: here").as_str());
        }
        assert_eq!(school[0].connections(), 16);
        for system in &school[1..] {
            assert!(system.connections() <= 3, "one to pass on to, or two, and the sender");
        }
        close(school).await;
    });
}

#[test]
fn a_message_without_answers_is_in_every_mailbox() {
    block_on(async {
        let school = school(21);
        let group = desks(&school, 2).await;
        let told = group.tell(Count(7)).await;
        assert!(told.iter().all(Result::is_ok), "{told:?}");
        // What was handed over is before what is sent now, whichever way it went.
        for member in group.members() {
            assert_eq!(member.ask(Counted).await.unwrap().read().unwrap(), [7]);
        }
        close(school).await;
    });
}

#[test]
fn a_slice_is_spoken_to_alone_and_members_may_be_of_this_process() {
    block_on(async {
        let school = school(3);
        let mut members = desks(&school, 3).await.members().to_vec();
        members.push(school[0].spawn::<Clerk>("own".into()).await.unwrap());
        let group: Group<Desk> = members.into_iter().collect();
        let slice = group.slice(4..7);
        let answers = slice.ask(Echo("here".into())).await;
        let said: Vec<String> = answers.into_iter().map(|answer| answer.unwrap().read().unwrap()).collect();
        assert_eq!(said, ["4: here", "5: here", "own: here"]);
        assert_eq!((slice.slice(1..9).len(), slice.slice(5..9).len()), (2, 0));
        assert!(group.slice(3..3).ask(Echo("nobody".into())).await.is_empty());
        assert_eq!(group[5].ask(Echo("one".into())).await.unwrap(), "5: one");
        let counted = join_all(group.members().iter().map(|member| member.ask(Counted))).await;
        assert_eq!(counted.len(), 7);
        close(school).await;
    });
}

#[test]
fn large_messages_and_answers_pass_through_others() {
    block_on(async {
        let school = school(21);
        let group = desks(&school, 1).await;
        let bytes = pattern(300_001);
        let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
        for answer in group.ask(Sum(bytes)).await {
            assert_eq!(answer.unwrap().to_native(), sum);
        }
        for answer in group.ask(Bytes(200_003)).await {
            assert_eq!(answer.unwrap().as_slice(), pattern(200_003));
        }
        close(school).await;
    });
}

#[test]
fn one_that_fails_or_is_gone_is_an_error_of_its_own() {
    block_on(async {
        let school = school(25);
        let group = desks(&school, 2).await;
        let fails = group.ask(Fail).await;
        assert!(
            fails.iter().all(|answer| matches!(answer, Err(CallError::Failed(chain)) if chain.len() == 2))
        );

        group[30].ask(Panic("I resign".into())).await.unwrap_err();
        // The first of a branch of two: its process was to pass the message on.
        let gone = 1;
        school[1 + gone].shut_down(Duration::ZERO).await;
        // Until this process has noticed, what it sends over the old connection may or may not arrive.
        group[gone].ask(Echo("are you there".into())).await.unwrap_err();
        let answers = group.ask(Echo("here".into())).await;
        for (rank, answer) in answers.into_iter().enumerate() {
            match (rank, answer) {
                (30, Err(CallError::Dead(report))) => assert!(report.to_string().contains("I resign")),
                (rank, Err(CallError::NotSent(..) | CallError::Dead(_))) if rank % 24 == gone => {}
                (rank, answer) => assert_eq!(answer.unwrap(), format!("{rank}: here").as_str()),
            }
        }
        close(school).await;
    });
}

#[test]
fn l3_who_was_behind_a_process_that_is_lost_on_the_way_is_unknown() {
    block_on(async {
        let school = school(33);
        let group = desks(&school, 1).await;
        let mut asked = pin!(group.ask(WaitForOpen(1)).into_future());
        // All of them wait with it; two processes share each branch.
        let all_wait = async {
            for member in group.members() {
                member.ask(Counted).await.unwrap();
            }
            group[20].ask(Echo("are you there".into())).await.unwrap();
        };
        assert!(matches!(select(&mut asked, pin!(all_wait)).await, Either::Right(_)));
        let (lost, behind) = (12, 13);
        school[1 + lost].shut_down(Duration::ZERO).await;
        let open = async {
            for (rank, member) in group.members().iter().enumerate() {
                if rank != lost {
                    // Whoever got the message answers it now; that may take a moment with the others.
                    while member.ask(Open).await.is_err() {}
                }
            }
            std::future::pending::<()>().await;
        };
        let Either::Left((answers, _)) = select(asked, pin!(open)).await else {
            panic!("the rest never ends")
        };
        for (rank, answer) in answers.into_iter().enumerate() {
            match answer {
                Err(CallError::Dead(_) | CallError::Unknown(_)) if rank == lost => {}
                Err(CallError::Unknown(why)) if rank == behind => {
                    assert!(why.contains("was to pass it on"), "{why}");
                }
                answer => assert_eq!(answer.unwrap().to_native(), 1, "{rank}"),
            }
        }
        close(school).await;
    });
}

#[test]
fn a_deadline_ends_the_wait_for_the_slow_and_keeps_what_the_others_said() {
    block_on(async {
        let school = school(33);
        let group = desks(&school, 1).await;
        for answer in group.ask(Counted).await {
            assert!(answer.unwrap().is_empty());
        }
        // Number 7 is behind another's process.
        let nap = group[7].ask(Nap(600_000)).deadline(Duration::from_secs(600));
        let mut nap = pin!(nap);
        let answers = group.ask(Echo("here".into())).deadline(Duration::from_secs(5)).into_future();
        let Either::Right((answers, _)) = select(&mut nap, answers).await else { panic!("it naps") };
        for (rank, answer) in answers.into_iter().enumerate() {
            match (rank, answer) {
                (7, Err(CallError::Deadline)) => {}
                (rank, answer) => assert_eq!(answer.unwrap(), format!("{rank}: here").as_str()),
            }
        }
        join_all(school.iter().map(|system| system.shut_down(Duration::ZERO))).await;
    });
}

#[test]
fn giving_up_is_news_to_every_handler() {
    block_on(async {
        let school = school(25);
        let group = desks(&school, 1).await;
        let witness = school[0].spawn::<Clerk>("witness".into()).await.unwrap();
        let search = group.ask(Search(witness.clone())).into_future();
        let begun = pin!(counted(&witness, group.len()));
        assert!(matches!(select(search, begun).await, Either::Right(_)), "what is never found was found");
        for member in group.members() {
            assert_eq!(counted(member, 1).await, [1]);
        }
        close(school).await;
    });
}
