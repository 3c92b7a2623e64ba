//! What a node has, what a spawn asks for, and what it was given: whole thousandths, counted exactly.

use std::collections::BTreeMap;
use std::fmt;

pub use lyceum_actor::Strategy;
use lyceum_actor::{LabelRule, SpawnRequest};
use rkyv::{Archive, Deserialize, Serialize};

use crate::manifest::MAX_GPUS;
use crate::units::{Bytes, Milli};

/// What a spawn asks for, and where it may be given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Cores, in thousandths.
    pub cpus: Milli,
    /// GPUs: a share of one, or whole ones.
    pub gpus: Milli,
    /// Memory in bytes; 0 is no claim and no limit.
    pub memory: u64,
    /// Anything else that nodes count.
    pub custom: BTreeMap<String, Milli>,
    /// Only this node.
    pub node: Option<String>,
    /// Only nodes whose labels satisfy all of these.
    pub labels: Vec<LabelRule>,
    /// Which of the nodes that fit.
    pub strategy: Strategy,
}

impl From<&SpawnRequest> for Request {
    fn from(request: &SpawnRequest) -> Request {
        let resources = &request.resources;
        Request {
            cpus: Milli(resources.milli_cpus),
            gpus: Milli(resources.milli_gpus),
            memory: resources.memory,
            custom: resources.custom.iter().map(|(name, milli)| (name.clone(), Milli(*milli))).collect(),
            node: request.node.clone(),
            labels: request.labels.clone(),
            strategy: request.strategy,
        }
    }
}

/// What a node has in all.
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
pub struct Capacity {
    /// Cores, in thousandths.
    pub cpus: Milli,
    /// Number of GPUs.
    pub gpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Anything else.
    pub custom: BTreeMap<String, Milli>,
}

impl Capacity {
    /// Of a node of which nothing is known yet: it may come to hold anything that nodes have without being told.
    pub(crate) fn unknown() -> Capacity {
        Capacity { cpus: Milli(u64::MAX), gpus: MAX_GPUS, memory: u64::MAX, custom: BTreeMap::new() }
    }
}

/// What one process was given of its node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Allotment {
    /// Cores, in thousandths.
    pub cpus: Milli,
    /// GPU number to thousandths of it.
    pub gpus: BTreeMap<u32, Milli>,
    /// Memory in bytes; 0 is no limit.
    pub memory: u64,
    /// Anything else.
    pub custom: BTreeMap<String, Milli>,
}

/// Why a request does not fit on a node. Put into words only when somebody reads it: placement asks thousands of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortfall {
    /// Too few cores are free.
    Cpus {
        /// Asked for.
        asked: Milli,
        /// Free.
        free: Milli,
    },
    /// Too little memory is free.
    Memory {
        /// Asked for.
        asked: Bytes,
        /// Free.
        free: Bytes,
    },
    /// Too little of something else is free.
    Custom {
        /// What.
        name: String,
        /// Asked for.
        asked: Milli,
        /// Free.
        free: Milli,
    },
    /// Too few whole GPUs are free.
    Gpus {
        /// Asked for.
        asked: Milli,
        /// Whole ones that are free.
        free: u64,
    },
    /// No GPU has such a share free.
    GpuShare {
        /// Asked for.
        asked: Milli,
        /// GPUs of the node.
        devices: u32,
    },
    /// More than one GPU, and no whole number of them.
    GpuFraction {
        /// Asked for.
        asked: Milli,
    },
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shortfall::Cpus { asked, free } => write!(f, "cpus: {asked} asked, {free} free"),
            Shortfall::Memory { asked, free } => write!(f, "memory: {asked} asked, {free} free"),
            Shortfall::Custom { name, asked, free } => write!(f, "{name}: {asked} asked, {free} free"),
            Shortfall::Gpus { asked, free } => write!(f, "gpus: {asked} asked, {free} free"),
            Shortfall::GpuShare { asked, devices } => {
                write!(f, "gpus: {asked} asked, no device of {devices} has it free")
            }
            Shortfall::GpuFraction { asked } => {
                write!(f, "gpus: {asked} asked, expected whole GPUs or a share of one")
            }
        }
    }
}

/// A node's account: its capacity less what its processes were given. Never below zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    capacity: Capacity,
    used: Allotment,
    /// Of all GPUs together.
    gpus_used: Milli,
}

impl Ledger {
    /// An account of which nothing was given yet.
    pub fn new(capacity: Capacity) -> Ledger {
        Ledger { capacity, used: Allotment::default(), gpus_used: Milli(0) }
    }

    /// What the node has in all.
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// What its processes hold.
    pub fn used(&self) -> &Allotment {
        &self.used
    }

    /// What `request` would be given here now.
    pub fn fit(&self, request: &Request) -> Result<Allotment, Shortfall> {
        self.check(request)?;
        Ok(Allotment {
            cpus: request.cpus,
            gpus: self.choose_gpus(request.gpus),
            memory: request.memory,
            custom: request.custom.clone(),
        })
    }

    /// Whether `request` fits here now.
    pub fn check(&self, request: &Request) -> Result<(), Shortfall> {
        self.check_beside(&self.used, request)
    }

    /// Whether `request` would fit here if nobody had anything.
    pub fn check_alone(&self, request: &Request) -> Result<(), Shortfall> {
        self.check_beside(&Allotment::default(), request)
    }

    fn check_beside(&self, used: &Allotment, request: &Request) -> Result<(), Shortfall> {
        let free = Milli(self.capacity.cpus.0.saturating_sub(used.cpus.0));
        if request.cpus > free {
            return Err(Shortfall::Cpus { asked: request.cpus, free });
        }
        let free = self.capacity.memory.saturating_sub(used.memory);
        if request.memory > free {
            return Err(Shortfall::Memory { asked: Bytes(request.memory), free: Bytes(free) });
        }
        for (name, asked) in &request.custom {
            let amount = |of: &BTreeMap<String, Milli>| of.get(name).map_or(0, |amount| amount.0);
            let free = Milli(amount(&self.capacity.custom).saturating_sub(amount(&used.custom)));
            if *asked > free {
                return Err(Shortfall::Custom { name: name.clone(), asked: *asked, free });
            }
        }
        self.check_gpus(used, request.gpus)
    }

    fn check_gpus(&self, used: &Allotment, asked: Milli) -> Result<(), Shortfall> {
        let free = |gpu: u32| 1000_u64.saturating_sub(used.gpus.get(&gpu).map_or(0, |used| used.0));
        let devices = self.capacity.gpus;
        match asked.as_whole() {
            _ if asked.0 == 0 => Ok(()),
            None if asked.0 > 1000 => Err(Shortfall::GpuFraction { asked }),
            None if (0..devices).any(|gpu| free(gpu) >= asked.0) => Ok(()),
            None => Err(Shortfall::GpuShare { asked, devices }),
            Some(whole) => match (0..devices).filter(|gpu| free(*gpu) == 1000).count() as u64 {
                free if free < whole => Err(Shortfall::Gpus { asked, free }),
                _ => Ok(()),
            },
        }
    }

    /// The GPUs for a request that fits.
    fn choose_gpus(&self, asked: Milli) -> BTreeMap<u32, Milli> {
        if asked.0 == 0 {
            return BTreeMap::new();
        }
        let free = |gpu: &u32| 1000_u64.saturating_sub(self.used.gpus.get(gpu).map_or(0, |used| used.0));
        let all = 0..self.capacity.gpus;
        match asked.as_whole() {
            Some(whole) => all
                .filter(|gpu| free(gpu) == 1000)
                .take(usize::try_from(whole).unwrap_or(usize::MAX))
                .map(|gpu| (gpu, Milli(1000)))
                .collect(),
            // The fullest device that still has room: whole ones stay free for those who need them.
            None => all
                .filter(|gpu| free(gpu) >= asked.0)
                .min_by_key(|gpu| (free(gpu), *gpu))
                .map(|gpu| (gpu, asked))
                .into_iter()
                .collect(),
        }
    }

    /// Takes `given` off the account.
    pub fn take(&mut self, given: &Allotment) {
        add(&mut self.used.cpus.0, given.cpus.0);
        add(&mut self.used.memory, given.memory);
        for (gpu, share) in &given.gpus {
            add(&mut self.used.gpus.entry(*gpu).or_default().0, share.0);
            add(&mut self.gpus_used.0, share.0);
        }
        for (name, amount) in &given.custom {
            add(&mut self.used.custom.entry(name.clone()).or_default().0, amount.0);
        }
    }

    /// Puts `given` back.
    pub fn put_back(&mut self, given: &Allotment) {
        self.used.cpus.0 = self.used.cpus.0.saturating_sub(given.cpus.0);
        self.used.memory = self.used.memory.saturating_sub(given.memory);
        for (gpu, share) in &given.gpus {
            lessen(&mut self.used.gpus, gpu, *share);
            self.gpus_used.0 = self.gpus_used.0.saturating_sub(share.0);
        }
        for (name, amount) in &given.custom {
            lessen(&mut self.used.custom, name, *amount);
        }
    }

    /// Is more given than there is?
    pub fn overdrawn(&self) -> bool {
        self.used.cpus > self.capacity.cpus
            || self.used.memory > self.capacity.memory
            || self.used.gpus.iter().any(|(gpu, used)| *gpu >= self.capacity.gpus || used.0 > 1000)
            || self.used.custom.iter().any(|(name, used)| {
                used.0 > 0 && self.capacity.custom.get(name).is_none_or(|total| used > total)
            })
    }

    /// Has nobody anything?
    pub fn idle(&self) -> bool {
        self.used == Allotment::default()
    }

    /// How full the account would be with `request` in it, in thousandths of its fullest resource.
    pub fn fullness(&self, request: &Request) -> u64 {
        let share = |used: u64, total: u64| match (total, used.checked_mul(1000)) {
            (0, _) => 0,
            (total, Some(thousandfold)) => thousandfold / total,
            (total, None) => used / (total / 1000).max(1),
        };
        let mut fullest = share(self.used.cpus.0.saturating_add(request.cpus.0), self.capacity.cpus.0)
            .max(share(self.used.memory.saturating_add(request.memory), self.capacity.memory))
            .max(share(
                self.gpus_used.0.saturating_add(request.gpus.0),
                u64::from(self.capacity.gpus) * 1000,
            ));
        for (name, total) in &self.capacity.custom {
            let of = |amounts: &BTreeMap<String, Milli>| amounts.get(name).map_or(0, |amount| amount.0);
            fullest = fullest.max(share(of(&self.used.custom).saturating_add(of(&request.custom)), total.0));
        }
        fullest
    }
}

/// An agent's word on what its processes hold may be senseless.
fn add(amount: &mut u64, more: u64) {
    *amount = amount.saturating_add(more);
}

fn lessen<K: Ord + Clone>(amounts: &mut BTreeMap<K, Milli>, key: &K, by: Milli) {
    if let Some(amount) = amounts.get_mut(key) {
        amount.0 = amount.0.saturating_sub(by.0);
        if amount.0 == 0 {
            amounts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(gpus: u32) -> Ledger {
        Ledger::new(Capacity { cpus: Milli::whole(4), gpus, memory: 1 << 30, custom: BTreeMap::new() })
    }

    fn gpus(milli: u64) -> Request {
        Request { gpus: Milli(milli), ..Request::default() }
    }

    #[test]
    fn shares_fill_one_gpu_before_the_next() {
        let mut ledger = ledger(2);
        for expected in [0, 0, 1] {
            let given = ledger.fit(&gpus(500)).unwrap();
            assert_eq!(given.gpus, BTreeMap::from([(expected, Milli(500))]));
            ledger.take(&given);
        }
        assert_eq!(ledger.fit(&gpus(1000)).unwrap_err().to_string(), "gpus: 1 asked, 0 free");
        assert!(ledger.fit(&gpus(1500)).unwrap_err().to_string().contains("whole GPUs or a share of one"));
    }

    #[test]
    fn senseless_amounts_of_an_agent_leave_no_room_and_do_no_harm() {
        let mut ledger = ledger(1);
        let most = Milli(u64::MAX);
        let gpus_held = BTreeMap::from([(0, Milli(1500)), (7, most)]);
        let senseless = Allotment { cpus: most, gpus: gpus_held, memory: u64::MAX, custom: BTreeMap::new() };
        ledger.take(&senseless);
        ledger.take(&senseless);
        assert_eq!(
            ledger.fit(&gpus(500)).unwrap_err().to_string(),
            "gpus: 0.5 asked, no device of 1 has it free"
        );
        assert_eq!(ledger.fit(&gpus(1000)).unwrap_err().to_string(), "gpus: 1 asked, 0 free");
        assert!(ledger.fullness(&gpus(500)) > 1000);
        ledger.put_back(&senseless);
    }

    #[test]
    fn what_is_put_back_is_free_again() {
        let mut ledger = ledger(1);
        let request = Request { cpus: Milli(2500), memory: 5, gpus: Milli(1000), ..Request::default() };
        let given = ledger.fit(&request).unwrap();
        ledger.take(&given);
        assert_eq!(ledger.fit(&request).unwrap_err().to_string(), "cpus: 2.5 asked, 1.5 free");
        ledger.put_back(&given);
        assert!(ledger.idle() && !ledger.overdrawn());
    }
}
