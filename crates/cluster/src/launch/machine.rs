//! What a manifest asks of this machine, and how its nodes share the machine's cores and GPUs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::control::offer::Gpu;
use crate::host;
use crate::host_cores::cores_here;
use crate::host_gpus::gpus_here;
use crate::host_memory::Memory;
use crate::manifest::{Launcher, Manifest, NodeSection, ResourceSection};
use crate::units::{Bytes, Milli};

const MIB: u64 = 1 << 20;

/// What the nodes of a cluster can have here.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    cores: Vec<u32>,
    /// How much of them processes here may use.
    cpus: Milli,
    /// How many; `None` where that cannot be told.
    gpus: Option<u64>,
    /// What the driver says of them, in PCI order; `None` without one.
    devices: Option<Vec<Gpu>>,
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
    /// What the driver says of these, where it does.
    pub(super) devices: Vec<Gpu>,
    /// What its workers may use: what the manifest says, or what was found.
    pub(super) resources: ResourceSection,
}

impl Machine {
    /// The machine that this process runs on.
    pub(super) fn here() -> Machine {
        let devices = gpus_here();
        Machine {
            cores: host::own_cores(),
            cpus: cores_here(),
            gpus: devices.as_ref().map(|devices| devices.len() as u64).or_else(host::own_gpus),
            devices,
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
            None => Ok(self.share_out(manifest.launcher, &self.resources(manifest)?)),
        }
    }

    /// What each node has: as the manifest says, and where that says nothing an even part of what the others leave. Refused where
    /// they leave nothing.
    pub(super) fn resources(&self, manifest: &Manifest) -> Result<Vec<ResourceSection>, Unmet> {
        let mut open = manifest.nodes.iter().enumerate().filter(|(_, node)| node.resources.is_none());
        let Some((first, node)) = open.next() else { return Ok(given(manifest).cloned().collect()) };
        let parts = 1 + open.count() as u64;
        let refuse = |message| Err(Unmet { key: format!("nodes[{first}]"), message });
        let name = &node.name;

        let claimed = given(manifest).fold(0_u64, |sum, claim| sum.saturating_add(claim.cpus.0));
        let cpus = match self.cpus.0.saturating_sub(claimed) / parts {
            0 => {
                let has = self.cpus;
                return refuse(format!(
                    "node `{name}` is to have what is found, and of {has} cores the others leave none: give it `resources`"
                ));
            }
            cpus if cpus < 1000 || parts == 1 => cpus,
            cpus => cpus / 1000 * 1000,
        };

        let Some(memory) = self.memory else {
            return refuse(format!(
                "node `{name}` is to have what is found, and the memory here cannot be told: give it `resources`"
            ));
        };
        let (store, reserve) = (manifest.store.capacity.0, manifest.reserve_of(memory.bytes).0);
        // Of a node that says what it has, the store is a part of that.
        let claimed = given(manifest).map(|claim| if claim.memory.0 > 0 { claim.memory.0 } else { store });
        let kept = parts.saturating_mul(store.saturating_add(reserve));
        let taken = claimed.fold(kept, u64::saturating_add);
        let free = match memory.bytes.saturating_sub(taken) / parts / MIB * MIB {
            0 => {
                let (has, store, reserve) = (Bytes(memory.bytes), manifest.store.capacity, Bytes(reserve));
                return refuse(format!(
                    "node `{name}` is to have what is found, and {} {has}, of which stores of {store}, a reserve of {reserve} \
                     and the other nodes leave none: expected a smaller `store.capacity` or `reserve`",
                    memory.in_words()
                ));
            }
            free => free,
        };

        let claimed = given(manifest).fold(0_u64, |sum, claim| sum.saturating_add(claim.gpus.into()));
        let gpus = self.devices.as_ref().map_or(0, |devices| devices.len() as u64).saturating_sub(claimed);
        let mut more = gpus % parts;
        let mut found = || {
            let gpus = gpus / parts + u64::from(more > 0);
            more = more.saturating_sub(1);
            let gpus = u32::try_from(gpus).unwrap_or(u32::MAX);
            ResourceSection { cpus: Milli(cpus), gpus, memory: Bytes(free), custom: BTreeMap::new() }
        };
        Ok(manifest.nodes.iter().map(|node| node.resources.clone().unwrap_or_else(&mut found)).collect())
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
        let memory = |node: &NodeSection| node.resources.as_ref().map_or(Bytes(0), |claim| claim.memory);
        let small = manifest.nodes.iter().find(|node| (1..capacity.0).contains(&memory(node).0));
        if let Some(node) = small {
            let (name, memory) = (&node.name, memory(node));
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

    fn share_out(&self, launcher: Launcher, claims: &[ResourceSection]) -> Vec<Share> {
        let claimed = claims.iter().fold(0_u64, |sum, claim| sum.saturating_add(claim.cpus.ceil()));
        let cores = self.cores.len() as u64;
        // A pod sees all cores of its host, and so do other pods there, unless Kubernetes gave it its own.
        let shared = launcher == Launcher::Kubernetes && claimed < cores;
        let exclusive = claimed <= cores && !shared;
        let (mut next_core, mut next_gpu) = (0, 0);
        let share = |claim: &ResourceSection| {
            let wanted = claim.cpus.ceil() as usize;
            let own = if exclusive { self.cores[next_core..next_core + wanted].to_vec() } else { Vec::new() };
            next_core += if exclusive { wanted } else { 0 };
            let numbers = next_gpu..next_gpu + claim.gpus as usize;
            next_gpu = numbers.end;
            let devices: Vec<Gpu> =
                numbers.clone().filter_map(|gpu| self.devices.as_ref()?.get(gpu).cloned()).collect();
            let name = |gpu: usize| {
                let uuid = self.devices.as_ref().and_then(|devices| Some(devices.get(gpu)?.uuid.clone()));
                let given = || self.gpu_names.as_ref().and_then(|names| names.get(gpu).cloned());
                uuid.or_else(given).unwrap_or_else(|| gpu.to_string())
            };
            Share { cores: own, gpus: numbers.map(name).collect(), devices, resources: claim.clone() }
        };
        claims.iter().map(share).collect()
    }
}

/// What the manifest says that nodes have.
fn given(manifest: &Manifest) -> impl Iterator<Item = &ResourceSection> {
    manifest.nodes.iter().filter_map(|node| node.resources.as_ref())
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
        claimed = claimed.saturating_add(node.resources.as_ref().map_or(0, &of));
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
        let (cores, cpus) = (vec![3, 4, 5], Milli::whole(3));
        Machine { cores, cpus, gpus: Some(3), devices: None, gpu_names: None, memory, interfaces }
    }

    #[test]
    fn nodes_get_cores_and_gpus_of_their_own() {
        let shares =
            machine().shares(&manifest(["{ cpus = 2, gpus = 1 }", "{ cpus = 1, gpus = 2 }"], false)).unwrap();
        assert_eq!((&shares[0].cores[..], &shares[0].gpus[..]), (&[3, 4][..], &["0".to_owned()][..]));
        assert_eq!(
            (&shares[1].cores[..], &shares[1].gpus[..]),
            (&[5][..], &["1".to_owned(), "2".to_owned()][..])
        );
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

    /// One GPU for each letter.
    fn devices(letters: &str) -> Option<Vec<Gpu>> {
        let gpu = |letter: char| Gpu { uuid: format!("GPU-{letter}"), ..Gpu::default() };
        Some(letters.chars().map(gpu).collect())
    }

    /// The resources of the nodes of a manifest that says as much of them, and what else.
    fn found(nodes: &[&str], more: &str, machine: &Machine) -> Result<Vec<Share>, Unmet> {
        let mut text = format!("name = \"c\"\n{more}\n");
        for (number, resources) in nodes.iter().enumerate() {
            text += &format!("[[nodes]]\nname = \"n{number}\"\n{resources}\n");
        }
        machine.shares(&Manifest::parse("c.toml", &text).unwrap())
    }

    fn resources(cpus: u64, gpus: u32, memory: u64) -> ResourceSection {
        ResourceSection { cpus: Milli(cpus), gpus, memory: Bytes(memory), custom: BTreeMap::new() }
    }

    #[test]
    fn a_node_that_says_nothing_has_what_is_found_less_what_is_kept_back() {
        let machine = Machine { devices: devices("abc"), ..machine() };
        let alone = found(&[""], "reserve = \"1 GiB\"", &machine).unwrap();
        assert_eq!(alone[0].resources, resources(3000, 3, (7 << 30) - (256 << 20)), "less the store too");
        assert_eq!(alone[0].gpus, ["GPU-a", "GPU-b", "GPU-c"]);
        assert_eq!(alone[0].devices, devices("abc").unwrap());
        let default = found(&[""], "", &machine).unwrap();
        let tenth = (8 << 30) / 10;
        assert_eq!(default[0].resources.memory.0, ((8 << 30) - (256 << 20) - tenth) / MIB * MIB, "a tenth");
        // A container's quota.
        let less = Machine { cpus: Milli(1500), ..machine.clone() };
        assert_eq!(found(&[""], "", &less).unwrap()[0].resources.cpus, Milli(1500));
        // Without a driver there are none, whatever there may be.
        let driverless = Machine { devices: None, ..machine.clone() };
        assert_eq!(found(&[""], "", &driverless).unwrap()[0].resources.gpus, 0);
    }

    #[test]
    fn nodes_that_say_nothing_share_what_the_others_leave() {
        let machine =
            Machine { cores: (0..8).collect(), cpus: Milli::whole(8), devices: devices("abcd"), ..machine() };
        let said = "resources = { cpus = 1, gpus = 1, memory = \"2 GiB\" }";
        let shares =
            found(&["", said, ""], "reserve = \"0 B\"\nstore = { capacity = \"1 GiB\" }", &machine).unwrap();
        assert_eq!(shares[0].resources, resources(3000, 2, 2 << 30));
        assert_eq!(shares[1].resources, resources(1000, 1, 2 << 30));
        assert_eq!(shares[2].resources, resources(3000, 1, 2 << 30));
        assert_eq!(shares[0].gpus, ["GPU-a", "GPU-b"]);
        assert_eq!(
            (&shares[1].gpus[..], &shares[2].gpus[..]),
            (&["GPU-c".to_owned()][..], &["GPU-d".to_owned()][..])
        );
        assert_eq!((&shares[0].cores[..], &shares[2].cores[..]), (&[0, 1, 2][..], &[4, 5, 6][..]));
    }

    #[test]
    fn where_nothing_is_left_to_be_found_it_is_said() {
        let all = "resources = { cpus = 3 }";
        let unmet = found(&[all, ""], "", &machine()).unwrap_err();
        assert_eq!(unmet.key, "nodes[1]");
        assert_eq!(
            unmet.message,
            "node `n1` is to have what is found, and of 3 cores the others leave none: give it `resources`"
        );
        let unmet = found(&[""], "reserve = \"8 GiB\"", &machine()).unwrap_err();
        assert_eq!(
            unmet.message,
            "node `n0` is to have what is found, and this machine has 8 GiB, of which stores of 256 MiB, a reserve of 8 GiB and \
             the other nodes leave none: expected a smaller `store.capacity` or `reserve`"
        );
        let unknown = Machine { memory: None, ..machine() };
        let unmet = found(&[""], "", &unknown).unwrap_err();
        assert!(
            unmet.message.ends_with("and the memory here cannot be told: give it `resources`"),
            "{}",
            unmet.message
        );
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
