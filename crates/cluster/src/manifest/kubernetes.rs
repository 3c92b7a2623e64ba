//! What is asked of Kubernetes, beyond what the nodes' `resources` say.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How the nodes' pods are made, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesSection {
    /// A kubeconfig file; relative to the manifest's folder. Without it: `$KUBECONFIG`, `~/.kube/config`, or, in a pod, the
    /// pod's own service account.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig file, in place of its current one.
    pub context: Option<String>,
    /// Namespace of all objects; without it that of the context, or of the pod in which `up` is typed.
    pub namespace: Option<String>,
    /// The containers' image, in which the programs are.
    pub image: Option<String>,
    /// The program in the image.
    #[serde(default = "KubernetesSection::default_program")]
    pub program: String,
    /// As in a container: `Always`, `IfNotPresent`, `Never`; without it Kubernetes decides by the image's tag.
    pub pull_policy: Option<PullPolicy>,
    /// Names of secrets with which the image is pulled.
    #[serde(default)]
    pub pull_secrets: Vec<String>,
    /// Service account of the pods; its token is not given to them.
    pub service_account: Option<String>,
    /// Labels that a pod's host must have.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of hosts that the pods bear.
    #[serde(default)]
    pub tolerations: Vec<Toleration>,
    /// Pods have the network of their host, and its addresses.
    #[serde(default)]
    pub host_network: bool,
    /// User and group, by number, that the containers' processes have.
    #[serde(default = "KubernetesSection::default_user")]
    pub user: u32,
    /// As in a pod: `priorityClassName`.
    pub priority_class: Option<String>,
    /// As in a pod: `runtimeClassName`; where GPUs need one, such as `nvidia`.
    pub runtime_class: Option<String>,
    /// What Kubernetes calls the GPUs.
    #[serde(default = "KubernetesSection::default_gpu_resource")]
    pub gpu_resource: String,
    /// What Kubernetes calls the nodes' custom resources; those that are not here are counted by the cluster alone.
    #[serde(default)]
    pub custom_resources: BTreeMap<String, String>,
    /// Volumes that all pods share: corpora, models, checkpoints.
    #[serde(default)]
    pub claims: Vec<ClaimMount>,
    /// Environment of the containers.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Longest wait for a pod's container to run, in seconds: for a host with room, and for the image.
    #[serde(default = "KubernetesSection::default_start_timeout")]
    pub start_timeout: u32,
}

/// When the image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "they are Kubernetes's own words")]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    /// As Kubernetes writes it.
    pub fn name(self) -> &'static str {
        match self {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
        }
    }
}

/// A taint that is borne, as in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toleration {
    /// The taint's key; every taint's without it.
    pub key: Option<String>,
    /// The taint's value; any without it.
    pub value: Option<String>,
    /// Which of the taint's effects; all without it.
    pub effect: Option<TaintEffect>,
}

/// What a taint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "they are Kubernetes's own words")]
pub enum TaintEffect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

impl TaintEffect {
    /// As Kubernetes writes it.
    pub fn name(self) -> &'static str {
        match self {
            TaintEffect::NoSchedule => "NoSchedule",
            TaintEffect::PreferNoSchedule => "PreferNoSchedule",
            TaintEffect::NoExecute => "NoExecute",
        }
    }
}

/// A persistent volume claim, and where it is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimMount {
    /// The claim's name.
    pub claim: String,
    /// The folder, in every pod.
    pub path: String,
    /// Nothing is written there.
    #[serde(default)]
    pub read_only: bool,
}

impl KubernetesSection {
    fn default_program() -> String {
        "lyceum".to_owned()
    }

    fn default_user() -> u32 {
        1000
    }

    fn default_gpu_resource() -> String {
        "nvidia.com/gpu".to_owned()
    }

    fn default_start_timeout() -> u32 {
        600
    }
}

impl Default for KubernetesSection {
    fn default() -> Self {
        KubernetesSection {
            kubeconfig: None,
            context: None,
            namespace: None,
            image: None,
            program: Self::default_program(),
            pull_policy: None,
            pull_secrets: Vec::new(),
            service_account: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            host_network: false,
            user: Self::default_user(),
            priority_class: None,
            runtime_class: None,
            gpu_resource: Self::default_gpu_resource(),
            custom_resources: BTreeMap::new(),
            claims: Vec::new(),
            env: BTreeMap::new(),
            start_timeout: Self::default_start_timeout(),
        }
    }
}
