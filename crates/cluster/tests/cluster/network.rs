//! Hosts with addresses and links of their own: network namespaces on one bridge of this machine, for one test.
//!
//! The test's own process, and the head that it starts, are on the bridge. Orders reach a host through `sshd -i` in its
//! namespace, beside the links, as a network for management would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sshd::have_sshd;

/// The bridge, and the hosts on it; all of it goes with this.
pub struct Network {
    folder: tempfile::TempDir,
    bridge: String,
    subnet: String,
    hosts: Vec<Host>,
}

struct Host {
    name: String,
    namespace: String,
    /// The bridge's end of its link, and its own.
    ends: (String, String),
    address: String,
}

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// Whether the tests of this module can be run here.
pub fn have_namespaces() -> bool {
    let name = format!("lyceum-{}-try", std::process::id());
    let made = rustix::process::geteuid().is_root() && try_ip(&["netns", "add", &name]);
    if made {
        ip(&["netns", "del", &name]);
    } else {
        assert!(
            std::env::var_os("LYCEUM_REQUIRE_TOOLS").is_none(),
            "network namespaces cannot be made: install `iproute2`, and run the tests as root"
        );
        eprintln!("skipped: network namespaces cannot be made (Debian: iproute2; by root)");
    }
    made && have_sshd()
}

fn try_ip(arguments: &[&str]) -> bool {
    let quiet = Command::new("ip").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Has what is sent to `address` go to an interface that nobody has.
fn to_nobody<'a>(address: &'a str, device: &'a str) -> [&'a str; 9] {
    ["neigh", "replace", address, "lladdr", "02:00:00:00:00:00", "nud", "permanent", "dev", device]
}

impl Network {
    /// A namespace for each of `names`; its sessions find `NAME/state` and `NAME/cache` of `folder` as theirs.
    pub fn start(names: &[&str], folder: &Path) -> Network {
        let (process, number) = (std::process::id(), NETWORKS.fetch_add(1, Ordering::Relaxed));
        // Interfaces' names have 15 bytes at most, and processes' numbers 7 digits.
        let mark = format!("{process}{}", char::from(b'a' + number as u8));
        let mut network = Network {
            folder: tempfile::tempdir().unwrap(),
            bridge: format!("lyb{mark}"),
            subnet: format!("10.{}.{}", 100 + process / 250 % 100, process % 250 + number),
            hosts: Vec::new(),
        };
        for key in ["host_key", "user_key"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(network.path(key))
                .status();
            assert!(made.unwrap().success());
        }
        ip(&["link", "add", &network.bridge, "type", "bridge"]);
        ip(&["addr", "add", &format!("{}/24", network.head()), "dev", &network.bridge]);
        ip(&["link", "set", &network.bridge, "up"]);
        for (at, name) in names.iter().enumerate() {
            let host = Host {
                name: (*name).to_owned(),
                namespace: format!("lyceum-{mark}-{name}"),
                ends: (format!("lyv{mark}{at}"), format!("lyw{mark}{at}")),
                address: format!("{}.{}", network.subnet, at + 2),
            };
            network.connect(&host);
            network.serve(&host, folder);
            network.hosts.push(host);
        }
        network.configure();
        network
    }

    fn connect(&self, host: &Host) {
        let Host { namespace, ends: (outer, inner), address, .. } = host;
        ip(&["netns", "add", namespace]);
        ip(&["link", "add", outer, "type", "veth", "peer", "name", inner, "netns", namespace]);
        ip(&["link", "set", outer, "master", &self.bridge, "up"]);
        ip(&["-n", namespace, "addr", "add", &format!("{address}/24"), "dev", inner]);
        ip(&["-n", namespace, "link", "set", "lo", "up"]);
        ip(&["-n", namespace, "link", "set", inner, "up"]);
    }

    /// Writes what `sshd -i` is told for each connection to `host`.
    fn serve(&self, host: &Host, folder: &Path) {
        fs::create_dir_all("/run/sshd").unwrap();
        let text = format!(
            "HostKey {0}/host_key\nAuthorizedKeysFile {0}/user_key.pub\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nStrictModes no\n\
             SetEnv LYCEUM_STATE_DIR={1}/{2}/state XDG_CACHE_HOME={1}/{2}/cache\n",
            self.folder.path().display(),
            folder.display(),
            host.name
        );
        fs::write(self.path(&format!("sshd-{}", host.name)), text).unwrap();
    }

    fn configure(&self) {
        let folder = self.folder.path().display();
        let host_key = fs::read_to_string(self.path("host_key.pub")).unwrap();
        let (mut config, mut known) = (String::new(), String::new());
        for Host { name, namespace, .. } in &self.hosts {
            config += &format!(
                "Host {name}\n    ProxyCommand ip netns exec {namespace} /usr/sbin/sshd -i -f {folder}/sshd-{name}\n"
            );
            known += &format!("{name} {host_key}");
        }
        config += &format!(
            "Host *\n    IdentityFile {folder}/user_key\n    IdentitiesOnly yes\n    IdentityAgent none\n    \
             UserKnownHostsFile {folder}/known_hosts\n    GlobalKnownHostsFile /dev/null\n    StrictHostKeyChecking yes\n"
        );
        fs::write(self.path("ssh_config"), config).unwrap();
        fs::write(self.path("known_hosts"), known).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The head's address.
    pub fn head(&self) -> String {
        format!("{}.1", self.subnet)
    }

    pub fn address(&self, name: &str) -> &str {
        &self.host(name).address
    }

    /// No packet comes to a host, or leaves it.
    pub fn cut(&self, name: &str) {
        ip(&["link", "set", &self.host(name).ends.0, "down"]);
    }

    pub fn heal(&self, name: &str) {
        ip(&["link", "set", &self.host(name).ends.0, "up"]);
    }

    /// What the host sends to `address` is lost; what comes from there is not.
    pub fn mute(&self, name: &str, address: &str) {
        let Host { namespace, ends: (_, inner), .. } = self.host(name);
        ip(&[&["-n", namespace], &to_nobody(address, inner)[..]].concat());
    }

    pub fn unmute(&self, name: &str, address: &str) {
        let Host { namespace, ends: (_, inner), .. } = self.host(name);
        ip(&["-n", namespace, "neigh", "del", address, "dev", inner]);
    }

    /// The host knows no way to `address`: what it sends there is refused by its own system.
    pub fn unroute(&self, name: &str, address: &str) {
        let to = format!("{address}/32");
        ip(&["-n", &self.host(name).namespace, "route", "add", "unreachable", &to]);
    }

    pub fn reroute(&self, name: &str, address: &str) {
        let to = format!("{address}/32");
        ip(&["-n", &self.host(name).namespace, "route", "del", "unreachable", &to]);
    }

    /// What the head sends to a host is lost; what comes from there is not.
    pub fn mute_head(&self, name: &str) {
        ip(&to_nobody(self.address(name), &self.bridge));
    }

    pub fn unmute_head(&self, name: &str) {
        ip(&["neigh", "del", self.address(name), "dev", &self.bridge]);
    }

    /// A host's link takes so much in either direction, and holds back for 100 ms what is more, before it loses it.
    pub fn slow_down(&self, name: &str, rate: &str) {
        let Host { namespace, ends: (outer, inner), .. } = self.host(name);
        let limit = ["root", "tbf", "rate", rate, "burst", "32kbit", "latency", "100ms"];
        for (at, end) in [(None, outer), (Some(namespace), inner)] {
            let mut command = Command::new("tc");
            command.args(at.iter().flat_map(|namespace| ["-n", namespace.as_str()]));
            let done = command.args(["qdisc", "add", "dev", end]).args(limit).status().unwrap();
            assert!(done.success(), "a link cannot be slowed down");
        }
    }

    fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).expect("a host of the test")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            // The links go with it.
            try_ip(&["netns", "del", &host.namespace]);
        }
        try_ip(&["link", "del", &self.bridge]);
    }
}
