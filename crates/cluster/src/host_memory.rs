//! What memory the processes here may use, and what bounds it.
//!
//! A node's store and the buffers of ranks that share a host are *memfds*: memory without a name in any file system.
//! The size of `/dev/shm`, of which containers have 64 MiB unless they are given more, does not bound them. What does is
//! the machine's memory, and the memory cgroup, which is how a container is limited: each page counts against the cgroup
//! of the process that touches it first, the agent's where the store is pre-faulted. Beyond that the kernel kills. NCCL
//! does use `/dev/shm`, for ranks that share a host.

use std::fs;
use std::path::Path;

/// `/dev/shm` should have this much where ranks of one host talk through NCCL: its buffers for eight of them, with room.
const ENOUGH_FOR_NCCL: u64 = 512 << 20;

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) bytes: u64,
    /// A memory cgroup allows no more, though the machine has it.
    pub(crate) by_cgroup: bool,
}

impl Memory {
    /// What processes here may use; `None` where that cannot be told.
    pub(crate) fn here() -> Option<Memory> {
        let machine = machine_memory()?;
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Some(Memory::least(machine, cgroup_limit(&groups, Path::new("/sys/fs/cgroup"))))
    }

    fn least(machine: u64, limit: Option<u64>) -> Memory {
        match limit.filter(|&limit| limit < machine) {
            Some(bytes) => Memory { bytes, by_cgroup: true },
            None => Memory { bytes: machine, by_cgroup: false },
        }
    }

    /// Who sets the bound, with a verb.
    pub(crate) fn in_words(self) -> &'static str {
        if self.by_cgroup {
            "the memory cgroup of these processes, a container's limit, allows"
        } else {
            "this machine has"
        }
    }
}

fn machine_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

/// The least limit of a process's memory cgroup and those above it. See cgroups(7): `groups` is the process's
/// `/proc/PID/cgroup`.
fn cgroup_limit(groups: &str, mount: &Path) -> Option<u64> {
    if let Some(path) = group_of(groups, "memory") {
        // Version 1 counts the limits above in. In a container the path is the host's, and the mount is that group.
        let root = mount.join("memory");
        let stat = [root.join(path), root]
            .iter()
            .find_map(|group| fs::read_to_string(group.join("memory.stat")).ok())?;
        return stat
            .lines()
            .find_map(|line| line.strip_prefix("hierarchical_memory_limit "))?
            .trim()
            .parse()
            .ok();
    }
    let path = group_of(groups, "")?;
    let group = mount.join(path);
    let limits = group.ancestors().take_while(|group| group.starts_with(mount));
    limits.filter_map(|group| fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok()).min()
}

/// The path of a process's cgroup for a controller, of version 1; for none, of version 2.
pub(crate) fn group_of<'a>(groups: &'a str, controller: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let is_meant = match controller.is_empty() {
            true => controllers.is_empty(),
            false => controllers.split(',').any(|one| one == controller),
        };
        is_meant.then(|| path.trim_start_matches('/'))
    })
}

/// What is wrong with `/dev/shm` on a node where so many GPUs are used, if something is.
pub(crate) fn shm_too_small(gpus: usize) -> Option<String> {
    let found = rustix::fs::statfs("/dev/shm").ok()?;
    let bytes = u64::try_from(found.f_bsize).ok()?.saturating_mul(found.f_blocks);
    too_small(gpus, bytes)
}

fn too_small(gpus: usize, bytes: u64) -> Option<String> {
    (gpus > 1 && bytes < ENOUGH_FOR_NCCL).then(|| {
        format!(
            "/dev/shm has {}, which is what containers have unless they are told otherwise: NCCL keeps what the ranks of \
             this node exchange there and may fail, so give it {} or more (--shm-size, or an emptyDir of medium Memory); \
             the store is not in it and needs nothing",
            crate::units::Bytes(bytes),
            crate::units::Bytes(ENOUGH_FOR_NCCL),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_least_limit_of_a_cgroup_and_those_above_it_counts() {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path();
        write(&mount.join("pod/memory.max"), "4096\n");
        write(&mount.join("pod/box/memory.max"), "max\n");
        write(&mount.join("pod/box/own/memory.max"), "8192\n");
        assert_eq!(cgroup_limit("0::/pod/box/own\n", mount), Some(4096));
        assert_eq!(cgroup_limit("0::/elsewhere\n", mount), None);
        write(&mount.join("memory.max"), "1024\n");
        assert_eq!(cgroup_limit("0::/\n", mount), Some(1024), "a container's own root has its limit");
        // Where both versions are mounted the memory controller is of one of them.
        write(&mount.join("memory/own/memory.stat"), "cache 1\nhierarchical_memory_limit 2048\n");
        write(&mount.join("memory/memory.stat"), "hierarchical_memory_limit 512\n");
        assert_eq!(cgroup_limit("4:cpu,memory:/own\n0::/pod\n", mount), Some(2048));
        assert_eq!(cgroup_limit("4:memory:/docker/1a2b\n", mount), Some(512), "the host's path");
        assert_eq!(cgroup_limit("", mount), None);
    }

    #[test]
    fn a_limit_above_what_there_is_is_none() {
        assert_eq!(Memory::least(100, Some(u64::MAX)), Memory { bytes: 100, by_cgroup: false });
        assert_eq!(Memory::least(100, Some(40)), Memory { bytes: 40, by_cgroup: true });
        assert!(Memory::here().is_some_and(|memory| memory.bytes > 0));
    }

    #[test]
    fn the_shared_memory_folder_of_a_container_is_said_to_be_small_where_nccl_uses_it() {
        let said = too_small(2, 64 << 20).unwrap();
        assert!(said.starts_with("/dev/shm has 64 MiB") && said.contains("512 MiB or more"), "{said}");
        assert_eq!(too_small(1, 64 << 20), None, "one rank exchanges nothing there");
        assert_eq!(too_small(8, 1 << 30), None);
    }
}
