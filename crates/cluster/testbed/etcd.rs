//! An etcd of its own for one test: a real one, of one member or three, in folders that go with them.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, Command, Stdio};

/// A server; it ends with this.
#[derive(Debug)]
pub struct EtcdServer {
    child: Option<Child>,
    folder: tempfile::TempDir,
    client: u16,
    peer: u16,
    name: String,
    /// All members, as etcd wants to hear of them.
    members: String,
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
        loop {
            let mut server = EtcdServer::new("alone");
            server.members = server.membership();
            // Somebody else may have got one of the ports meanwhile.
            if server.serve() {
                return server;
            }
        }
    }

    /// Starts one of three members, and waits until they serve.
    #[allow(dead_code, reason = "not all that use this file need more than one member")]
    pub fn start_three() -> [EtcdServer; 3] {
        loop {
            let mut servers = ["one", "two", "three"].map(EtcdServer::new);
            let members = servers.each_ref().map(EtcdServer::membership).join(",");
            servers.iter_mut().for_each(|server| server.members.clone_from(&members));
            // Each serves when most are there.
            let launched = servers.each_mut().map(|server| server.launch());
            let serve =
                servers.iter_mut().zip(launched).map(|(server, said)| server.hear_that_it_serves(said));
            if serve.filter(|serves| *serves).count() == 3 {
                return servers;
            }
        }
    }

    fn new(name: &str) -> EtcdServer {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let (client, peer, name, members) = (free(), free(), name.to_owned(), String::new());
        EtcdServer { child: None, folder, client, peer, name, members }
    }

    fn membership(&self) -> String {
        format!("{}=http://127.0.0.1:{}", self.name, self.peer)
    }

    /// Where it serves, `HOST:PORT`.
    pub fn member(&self) -> String {
        format!("127.0.0.1:{}", self.client)
    }

    /// Starts it, again where it was; returns whether it serves.
    pub fn serve(&mut self) -> bool {
        let said = self.launch();
        self.hear_that_it_serves(said)
    }

    fn launch(&mut self) -> BufReader<ChildStderr> {
        let (client, peer) =
            (format!("http://127.0.0.1:{}", self.client), format!("http://127.0.0.1:{}", self.peer));
        let mut child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--name", &self.name, "--initial-cluster", &self.members])
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        self.child = Some(child);
        said
    }

    fn hear_that_it_serves(&mut self, mut said: BufReader<ChildStderr>) -> bool {
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
            self.kill();
        }
        serves
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
