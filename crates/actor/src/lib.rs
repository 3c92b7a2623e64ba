//! Roles, actors, mailboxes and references: the same call local and remote.

#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

mod actor;
mod address;
mod call;
mod cell;
mod clock;
mod cluster;
mod context;
mod control;
mod credit;
mod death;
mod dispatch;
mod error;
mod executor;
mod inbound;
mod incoming;
mod large;
mod life;
mod link;
mod message;
mod network;
mod pending;
mod population;
mod protocol;
mod reference;
mod registry;
mod reply;
mod role;
mod slot;
mod system;

pub use actor::{Actor, Handler};
pub use address::{ActorAddress, ActorId, ProcessAddress, ProcessKind};
/// What handlers and `start` return; any error can be one.
pub use anyhow::Result;
pub use call::{Ask, Tell};
pub use cluster::{Cluster, Spawn};
pub use context::{Context, Timer};
pub use control::{Amount, ControlError, ControlPlane, Resources, SpawnRequest};
pub use credit::Credits;
pub use death::{Cause, DeathReport, ProcessDeath};
pub use dispatch::HandledBy;
pub use error::CallError;
pub use incoming::Incoming;
pub use large::{LARGE, LargePayloads};
pub use message::{Decoder, Encoder, Message, Validator, encode};
pub use reference::ActorRef;
pub use registry::{Registry, SpawnError};
pub use reply::Responder;
pub use role::{Accepts, MessageList, ReplyOf, Role, fingerprint};
pub use system::{System, SystemError, SystemOptions};
