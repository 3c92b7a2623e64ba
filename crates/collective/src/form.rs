//! From a gang to a communicator: the choice of transports by topology.

use std::time::{Duration, Instant};

use crate::chain::Chain;
use crate::epoch::Epoch;
use crate::gang::Topology;
use crate::host::HostCommunicator;
use crate::nccl::{NcclCommunicator, check_trust};
use crate::shared::meet;
use crate::{Allocator, CollectiveError, Communicator, Gang, Seat, SoloCommunicator};

/// Brings the members of `gang` together, each calling this with its own `rank`, and gives the communicator that fits
/// where they are:
///
/// | members | communicator |
/// |---|---|
/// | on CUDA devices, also one alone | [`NcclCommunicator`] |
/// | one | [`SoloCommunicator`] |
/// | on one host | shared memory |
/// | on several hosts | shared memory within each, QUIC between them |
///
/// `seat` is this rank's seat, needed where the gang spans hosts. `device_memory` gives memory on this rank's CUDA
/// device, needed where the gang is on such. The call returns when all have come.
///
/// # Errors
/// [`CollectiveError::Deadline`] naming a rank that has not come within `timeout`;
/// [`CollectiveError::Unavailable`] when the gang is impossible, the system refuses what is needed, or NCCL would
/// speak between hosts that trust no interface with it (L6).
pub fn form(
    gang: &Gang,
    rank: usize,
    seat: Option<&Seat>,
    device_memory: Option<Allocator>,
    timeout: Duration,
) -> Result<Box<dyn Communicator>, CollectiveError> {
    let deadline = Instant::now() + timeout;
    Topology::of(gang, rank)?;
    let refuse =
        |reason: String| Err(CollectiveError::Unavailable { rank, what: "form its gang".into(), reason });
    let (all, on_device) = (gang.members.len(), gang.members.iter().filter(|m| m.device.is_some()).count());
    match (gang.members[rank].device, device_memory) {
        _ if on_device != 0 && on_device != all => {
            refuse(format!("{on_device} of {all} ranks are on CUDA devices: all or none must be"))
        }
        (Some(_), None) => refuse("it is on a CUDA device and brings no memory there".into()),
        (Some(ordinal), Some(memory)) => {
            check_trust(gang, rank)?;
            let host = form_on_hosts(gang, rank, seat, deadline)?;
            Ok(Box::new(NcclCommunicator::form(host, ordinal as usize, memory, deadline)?))
        }
        (None, _) if all == 1 => Ok(Box::new(SoloCommunicator::in_epoch(gang.epoch))),
        (None, _) => Ok(Box::new(form_on_hosts(gang, rank, seat, deadline)?)),
    }
}

/// Forms the gang in host memory, wherever its members compute.
fn form_on_hosts(
    gang: &Gang,
    rank: usize,
    seat: Option<&Seat>,
    deadline: Instant,
) -> Result<HostCommunicator, CollectiveError> {
    let topology = Topology::of(gang, rank)?;
    let index = topology.group_of(rank);
    let group = topology.groups[index].clone();
    let unavailable =
        |what: &str, reason: String| CollectiveError::Unavailable { rank, what: what.into(), reason };

    let met = meet(gang, group.clone(), rank, deadline)?;
    let epoch = Epoch::new(gang.epoch, rank, group, met.segment.control());
    epoch.watch(met.peers).map_err(|error| unavailable("watch its peers", error.to_string()))?;
    let chain = if topology.groups.len() > 1 && epoch.leads() {
        let missing =
            || unavailable("form its gang", "the gang spans hosts and this leader has no seat".into());
        let seat = seat.ok_or_else(missing).map_err(|error| epoch.fail(error))?;
        let chain =
            Chain::form(gang, seat, &topology.groups, index, deadline).map_err(|error| epoch.fail(error))?;
        chain.guard(&epoch);
        Some(chain)
    } else {
        None
    };
    let mut communicator = HostCommunicator::new(epoch, met.segment, topology.groups, chain)?;
    // The gang stands when everyone has come.
    communicator.barrier(deadline.saturating_duration_since(Instant::now()))?;
    Ok(communicator)
}
