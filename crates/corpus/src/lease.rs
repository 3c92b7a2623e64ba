//! Who is working on which chain: a table of leases, pure, without a clock.
//!
//! A chain is offered once, leased to one holder at a time and settled once (L1). When a holder is lost, its chains
//! go back and are leased again before any later one. How many chains may be out or waiting is bounded (L2).

use std::collections::{BTreeMap, BTreeSet};

use crate::chain::ChainId;

/// The leases of the chains that have been offered and are not settled. `H` names a holder's incarnation: a process
/// that was lost and started again is another holder.
#[derive(Debug, Clone)]
pub struct LeaseTable<H> {
    limit: usize,
    waiting: BTreeSet<ChainId>,
    leased: BTreeMap<ChainId, H>,
}

/// Why the table refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// As many chains are out or waiting as may be.
    #[error("{0} chains are leased or waiting, which is the limit: wait until one is settled")]
    Full(usize),
    /// The chain was offered before and is not settled.
    #[error("chain {0} was offered already")]
    Offered(ChainId),
}

impl<H: Copy + Eq> LeaseTable<H> {
    /// A table of at most `limit` chains, leased and waiting together.
    pub fn new(limit: usize) -> Self {
        Self { limit, waiting: BTreeSet::new(), leased: BTreeMap::new() }
    }

    /// Offers a chain.
    pub fn offer(&mut self, chain: ChainId) -> Result<(), LeaseError> {
        if self.waiting.contains(&chain) || self.leased.contains_key(&chain) {
            return Err(LeaseError::Offered(chain));
        }
        if self.open() >= self.limit {
            return Err(LeaseError::Full(self.limit));
        }
        self.waiting.insert(chain);
        Ok(())
    }

    /// Leases to `holder` a waiting chain: of each source the first counts, and of these the one with the least
    /// `distance`, so that no source is worked through before the others. One without a distance stays.
    pub fn lease(&mut self, holder: H, distance: impl Fn(ChainId) -> Option<u64>) -> Option<ChainId> {
        let open = self.firsts().filter_map(|chain| distance(chain).map(|distance| (distance, chain)));
        let (_, chain) = open.min()?;
        self.waiting.remove(&chain);
        self.leased.insert(chain, holder);
        Some(chain)
    }

    /// The first waiting chain of each source.
    fn firsts(&self) -> impl Iterator<Item = ChainId> + '_ {
        let first_from = |source: u16| self.waiting.range(ChainId { source, number: 0 }..).next().copied();
        let after = move |chain: &ChainId| chain.source.checked_add(1).and_then(first_from);
        std::iter::successors(first_from(0), after)
    }

    /// A chain is answered, whoever answered it: the table does not know it any more. Returns whether it did.
    pub fn settle(&mut self, chain: ChainId) -> bool {
        let leased = self.leased.remove(&chain).is_some();
        self.waiting.remove(&chain) || leased
    }

    /// A holder is lost, or gives back what it holds: its chains wait again. Returns them.
    pub fn lost(&mut self, holder: H) -> Vec<ChainId> {
        let chains: Vec<ChainId> = self.held(holder).collect();
        for chain in &chains {
            self.leased.remove(chain);
            self.waiting.insert(*chain);
        }
        chains
    }

    /// The chains that `holder` holds.
    pub fn held(&self, holder: H) -> impl Iterator<Item = ChainId> + '_ {
        self.leased.iter().filter(move |&(_, &other)| other == holder).map(|(&chain, _)| chain)
    }

    /// Chains leased and waiting.
    pub fn open(&self) -> usize {
        self.waiting.len() + self.leased.len()
    }

    /// Chains that wait for a holder.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(number: u64) -> ChainId {
        ChainId { source: 0, number }
    }

    fn near(chain: ChainId) -> Option<u64> {
        Some(chain.number)
    }

    #[test]
    fn l1_a_lost_holders_chains_are_leased_again_first_and_its_late_answer_settles_them_once() {
        let mut table = LeaseTable::new(4);
        for number in 0..3 {
            table.offer(chain(number)).unwrap();
        }
        assert_eq!(table.lease('a', near), Some(chain(0)));
        assert_eq!(table.lease('b', near), Some(chain(1)));
        assert_eq!(table.lost('a'), [chain(0)]);
        assert_eq!(table.lease('b', near), Some(chain(0)));
        // The first holder's answer came after all.
        assert!(table.settle(chain(0)));
        assert!(!table.settle(chain(0)), "the second holder's answer is thrown away");
        table.lost('b');
        assert!(table.settle(chain(1)), "a chain that waits again is settled too");
        assert_eq!(table.lease('b', near), Some(chain(2)));
    }

    #[test]
    fn l2_no_more_than_the_limit_is_open() {
        let mut table = LeaseTable::<u8>::new(1);
        table.offer(chain(0)).unwrap();
        assert_eq!(table.offer(chain(0)), Err(LeaseError::Offered(chain(0))));
        assert_eq!(table.offer(chain(1)), Err(LeaseError::Full(1)));
    }

    #[test]
    fn no_source_is_worked_through_before_the_others() {
        let mut table = LeaseTable::new(8);
        for (source, number) in [(0, 5), (0, 6), (1, 0), (1, 1), (4, 2)] {
            table.offer(ChainId { source, number }).unwrap();
        }
        // What is waited for: chain 5 of source 0, 0 of source 1, 1 of source 4.
        let distance = |chain: ChainId| Some(chain.number - [5, 0, 0, 0, 1][usize::from(chain.source)]);
        let leased: Vec<(u16, u64)> = std::iter::from_fn(|| table.lease('a', distance))
            .map(|chain| (chain.source, chain.number))
            .collect();
        assert_eq!(leased, [(0, 5), (1, 0), (0, 6), (1, 1), (4, 2)]);
        table.lost('a');
        let closed = |chain: ChainId| (chain.source != 0).then_some(0);
        assert_eq!(table.lease('b', closed), Some(ChainId { source: 1, number: 0 }));
    }

    proptest! {
        #[test]
        fn l1_each_chain_is_answered_once_whoever_is_lost_when(
            steps in prop::collection::vec((0_u8..4, 0_u8..3), 0..200)
        ) {
            let mut table = LeaseTable::new(8);
            let (mut offered, mut answered) = (0, BTreeSet::new());
            for (step, holder) in steps {
                match step {
                    0 if table.offer(chain(offered)).is_ok() => offered += 1,
                    1 => { table.lease(holder, near); }
                    2 => {
                        let held = table.held(holder).next();
                        if let Some(held) = held {
                            prop_assert!(table.settle(held));
                            prop_assert!(answered.insert(held), "{held} answered twice");
                        }
                    }
                    3 => { table.lost(holder); }
                    _ => {}
                }
                prop_assert_eq!(table.open() + answered.len(), offered as usize);
            }
            (0..3).for_each(|holder| { table.lost(holder); });
            while let Some(left) = table.lease(9, near) {
                prop_assert!(table.settle(left));
                prop_assert!(answered.insert(left), "{left} answered twice");
            }
            prop_assert_eq!(answered.len() as u64, offered);
        }
    }
}
