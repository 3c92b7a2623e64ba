//! The socket pair between an agent and a process: packets that keep their borders, and descriptors with them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::error::{Result, StoreError};
use crate::protocol::MAX_PACKET;

/// A connected pair of packet sockets, close-on-exec: the first for [`NodeStore::attach`](crate::NodeStore::attach), the
/// second to be inherited by the process and given to [`StoreClient::attach`](crate::StoreClient::attach).
///
/// # Errors
/// [`StoreError::System`] when no descriptor is left.
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| StoreError::system("make a socket pair", e))
}

/// One packet, or what there is instead.
#[derive(Debug)]
pub(crate) enum Received {
    Packet {
        len: usize,
        descriptors: Vec<OwnedFd>,
    },
    /// Longer than any message, or with more descriptors than any message has.
    Oversized,
    /// No bytes: the other end is closed, or sent an empty packet.
    Nothing,
}

/// Receives one packet without waiting.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8; MAX_PACKET]) -> rustix::io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = loop {
        let mut parts = [IoSliceMut::new(buffer)];
        match rustix::net::recvmsg(&socket, &mut parts, &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|m| match m {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Ok(Received::Oversized);
    }
    Ok(match message.bytes {
        0 => Received::Nothing,
        len => Received::Packet { len, descriptors },
    })
}

/// Sends one packet without waiting, with a descriptor if there is one.
pub(crate) fn send(
    socket: impl AsFd,
    packet: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> rustix::io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(Errno::NOBUFS);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::sendmsg(&socket, &[IoSlice::new(packet)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => return other.map(|_| ()),
        }
    }
}

/// A descriptor with which other threads end a thread's `poll`.
#[derive(Debug)]
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub fn new() -> Result<Wake> {
        use rustix::event::{EventfdFlags, eventfd};
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Wake)
            .map_err(|e| StoreError::system("make an event descriptor", e))
    }

    pub fn wake(&self) {
        // The only failure is a counter at its limit, which wakes as well.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub fn clear(&self) {
        // Nothing to read means nothing to clear.
        let _ = rustix::io::read(&self.0, &mut [0u8; 8][..]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
