//! The order to start one agent: the same for every launcher, carried out on the agent's own host.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

use lyceum_wire::Credentials;
use serde::{Deserialize, Serialize};

use super::machine::{Machine, Share};
use super::starter::Starter;
use crate::agent::AgentConfig;
use crate::error::ClusterError;
use crate::host::{self, ProcessMark};
use crate::manifest::{Launcher, Manifest, NodeSection};
use crate::state::StateDir;

/// What an agent's host must know to start it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentOrder {
    /// The cluster's, with no nodes but those of this host: they share it.
    pub(super) manifest: Manifest,
    /// Which of these nodes is meant.
    pub(super) index: usize,
    pub(super) owned: bool,
    pub(super) ports: Range<u16>,
    /// Where the head is, or may be.
    pub(super) heads: Vec<SocketAddr>,
    pub(super) credentials: Secret,
}

/// PEM text with a private key, which no log may have.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn of(credentials: &Credentials) -> Secret {
        Secret(String::from_utf8_lossy(&credentials.to_bytes()).into_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl AgentOrder {
    /// Does the agent end with the process that orders it?
    pub fn is_owned(&self) -> bool {
        self.owned
    }

    /// The node whose agent is to be started; none in a damaged order.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] then.
    pub fn node(&self) -> Result<&NodeSection, ClusterError> {
        let node = self.manifest.nodes.get(self.index);
        node.ok_or_else(|| ClusterError::Refused(format!("the order has no node {}", self.index)))
    }

    /// Writes configuration and credentials into the node's folder, and starts its agent.
    pub(super) fn carry_out(&self, starter: &Starter) -> Result<ProcessMark, ClusterError> {
        let state = starter.state();
        let node = self.prepare(state)?;
        starter.start(&["agent", "--node", &node.name], &state.agent_log(&node.name))
    }

    /// Writes configuration and credentials into the node's folder.
    pub(super) fn prepare(&self, state: &StateDir) -> Result<&NodeSection, ClusterError> {
        let node = self.node()?;
        let shares = Machine::here().shares(&self.manifest);
        let shares = shares.map_err(|unmet| ClusterError::Refused(unmet.message))?;
        let config = self.config(node, &shares[self.index])?;
        let folder = state.node(&node.name);
        state.make(&state.logs())?;
        state.make(&folder)?;
        Credentials::from_bytes(self.credentials.0.as_bytes())?.save(&folder)?;
        config.save(state)?;
        Ok(node)
    }

    fn config(&self, node: &NodeSection, share: &Share) -> Result<AgentConfig, ClusterError> {
        // Nodes of this machine are loopback's, unless they say something else.
        let alone = self.manifest.launcher == Launcher::Local && node.interface.is_none();
        let head = self.heads.first().copied().filter(|_| !alone);
        let bind = host::listen_address(node.bind, node.interface.as_deref(), head)
            .map_err(ClusterError::Refused)?;
        Ok(AgentConfig {
            cluster: self.manifest.name.clone(),
            node: node.name.clone(),
            owned: self.owned,
            heads: self.heads.clone(),
            bind,
            advertise: node.advertise,
            trusted_interface: node.trusted_interface.clone(),
            ports: self.ports.clone(),
            cores: share.cores.clone(),
            gpus: share.gpus.clone(),
            store: self.manifest.store,
            health: self.manifest.health,
        })
    }
}
