//! What a node has, what a spawn asks for, and what it was given: whole thousandths, counted exactly.

use std::collections::BTreeMap;
use std::fmt;

pub use lyceum_actor::Strategy;
use lyceum_actor::{LabelRule, SpawnRequest};
use rkyv::{Archive, Deserialize, Serialize};

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
#[derive(Debug, Clone, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
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

/// Why a request does not fit on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall(String);

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node's account: its capacity less what its processes were given. Never below zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    capacity: Capacity,
    used: Allotment,
}

impl Ledger {
    /// An account of which nothing was given yet.
    pub fn new(capacity: Capacity) -> Ledger {
        Ledger { capacity, used: Allotment::default() }
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
        self.fit_beside(&self.used, request)
    }

    /// What `request` would be given here if nobody had anything.
    pub fn fit_alone(&self, request: &Request) -> Result<Allotment, Shortfall> {
        self.fit_beside(&Allotment::default(), request)
    }

    fn fit_beside(&self, used: &Allotment, request: &Request) -> Result<Allotment, Shortfall> {
        let free = |total: u64, used: u64| total.saturating_sub(used);
        short("cpus", request.cpus, Milli(free(self.capacity.cpus.0, used.cpus.0)))?;
        short("memory", Bytes(request.memory), Bytes(free(self.capacity.memory, used.memory)))?;
        for (name, asked) in &request.custom {
            let total = self.capacity.custom.get(name).copied().unwrap_or_default();
            let used = used.custom.get(name).copied().unwrap_or_default();
            short(name, *asked, Milli(free(total.0, used.0)))?;
        }
        Ok(Allotment {
            cpus: request.cpus,
            gpus: self.fit_gpus(used, request.gpus)?,
            memory: request.memory,
            custom: request.custom.clone(),
        })
    }

    fn fit_gpus(&self, used: &Allotment, asked: Milli) -> Result<BTreeMap<u32, Milli>, Shortfall> {
        let free = |gpu: &u32| 1000 - used.gpus.get(gpu).map_or(0, |used| used.0);
        let all = || 0..self.capacity.gpus;
        if asked.0 == 0 {
            return Ok(BTreeMap::new());
        }
        let Some(whole) = asked.as_whole() else {
            if asked.0 > 1000 {
                return Err(Shortfall(format!("gpus: {asked} asked, expected whole GPUs or a share of one")));
            }
            // The fullest device that still has room: whole ones stay free for those who need them.
            let gpu = all().filter(|gpu| free(gpu) >= asked.0).min_by_key(|gpu| (free(gpu), *gpu));
            return match gpu {
                Some(gpu) => Ok(BTreeMap::from([(gpu, asked)])),
                None => {
                    Err(Shortfall(format!("gpus: {asked} asked, no device of {} has it free", all().len())))
                }
            };
        };
        let chosen: BTreeMap<u32, Milli> = all()
            .filter(|gpu| free(gpu) == 1000)
            .take(usize::try_from(whole).unwrap_or(usize::MAX))
            .map(|gpu| (gpu, Milli(1000)))
            .collect();
        match chosen.len() as u64 == whole {
            true => Ok(chosen),
            false => Err(Shortfall(format!("gpus: {asked} asked, {} free", chosen.len()))),
        }
    }

    /// Takes `given` off the account.
    pub fn take(&mut self, given: &Allotment) {
        self.used.cpus.0 += given.cpus.0;
        self.used.memory += given.memory;
        for (gpu, share) in &given.gpus {
            self.used.gpus.entry(*gpu).or_default().0 += share.0;
        }
        for (name, amount) in &given.custom {
            self.used.custom.entry(name.clone()).or_default().0 += amount.0;
        }
    }

    /// Puts `given` back.
    pub fn put_back(&mut self, given: &Allotment) {
        self.used.cpus.0 = self.used.cpus.0.saturating_sub(given.cpus.0);
        self.used.memory = self.used.memory.saturating_sub(given.memory);
        for (gpu, share) in &given.gpus {
            lessen(&mut self.used.gpus, gpu, *share);
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

    /// How full the account would be with `given` more, in thousandths of its fullest resource.
    pub fn fullness(&self, given: &Allotment) -> u64 {
        let share = |used: u64, total: u64| match total {
            0 => 0,
            total => (u128::from(used) * 1000 / u128::from(total)) as u64,
        };
        let gpus: u64 = self.used.gpus.values().chain(given.gpus.values()).map(|share| share.0).sum();
        let mut fullest = share(self.used.cpus.0 + given.cpus.0, self.capacity.cpus.0)
            .max(share(self.used.memory + given.memory, self.capacity.memory))
            .max(share(gpus, u64::from(self.capacity.gpus) * 1000));
        for (name, total) in &self.capacity.custom {
            let of = |amounts: &BTreeMap<String, Milli>| amounts.get(name).map_or(0, |amount| amount.0);
            fullest = fullest.max(share(of(&self.used.custom) + of(&given.custom), total.0));
        }
        fullest
    }
}

fn short<T: PartialOrd + fmt::Display>(name: &str, asked: T, free: T) -> Result<(), Shortfall> {
    match asked <= free {
        true => Ok(()),
        false => Err(Shortfall(format!("{name}: {asked} asked, {free} free"))),
    }
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
