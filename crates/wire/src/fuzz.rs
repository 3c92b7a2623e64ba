//! What comes over the network before anything is believed: each parser of this crate, given anything at all.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use lyceum_fuzz::Fuzz;
use rkyv::{Archive, Archived, Deserialize, Serialize, rancor};

use crate::frame::{FrameDecoder, FrameEncoder};
use crate::stray::Strays;
use crate::tls::Tls;
use crate::*;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");

fn corpus(body: &str) -> String {
    format!("{CORPUS}/{body}")
}

fn issued() -> Credentials {
    let authority = Authority::create("school").unwrap();
    let identity = PeerIdentity::new("school", PeerRole::Agent, "n1", 7).unwrap();
    authority.issue(&identity, Duration::from_secs(60)).unwrap()
}

/// The first byte says how the rest is cut before it is decoded.
fn frames(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let mut decoder = FrameDecoder::default();
    let mut encoder = FrameEncoder::default();
    let mut wire = Vec::new();
    for piece in bytes.chunks(usize::from(*cut).max(1)) {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    assert!(frame.payload.is_empty() || frame.payload.as_ptr().addr().is_multiple_of(16));
                    encoder.push(&frame).unwrap();
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    encoder.take().iter().for_each(|piece| wire.extend_from_slice(piece));
    assert_eq!(bytes.get(..wire.len()), Some(&wire[..]), "a frame is written as it was read");
    assert_eq!(decoder.end().is_ok(), wire.len() == bytes.len());
}

#[test]
fn frames_are_decoded_or_refused() {
    let frame = |kind, payload: &[u8], extension: &[u8]| Frame {
        header: FrameHeader { kind, job: 1, trace: 2, incarnation: 3 },
        extension: AlignedBytes::copy_from(extension),
        payload: AlignedBytes::copy_from(payload),
    };
    let seed = |cut: u8, frames: &[Frame]| {
        let mut encoder = FrameEncoder::default();
        frames.iter().for_each(|frame| encoder.push(frame).unwrap());
        [&[cut][..], &encoder.take().concat()].concat()
    };
    let small = frame(1, b"a payload", b"and what goes with it");
    let long = frame(2, &[7; 9000], &[]);
    let seeds =
        [seed(255, &[small.clone(), small.clone()]), seed(7, &[small, long]), seed(1, &[Frame::default()])];
    // A head may promise a whole payload, and that much is then made ready for it.
    let memory = 2 * (MAX_PAYLOAD + MAX_EXTENSION);
    Fuzz::new("wire frames").seeds(seeds).runs(60_000).memory(memory).run(frames);
}

fn hello(data: &[u8]) {
    if let Ok(hello) = Hello::decode(data) {
        assert_eq!(hello.encode().unwrap(), data, "a hello has one form");
    }
}

#[test]
fn hellos_are_decoded_or_refused() {
    let role = |role: &str, fingerprint| RoleFingerprint { role: role.into(), fingerprint };
    let seeds = [
        Hello { purpose: Purpose::Lane, roles: vec![] },
        Hello { purpose: Purpose::Bulk, roles: vec![role("trainer", 7), role("schüler", u64::MAX)] },
    ];
    let seeds = seeds.map(|hello| hello.encode().unwrap());
    Fuzz::new("wire hello").seeds(seeds).corpus(corpus("hello")).runs(60_000).memory(256 << 10).run(hello);
}

fn identity(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(identity) = text.parse::<PeerIdentity>() {
        assert_eq!(identity.to_string(), text, "an identity has one form");
    }
}

#[test]
fn identities_are_read_or_refused() {
    let seeds = ["lyceum://school/agent/n1/7", "lyceum://a.b_c-d/client/0/18446744073709551615"];
    let words = ["lyceum://", "/", "head", "worker", "+", "%2f"];
    Fuzz::new("wire identity").seeds(seeds).words(words).runs(40_000).memory(64 << 10).run(identity);
}

fn certificate(data: &[u8]) {
    if let Ok(identity) = PeerIdentity::from_certificate(data) {
        assert_eq!(identity.to_string().parse::<PeerIdentity>().unwrap(), identity);
    }
}

#[test]
fn certificates_are_read_or_refused() {
    let credentials = issued();
    let seeds = [credentials.certificate().to_vec(), credentials.authority().to_vec()];
    Fuzz::new("wire certificate").seeds(seeds).words(["lyceum://"]).runs(60_000).run(certificate);
}

fn credentials(data: &[u8]) {
    let Ok(credentials) = Credentials::from_bytes(data) else { return };
    assert_eq!(credentials.to_bytes(), data);
    // What is whole in form may still hold keys and certificates of anything.
    if let Ok(tls) = Tls::new(credentials.into()) {
        let (_, _) = (tls.server(None), tls.client(&Expect::role(PeerRole::Head)));
    }
}

#[test]
fn credentials_are_read_or_refused() {
    let words = ["-----BEGIN CERTIFICATE-----\n", "-----END PRIVATE KEY-----\n", "-----", "\n"];
    Fuzz::new("wire credentials").seeds([issued().to_bytes()]).words(words).runs(3000).run(credentials);
}

/// The authority's two files, the key first.
fn authority(data: &[u8]) {
    const MIDDLE: &str = "-----BEGIN CERTIFICATE-----";
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(at) = text.find(MIDDLE) else { return };
    if let Ok(authority) = Authority::from_pem(text[at..].to_owned(), &text[..at]) {
        let identity = PeerIdentity::new(authority.cluster(), PeerRole::Agent, "n1", 7).unwrap();
        let _ = authority.issue(&identity, Duration::from_secs(60));
    }
}

#[test]
fn authorities_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    Authority::create("school").unwrap().save(folder.path()).unwrap();
    let file = |name| std::fs::read(folder.path().join(name)).unwrap();
    let seed = [file("ca.key"), file("ca.crt")].concat();
    Fuzz::new("wire authority").seeds([seed]).runs(3000).run(authority);
}

/// One of everything that messages are made of.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Message {
    number: u64,
    letter: char,
    yes: bool,
    text: String,
    lists: Vec<Vec<u16>>,
    perhaps: Option<Box<(u8, String)>>,
    table: BTreeMap<String, u64>,
    address: std::net::SocketAddr,
    choice: Choice,
}

#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Choice {
    Nothing,
    Words(Vec<String>),
    Numbers { first: i32, second: f64 },
}

fn archive(data: &[u8]) {
    let bytes = AlignedBytes::copy_from(data);
    let Ok(archived) = access_checked::<Archived<Message>>(&bytes) else { return };
    let message = rkyv::deserialize::<Message, rancor::Error>(archived).unwrap();
    let again = AlignedBytes::from(rkyv::to_bytes::<rancor::Error>(&message).unwrap());
    let archived = access_checked::<Archived<Message>>(&again).unwrap();
    let same = rkyv::deserialize::<Message, rancor::Error>(archived).unwrap();
    // As text, since a number that is none does not equal itself.
    assert_eq!(format!("{same:?}"), format!("{message:?}"));
}

#[test]
fn archives_are_validated_or_refused() {
    let message = Message {
        number: 7,
        letter: 'ä',
        yes: true,
        text: "a text that is too long to lie within".into(),
        lists: vec![vec![1, 2], vec![], vec![3; 30]],
        perhaps: Some(Box::new((1, "boxed".into()))),
        table: (0..20).map(|at| (format!("key {at}"), at)).collect(),
        address: "[::1]:80".parse().unwrap(),
        choice: Choice::Words(vec!["one".into(), "and one that lies elsewhere".into()]),
    };
    let other = Message {
        perhaps: None,
        table: BTreeMap::new(),
        address: "127.0.0.1:1".parse().unwrap(),
        choice: Choice::Numbers { first: -1, second: 0.5 },
        ..message.clone()
    };
    let least = Message { text: String::new(), lists: vec![], choice: Choice::Nothing, ..other.clone() };
    let seeds = [message, other, least].map(|message| rkyv::to_bytes::<rancor::Error>(&message).unwrap());
    Fuzz::new("wire archive").seeds(seeds.map(|bytes| bytes.to_vec())).runs(90_000).run(archive);
}

fn datagram(data: &[u8]) {
    thread_local!(static STRAYS: Strays = Strays::new());
    STRAYS.with(|strays| {
        let before = strays.count();
        strays.look(data, "127.0.0.1:1".parse().unwrap());
        assert!(strays.count() - before <= 1);
    });
}

#[test]
fn datagrams_are_looked_at() {
    let initial = [&[0xc3, 0, 0, 0, 1, 8][..], &[7; 40]].concat();
    let seeds = [initial, vec![0x41; 40], b"GET / HTTP/1.1\r\n\r\n".to_vec()];
    Fuzz::new("wire datagram").seeds(seeds).runs(10_000).longest(1500).memory(64 << 10).run(datagram);
}

fn guests_words(data: &[u8]) {
    let Some((head, _)) = data.split_first_chunk() else { return };
    if let Ok(length) = crate::guest::length(head, MAX_REQUEST) {
        assert!(length <= MAX_REQUEST);
    }
}

#[test]
fn what_a_guest_says_is_read_or_refused() {
    let seed = |length: u32| [&b"LYCG\x02\0\0\0"[..], &length.to_le_bytes()].concat();
    let seeds = [seed(0), seed(100), seed(MAX_REQUEST as u32), seed(u32::MAX)];
    Fuzz::new("wire guests").seeds(seeds).runs(20_000).run(guests_words);
}

fn public_key(data: &[u8]) {
    let authority = Authority::from_pem(AUTHORITY.0.clone(), &AUTHORITY.1).unwrap();
    let identity = PeerIdentity::new("school", PeerRole::Agent, "n1", 7).unwrap();
    let _ = authority.certify(&identity, data, Duration::from_secs(60));
}

static AUTHORITY: std::sync::LazyLock<(String, String)> = std::sync::LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    Authority::create("school").unwrap().save(dir.path()).unwrap();
    let read = |name| std::fs::read_to_string(dir.path().join(name)).unwrap();
    (read("ca.crt"), read("ca.key"))
});

#[test]
fn public_keys_are_read_or_refused() {
    let seed = FreshKey::generate().unwrap().public_key();
    Fuzz::new("wire public key").seeds([seed]).runs(3000).run(public_key);
}
