//! Control frames, heartbeats, and what streams about programs begin with.

use lyceum_fuzz::Fuzz;
use lyceum_wire::testing::{to_bytes, to_frames};

use crate::agent::programs::transfer::Wish;
use crate::control::vocabulary::StoreUse;
use crate::message::{decode_beat, encode_beat};
use crate::program::ProgramHash;
use crate::samples::{self, Said};

/// The first byte says which lane the frame came on.
fn word(data: &[u8]) {
    let Some((lane, bytes)) = data.split_first() else { return };
    let lane = Said::LANES[usize::from(*lane) % Said::LANES.len()];
    for frame in to_frames(bytes) {
        let Ok(Some(said)) = Said::read(lane, &frame) else { continue };
        let again = said.clone().into_frame().unwrap();
        assert_eq!(Said::read(lane, &again).unwrap(), Some(said));
    }
}

#[test]
fn control_frames_are_read_or_refused() {
    let seed = |said: Said| {
        let lane = Said::LANES.iter().position(|lane| *lane == said.lane()).unwrap();
        [&[lane as u8][..], &to_bytes(&[said.into_frame().unwrap()])].concat()
    };
    let seeds: Vec<Vec<u8>> = samples::all().into_iter().map(seed).collect();
    // A frame's head may promise a whole payload.
    Fuzz::new("cluster words").seeds(seeds).runs(60_000).memory(4 << 20).run(word);
}

fn beat(data: &[u8]) {
    if let Some(store) = decode_beat(data) {
        assert_eq!(encode_beat(store), data);
    }
}

#[test]
fn heartbeats_are_read_or_refused() {
    let store = StoreUse { capacity_bytes: 1 << 30, used_bytes: 4096, objects: 3, spilled_bytes: 8192 };
    Fuzz::new("cluster beat").seeds([encode_beat(store)]).runs(5000).memory(4096).run(beat);
}

fn wish(data: &[u8]) {
    if let Ok(wish) = Wish::decode(data) {
        assert_eq!(&wish.encode()[..], data);
    }
    let text = String::from_utf8_lossy(data);
    if let Ok(Some(hash)) = ProgramHash::named(&text) {
        assert_eq!(hash.to_string(), text);
    }
}

#[test]
fn wishes_for_programs_and_their_names_are_read_or_refused() {
    let hash = ProgramHash::from_bytes([0x5a; 32]);
    let fetch = Wish::Fetch { hash, insists: true }.encode().to_vec();
    let seeds =
        [Wish::Bring { hash, bytes: 40 << 20 }.encode().to_vec(), fetch, hash.to_string().into_bytes()];
    Fuzz::new("cluster wishes").seeds(seeds).runs(10_000).memory(1 << 20).run(wish);
}
