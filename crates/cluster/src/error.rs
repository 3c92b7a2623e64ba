//! What can go wrong at this crate's border.

use std::io;
use std::path::Path;

use lyceum_actor::ControlError;
use lyceum_wire::WireError;

use crate::strict::StrictError;

/// Why something of the cluster did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// A file that a person wrote is faulty: where, and what was expected.
    #[error(transparent)]
    File(#[from] StrictError),
    /// What was asked for cannot be; why, and what to do.
    #[error("{0}")]
    Refused(String),
    /// A process of the cluster did not start or did not answer; who, and its last log lines.
    #[error("{what}{}", tail(.log))]
    Process {
        /// Who and how.
        what: String,
        /// Its last log lines.
        log: Vec<String>,
    },
    /// The control plane said no or did not answer.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The network or the certificates.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The head's database.
    #[error("the head's database {path}: {reason}")]
    Database {
        /// The file.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// This process was the cluster's head, and another is, or may be.
    #[error("this head leads no more: {0}")]
    Deposed(String),
    /// The operating system refused.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl ClusterError {
    pub(crate) fn file(path: &Path, error: &io::Error) -> ClusterError {
        ClusterError::Refused(format!("{}: {error}", path.display()))
    }

    pub(crate) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> ClusterError {
        let doing = doing.into();
        move |source| ClusterError::System { doing, source }
    }
}

fn tail(log: &[String]) -> String {
    log.iter().map(|line| format!("\n  | {line}")).collect()
}
