//! Decisions that are written down before anybody hears of them.

use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::database::Records;
use crate::control::record::{Key, Record, Value};
use crate::control::vocabulary::Notice;
use crate::control::{Head, HeadEffect, HeadEvent, HeadOptions};
use crate::error::ClusterError;

/// Where records are kept.
pub(super) trait RecordStore: std::fmt::Debug + Send {
    /// Everything that is written down.
    fn read(&mut self) -> Result<Vec<(Key, Value)>, ClusterError>;
    /// Writes a batch down, all of it or nothing; it is safe when this returns.
    fn commit(&mut self, batch: &[Record]) -> Result<(), ClusterError>;
}

/// The state machine with its database: [`take`](Decider::take) events, then [`commit`](Decider::commit) what follows from
/// them, many at once.
#[derive(Debug)]
pub struct Decider {
    head: Head,
    records: Box<dyn RecordStore>,
    began: Instant,
    term: u64,
    /// What is to be written, and what is wanted after that.
    written: Vec<Record>,
    wanted: Vec<HeadEffect>,
}

impl Decider {
    /// Goes on from what the database at `path` has; it is made where there is none. One process at a time.
    pub fn open(path: &Path, options: HeadOptions) -> Result<Decider, ClusterError> {
        Decider::with(Box::new(Records::open(path)?), options)
    }

    pub(super) fn with(
        mut records: Box<dyn RecordStore>,
        options: HeadOptions,
    ) -> Result<Decider, ClusterError> {
        let found = records.read()?;
        let next = found.iter().find_map(|(key, value)| match (key, value) {
            (Key::Next, Value::Next(next)) => Some(*next),
            _ => None,
        });
        Ok(Decider {
            head: Head::new(options, found),
            records,
            began: Instant::now(),
            term: next.unwrap_or(1),
            written: Vec::new(),
            wanted: Vec::new(),
        })
    }

    /// A number that this term has to itself.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// What was decided so far.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Decides on an event.
    pub fn take(&mut self, event: HeadEvent) {
        let date = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.head.set_date(date.as_millis() as u64);
        let (written, wanted) = self.head.apply(event, self.began.elapsed());
        self.written.extend(written);
        self.wanted.extend(wanted);
    }

    /// Of what is wanted, the part that tells of facts and of no decision: it need not wait for the commit (L3).
    pub fn news(&mut self) -> Vec<HeadEffect> {
        let (news, wanted) = std::mem::take(&mut self.wanted).into_iter().partition(is_news);
        self.wanted = wanted;
        news
    }

    /// Writes down what was decided, and gives what is to be done now.
    pub fn commit(&mut self) -> Result<Vec<HeadEffect>, ClusterError> {
        if !self.written.is_empty() {
            self.records.commit(&self.written)?;
            self.written.clear();
        }
        Ok(std::mem::take(&mut self.wanted))
    }
}

/// Tells an effect of what was seen, and of nothing that was decided?
fn is_news(effect: &HeadEffect) -> bool {
    matches!(effect, HeadEffect::Notify { notice: Notice::Died(_) | Notice::Suspect { .. }, .. })
}
