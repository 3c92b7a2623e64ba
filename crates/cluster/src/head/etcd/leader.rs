//! Who leads.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::LEASE;
use super::gateway::{Bytes, Compare, Etcd, Failure, Int, Op, Range, Txn};
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
            Err(Failure::Refused(why)) => return Err(ClusterError::Refused(format!("etcd refuses: {why}"))),
            Err(silent) => {
                let words = silent.to_string();
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

    /// Does all of `operations` if this process leads still, at once or not at all. Where etcd does not answer it is asked
    /// again for as long as nobody else can lead; each operation may so be done twice.
    pub(super) fn write(&self, operations: Vec<Op>) -> Result<(), ClusterError> {
        let shared = &self.shared;
        let mine = Compare::made_at(&leader_key(&shared.prefix), shared.made);
        let transaction = Txn { compare: vec![mine], success: operations, failure: Vec::new() };
        loop {
            match shared.etcd.transact(&transaction) {
                Ok(done) if done.succeeded => return Ok(()),
                Ok(_) => return Err(deposed("another head leads")),
                Err(Failure::Refused(why)) => {
                    return Err(ClusterError::Database { path: self.name(), reason: why });
                }
                Err(silent) if self.is_over() => return Err(deposed(&silent.to_string())),
                Err(_) => thread::sleep(AGAIN),
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

    /// Nothing of the cluster is left: takes all its keys away, the leader's with them.
    pub(in crate::head) fn clear(&self) -> Result<(), ClusterError> {
        self.write(vec![Op::delete_all(self.shared.prefix.as_bytes())])
    }
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
