//! What the examples share: a system as a process of a cluster would have it.

use std::{error::Error, time::Duration};

use lyceum_actor::{Registry, System, SystemOptions};
use lyceum_wire::{Authority, PeerIdentity, PeerRole};

/// Worker `number` on `node`, which hosts `roles`.
pub fn process(
    authority: &Authority,
    node: &str,
    number: u64,
    roles: Registry,
) -> Result<System, Box<dyn Error>> {
    let identity = PeerIdentity::new("school", PeerRole::Worker, node, number)?;
    let credentials = authority.issue(&identity, Duration::from_secs(3600))?;
    Ok(System::start(SystemOptions::networked(credentials, "127.0.0.1:0".parse()?, roles))?)
}
