//! Ending a cluster, and looking at one: what is the same for every launcher.

use std::time::Duration;

use super::ends::Ends;
use super::hosts::{Fault, Hosts};
use super::pods::MakePods;
use super::record::{Lock, RunRecord};
use super::starter::end_processes;
use super::up::UpOptions;
use crate::client::Client;
use crate::control::vocabulary::Status;
use crate::error::ClusterError;
use crate::head::{HeadAddress, HeadConfig};
use crate::state::{StateDir, remove};

/// How long an agent that was told to end may take for it, after its workers have ended.
const FAREWELL: Duration = Duration::from_secs(3);

/// Ends the cluster in `state`; returns whether there was one, when nothing of it runs any more. A folder in which none
/// was ever started is not touched.
///
/// # Errors
/// [`ClusterError::Process`] when hosts could not be reached: what is left there is named, and another `down` goes on.
pub async fn down(state: &StateDir) -> Result<bool, ClusterError> {
    down_with(state, None).await
}

/// As [`down`], by a program that has the launcher `kubernetes`.
///
/// # Errors
/// As [`down`].
pub async fn down_with(state: &StateDir, pods: Option<MakePods>) -> Result<bool, ClusterError> {
    if !state.lock_file().is_file() {
        return Ok(false);
    }
    let _lock = Lock::take(state).await?;
    end_with(state, hosts_of(state, pods), true).await
}

/// The hosts of the cluster in `state`; none where there is no cluster.
fn hosts_of(state: &StateDir, pods: Option<MakePods>) -> Result<Option<Hosts>, ClusterError> {
    let Ok(config) = HeadConfig::load(state) else { return Ok(None) };
    let record = RunRecord::load(state);
    let mut options = UpOptions::standing(&config.manifest)?;
    // What is there on the hosts already, if it is here still.
    if let Some((program, companions)) = record.programs.split_first()
        && record.programs.iter().all(|program| program.is_file())
    {
        options.program.clone_from(program);
        options.companions = companions.to_vec();
    }
    options.state = state.clone();
    options.pods = pods;
    Hosts::of(&config.manifest, &options, &record, Ends::default()).map(Some)
}

/// The end of the cluster in `state`, whose lock is held: of its processes here, and of those on `hosts`. It is asked to
/// end first, or not.
pub(super) async fn end_with(
    state: &StateDir,
    hosts: Result<Option<Hosts>, ClusterError>,
    ask: bool,
) -> Result<bool, ClusterError> {
    let record = RunRecord::load(state);
    let processes = record.living_and_strays(state);
    let mut was_up = !processes.is_empty();
    let mut patience = Duration::ZERO;
    if ask
        && record.head_lives()
        && let (Ok(client), Ok(config)) = (Client::connect(state).await, HeadConfig::load(state))
    {
        end_standbys(state, &record).await;
        let grace = Duration::from_secs_f64(config.manifest.health.stop);
        let asked = client.shut_down("lyceum down");
        if matches!(tokio::time::timeout(grace + Duration::from_secs(6), asked).await, Ok(Ok(()))) {
            patience = FAREWELL;
        }
    }
    let elsewhere = async {
        match hosts {
            Ok(Some(mut hosts)) => hosts.end(patience).await,
            Ok(None) => Ok((false, Vec::new())),
            Err(error) => Err(error),
        }
    };
    let ((), elsewhere) = tokio::join!(end_processes(processes, patience), elsewhere);
    let (there, faults) = elsewhere?;
    was_up |= there;
    match faults.is_empty() {
        true => clear(state).map(|()| was_up),
        false => Err(left(state, &faults)),
    }
}

/// Ends those that would take over from the head when that ends.
async fn end_standbys(state: &StateDir, record: &RunRecord) {
    let Ok(leader) = HeadAddress::load(state) else { return };
    let others = record.heads.values().copied().filter(|mark| mark.pid != leader.pid).collect();
    end_processes(others, Duration::ZERO).await;
}

/// What could not be ended is named; what the next `down` needs to try it again stays, and nothing else.
fn left(state: &StateDir, faults: &[Fault]) -> ClusterError {
    let config = HeadConfig::load(state);
    let kept = clear_all_but_record(state);
    let (name, kept) = match config {
        Ok(config) => {
            let kept = kept.and_then(|()| state.make(&state.head())).and_then(|()| config.save(state));
            (config.manifest.name, kept)
        }
        Err(error) => (state.root().display().to_string(), kept.and(Err(error))),
    };
    let hosts = if faults.len() == 1 { "a host" } else { "hosts" };
    let what = format!(
        "cluster `{name}` has ended here; on {hosts} of {} of its nodes an agent may still run, and its keys may be there: \
         `lyceum down {name}` tries again",
        faults.len()
    );
    let mut log: Vec<String> = faults.iter().flat_map(Fault::lines).collect();
    log.extend(kept.err().map(|error| error.to_string()));
    ClusterError::Process { what, log }
}

/// The state of the cluster in `state`. One whose head has ended does not run, and nobody is asked.
pub async fn status(state: &StateDir) -> Result<Status, ClusterError> {
    let (record, root) = (RunRecord::load(state), state.root().display());
    if let Some(head) = record.heads.values().next().filter(|_| !record.head_lives()) {
        return Err(ClusterError::Refused(format!(
            "the cluster in {root} does not run: its head, process {} of this machine, has ended; `lyceum down` clears up after it",
            head.pid
        )));
    }
    if record.owned && !record.heads.is_empty() && !state.client().exists() {
        return Err(ClusterError::Refused(format!(
            "the cluster in {root} is ending: the `lyceum run` that it belonged to is gone"
        )));
    }
    Client::connect(state).await?.status().await
}

/// Removes everything but the logs and the lock.
pub(super) fn clear(state: &StateDir) -> Result<(), ClusterError> {
    crate::head::forget_records(state);
    clear_all_but_record(state)?;
    remove(&RunRecord::file(state))
}

fn clear_all_but_record(state: &StateDir) -> Result<(), ClusterError> {
    for path in [state.head(), state.client(), state.nodes(), state.slurm()] {
        remove(&path)?;
    }
    Ok(())
}
