//! Which network NCCL may speak on (L6). The named home of the environment's change.
//!
//! What NCCL sends between hosts is not encrypted. So it is confined to loopback, unless the cluster's manifest names
//! the interface that the cluster's owner trusts with plaintext; then to that one, and to the RDMA devices behind it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::{CollectiveError, Gang};

/// In a worker's environment: the interface of its node that the manifest trusts.
pub const TRUSTED_INTERFACE: &str = "LYCEUM_TRUSTED_INTERFACE";

/// Confines this process's NCCL to the interface that [`TRUSTED_INTERFACE`] names, or to loopback.
///
/// # Safety
/// Nobody else reads or writes the environment meanwhile: to be called while the process has one thread, before
/// anything loads NCCL.
pub unsafe fn confine_to_trusted_interface() {
    for (name, value) in environment(trusted_interface().as_deref(), rdma_devices) {
        // SAFETY: the caller's word.
        unsafe { std::env::set_var(name, value) };
    }
}

/// The interface of this process's node that is trusted with plaintext, for [`Member`](crate::Member).
pub fn trusted_interface() -> Option<String> {
    std::env::var(TRUSTED_INTERFACE).ok().filter(|name| !name.is_empty())
}

/// # Errors
/// The gang spans hosts, and one of them trusts no interface.
pub(crate) fn check_trust(gang: &Gang, rank: usize) -> Result<(), CollectiveError> {
    let spans = gang.members.iter().any(|member| member.node != gang.members[0].node);
    let unnamed = gang.members.iter().find(|member| member.trusted_interface.is_none());
    match unnamed.filter(|_| spans) {
        None => Ok(()),
        Some(member) => Err(CollectiveError::Unavailable {
            rank,
            what: "form its gang over NCCL".into(),
            reason: format!(
                "the gang spans hosts, NCCL's traffic is not encrypted, and node {} trusts no interface with it: \
                 give the node a trusted_interface in the cluster's manifest, or keep the ranks on one node",
                member.node
            ),
        }),
    }
}

/// NCCL's own settings (docs.nvidia.com, "NCCL environment variables"); `=` asks for the exact name.
fn environment(
    interface: Option<&str>,
    rdma_devices: impl Fn(&str) -> Vec<String>,
) -> Vec<(&'static str, OsString)> {
    let devices = interface.map(rdma_devices).unwrap_or_default();
    let rdma = match devices.is_empty() {
        true => ("NCCL_IB_DISABLE", "1".into()),
        false => ("NCCL_IB_HCA", format!("={}", devices.join(",")).into()),
    };
    vec![("NCCL_SOCKET_IFNAME", format!("={}", interface.unwrap_or("lo")).into()), rdma]
}

/// The RDMA devices behind a network interface, as the kernel lists them.
fn rdma_devices(interface: &str) -> Vec<String> {
    let listed = fs::read_dir(Path::new("/sys/class/net").join(interface).join("device/infiniband"));
    let mut devices: Vec<String> =
        listed.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    devices.sort();
    devices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Member, Token};

    fn gang(members: &[(&str, Option<&str>)]) -> Gang {
        let members = members.iter().map(|(node, trusted)| Member {
            node: (*node).into(),
            incarnation: 0,
            addr: None,
            device: Some(0),
            trusted_interface: trusted.map(str::to_owned),
        });
        Gang { epoch: 1, members: members.collect(), token: Token::random().unwrap() }
    }

    #[test]
    fn l6_between_hosts_every_node_must_trust_an_interface() {
        check_trust(&gang(&[("a", None), ("a", None)]), 0).unwrap();
        check_trust(&gang(&[("a", Some("ib0")), ("b", Some("ib0"))]), 0).unwrap();
        let error = check_trust(&gang(&[("a", Some("ib0")), ("b", None)]), 0).unwrap_err().to_string();
        assert!(
            error.contains("node b trusts no interface") && error.contains("trusted_interface"),
            "{error}"
        );
    }

    #[test]
    fn l6_nccl_is_confined_to_the_trusted_interface_or_to_loopback() {
        let set = |interface, devices: &[&str]| {
            let set = environment(interface, |_| devices.iter().map(|name| (*name).to_owned()).collect());
            set.into_iter().map(|(name, value)| (name, value.into_string().unwrap())).collect::<Vec<_>>()
        };
        let of =
            |pairs: [(&'static str, &str); 2]| pairs.map(|(name, value)| (name, value.to_owned())).to_vec();
        assert_eq!(set(None, &["mlx5_0"]), of([("NCCL_SOCKET_IFNAME", "=lo"), ("NCCL_IB_DISABLE", "1")]));
        assert_eq!(set(Some("eth1"), &[]), of([("NCCL_SOCKET_IFNAME", "=eth1"), ("NCCL_IB_DISABLE", "1")]));
        assert_eq!(
            set(Some("ib0"), &["mlx5_0", "mlx5_1"]),
            of([("NCCL_SOCKET_IFNAME", "=ib0"), ("NCCL_IB_HCA", "=mlx5_0,mlx5_1")])
        );
    }
}
