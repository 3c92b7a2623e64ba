//! The reorder window: answers come in any order and leave in the order of their numbers.
//!
//! Bounded in count and bytes (L2), and yet it can never lock up, for it refuses nothing within its count: an item that
//! it has no room to keep is noted, and taken from where it was recorded when its turn comes. Who makes items is told by
//! [`ReorderWindow::has_room`] to make no more than the next one for now.

use std::collections::BTreeMap;

/// Items with dense numbers, given out in order.
#[derive(Debug, Clone)]
pub struct ReorderWindow<T> {
    next: u64,
    most_items: u64,
    most_bytes: usize,
    bytes: usize,
    kept_bytes: usize,
    items: BTreeMap<u64, Waiting<T>>,
}

#[derive(Debug, Clone)]
struct Waiting<T> {
    bytes: usize,
    /// Nothing where there was no room to keep it.
    kept: Option<T>,
}

/// Why an item was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReorderError {
    /// The item was there before.
    #[error("number {0} came twice")]
    Repeated(u64),
    /// The item is too far ahead.
    #[error(
        "number {number} is beyond the window of {items} items from {next}: wait until earlier ones are packed"
    )]
    TooFar {
        /// Its number.
        number: u64,
        /// The number that is waited for.
        next: u64,
        /// Numbers the window spans.
        items: u64,
    },
}

/// The item whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn<T> {
    /// Here it is.
    Kept(T),
    /// It came, and was not kept.
    Elsewhere,
}

impl<T> ReorderWindow<T> {
    /// A window that begins at `next`, spans `most_items` numbers and keeps `most_bytes` bytes.
    pub fn new(next: u64, most_items: u64, most_bytes: usize) -> Self {
        let most_items = most_items.max(1);
        Self { next, most_items, most_bytes, bytes: 0, kept_bytes: 0, items: BTreeMap::new() }
    }

    /// The number that everything waits for.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// Items that wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of all items that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of those that are kept: at most the bound, and the item that everything waits for.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Whether others than the number that everything waits for should be made now.
    pub fn has_room(&self) -> bool {
        self.bytes < self.most_bytes
    }

    /// Whether an item of this number would be taken.
    pub fn check(&self, number: u64) -> Result<(), ReorderError> {
        if number < self.next || self.items.contains_key(&number) {
            return Err(ReorderError::Repeated(number));
        }
        if number - self.next >= self.most_items {
            return Err(ReorderError::TooFar { number, next: self.next, items: self.most_items });
        }
        Ok(())
    }

    /// Takes an item of `bytes` bytes, which can be had elsewhere too: it is kept if there is room.
    pub fn insert(&mut self, number: u64, bytes: usize, item: T) -> Result<(), ReorderError> {
        self.check(number)?;
        let keeps = number == self.next || self.kept_bytes.saturating_add(bytes) <= self.most_bytes;
        self.bytes += bytes;
        self.kept_bytes += if keeps { bytes } else { 0 };
        self.items.insert(number, Waiting { bytes, kept: keeps.then_some(item) });
        Ok(())
    }

    /// The next item in order, if it came.
    pub fn pop(&mut self) -> Option<Turn<T>> {
        let Waiting { bytes, kept } = self.items.remove(&self.next)?;
        self.next += 1;
        self.bytes -= bytes;
        Some(match kept {
            Some(item) => {
                self.kept_bytes -= bytes;
                Turn::Kept(item)
            }
            None => Turn::Elsewhere,
        })
    }

    /// Goes past the next number: its item was there before the window was.
    pub fn pass(&mut self) {
        if self.pop().is_none() {
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn l2_the_window_is_bounded_and_still_takes_what_comes() {
        let mut window = ReorderWindow::new(5, 3, 10);
        assert_eq!(window.insert(8, 1, 'd'), Err(ReorderError::TooFar { number: 8, next: 5, items: 3 }));
        window.insert(6, 8, 'b').unwrap();
        assert!(window.has_room());
        window.insert(7, 3, 'c').unwrap();
        assert_eq!((window.bytes(), window.kept_bytes(), window.has_room()), (11, 8, false));
        window.insert(5, 100, 'a').unwrap();
        assert_eq!(window.insert(5, 1, 'x'), Err(ReorderError::Repeated(5)));
        let left: Vec<_> = std::iter::from_fn(|| window.pop()).collect();
        assert_eq!(left, [Turn::Kept('a'), Turn::Kept('b'), Turn::Elsewhere]);
        assert_eq!((window.next_number(), window.bytes(), window.kept_bytes(), window.len()), (8, 0, 0, 0));
        assert_eq!(window.insert(6, 1, 'b'), Err(ReorderError::Repeated(6)));
    }

    proptest! {
        #[test]
        fn every_item_leaves_once_and_in_order(tries in prop::collection::vec(0_u64..40, 0..400)) {
            let mut window = ReorderWindow::new(0, 8, 64);
            let mut out = Vec::new();
            for number in tries.into_iter().chain(0..40) {
                let _ = window.insert(number, 10, number);
                prop_assert!(window.len() <= 8 && window.kept_bytes() <= 64 + 10);
                while let Some(turn) = window.pop() {
                    let number = window.next_number() - 1;
                    prop_assert!(turn == Turn::Kept(number) || turn == Turn::Elsewhere);
                    out.push(number);
                }
            }
            prop_assert_eq!(out, (0..40).collect::<Vec<_>>());
        }
    }
}
