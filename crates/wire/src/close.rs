//! How a connection ends, and what the two ends are told.

use std::fmt;

/// Why an end closed a connection, as a number on the wire.
///
/// Code 0 is never sent: QUIC itself reports it when an application closes without saying why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// All is well, there is nothing more to say.
    Done = 1,
    /// The peer's identity may not come in here.
    NotAdmitted = 2,
    /// The hello was wrong, late or of another version.
    BadHello = 3,
    /// A frame was truncated, oversized or otherwise no frame.
    BadFrame = 4,
    /// The peer broke a rule of a layer above this crate.
    Protocol = 5,
    /// The process is going away.
    ShuttingDown = 6,
}

impl CloseCode {
    pub(crate) fn from_wire(code: u64) -> Option<Self> {
        use CloseCode::*;
        [Done, NotAdmitted, BadHello, BadFrame, Protocol, ShuttingDown]
            .into_iter()
            .find(|c| *c as u64 == code)
    }
}

/// How a connection ended, as seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// This end closed it.
    Here,
    /// The peer closed it and said why.
    ByPeer {
        /// The code, when it is one of ours.
        code: Option<CloseCode>,
        /// The peer's words, at most as many as fit in one packet.
        reason: String,
    },
    /// Nothing came from the peer for the idle timeout.
    TimedOut,
    /// The peer has no memory of this connection: its process was replaced.
    Reset,
    /// The lane was finished in good order; the connection may live on.
    Finished,
    /// QUIC or TLS failed.
    Transport(String),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here => f.write_str("closed by this process"),
            Self::ByPeer { code: Some(code), reason } => write!(f, "closed by the peer ({code:?}): {reason}"),
            Self::ByPeer { code: None, reason } => write!(f, "closed by the peer: {reason}"),
            Self::TimedOut => f.write_str("the peer has been silent for the idle timeout"),
            Self::Reset => f.write_str("the peer no longer knows this connection"),
            Self::Finished => f.write_str("the lane was finished"),
            Self::Transport(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for CloseReason {}

impl From<quinn::ConnectionError> for CloseReason {
    fn from(error: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as E;
        match error {
            E::ApplicationClosed(close) => Self::ByPeer {
                code: CloseCode::from_wire(close.error_code.into_inner()),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            E::TimedOut => Self::TimedOut,
            E::Reset => Self::Reset,
            E::LocallyClosed => Self::Here,
            other => Self::Transport(other.to_string()),
        }
    }
}
