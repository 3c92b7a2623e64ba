//! The objects of a cluster, as values: from a manifest to what is sent to Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMap, Container, EmptyDirVolumeSource, EnvVar, LocalObjectReference,
    PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec, ResourceRequirements,
    SeccompProfile, Secret, SecretVolumeSource, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use lyceum_cluster::ClusterError;
use lyceum_cluster::manifest::{Manifest, NodeSection, PullPolicy, TaintEffect};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::resources::resources;

/// Labels by which objects are found.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub(crate) const CLUSTER_LABEL: &str = "lyceum.io/cluster";
pub(crate) const NODE_LABEL: &str = "lyceum.io/node";
pub(crate) const ORIGIN_LABEL: &str = "lyceum.io/origin";
/// Where the cluster's state is, in words.
pub(crate) const ORIGIN_ANNOTATION: &str = "lyceum.io/origin";

/// Where a pod finds its order, and keeps its state.
const ORDER_FOLDER: &str = "/etc/lyceum";
const ORDER_KEY: &str = "order.json";
const STATE_FOLDER: &str = "/var/lib/lyceum";
/// An agent that is told to end may take so much longer than its workers, in seconds.
const AGENT_GRACE: i64 = 10;

/// What the objects of one cluster are made of.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    manifest: Manifest,
    origin: String,
    namespace: Option<String>,
}

impl Objects {
    pub(crate) fn new(manifest: &Manifest, origin: &str, namespace: Option<&str>) -> Objects {
        Objects {
            manifest: manifest.clone(),
            origin: origin.to_owned(),
            namespace: namespace.map(str::to_owned),
        }
    }

    /// The name of the object that owns all others.
    pub(crate) fn anchor_name(&self) -> String {
        format!("lyceum-{}", self.manifest.name)
    }

    /// The name of a node's pod and secret. No two clusters and nodes share one: neither has a dot.
    pub(crate) fn node_name(&self, node: &str) -> String {
        format!("lyceum-{}.{node}", self.manifest.name)
    }

    /// Finds all objects of the cluster, and no other's.
    pub(crate) fn selector(&self) -> String {
        let Manifest { name, .. } = &self.manifest;
        format!("{MANAGED_BY}=lyceum,{CLUSTER_LABEL}={name},{ORIGIN_LABEL}={}", self.origin_hash())
    }

    /// Of the machine and folder of the cluster's state.
    pub(crate) fn origin_hash(&self) -> String {
        let hash = Sha256::digest(&self.origin);
        hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// How long a pod may take to end, in seconds.
    pub(crate) fn grace(&self) -> i64 {
        self.manifest.health.stop.ceil() as i64 + AGENT_GRACE
    }

    /// What owns all other objects; `owner` owns it.
    pub(crate) fn anchor(&self, owner: Option<OwnerReference>) -> ConfigMap {
        // Names alone: a config map has room for a megabyte, which a manifest may need more of.
        let nodes: Vec<&str> = self.manifest.nodes.iter().map(|node| &*node.name).collect();
        let data = BTreeMap::from([("nodes".to_owned(), nodes.join("\n"))]);
        let mut metadata = self.metadata(self.anchor_name(), None, owner);
        metadata.annotations = Some(BTreeMap::from([(ORIGIN_ANNOTATION.to_owned(), self.origin.clone())]));
        ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }
    }

    /// The reference by which `anchor`, as it was made, owns the others.
    pub(crate) fn owned_by(anchor: &ConfigMap) -> OwnerReference {
        OwnerReference {
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            name: anchor.metadata.name.clone().unwrap_or_default(),
            uid: anchor.metadata.uid.clone().unwrap_or_default(),
            ..OwnerReference::default()
        }
    }

    /// The secret with the order of `node`.
    pub(crate) fn secret(&self, node: &str, order: Vec<u8>, owner: OwnerReference) -> Secret {
        Secret {
            data: Some(BTreeMap::from([(ORDER_KEY.to_owned(), ByteString(order))])),
            ..self.bare_secret(node, Some(owner))
        }
    }

    fn bare_secret(&self, node: &str, owner: Option<OwnerReference>) -> Secret {
        Secret {
            metadata: self.metadata(self.node_name(node), Some(node), owner),
            type_: Some("Opaque".to_owned()),
            immutable: Some(true),
            ..Secret::default()
        }
    }

    /// The pod of `node`.
    pub(crate) fn pod(&self, node: &NodeSection, owner: Option<OwnerReference>) -> Pod {
        let mut metadata = self.metadata(self.node_name(&node.name), Some(&node.name), owner);
        let labels = metadata.labels.get_or_insert_default();
        labels.insert("app.kubernetes.io/component".to_owned(), "agent".to_owned());
        Pod { metadata, spec: Some(self.pod_spec(node)), ..Pod::default() }
    }

    fn metadata(&self, name: String, node: Option<&str>, owner: Option<OwnerReference>) -> ObjectMeta {
        let cluster = &*self.manifest.name;
        let origin = self.origin_hash();
        let all = [
            ("app.kubernetes.io/name", "lyceum"),
            ("app.kubernetes.io/instance", cluster),
            (MANAGED_BY, "lyceum"),
            (CLUSTER_LABEL, cluster),
            (ORIGIN_LABEL, &origin),
        ];
        let labels = all.into_iter().chain(node.map(|node| (NODE_LABEL, node)));
        ObjectMeta {
            name: Some(name),
            namespace: self.namespace.clone(),
            labels: Some(labels.map(|(label, value)| (label.to_owned(), value.to_owned())).collect()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        }
    }

    fn pod_spec(&self, node: &NodeSection) -> PodSpec {
        let section = &self.manifest.kubernetes;
        let selector: BTreeMap<String, String> = section
            .node_selector
            .iter()
            .chain(&node.node_selector)
            .map(|(a, b)| (a.clone(), b.clone()))
            .collect();
        let secrets = section.pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
        let user = i64::from(section.user);
        PodSpec {
            containers: vec![self.container(node)],
            volumes: Some(self.volumes(node)),
            restart_policy: Some("Never".to_owned()),
            termination_grace_period_seconds: Some(self.grace()),
            // With dots in it, the pod's own name would be none for a host.
            hostname: Some(node.name.clone()),
            host_network: section.host_network.then_some(true),
            dns_policy: section.host_network.then(|| "ClusterFirstWithHostNet".to_owned()),
            node_selector: given(selector),
            tolerations: given(section.tolerations.iter().map(toleration).collect()),
            image_pull_secrets: given(secrets.collect()),
            service_account_name: section.service_account.clone(),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            // Whoever is left of a worker is taken in by the pod's first process.
            share_process_namespace: Some(true),
            priority_class_name: section.priority_class.clone(),
            runtime_class_name: section.runtime_class.clone(),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(user),
                run_as_group: Some(user),
                // Who is not root reads a mounted secret as its group.
                fs_group: Some(user),
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            ..PodSpec::default()
        }
    }

    fn container(&self, node: &NodeSection) -> Container {
        let section = &self.manifest.kubernetes;
        let order = format!("{ORDER_FOLDER}/{ORDER_KEY}");
        let command = [&*section.program, "pod", "--order", &order, "--state", STATE_FOLDER];
        // Nothing else of the image can be written to.
        let home = (!section.env.contains_key("HOME")).then_some(("HOME", "/tmp"));
        let set = section.env.iter().map(|(name, value)| (&**name, &**value));
        let env = home.into_iter().chain(set).map(|(name, value)| EnvVar {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            ..EnvVar::default()
        });
        let claims = resources(&self.manifest, node);
        Container {
            name: "agent".to_owned(),
            image: section.image.clone(),
            image_pull_policy: section.pull_policy.map(|policy: PullPolicy| policy.name().to_owned()),
            command: Some(command.map(str::to_owned).to_vec()),
            env: Some(env.collect()),
            resources: Some(ResourceRequirements {
                limits: given(claims.clone()),
                requests: given(claims),
                ..ResourceRequirements::default()
            }),
            volume_mounts: Some(self.mounts(node)),
            // The pod's status then has the end of its log.
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                read_only_root_filesystem: Some(true),
                capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
                ..SecurityContext::default()
            }),
            ..Container::default()
        }
    }

    fn volumes(&self, node: &NodeSection) -> Vec<Volume> {
        let named = |name: &str| Volume { name: name.to_owned(), ..Volume::default() };
        let order = SecretVolumeSource {
            secret_name: Some(self.node_name(&node.name)),
            default_mode: Some(0o400),
            ..SecretVolumeSource::default()
        };
        // On disk: objects that have no room in memory go there.
        let folder = |name: &str, medium: Option<&str>| {
            let source = EmptyDirVolumeSource { medium: medium.map(str::to_owned), size_limit: None };
            Volume { empty_dir: Some(source), ..named(name) }
        };
        let mut volumes = vec![
            Volume { secret: Some(order), ..named("order") },
            folder("state", None),
            folder("tmp", None),
        ];
        volumes.extend(uses_nccl(node).then(|| folder("shm", Some("Memory"))));
        let claims = self.manifest.kubernetes.claims.iter().enumerate().map(|(index, claim)| Volume {
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.claim.clone(),
                read_only: claim.read_only.then_some(true),
            }),
            ..named(&claim_volume(index))
        });
        volumes.extend(claims);
        volumes
    }

    fn mounts(&self, node: &NodeSection) -> Vec<VolumeMount> {
        let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
            name: name.to_owned(),
            mount_path: path.to_owned(),
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        };
        let mut mounts = vec![
            mount("order", ORDER_FOLDER, true),
            mount("state", STATE_FOLDER, false),
            mount("tmp", "/tmp", false),
        ];
        mounts.extend(uses_nccl(node).then(|| mount("shm", "/dev/shm", false)));
        let claims = self.manifest.kubernetes.claims.iter().enumerate();
        mounts.extend(claims.map(|(index, claim)| mount(&claim_volume(index), &claim.path, claim.read_only)));
        mounts
    }
}

/// NCCL takes shared memory by name between GPUs of one node; a container's 64 MiB are too few.
fn uses_nccl(node: &NodeSection) -> bool {
    node.resources.gpus > 1
}

fn claim_volume(index: usize) -> String {
    format!("claim-{index}")
}

/// Nothing, rather than an empty list.
fn given<T>(all: T) -> Option<T>
where
    T: Default + PartialEq,
{
    (all != T::default()).then_some(all)
}

fn toleration(toleration: &lyceum_cluster::manifest::Toleration) -> Toleration {
    let operator = if toleration.value.is_some() { "Equal" } else { "Exists" };
    Toleration {
        key: toleration.key.clone(),
        operator: Some(operator.to_owned()),
        value: toleration.value.clone(),
        effect: toleration.effect.map(|effect: TaintEffect| effect.name().to_owned()),
        ..Toleration::default()
    }
}

/// All objects of the cluster, one document each.
pub(crate) fn yaml(objects: &Objects) -> Result<String, ClusterError> {
    let placeholder = "the order for this agent, with its credentials: `lyceum up` makes it";
    let mut text = document(&objects.anchor(None))?;
    for node in &objects.manifest.nodes {
        let contents = BTreeMap::from([(ORDER_KEY.to_owned(), placeholder.to_owned())]);
        let secret = Secret { string_data: Some(contents), ..objects.bare_secret(&node.name, None) };
        text += &document(&secret)?;
        text += &document(&objects.pod(node, None))?;
    }
    Ok(text)
}

fn document(object: &impl Serialize) -> Result<String, ClusterError> {
    let text = serde_saphyr::to_string(object).map_err(|error| unwritable(&error))?;
    Ok(format!("---\n{}\n", text.trim_end()))
}

fn unwritable(error: &dyn std::fmt::Display) -> ClusterError {
    ClusterError::Refused(format!("an object for Kubernetes cannot be written: {error}"))
}

#[cfg(test)]
mod tests;
