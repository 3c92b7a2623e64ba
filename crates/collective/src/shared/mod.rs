//! The ranks of one host: one memory, one rendezvous, one way to fail.

mod control;
mod memory;
pub(crate) mod rendezvous;
mod watch;

pub(crate) use control::{Descriptor, MAX_LOCAL};
pub(crate) use memory::{ControlPage, Region, Segment};
pub(crate) use rendezvous::meet;
pub(crate) use watch::{Seen, Watch};
