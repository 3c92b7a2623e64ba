//! Head, node agents, placement and launchers.

pub mod strict;
