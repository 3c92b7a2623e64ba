//! How the processes that this one started have ended.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use lyceum_actor::Cause;

use crate::error::ClusterError;
use crate::host::ProcessMark;

/// A process that is seen to be gone has been waited for within this time, or nobody here waits for it.
const WAITED_FOR: Duration = Duration::from_millis(500);

/// The ends of this process's children, by their numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Ends(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    /// `None` until it has ended.
    children: Mutex<BTreeMap<u32, Option<ExitStatus>>>,
    ended: Condvar,
}

impl Ends {
    /// Takes `child` in when it ends, on a thread of its own: no zombie stays.
    pub(super) fn wait_for(&self, mut child: Child) -> Result<(), ClusterError> {
        let known = self.0.clone();
        known.children.lock().unwrap_or_else(PoisonError::into_inner).insert(child.id(), None);
        let wait = move || {
            let status = child.wait().ok();
            known.children.lock().unwrap_or_else(PoisonError::into_inner).insert(child.id(), status);
            known.ended.notify_all();
        };
        std::thread::Builder::new()
            .name("lyceum-reaper".into())
            .spawn(wait)
            .map(drop)
            .map_err(ClusterError::system("start a thread"))
    }

    /// How a process that is gone has ended, as the rest of a sentence about it. Of children it is known.
    pub(super) fn in_words(&self, mark: ProcessMark) -> String {
        self.cause(mark.pid).map_or("has ended".to_owned(), |cause| cause.to_string())
    }

    fn cause(&self, pid: u32) -> Option<Cause> {
        let children = self.0.children.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |children: &mut BTreeMap<u32, Option<ExitStatus>>| children.get(&pid) == Some(&None);
        let (children, _) = self
            .0
            .ended
            .wait_timeout_while(children, WAITED_FOR, waits)
            .unwrap_or_else(PoisonError::into_inner);
        cause_of((*children.get(&pid)?)?)
    }
}

/// What a status says of an end.
pub(super) fn cause_of(status: ExitStatus) -> Option<Cause> {
    status.code().map(Cause::Exited).or_else(|| status.signal().map(Cause::Signal))
}
