//! How the ranks of one host meet: the first of them, the *hub*, listens on an abstract Unix socket, believes who is of
//! its own user and knows the gang's token, and hands over the segment. The sockets stay open: a process that dies,
//! however it dies, closes its own, and that is how the others learn of it at once.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::time::Timespec;

use super::{MAX_LOCAL, Segment};
use crate::{CollectiveError, Gang};

/// How long a caller may take to say who it is: an idle stranger must not keep the others waiting.
const GREETING: Duration = Duration::from_secs(1);

/// Between two attempts to reach a hub that does not listen yet.
const AGAIN: Duration = Duration::from_millis(20);

const MAGIC: [u8; 8] = *b"lyceumco";
/// magic 8, secret 16, epoch 8, rank 8.
pub(crate) const GREETING_BYTES: usize = 40;

/// What a rank has after the meeting: the segment, and sockets to those it watches, by rank. The hub watches all, the
/// others watch the hub.
pub(crate) struct Met {
    pub(crate) segment: Segment,
    pub(crate) peers: Vec<(usize, UnixStream)>,
}

/// Brings the ranks `group` of `gang`, all on this host, together.
///
/// # Errors
/// [`CollectiveError::Deadline`] naming a rank that did not come before `deadline`; [`CollectiveError::Unavailable`]
/// when the system refuses memory or a socket.
pub(crate) fn meet(
    gang: &Gang,
    group: std::ops::Range<usize>,
    rank: usize,
    deadline: Instant,
) -> Result<Met, CollectiveError> {
    let began = Instant::now();
    let unavailable = |error: io::Error| CollectiveError::Unavailable {
        rank,
        what: "meet the ranks of its host".into(),
        reason: error.to_string(),
    };
    if group.len() > MAX_LOCAL {
        let reason = format!("{} ranks on one host, at most {MAX_LOCAL} fit", group.len());
        return Err(CollectiveError::Unavailable { rank, what: "form its gang".into(), reason });
    }
    let late = |missing| CollectiveError::Deadline {
        rank: missing,
        epoch: gang.epoch,
        operation: "gang's forming".into(),
        waited: began.elapsed(),
    };
    let hub = group.start;
    if rank != hub {
        loop {
            match join(gang, hub, rank, deadline) {
                Ok(Some(met)) => return Ok(met),
                Ok(None) if Instant::now() + AGAIN < deadline => std::thread::sleep(AGAIN),
                Ok(None) => return Err(late(hub)),
                Err(error) => return Err(unavailable(error)),
            }
        }
    }
    let segment = Segment::create(gang.epoch).map_err(unavailable)?;
    let mut peers: Vec<(usize, UnixStream)> = Vec::new();
    if group.len() > 1 {
        let listener =
            address(gang, hub).and_then(|name| UnixListener::bind_addr(&name)).map_err(unavailable)?;
        listener.set_nonblocking(true).map_err(unavailable)?;
        let missing = |peers: &[(usize, UnixStream)]| {
            group.clone().skip(1).find(|rank| peers.iter().all(|(known, _)| known != rank))
        };
        while let Some(absent) = missing(&peers) {
            let Some(stream) = accept(&listener, deadline).map_err(unavailable)? else {
                return Err(late(absent));
            };
            match admit(gang, stream, &segment) {
                Ok((rank, stream)) if group.contains(&rank) && rank != hub => {
                    peers.retain(|(known, _)| *known != rank);
                    peers.push((rank, stream));
                }
                Ok((rank, _)) => {
                    tracing::warn!(rank, "a rank of another host came to this host's rendezvous")
                }
                Err(error) => tracing::warn!(%error, "refused at the rendezvous"),
            }
        }
    }
    Ok(Met { segment, peers })
}

fn address(gang: &Gang, hub: usize) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!(
        "lyceum-collective/{:032x}/{}/{hub}",
        gang.token.name(),
        gang.epoch
    ))
}

/// One attempt to join; `None` when the hub is not there yet or had no time.
fn join(gang: &Gang, hub: usize, rank: usize, deadline: Instant) -> io::Result<Option<Met>> {
    let Ok(mut stream) = UnixStream::connect_addr(&address(gang, hub)?) else { return Ok(None) };
    check_user(&stream)?;
    if stream.write_all(&greeting(gang, rank as u64)).is_err() {
        return Ok(None);
    }
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    let Some(file) = receive(&stream)? else { return Ok(None) };
    stream.set_read_timeout(None)?;
    let segment = Segment::open(file, gang.epoch)?;
    Ok(Some(Met { segment, peers: vec![(hub, stream)] }))
}

/// What `rank` says to the hub.
pub(crate) fn greeting(gang: &Gang, rank: u64) -> [u8; GREETING_BYTES] {
    let mut greeting = [0; GREETING_BYTES];
    greeting[..8].copy_from_slice(&MAGIC);
    greeting[8..24].copy_from_slice(&gang.token.secret());
    greeting[24..32].copy_from_slice(&gang.epoch.to_le_bytes());
    greeting[32..].copy_from_slice(&rank.to_le_bytes());
    greeting
}

/// The next caller, or `None` at the deadline.
fn accept(listener: &UnixListener, deadline: Instant) -> io::Result<Option<UnixStream>> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => match listener.accept() {
                Ok((stream, _)) => return Ok(Some(stream)),
                // The caller has gone again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error.into()),
        }
    }
}

/// Checks a caller and hands it the segment.
pub(crate) fn admit(
    gang: &Gang,
    mut stream: UnixStream,
    segment: &Segment,
) -> io::Result<(usize, UnixStream)> {
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    check_user(&stream)?;
    stream.set_read_timeout(Some(GREETING))?;
    let mut greeting = [0; GREETING_BYTES];
    stream.read_exact(&mut greeting)?;
    stream.set_read_timeout(None)?;
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| greeting[at + i]));
    // Without a branch on the secret's bytes.
    let difference = greeting[8..24].iter().zip(gang.token.secret()).fold(0, |sum, (a, b)| sum | (a ^ b));
    if greeting[..8] != MAGIC || difference != 0 {
        return refuse("the caller does not know the gang's token");
    }
    if number(24) != gang.epoch {
        return refuse("the caller is of another epoch");
    }
    let (file, mut space) = (segment.file(), [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let files = [rustix::fd::AsFd::as_fd(&file)];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
        return refuse("the descriptor does not fit its message");
    }
    rustix::net::sendmsg(&stream, &[IoSlice::new(&[1])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok((usize::try_from(number(32)).unwrap_or(usize::MAX), stream))
}

/// The descriptor that the hub sends; `None` when it closes instead.
fn receive(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags) {
            // A socket with a time limit is not waited on again by itself.
            Err(rustix::io::Errno::INTR) => {}
            received => break received,
        }
    };
    match received {
        Ok(received) if received.bytes == 0 => return Ok(None),
        Ok(_) => {}
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNRESET) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    }))
}

fn check_user(stream: &UnixStream) -> io::Result<()> {
    let (peer, own) = (rustix::net::sockopt::socket_peercred(stream)?.uid, rustix::process::geteuid());
    if peer == own {
        return Ok(());
    }
    let why = format!("the other end is of user {}, not {}", peer.as_raw(), own.as_raw());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}
