//! Nodes beside the manifest's: they join a cluster that runs.

use std::net::SocketAddr;

use super::order::{AgentOrder, Secret};
use crate::client::Client;
use crate::error::ClusterError;
use crate::head::{HeadAddress, HeadConfig};
use crate::manifest::{Launcher, Manifest, NodeSection};
use crate::state::StateDir;

/// Makes ready one more node, of this machine, for the cluster in `state`: where its manifest has no node of that name, this is
/// a further one. [`agent::run`](crate::agent::run) with its name is its agent then, and joins.
///
/// The node goes with the cluster's `down`. If it is to leave before, it is drained, and its agent told to end: then it is
/// forgotten.
///
/// # Errors
/// The cluster does not run, the name cannot be a node's, or this machine does not have what `node` says.
pub async fn prepare_node(state: &StateDir, node: NodeSection) -> Result<(), ClusterError> {
    let config = HeadConfig::load(state)?;
    let client = Client::connect(state).await?;
    let heads = HeadAddress::of_candidates(state, &config.manifest)?;
    let manifest = Manifest { launcher: Launcher::Local, ..config.manifest };
    order(&client, &manifest, node, config.owned, heads).await?.prepare(state).map(drop)
}

/// The order to start an agent for `node`, beside those of `manifest`, alone on its host.
pub(crate) async fn order(
    client: &Client,
    manifest: &Manifest,
    node: NodeSection,
    owned: bool,
    heads: Vec<SocketAddr>,
) -> Result<AgentOrder, ClusterError> {
    let credentials = client.issue_node(&node.name).await?;
    Ok(AgentOrder {
        manifest: Manifest { nodes: vec![node], ..manifest.clone() },
        index: 0,
        owned,
        // A block of ports is shared out among the manifest's nodes.
        ports: 0..0,
        heads,
        credentials: Secret::of(&credentials),
    })
}
