//! The chain of hosts: running sums go up it in rank order, results come down.
//!
//! Each host's leader has one connection to the leader before and one to the leader after. A sum is formed as one host
//! would form it: the first host sums its ranks, sends the running sum on, the next adds its own ranks, and so on; the
//! last has the result, which goes back down. Both directions run at once, piece by piece, so that every link is
//! busy both ways; per link a buffer travels once up (in f32) and once down.

mod link;
mod relay;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lyceum_wire::{CloseCode, CloseReason, Connection};

pub(crate) use link::Link;

use crate::epoch::Epoch;
use crate::{CollectiveError, Gang, Seat, failure};

/// How long what was sent last may take to arrive when a leader goes in good order.
const FAREWELL: Duration = Duration::from_secs(2);

/// A leader's place in the chain.
pub(crate) struct Chain {
    seat: Seat,
    /// The ranks of each host.
    groups: Vec<Range<usize>>,
    /// This host among them.
    group: usize,
    previous: Option<Link>,
    next: Option<Link>,
}

impl Chain {
    /// Connects a leader with its neighbours before `deadline`.
    ///
    /// # Errors
    /// [`CollectiveError::Deadline`] naming a leader that did not come.
    pub(crate) fn form(
        gang: &Gang,
        seat: &Seat,
        groups: &[Range<usize>],
        group: usize,
        deadline: Instant,
    ) -> Result<Self, CollectiveError> {
        let began = Instant::now();
        let (own, next) = (groups[group].start, groups.get(group + 1).map(|next| next.start));
        let previous = group.checked_sub(1).map(|previous| groups[previous].start);
        let form = async {
            let call = async {
                match next {
                    Some(next) => link::call(gang, seat, own, next, deadline).await.map(Some),
                    None => Ok(None),
                }
            };
            let answer = async {
                match previous {
                    Some(previous) => link::answer(gang, seat, previous, deadline).await.map(Some),
                    None => Ok(None),
                }
            };
            tokio::join!(call, answer)
        };
        let (next, previous) = seat.runtime().block_on(form);
        let late = |link::Absent { rank, reason }| {
            tracing::warn!(rank, %reason, "the chain of hosts is not complete");
            let (epoch, waited) = (gang.epoch, began.elapsed());
            CollectiveError::Deadline { rank, epoch, operation: format!("gang's forming ({reason})"), waited }
        };
        Ok(Self {
            seat: seat.clone(),
            groups: groups.to_vec(),
            group,
            previous: previous.map_err(late)?,
            next: next.map_err(late)?,
        })
    }

    /// Lets the epoch close the connections, and the connections' end fail the epoch.
    pub(crate) fn guard(&self, epoch: &Arc<Epoch>) {
        let links = || [&self.previous, &self.next].into_iter().flatten();
        epoch.set_closer(Closer(links().map(|link| link.connection.clone()).collect()));
        for link in links() {
            let (connection, rank, epoch) = (link.connection.clone(), link.rank, Arc::downgrade(epoch));
            self.seat.runtime().spawn(async move {
                let reason = connection.closed().await;
                let Some(epoch) = epoch.upgrade() else { return };
                match reason {
                    CloseReason::Here | CloseReason::ByPeer { code: Some(CloseCode::Done), .. } => {}
                    other => drop(epoch.fail(failure_of(other, rank, epoch.number))),
                }
            });
        }
    }

    /// Sees what was sent last to its end, and closes the connections in good order.
    pub(crate) fn leave(&mut self) {
        let (previous, next) = (self.previous.take(), self.next.take());
        self.seat.runtime().block_on(async {
            let farewell = async |link: Option<Link>| {
                if let Some(link) = link {
                    // A neighbour that does not hear it has gone itself.
                    let _ = tokio::time::timeout(FAREWELL, link.finish()).await;
                }
            };
            tokio::join!(farewell(previous), farewell(next));
        });
    }
}

/// Closes a leader's connections with the reason for which the epoch failed, which the neighbours pass on.
pub(crate) struct Closer(Vec<Connection>);

impl Closer {
    pub(crate) fn close(&self, error: &CollectiveError, rank: usize) {
        let reason = failure::encode(error, rank);
        let reason = String::from_utf8_lossy(&reason);
        self.0.iter().for_each(|connection| connection.close(CloseCode::Protocol, &reason));
    }
}

/// What the end of the connection to the leader `rank` means.
fn failure_of(reason: CloseReason, rank: usize, epoch: u64) -> CollectiveError {
    match reason {
        CloseReason::ByPeer { code: Some(CloseCode::Protocol), reason } => {
            failure::decode(reason.as_bytes(), rank, epoch)
        }
        CloseReason::ByPeer { code: Some(CloseCode::Done), .. } => {
            CollectiveError::Lost { rank, epoch, reason: "it has left the epoch".into() }
        }
        other => CollectiveError::Lost { rank, epoch, reason: other.to_string() },
    }
}
