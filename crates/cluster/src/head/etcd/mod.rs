//! The head's state in etcd, so that another head can take over.
//!
//! Several processes may be the head of a cluster; one of them leads, which is whoever holds the leader's key. That key has a
//! lease: it goes when its holder is silent for [`LEASE`], and the first of the others to make it anew leads from then on.
//! Every write is one transaction that holds only while the key is still its writer's own, so that one who was taken for
//! dead and is not can write nothing.
//!
//! etcd is spoken to through its own JSON gateway over HTTP, which needs no generated code.

#[cfg(test)]
#[path = "../../../testbed/etcd.rs"]
#[allow(dead_code, reason = "the tests of real processes use the other half")]
mod etcd_server;
mod gateway;
mod leader;
mod records;

use std::time::Duration;

pub(super) use self::gateway::Etcd;
pub(super) use self::leader::{Leadership, campaign};
pub(super) use self::records::EtcdRecords;

/// A head that etcd has not heard for this long leads no more.
pub(super) const LEASE: Duration = Duration::from_secs(4);

/// Where a cluster's keys are: clusters of the same name and another authority do not meet.
pub(super) fn prefix(cluster: &str, authority: &str) -> String {
    format!("/lyceum/{cluster}-{authority}/")
}
