//! Which bytes of a segment are in use: pure arithmetic, no memory.
//!
//! Invariants, held by the property tests below:
//! - **E1** extents in use never overlap each other and never leave the segment;
//! - **E2** free and used bytes add up to the segment;
//! - **E3** no two free ranges touch: what is freed coalesces at once, so an empty segment is one free range;
//! - **E4** an allocation takes the smallest free range that holds it, the lowest of several (recycled memory first:
//!   its pages are already there).

use std::collections::{BTreeMap, BTreeSet};

/// Best-fit allocator of page-aligned extents in one segment.
#[derive(Debug, Clone)]
pub(crate) struct Extents {
    page: u64,
    bytes: u64,
    used_bytes: u64,
    /// offset -> length
    used: BTreeMap<u64, u64>,
    /// offset -> length
    free: BTreeMap<u64, u64>,
    /// (length, offset)
    free_by_length: BTreeSet<(u64, u64)>,
}

impl Extents {
    /// An empty segment of `bytes`, a multiple of `page` (rounded down to one).
    pub fn new(bytes: u64, page: u64) -> Extents {
        let page = page.max(1);
        let bytes = bytes / page * page;
        let mut extents = Extents {
            page,
            bytes,
            used_bytes: 0,
            used: BTreeMap::new(),
            free: BTreeMap::new(),
            free_by_length: BTreeSet::new(),
        };
        if bytes > 0 {
            extents.insert_free(0, bytes);
        }
        extents
    }

    /// Bytes that an object of `len` bytes takes: whole pages, at least one. `None` where that overflows.
    pub fn footprint(&self, len: u64) -> Option<u64> {
        len.max(1).checked_next_multiple_of(self.page)
    }

    /// The length of the free range that [`allocate`](Self::allocate) would cut for `len` bytes.
    pub fn best_fit(&self, len: u64) -> Option<u64> {
        let wanted = self.footprint(len)?;
        self.free_by_length.range((wanted, 0)..).next().map(|&(length, _)| length)
    }

    /// Takes room for `len` bytes and returns its offset; `None` when no free range is long enough.
    pub fn allocate(&mut self, len: u64) -> Option<u64> {
        let wanted = self.footprint(len)?;
        let &(length, offset) = self.free_by_length.range((wanted, 0)..).next()?;
        self.remove_free(offset, length);
        if length > wanted {
            self.insert_free(offset + wanted, length - wanted);
        }
        self.used.insert(offset, wanted);
        self.used_bytes += wanted;
        Some(offset)
    }

    /// Gives back the extent at `offset` and returns its length; `None` when no extent in use begins there.
    pub fn release(&mut self, offset: u64) -> Option<u64> {
        let length = self.used.remove(&offset)?;
        self.used_bytes -= length;
        let (mut start, mut end) = (offset, offset + length);
        if let Some((&before, &len)) = self.free.range(..offset).next_back()
            && before + len == start
        {
            self.remove_free(before, len);
            start = before;
        }
        if let Some(&len) = self.free.get(&end) {
            self.remove_free(end, len);
            end += len;
        }
        self.insert_free(start, end - start);
        Some(length)
    }

    /// Bytes in use, whole pages.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Bytes of the segment.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn insert_free(&mut self, offset: u64, length: u64) {
        self.free.insert(offset, length);
        self.free_by_length.insert((length, offset));
    }

    fn remove_free(&mut self, offset: u64, length: u64) {
        self.free.remove(&offset);
        self.free_by_length.remove(&(length, offset));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: u64 = 4096;

    #[derive(Debug, Clone)]
    enum Step {
        Allocate(u64),
        Release(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..20 * PAGE).prop_map(Step::Allocate),
            2 => any::<prop::sample::Index>().prop_map(Step::Release),
        ];
        prop::collection::vec(step, 0..200)
    }

    fn check(extents: &Extents) {
        let mut ranges: Vec<(u64, u64, bool)> = Vec::new();
        ranges.extend(extents.used.iter().map(|(&offset, &length)| (offset, length, true)));
        ranges.extend(extents.free.iter().map(|(&offset, &length)| (offset, length, false)));
        ranges.sort_unstable();
        let mut at = 0;
        let mut previous_was_free = false;
        for (offset, length, used) in ranges {
            assert_eq!(offset, at, "E1/E2: ranges tile the segment");
            assert!(length > 0 && offset % PAGE == 0 && length % PAGE == 0);
            assert!(used || !previous_was_free, "E3: two free ranges touch at {offset}");
            previous_was_free = !used;
            at += length;
        }
        assert_eq!(at, extents.bytes, "E2");
        assert_eq!(extents.used.values().sum::<u64>(), extents.used_bytes(), "E2");
        assert_eq!(extents.free.len(), extents.free_by_length.len());
    }

    proptest! {
        #[test]
        fn extents_tile_the_segment_whatever_is_taken_and_given_back(steps in steps()) {
            let mut extents = Extents::new(64 * PAGE, PAGE);
            let mut live: Vec<u64> = Vec::new();
            for step in steps {
                match step {
                    Step::Allocate(len) => {
                        let best = extents.best_fit(len);
                        let smallest = extents.free.values().copied()
                            .filter(|&l| l >= extents.footprint(len).unwrap()).min();
                        prop_assert_eq!(best, smallest, "E4");
                        let offset = extents.allocate(len);
                        prop_assert_eq!(offset.is_some(), best.is_some());
                        live.extend(offset);
                    }
                    Step::Release(index) if !live.is_empty() => {
                        let offset = live.swap_remove(index.index(live.len()));
                        prop_assert!(extents.release(offset).is_some());
                        prop_assert!(extents.release(offset).is_none(), "nothing is freed twice");
                    }
                    Step::Release(_) => {}
                }
                check(&extents);
            }
            for offset in live {
                extents.release(offset);
            }
            check(&extents);
            prop_assert_eq!(extents.free.len(), 1, "E3: an empty segment is one range");
        }
    }

    #[test]
    fn best_fit_takes_the_smallest_hole_that_is_long_enough() {
        let mut extents = Extents::new(16 * PAGE, PAGE);
        let offsets: Vec<u64> =
            [4, 1, 2, 1, 3].iter().map(|pages| extents.allocate(pages * PAGE).unwrap()).collect();
        extents.release(offsets[0]);
        extents.release(offsets[2]);
        assert_eq!(extents.allocate(2 * PAGE), Some(offsets[2]));
        assert_eq!(extents.allocate(1), Some(offsets[0]));
    }

    #[test]
    fn a_length_that_overflows_is_refused_and_not_wrapped() {
        let mut extents = Extents::new(16 * PAGE, PAGE);
        assert_eq!(extents.allocate(u64::MAX), None);
        assert_eq!(extents.used_bytes(), 0);
    }

    #[test]
    fn an_empty_object_still_has_a_place_of_its_own() {
        let mut extents = Extents::new(2 * PAGE, PAGE);
        assert_ne!(extents.allocate(0).unwrap(), extents.allocate(0).unwrap());
        assert_eq!(extents.allocate(0), None);
    }
}
