//! What an agent says of its node when it joins: what was found there, or written down for it.

use rkyv::{Archive, Deserialize, Serialize};

use super::resources::Capacity;
use super::vocabulary::{CLIENT_NODE, HEAD_NODE, Labels};
use crate::manifest::{MAX_GPUS, MAX_NAME, check_name};
use crate::units::Milli;

/// Most labels, and most resources with names of their own, of one node.
const MAX_WORDS: usize = 1024;
/// Longest of what is told of a GPU, in bytes.
const MAX_TOLD: usize = 96;

/// What a node has. It counts where the head's manifest says nothing of the node's resources, or has no such node.
#[derive(
    Debug, Clone, Default, PartialEq, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize,
)]
pub struct Offer {
    /// What its processes may use.
    pub capacity: Capacity,
    /// Free words that a spawn may ask for.
    pub labels: Labels,
    /// What is known of its GPUs, by their numbers; for people.
    pub gpus: Vec<Gpu>,
    /// The interface that plaintext may use (L6); for people, as the agent sees to it itself.
    pub trusted_interface: Option<String>,
}

/// What the driver says of a GPU.
#[derive(
    Debug,
    Clone,
    Default,
    PartialEq,
    Eq,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Gpu {
    /// What `CUDA_VISIBLE_DEVICES` calls it: `GPU-...`.
    pub uuid: String,
    /// Its maker's name for it.
    pub model: String,
    /// Its place on the PCI bus, by which GPUs are numbered.
    pub pci: String,
    /// Its memory, in bytes.
    pub memory: u64,
}

impl Offer {
    /// What cannot be of what an agent says, if something cannot.
    pub fn check(&self) -> Result<(), String> {
        let Capacity { cpus, gpus, memory: _, custom } = &self.capacity;
        if *gpus > MAX_GPUS || self.gpus.len() > MAX_GPUS as usize {
            return Err(format!(
                "{} GPUs are offered, expected at most {MAX_GPUS}",
                (*gpus).max(self.gpus.len() as u32)
            ));
        }
        let most = Milli::whole(Milli::MAX_UNITS);
        if let Some(beyond) = custom.values().chain([cpus]).find(|amount| **amount > most) {
            return Err(format!("{beyond} of a resource is offered, expected at most {most}"));
        }
        if custom.len() > MAX_WORDS || self.labels.len() > MAX_WORDS {
            let (custom, labels) = (custom.len(), self.labels.len());
            return Err(format!(
                "{custom} resources and {labels} labels are offered, expected at most {MAX_WORDS}"
            ));
        }
        for name in custom.keys() {
            check_name("resource name", name)?;
        }
        for (name, value) in &self.labels {
            check_name("label", name)?;
            if value.len() > MAX_NAME {
                let bytes = value.len();
                return Err(format!("label `{name}` has {bytes} bytes, expected at most {MAX_NAME}"));
            }
        }
        let told = self.gpus.iter().flat_map(|gpu| [&gpu.uuid, &gpu.model, &gpu.pci]);
        if let Some(long) = told.chain(&self.trusted_interface).find(|told| told.len() > MAX_TOLD) {
            return Err(format!("{} bytes are told of a device, expected at most {MAX_TOLD}", long.len()));
        }
        Ok(())
    }
}

/// Whether a node that the manifest does not have may be called `name`.
pub fn check_node_name(name: &str) -> Result<(), String> {
    check_name("node name", name)?;
    match [CLIENT_NODE, HEAD_NODE].contains(&name) {
        true => Err(format!("node name `{name}` is taken by the cluster itself, expected another")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_cannot_be_offered_is_named() {
        Offer::default().check().unwrap();
        let capacity = |capacity| Offer { capacity, ..Offer::default() };
        let custom = |name: &str, amount| Capacity {
            custom: BTreeMap::from([(name.to_owned(), amount)]),
            ..Capacity::default()
        };
        let label = |name: &str, value: String| Offer {
            labels: Labels::from([(name.to_owned(), value)]),
            ..Offer::default()
        };
        let gpu = Gpu { model: "x".repeat(97), ..Gpu::default() };
        for (offer, said) in [
            (
                capacity(Capacity { gpus: 1025, ..Capacity::default() }),
                "1025 GPUs are offered, expected at most 1024",
            ),
            (
                capacity(Capacity { cpus: Milli(u64::MAX), ..Capacity::default() }),
                "18446744073709551.615 of a resource is offered, expected at most 1000000000",
            ),
            (capacity(custom("a b", Milli(1))), "resource name `a b`: expected letters"),
            (label("disk", "x".repeat(49)), "label `disk` has 49 bytes, expected at most 48"),
            (label("", String::new()), "label ``: expected letters"),
            (
                Offer { gpus: vec![gpu], ..Offer::default() },
                "97 bytes are told of a device, expected at most 96",
            ),
        ] {
            let refusal = offer.check().unwrap_err();
            assert!(refusal.starts_with(said), "{refusal}");
        }
        let labels = (0..1025).map(|number| (format!("l{number}"), String::new())).collect();
        let refusal = Offer { labels, ..Offer::default() }.check().unwrap_err();
        assert_eq!(refusal, "0 resources and 1025 labels are offered, expected at most 1024");
    }
}
