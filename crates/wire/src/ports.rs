//! A block of UDP ports that the processes of a node share: the system decides who has which.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;

use crate::{Result, WireError};

/// Holders that are named in a message.
const MAX_NAMED: usize = 8;
/// Bytes of a command line in a message.
const MAX_COMMAND: usize = 80;

/// Binds `addr`, or, where its port is 0 and there is a `block`, the first port of that which nobody holds.
pub(crate) fn bind(addr: SocketAddr, block: &Range<u16>) -> Result<UdpSocket> {
    if addr.port() != 0 || block.is_empty() {
        return UdpSocket::bind(addr).map_err(|source| fault(addr, source));
    }
    for port in block.clone() {
        let addr = SocketAddr::new(addr.ip(), port);
        match UdpSocket::bind(addr) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound.map_err(|source| fault(addr, source)),
        }
    }
    let held = in_words(&port_holders(block));
    Err(WireError::Ports { ip: addr.ip(), first: block.start, last: block.end - 1, held })
}

/// Says who holds it, where it is held.
fn fault(addr: SocketAddr, source: io::Error) -> WireError {
    let held = source.kind() == io::ErrorKind::AddrInUse && addr.port() != 0;
    let held = held.then(|| port_holders(&(addr.port()..addr.port().saturating_add(1))));
    let source = match held.filter(|held| !held.is_empty()) {
        Some(held) => io::Error::new(source.kind(), format!("{source}: {}", in_words(&held))),
        None => source,
    };
    WireError::Bind { addr, source }
}

/// Who holds which UDP ports of `block` on this machine, in words: the process, as far as this one may know it.
///
/// It reads what proc(5) says of every process, which takes a while.
pub fn port_holders(block: &Range<u16>) -> BTreeMap<u16, String> {
    let mut sockets = BTreeMap::new();
    for table in ["/proc/self/net/udp", "/proc/self/net/udp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        let held = text.lines().skip(1).filter_map(port_and_inode);
        sockets.extend(held.filter(|(port, _)| block.contains(port)).map(|(port, inode)| (inode, port)));
    }
    let mut holders: BTreeMap<u16, String> =
        sockets.values().map(|port| (*port, "another process".to_owned())).collect();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if sockets.is_empty() {
            break;
        }
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // Of other users' processes nothing is said.
        let descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        for link in descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()) {
            let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
            if let Some(port) = inode.and_then(|inode| sockets.remove(inode)) {
                holders.insert(port, format!("process {pid}{}", command(pid)));
            }
        }
    }
    holders
}

/// Of a line of `/proc/net/udp`: see proc_net(5).
fn port_and_inode(line: &str) -> Option<(u16, String)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, port) = fields.get(1)?.rsplit_once(':')?;
    Some((u16::from_str_radix(port, 16).ok()?, (*fields.get(9)?).to_owned()))
}

fn command(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let line: String = words.join(" ").trim().chars().take(MAX_COMMAND).collect();
    if line.is_empty() { line } else { format!(" ({line})") }
}

/// `7401 has process 12 (lyceum agent), 7402 has ...`
pub(crate) fn in_words(holders: &BTreeMap<u16, String>) -> String {
    let mut said: Vec<String> =
        holders.iter().take(MAX_NAMED).map(|(port, holder)| format!("{port} has {holder}")).collect();
    if holders.len() > MAX_NAMED {
        said.push(format!("and {} more are held", holders.len() - MAX_NAMED));
    }
    said.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some neighbouring ports of loopback that nobody holds now.
    fn block() -> Range<u16> {
        let first = 12_000 + (std::process::id() % 1000) as u16 * 8;
        let mut blocks = (0..1000).map(|at| first + at * 3..first + at * 3 + 3);
        let free = |port: u16| UdpSocket::bind(("127.0.0.1", port)).is_ok();
        blocks.find(|block| block.clone().all(free)).expect("three free ports")
    }

    #[test]
    fn a_port_that_is_held_is_passed_over_and_an_exhausted_block_says_who_has_it() {
        let block = block();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let held = UdpSocket::bind(("127.0.0.1", block.start + 1)).unwrap();
        let bound = [bind(any, &block).unwrap(), bind(any, &block).unwrap()];
        let ports = bound.each_ref().map(|socket| socket.local_addr().unwrap().port());
        assert_eq!(ports, [block.start, block.start + 2]);
        let said = bind(any, &block).unwrap_err().to_string();
        let us = format!("{} has process {}", block.start + 1, std::process::id());
        assert!(said.contains(&format!("none of the ports {} to {}", block.start, block.end - 1)), "{said}");
        assert!(said.contains(&us), "{said}");
        let taken = bind(held.local_addr().unwrap(), &(0..0)).unwrap_err().to_string();
        assert!(taken.contains(&us), "{taken}");
        drop(held);
        assert_eq!(bind(any, &block).unwrap().local_addr().unwrap().port(), block.start + 1);
        assert!(!block.contains(&bind(any, &(0..0)).unwrap().local_addr().unwrap().port()));
    }

    #[test]
    fn many_holders_are_counted() {
        let holders = (1..=10).map(|port| (port, "another process".to_owned())).collect();
        assert!(in_words(&holders).ends_with("8 has another process, and 2 more are held"));
    }
}
