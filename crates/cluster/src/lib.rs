//! Head, node agents, placement and launchers.

pub mod manifest;
pub mod strict;
pub mod units;
