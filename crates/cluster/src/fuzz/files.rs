//! Files: what a person writes, and what the cluster's own commands left behind.

use std::fs;
use std::sync::OnceLock;

use lyceum_fuzz::Fuzz;

use crate::agent::AgentConfig;
use crate::committed;
use crate::control::record::{Key, Record, Value};
use crate::head::database::Records;
use crate::head::{HeadAddress, HeadConfig};
use crate::launch::RunRecord;
use crate::manifest::{ElasticSection, Manifest, ResourceSection};
use crate::state::{from_json, log_tail};

fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Manifest::parse("fuzz.toml", text) {
        Ok(manifest) => {
            for index in 0..manifest.nodes.len() {
                assert_eq!(manifest.node_ports(index).is_empty(), manifest.ports.first == 0);
            }
            // As `up` hands it to the head.
            let config = HeadConfig { manifest, owned: true };
            let written = serde_json::to_vec(&config).unwrap();
            let read: HeadConfig = from_json(&written).unwrap();
            assert_eq!(serde_json::to_vec(&read).unwrap(), written);
        }
        Err(error) => {
            // Of keys that are nested too deep the parser does not say where.
            let place = error.place.map_or(1, |place| place.line);
            assert!(place <= text.lines().count() + 1, "{error}");
            assert!(!error.message.is_empty() && error.message.len() < 8000, "{error}");
            assert!(!error.message.contains(char::is_control), "{error:?}");
        }
    }
}

fn shipped() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../cluster");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

const WORDS: [&str; 28] = [
    "name",
    "launcher",
    "\"local\"",
    "oversubscribe",
    "[head]\n",
    "bind",
    "advertise",
    "state",
    "[ports]\n",
    "first",
    "count",
    "[store]\n",
    "capacity",
    "segment",
    "prefault",
    "[health]\n",
    "unreachable",
    "verdict",
    "[[nodes]]\n",
    "resources",
    "labels",
    "custom",
    "\"1.5 GiB\"",
    "trusted_interface",
    "reserve",
    "[elastic]\n",
    "max_nodes",
    "patience",
];

#[test]
fn manifests_are_read_or_refused_at_a_place() {
    let bad = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manifests/bad");
    Fuzz::new("cluster manifest").seeds(shipped()).corpus(bad).words(WORDS).runs(20_000).run(manifest);
}

#[test]
fn nesting_of_any_depth_is_refused_or_read() {
    // As much as a file may hold, of everything that nests.
    let deep = |open: &str, close: &str| {
        let times = (4 << 20) / (open.len() + close.len()) - 8;
        format!("x = {}{}\n", open.repeat(times), close.repeat(times)).into_bytes()
    };
    let dotted = |head: &str, tail: &str| format!("{head}a{}{tail}\n", ".a".repeat(2 << 20)).into_bytes();
    let seeds = [
        deep("[", "]"),
        deep("{a=", "}"),
        deep("[", ""),
        dotted("", " = 1"),
        dotted("[", "]"),
        dotted("[[", "]]"),
        b"[[nodes]]\n".repeat(400_000),
    ];
    // What takes memory, takes a multiple of what the file has: 4 MiB at most.
    for seed in seeds {
        Fuzz::new("cluster nesting")
            .seeds([&seed[..64], &seed[..4096]])
            .runs(0)
            .memory(1 << 30)
            .run(manifest);
        manifest(&seed);
    }
}

/// Each of the files that hold JSON.
fn json(data: &[u8]) {
    if let Ok(config) = from_json::<HeadConfig>(data).and_then(HeadConfig::checked) {
        let _ = crate::head::options(&config);
    }
    if let Ok(config) = from_json::<AgentConfig>(data).and_then(AgentConfig::checked) {
        let _ = crate::agent::options_of(&config);
    }
    let _ = from_json::<HeadAddress>(data);
    if let Ok(record) = from_json::<RunRecord>(data) {
        let written = serde_json::to_vec(&record).unwrap();
        assert_eq!(serde_json::to_vec(&from_json::<RunRecord>(&written).unwrap()).unwrap(), written);
    }
}

#[test]
fn state_files_are_read_or_refused() {
    let mut manifest = Manifest::parse("a.toml", std::str::from_utf8(&shipped()[0]).unwrap()).unwrap();
    manifest.elastic = Some(ElasticSection {
        max_nodes: 4,
        patience: 10.0,
        idle: 300.0,
        resources: ResourceSection::default(),
        labels: crate::samples::offer().labels,
        interface: None,
        trusted_interface: None,
    });
    let head = HeadConfig { manifest: manifest.clone(), owned: true };
    let agent = AgentConfig {
        cluster: "school".into(),
        node: "a".into(),
        owned: true,
        heads: vec!["127.0.0.1:7400".parse().unwrap()],
        bind: "127.0.0.1".parse().unwrap(),
        advertise: None,
        trusted_interface: Some("ib0".into()),
        ports: 7401..7405,
        cores: vec![0, 1],
        gpus: vec!["0".into()],
        offer: crate::samples::offer(),
        store: manifest.store,
        health: manifest.health,
    };
    let address = HeadAddress { bound: agent.heads[0], advertised: agent.heads[0], pid: 7 };
    let record = br#"{"owned":true,"head":{"pid":1,"started":2},"agents":{"a":{"pid":3,"started":4}}}"#;
    let seeds = [
        serde_json::to_vec(&head).unwrap(),
        serde_json::to_vec(&agent).unwrap(),
        serde_json::to_vec(&address).unwrap(),
        record.to_vec(),
    ];
    Fuzz::new("cluster json").seeds(seeds).runs(20_000).run(json);
}

fn log(data: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), data).unwrap();
    let tail = log_tail(file.path(), 5);
    assert!(tail.len() <= 5 && tail.iter().map(String::len).sum::<usize>() <= 3 * (8 << 10));
}

#[test]
fn the_last_lines_of_any_log_are_told() {
    let lines = (0..2000).map(|line| format!("line {line}: é\n")).collect::<String>();
    Fuzz::new("cluster log")
        .seeds([lines.into_bytes(), vec![0xff; 9000]])
        .runs(300)
        .longest(32 << 10)
        .run(log);
}

/// The head's database as it was written, and what its file is.
fn database() -> &'static Vec<u8> {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.redb");
        let records = Records::open(&path).unwrap();
        let all = committed::records().into_iter().map(|(key, value)| Record { key, value: Some(value) });
        records.commit_all(&all.collect::<Vec<_>>()).unwrap();
        records.commit_all(&[Record { key: Key::Next, value: Some(Value::Next(41)) }]).unwrap();
        drop(records);
        fs::read(path).unwrap()
    })
}

/// Changes to the file, four bytes of place and one of value each, or, where the last is not whole, the file's length.
fn damage(data: &[u8]) {
    let mut file = database().clone();
    let (changes, rest) = data.as_chunks::<5>();
    for [place @ .., value] in changes {
        let place = u32::from_le_bytes(*place) as usize % file.len();
        file[place] = *value;
    }
    if let [low, high, ..] = rest {
        file.truncate(usize::from(u16::from_le_bytes([*low, *high])) * 64);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.redb");
    fs::write(&path, file).unwrap();
    if let Ok(records) = Records::open(&path) {
        let _ = records.read_all();
    }
}

#[test]
fn a_damaged_database_is_read_or_refused() {
    let file = database();
    // Where something is written: changes elsewhere are none.
    let used = file.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(place, _)| place as u32);
    let used: Vec<u32> = used.collect();
    let change = |nth: usize, value: u8| [&used[nth % used.len()].to_le_bytes()[..], &[value]].concat();
    let seeds = (0..64).map(|number| change(number * 97, number as u8)).chain([vec![0, 1], vec![7, 0, 0]]);
    // redb reads a page of the size that its own pages say: 64 MiB, where a damaged one does.
    Fuzz::new("cluster database").seeds(seeds).runs(300).longest(40).memory(256 << 20).run(damage);
}
