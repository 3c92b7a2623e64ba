//! Who leads.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::LEASE;
use super::gateway::{Bytes, Compare, Etcd, Failure, Int, Op, Pair, Range, Txn};
use crate::error::ClusterError;

/// How often one who does not lead looks whether anybody does.
const LOOK: Duration = Duration::from_millis(200);
/// Before etcd is asked again that did not answer.
const AGAIN: Duration = Duration::from_millis(200);

/// The leader's key, held. It is given back when this is dropped.
pub(in crate::head) struct Leadership {
    shared: Arc<Shared>,
}

struct Shared {
    etcd: Etcd,
    prefix: String,
    lease: Int,
    /// When the key was made: no other term has the same.
    made: Int,
    /// What the key says: it is put again with each write, so that the writes follow each other.
    me: Vec<u8>,
    /// Of the last write.
    last: Mutex<Int>,
    /// Until when nobody else can lead.
    until: Mutex<Instant>,
    /// Nothing is kept alive any more.
    over: AtomicBool,
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership").field("term", &self.term()).finish_non_exhaustive()
    }
}

/// Waits until this process leads. `me` is what others read of the leader. `None` once `is_wanted` says that nobody waits any
/// more; it is asked now and then.
pub(in crate::head) fn campaign(
    etcd: Etcd,
    prefix: &str,
    me: &[u8],
    is_wanted: impl Fn() -> bool,
) -> Result<Option<Leadership>, ClusterError> {
    let key = leader_key(prefix);
    let mut said = None;
    while is_wanted() {
        match stand(&etcd, &key, me) {
            Ok(Some((lease, made, until))) => {
                let shared = Arc::new(Shared {
                    etcd,
                    prefix: prefix.to_owned(),
                    lease,
                    made,
                    me: me.to_vec(),
                    last: Mutex::new(made),
                    until: Mutex::new(until),
                    over: AtomicBool::new(false),
                });
                let kept = shared.clone();
                thread::Builder::new()
                    .name("lyceum-lease".into())
                    .spawn(move || kept.keep())
                    .map_err(ClusterError::system("start the thread that keeps the lease"))?;
                return Ok(Some(Leadership { shared }));
            }
            Ok(None) => said = None,
            // A member that is about to end may refuse, and so may one that a person is about to set right.
            Err(failure) => {
                let words = failure.to_string();
                if said.as_ref() != Some(&words) {
                    tracing::warn!("{words}");
                }
                said = Some(words);
                thread::sleep(AGAIN);
            }
        }
    }
    Ok(None)
}

fn leader_key(prefix: &str) -> Vec<u8> {
    format!("{prefix}leader").into_bytes()
}

/// One attempt: waits until nobody leads, then tries to be the first. `None`: another was.
fn stand(etcd: &Etcd, key: &[u8], me: &[u8]) -> Result<Option<(Int, Int, Instant)>, Failure> {
    if !etcd.range(&Range::one(key))?.pairs.is_empty() {
        thread::sleep(LOOK);
        return Ok(None);
    }
    let asked = Instant::now();
    let lease = etcd.grant(LEASE.as_secs())?;
    let put = Op::Put { key: Bytes(key.to_vec()), value: Bytes(me.to_vec()), lease };
    let transaction =
        Txn { compare: vec![Compare::made_at(key, Int(0))], success: vec![put], failure: Vec::new() };
    let done = etcd.transact(&transaction);
    match done {
        Ok(done) if done.succeeded => Ok(Some((lease, done.header.revision, asked + LEASE))),
        other => {
            // Whatever came of it: without its lease the key goes.
            _ = etcd.revoke(lease);
            other.map(|_| None)
        }
    }
}

impl Shared {
    /// Keeps the lease for as long as that is possible. Runs on a thread of its own.
    fn keep(&self) {
        while !self.over.load(Ordering::Acquire) {
            let asked = Instant::now();
            match self.etcd.keep_alive(self.lease) {
                Ok(true) => {
                    *self.until.lock().unwrap_or_else(PoisonError::into_inner) = asked + LEASE;
                    self.rest(LEASE / 4);
                }
                Ok(false) => self.over.store(true, Ordering::Release),
                Err(failure) => {
                    tracing::warn!("the head's lease is not kept alive: {failure}");
                    self.rest(AGAIN);
                    if asked >= self.until() {
                        self.over.store(true, Ordering::Release);
                    }
                }
            }
        }
    }

    fn rest(&self, how_long: Duration) {
        let until = Instant::now() + how_long;
        while Instant::now() < until && !self.over.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leadership {
    /// A number of this term: higher than that of every earlier one.
    pub(in crate::head) fn term(&self) -> u64 {
        self.shared.made.0.unsigned_abs()
    }

    pub(super) fn etcd(&self) -> &Etcd {
        &self.shared.etcd
    }

    pub(super) fn prefix(&self) -> &str {
        &self.shared.prefix
    }

    /// Does all of `operations` if this process leads still, at once or not at all, and once. Where etcd does not answer it is
    /// asked again for as long as nobody else can lead. Each write holds only behind the one before it: what was on its way for
    /// long, and arrives when later ones are done, changes nothing.
    pub(super) fn write(&self, mut operations: Vec<Op>) -> Result<(), ClusterError> {
        let shared = &self.shared;
        let key = leader_key(&shared.prefix);
        operations.push(Op::Put {
            key: Bytes(key.clone()),
            value: Bytes(shared.me.clone()),
            lease: shared.lease,
        });
        let mut last = shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        let compare = vec![Compare::made_at(&key, shared.made), Compare::changed_at(&key, *last)];
        let transaction = Txn { compare, success: operations, failure: Vec::new() };
        let mut silent = false;
        loop {
            match self.attempt(&transaction, silent)? {
                Attempt::Done(revision) => {
                    *last = revision;
                    return Ok(());
                }
                Attempt::NotMine(found) => match found {
                    // An attempt that had no answer.
                    Some(found)
                        if silent && found.create_revision == shared.made && found.mod_revision > *last =>
                    {
                        *last = found.mod_revision;
                        return Ok(());
                    }
                    _ => return Err(deposed("another head leads")),
                },
                Attempt::Silent => silent = true,
            }
        }
    }

    fn attempt(&self, transaction: &Txn, silent: bool) -> Result<Attempt, ClusterError> {
        let shared = &self.shared;
        let done = shared.etcd.transact(transaction);
        let done = done.and_then(|done| match (done.succeeded, silent) {
            (true, _) => Ok(Attempt::Done(done.header.revision)),
            (false, false) => Ok(Attempt::NotMine(None)),
            (false, true) => {
                let found = shared.etcd.range(&Range::one(&leader_key(&shared.prefix)))?;
                Ok(Attempt::NotMine(found.pairs.into_iter().next()))
            }
        });
        match done {
            Ok(attempt) => Ok(attempt),
            Err(Failure::Refused(why)) => Err(ClusterError::Database { path: self.name(), reason: why }),
            Err(failure) if self.is_over() => Err(deposed(&failure.to_string())),
            Err(_) => {
                thread::sleep(AGAIN);
                Ok(Attempt::Silent)
            }
        }
    }

    /// Whether another may lead by now.
    pub(in crate::head) fn is_over(&self) -> bool {
        self.shared.over.load(Ordering::Acquire) || Instant::now() >= self.shared.until()
    }

    /// As if etcd had not heard of this process for long.
    #[cfg(test)]
    pub(super) fn end_lease(&self, etcd: &Etcd) {
        etcd.revoke(self.shared.lease).expect("the lease ends");
    }

    /// A name for errors.
    pub(super) fn name(&self) -> String {
        format!("etcd, under {}", self.shared.prefix)
    }

    /// Fails where another leads.
    pub(in crate::head) fn confirm(&self) -> Result<(), ClusterError> {
        self.write(Vec::new())
    }

    /// Nothing of the cluster is left: takes all its keys away, the leader's with them.
    pub(in crate::head) fn clear(&self) -> Result<(), ClusterError> {
        let shared = &self.shared;
        let mine = Compare::made_at(&leader_key(&shared.prefix), shared.made);
        let all = vec![Op::delete_all(shared.prefix.as_bytes())];
        let transaction = Txn { compare: vec![mine], success: all, failure: Vec::new() };
        let mut silent = false;
        loop {
            match self.attempt(&transaction, silent)? {
                Attempt::Done(_) => return Ok(()),
                // An attempt that had no answer has taken the leader's key away too.
                Attempt::NotMine(None) if silent => return Ok(()),
                Attempt::NotMine(_) => return Err(deposed("another head leads")),
                Attempt::Silent => silent = true,
            }
        }
    }
}

/// What came of a transaction that holds only while this process leads.
enum Attempt {
    /// It was done, as of this revision.
    Done(Int),
    /// It does not hold: the leader's key as it is now, where that was asked for.
    NotMine(Option<Pair>),
    /// Nothing is known.
    Silent,
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        // The next one need not wait for it to run out.
        _ = self.shared.etcd.revoke(self.shared.lease);
    }
}

fn deposed(why: &str) -> ClusterError {
    ClusterError::Deposed(why.to_owned())
}
