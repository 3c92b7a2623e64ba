//! Head, node agents, placement and launchers.
