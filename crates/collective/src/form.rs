//! From a gang to a communicator: the choice of transports by topology.

use std::time::{Duration, Instant};

use crate::chain::Chain;
use crate::epoch::Epoch;
use crate::gang::Topology;
use crate::host::HostCommunicator;
use crate::shared::meet;
use crate::{CollectiveError, Communicator, Gang, Seat, SoloCommunicator, nccl};

/// Brings the members of `gang` together, each calling this with its own `rank`, and gives the communicator that fits
/// where they are:
///
/// | members | communicator |
/// |---|---|
/// | one | [`SoloCommunicator`] |
/// | all on CUDA devices | NCCL: the library is found and checked; its communicator is not there yet |
/// | on one host | shared memory |
/// | on several hosts | shared memory within each, QUIC between them |
///
/// `seat` is this rank's seat, needed where the gang spans hosts. The call returns when all have come.
///
/// # Errors
/// [`CollectiveError::Deadline`] naming a rank that has not come within `timeout`;
/// [`CollectiveError::Unavailable`] when the gang is impossible or the system refuses what is needed.
pub fn form(
    gang: &Gang,
    rank: usize,
    seat: Option<&Seat>,
    timeout: Duration,
) -> Result<Box<dyn Communicator>, CollectiveError> {
    Topology::of(gang, rank)?;
    let on_device = gang.members.iter().filter(|member| member.device.is_some()).count();
    match (gang.members.len(), on_device) {
        (1, 0) => Ok(Box::new(SoloCommunicator::in_epoch(gang.epoch))),
        (_, 0) => Ok(Box::new(form_on_hosts(gang, rank, seat, timeout)?)),
        (all, some) if all == some => Err(on_devices(rank)),
        (all, some) => Err(CollectiveError::Unavailable {
            rank,
            what: "form its gang".into(),
            reason: format!("{some} of {all} ranks are on CUDA devices: all or none must be"),
        }),
    }
}

/// What a gang on CUDA devices is told: whether NCCL can be had here at all, and that no communicator runs on it yet.
fn on_devices(rank: usize) -> CollectiveError {
    let reason = match nccl::NcclLibrary::find(&[]) {
        Ok(library) => format!(
            "{library:?} is there, but gangs of several GPUs are not built yet: one rank on one GPU uses SoloCommunicator::with_allocator"
        ),
        Err(error) => error.to_string(),
    };
    CollectiveError::Unavailable { rank, what: "form its gang over NCCL".into(), reason }
}

/// Forms the gang in host memory, wherever its members compute.
pub(crate) fn form_on_hosts(
    gang: &Gang,
    rank: usize,
    seat: Option<&Seat>,
    timeout: Duration,
) -> Result<HostCommunicator, CollectiveError> {
    let deadline = Instant::now() + timeout;
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
