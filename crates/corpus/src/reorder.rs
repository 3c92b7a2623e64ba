//! The reorder window: answers come in any order and leave in the order of their numbers.
//!
//! Bounded in count and bytes (L2), and yet it can never lock up: the one item that everything waits for is always
//! taken, however full the window is.

use std::collections::BTreeMap;

/// Items with dense numbers, given out in order.
#[derive(Debug, Clone)]
pub struct ReorderWindow<T> {
    next: u64,
    most_items: u64,
    most_bytes: usize,
    bytes: usize,
    items: BTreeMap<u64, (usize, T)>,
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
    /// The window holds too many bytes.
    #[error("{bytes} bytes wait in the window of {most}: wait until number {next} came")]
    TooMuch {
        /// Bytes waiting.
        bytes: usize,
        /// Bytes that may wait.
        most: usize,
        /// The number that is waited for.
        next: u64,
    },
}

impl<T> ReorderWindow<T> {
    /// A window that begins at `next`, spans `most_items` numbers and holds `most_bytes` bytes.
    pub fn new(next: u64, most_items: u64, most_bytes: usize) -> Self {
        Self { next, most_items: most_items.max(1), most_bytes, bytes: 0, items: BTreeMap::new() }
    }

    /// The number that everything waits for.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// Whether an item of this number would be within the window: a chain outside it must not be leased yet.
    pub fn spans(&self, number: u64) -> bool {
        number >= self.next && number - self.next < self.most_items
    }

    /// Items that wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether an item of this number and size would be taken.
    pub fn check(&self, number: u64, bytes: usize) -> Result<(), ReorderError> {
        if number < self.next || self.items.contains_key(&number) {
            return Err(ReorderError::Repeated(number));
        }
        if !self.spans(number) {
            return Err(ReorderError::TooFar { number, next: self.next, items: self.most_items });
        }
        if number != self.next && self.bytes.saturating_add(bytes) > self.most_bytes {
            return Err(ReorderError::TooMuch { bytes: self.bytes, most: self.most_bytes, next: self.next });
        }
        Ok(())
    }

    /// Takes an item of `bytes` bytes.
    pub fn insert(&mut self, number: u64, bytes: usize, item: T) -> Result<(), ReorderError> {
        self.check(number, bytes)?;
        self.bytes += bytes;
        self.items.insert(number, (bytes, item));
        Ok(())
    }

    /// The next item in order, if it is there.
    pub fn pop(&mut self) -> Option<T> {
        let (bytes, item) = self.items.remove(&self.next)?;
        self.next += 1;
        self.bytes -= bytes;
        Some(item)
    }

    /// Passes over the number that is waited for, because its item is at hand elsewhere. An item here is dropped.
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
    fn l2_the_window_is_bounded_but_takes_what_is_waited_for() {
        let mut window = ReorderWindow::new(5, 3, 10);
        assert_eq!(window.insert(8, 1, ()), Err(ReorderError::TooFar { number: 8, next: 5, items: 3 }));
        window.insert(6, 8, ()).unwrap();
        assert_eq!(window.insert(7, 3, ()), Err(ReorderError::TooMuch { bytes: 8, most: 10, next: 5 }));
        window.insert(5, 100, ()).unwrap();
        assert_eq!(window.insert(5, 1, ()), Err(ReorderError::Repeated(5)));
        assert!(window.pop().is_some() && window.pop().is_some() && window.pop().is_none());
        assert_eq!((window.next_number(), window.bytes(), window.len()), (7, 0, 0));
        assert_eq!(window.insert(6, 1, ()), Err(ReorderError::Repeated(6)));
    }

    proptest! {
        #[test]
        fn every_item_leaves_once_and_in_order(tries in prop::collection::vec(0_u64..40, 0..400)) {
            let mut window = ReorderWindow::new(0, 8, 64);
            let mut out = Vec::new();
            for number in tries.into_iter().chain(0..40) {
                let _ = window.insert(number, 10, number);
                out.extend(std::iter::from_fn(|| window.pop()));
                prop_assert!(window.len() < 8 && window.bytes() <= 64);
            }
            prop_assert_eq!(out, (0..40).collect::<Vec<_>>());
        }
    }
}
