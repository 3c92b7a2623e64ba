//! What a manifest asks of this machine, and how its nodes share the machine's cores and GPUs.

use std::net::IpAddr;

use crate::host;
use crate::host_memory::Memory;
use crate::manifest::{Launcher, Manifest, ResourceSection};
use crate::units::Bytes;

/// What the nodes of a cluster can have here.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    cores: Vec<u32>,
    /// How many; `None` where that cannot be told.
    gpus: Option<u64>,
    /// What `CUDA_VISIBLE_DEVICES` calls them, where it is set.
    gpu_names: Option<Vec<String>>,
    /// `None` where that cannot be told.
    memory: Option<Memory>,
    /// Names of its network interfaces; `None` where that cannot be told.
    interfaces: Option<Vec<String>>,
}

/// A request of a manifest that this machine cannot meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unmet {
    /// The key that asks for it.
    pub(super) key: String,
    /// What is asked for, and what there is.
    pub(super) message: String,
}

/// One node's share of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    /// Cores of its own; empty where the nodes share all.
    pub(super) cores: Vec<u32>,
    /// Names of its GPUs for `CUDA_VISIBLE_DEVICES`.
    pub(super) gpus: Vec<String>,
}

impl Machine {
    /// The machine that this process runs on.
    pub(super) fn here() -> Machine {
        Machine {
            cores: host::own_cores(),
            gpus: host::own_gpus(),
            gpu_names: host::named_gpus(),
            memory: Memory::here(),
            interfaces: host::interfaces(),
        }
    }

    /// The shares of all nodes, in the manifest's order; refused where they ask for what is not there.
    pub(super) fn shares(&self, manifest: &Manifest) -> Result<Vec<Share>, Unmet> {
        let unmet = self
            .overclaimed(manifest)
            .or_else(|| self.overstored(manifest))
            .or_else(|| elsewhere(manifest))
            .or_else(|| self.unconnected(manifest));
        match unmet {
            Some(unmet) => Err(unmet),
            None => Ok(self.share_out(manifest)),
        }
    }

    /// More cores, memory or GPUs than there are, which `oversubscribe` allows.
    fn overclaimed(&self, manifest: &Manifest) -> Option<Unmet> {
        if manifest.oversubscribe {
            return None;
        }
        let count = |count: u64| count.to_string();
        let machine = |count| (count, "this machine has");
        let (cores, gpus) = (Some(machine(self.cores.len() as u64)), self.gpus.map(machine));
        overclaim(manifest, "cpus", " cores", cores, |claim| claim.cpus.ceil(), count)
            .or_else(|| overclaim(manifest, "gpus", " GPUs", gpus, |claim| claim.gpus.into(), count))
            .or_else(|| {
                let bytes = |bytes| Bytes(bytes).to_string();
                let has = self.memory.map(|memory| (memory.bytes, memory.in_words()));
                overclaim(manifest, "memory", " of memory", has, |claim| claim.memory.0, bytes)
            })
    }

    /// Stores that cannot be in memory: in a node's own, or all of them in the machine's. All of a store may be touched
    /// at its start, so `oversubscribe` makes no difference.
    fn overstored(&self, manifest: &Manifest) -> Option<Unmet> {
        let capacity = manifest.store.capacity;
        let key = || "store.capacity".to_owned();
        let small = manifest.nodes.iter().find(|node| (1..capacity.0).contains(&node.resources.memory.0));
        if let Some(node) = small {
            let (name, memory) = (&node.name, node.resources.memory);
            let message = format!("a store of {capacity} lies in memory, and node '{name}' has {memory}");
            return Some(Unmet { key: key(), message });
        }
        let (stores, memory) = (manifest.nodes.len() as u64, self.memory?);
        let message = || {
            let (each, has) = (if stores == 1 { "" } else { " on each node" }, Bytes(memory.bytes));
            let who = memory.in_words();
            format!("a store of {capacity}{each} lies in memory, and {who} {has}: expected less")
        };
        (capacity.0.saturating_mul(stores) > memory.bytes).then(|| Unmet { key: key(), message: message() })
    }

    /// A trusted interface that is not there.
    fn unconnected(&self, manifest: &Manifest) -> Option<Unmet> {
        let has = self.interfaces.as_ref()?;
        let nodes = manifest.nodes.iter().enumerate();
        let (index, interface) = nodes
            .filter_map(|(index, node)| Some((index, node.trusted_interface.as_ref()?)))
            .find(|(_, interface)| !has.contains(interface))?;
        let message =
            format!("this machine has no interface `{interface}`, expected one of {}", has.join(", "));
        Some(Unmet { key: format!("nodes[{index}].trusted_interface"), message })
    }

    fn share_out(&self, manifest: &Manifest) -> Vec<Share> {
        let claims = || manifest.nodes.iter().map(|node| &node.resources);
        let claimed = claims().fold(0_u64, |sum, claim| sum.saturating_add(claim.cpus.ceil()));
        let cores = self.cores.len() as u64;
        // A pod sees all cores of its host, and so do other pods there, unless Kubernetes gave it its own.
        let shared = manifest.launcher == Launcher::Kubernetes && claimed < cores;
        let exclusive = claimed <= cores && !shared;
        let (mut next_core, mut next_gpu) = (0, 0);
        let share = |claim: &ResourceSection| {
            let wanted = claim.cpus.ceil() as usize;
            let own = if exclusive { self.cores[next_core..next_core + wanted].to_vec() } else { Vec::new() };
            next_core += if exclusive { wanted } else { 0 };
            let gpus = (next_gpu..next_gpu + claim.gpus as usize)
                .map(|gpu| match &self.gpu_names {
                    Some(names) => names.get(gpu).cloned().unwrap_or_else(|| gpu.to_string()),
                    None => gpu.to_string(),
                })
                .collect();
            next_gpu += claim.gpus as usize;
            Share { cores: own, gpus }
        };
        claims().map(share).collect()
    }
}

/// The first node with which the claims of a resource are more than there is.
fn overclaim(
    manifest: &Manifest,
    key: &str,
    unit: &str,
    has: Option<(u64, &str)>,
    of: impl Fn(&ResourceSection) -> u64,
    shown: impl Fn(u64) -> String,
) -> Option<Unmet> {
    let (has, who) = has?;
    let mut claimed = 0_u64;
    let mut first = None;
    for (index, node) in manifest.nodes.iter().enumerate() {
        claimed = claimed.saturating_add(of(&node.resources));
        if claimed > has {
            first = first.or(Some(index));
        }
    }
    let message = format!(
        "the nodes of `{}` claim {}{unit}, {who} {}: claim less, or allow it with `oversubscribe = true`",
        manifest.name,
        shown(claimed),
        shown(has)
    );
    first.map(|index| Unmet { key: format!("nodes[{index}].resources.{key}"), message })
}

/// What the head asks of its machine: an address to listen on that is not another's.
pub(super) fn unmet_by_head(manifest: &Manifest) -> Option<Unmet> {
    not_here("head", manifest.head.bind, manifest.head.interface.as_deref())
}

/// As [`unmet_by_head`], of the nodes.
fn elsewhere(manifest: &Manifest) -> Option<Unmet> {
    let mut nodes = manifest.nodes.iter().enumerate();
    nodes.find_map(|(index, node)| not_here(&format!("nodes[{index}]"), node.bind, node.interface.as_deref()))
}

fn not_here(section: &str, bind: Option<IpAddr>, interface: Option<&str>) -> Option<Unmet> {
    if let Some(bind) = bind.filter(|bind| !host::has_address(*bind)) {
        let message = format!(
            "`bind` is {bind}, and nobody can listen on that here: expected an address of this machine"
        );
        return Some(Unmet { key: format!("{section}.bind"), message });
    }
    let unmet = host::listen_address(bind, interface, None).err()?;
    Some(Unmet { key: format!("{section}.interface"), message: unmet })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(resources: [&str; 2], oversubscribe: bool) -> Manifest {
        let [a, b] = resources;
        let text = format!(
            "name = \"c\"\noversubscribe = {oversubscribe}\n[[nodes]]\nname = \"a\"\nresources = {a}\n\
             [[nodes]]\nname = \"b\"\nresources = {b}"
        );
        Manifest::parse("c.toml", &text).unwrap()
    }

    /// Three cores, three GPUs and 8 GiB.
    fn machine() -> Machine {
        let interfaces = Some(vec!["ib0".into(), "lo".into()]);
        let memory = Some(Memory { bytes: 8 << 30, by_cgroup: false });
        Machine { cores: vec![3, 4, 5], gpus: Some(3), gpu_names: None, memory, interfaces }
    }

    #[test]
    fn nodes_get_cores_and_gpus_of_their_own() {
        let shares =
            machine().shares(&manifest(["{ cpus = 2, gpus = 1 }", "{ cpus = 1, gpus = 2 }"], false)).unwrap();
        assert_eq!(shares[0], Share { cores: vec![3, 4], gpus: vec!["0".into()] });
        assert_eq!(shares[1], Share { cores: vec![5], gpus: vec!["1".into(), "2".into()] });
    }

    #[test]
    fn too_much_is_refused_at_the_node_that_is_one_too_many_unless_it_is_wanted() {
        let hint = "claim less, or allow it with `oversubscribe = true`";
        for (resources, key, said) in [
            ("{ cpus = 2 }", "cpus", "claim 4 cores, this machine has 3"),
            ("{ gpus = 2 }", "gpus", "claim 4 GPUs, this machine has 3"),
            ("{ memory = \"5 GiB\" }", "memory", "claim 10 GiB of memory, this machine has 8 GiB"),
        ] {
            let greedy = |oversubscribe| manifest([resources, resources], oversubscribe);
            let unmet = machine().shares(&greedy(false)).unwrap_err();
            assert_eq!(unmet.key, format!("nodes[1].resources.{key}"));
            assert_eq!(unmet.message, format!("the nodes of `c` {said}: {hint}"));
            machine().shares(&greedy(true)).unwrap();
        }
        let shares = machine().shares(&manifest(["{ cpus = 2 }", "{ cpus = 2 }"], true)).unwrap();
        assert!(shares.iter().all(|share| share.cores.is_empty()));
        // What cannot be told is not refused.
        let machine = Machine { gpus: None, memory: None, ..machine() };
        machine.shares(&manifest(["{ gpus = 9, memory = \"9 TiB\" }", "{}"], false)).unwrap();
    }

    #[test]
    fn stores_must_be_in_memory() {
        let with = |capacity, oversubscribe| {
            let mut manifest = manifest(["{}", "{}"], oversubscribe);
            manifest.store.capacity = Bytes::parse(capacity).unwrap();
            machine().shares(&manifest)
        };
        with("4 GiB", false).unwrap();
        for oversubscribe in [false, true] {
            let unmet = with("5 GiB", oversubscribe).unwrap_err();
            assert_eq!(unmet.key, "store.capacity");
            let said =
                "a store of 5 GiB on each node lies in memory, and this machine has 8 GiB: expected less";
            assert_eq!(unmet.message, said);
        }
        let memory = Some(Memory { bytes: 1 << 28, by_cgroup: true });
        let contained = Machine { memory, ..machine() }.shares(&manifest(["{}", "{}"], true)).unwrap_err();
        let said = "a store of 256 MiB on each node lies in memory, and the memory cgroup of these processes, a \
                    container's limit, allows 256 MiB: expected less";
        assert_eq!(contained.message, said);
        let small = machine().shares(&manifest(["{}", "{ memory = \"200 MiB\" }"], false)).unwrap_err();
        assert_eq!(small.message, "a store of 256 MiB lies in memory, and node 'b' has 200 MiB");
    }

    #[test]
    fn a_trusted_interface_must_be_there() {
        let mut manifest = manifest(["{}", "{}"], false);
        manifest.nodes[0].trusted_interface = Some("ib0".into());
        machine().shares(&manifest).unwrap();
        manifest.nodes[1].trusted_interface = Some("ib9".into());
        let unmet = machine().shares(&manifest).unwrap_err();
        assert_eq!(unmet.key, "nodes[1].trusted_interface");
        assert_eq!(unmet.message, "this machine has no interface `ib9`, expected one of ib0, lo");
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let mut manifest = manifest(["{}", "{}"], false);
        // Of a block that is kept for documentation: no machine has it.
        let other = "192.0.2.1".parse().unwrap();
        manifest.nodes[1].bind = Some(other);
        assert_eq!(machine().shares(&manifest).unwrap_err().key, "nodes[1].bind");
        assert_eq!(unmet_by_head(&manifest), None);
        manifest.head.bind = Some(other);
        let unmet = unmet_by_head(&manifest).unwrap();
        assert_eq!(unmet.key, "head.bind");
        assert!(unmet.message.starts_with("`bind` is 192.0.2.1, and nobody can listen"), "{}", unmet.message);
    }
}
