//! Processes of this machine: who they are, whether they live, and the news of their end.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

/// A process that cannot be taken for a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did.
    pub started: u64,
}

impl ProcessMark {
    /// The mark of process `pid`, if it lives.
    pub fn of(pid: u32) -> Option<ProcessMark> {
        let (state, started) = stat(pid)?;
        (state != 'Z' && state != 'X').then_some(ProcessMark { pid, started })
    }

    /// Does it live? A zombie does not.
    pub fn lives(&self) -> bool {
        ProcessMark::of(self.pid) == Some(*self)
    }

    /// Sends `signal` to its process group, of which it is the leader, if it lives.
    pub fn signal_group(&self, signal: Signal) {
        if let (true, Some(pid)) = (self.lives(), pid_of(self.pid)) {
            // It may have ended since: then there is nobody to tell.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}

/// The processes whose arguments satisfy `which`, the program itself being the first argument.
pub(crate) fn processes(which: impl Fn(&[&[u8]]) -> bool) -> Vec<ProcessMark> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let matching = pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        which(&line.split(|byte| *byte == 0).collect::<Vec<_>>())
    });
    matching.filter_map(ProcessMark::of).collect()
}

/// State letter and start time of `/proc/PID/stat`: see proc(5).
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

/// `pid` as the system calls take it.
pub(crate) fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Names the machine and the space of its process numbers: two processes with the same one can watch each other.
pub(crate) fn host_identity() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), space.display())
}

/// Waits until a process has ended.
#[derive(Debug)]
pub(crate) struct ProcessWatch {
    fd: AsyncFd<OwnedFd>,
}

impl ProcessWatch {
    /// A watch on process `pid`. Call it within a tokio runtime.
    pub(crate) fn new(pid: u32) -> io::Result<ProcessWatch> {
        let pid = pid_of(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        Ok(ProcessWatch { fd: crate::spawn::readable(fd)? })
    }

    /// Kills it, if it has not ended.
    pub(crate) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(self.fd.get_ref(), Signal::KILL);
    }

    /// Returns when it has ended (it may be a zombie then).
    pub(crate) async fn ended(&self) -> io::Result<()> {
        self.fd.readable().await.map(drop)
    }
}

/// The cores that this process may use.
pub(crate) fn own_cores() -> Vec<u32> {
    let set = rustix::thread::sched_getaffinity(None).ok();
    let Some(set) = set else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).map(|core| core as u32).collect()
}

/// The GPUs that this process may use; nothing where that cannot be told.
pub(crate) fn own_gpus() -> Option<u64> {
    if let Some(names) = named_gpus() {
        return Some(names.len() as u64);
    }
    let devices = || fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let numbered = |name: &str| {
        let number = name.strip_prefix("nvidia");
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let found = devices().filter(|name| name.to_str().is_some_and(numbered)).count();
    // Windows lends its GPUs to a Linux machine through one device for all of them.
    (found > 0 || !Path::new("/dev/dxg").exists()).then_some(found as u64)
}

/// The GPUs that `CUDA_VISIBLE_DEVICES` leaves to this process, where it is set.
pub(crate) fn named_gpus() -> Option<Vec<String>> {
    let list = std::env::var("CUDA_VISIBLE_DEVICES").ok()?;
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    // CUDA takes a number below zero for the list's end.
    Some(names.take_while(|name| !name.starts_with('-')).map(str::to_owned).collect())
}

/// Is `address` one of this machine's, so that a process can listen on it?
pub(crate) fn has_address(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// The address of this machine to listen on: `bind`, or the one of `interface`, or the one from which `peer` is reached. An
/// interface's address is of the family of `peer`, where there is one, and else of IPv4 if it has one.
pub(crate) fn listen_address(
    bind: Option<IpAddr>,
    interface: Option<&str>,
    peer: Option<SocketAddr>,
) -> Result<IpAddr, String> {
    match (bind, interface, peer) {
        (Some(bind), ..) => Ok(bind),
        (None, Some(interface), _) => interface_address(interface, peer.map(|peer| peer.is_ipv4())),
        (None, None, Some(peer)) => address_toward(peer)
            .map_err(|error| format!("there is no way from here to the head at {peer}: {error}")),
        (None, None, None) => Ok(crate::manifest::loopback()),
    }
}

fn interface_address(name: &str, ipv4: Option<bool>) -> Result<IpAddr, String> {
    let all = if_addrs::get_if_addrs()
        .map_err(|error| format!("the network interfaces cannot be listed: {error}"))?;
    // An address of a link alone needs the link's name with it, which no peer has.
    let usable = all.iter().filter(|found| found.name == name && !found.addr.is_link_local());
    let addresses: Vec<IpAddr> = usable.map(|found| found.ip()).collect();
    let wanted = |v4: bool| addresses.iter().copied().find(|address| address.is_ipv4() == v4);
    let found = match ipv4 {
        Some(v4) => wanted(v4),
        None => wanted(true).or_else(|| wanted(false)),
    };
    found.ok_or_else(|| {
        let mut names: Vec<&str> = all.iter().map(|found| &*found.name).collect();
        names.sort_unstable();
        names.dedup();
        match names.contains(&name) {
            false => format!("there is no interface `{name}`, expected one of {}", names.join(", ")),
            true => {
                let family = ipv4.map_or("", |v4| if v4 { " IPv4" } else { " IPv6" });
                format!("the interface `{name}` has no{family} address")
            }
        }
    })
}

/// The address that packets to `peer` leave from; none is sent.
fn address_toward(peer: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = if peer.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

/// The network interfaces of this machine; nothing where that cannot be told.
pub(crate) fn interfaces() -> Option<Vec<String>> {
    let entries = fs::read_dir("/sys/class/net").ok()?.flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Some(names)
}

/// Is there a folder at `path`?
pub(crate) fn is_folder(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_to_listen_on_is_the_given_one_or_the_interfaces_or_leads_to_the_peer() {
        let bind: IpAddr = "192.0.2.1".parse().unwrap();
        let peer: SocketAddr = "127.0.0.1:9".parse().unwrap();
        assert_eq!(listen_address(Some(bind), None, Some(peer)), Ok(bind));
        assert_eq!(listen_address(None, Some("lo"), Some(peer)), Ok(peer.ip()));
        assert_eq!(listen_address(None, Some("lo"), None), Ok(peer.ip()));
        assert_eq!(listen_address(None, None, Some(peer)), Ok(peer.ip()));
        assert_eq!(listen_address(None, None, None), Ok(peer.ip()));
        let missing = listen_address(None, Some("nowhere0"), None).unwrap_err();
        assert!(missing.starts_with("there is no interface `nowhere0`, expected one of "), "{missing}");
        assert!(missing.contains("lo"), "{missing}");
    }

    #[test]
    fn an_address_to_listen_on_is_of_the_peers_family() {
        let peer: SocketAddr = "[::1]:9".parse().unwrap();
        if UdpSocket::bind(("::1", 0)).is_err() {
            eprintln!("skipped: this machine has no IPv6 loopback");
            return;
        }
        assert_eq!(listen_address(None, Some("lo"), Some(peer)), Ok(peer.ip()));
        assert_eq!(listen_address(None, None, Some(peer)), Ok(peer.ip()));
    }
}
