//! What `lyceum bench` measures, and beside whom.
//!
//! A [work] is one thing that a user does, such as a call with a thousand others in flight. Each is done by *parties* in turn:
//! ours, the [bare] transport beneath ours, and a [peer]'s of the same machine. All parties of a work go round by
//! round, so that a noisy machine is noisy for each of them, and a [`Row`] compares the medians.
//!
//! Ours is the real thing: an owned [cluster](cluster::BenchCluster) with a head and agents, callers and actors in
//! processes of their own, every message through QUIC with mutual TLS.

#![deny(missing_docs, rustdoc::broken_intra_doc_links)]
#![forbid(unsafe_code)]

pub mod actors;
pub mod bare;
pub mod cluster;
pub mod keepers;
pub mod peer;
pub mod round;
pub mod row;
pub mod work;

pub use actors::register;
pub use row::Row;
