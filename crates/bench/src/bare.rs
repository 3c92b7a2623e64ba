//! The transport beneath ours with nothing on it: an echo, or bytes one way, over one QUIC stream between two processes,
//! with the same crypto, the same socket settings and the same runtime. What ours costs more than this is ours.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use lyceum_wire::{
    Admission, Authority, BulkReceiver, BulkSender, Connection, Credentials, Endpoint, EndpointOptions,
    Expect, PeerIdentity, PeerRole,
};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::round::Round;

/// Bytes of a small call on the wire: a frame's head, its extension and eight bytes of payload.
pub const SMALL: usize = 64;
/// What a stream is to do: send back what comes, or send as many bytes as the u64 that comes says.
const ECHO: &[u8] = b"echo";
const PULL: &[u8] = b"pull";
/// Bytes that are handed to QUIC at a time.
const CHUNK: usize = 1 << 20;
/// The most that is sent at a time.
const MOST: usize = 1 << 30;
const CLUSTER: &str = "bench";
const HOUR: Duration = Duration::from_secs(3600);

/// The other end's process, and the connection to it.
struct OtherEnd {
    // In the order in which they go: the connection before the process.
    connection: Connection,
    _endpoint: Endpoint,
    _child: Child,
    _folder: tempfile::TempDir,
}

impl OtherEnd {
    /// Starts it with `program`'s `bench-echo` command, and connects.
    async fn start(program: PathBuf) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("lyceum-echo-").tempdir().context("a folder")?;
        let authority = Authority::create(CLUSTER)?;
        let issue = |node: &str, number| -> Result<Credentials> {
            Ok(authority.issue(&PeerIdentity::new(CLUSTER, PeerRole::Worker, node, number)?, HOUR)?)
        };
        issue("b", 2)?.save(folder.path())?;
        let mut child = Command::new(program)
            .arg("bench-echo")
            .arg(folder.path())
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the echo's other end")?;
        let stdout = child.stdout.take().context("a pipe")?;
        let address =
            BufReader::new(stdout).lines().next_line().await?.context("the echo's other end ended")?;
        let endpoint = Endpoint::bind(issue("a", 1)?, EndpointOptions::new(loopback()))?;
        let connection = endpoint.connect(address.parse()?, &Expect::role(PeerRole::Worker)).await?;
        Ok(Self { connection, _endpoint: endpoint, _child: child, _folder: folder })
    }
}

/// A stream from one process to another.
pub struct BareStream {
    sender: BulkSender,
    receiver: BulkReceiver,
    _other: OtherEnd,
    buffer: Vec<u8>,
}

impl BareStream {
    /// Starts the other end with `program`'s `bench-echo` command; `bytes` come at a time.
    pub async fn start(program: PathBuf, bytes: usize) -> Result<Self> {
        let other = OtherEnd::start(program).await?;
        let (sender, receiver) = other.connection.open_bulk(PULL).await?;
        Ok(Self { sender, receiver, _other: other, buffer: vec![1; bytes] })
    }

    /// Has them sent for about `time`. The round counts MiB.
    pub async fn pull(&mut self, time: Duration) -> Result<Round> {
        let (began, mut round) = (Instant::now(), Round { done: 0, seconds: 0.0, latencies_us: Vec::new() });
        while began.elapsed() < time || round.done == 0 {
            let asked = Instant::now();
            self.sender.write(&(self.buffer.len() as u64).to_le_bytes()).await?;
            self.receiver.read_exact(&mut self.buffer).await?;
            let seconds = asked.elapsed().as_secs_f64();
            round.done += self.buffer.len() as u64 >> 20;
            round.seconds += seconds;
            round.latencies_us.push(seconds * 1e6);
        }
        Ok(round)
    }
}

/// The other end's process, and a stream to it.
pub struct BareEcho {
    // In the order in which they go: the stream before its connection.
    sender: BulkSender,
    receiver: BulkReceiver,
    _other: OtherEnd,
}

impl BareEcho {
    /// Starts the other end with `program`'s `bench-echo` command, and connects.
    pub async fn start(program: PathBuf) -> Result<Self> {
        let other = OtherEnd::start(program).await?;
        let (sender, receiver) = other.connection.open_bulk(ECHO).await?;
        Ok(Self { sender, receiver, _other: other })
    }

    /// Echoes one after the other for about `time`.
    pub async fn one_at_a_time(&mut self, time: Duration) -> Result<Round> {
        let (sent, mut got) = ([7; SMALL], [0; SMALL]);
        let mut latencies_us = Vec::new();
        let began = Instant::now();
        while began.elapsed() < time {
            let asked = Instant::now();
            self.sender.write(&sent).await?;
            self.receiver.read_exact(&mut got).await?;
            latencies_us.push(asked.elapsed().as_secs_f64() * 1e6);
        }
        ensure!(got == sent, "an echo came back changed");
        Ok(Round { done: latencies_us.len() as u64, seconds: began.elapsed().as_secs_f64(), latencies_us })
    }

    /// Echoes with `count` in flight for about `time`, written and read as many at a time as there is room for.
    pub async fn in_flight(&mut self, count: usize, time: Duration) -> Result<Round> {
        let sent = vec![7; SMALL * count];
        let mut got = vec![0; SMALL * count];
        let (began, mut done, mut left_over) = (Instant::now(), 0, 0);
        self.sender.write(&sent).await?;
        while began.elapsed() < time {
            let read = self.receiver.read(&mut got).await?.context("the echo's other end ended")? + left_over;
            let whole = read / SMALL;
            left_over = read % SMALL;
            done += whole as u64;
            self.sender.write(&sent[..whole * SMALL]).await?;
        }
        // What is still in flight, so that the next round begins with nothing.
        let mut rest = SMALL * count - left_over;
        while rest > 0 {
            let most = rest.min(got.len());
            rest -= self.receiver.read(&mut got[..most]).await?.context("the echo's other end ended")?;
        }
        Ok(Round { done, seconds: began.elapsed().as_secs_f64(), latencies_us: Vec::new() })
    }
}

/// The main of the other end: prints its address and does what the one stream of one connection is to do.
pub async fn serve(credentials: &Path) -> Result<()> {
    let mut options = EndpointOptions::new(loopback());
    options.admission = Admission::roles([PeerRole::Worker]);
    let endpoint = Endpoint::bind(Credentials::load(credentials)?, options)?;
    println!("{}", endpoint.local_addr());
    let connection = endpoint.accept().await.context("nobody came")?;
    let (header, mut sender, mut receiver) = connection.accept_bulk().await?;
    if header == PULL {
        let (mut wanted, mut bytes) = ([0; 8], Bytes::new());
        while receiver.read_exact(&mut wanted).await.is_ok() {
            let count = usize::try_from(u64::from_le_bytes(wanted))?;
            ensure!(count <= MOST, "{count} bytes are wanted, {MOST} at most are sent");
            if bytes.len() != count {
                bytes = vec![1; count].into();
            }
            // As large as what a store hands to QUIC at a time, and as it does, without a copy.
            for start in (0..count).step_by(CHUNK) {
                sender.write_bytes(bytes.slice(start..count.min(start + CHUNK))).await?;
            }
        }
        return Ok(());
    }
    let mut buffer = vec![0; 1 << 20];
    while let Ok(Some(count)) = receiver.read(&mut buffer).await {
        sender.write(&buffer[..count]).await?;
    }
    Ok(())
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
