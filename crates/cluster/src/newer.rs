//! Peers that are newer: kinds of words that are not known here are passed by, at each end, and who waits for an answer to
//! one, or for one that comes in such a word, is told so.

use std::time::Duration;

use lyceum_actor::ControlError;
use lyceum_wire::{
    Admission, AlignedBytes, Authority, Credentials, Endpoint, EndpointOptions, Expect, Frame, FrameHeader,
    LaneReceiver, LaneSender, PeerIdentity, PeerRole,
};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::agent::{Happening, head_link, workers};
use crate::client::Client;
use crate::control::HeadEvent;
use crate::control::vocabulary::{Answer, Ask, CLIENT_NODE, Origin};
use crate::error::ClusterError;
use crate::head::{Beats, HeadAddress, Input, accept};
use crate::message::*;
use crate::samples;
use crate::state::{StateDir, write_json};
use crate::worker::AgentLine;

/// A word of a kind that comes later: about nothing, or about a question.
fn unknown(kind: u16, process: u64, request: u64) -> Frame {
    let header = FrameHeader { kind, job: 9, trace: request, incarnation: process };
    Frame::new(header, AlignedBytes::copy_from(b"whatever it says"))
}

/// What is said of it.
fn refusal(kind: u16) -> Answer {
    let version = env!("CARGO_PKG_VERSION");
    let why = format!("messages of kind {kind:#06x} are not known to lyceum {version}: one of both is newer");
    Answer::Error(ControlError::Refused(why))
}

struct School(Authority);

impl School {
    fn new() -> School {
        School(Authority::create("school").unwrap())
    }

    fn credentials(&self, role: PeerRole, node: &str) -> Credentials {
        let identity = PeerIdentity::new("school", role, node, 7).unwrap();
        self.0.issue(&identity, Duration::from_secs(60)).unwrap()
    }

    fn endpoint(&self, role: PeerRole, node: &str) -> Endpoint {
        let mut options = EndpointOptions::new("127.0.0.1:0".parse().unwrap());
        options.admission = Admission::roles(PeerRole::ALL);
        Endpoint::bind(self.credentials(role, node), options).unwrap()
    }
}

async fn say(lane: &LaneSender, message: impl Message) {
    lane.send(message.into_frame().unwrap()).await.unwrap();
}

async fn hear<M: Message>(frames: &mut LaneReceiver) -> M {
    M::from_frame(&frames.recv().await.unwrap().unwrap()).unwrap().unwrap()
}

#[tokio::test]
async fn a_head_refuses_unknown_questions_and_hears_on() {
    let school = School::new();
    let head = school.endpoint(PeerRole::Head, "head");
    let (events, mut inbox) = mpsc::channel(16);
    tokio::spawn(accept(head.clone(), Beats::default(), events));

    let client = school.endpoint(PeerRole::Client, CLIENT_NODE);
    let connection = client.connect(head.local_addr(), &Expect::role(PeerRole::Head)).await.unwrap();
    let (lane, mut frames) = connection.lane().unwrap();
    lane.send(unknown(0x04ff, 0, 5)).await.unwrap();
    lane.send(unknown(0x09ff, 0, 0)).await.unwrap();
    say(&lane, ClientToHead::Ask { request: 6, ask: Ask::Status }).await;
    let HeadToClient::Answer { request, answer, .. } = hear(&mut frames).await else { panic!("no answer") };
    assert_eq!((request, answer), (5, refusal(0x04ff)));
    assert!(matches!(inbox.recv().await, Some(Input::ClientJoined { .. })));
    let Some(Input::Machine(HeadEvent::Asked { origin: Origin::Client(_), request: 6, ask: Ask::Status })) =
        inbox.recv().await
    else {
        panic!("the known question comes through, and nothing else");
    };

    let agent = school.endpoint(PeerRole::Agent, "a");
    let connection = agent.connect(head.local_addr(), &Expect::role(PeerRole::Head)).await.unwrap();
    let (lane, mut frames) = connection.lane().unwrap();
    say(&lane, samples::join()).await;
    lane.send(unknown(0x03ff, 0, 0)).await.unwrap();
    lane.send(unknown(0x04ff, 12, 5)).await.unwrap();
    let report = samples::reports().remove(0);
    say(&lane, AgentToHead::Report(report.clone())).await;
    let HeadToAgent::Answer { process, request, answer } = hear(&mut frames).await else {
        panic!("no answer")
    };
    assert_eq!((process, request, answer), (12, 5, refusal(0x04ff)));
    assert!(matches!(inbox.recv().await, Some(Input::AgentJoined(_))));
    match inbox.recv().await {
        Some(Input::Machine(HeadEvent::Reported { report: heard, .. })) => assert_eq!(heard, report),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_agent_passes_unknown_commands_by_and_has_errors_for_unknown_answers() {
    let school = School::new();
    let head = school.endpoint(PeerRole::Head, "head");
    let (events, mut inbox) = mpsc::channel(16);
    let agent = school.endpoint(PeerRole::Agent, "a");
    tokio::spawn(head_link::keep(agent, vec![head.local_addr()], Duration::from_secs(600), events));
    let connection = head.accept().await.unwrap();
    let (lane, _frames) = connection.lane().unwrap();
    lane.send(unknown(0x02ff, 0, 0)).await.unwrap();
    lane.send(unknown(0x05ff, 12, 5)).await.unwrap();
    say(&lane, HeadToAgent::Welcome(Welcome { pid: 1, host: "here".into() })).await;
    assert!(matches!(inbox.recv().await, Some(Happening::HeadUp { .. })));
    let mut heard = Vec::new();
    while heard.len() < 2 {
        if let Some(Happening::FromHead(message)) = inbox.recv().await {
            heard.push(*message);
        }
    }
    let answer = HeadToAgent::Answer { process: 12, request: 5, answer: refusal(0x05ff) };
    assert_eq!(heard, [answer, HeadToAgent::Welcome(Welcome { pid: 1, host: "here".into() })]);
}

#[tokio::test]
async fn a_client_has_an_error_for_an_answer_of_an_unknown_kind_and_goes_on() {
    let school = School::new();
    let head = school.endpoint(PeerRole::Head, "head");
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::at(folder.path());
    school.credentials(PeerRole::Client, CLIENT_NODE).save(&state.client()).unwrap();
    state.make(&state.head()).unwrap();
    let address = HeadAddress { bound: head.local_addr(), advertised: head.local_addr(), pid: 1 };
    write_json(&state.head_address(), &address).unwrap();

    let serve = tokio::spawn(async move {
        let connection = head.accept().await.unwrap();
        let (lane, mut frames) = connection.lane().unwrap();
        let ClientToHead::Ask { request, .. } = hear(&mut frames).await;
        lane.send(unknown(0x06ff, 0, 0)).await.unwrap();
        lane.send(unknown(0x05ff, 0, request)).await.unwrap();
        let ClientToHead::Ask { request, .. } = hear(&mut frames).await;
        say(&lane, HeadToClient::Answer { request, answer: Answer::Done, credentials: vec![] }).await;
        // Until the client has gone.
        while let Ok(Some(_)) = frames.recv().await {}
    });
    let client = Client::connect(&state).await.unwrap();
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClusterError::Control(_)), "{error:?}");
    assert!(error.to_string().contains("messages of kind 0x05ff are not known"), "{error}");
    client.uncordon("a").await.unwrap();
    drop(client);
    serve.await.unwrap();
}

#[tokio::test]
async fn a_worker_passes_unknown_words_of_its_agent_by() {
    let (agents, workers) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut worker = AgentLine::open(workers.into()).unwrap();
    agents.set_nonblocking(true).unwrap();
    let mut agents = UnixStream::from_std(agents).unwrap();
    for frame in [unknown(0x01ff, 0, 0), unknown(0x05ff, 0, 5)] {
        write_local_frame(&mut agents, &frame).await.unwrap();
    }
    let stop = AgentToWorker::Stop { by: "somebody".into() };
    write_local(&mut agents, stop.clone()).await.unwrap();
    assert_eq!(worker.next().await, AgentToWorker::Answer { request: 5, answer: refusal(0x05ff) });
    assert_eq!(worker.next().await, stop);
}

#[tokio::test]
async fn an_agent_refuses_unknown_questions_of_its_worker_and_hears_on() {
    let (agents, mut workers) = UnixStream::pair().unwrap();
    let (events, mut inbox) = mpsc::channel(16);
    tokio::spawn(workers::read(12, agents.into_split().0, events));
    for frame in [unknown(0x01ff, 0, 0), unknown(0x04ff, 0, 5)] {
        write_local_frame(&mut workers, &frame).await.unwrap();
    }
    let asked = WorkerToAgent::Ask { request: 6, ask: Ask::Status };
    write_local(&mut workers, asked.clone()).await.unwrap();
    let Some(Happening::Unread { process: 12, request: 5, answer }) = inbox.recv().await else {
        panic!("no refusal")
    };
    assert_eq!(answer, refusal(0x04ff));
    let Some(Happening::FromWorker { process: 12, message }) = inbox.recv().await else {
        panic!("no question")
    };
    assert_eq!(*message, asked);
}

#[test]
fn a_kind_that_is_unknown_is_logged_once_a_connection() {
    #[derive(Clone, Default)]
    struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        let mut passed = Unknown::default();
        for kind in [0x02ff, 0x02ff, 0x04ff, 0x02ff] {
            assert_eq!(passed.pass_by(&unknown(kind, 0, 0), &"the head"), None);
        }
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("messages of kind 0x02ff are not known") && text.contains("the head"), "{text}");
}
