//! Follows the pods of a cluster: a list, then each change, until dropped.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use tokio::task::JoinHandle;

use crate::access::Access;
use crate::fate::Fate;
use crate::objects::NODE_LABEL;

/// After a list or a watch that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// A watch ends after this, in seconds, and is followed by another.
const WATCH_SECONDS: u32 = 240;
/// A watch that is silent for longer is one that nobody answers.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 30);

/// What is known of the pods of a cluster.
#[derive(Debug)]
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    watching: JoinHandle<()>,
    /// Since when pods are waited for.
    began: Instant,
    patience: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// By node.
    pods: BTreeMap<String, Known>,
    told: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
struct Known {
    uid: Option<String>,
    host: Option<String>,
    fate: Fate,
}

impl Watch {
    /// Follows what `selector` finds, of which `pods` is the newest that is known. Those that wait have `patience`.
    pub(crate) fn begin(access: Access, selector: String, pods: &[Pod], patience: Duration) -> Watch {
        let mut known = Seen::default();
        pods.iter().for_each(|pod| known.note(pod));
        let seen = Arc::new(Mutex::new(known));
        let watching = tokio::spawn(follow(access, selector, seen.clone()));
        Watch { seen, watching, began: Instant::now(), patience }
    }

    /// What has become of the pod of `node`, and on which host.
    pub(crate) fn fate(&self, node: &str) -> (Fate, Option<String>) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.pods.get(node).cloned() {
            None => (Fate::gone(), None),
            Some(Known { fate: Fate::Waits(what), host, .. }) if self.is_over() => {
                let how = format!("was not started within {} s: {what}", self.patience.as_secs());
                (Fate::Over { how, log: Vec::new() }, host)
            }
            Some(Known { fate, host, .. }) => (fate, host),
        }
    }

    /// Does a pod wait, and not for too long yet?
    pub(crate) fn one_waits(&self) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_over() && seen.pods.values().any(|known| matches!(known.fate, Fate::Waits(_)))
    }

    fn is_over(&self) -> bool {
        self.began.elapsed() > self.patience
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Seen {
    fn note(&mut self, pod: &Pod) {
        let Some(node) = pod.labels().get(NODE_LABEL) else { return };
        let fate = Fate::of(pod);
        if let Fate::Waits(what) = &fate
            && what.contains(':')
            && self.told.get(node) != Some(what)
        {
            tracing::warn!(pod = pod.name_any(), "the pod waits: {what}");
            self.told.insert(node.clone(), what.clone());
        }
        let host = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        self.pods.insert(node.clone(), Known { uid: pod.uid(), host, fate });
    }

    /// Another of its name may be there already. How it ended is kept where that was seen.
    fn forget(&mut self, pod: &Pod) {
        let Some(node) = pod.labels().get(NODE_LABEL) else { return };
        let Some(known) = self.pods.get_mut(node).filter(|known| known.uid == pod.uid()) else { return };
        known.fate = match Fate::of(pod) {
            over @ Fate::Over { .. } => over,
            _ => Fate::gone(),
        };
    }

    /// What is not listed is gone.
    fn renew(&mut self, pods: &[Pod]) {
        let is_there =
            |node: &str| pods.iter().any(|pod| pod.labels().get(NODE_LABEL).is_some_and(|it| it == node));
        for (node, known) in &mut self.pods {
            if !is_there(node) && !matches!(known.fate, Fate::Over { .. }) {
                known.fate = Fate::gone();
            }
        }
        pods.iter().for_each(|pod| self.note(pod));
    }
}

async fn follow(access: Access, selector: String, seen: Arc<Mutex<Seen>>) {
    loop {
        // Who does not answer now may answer later: nothing follows from that.
        if let Err(error) = follow_once(&access, &selector, &seen).await {
            tracing::debug!(error, "the pods cannot be followed for a moment");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow_once(access: &Access, selector: &str, seen: &Mutex<Seen>) -> Result<(), String> {
    let change = |with: &dyn Fn(&mut Seen)| with(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
    let list = access.answer(access.pods.list(&ListParams::default().labels(selector))).await;
    let list = list.map_err(|refusal| refusal.said)?;
    change(&|seen| seen.renew(&list.items));
    let mut version = list.metadata.resource_version.unwrap_or_default();
    loop {
        let params = WatchParams::default().labels(selector).timeout(WATCH_SECONDS);
        let events = access.answer(access.pods.watch(&params, &version)).await;
        let events = events.map_err(|refusal| refusal.said)?.map_err(|error| error.to_string());
        let mut events = pin!(events);
        // The server ends it in time, if it is there.
        while let Some(event) = tokio::time::timeout(SILENCE, events.next()).await.map_err(|_| "silence")? {
            match event? {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                    version = pod.resource_version().unwrap_or_default();
                    change(&|seen| seen.note(&pod));
                }
                WatchEvent::Deleted(pod) => {
                    version = pod.resource_version().unwrap_or_default();
                    change(&|seen| seen.forget(&pod));
                }
                WatchEvent::Bookmark(mark) => version = mark.metadata.resource_version,
                // Too old to go on from: the list is made again.
                WatchEvent::Error(status) => return Err(status.message),
            }
        }
    }
}
