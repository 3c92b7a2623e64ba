//! How the nodes of a manifest share this machine's cores and GPUs.

use crate::error::ClusterError;
use crate::host;
use crate::manifest::Manifest;
use crate::units::Bytes;

/// One node's share of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    /// Cores of its own; empty where the nodes share all.
    pub(super) cores: Vec<u32>,
    /// Names of its GPUs for `CUDA_VISIBLE_DEVICES`.
    pub(super) gpus: Vec<String>,
}

/// The shares of all nodes, in the manifest's order; refused where they claim more than there is.
pub(super) fn shares(manifest: &Manifest) -> Result<Vec<Share>, ClusterError> {
    let named = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let gpus: Option<Vec<String>> = named.map(|list| {
        list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    });
    share_out(manifest, &host::own_cores(), host::machine_memory(), gpus.as_deref())
}

fn share_out(
    manifest: &Manifest,
    cores: &[u32],
    memory: u64,
    gpu_names: Option<&[String]>,
) -> Result<Vec<Share>, ClusterError> {
    let claims = || manifest.nodes.iter().map(|node| &node.resources);
    let claimed: u64 = claims().map(|claim| claim.cpus.ceil()).sum();
    let claimed_memory: u64 = claims().map(|claim| claim.memory.0).sum();
    let name = &manifest.name;
    let hint = "claim less, or allow it with `oversubscribe = true`";
    if !manifest.oversubscribe && claimed > cores.len() as u64 {
        let have = cores.len();
        return Err(ClusterError::Refused(format!(
            "the nodes of `{name}` claim {claimed} cores, this machine has {have}: {hint}"
        )));
    }
    if !manifest.oversubscribe && memory > 0 && claimed_memory > memory {
        let (claimed, have) = (Bytes(claimed_memory), Bytes(memory));
        return Err(ClusterError::Refused(format!(
            "the nodes of `{name}` claim {claimed} of memory, this machine has {have}: {hint}"
        )));
    }
    let exclusive = claimed <= cores.len() as u64;
    let (mut next_core, mut next_gpu) = (0, 0);
    let share = |claim: &crate::manifest::ResourceSection| {
        let wanted = claim.cpus.ceil() as usize;
        let own = if exclusive { cores[next_core..next_core + wanted].to_vec() } else { Vec::new() };
        next_core += if exclusive { wanted } else { 0 };
        let gpus = (next_gpu..next_gpu + claim.gpus as usize)
            .map(|gpu| match gpu_names {
                Some(names) => names.get(gpu).cloned().unwrap_or_else(|| gpu.to_string()),
                None => gpu.to_string(),
            })
            .collect();
        next_gpu += claim.gpus as usize;
        Share { cores: own, gpus }
    };
    Ok(claims().map(share).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(resources: [&str; 2], oversubscribe: bool) -> Manifest {
        let [a, b] = resources;
        let text = format!(
            "name = \"c\"\noversubscribe = {oversubscribe}\n[[nodes]]\nname = \"a\"\nresources = {a}\n\
             [[nodes]]\nname = \"b\"\nresources = {b}"
        );
        Manifest::parse("c.toml", &text).unwrap()
    }

    #[test]
    fn nodes_get_cores_and_gpus_of_their_own() {
        let shares = share_out(
            &manifest(["{ cpus = 2, gpus = 1 }", "{ cpus = 1, gpus = 2 }"], false),
            &[3, 4, 5],
            0,
            None,
        )
        .unwrap();
        assert_eq!(shares[0], Share { cores: vec![3, 4], gpus: vec!["0".into()] });
        assert_eq!(shares[1], Share { cores: vec![5], gpus: vec!["1".into(), "2".into()] });
    }

    #[test]
    fn too_much_is_refused_unless_it_is_wanted() {
        let greedy = ["{ cpus = 2 }", "{ cpus = 2 }"];
        let refusal = share_out(&manifest(greedy, false), &[0, 1], 0, None).unwrap_err().to_string();
        assert_eq!(
            refusal,
            "the nodes of `c` claim 4 cores, this machine has 2: claim less, or allow it with `oversubscribe = true`"
        );
        let shares = share_out(&manifest(greedy, true), &[0, 1], 0, None).unwrap();
        assert!(shares.iter().all(|share| share.cores.is_empty()));
    }
}
