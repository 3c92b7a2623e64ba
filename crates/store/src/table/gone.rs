//! What became of objects that are here no more, for those who still ask for them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Table;
use crate::error::Loss;
use crate::object::ObjectId;

/// Objects whose end is remembered: the latest (L2).
const MAX_REMEMBERED: usize = 4096;

/// How an object ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Whoever had a lease on it gave it up, and each reference to it was used or taken back.
    Released,
    /// The last who had a lease on it, or for whom a reference was made, is no more.
    HolderGone(u64),
    /// The last reference to it was not opened in time.
    Unclaimed,
    /// Its creator gave it up.
    Unsealed,
    /// It was on disk.
    Unreadable,
}

/// The latest endings.
#[derive(Debug, Default)]
pub(super) struct Gone {
    endings: BTreeMap<ObjectId, (Ending, Duration)>,
    order: VecDeque<ObjectId>,
}

impl Gone {
    pub fn note(&mut self, id: ObjectId, ending: Ending, at: Duration) {
        if self.endings.insert(id, (ending, at)).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.endings.remove(&oldest);
        }
    }
}

impl Table {
    /// When and why an object that is not here was lost, for the one who asked.
    pub(super) fn absent(&self, id: ObjectId) -> Loss {
        let store = format!("incarnation {} of its store", self.options.incarnation);
        let Some(&(ending, at)) = self.gone.endings.get(&id) else {
            return self.lost_now(format!(
                "{store} knows nothing of it: its last lease ended long ago, or the store was restarted"
            ));
        };
        let how = match ending {
            Ending::Released => "its last lease ended, and each reference was used or taken back".into(),
            Ending::HolderGone(holder) => format!("process {holder}, the last to have it, has ended"),
            Ending::Unclaimed => "its last reference was not opened in time".into(),
            Ending::Unsealed => "its creator gave it up before it was sealed".into(),
            Ending::Unreadable => "it was on disk and could not be read back".into(),
        };
        Loss { when: self.options.began.after(at), reason: format!("{store} has freed it: {how}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l2_only_the_latest_endings_are_remembered() {
        let mut gone = Gone::default();
        let id = |sequence| ObjectId { origin: 1, sequence };
        for sequence in 0..=MAX_REMEMBERED as u64 {
            gone.note(id(sequence), Ending::Released, Duration::from_secs(sequence));
        }
        // An object that came back from another node and ended again.
        gone.note(id(7), Ending::Unclaimed, Duration::from_secs(9));
        assert_eq!((gone.endings.len(), gone.order.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
        assert!(!gone.endings.contains_key(&id(0)));
        assert_eq!(gone.endings[&id(7)], (Ending::Unclaimed, Duration::from_secs(9)));
    }
}
