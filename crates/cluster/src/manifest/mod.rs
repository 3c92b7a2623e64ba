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

mod check;
mod kubernetes;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::check::check;
pub use self::kubernetes::{ClaimMount, KubernetesSection, PullPolicy, TaintEffect, Toleration};
use crate::control::elastic::Elastic;
use crate::control::resources::Capacity;
use crate::strict::{self, Source, StrictError};
use crate::units::{Bytes, Milli, Span};

/// Longest name of a cluster, node, label or custom resource, in bytes. Names become folder and certificate names.
pub const MAX_NAME: usize = 48;
/// Most nodes of one manifest.
pub const MAX_NODES: usize = 4096;
/// Most GPUs of one node.
pub const MAX_GPUS: u32 = 1024;

/// A cluster as described by one file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The cluster's name: its state folder and its certificates carry it.
    pub name: String,
    /// How its processes are started.
    #[serde(default)]
    pub launcher: Launcher,
    /// What holds for all hosts that are reached by SSH.
    #[serde(default)]
    pub ssh: SshSection,
    /// What is asked of Slurm.
    #[serde(default)]
    pub slurm: SlurmSection,
    /// What is asked of Kubernetes.
    #[serde(default)]
    pub kubernetes: KubernetesSection,
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
    /// The programs that jobs bring.
    #[serde(default)]
    pub programs: ProgramsSection,
    /// Memory that is kept back for the agent and the page cache, beside the store, on each node whose `resources` are found. Where
    /// it is not given: a tenth of what there is, 256 MiB at least and 16 GiB at most.
    #[serde(default)]
    pub reserve: Option<Bytes>,
    /// How long a process waits before it takes a silent one for unreachable, and for dead.
    #[serde(default)]
    pub health: Health,
    /// Nodes that are asked for when what waits needs them.
    #[serde(default)]
    pub elastic: Option<ElasticSection>,
    /// What processes show each other to prove who they are.
    #[serde(default)]
    pub certificates: CertificateSection,
    /// The logs of each node's processes.
    #[serde(default)]
    pub logs: LogsSection,
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
    /// Every node names a `host`, on which its agent is started through the system's `ssh`. The head runs on this machine.
    Ssh,
    /// The nodes are an allocation of Slurm: one job, in which `srun` starts an agent on each host. The head runs on this
    /// machine; the cluster's folder and the programs lie where those hosts find them, as home folders do.
    Slurm,
    /// Every node is a pod. The head runs on this machine, which is in the pods' network: a pod itself, or a machine that
    /// pods reach and that reaches them.
    Kubernetes,
}

/// What the job asks of Slurm beyond what the nodes' `resources` say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlurmSection {
    /// As with `sbatch --partition`.
    pub partition: Option<String>,
    /// As with `sbatch --account`.
    pub account: Option<String>,
    /// As with `sbatch --time`: after that long Slurm ends the agents.
    pub time: Option<String>,
    /// Any other options of `sbatch`, one each.
    #[serde(default)]
    pub options: Vec<String>,
}

/// What holds for all hosts that are reached by SSH.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshSection {
    /// A configuration file in place of the user's own, as with `ssh -F`; relative to the manifest's folder.
    pub config: Option<PathBuf>,
    /// Longest wait for a host's answer, in seconds.
    #[serde(default = "SshSection::default_connect_timeout")]
    pub connect_timeout: u32,
}

impl SshSection {
    fn default_connect_timeout() -> u32 {
        10
    }
}

impl Default for SshSection {
    fn default() -> Self {
        SshSection { config: None, connect_timeout: Self::default_connect_timeout() }
    }
}

/// Where the head listens and keeps its state. It runs on the machine of `lyceum up`, whatever the launcher.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadSection {
    /// Address to listen on; loopback where neither it nor `interface` is given.
    pub bind: Option<IpAddr>,
    /// Network interface whose address to listen on, in place of `bind`.
    pub interface: Option<String>,
    /// Address that others reach it by, where that is not the one it listens on.
    pub advertise: Option<IpAddr>,
    /// What keeps the head's state.
    #[serde(default)]
    pub state: StateStore,
    /// Further processes that take over when the head is lost; with etcd only.
    #[serde(default)]
    pub standbys: u32,
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
pub(crate) const MAX_STANDBYS: u32 = 8;

/// A block of UDP ports: the head takes the first, those that stand by for it the next, command-line processes keep to those
/// after them, and the nodes share the others evenly. All processes of a node keep to its share: its agent and each worker take
/// one, a trainer a second one for its gang. A port that another program of the machine holds is passed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// First port; 0 lets the system choose a free port for each process.
    #[serde(default)]
    pub first: u16,
    /// Number of ports; only with `first`.
    #[serde(default)]
    pub count: u16,
    /// How many of them are for command-line processes, which take two each; 0: the system chooses theirs.
    #[serde(default)]
    pub clients: u16,
}

/// Each node's object store. Its memory has no name in any file system: the size of `/dev/shm` does not bound it, the
/// machine's memory and a container's limit do.
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
    /// `capacity` is in use from then on, and counts against the agent's cgroup; without it, each page counts against that
    /// of the process that touches it first, and a worker's own limit.
    #[serde(default = "StoreSection::default_prefault")]
    pub prefault: bool,
    /// Most bytes of objects in files of the node's state folder: those that nobody has open go there when there is no
    /// room in memory. As much of it as `capacity`, at most half, is kept for what is read back. 0: none go. Where it is not
    /// given: 1 GiB, or two segments where those are more.
    #[serde(default)]
    pub spill: Option<Bytes>,
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

    /// What `spill` is, or is by default.
    pub fn spill_bytes(&self) -> u64 {
        self.spill.map_or_else(|| (1 << 30).max(self.segment.0.saturating_mul(2)), |spill| spill.0)
    }
}

impl Default for StoreSection {
    fn default() -> Self {
        StoreSection {
            capacity: Self::default_capacity(),
            segment: Self::default_segment(),
            prefault: Self::default_prefault(),
            spill: None,
        }
    }
}

/// The programs that jobs bring: worker binaries that a node has from a client, or from another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramsSection {
    /// Most bytes of them in files of a node's state folder. The longest unused that no worker runs goes for a new one.
    #[serde(default = "ProgramsSection::default_cache")]
    pub cache: Bytes,
}

impl ProgramsSection {
    fn default_cache() -> Bytes {
        Bytes(4 << 30)
    }
}

impl Default for ProgramsSection {
    fn default() -> Self {
        ProgramsSection { cache: Self::default_cache() }
    }
}

/// What processes show each other to prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateSection {
    /// How long a certificate is valid, in seconds. It is renewed when half of that has passed, over the connection to the
    /// head: for the other half the head may be away.
    #[serde(default = "CertificateSection::default_lifetime")]
    pub lifetime: f64,
}

impl CertificateSection {
    /// 30 days.
    fn default_lifetime() -> f64 {
        2_592_000.0
    }
}

impl Default for CertificateSection {
    fn default() -> Self {
        CertificateSection { lifetime: Self::default_lifetime() }
    }
}

/// How much is kept of the logs of each node's processes, and for how long. They lie in files of the node's state folder, and
/// are read with `lyceum logs`. The log of a process that lives is never deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsSection {
    /// Most bytes of one log, its last ones, up to what is written within the second in which it is cut: of each incarnation
    /// of an actor, and of each agent. 8 MiB where it is not given.
    #[serde(default = "LogsSection::default_size")]
    pub size: Bytes,
    /// How long the log of a process that has ended is kept; 7 days where it is not given.
    #[serde(default = "LogsSection::default_keep")]
    pub keep: Span,
    /// Most bytes of all logs of one node's workers: those that ended first go first. 1 GiB where it is not given, or four
    /// logs where those are more. No more than 4096 are kept in any case.
    #[serde(default)]
    pub total: Option<Bytes>,
}

impl LogsSection {
    fn default_size() -> Bytes {
        Bytes(8 << 20)
    }

    fn default_keep() -> Span {
        Span(7 * 86_400_000)
    }

    /// What `total` is, or is by default.
    pub fn total_bytes(&self) -> u64 {
        self.total.map_or_else(|| (1 << 30).max(self.size.0.saturating_mul(4)), |total| total.0)
    }
}

impl Default for LogsSection {
    fn default() -> Self {
        LogsSection { size: Self::default_size(), keep: Self::default_keep(), total: None }
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

/// Nodes that are asked for when actors or gangs wait for room, and given back when nothing needs them: with the launcher `slurm`
/// each is a job of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElasticSection {
    /// Most of them, beside those of the manifest.
    pub max_nodes: u32,
    /// What waits is looked at when it has waited for so many seconds.
    #[serde(default = "ElasticSection::default_patience")]
    pub patience: f64,
    /// A node that has been empty for so many seconds is drained and given back.
    #[serde(default = "ElasticSection::default_idle")]
    pub idle: f64,
    /// What the workers of each may use.
    pub resources: ResourceSection,
    /// Labels of each.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// As with `nodes`.
    pub interface: Option<String>,
    /// As with `nodes`.
    pub trusted_interface: Option<String>,
}

impl ElasticSection {
    fn default_patience() -> f64 {
        10.0
    }

    fn default_idle() -> f64 {
        300.0
    }

    /// As the head decides by them.
    pub(crate) fn rules(&self) -> Elastic {
        Elastic {
            most: self.max_nodes as usize,
            capacity: self.resources.capacity(),
            labels: self.labels.clone(),
            patience: Duration::from_secs_f64(self.patience),
            idle: Duration::from_secs_f64(self.idle),
        }
    }

    /// One of them.
    pub(crate) fn node(&self, name: &str) -> NodeSection {
        NodeSection {
            interface: self.interface.clone(),
            trusted_interface: self.trusted_interface.clone(),
            resources: Some(self.resources.clone()),
            labels: self.labels.clone(),
            ..NodeSection::named(name)
        }
    }
}

/// One node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// Unique name.
    pub name: String,
    /// Its host as `ssh` knows it: a name, an address, or an alias of the configuration. Only with the launcher `ssh`.
    pub host: Option<String>,
    /// Login name on `host`; without it `ssh` decides.
    pub user: Option<String>,
    /// Port of the SSH server on `host`; without it `ssh` decides.
    pub port: Option<u16>,
    /// Private key for `host`, as with `ssh -i`; relative to the manifest's folder, or beginning with `~/`.
    pub identity: Option<PathBuf>,
    /// Address that its processes listen on. Where neither it nor `interface` is given: loopback on this machine, and on
    /// another host the address from which that reaches the head.
    pub bind: Option<IpAddr>,
    /// Network interface of its host whose address its processes listen on, in place of `bind`.
    pub interface: Option<String>,
    /// Address that others reach them by, where that is not the one they listen on.
    pub advertise: Option<IpAddr>,
    /// A network interface whose network nobody else can read, such as `ib0`: what is not encrypted by nature (NCCL's
    /// traffic between GPUs) may use it, and loopback else (L6).
    pub trusted_interface: Option<String>,
    /// What its workers may use. Where it is not given, what is found on its host: the cores that affinity and a container's
    /// quota leave, the GPUs that NVML tells of, and the memory that the store and `reserve` leave; nodes of one host share that
    /// evenly. What a section does not name there is none of.
    pub resources: Option<ResourceSection>,
    /// Labels that its pod's host must have, beside those of all pods. Only with the launcher `kubernetes`.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// Free words that a spawn may ask for.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl NodeSection {
    /// A node of which nothing is said but its name: it has what is found on its host.
    pub(crate) fn named(name: &str) -> NodeSection {
        NodeSection {
            name: name.to_owned(),
            host: None,
            user: None,
            port: None,
            identity: None,
            bind: None,
            interface: None,
            advertise: None,
            trusted_interface: None,
            node_selector: BTreeMap::new(),
            resources: None,
            labels: BTreeMap::new(),
        }
    }

    /// What `ssh` is called with; all the same on this machine.
    pub(crate) fn destination(&self) -> (Option<&str>, Option<&str>, Option<u16>, Option<&Path>) {
        (self.host.as_deref(), self.user.as_deref(), self.port, self.identity.as_deref())
    }
}

/// What one node's workers may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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

impl ResourceSection {
    /// As placement counts it.
    pub(crate) fn capacity(&self) -> Capacity {
        let ResourceSection { cpus, gpus, memory, custom } = self;
        Capacity { cpus: *cpus, gpus: *gpus, memory: memory.0, custom: custom.clone() }
    }
}

/// What processes of one machine listen on where nothing else is said.
pub(crate) fn loopback() -> IpAddr {
    IpAddr::from([127, 0, 0, 1])
}

impl Manifest {
    /// Reads and checks the manifest at `path`.
    pub fn load(path: impl AsRef<Path>) -> Result<Manifest, StrictError> {
        Ok(Self::load_with_source(path)?.0)
    }

    /// The same, with the file's text for faults that are found later: what this machine does not have, for instance.
    pub fn load_with_source(path: impl AsRef<Path>) -> Result<(Manifest, Source), StrictError> {
        let mut document = strict::load(path)?;
        check(&document)?;
        document.value.resolve_paths(&document.source);
        Ok((document.value, document.source))
    }

    /// Reads and checks `text`; `file` is the name that errors carry.
    pub fn parse(file: &str, text: &str) -> Result<Manifest, StrictError> {
        let document = strict::parse(file, text)?;
        check(&document)?;
        Ok(document.value)
    }

    /// The ports of node number `index`, which all its processes keep to. Empty where the system chooses.
    pub fn node_ports(&self, index: usize) -> std::ops::Range<u16> {
        let (first, share) = (self.ports.first, self.ports_per_node());
        if first == 0 {
            return 0..0;
        }
        let start = first + self.reserved_ports() + index as u16 * share;
        start..start + share
    }

    /// The cluster with those nodes alone that share the host of node number `index`, and the place of that node among them.
    pub(crate) fn of_host(&self, index: usize) -> (Manifest, usize) {
        if matches!(self.launcher, Launcher::Slurm | Launcher::Kubernetes) {
            return (Manifest { nodes: vec![self.nodes[index].clone()], ..self.clone() }, 0);
        }
        let shares = |node: &NodeSection| node.destination() == self.nodes[index].destination();
        let place = self.nodes[..index].iter().filter(|node| shares(node)).count();
        let nodes = self.nodes.iter().filter(|node| shares(node)).cloned().collect();
        (Manifest { nodes, ..self.clone() }, place)
    }

    /// Makes the paths in it independent of where the manifest lies; `ssh` itself reads `~/`.
    fn resolve_paths(&mut self, source: &Source) {
        let identities = self.nodes.iter_mut().filter_map(|node| node.identity.as_mut());
        let configs = self.ssh.config.iter_mut().chain(self.kubernetes.kubeconfig.as_mut());
        for path in configs.chain(identities).filter(|path| !path.starts_with("~")) {
            let resolved = source.resolve(&*path);
            *path = std::path::absolute(&resolved).unwrap_or(resolved);
        }
    }

    /// What is kept back of `memory` bytes where a node's resources are found.
    pub(crate) fn reserve_of(&self, memory: u64) -> Bytes {
        self.reserve.unwrap_or(Bytes((memory / 10).clamp(256 << 20, 16 << 30)))
    }

    fn ports_per_node(&self) -> u16 {
        self.ports.count.saturating_sub(self.reserved_ports()) / (self.nodes.len().max(1) as u16)
    }

    /// The ports of command-line processes. Empty where the system chooses.
    pub(crate) fn client_ports(&self) -> std::ops::Range<u16> {
        let start = self.ports.first.saturating_add(self.head_ports());
        start..start.saturating_add(self.ports.clients)
    }

    /// Ports that are no node's.
    fn reserved_ports(&self) -> u16 {
        self.head_ports().saturating_add(self.ports.clients)
    }

    /// Ports of the head and those that stand by for it.
    fn head_ports(&self) -> u16 {
        1 + self.head.standbys as u16
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
