//! The shared-memory object store of a node.
mod client;
mod error;
mod extents;
mod node;
mod object;

pub use client::{Object, ObjectWriter, StoreClient};
pub use error::{Result, StoreError};
pub use extents::Extents;
pub use node::{NodeStore, StoreOptions, TransitRules, Usage, socket_pair};
pub use object::{ObjectId, ObjectRef};
