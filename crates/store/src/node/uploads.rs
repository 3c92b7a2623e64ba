//! Uploads under way, so that their parts can be sent on other connections.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::core::Core;
use super::serve::Source;
use crate::object::ObjectId;

/// By the number of the serving. Bounded by the table, which grants them (L2).
#[derive(Debug, Default)]
pub(super) struct Uploads {
    under_way: Mutex<BTreeMap<u64, (ObjectId, Source)>>,
    ended: AtomicU64,
}

impl Uploads {
    /// Lets parts be taken until the returned value is dropped.
    pub fn add(&self, core: &Arc<Core>, number: u64, id: ObjectId, source: Source) -> Upload {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(number, (id, source));
        Upload { core: core.clone(), number }
    }

    /// How many came to their end, acknowledged by the peer.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// One more.
    pub fn acknowledged(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// The bytes of an upload, if it is of that object.
    pub fn get(&self, number: u64, id: ObjectId) -> Option<Source> {
        let uploads = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.get(&number).filter(|(of, _)| *of == id).map(|(_, source)| source.clone())
    }
}

/// An upload whose parts can be taken.
#[derive(Debug)]
pub(super) struct Upload {
    core: Arc<Core>,
    number: u64,
}

impl Drop for Upload {
    fn drop(&mut self) {
        let removed =
            self.core.uploads.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
        // Outside of the lock: its end is an event for the table.
        drop(removed);
    }
}
