//! L3: who waits on the dead is told who died, how and where.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    pin::pin,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use common::*;
use futures_util::future::{Either, join_all, select};
use lyceum_actor::*;
use lyceum_wire::{
    Admission, AlignedBytes, Authority, CloseCode, Credentials, Endpoint, EndpointOptions, Frame,
    FrameHeader, PeerIdentity, PeerRole,
};

fn verdict(process: &ProcessAddress) -> ProcessDeath {
    ProcessDeath {
        process: process.process,
        node: process.node.clone(),
        cause: Cause::Signal(9),
        log_tail: vec!["the last words".into()],
    }
}

/// Not a test of its own: the process that `l3_a_process_killed_by_sigkill_...` starts and kills.
#[test]
fn the_other_process() {
    if std::env::var_os("LYCEUM_TEST_CHILD").is_none() {
        return;
    }
    let mut credentials = Vec::new();
    std::io::stdin().read_to_end(&mut credentials).unwrap();
    let credentials = Credentials::from_bytes(&credentials).unwrap();
    let bind = "127.0.0.1:0".parse().unwrap();
    let system = System::start(SystemOptions::networked(credentials, bind, registry())).unwrap();
    let args = encode(&"ada".to_owned()).unwrap();
    block_on(system.start_registered("desk", &args, ActorId(5), 1, 7)).unwrap();
    println!("\nlistening {}", system.address().addr);
    std::thread::sleep(Duration::from_secs(60));
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts this test program again as process `process`; returns it and the address of its actor 5.
fn start_other(authority: &Authority, process: u64) -> (Killed, ActorAddress) {
    let identity = PeerIdentity::new("school", PeerRole::Worker, "n2", process).unwrap();
    let credentials = authority.issue(&identity, Duration::from_secs(3600)).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_other_process", "--nocapture"])
        .env("LYCEUM_TEST_CHILD", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&credentials.to_bytes()).unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let child = Killed(child);
    let addr: SocketAddr = stdout
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("listening ").map(|addr| addr.parse().unwrap()))
        .expect("the child says where it listens");
    let process = ProcessAddress { kind: ProcessKind::Worker, node: "n2".into(), process, addr };
    let address = ActorAddress { actor: ActorId(5), incarnation: 1, role: "desk".into(), process, job: 7 };
    (child, address)
}

fn client(authority: &Authority) -> System {
    let identity = PeerIdentity::new("school", PeerRole::Client, "n1", 1).unwrap();
    let credentials = authority.issue(&identity, Duration::from_secs(3600)).unwrap();
    let bind = "127.0.0.1:0".parse().unwrap();
    System::start(SystemOptions::networked(credentials, bind, Registry::new())).unwrap()
}

#[test]
fn l3_a_process_killed_by_sigkill_is_an_error_at_every_caller_once_the_verdict_is_told() {
    let authority = Authority::create("school").unwrap();
    let (mut child, address) = start_other(&authority, 2);
    let system = client(&authority);
    let watchman = Arc::new(Watchman::default());
    system.set_control(watchman.clone());
    let desk = system.actor_ref::<Desk>(address.clone()).unwrap();
    block_on(async {
        assert_eq!(desk.ask(Echo("hello".into())).await.unwrap(), "ada: hello");
        assert_eq!(watchman.watched.lock().unwrap().as_slice(), std::slice::from_ref(&address.process));
        let waiting = join_all((0..100).map(|number| desk.ask(WaitForOpen(number))));
        let killing = async {
            // All are sent: this one is behind them.
            desk.ask(Echo("are they there?".into())).await.unwrap();
            child.0.kill().unwrap();
            child.0.wait().unwrap();
            let told = Instant::now();
            system.process_died(verdict(&address.process));
            told
        };
        let (waited, told, died) = tokio::join!(waiting, killing, desk.died());
        println!("100 callers and a watcher were told within {:?}", told.elapsed());
        let late = desk.ask(Echo("hello?".into())).await.map(|_| WaitForOpen(0)).map_err(CallError::erase);
        let errors = waited.into_iter().map(|reply| reply.map(|_| WaitForOpen(0)).map_err(CallError::erase));
        for error in errors.chain([late]) {
            let error = error.unwrap_err();
            let report = error.death().unwrap_or_else(|| panic!("{error:?}"));
            assert_eq!(report.cause, Cause::Signal(9));
            assert_eq!((report.node.as_str(), report.process), ("n2", 2));
            assert_eq!((report.role.as_str(), report.actor), ("desk", Some(ActorId(5))));
            assert_eq!(report.log_tail, ["the last words"]);
        }
        assert_eq!(died.cause, Cause::Signal(9));
        system.shut_down(Duration::from_secs(1)).await;
    });
}

#[test]
fn l3_a_verdict_before_the_connection_is_lost_ends_every_wait() {
    let pair = pair();
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        let waiting = desk.ask(WaitForOpen(1));
        let verdict = async {
            desk.ask(Echo("are you there?".into())).await.unwrap();
            pair.here.process_died(verdict(pair.there.address()));
        };
        let (waited, ()) = tokio::join!(waiting, verdict);
        assert_eq!(waited.unwrap_err().death().unwrap().cause, Cause::Signal(9));
        assert!(matches!(desk.ask(Open).await, Err(CallError::Dead(_))));
    });
}

#[test]
fn a_wrong_address_harms_nobody_but_its_own_calls() {
    let pair = pair();
    let watchman = Arc::new(Watchman::default());
    pair.here.set_control(watchman.clone());
    block_on(async {
        let right = pair.there.spawn::<Clerk>("ada".to_owned()).await.unwrap().address().clone();
        let reference = |change: &dyn Fn(&mut ProcessAddress)| {
            let mut address = right.clone();
            change(&mut address.process);
            pair.here.actor_ref::<Desk>(address).unwrap()
        };
        let elsewhere = reference(&|process| process.node = "n9".into());
        let other_kind = reference(&|process| process.kind = ProcessKind::Client);
        let other_port = reference(&|process| process.addr.set_port(9));
        // They come first: whom they lead to is not known yet.
        let mut wrong = pin!(async {
            let asked = [&elsewhere, &other_kind, &other_port].map(|desk| desk.ask(Echo("hello".into())));
            join_all(asked).await
        });
        let desk = reference(&|_| {});
        let waiting = desk.ask(WaitForOpen(5));
        let scene = async {
            assert_eq!(desk.ask(Echo("hello".into())).await.unwrap(), "ada: hello");
            // The node that is named knows of no such process.
            pair.here.process_died(verdict(&elsewhere.address().process));
            assert!(matches!(elsewhere.ask(Open).await, Err(CallError::Dead(_))));
            // Now it is known who has that number.
            assert!(matches!(other_kind.ask(Open).await, Err(CallError::NotSent(..))));
            desk.ask(Open).await.unwrap();
        };
        let met = pin!(async { tokio::join!(waiting, scene) });
        let met = match select(met, wrong.as_mut()).await {
            Either::Left((met, _)) => met,
            Either::Right((answers, met)) => {
                assert!(answers.iter().all(Result::is_err), "{answers:?}");
                met.await
            }
        };
        assert_eq!(met.0.unwrap().to_native(), 5);
        pair.here.shut_down(Duration::ZERO).await;
        pair.there.shut_down(Duration::ZERO).await;
    });
}

/// Takes a connection, grants whatever credit is asked for, and hangs up when the first call comes.
async fn hang_up_at_the_first_call(endpoint: &Endpoint) {
    const CALL: u16 = 1;
    const REQUEST: u16 = 6;
    const GRANT: u16 = 7;
    let connection = endpoint.accept().await.unwrap();
    let (sender, mut receiver) = connection.lane().unwrap();
    loop {
        let frame = receiver.recv().await.unwrap().unwrap();
        match frame.header.kind {
            CALL => return connection.close(CloseCode::Done, "gone without a word"),
            REQUEST => {
                // Actor, no call, no message, 1 message, "an answer", 1 MiB, no total.
                let words = [0u64, 0, 1 | 1 << 32, 1 << 20, 0].map(u64::to_le_bytes).concat();
                let extension = [&frame.extension[..8], &words].concat();
                let header = FrameHeader { kind: GRANT, ..frame.header };
                let mut grant = Frame::new(header, AlignedBytes::default());
                grant.extension = extension.into();
                sender.send(grant).await.unwrap();
            }
            other => panic!("a frame of kind {other}"),
        }
    }
}

#[test]
fn l3_without_a_verdict_a_lost_connection_leaves_its_callers_with_unknown() {
    let authority = Authority::create("school").unwrap();
    let identity = PeerIdentity::new("school", PeerRole::Worker, "n2", 2).unwrap();
    let credentials = authority.issue(&identity, Duration::from_secs(3600)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut options = EndpointOptions::new("127.0.0.1:0".parse().unwrap());
        options.admission = Admission::roles([PeerRole::Client]);
        let endpoint = Endpoint::bind(credentials, options).unwrap();
        let addr = endpoint.local_addr();
        let process = ProcessAddress { kind: ProcessKind::Worker, node: "n2".into(), process: 2, addr };
        let address =
            ActorAddress { actor: ActorId(5), incarnation: 1, role: "desk".into(), process, job: 7 };
        let system = client(&authority);
        let desk = system.actor_ref::<Desk>(address).unwrap();
        let (asked, ()) = tokio::join!(desk.ask(Echo("hello?".into())), hang_up_at_the_first_call(&endpoint));
        match asked {
            Err(CallError::Unknown(why)) => assert!(why.contains("gone without a word"), "{why}"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_handler_is_told_when_its_callers_process_is_gone() {
    let pair = pair();
    block_on(async {
        let (theirs, ours) = pair.both_sides::<Clerk>("ada").await;
        let witness = pair.there.spawn::<Clerk>("witness".to_owned()).await.unwrap();
        let mut search = pin!(ours.ask(Search(witness.clone())));
        let begun = pin!(counted(&witness, 1));
        assert!(matches!(select(search.as_mut(), begun).await, Either::Right(_)));
        // The call itself is kept, and waits.
        pair.here.shut_down(Duration::ZERO).await;
        assert_eq!(counted(&theirs, 1).await, [1]);
        pair.there.shut_down(Duration::ZERO).await;
    });
}

#[test]
fn a_process_that_cannot_be_reached_gives_the_message_back() {
    let pair = pair();
    block_on(async {
        let desk = pair.desk::<Clerk>("ada").await;
        pair.there.shut_down(Duration::ZERO).await;
        match desk.ask(Echo("hello".into())).await {
            Err(CallError::NotSent(Echo(text), _)) => assert_eq!(text, "hello"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn an_older_incarnation_is_rejected_and_a_newer_one_takes_its_place() {
    let pair = pair();
    block_on(async {
        let args = encode(&"ada".to_owned()).unwrap();
        let start = async |incarnation| {
            let started = pair.there.start_registered("desk", &args, ActorId(9), incarnation, 3).await;
            started.map(|address| (address.clone(), pair.here.actor_ref::<Desk>(address).unwrap()))
        };
        let (_, first) = start(1).await.unwrap();
        assert_eq!(first.ask(Count(1)).await.unwrap().to_native(), 1);
        let (_, second) = start(2).await.unwrap();
        assert!(matches!(first.died().await.cause, Cause::OrderedBy(_)));
        assert!(matches!(first.ask(Count(1)).await, Err(CallError::Dead(_))));
        assert_eq!(second.ask(Count(1)).await.unwrap().to_native(), 1);
        let mut never = second.address().clone();
        never.actor = ActorId(77);
        let never = pair.here.actor_ref::<Desk>(never).unwrap();
        assert!(matches!(never.ask(Open).await, Err(CallError::Refused(_))));
        assert!(matches!(never.died().await.cause, Cause::Unknown(_)));
        let again = start(1).await.unwrap_err();
        assert_eq!(again, SpawnError::AlreadyHere { actor: ActorId(9), incarnation: 2 });
    });
}

#[test]
fn an_unregistered_role_is_refused_by_name() {
    let pair = pair();
    block_on(async {
        let error = pair.there.start_registered("cook", &[], ActorId(9), 1, 3).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("cook") && text.contains("desk"), "{text}");
    });
}
