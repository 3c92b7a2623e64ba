//! An etcd of its own for one test: a real one, of one member, in a folder that goes with it.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// A server; it ends with this.
#[derive(Debug)]
pub struct EtcdServer {
    child: Option<Child>,
    folder: tempfile::TempDir,
    client: u16,
    peer: u16,
}

/// Whether the tests that need it can be run here.
pub fn have_etcd() -> bool {
    let have =
        Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !have {
        assert!(std::env::var_os("LYCEUM_REQUIRE_TOOLS").is_none(), "etcd is missing: install `etcd-server`");
        eprintln!("skipped: etcd is missing (Debian: etcd-server)");
    }
    have
}

impl EtcdServer {
    /// Starts one, and waits until it serves.
    pub fn start() -> EtcdServer {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let mut server = EtcdServer { child: None, folder, client: free(), peer: free() };
        // Somebody else may have got one of the ports meanwhile.
        while !server.serve() {
            (server.client, server.peer) = (free(), free());
        }
        server
    }

    /// Where it serves, `HOST:PORT`.
    pub fn member(&self) -> String {
        format!("127.0.0.1:{}", self.client)
    }

    /// Starts it, again where it was; returns whether it serves.
    pub fn serve(&mut self) -> bool {
        let (client, peer) =
            (format!("http://127.0.0.1:{}", self.client), format!("http://127.0.0.1:{}", self.peer));
        let mut child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let serves = loop {
            line.clear();
            match said.read_line(&mut line) {
                Ok(0) | Err(_) => break false,
                Ok(_) if line.contains("serving insecure client requests") => break true,
                Ok(_) => {}
            }
        };
        // Whoever does not read what it says would stop it.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        if !serves {
            _ = child.wait();
            return false;
        }
        self.child = Some(child);
        true
    }

    /// Ends it at once; what it has written stays.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
    }
}
