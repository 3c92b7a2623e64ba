//! The shared-memory object store of a node.
