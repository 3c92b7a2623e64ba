//! How an epoch failed, in a form that fits into shared memory and into a connection's last packet.

use std::time::Duration;

use crate::CollectiveError;

/// The longest form, in bytes: it must fit in one QUIC packet.
pub(crate) const MAX_FAILURE: usize = 800;

const SEPARATOR: char = '\x1f';

/// Writes `error` so that other ranks can read it.
pub(crate) fn encode(error: &CollectiveError, rank: usize) -> Vec<u8> {
    let (kind, rank, number, text) = match error {
        CollectiveError::Lost { rank, reason, .. } => ("lost", *rank, 0, reason.clone()),
        CollectiveError::Deadline { rank, operation, waited, .. } => {
            ("deadline", *rank, waited.as_millis() as u64, operation.clone())
        }
        CollectiveError::Aborted { rank, reason, .. } => ("aborted", *rank, 0, reason.clone()),
        // What only one rank can see as it is, the others hear as that rank's words.
        other => ("aborted", rank, 0, other.to_string()),
    };
    let mut bytes = format!("{kind}{SEPARATOR}{rank}{SEPARATOR}{number}{SEPARATOR}{text}").into_bytes();
    bytes.truncate(MAX_FAILURE);
    bytes
}

/// Reads what another rank wrote; `from` is who is named when it cannot be read.
pub(crate) fn decode(bytes: &[u8], from: usize, epoch: u64) -> CollectiveError {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(4, SEPARATOR);
    let fields = (parts.next(), parts.next().map(str::parse), parts.next().map(str::parse), parts.next());
    match fields {
        (Some("lost"), Some(Ok(rank)), Some(Ok(_)), Some(reason)) => {
            CollectiveError::Lost { rank, epoch, reason: reason.into() }
        }
        (Some("deadline"), Some(Ok(rank)), Some(Ok(waited)), Some(operation)) => {
            let waited: u64 = waited;
            let waited = Duration::from_millis(waited);
            CollectiveError::Deadline { rank, epoch, operation: operation.into(), waited }
        }
        (Some("aborted"), Some(Ok(rank)), Some(Ok(_)), Some(reason)) => {
            CollectiveError::Aborted { rank, epoch, reason: reason.into() }
        }
        _ => CollectiveError::Lost { rank: from, epoch, reason: text.into_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_failure_reads_back_as_it_was_written(rank in 0usize..99, text in "[^\u{1f}]{0,60}", kind in 0..3) {
            let waited = Duration::from_millis(rank as u64 * 7);
            let error = match kind {
                0 => CollectiveError::Lost { rank, epoch: 4, reason: text },
                1 => CollectiveError::Aborted { rank, epoch: 4, reason: text },
                _ => CollectiveError::Deadline { rank, epoch: 4, operation: text, waited },
            };
            prop_assert_eq!(decode(&encode(&error, 1), 1, 4), error);
        }

        #[test]
        fn whatever_bytes_come_a_failure_is_read(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(decode(&bytes, 3, 1).rank(), 3);
        }
    }

    #[test]
    fn a_long_reason_is_cut_to_what_fits() {
        let error = CollectiveError::Aborted { rank: 2, epoch: 1, reason: "ä".repeat(3000) };
        let bytes = encode(&error, 2);
        assert_eq!(bytes.len(), MAX_FAILURE);
        assert_eq!(decode(&bytes, 0, 1).rank(), 2);
    }
}
