//! What is said of a path on which large packets vanish.

use std::net::SocketAddr;

use lyceum_wire::{Endpoint, Expect, PathCheck};

/// Looks at the path to `who` at `address`, and says what is wrong with it.
pub(crate) async fn look(
    endpoint: &Endpoint,
    who: &str,
    address: SocketAddr,
    expect: &Expect,
) -> Option<String> {
    // What stays on this machine takes any size.
    if address.ip().is_loopback() {
        return None;
    }
    match endpoint.check_path(address, expect).await {
        Ok(PathCheck::BlackHole { payload, mtu }) => Some(in_words(who, address, payload, mtu)),
        Ok(PathCheck::Carries { .. } | PathCheck::Unknown) => None,
        Err(error) => {
            tracing::debug!(who, %address, %error, "a path could not be looked at");
            None
        }
    }
}

fn in_words(who: &str, address: SocketAddr, payload: u16, mtu: u32) -> String {
    format!(
        "packets of {mtu} bytes to {who} at {address} vanish on the way, and small ones arrive: this end's interface has an MTU \
         that something between does not take, and says nothing of it (a UDP payload of {payload} bytes was tried); smaller \
         ones are sent, at some cost: give the interfaces at both ends the MTU of the path, or let ICMP messages through"
    )
}
