//! What a run asks of a cluster, held against what the cluster has, before anything starts.

use lyceum_cluster::control::placement::{self, Candidate};
use lyceum_cluster::control::resources::{Capacity, Ledger, Request};
use lyceum_cluster::manifest::{Manifest, NodeSection};
use lyceum_cluster::units::{Bytes, Milli};
use lyceum_model_files::LlamaConfig;

use crate::limits::SEALED_AT_ONCE;
use crate::run_file::{Precision, RunFile};

/// Processes of a run that only read, pack or watch.
const OTHERS: u64 = 3;

/// Bytes of a sealed batch for each of its tokens: input and label.
const BYTES_A_TOKEN: u64 = 16;

/// Bytes of a sealed batch for each row beside its tokens, about: borders, and what aligns its lines.
const BYTES_A_ROW: u64 = 512;

/// Bytes of a parameter's accumulated gradient, in fp32.
const GRADIENT_BYTES: u64 = 4;

/// Bytes of a parameter's master and both its moments, in fp32.
const OPTIMIZER_BYTES: u64 = 12;

/// A request that the cluster of a manifest can never meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// The key of the run file that asks too much.
    pub key: &'static str,
    /// What is asked for, and what there is.
    pub message: String,
}

/// Why a run can never be placed on the cluster of a manifest; `None` when it can. A node that says nothing of its memory
/// has that of its `machine`, which is not held against anything where it is unknown.
pub fn unmet(run: &RunFile, manifest: &Manifest, machine: Option<Bytes>) -> Option<Unmet> {
    too_large(run, manifest)
        .or_else(|| too_many(run, manifest))
        .or_else(|| too_few_ports(run, manifest))
        .or_else(|| too_heavy(run, manifest, machine))
        .or_else(|| too_long(run, manifest))
}

/// Who asks for processors and GPUs: role, key, how many at least, cpus and gpus each.
fn requests(run: &RunFile) -> Vec<(&'static str, &'static str, u64, f64, f64)> {
    let trainer = &run.trainer;
    let mut requests =
        vec![("a trainer", "trainer", u64::from(trainer.world_size), trainer.cpus, trainer.gpus)];
    if let Some(synthesizer) = run.synthesizer.as_ref().filter(|_| run.synthesizes()) {
        let least = u64::from(synthesizer.min);
        requests.push(("a synthesizer", "synthesizer", least, synthesizer.cpus, synthesizer.gpus));
    }
    requests
}

/// Processors and GPUs of each node, in thousandths.
fn nodes(manifest: &Manifest) -> Vec<(u64, u64)> {
    let of = |node: &NodeSection| (node.resources.cpus.0, u64::from(node.resources.gpus) * 1000);
    manifest.nodes.iter().map(of).collect()
}

/// One actor that no node can hold.
fn too_large(run: &RunFile, manifest: &Manifest) -> Option<Unmet> {
    let nodes = nodes(manifest);
    let fits = |cpus: f64, gpus: f64| {
        nodes.iter().any(|&(has_cpus, has_gpus)| milli(cpus) <= has_cpus && milli(gpus) <= has_gpus)
    };
    let (who, table, _, cpus, gpus) =
        requests(run).into_iter().find(|&(_, _, _, cpus, gpus)| !fits(cpus, gpus))?;
    let (most_cpus, most_gpus) =
        nodes.iter().fold((0, 0), |most, node| (most.0.max(node.0), most.1.max(node.1)));
    let key = match (table, milli(gpus) > most_gpus) {
        ("trainer", true) => "trainer.gpus",
        ("trainer", false) => "trainer.cpus",
        (_, true) => "synthesizer.gpus",
        (_, false) => "synthesizer.cpus",
    };
    let message = format!(
        "{who} asks for {cpus} cpus and {gpus} gpus, and no node of '{}' has both: the largest have {} cpus and {} gpus",
        manifest.name,
        decimal(most_cpus),
        decimal(most_gpus),
    );
    Some(Unmet { key, message })
}

/// All actors that there must be, placed one after the other as the head does it. Who only reads, packs or watches claims
/// nothing.
fn too_many(run: &RunFile, manifest: &Manifest) -> Option<Unmet> {
    let capacity = |node: &NodeSection| Capacity {
        cpus: node.resources.cpus,
        gpus: node.resources.gpus,
        ..Capacity::default()
    };
    let mut ledgers: Vec<Ledger> = manifest.nodes.iter().map(|node| Ledger::new(capacity(node))).collect();
    for (who, table, count, cpus, gpus) in requests(run) {
        let request = Request { cpus: Milli(milli(cpus)), gpus: Milli(milli(gpus)), ..Request::default() };
        for number in 0..count {
            let candidates = manifest.nodes.iter().zip(&ledgers).map(|(node, ledger)| Candidate {
                name: &node.name,
                labels: &node.labels,
                ledger,
                failures: 0,
                closed: None,
            });
            let placed = placement::place(candidates, &request).ok();
            let Some((name, given)) = placed else {
                let key = if table == "trainer" { "trainer.world_size" } else { "synthesizer.min" };
                let message = format!(
                    "{who} asks for {cpus} cpus and {gpus} gpus, and the nodes of '{}' have room for {number} of {count} beside those placed before",
                    manifest.name
                );
                return Some(Unmet { key, message });
            };
            let node = manifest.nodes.iter().position(|node| node.name == name)?;
            ledgers[node].take(&given);
        }
    }
    None
}

/// More processes than the nodes' blocks of ports have room for. A trainer takes two, one of them for its gang; each node's agent
/// has one already.
fn too_few_ports(run: &RunFile, manifest: &Manifest) -> Option<Unmet> {
    if manifest.ports.first == 0 {
        return None;
    }
    let blocks = (0..manifest.nodes.len()).map(|node| manifest.node_ports(node).len() as u64 - 1);
    let has: u64 = blocks.sum();
    let synthesizers: u64 = requests(run).iter().skip(1).map(|(_, _, least, ..)| least).sum();
    let wanted = 2 * u64::from(run.trainer.world_size) + synthesizers + OTHERS;
    let message = || {
        format!(
            "{} trainers take two ports each, {synthesizers} synthesizers and {OTHERS} others one: {wanted} in all, and the nodes of '{}' have {has} beside their agents': more in `ports.count`",
            run.trainer.world_size, manifest.name
        )
    };
    (wanted > has).then(|| Unmet { key: "trainer.world_size", message: message() })
}

/// A model that a trainer on processors cannot hold in any node's memory. Every rank has the weights and their fp32
/// gradients, and its share of the fp32 masters and both moments.
fn too_heavy(run: &RunFile, manifest: &Manifest, machine: Option<Bytes>) -> Option<Unmet> {
    let trainer = &run.trainer;
    if trainer.gpus > 0.0 {
        return None;
    }
    let memory = |node: &NodeSection| match node.resources.memory {
        Bytes(0) => machine,
        said => Some(said),
    };
    let most = manifest.nodes.iter().map(memory).collect::<Option<Vec<Bytes>>>()?.into_iter().max()?;
    let parameters = LlamaConfig::load(&run.model.directory).ok()?.parameter_count().unsigned_abs();
    let weight = match run.model.precision {
        Precision::Auto | Precision::Bf16 => 2,
        Precision::Fp32 => 4,
    };
    let ranks = u64::from(trainer.world_size);
    let wanted = parameters.saturating_mul((weight + GRADIENT_BYTES) * ranks + OPTIMIZER_BYTES) / ranks;
    let message = || {
        format!(
            "a model of {parameters} parameters takes at least {} in each of {ranks} trainers, and the nodes of '{}' have {most} at most",
            Bytes(wanted),
            manifest.name
        )
    };
    (wanted > most.0).then(|| Unmet { key: "model.directory", message: message() })
}

/// Batches that are larger than a store's segment, or that a node's store cannot hold as many of as there may be at a
/// time.
fn too_long(run: &RunFile, manifest: &Manifest) -> Option<Unmet> {
    let (rows, length) = (u64::from(run.trainer.batch_rows), u64::from(run.trainer.sequence_length));
    let batch = rows * (length * BYTES_A_TOKEN + BYTES_A_ROW);
    let segment = manifest.store.segment.0;
    if batch > segment {
        let message = format!(
            "a batch of {rows} rows of {length} tokens takes {batch} bytes in one piece; `store.segment` of '{}' is {segment} bytes",
            manifest.name
        );
        return Some(Unmet { key: "trainer.batch_rows", message });
    }
    let (wanted, has) = (batch * SEALED_AT_ONCE, manifest.store.capacity.0);
    let message = || {
        format!(
            "a batch of {rows} rows of {length} tokens takes {batch} bytes in a node's store, which must hold {SEALED_AT_ONCE} of them, {wanted} bytes; `store.capacity` of '{}' is {has} bytes",
            manifest.name
        )
    };
    (wanted > has).then(|| Unmet { key: "trainer.batch_rows", message: message() })
}

fn milli(amount: f64) -> u64 {
    (amount * 1000.0).round() as u64
}

/// Thousandths as a decimal number: `1500` is `1.5`.
fn decimal(milli: u64) -> String {
    (milli as f64 / 1000.0).to_string()
}
