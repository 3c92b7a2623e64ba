//! What an agent, a template and a process that is forked from it say to each other.
//!
//! A *template* is a program that has loaded its libraries and waits. Its agent sends it descriptors, each time it wants a process of
//! that program; the template forks, and the *newborn* reads its order from the first of them. The template sees no order, so that
//! nothing that is meant for one process is in the memory of another.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

/// The template's end of its socket to the agent; only a template has this variable.
pub(crate) const TEMPLATE_VARIABLE: &str = "LYCEUM_TEMPLATE_FD";
/// Bytes of a packet, at most.
const MAX_PACKET: usize = 64 << 10;
/// Descriptors of a packet, at most: the newborn's line to its agent, its two sockets, its log, and the door to its cgroup.
pub(crate) const MAX_DESCRIPTORS: usize = 5;
/// Those that are always there.
pub(crate) const MIN_DESCRIPTORS: usize = 4;

/// What a newborn is to become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The agent, which must be its parent.
    pub(crate) agent: u32,
    /// The cores that it may use; empty: as the template.
    pub(crate) cores: Vec<u32>,
    /// Variables of its environment that differ from the template's.
    pub(crate) variables: Vec<(String, String)>,
}

/// What the agent is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    /// A template has loaded its libraries; a newborn is what its order says.
    Ready,
    /// A newborn's number, its first word.
    Born(u32),
    /// It cannot be done; why.
    Failed(String),
}

/// A connected pair of packet sockets.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends `packet`, with descriptors.
pub(crate) fn send(
    socket: impl AsFd,
    packet: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(packet)?;
    if bytes.len() > MAX_PACKET {
        return Err(io::Error::other(format!("a packet of {} bytes, {MAX_PACKET} at most", bytes.len())));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    loop {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other(format!("{} descriptors in a packet", descriptors.len())));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}

/// The next packet, waited for where `flags` do not forbid it; `None` at the end.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
    flags: RecvFlags,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(&socket, &mut parts, &mut control, flags | RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors: Vec<OwnedFd> = rights.flatten().collect();
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        let most = format!("expected {MAX_PACKET} bytes and {MAX_DESCRIPTORS} descriptors at most");
        return Err(io::Error::other(format!("a packet is too large: {most}")));
    }
    match message.bytes {
        0 => Ok(None),
        len => Ok(Some((serde_json::from_slice(&bytes[..len])?, descriptors))),
    }
}

/// The agent's end of such a socket.
#[derive(Debug)]
pub(crate) struct Line(AsyncFd<OwnedFd>);

impl Line {
    /// Call it within a tokio runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Line> {
        Ok(Line(crate::spawn::readable(socket)?))
    }

    pub(crate) fn say(&self, packet: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(self.0.get_ref(), packet, descriptors)
    }

    /// The next word; `None` when nobody is at the other end any more.
    pub(crate) async fn hear(&self) -> io::Result<Option<Word>> {
        loop {
            let mut ready = self.0.readable().await?;
            match receive(self.0.get_ref(), RecvFlags::DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                heard => return Ok(heard?.map(|(word, _)| word)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_borders_and_descriptors_and_end_with_the_other_side() {
        let (ours, theirs) = pair().unwrap();
        let order = Order { agent: 7, cores: vec![1], variables: vec![("A".into(), "b".into())] };
        send(&ours, &order, &[ours.as_fd(), theirs.as_fd()]).unwrap();
        send(&ours, &Word::Born(9), &[]).unwrap();
        let (read, descriptors) = receive::<Order>(&theirs, RecvFlags::DONTWAIT).unwrap().unwrap();
        assert_eq!((read, descriptors.len()), (order, 2));
        drop(descriptors);
        let (word, none) = receive::<Word>(&theirs, RecvFlags::DONTWAIT).unwrap().unwrap();
        assert_eq!((word, none.len()), (Word::Born(9), 0));
        drop(ours);
        assert!(receive::<Word>(&theirs, RecvFlags::DONTWAIT).unwrap().is_none());
    }

    #[test]
    fn a_packet_that_is_none_is_an_error() {
        let (ours, theirs) = pair().unwrap();
        send(&ours, &Word::Ready, &[]).unwrap();
        assert!(receive::<Order>(&theirs, RecvFlags::DONTWAIT).is_err());
        let large = Word::Failed("x".repeat(MAX_PACKET));
        let refused = send(&ours, &large, &[]).unwrap_err().to_string();
        assert!(refused.ends_with("65536 at most"), "{refused}");
        rustix::net::send(&ours, &vec![b'1'; MAX_PACKET + 1], SendFlags::empty()).unwrap();
        let refused = receive::<Word>(&theirs, RecvFlags::DONTWAIT).unwrap_err().to_string();
        assert!(refused.contains("too large"), "{refused}");
    }
}
