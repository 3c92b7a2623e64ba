//! A point in time that nodes tell each other.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since the beginning of 1970 (UTC), by the clock of the node that saw what it is the moment of.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct Moment(pub u64);

impl Moment {
    /// By this node's clock.
    pub fn now() -> Moment {
        Moment(0).after(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    pub(crate) fn after(self, time: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000) {
            Ok(moment) => write!(f, "{} {} UTC", moment.date(), moment.time()),
            Err(_) => write!(f, "{} ms after the beginning of 1970", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_as_a_date_and_whatever_a_peer_says_is_told_somehow() {
        assert_eq!(Moment(951_826_501_250).to_string(), "2000-02-29 12:15:01.25 UTC");
        assert!(Moment(u64::MAX).to_string().contains("after the beginning of 1970"));
        assert_eq!(Moment(u64::MAX).after(Duration::MAX), Moment(u64::MAX));
    }
}
