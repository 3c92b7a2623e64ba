//! Hosts for one test: SSH servers of its own on this machine, with keys, configuration and environment of their own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::lives;

const SSHD: &str = "/usr/sbin/sshd";

/// Servers, and the client's configuration that names them.
pub struct SshHosts {
    pub folder: tempfile::TempDir,
    hosts: Vec<SshHost>,
}

pub struct SshHost {
    name: String,
    port: u16,
    server: Option<Child>,
    environment: String,
}

/// Whether the tests of this module can be run here.
pub fn have_sshd() -> bool {
    let have =
        Path::new(SSHD).exists() && Command::new("ssh").arg("-V").stderr(Stdio::null()).status().is_ok();
    if !have {
        assert!(
            std::env::var_os("LYCEUM_REQUIRE_TOOLS").is_none(),
            "sshd or ssh is missing: install `openssh-server` and `openssh-client`"
        );
        eprintln!("skipped: sshd or ssh is missing (Debian: openssh-server, openssh-client)");
    }
    have
}

impl SshHosts {
    /// A server for each of `names`, whose sessions find `NAME/state` and `NAME/cache` of `folder` as theirs.
    pub fn start(names: &[&str], folder: &Path) -> SshHosts {
        let mut hosts = SshHosts { folder: tempfile::tempdir().unwrap(), hosts: Vec::new() };
        for key in ["host_key", "user_key", "other_key"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(hosts.path(key))
                .status();
            assert!(made.unwrap().success());
        }
        fs::copy(hosts.path("user_key.pub"), hosts.path("authorized_keys")).unwrap();
        for name in names {
            let environment = format!(
                "LYCEUM_STATE_DIR={0}/{name}/state XDG_CACHE_HOME={0}/{name}/cache",
                folder.to_str().unwrap()
            );
            let host = SshHost { name: (*name).to_owned(), port: 0, server: None, environment };
            hosts.hosts.push(host);
            hosts.serve(name);
        }
        hosts.configure("", "");
        hosts
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The client's configuration, with `more` for the host called `of`.
    pub fn configure(&self, of: &str, more: &str) {
        let folder = self.folder.path().display();
        let (mut config, mut known) = (String::new(), String::new());
        let host_key = fs::read_to_string(self.path("host_key.pub")).unwrap();
        for SshHost { name, port, .. } in &self.hosts {
            let more = if name == of { more } else { "" };
            // Those of all matching sections would be tried.
            let key = match more.contains("IdentityFile") {
                true => String::new(),
                false => format!("    IdentityFile {folder}/user_key\n"),
            };
            config += &format!("Host {name}\n{key}{more}\n    HostName 127.0.0.1\n    Port {port}\n");
            known += &format!("[127.0.0.1]:{port} {host_key}");
        }
        config += &format!(
            "Host *\n    IdentitiesOnly yes\n    IdentityAgent none\n    \
             UserKnownHostsFile {folder}/known_hosts\n    GlobalKnownHostsFile /dev/null\n    StrictHostKeyChecking yes\n"
        );
        fs::write(self.path("ssh_config"), config).unwrap();
        fs::write(self.path("known_hosts"), known).unwrap();
    }

    /// Adds to the environment of a host's sessions, and starts its server anew.
    pub fn set(&mut self, name: &str, variable: &str) {
        self.stop(name);
        let host = self.host(name);
        // The first of one name is taken.
        host.environment = format!("{variable} {}", host.environment);
        self.serve(name);
    }

    /// Ends a host's server; nobody listens at its port any more.
    pub fn stop(&mut self, name: &str) {
        if let Some(mut server) = self.host(name).server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// Starts the server of a host, again at its port if it had one.
    pub fn serve(&mut self, name: &str) {
        // sshd wants it where it runs as root; the service of Debian makes it at each start.
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let folder = self.folder.path().to_owned();
        let host = self.host(name);
        loop {
            if host.port == 0 {
                host.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            }
            let config = folder.join(format!("sshd-{name}"));
            let text = format!(
                "Port {}\nListenAddress 127.0.0.1\nHostKey {1}/host_key\nAuthorizedKeysFile {1}/authorized_keys\n\
                 PidFile none\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes no\n\
                 MaxStartups 100\nSetEnv {2}\n",
                host.port,
                folder.display(),
                host.environment
            );
            fs::write(&config, text).unwrap();
            let mut server = Command::new(SSHD)
                .args(["-D", "-e", "-f"])
                .arg(&config)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = String::new();
            let mut log = BufReader::new(server.stderr.take().unwrap());
            let listens = loop {
                let begin = said.len();
                if log.read_line(&mut said).unwrap() == 0 {
                    break false;
                }
                if said[begin..].contains("Server listening on") {
                    break true;
                }
            };
            if listens {
                // What it says later is not read, and must not fill the pipe up.
                std::thread::spawn(move || drop(std::io::copy(&mut log, &mut std::io::sink())));
                host.server = Some(server);
                return;
            }
            server.wait().unwrap();
            // Another took the port in between.
            assert!(said.contains("Address already in use"), "{said}");
            host.port = 0;
        }
    }

    /// Is any connection to a host open?
    pub fn connected(&self) -> bool {
        let servers = self.hosts.iter().filter_map(|host| host.server.as_ref());
        servers.map(Child::id).any(|server| {
            let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children"));
            children.unwrap_or_default().split_whitespace().any(|child| lives(child.parse().unwrap()))
        })
    }

    fn host(&mut self, name: &str) -> &mut SshHost {
        self.hosts.iter_mut().find(|host| host.name == name).expect("a host of the test")
    }
}

impl Drop for SshHosts {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            if let Some(mut server) = host.server.take() {
                let _ = server.kill();
                let _ = server.wait();
            }
        }
    }
}
