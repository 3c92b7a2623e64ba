//! QUIC endpoints under the cluster's own mutual TLS: lanes of small frames, bulk streams, hello.
//!
//! `wire` knows nothing of actors, objects or jobs. It answers four questions for the crates above it.
//!
//! **Who is there?** An [`Authority`] is the cluster's certificate authority; it lives with the head. It issues
//! [`Credentials`] for a [`PeerIdentity`]: cluster, role, node, incarnation, written into the certificate as one URI.
//! Both ends of every connection present theirs (TLS 1.3 only). The caller states with [`Expect`] whom it wants to
//! reach; the callee states with [`Admission`] who may come in. Invariant L6 rests on this crate.
//!
//! **Do we speak the same language?** The first bytes of a connection are a [`Hello`] each way: protocol version, rkyv
//! format and the fingerprints of the message sets that the process hosts. A wrong version closes the connection with
//! the reason, which names both ends and both versions; an unknown fingerprint is the upper layer's to refuse, role by role.
//!
//! **How do small things travel?** Each connection has one ordered [lane](Connection::lane) of [`Frame`]s. Sending
//! costs no system call and no task: frames wait in a queue that is bounded in count and bytes (L2) and a writer gathers
//! whatever waits into large writes. Received payloads lie 16-byte aligned, so that [`access_checked`] can validate them
//! in place.
//!
//! **How do large things travel?** Over [bulk streams](Connection::open_bulk), as many as wanted, best on a connection
//! of their own ([`Purpose::Bulk`]), read straight into memory that the caller names.
//!
//! Nothing that a peer sends can panic or allocate without bound: lengths are checked before memory is taken, and a bad
//! frame closes that connection with a reason, never the process.
//!
//! ```
//! # use lyceum_wire::*;
//! # use std::time::Duration;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
//! let authority = Authority::create("school")?;
//! let hour = Duration::from_secs(3600);
//! let head = authority.issue(&PeerIdentity::new("school", PeerRole::Head, "n0", 1)?, hour)?;
//! let agent = authority.issue(&PeerIdentity::new("school", PeerRole::Agent, "n1", 2)?, hour)?;
//!
//! let loopback = "127.0.0.1:0".parse().expect("a literal address");
//! let mut options = EndpointOptions::new(loopback);
//! options.admission = Admission::roles([PeerRole::Agent]);
//! let server = Endpoint::bind(head, options)?;
//! let client = Endpoint::bind(agent, EndpointOptions::new(loopback))?;
//!
//! let head = Expect::role(PeerRole::Head);
//! let (called, calling) = tokio::join!(server.accept(), client.connect(server.local_addr(), &head));
//! let (called, calling) = (called.expect("the endpoint is open"), calling?);
//! assert_eq!(called.peer().node(), "n1");
//!
//! let (sender, _) = calling.lane()?;
//! let (_, mut receiver) = called.lane()?;
//! let header = FrameHeader { kind: 7, ..FrameHeader::default() };
//! sender.send(Frame::new(header, AlignedBytes::copy_from(b"hello"))).await?;
//! assert_eq!(&receiver.recv().await?.expect("one frame").payload[..], b"hello");
//! # Ok(()) }
//! ```

#![deny(missing_docs, rustdoc::broken_intra_doc_links)]
#![forbid(unsafe_code)]

mod admission;
mod aligned;
mod archive;
mod authority;
mod bulk;
mod close;
mod congestion;
mod connection;
mod credentials;
mod endpoint;
mod error;
mod frame;
#[cfg(test)]
mod fuzz;
mod handshake;
mod hello;
mod identity;
mod lane;
mod options;
mod path;
mod ports;
mod private_file;
mod socket;
mod stray;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;

pub use admission::{Admission, Expect};
pub use aligned::AlignedBytes;
pub use archive::{ARCHIVE_DEPTH, ArchiveValidator, access_checked};
pub use authority::Authority;
pub use bulk::{BulkReceiver, BulkSender, MAX_BULK_HEADER};
pub use close::{CloseCode, CloseReason};
pub use connection::Connection;
pub use credentials::Credentials;
pub use endpoint::{Endpoint, EndpointStatistics};
pub use error::{Result, WireError};
pub use frame::{Frame, FrameDecoder, FrameEncoder, FrameError, FrameHeader, MAX_EXTENSION, MAX_PAYLOAD};
pub use hello::{Hello, PROTOCOL_VERSION, Purpose, RKYV_FORMAT, RoleFingerprint};
pub use identity::{PeerIdentity, PeerRole};
pub use lane::{LaneReceiver, LaneSender, SendError, TrySendError};
pub use options::{EndpointOptions, LaneOptions, TransportOptions};
pub use path::PathCheck;
pub use ports::port_holders;
pub use socket::SocketBuffers;
