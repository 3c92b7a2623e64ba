//! Who gives a cluster further hosts when what waits needs them.

use std::fmt;

use futures_util::future::BoxFuture;

use super::order::AgentOrder;
use crate::error::ClusterError;

/// Gives hosts to nodes that the manifest does not have. The head asks it, from a machine where that can be done; what it was asked
/// for it knows itself, so that a head that is started again asks for nothing twice.
pub trait NodeProvider: fmt::Debug + Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// Asks for a host on which the agent of `order` is started. That it was asked for is enough: the host may come much later.
    fn ask(&self, order: NodeOrder) -> BoxFuture<'_, Result<(), ClusterError>>;

    /// Nodes that were asked for and not given back: those that wait for a host, and those that have one.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Provided>, ClusterError>>;

    /// Gives the host of a node back, or takes the request for it back; that there is none any more is no fault.
    fn release<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), ClusterError>>;
}

/// A node that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provided {
    /// Its name.
    pub node: String,
    /// What its provider says of it.
    pub state: String,
}

/// What the host of a further node must know to start its agent.
#[derive(Debug, Clone)]
pub struct NodeOrder {
    /// The node's name.
    pub node: String,
    /// Its number among all that are asked for, from 1.
    pub number: usize,
    pub(crate) order: AgentOrder,
}

impl NodeOrder {
    /// The order as a file: with the agent's key, so that nobody else may read it.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.order).unwrap_or_default()
    }
}
