//! A node falls silent: what that means here.
//!
//! The control plane hears nothing from a node's agent and says so. That alone ends no wait: an agent may be busy, or
//! its way to the head cut, while the processes of its node go on. So each connection to that node is tried as well, by
//! something that its other end must acknowledge. Only where nothing comes back either, the calls that wait there end
//! with [`CallError::Unreachable`](crate::CallError::Unreachable). The verdict on the node is not ours; until it comes,
//! the connections are tried again and again, and the first sign of life takes calls again.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use crate::{System, link::Link};

/// How long a peer may take to acknowledge a probe: long enough for a process that has hardly any share of its cores.
/// With the two seconds after which the head suspects a node, and the quarter of one that it takes to look, this stays
/// below three.
const PATIENCE: Duration = Duration::from_millis(700);

impl System {
    /// Tells this process that the control plane hears nothing from a node (`unreachable`), or that it does again.
    ///
    /// Calls to processes there whose connection is silent too end as unreachable, unless they wait
    /// [through it](crate::Ask::through_silence).
    pub fn node_suspected(&self, node: &str, unreachable: bool) {
        let Some(network) = &self.inner().network else { return };
        let mut peers = network.lock();
        match (unreachable, peers.suspects.entry(node.to_owned())) {
            (true, Entry::Vacant(entry)) => {
                let suspicion = network.key();
                entry.insert(suspicion);
                network.io.spawn(doubt(self.clone(), node.to_owned(), suspicion));
            }
            (false, Entry::Occupied(entry)) => {
                entry.remove();
                let links = peers.links_to_node(node);
                drop(peers);
                links.iter().for_each(|link| link.speak_again());
            }
            _ => {}
        }
    }

    /// The links to a node that is under this very suspicion still; `None` when it no longer is.
    fn suspected_links(&self, node: &str, suspicion: u64) -> Option<Vec<Arc<Link>>> {
        let peers = self.inner().network.as_ref()?.lock();
        (peers.suspects.get(node) == Some(&suspicion)).then(|| peers.links_to_node(node))
    }
}

/// Tries the connections to a suspected node for as long as it is one. Runs on the I/O runtime.
async fn doubt(system: System, node: String, suspicion: u64) {
    // What was heard of each peer when it was last probed; `None` where there was no connection to probe.
    let mut probed: HashMap<u64, Option<u64>> = HashMap::new();
    while let Some(links) = system.suspected_links(&node, suspicion) {
        for link in &links {
            let before = probed.entry(link.key).or_default();
            if before.is_none() {
                *before = link.probe();
            }
        }
        tokio::time::sleep(PATIENCE).await;
        for link in system.suspected_links(&node, suspicion).unwrap_or_default() {
            // Made in the meantime: not tried yet.
            let Some(before) = probed.get_mut(&link.key) else { continue };
            if link.heard() > *before {
                link.speak_again();
                *before = None;
            } else {
                link.fall_silent(&format!(
                    "{} is unreachable: nothing is heard from node {node}, nor over the connection to it",
                    link.peer
                ));
            }
        }
    }
}
