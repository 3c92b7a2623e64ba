//! Head, node agents, placement and launchers.
extern crate self as lyceum_actor;
use lyceum_wire::PeerRole;
#[path = "../../actor/src/address.rs"] mod address;
#[path = "../../actor/src/death.rs"] mod death;
#[path = "../../actor/src/control.rs"] mod control_;
pub use address::*; pub use death::*; pub use control_::*;

pub mod control;
pub mod manifest;
pub mod strict;
pub mod units;
