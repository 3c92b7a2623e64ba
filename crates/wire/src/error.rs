//! What can go wrong at this crate's border.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::{CloseReason, FrameError};

/// This crate's result.
pub type Result<T, E = WireError> = std::result::Result<T, E>;

/// Why something of the wire did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A name or an identity is not one that a certificate may carry.
    #[error("{what} `{value}` is not usable: {expected}")]
    Identity {
        /// Which part of the identity.
        what: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A certificate or key could not be made, read or trusted.
    #[error("certificate trouble: {0}")]
    Certificate(String),
    /// A file of keys could not be written or read, or is open to others.
    #[error("{}: {reason}", path.display())]
    KeyFile {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// An option has a value that cannot work.
    #[error("option {option}: {reason}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// Its value, and what is possible.
        reason: String,
    },
    /// The socket could not be made.
    #[error("cannot bind {addr}: {source}")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Of a block of ports all are held.
    #[error(
        "none of the ports {first} to {last}, which are all that this node's processes may have, is free at {ip}: {held}; \
         give the nodes more in `ports.count`"
    )]
    Ports {
        /// The address asked for.
        ip: IpAddr,
        /// First port of the block.
        first: u16,
        /// Last port of the block.
        last: u16,
        /// Who holds them, in words.
        held: String,
    },
    /// No connection came about; nobody there, or TLS did not trust one of the two ends.
    #[error("cannot connect to {addr}: {reason}")]
    Connect {
        /// The peer's address.
        addr: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// The peer answered and said no.
    #[error("{addr} refused the connection: {reason}")]
    Refused {
        /// The peer's address.
        addr: SocketAddr,
        /// The peer's words.
        reason: String,
    },
    /// The connection is over.
    #[error("connection closed: {0}")]
    Closed(#[from] CloseReason),
    /// The peer sent bytes that are no frame; the connection has been closed for it.
    #[error("bad frame from the peer: {0}")]
    Frame(#[from] FrameError),
    /// The peer's hello cannot be understood.
    #[error("bad hello from the peer: {0}")]
    Hello(String),
    /// A frame could not be sent because the lane is closed.
    #[error("frame not sent: {0}")]
    NotSent(CloseReason),
    /// The lane of this connection was taken before.
    #[error("the lane of this connection is already taken: it is handed out once")]
    LaneTaken,
    /// A bulk stream's header is longer than [`MAX_BULK_HEADER`](crate::MAX_BULK_HEADER).
    #[error("bulk header of {len} bytes is longer than {limit}")]
    BulkHeader {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The peer ended or reset a bulk stream before all that was asked for had come.
    #[error("bulk stream ended early: {0}")]
    Bulk(String),
    /// A datagram could not be sent.
    #[error("datagram not sent: {0}")]
    Datagram(String),
    /// Bytes are not a valid archive of the type asked for.
    #[error("not a valid archive: {0}")]
    Archive(String),
}
