//! A node's logs and their readers, without a cluster.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lyceum_wire::{
    Admission, Authority, Connection, Endpoint, EndpointOptions, Expect, LaneReceiver, LaneSender,
    PeerIdentity, PeerRole,
};

use super::book::LogBook;
use super::serve::LogDesk;
use super::words::{AgentToClient, ClientToAgent, LogSelector, MAX_NAMED, ReadLogs, WINDOW};
use super::{LogEntry, LogLabel, now_ms};
use crate::manifest::LogsSection;
use crate::message::Message;
use crate::units::{Bytes, Span};

fn limits(size: u64, total: u64, keep: &str) -> LogsSection {
    LogsSection { size: Bytes(size), keep: Span::parse(keep).unwrap(), total: Some(Bytes(total)) }
}

fn book(folder: &Path, limits: LogsSection) -> Arc<LogBook> {
    fs::write(folder.join("agent"), b"the agent is up\n").unwrap();
    LogBook::open(folder.to_owned(), folder.join("agent"), limits)
}

fn label(process: u64) -> LogLabel {
    let (name, job_name) = (Some("ada".to_owned()), "a job".to_owned());
    let rank = Some((process as u32 % 2, 2));
    LogLabel {
        process,
        actor: 100 + process % 2,
        job: 50,
        job_name,
        role: "probe".into(),
        name,
        rank,
        ..LogLabel::default()
    }
}

/// Writes so many bytes into the log of a process that begins.
fn write(book: &LogBook, process: u64, bytes: usize) -> std::path::PathBuf {
    let (path, mut file) = book.begin(label(process)).unwrap();
    file.write_all(&vec![b'x'; bytes]).unwrap();
    path
}

fn processes(book: &LogBook, of: &LogSelector) -> Vec<u64> {
    book.select(of).into_iter().map(|entry| entry.label.process).filter(|process| *process != 0).collect()
}

#[test]
fn a_role_that_is_no_file_name_becomes_one() {
    let folder = tempfile::tempdir().unwrap();
    let book = book(folder.path(), LogsSection::default());
    let role = format!("../../{}\0\n", "é".repeat(300));
    let (path, _) = book.begin(LogLabel { role, ..label(7) }).unwrap();
    assert_eq!(path.parent().unwrap(), folder.path());
    assert_eq!(path.file_name().unwrap().to_str().unwrap(), format!("00000007-{}.log", "_".repeat(48)));
}

#[test]
fn what_has_ended_goes_when_it_is_old_or_has_no_room_and_what_lives_never() {
    let folder = tempfile::tempdir().unwrap();
    let book = book(folder.path(), limits(1 << 20, 100_000, "1h"));
    let paths: Vec<_> = (1..=6).map(|process| write(&book, process, 40_000)).collect();
    book.prune(u64::MAX);
    assert_eq!(processes(&book, &LogSelector::Node), [1, 2, 3, 4, 5, 6], "all of them live");
    for process in [2, 1, 3, 4] {
        book.end(process, "finished");
        // The order in which they ended is what counts.
        std::thread::sleep(Duration::from_millis(2));
    }
    book.prune(now_ms());
    assert_eq!(processes(&book, &LogSelector::Node), [5, 6], "those that live take nearly all");
    assert!(!paths[0].exists() && !paths[0].with_extension("json").exists() && paths[5].exists());

    write(&book, 7, 10);
    book.end(7, "finished");
    book.prune(now_ms());
    assert_eq!(processes(&book, &LogSelector::Node), [5, 6, 7]);
    book.prune(now_ms() + 3_600_000);
    assert_eq!(processes(&book, &LogSelector::Node), [5, 6]);
}

#[test]
fn the_next_agent_knows_the_logs_that_an_earlier_one_has_left() {
    let folder = tempfile::tempdir().unwrap();
    let first = book(folder.path(), LogsSection::default());
    write(&first, 1, 10);
    first.end(1, "ended by signal 9 (SIGKILL)");
    first.end(1, "ended again");
    let cut_off = write(&first, 2, 10);
    let damaged = write(&first, 3, 10);
    fs::write(damaged.with_extension("json"), b"{\"process\":9}").unwrap();
    fs::write(folder.path().join("notes.log"), b"of somebody else").unwrap();
    drop(first);

    let next = book(folder.path(), LogsSection::default());
    let logs = next.select(&LogSelector::Node);
    let found: Vec<&LogEntry> = logs.iter().filter(|entry| entry.label.process != 0).collect();
    let causes: Vec<&str> = found.iter().map(|entry| &*entry.label.end.as_ref().unwrap().cause).collect();
    let with_agent = "ended with its node's agent";
    assert_eq!(causes, ["ended by signal 9 (SIGKILL)", with_agent, with_agent]);
    let unknown = &found[2].label;
    assert_eq!((unknown.process, &*unknown.role, unknown.actor), (3, "probe", 0));
    assert_eq!(found[0].label, LogLabel { end: found[0].label.end.clone(), ..label(1) });
    assert!(cut_off.exists() && found.iter().all(|entry| entry.written == 10));
}

#[test]
fn logs_are_chosen_by_numbers_and_names_of_their_actors_and_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let book = book(folder.path(), LogsSection::default());
    for process in 1..=4 {
        write(&book, process, 10);
    }
    book.begin(LogLabel { namespace: Some("school".into()), rank: None, job: 51, ..label(9) }).unwrap();
    let called = |text: &str| processes(&book, &LogSelector::Called(text.to_owned()));
    assert_eq!(called("ada"), [1, 2, 3, 4, 9]);
    assert_eq!(called("ada[1]"), [1, 3]);
    assert_eq!(called("school/ada"), [9]);
    assert_eq!(called("101"), [1, 3, 9]);
    assert_eq!(called("50"), [1, 2, 3, 4]);
    assert_eq!(called("3"), [3]);
    assert_eq!(called("a job"), [1, 2, 3, 4, 9]);
    for nothing in ["0", "ad", "ada[2]", "ada[", "[1]", "", "school/", "agent"] {
        assert_eq!(called(nothing), Vec::<u64>::new(), "{nothing}");
    }
    assert_eq!(processes(&book, &LogSelector::Actors(vec![100, 0])), [2, 4]);
    assert_eq!(processes(&book, &LogSelector::Job(51)), [9]);
    assert_eq!(book.select(&LogSelector::Processes(vec![0, 2])).len(), 2, "the agent's own is one of them");
}

/// An agent of one log of so many bytes, and somebody who has called it.
struct Called {
    _folder: tempfile::TempDir,
    _endpoints: (Endpoint, Endpoint),
    connection: Connection,
    lane: LaneSender,
    frames: LaneReceiver,
}

impl Called {
    async fn new(bytes: usize) -> Called {
        let folder = tempfile::tempdir().unwrap();
        let book = book(folder.path(), LogsSection::default());
        write(&book, 7, bytes);
        let authority = Authority::create("school").unwrap();
        let endpoint = |role, node: &str| {
            let identity = PeerIdentity::new("school", role, node, 1).unwrap();
            let credentials = authority.issue(&identity, Duration::from_secs(60)).unwrap();
            let mut options = EndpointOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)));
            options.admission = Admission::roles([PeerRole::Client]);
            Endpoint::bind(credentials, options).unwrap()
        };
        let (agent, client) = (endpoint(PeerRole::Agent, "a"), endpoint(PeerRole::Client, "client"));
        let (called, desk) = (agent.clone(), LogDesk::new(book));
        tokio::spawn(async move {
            while let Some(connection) = called.accept().await {
                let desk = desk.clone();
                tokio::spawn(async move {
                    if let Err(error) = desk.serve(&connection).await {
                        connection.close(lyceum_wire::CloseCode::Protocol, &error.to_string());
                    }
                });
            }
        });
        let connection = client.connect(agent.local_addr(), &Expect::role(PeerRole::Agent)).await.unwrap();
        let (lane, frames) = connection.lane().unwrap();
        Called { _folder: folder, _endpoints: (agent, client), connection, lane, frames }
    }

    async fn say(&self, word: ClientToAgent) {
        self.lane.send(word.into_frame().unwrap()).await.unwrap();
    }

    async fn read(&self, of: LogSelector) {
        let read = ReadLogs { of, from: Vec::new(), tail: None, within_ms: None, follow: false };
        self.say(ClientToAgent::Read(read)).await;
    }

    /// The next word and the length of its frame.
    async fn hear(&mut self) -> (AgentToClient, u64) {
        let frame = self.frames.recv().await.unwrap().unwrap();
        (AgentToClient::from_frame(&frame).unwrap().unwrap(), frame.wire_len() as u64)
    }
}

#[tokio::test]
async fn l2_no_more_is_sent_than_a_reader_can_take() {
    let len = 4 << 20;
    let mut called = Called::new(len).await;
    called.read(LogSelector::Processes(vec![7])).await;
    let (mut granted, mut came, mut read) = (0, 0, 0);
    loop {
        // As little as a piece at a time: nothing comes that was not granted.
        called.say(ClientToAgent::More { bytes: 40_000 }).await;
        granted += 40_000;
        let (word, bytes) = called.hear().await;
        came += bytes;
        assert!(came <= granted, "{came} bytes came, of {granted}");
        match word {
            AgentToClient::Piece { process: 7, place, bytes } => {
                assert_eq!(place, read as u64);
                read += bytes.len();
            }
            AgentToClient::Done => break,
            AgentToClient::Log { .. } => {}
            other => panic!("{other:?}"),
        }
        // Whoever can take much has not said so yet.
        if granted - came > WINDOW - 80_000 {
            let (word, bytes) = called.hear().await;
            came += bytes;
            let AgentToClient::Piece { bytes, .. } = word else { panic!("{word:?}") };
            read += bytes.len();
        }
    }
    assert_eq!(read, len);
}

#[tokio::test]
async fn a_reader_that_breaks_the_rules_is_cut_off_with_the_reason() {
    for (words, why) in [
        (vec![ClientToAgent::More { bytes: u64::MAX }], "expected at most 262144"),
        (
            vec![ClientToAgent::More { bytes: WINDOW }, ClientToAgent::More { bytes: 1 }],
            "takes 262144 + 1 bytes",
        ),
        (vec![ClientToAgent::List { of: LogSelector::Node }; 4], "one thing at a time"),
    ] {
        let called = Called::new(10).await;
        for word in words {
            called.say(word).await;
        }
        let reason = called.connection.closed().await.to_string();
        assert!(reason.contains(why), "{reason}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_and_the_next_question_is_answered() {
    let mut called = Called::new(10).await;
    called.say(ClientToAgent::More { bytes: WINDOW }).await;
    called.read(LogSelector::Processes(vec![1; MAX_NAMED + 1])).await;
    let why = "4097 logs are asked for together, expected at most 4096".to_owned();
    assert_eq!(called.hear().await.0, AgentToClient::Refused { why });
    let unknown = lyceum_wire::FrameHeader { kind: 0x07ff, ..Default::default() };
    let frame = lyceum_wire::Frame::new(unknown, lyceum_wire::AlignedBytes::copy_from(b"whatever it says"));
    called.lane.send(frame).await.unwrap();
    let why = "questions of kind 0x07ff are not known here: one of both is newer".to_owned();
    assert_eq!(called.hear().await.0, AgentToClient::Refused { why });
    called.read(LogSelector::Processes(vec![8])).await;
    assert_eq!(called.hear().await.0, AgentToClient::Done, "there is none of that number");
}
