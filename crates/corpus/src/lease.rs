//! Who is working on which chain: a table of leases, pure, without a clock.
//!
//! A chain is offered once, leased to one holder at a time and answered once (L1). When a holder is lost, its chains
//! go back and are leased again before any later one. How many chains may be out or waiting is bounded (L2).

use std::collections::{BTreeMap, BTreeSet};

use crate::chain::ChainId;

/// The leases of the chains that have been offered and not yet answered. `H` names a holder's incarnation: a process
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
    #[error("{0} chains are leased or waiting, which is the limit: wait for an answer")]
    Full(usize),
    /// The chain was offered before and is not answered.
    #[error("chain {0} was offered already")]
    Offered(ChainId),
    /// The answer comes from a holder that does not, or no longer, hold the chain: it is to be thrown away.
    #[error("chain {0} is not leased to whoever answered it: it was answered, or went to another holder")]
    NotHeld(ChainId),
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

    /// Leases the first waiting chain to `holder`.
    pub fn lease(&mut self, holder: H) -> Option<ChainId> {
        let chain = self.waiting.pop_first()?;
        self.leased.insert(chain, holder);
        Some(chain)
    }

    /// Takes `holder`'s answer to `chain`; after this the table does not know the chain any more.
    pub fn answer(&mut self, holder: H, chain: ChainId) -> Result<(), LeaseError> {
        if self.leased.get(&chain) != Some(&holder) {
            return Err(LeaseError::NotHeld(chain));
        }
        self.leased.remove(&chain);
        Ok(())
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

    /// Who holds `chain`, if anybody does.
    pub fn holder(&self, chain: ChainId) -> Option<H> {
        self.leased.get(&chain).copied()
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

    /// Chains that may be offered now.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.open())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(number: u64) -> ChainId {
        ChainId { source: 0, number }
    }

    #[test]
    fn l1_a_lost_holders_chains_are_leased_again_first_and_its_late_answer_is_refused() {
        let mut table = LeaseTable::new(4);
        for number in 0..3 {
            table.offer(chain(number)).unwrap();
        }
        assert_eq!(table.lease('a'), Some(chain(0)));
        assert_eq!(table.lease('b'), Some(chain(1)));
        assert_eq!(table.lost('a'), [chain(0)]);
        assert_eq!(table.lease('b'), Some(chain(0)));
        assert_eq!(table.answer('a', chain(0)), Err(LeaseError::NotHeld(chain(0))));
        assert_eq!(table.answer('b', chain(0)), Ok(()));
        assert_eq!(table.answer('b', chain(0)), Err(LeaseError::NotHeld(chain(0))));
    }

    #[test]
    fn l2_no_more_than_the_limit_is_open() {
        let mut table = LeaseTable::<u8>::new(1);
        table.offer(chain(0)).unwrap();
        assert_eq!(table.offer(chain(0)), Err(LeaseError::Offered(chain(0))));
        assert_eq!(table.offer(chain(1)), Err(LeaseError::Full(1)));
        assert_eq!(table.room(), 0);
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
                    1 => { table.lease(holder); }
                    2 => {
                        let held = table.held(holder).next();
                        if let Some(held) = held {
                            table.answer(holder, held).unwrap();
                            prop_assert!(answered.insert(held), "{held} answered twice");
                        }
                    }
                    3 => { table.lost(holder); }
                    _ => {}
                }
                prop_assert_eq!(table.open() + answered.len(), offered as usize);
            }
            (0..3).for_each(|holder| { table.lost(holder); });
            while let Some(left) = table.lease(9) {
                table.answer(9, left).unwrap();
                prop_assert!(answered.insert(left), "{left} answered twice");
            }
            prop_assert_eq!(answered.len() as u64, offered);
        }
    }
}
