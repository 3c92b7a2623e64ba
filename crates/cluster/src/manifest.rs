//! The cluster manifest: what a person writes in `cluster/*.toml`, checked until it cannot be wrong.
//!
//! ```toml
//! name = "laptop"
//! launcher = "local"
//!
//! [head]
//! bind = "127.0.0.1"
//!
//! [store]
//! capacity = "256 MiB"
//!
//! [[nodes]]
//! name = "a"
//! bind = "127.0.0.1"
//! resources = { cpus = 2, memory = "2 GiB" }
//! labels = { disk = "fast" }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::control::vocabulary::{CLIENT_NODE, HEAD_NODE};
use crate::strict::{self, Document, Source, StrictError};
use crate::units::{Bytes, Milli};

/// Longest name of a cluster, node, label or custom resource, in bytes. Names become folder and certificate names.
pub const MAX_NAME: usize = 48;
/// Most nodes of one cluster.
pub const MAX_NODES: usize = 4096;

/// A cluster as described by one file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The cluster's name: its state folder and its certificates carry it.
    pub name: String,
    /// How its processes are started.
    #[serde(default)]
    pub launcher: Launcher,
    /// Lets nodes of one machine together claim more cores, GPUs and memory than the machine has.
    #[serde(default)]
    pub oversubscribe: bool,
    /// The head: the process that keeps the cluster's state.
    #[serde(default)]
    pub head: HeadSection,
    /// Ports that the cluster's processes listen on.
    #[serde(default)]
    pub ports: Ports,
    /// Each node's object store.
    #[serde(default)]
    pub store: StoreSection,
    /// How long a process waits before it takes a silent one for unreachable, and for dead.
    #[serde(default)]
    pub health: Health,
    /// The nodes; names are unique.
    pub nodes: Vec<NodeSection>,
}

/// How the cluster's processes are started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Launcher {
    /// Every node is a set of processes on this machine.
    #[default]
    Local,
}

/// Where the head listens and keeps its state.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadSection {
    /// Address to listen on.
    #[serde(default = "loopback")]
    pub bind: IpAddr,
    /// Address that others reach it by, where that is not `bind`.
    pub advertise: Option<IpAddr>,
    /// What keeps the head's state.
    #[serde(default)]
    pub state: StateStore,
    /// Further processes that take over when the head is lost; with etcd only.
    #[serde(default)]
    pub standbys: u32,
}

impl Default for HeadSection {
    fn default() -> Self {
        HeadSection { bind: loopback(), advertise: None, state: StateStore::default(), standbys: 0 }
    }
}

/// What keeps the head's state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StateStore {
    /// `redb`: a database file in the head's own folder.
    #[default]
    Redb,
    /// `etcd://HOST:PORT`, or several with commas between: members of one etcd, spoken to without encryption.
    Etcd(Vec<String>),
}

impl TryFrom<String> for StateStore {
    type Error = String;

    fn try_from(text: String) -> Result<StateStore, String> {
        let expected = || format!("state `{text}`: expected `redb` or `etcd://HOST:PORT[,HOST:PORT...]`");
        if text == "redb" {
            return Ok(StateStore::Redb);
        }
        let members = text.strip_prefix("etcd://").ok_or_else(expected)?;
        let is_member = |member: &str| {
            let (host, port) = member.rsplit_once(':')?;
            let whole = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let is_host = match whole {
                Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
                None => {
                    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
                    !host.is_empty() && host.bytes().all(fits)
                }
            };
            (is_host && port.parse::<u16>().is_ok_and(|port| port > 0)).then(|| member.to_owned())
        };
        let members: Option<Vec<String>> = members.split(',').map(is_member).collect();
        members.map(StateStore::Etcd).ok_or_else(expected)
    }
}

impl From<StateStore> for String {
    fn from(state: StateStore) -> String {
        match state {
            StateStore::Redb => "redb".to_owned(),
            StateStore::Etcd(members) => format!("etcd://{}", members.join(",")),
        }
    }
}

/// Most processes that stand by.
const MAX_STANDBYS: u32 = 8;

/// A block of UDP ports: the head takes the first, the nodes share the others evenly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// First port; 0 lets the system choose a free port for each process.
    #[serde(default)]
    pub first: u16,
    /// Number of ports; only with `first`.
    #[serde(default)]
    pub count: u16,
}

/// Size of each node's object store.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSection {
    /// Most bytes of objects on one node.
    #[serde(default = "StoreSection::default_capacity")]
    pub capacity: Bytes,
    /// Bytes of one shared-memory segment; the largest object is one segment.
    #[serde(default = "StoreSection::default_segment")]
    pub segment: Bytes,
    /// Touches every page at start, so that no object pays for page faults (1.0 GB/s without, 11 GB/s with). All of
    /// `capacity` is in use from then on.
    #[serde(default = "StoreSection::default_prefault")]
    pub prefault: bool,
}

impl StoreSection {
    fn default_capacity() -> Bytes {
        Bytes(256 << 20)
    }

    fn default_segment() -> Bytes {
        Bytes(64 << 20)
    }

    fn default_prefault() -> bool {
        true
    }
}

impl Default for StoreSection {
    fn default() -> Self {
        StoreSection {
            capacity: Self::default_capacity(),
            segment: Self::default_segment(),
            prefault: Self::default_prefault(),
        }
    }
}

/// When silence becomes suspicion and when it becomes a verdict, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// After this long without a heartbeat a node is suspected. Those who wait on it are told `Unreachable` when their own
    /// connection to it proves silent too, which takes up to a second more.
    #[serde(default = "Health::default_unreachable")]
    pub unreachable: f64,
    /// After this long without a heartbeat, and a second path tried in vain, the node is lost.
    #[serde(default = "Health::default_verdict")]
    pub verdict: f64,
    /// How long a process that is asked to stop may take before it is killed.
    #[serde(default = "Health::default_stop")]
    pub stop: f64,
    /// A node on which so many actors fail within `cordon_window`, of roles that fail nowhere else, takes nothing new until
    /// `lyceum uncordon`; 0: never.
    #[serde(default = "Health::default_cordon_after")]
    pub cordon_after: u32,
    /// See `cordon_after`.
    #[serde(default = "Health::default_cordon_window")]
    pub cordon_window: f64,
}

impl Health {
    fn default_unreachable() -> f64 {
        2.0
    }

    fn default_verdict() -> f64 {
        10.0
    }

    fn default_stop() -> f64 {
        5.0
    }

    fn default_cordon_after() -> u32 {
        5
    }

    fn default_cordon_window() -> f64 {
        60.0
    }
}

impl Default for Health {
    fn default() -> Self {
        Health {
            unreachable: Self::default_unreachable(),
            verdict: Self::default_verdict(),
            stop: Self::default_stop(),
            cordon_after: Self::default_cordon_after(),
            cordon_window: Self::default_cordon_window(),
        }
    }
}

/// One node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// Unique name.
    pub name: String,
    /// Address that its processes listen on.
    #[serde(default = "loopback")]
    pub bind: IpAddr,
    /// Address that others reach them by, where that is not `bind`.
    pub advertise: Option<IpAddr>,
    /// A network interface whose network nobody else can read, such as `ib0`: what is not encrypted by nature (NCCL's
    /// traffic between GPUs) may use it, and loopback else (L6).
    pub trusted_interface: Option<String>,
    /// What its workers may use.
    #[serde(default)]
    pub resources: ResourceSection,
    /// Free words that a spawn may ask for.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What one node's workers may use.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceSection {
    /// Cores.
    #[serde(default)]
    pub cpus: Milli,
    /// GPUs, whole ones.
    #[serde(default)]
    pub gpus: u32,
    /// Memory.
    #[serde(default)]
    pub memory: Bytes,
    /// Anything else that is to be counted.
    #[serde(default)]
    pub custom: BTreeMap<String, Milli>,
}

fn loopback() -> IpAddr {
    IpAddr::from([127, 0, 0, 1])
}

impl Manifest {
    /// Reads and checks the manifest at `path`.
    pub fn load(path: impl AsRef<Path>) -> Result<Manifest, StrictError> {
        Ok(Self::load_with_source(path)?.0)
    }

    /// The same, with the file's text for faults that are found later: what this machine does not have, for instance.
    pub fn load_with_source(path: impl AsRef<Path>) -> Result<(Manifest, Source), StrictError> {
        let document = strict::load(path)?;
        check(&document)?;
        Ok((document.value, document.source))
    }

    /// Reads and checks `text`; `file` is the name that errors carry.
    pub fn parse(file: &str, text: &str) -> Result<Manifest, StrictError> {
        let document = strict::parse(file, text)?;
        check(&document)?;
        Ok(document.value)
    }

    /// The ports of node number `index`: its agent takes the first, its workers the others. Empty where the system
    /// chooses.
    pub fn node_ports(&self, index: usize) -> std::ops::Range<u16> {
        let (first, share) = (self.ports.first, self.ports_per_node());
        if first == 0 {
            return 0..0;
        }
        let start = first + 1 + index as u16 * share;
        start..start + share
    }

    fn ports_per_node(&self) -> u16 {
        self.ports.count.saturating_sub(1) / (self.nodes.len().max(1) as u16)
    }
}

/// Is `name` fit for a folder, a certificate and an environment variable?
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && name.as_bytes()[0].is_ascii_alphanumeric()
}

const NAME_RULE: &str = "expected letters, digits, `-` and `_`, beginning with a letter or digit, 48 at most";

/// Says of a name that is none what it was to be, and the rule.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), String> {
    if is_name(name) { Ok(()) } else { Err(format!("{what} `{name}`: {NAME_RULE}")) }
}

fn check(document: &Document<Manifest>) -> Result<(), StrictError> {
    let manifest = &document.value;
    check_name("cluster name", &manifest.name).map_err(|why| document.refuse("name", why))?;
    check_address(document, "head", manifest.head.bind, manifest.head.advertise)?;
    check_standbys(document)?;
    check_nodes(document)?;
    check_ports(document)?;
    check_store(document)?;
    check_health(document)
}

fn check_standbys(document: &Document<Manifest>) -> Result<(), StrictError> {
    let head = &document.value.head;
    match (&head.state, head.standbys) {
        (_, 0) => Ok(()),
        (StateStore::Redb, _) => {
            let text = "a head that stands by needs the state of the one before it: expected `state = \"etcd://...\"`";
            Err(document.refuse("head.standbys", text))
        }
        (_, standbys) if standbys > MAX_STANDBYS => {
            Err(document
                .refuse("head.standbys", format!("expected at most {MAX_STANDBYS}, found {standbys}")))
        }
        _ => Ok(()),
    }
}

fn check_nodes(document: &Document<Manifest>) -> Result<(), StrictError> {
    let manifest = &document.value;
    if manifest.nodes.is_empty() || manifest.nodes.len() > MAX_NODES {
        let count = manifest.nodes.len();
        return Err(document.refuse("nodes", format!("expected 1 to {MAX_NODES} nodes, found {count}")));
    }
    let mut seen = BTreeSet::new();
    for (index, node) in manifest.nodes.iter().enumerate() {
        let at = |key: &str| format!("nodes[{index}].{key}");
        check_name("node name", &node.name).map_err(|why| document.refuse(&at("name"), why))?;
        if [CLIENT_NODE, HEAD_NODE].contains(&node.name.as_str()) {
            let text = format!("node name `{}` is taken by the cluster itself, expected another", node.name);
            return Err(document.refuse(&at("name"), text));
        }
        if !seen.insert(&node.name) {
            let text = format!("node name `{}` is used twice, expected a unique one", node.name);
            return Err(document.refuse(&at("name"), text));
        }
        check_address(document, &format!("nodes[{index}]"), node.bind, node.advertise)?;
        if let Some(interface) = node.trusted_interface.as_ref().filter(|name| !is_interface(name)) {
            let text = format!("`{interface}` cannot be a network interface: expected a name such as `ib0`");
            return Err(document.refuse(&at("trusted_interface"), text));
        }
        if node.resources.gpus > 1024 {
            let text = format!("expected at most 1024 GPUs, found {}", node.resources.gpus);
            return Err(document.refuse(&at("resources.gpus"), text));
        }
        for name in node.resources.custom.keys() {
            let place = at(&format!("resources.custom.{name}"));
            check_name("resource name", name).map_err(|why| document.refuse(&place, why))?;
            if ["cpus", "gpus", "memory"].contains(&name.as_str()) {
                let text = format!("`{name}` is a resource of its own, write `resources.{name}`");
                return Err(document.refuse(&place, text));
            }
        }
        for (name, value) in &node.labels {
            if !is_name(name) || value.len() > MAX_NAME {
                let text = format!("label `{name}` = `{value}`: {NAME_RULE}");
                return Err(document.refuse(&at(&format!("labels.{name}")), text));
            }
        }
    }
    Ok(())
}

/// What Linux takes for an interface's name, and NCCL for one name and not a list or a pattern.
fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn check_address(
    document: &Document<Manifest>,
    section: &str,
    bind: IpAddr,
    advertise: Option<IpAddr>,
) -> Result<(), StrictError> {
    let many = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    };
    let addresses = [("bind", Some(bind)), ("advertise", advertise)];
    let given = addresses.into_iter().filter_map(|(key, address)| Some((key, address?)));
    for (key, address) in given {
        let place = format!("{section}.{key}");
        match (key, advertise) {
            _ if many(&address) => {
                let text =
                    format!("`{key}` is {address}, which is no single process's: expected an address of one");
                return Err(document.refuse(&place, text));
            }
            ("bind", None) if address.is_unspecified() => {
                let text = format!("`bind` is {address}, which others cannot reach: give `advertise` too");
                return Err(document.refuse(&place, text));
            }
            ("advertise", _) if address.is_unspecified() => {
                let text = format!("`advertise` is {address}, expected an address that others can reach");
                return Err(document.refuse(&place, text));
            }
            _ => check_family(document, &place, address)?,
        }
    }
    Ok(())
}

/// A socket of one family sends nothing to an address of the other: all addresses are of the head's.
fn check_family(document: &Document<Manifest>, place: &str, address: IpAddr) -> Result<(), StrictError> {
    let head = document.value.head.bind;
    if address.is_ipv4() == head.is_ipv4() {
        return Ok(());
    }
    let family = if head.is_ipv4() { "IPv4" } else { "IPv6" };
    let default = if address == loopback() { ", `bind` where none is given," } else { "" };
    let text = format!("{address}{default} and the head's {head} cannot reach each other: expected {family}");
    Err(document.refuse(place, text))
}

fn check_ports(document: &Document<Manifest>) -> Result<(), StrictError> {
    let manifest = &document.value;
    let Ports { first, count } = manifest.ports;
    match (first, count) {
        (0, 0) => Ok(()),
        (0, _) => Err(document.refuse("ports.count", "`count` is given without `first`")),
        (1..1024, _) => {
            Err(document.refuse("ports.first", format!("expected 0 or a port from 1024, found {first}")))
        }
        _ if u32::from(first) + u32::from(count) > 65536 => Err(document.refuse(
            "ports.count",
            format!("ports {first} + {count} go beyond 65535, expected fewer or lower"),
        )),
        _ if manifest.ports_per_node() < 2 => {
            let least = 1 + 2 * manifest.nodes.len();
            let nodes = manifest.nodes.len();
            Err(document.refuse(
                "ports.count",
                format!(
                    "{count} ports are too few for the head and {nodes} nodes, expected at least {least}"
                ),
            ))
        }
        _ => Ok(()),
    }
}

fn check_store(document: &Document<Manifest>) -> Result<(), StrictError> {
    let StoreSection { capacity, segment, .. } = document.value.store;
    if segment.0 < 1 << 20 || segment.0 % 4096 != 0 {
        let text = format!("expected a segment of at least 1 MiB in whole pages of 4 KiB, found {segment}");
        return Err(document.refuse("store.segment", text));
    }
    if capacity < segment {
        let text = format!("a store of {capacity} does not hold one segment of {segment}");
        return Err(document.refuse("store.capacity", text));
    }
    Ok(())
}

fn check_health(document: &Document<Manifest>) -> Result<(), StrictError> {
    let Health { unreachable, verdict, stop, cordon_window, .. } = document.value.health;
    // Heartbeats come every half second: a late one is no silence.
    if !(1.0..=3.0).contains(&unreachable) {
        let text = format!("expected 1 to 3 seconds, found {unreachable}");
        return Err(document.refuse("health.unreachable", text));
    }
    if !(verdict > unreachable && verdict <= 3600.0) {
        let text =
            format!("expected more than `unreachable` ({unreachable}) up to 3600 seconds, found {verdict}");
        return Err(document.refuse("health.verdict", text));
    }
    if !(0.0..=3600.0).contains(&stop) {
        return Err(document.refuse("health.stop", format!("expected 0 to 3600 seconds, found {stop}")));
    }
    if !(1.0..=86_400.0).contains(&cordon_window) {
        let text = format!("expected 1 to 86400 seconds, found {cordon_window}");
        return Err(document.refuse("health.cordon_window", text));
    }
    Ok(())
}
