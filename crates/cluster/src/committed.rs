//! Committed bytes: what programs of this protocol version, and heads of this version of records, have written before
//! must be read as long as the version is the same. Each file of `tests/bytes` is of one version.
//!
//! Where a form must change, its version does (`lyceum_wire::PROTOCOL_VERSION`, or that of the head's records), and
//! `LYCEUM_WRITE_BYTES=1 cargo test --package lyceum-cluster committed` writes the file of the new one; a further kind is
//! added to the file in the same way.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use lyceum_wire::testing::to_bytes;
use lyceum_wire::{AlignedBytes, Frame, FrameDecoder, FrameHeader, PROTOCOL_VERSION};

use crate::control::record::*;
use crate::control::vocabulary::Origin;
use crate::head::database;
use crate::samples::{self, Said};

fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bytes")).join(name)
}

/// The lines of a committed file, a name and bytes each; written first where that is asked for.
fn committed(name: &str, present: &[(String, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    let path = file(name);
    if std::env::var_os("LYCEUM_WRITE_BYTES").is_some() {
        let mut text = String::new();
        for (name, bytes) in present {
            text.push_str(name);
            text.push(' ');
            bytes.iter().for_each(|byte| _ = write!(text, "{byte:02x}"));
            text.push('\n');
        }
        std::fs::write(&path, text).unwrap();
    }
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}: a new version needs its bytes", path.display()));
    let line = |line: &str| {
        let (name, hex) = line.split_once(' ').unwrap();
        let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (name.to_owned(), (0..hex.len()).step_by(2).map(digits).collect())
    };
    text.lines().map(line).collect()
}

fn to_frame(bytes: Vec<u8>) -> Frame {
    let mut decoder = FrameDecoder::default();
    decoder.push(Bytes::from(bytes));
    let frame = decoder.next_frame().unwrap().unwrap();
    decoder.end().unwrap();
    frame
}

#[test]
fn control_frames_of_this_protocol_version_are_read_to_what_was_meant() {
    let meant = samples::all();
    let frame = |said: &Said| {
        let frame = said.clone().into_frame().unwrap();
        (format!("{}/{:04x}", said.lane(), frame.header.kind), to_bytes([&frame]))
    };
    let present: Vec<_> = meant.iter().map(frame).collect();
    let committed = committed(&format!("control-{PROTOCOL_VERSION}"), &present);
    assert_eq!(committed.len(), meant.len(), "each word has its bytes, and each bytes their word");
    for ((name, bytes), said) in committed.into_iter().zip(meant) {
        let read = Said::read(said.lane(), &to_frame(bytes));
        assert_eq!(read.unwrap(), Some(said), "{name}");
    }
}

#[test]
fn each_kind_has_committed_bytes() {
    let said: BTreeSet<u16> =
        samples::all().into_iter().map(|said| said.into_frame().unwrap().header.kind).collect();
    for kind in 0..=u16::MAX {
        let frame = Frame::new(FrameHeader { kind, ..FrameHeader::default() }, AlignedBytes::default());
        // An error is one of the content: the kind is known.
        let known = Said::LANES.iter().any(|lane| !matches!(Said::read(lane, &frame), Ok(None)));
        assert_eq!(known, said.contains(&kind), "kind {kind:#06x}");
    }
}

/// One of each record.
pub(crate) fn records() -> Vec<(Key, Value)> {
    let death = samples::death(lyceum_actor::Cause::Signal(9));
    let closure = Closure { why: "its disk is full".into(), empty_within_ms: Some(60_000) };
    let actor = ActorState {
        request: samples::spawn(),
        spawner: Origin::Worker(11),
        restarts_left: 2,
        process: Some(12),
        started: true,
        seat: Some(Seat { gang: 8, rank: 1, size: 4 }),
    };
    let process = ProcessState {
        actor: Some(9),
        job: 7,
        node: "node-b".into(),
        node_incarnation: 3,
        allotment: samples::allotment(),
        ready: Some(("10.1.2.3:7401".parse().unwrap(), 4712)),
        stopped_by: Some("a person at the desk".into()),
        moves: true,
    };
    let job = JobState {
        name: "a job with a name".into(),
        bound_to: Some(1),
        ended_by: Some("a person at the desk".into()),
    };
    let ending = GangEnding { by: "its first to fail".into(), first: Some((9, death)) };
    vec![
        (Key::Next, Value::Next(40)),
        (Key::Node("node-b".into()), Value::Node(NodeState { incarnation: 3, closure: Some(closure) })),
        (Key::Job(7), Value::Job(job)),
        (Key::Gang(8), Value::Gang(GangState { started: true, ending: Some(ending) })),
        (Key::Actor(9), Value::Actor(actor)),
        (Key::Process(12), Value::Process(process)),
        (Key::Saved(9), Value::Saved(vec![7; 20])),
        (Key::Offer("node-b".into()), Value::Offer(samples::offer())),
    ]
}

#[test]
fn records_of_this_version_are_read_to_what_was_meant() {
    let meant = records();
    let record = |(key, value): &(Key, Value)| {
        let name = format!("{key:?}").replace(' ', "");
        (name, database::to_bytes(key, value).unwrap())
    };
    let present: Vec<_> = meant.iter().map(record).collect();
    let committed = committed(&format!("records-{}", database::VERSION), &present);
    assert_eq!(committed.len(), meant.len(), "each record has its bytes");
    for ((name, bytes), meant) in committed.into_iter().zip(meant) {
        assert_eq!(database::from_bytes(&bytes).unwrap(), meant, "{name}");
    }
}

#[test]
fn a_frame_of_the_version_before_is_passed_by() {
    // Protocol 1 had one kind for all control frames, and everything in its archive.
    let header = FrameHeader { kind: 0x4c43, ..FrameHeader::default() };
    let frame = Frame::new(header, AlignedBytes::copy_from(&[7; 40]));
    for lane in Said::LANES {
        assert!(Said::read(lane, &frame).unwrap().is_none(), "{lane}");
    }
}
