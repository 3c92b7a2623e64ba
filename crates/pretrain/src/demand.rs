//! What a run asks of a cluster, held against what the cluster has, before anything starts.

use lyceum_cluster::manifest::Manifest;

use crate::run_file::RunFile;

/// Processors of the roles that only read, pack and watch, in thousandths: Controller, CorpusReader and Packer.
const LIGHT_ROLES_MILLI: u64 = 3 * 100;

/// Why a run can never be placed on the cluster of a manifest; `None` when it can.
pub fn unmet(run: &RunFile, manifest: &Manifest) -> Option<String> {
    let nodes: Vec<(u64, u64)> = manifest
        .nodes
        .iter()
        .map(|node| (node.resources.cpus.0, u64::from(node.resources.gpus) * 1000))
        .collect();
    let milli = |amount: f64| (amount * 1000.0).round() as u64;
    let mut requests =
        vec![("a trainer", u64::from(run.trainer.world_size), run.trainer.cpus, run.trainer.gpus)];
    if let Some(synthesizer) = run.synthesizer.as_ref().filter(|_| run.synthesizes()) {
        requests.push(("a synthesizer", synthesizer.min.into(), synthesizer.cpus, synthesizer.gpus));
    }
    for &(who, _, cpus, gpus) in &requests {
        if !nodes.iter().any(|&(has_cpus, has_gpus)| milli(cpus) <= has_cpus && milli(gpus) <= has_gpus) {
            let (most_cpus, most_gpus) = most(&nodes);
            return Some(format!(
                "{who} asks for {cpus} cpus and {gpus} gpus, and no node of '{}' has both: the largest have {} cpus and {} gpus",
                manifest.name,
                decimal(most_cpus),
                decimal(most_gpus),
            ));
        }
    }
    let wanted_cpus =
        LIGHT_ROLES_MILLI + requests.iter().map(|&(_, count, cpus, _)| count * milli(cpus)).sum::<u64>();
    let wanted_gpus = requests.iter().map(|&(_, count, _, gpus)| count * milli(gpus)).sum::<u64>();
    let has_cpus = nodes.iter().map(|&(cpus, _)| cpus).sum::<u64>();
    let has_gpus = nodes.iter().map(|&(_, gpus)| gpus).sum::<u64>();
    (wanted_cpus > has_cpus || wanted_gpus > has_gpus).then(|| {
        format!(
            "the run needs {} cpus and {} gpus at least ({} trainers, the fewest synthesizers, 0.3 cpus for reading, packing and watching), and all nodes of '{}' together have {} and {}",
            decimal(wanted_cpus),
            decimal(wanted_gpus),
            run.trainer.world_size,
            manifest.name,
            decimal(has_cpus),
            decimal(has_gpus),
        )
    })
}

fn most(nodes: &[(u64, u64)]) -> (u64, u64) {
    nodes.iter().fold((0, 0), |most, node| (most.0.max(node.0), most.1.max(node.1)))
}

/// Thousandths as a decimal number: `1500` is `1.5`.
fn decimal(milli: u64) -> String {
    (milli as f64 / 1000.0).to_string()
}
