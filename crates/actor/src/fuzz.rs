//! What a peer process sends, once TLS has let it in: each parser of this crate, and the reader with all that it does,
//! given anything at all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use lyceum_fuzz::Fuzz;
use lyceum_wire::testing::{to_bytes, to_frames};
use lyceum_wire::{AlignedBytes, access_checked};
use rkyv::{Archived, rancor};

use crate::{
    Accepts, Actor, ActorAddress, ActorId, Cause, Context, DeathReport, GangRequest, Handler, Incoming,
    ProcessAddress, ProcessKind, Reader, Reads, Result, Role, SpawnRequest, System, SystemOptions,
    fingerprint,
    inbound::Incomings,
    kept::CallKey,
    link::Link,
    message::{encode, message_id},
    protocol::*,
    relay::{End, PassOn},
    slot::Outcome,
};

fn report() -> DeathReport {
    DeathReport {
        role: "desk".into(),
        actor: Some(ActorId(9)),
        process: 12,
        node: "node-b".into(),
        cause: Cause::Failed(vec!["it could not".into(), "because".into()]),
        log_tail: vec!["the last line but one".into(), "the last line".into()],
    }
}

fn header(data: &[u8]) {
    if let Ok(extension) = Extension::decode(data) {
        let frame = frame(Kind::Call, 1, 2, 3, &extension, AlignedBytes::default());
        assert_eq!(&frame.extension[..], data);
    }
}

#[test]
fn headers_are_read_or_refused() {
    let plain =
        Extension { actor: 9, call: 1, message: 2, count: 3, flags: 4, amount: 5, total: 6, key: None };
    let keyed = Extension { key: Some(CallKey { key: 7, lowest: 6 }), ..plain };
    let seeds = [plain, keyed]
        .map(|extension| frame(Kind::Call, 1, 2, 3, &extension, AlignedBytes::default()).extension.to_vec());
    Fuzz::new("actor header").seeds(seeds).runs(10_000).memory(4096).run(header);
}

/// The first byte is the status.
fn outcome(data: &[u8]) {
    let Some((status, payload)) = data.split_first() else { return };
    let payload = AlignedBytes::copy_from(payload);
    let Ok(outcome) = decode_outcome(u32::from(*status), payload) else { return };
    let (status, again) = encode_outcome(outcome.clone());
    assert_eq!(format!("{:?}", decode_outcome(status, again).unwrap()), format!("{outcome:?}"));
    // As its caller is told.
    drop(outcome.into_error::<()>(None).to_string());
}

#[test]
fn ends_of_calls_are_read_or_refused() {
    let text = || "in some words".to_owned();
    let outcomes = [
        Outcome::Reply { bytes: AlignedBytes::copy_from(b"a reply"), origin: None },
        Outcome::NotSent(text()),
        Outcome::Unknown(text()),
        Outcome::Dead(Box::new(report())),
        Outcome::Deadline,
        Outcome::Cancelled,
        Outcome::Failed(vec![text(), "because".into()]),
        Outcome::Refused(text()),
    ];
    let seeds = outcomes.map(|outcome| {
        let (status, payload) = encode_outcome(outcome);
        [&[status as u8][..], &payload].concat()
    });
    Fuzz::new("actor outcome").seeds(seeds).runs(60_000).memory(1 << 20).run(outcome);
}

/// The first byte says what the archive is one of: all that travel in messages and are of this crate.
fn travelling(data: &[u8]) {
    fn read<T>(bytes: &[u8])
    where
        T: crate::Message,
    {
        let bytes = AlignedBytes::copy_from(bytes);
        let Ok(archived) = access_checked::<Archived<T>>(&bytes) else { return };
        let value = rkyv::deserialize::<T, rancor::Error>(archived).unwrap();
        let again = AlignedBytes::from(encode(&value).unwrap());
        access_checked::<Archived<T>>(&again).unwrap();
    }
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 6 {
        0 => read::<ActorAddress>(bytes),
        1 => read::<DeathReport>(bytes),
        2 => read::<SpawnRequest>(bytes),
        3 => read::<GangRequest>(bytes),
        4 => read::<PassOn>(bytes),
        _ => read::<Vec<End>>(bytes),
    }
}

#[test]
fn what_travels_in_messages_is_read_or_refused() {
    let process =
        ProcessAddress { kind: ProcessKind::Worker, node: "node-b".into(), process: 12, addr: addr() };
    let address = ActorAddress { actor: ActorId(9), incarnation: 12, role: "desk".into(), process, job: 7 };
    let spawn = SpawnRequest {
        role: "a role of some name".into(),
        args: vec![1; 20],
        env: [("KEY".to_owned(), "a value".to_owned())].into(),
        ..SpawnRequest::default()
    };
    let gang = GangRequest { member: spawn.clone(), args: vec![vec![1], vec![2; 30]] };
    let pass_on = PassOn::sample(vec![address.clone(), address.clone()]);
    let ends: Vec<End> = vec![End::sample(0), End::sample(3)];
    let seed = |kind: u8, bytes: std::result::Result<rkyv::util::AlignedVec, rancor::Error>| {
        [&[kind][..], &bytes.unwrap()].concat()
    };
    let seeds = [
        seed(0, encode(&address)),
        seed(1, encode(&report())),
        seed(2, encode(&spawn)),
        seed(3, encode(&gang)),
        seed(4, encode(&pass_on)),
        seed(5, encode(&ends)),
    ];
    Fuzz::new("actor travelling").seeds(seeds).runs(60_000).memory(1 << 20).run(travelling);
}

fn addr() -> std::net::SocketAddr {
    "10.1.2.3:7401".parse().unwrap()
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Say(String);
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Look(Vec<u32>);

struct Desk;

impl Role for Desk {
    const NAME: &'static str = "desk";
    type Args = ();
    type Messages = (Say, Reads<Look>);
}
impl Accepts<Say> for Desk {
    type Reply = String;
}
impl Accepts<Look> for Desk {
    type Reply = u32;
}

struct Clerk;

impl Actor for Clerk {
    type Role = Desk;

    async fn start((): (), _: &mut Context<Self>) -> Result<Self> {
        Ok(Clerk)
    }
}

impl Handler<Say> for Clerk {
    async fn handle(&mut self, say: Incoming<Say>, _: &mut Context<Self>) -> Result<String> {
        Ok(say.read()?.0)
    }
}

impl Reader<Look> for Clerk {
    async fn read(&self, look: Incoming<Look>, _: &mut Context<Self>) -> Result<u32> {
        Ok(look.0.len() as u32)
    }
}

/// A process with one actor, at which peers knock.
struct Bed {
    system: System,
    desk: ActorAddress,
}

fn bed() -> &'static Bed {
    static BED: OnceLock<Bed> = OnceLock::new();
    BED.get_or_init(|| {
        let options = SystemOptions { actor_threads: 1, ..SystemOptions::default() };
        let system = System::start(options).unwrap();
        let desk = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(system.spawn::<Clerk>(()))
            .unwrap();
        Bed { desk: desk.address().clone(), system }
    })
}

/// All that one peer says on its connection.
fn conversation(data: &[u8]) {
    static LINKS: AtomicU64 = AtomicU64::new(1 << 32);
    let Bed { system, desk } = bed();
    let peer = ProcessAddress { kind: ProcessKind::Worker, node: "n2".into(), process: 5, addr: addr() };
    let key = LINKS.fetch_add(1, Ordering::Relaxed);
    let link = Link::new(key, peer, Arc::downgrade(system.inner()));
    let mut taken = Incomings::default();
    let ended = to_frames(data).into_iter().try_for_each(|frame| taken.take(system, &link, frame));
    if let Err(why) = taken.act(&link).and(ended) {
        assert!(!why.is_empty());
        link.protocol_error(&why);
    }
    system.lost(&link, "it has gone");
    assert!(system.find(desk.actor, desk.incarnation).is_ok(), "what a peer says ends no actor");
}

#[test]
fn whatever_a_peer_says_its_connection_alone_may_end() {
    let Bed { system, desk } = bed();
    let about = |kind, extension: Extension, payload: &[u8]| {
        let extension = Extension { actor: desk.actor.0, ..extension };
        frame(kind, desk.incarnation, desk.job, 1, &extension, AlignedBytes::copy_from(payload))
    };
    let none = Extension::default();
    let say = encode(&Say("a text that is long enough to lie elsewhere".into())).unwrap();
    let look = encode(&Look(vec![1; 20])).unwrap();
    let total = say.len() as u64;
    let request = Extension { message: fingerprint::<Desk>(), total, ..none };
    let call = |call, message, bytes: &[u8]| Extension { call, message, total: bytes.len() as u64, ..none };
    let keyed = Extension { key: Some(CallKey { key: 1, lowest: 1 }), ..call(3, message_id::<Say>(), &say) };
    let (failed, evidence) = encode_outcome(Outcome::Failed(vec!["it could not".into()]));
    let reply = |flags, bytes: &[u8]| Extension { call: 1, flags, total: bytes.len() as u64, ..none };
    let wrong = encode_outcome(Outcome::Refused("no".into()));
    let seeds = [
        // A well-behaved caller.
        vec![
            about(Kind::Request, request, &[]),
            about(Kind::Call, call(1, message_id::<Say>(), &say), &say),
            about(Kind::Request, request, &[]),
            about(Kind::Call, call(2, message_id::<Look>(), &look), &look),
            about(Kind::Request, request, &[]),
            about(Kind::Call, keyed, &say),
            about(Kind::Cancel, call(2, 0, &[]), &[]),
            about(Kind::Return, Extension { count: 1, amount: 1, ..none }, &[]),
            about(Kind::Watch, request, &[]),
            about(Kind::Probe, none, &[]),
        ],
        // In pieces.
        vec![
            about(Kind::Request, request, &[]),
            about(Kind::Call, call(1, message_id::<Say>(), &say), &say[..16]),
            about(Kind::CallPiece, call(1, 0, &say), &say[16..32]),
            about(Kind::CallPiece, call(1, 0, &say), &say[32..]),
            about(Kind::Reply, reply(status::REPLY, &say), &say[..16]),
            about(Kind::ReplyPiece, reply(status::REPLY, &say), &say[16..]),
        ],
        // One that answers, and gives credit.
        vec![
            about(Kind::Grant, Extension { count: 4, amount: 1 << 20, flags: ANSWER, ..none }, &[]),
            about(Kind::Reply, reply(failed, &evidence), &evidence),
            about(Kind::Reply, reply(status::STORED, &say), &say),
            about(Kind::Refuse, Extension { flags: wrong.0, total: 5, ..none }, &wrong.1),
            about(Kind::Reclaim, none, &[]),
            about(Kind::Death, none, &encode_death(&report())),
        ],
        // One whose message lies in a store that is not there.
        vec![
            about(Kind::Request, request, &[]),
            about(Kind::Call, Extension { flags: STORED, ..call(1, message_id::<Say>(), &say) }, &say),
        ],
    ];
    // The first of them is heard to its end, and answered.
    let link = Link::new(1, desk.process.clone(), Arc::downgrade(system.inner()));
    let mut taken = Incomings::default();
    for frame in &seeds[0] {
        taken.take(system, &link, frame.clone()).unwrap();
    }
    taken.act(&link).unwrap();
    system.lost(&link, "it has gone");
    let seeds = seeds.map(|frames| to_bytes(&frames));
    // A frame's head may promise a whole payload.
    Fuzz::new("actor conversation").seeds(seeds).runs(100_000).memory(6 << 20).run(conversation);
}
