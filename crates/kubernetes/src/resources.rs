//! What a node's claims are called by Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use lyceum_cluster::manifest::{KubernetesSection, Manifest, NodeSection};
use lyceum_cluster::units::Milli;

/// What an agent and its workers' smallest parts need beside what is claimed and the store.
const AGENT_BYTES: u64 = 128 << 20;

/// What a pod may use, and has for itself.
pub(crate) fn resources(manifest: &Manifest, node: &NodeSection) -> BTreeMap<String, Quantity> {
    let KubernetesSection { gpu_resource, custom_resources, .. } = &manifest.kubernetes;
    // A node that says nothing claims nothing, and has what its agent finds.
    let claim = node.resources.clone().unwrap_or_default();
    let beside = manifest.store.capacity.0.saturating_add(AGENT_BYTES);
    let mut all = BTreeMap::new();
    if claim.cpus.0 > 0 {
        all.insert("cpu".to_owned(), cpus(claim.cpus));
    }
    // Where the node says nothing, its workers' memory has no limit.
    if claim.memory.0 > 0 {
        all.insert("memory".to_owned(), bytes(claim.memory.0.saturating_add(beside)));
    }
    if claim.gpus > 0 {
        all.insert(gpu_resource.clone(), Quantity(claim.gpus.to_string()));
    }
    for (name, extended) in custom_resources {
        if let Some(amount) = claim.custom.get(name).filter(|amount| amount.0 > 0) {
            all.insert(extended.clone(), Quantity(amount.to_string()));
        }
    }
    all
}

fn cpus(cpus: Milli) -> Quantity {
    Quantity(if cpus.0.is_multiple_of(1000) { (cpus.0 / 1000).to_string() } else { format!("{}m", cpus.0) })
}

fn bytes(bytes: u64) -> Quantity {
    let units = [(30, "Gi"), (20, "Mi"), (10, "Ki")];
    let unit = units.into_iter().find(|(bits, _)| bytes.is_multiple_of(1 << bits));
    Quantity(unit.map_or_else(|| bytes.to_string(), |(bits, name)| format!("{}{name}", bytes >> bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_kubernetes_writes_them() {
        let amounts = [1 << 30, 3 << 20, 5 << 10, 7].map(|amount| bytes(amount).0);
        assert_eq!(amounts, ["1Gi", "3Mi", "5Ki", "7"]);
        assert_eq!([cpus(Milli(2000)).0, cpus(Milli(250)).0], ["2", "250m"]);
    }
}
