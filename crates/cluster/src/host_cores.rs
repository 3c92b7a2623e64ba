//! How many cores the processes here may use, and what bounds it: their affinity, and the quota of a container.

use std::fs;
use std::path::Path;

use crate::host;
use crate::host_memory::group_of;
use crate::units::Milli;

/// What processes here may use of the machine's cores.
pub(crate) fn cores_here() -> Milli {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let quota = cgroup_quota(&groups, Path::new("/sys/fs/cgroup"));
    let cores = Milli::whole(host::own_cores().len() as u64);
    quota.map_or(cores, |quota| quota.min(cores))
}

/// The least CPU quota of a process's cgroup and those above it. See cgroups(7) and the kernel's `sched-bwc`: `groups` is the
/// process's `/proc/PID/cgroup`.
fn cgroup_quota(groups: &str, mount: &Path) -> Option<Milli> {
    let (root, path, is_first_version) = match group_of(groups, "cpu") {
        Some(path) => (mount.join("cpu"), path, true),
        None => (mount.to_owned(), group_of(groups, "")?, false),
    };
    // In a container the path may be the host's, and the mount is that group.
    let group = Some(root.join(path)).filter(|group| group.is_dir()).unwrap_or_else(|| root.clone());
    let quota = |group: &Path| match is_first_version {
        true => {
            let read = |name: &str| fs::read_to_string(group.join(name)).ok();
            share(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim())
        }
        false => {
            let text = fs::read_to_string(group.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            share(quota, period)
        }
    };
    group.ancestors().take_while(|group| group.starts_with(&root)).filter_map(quota).min()
}

/// `150000` of each `100000` microseconds are one and a half cores; `max` and `-1` are no quota.
fn share(quota: &str, period: &str) -> Option<Milli> {
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    Some(Milli(quota.saturating_mul(1000).checked_div(period)?.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_least_quota_of_a_cgroup_and_those_above_it_counts() {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path();
        write(&mount.join("pod/cpu.max"), "250000 100000\n");
        write(&mount.join("pod/box/cpu.max"), "max 100000\n");
        write(&mount.join("pod/box/own/cpu.max"), "900000 100000\n");
        assert_eq!(cgroup_quota("0::/pod/box/own\n", mount), Some(Milli(2500)));
        assert_eq!(cgroup_quota("0::/\n", mount), None);
        write(&mount.join("cpu.max"), "50000 100000\n");
        assert_eq!(cgroup_quota("0::/elsewhere\n", mount), Some(Milli(500)), "a container's own root");
        write(&mount.join("cpu/own/cpu.cfs_quota_us"), "-1\n");
        write(&mount.join("cpu/own/cpu.cfs_period_us"), "100000\n");
        assert_eq!(cgroup_quota("4:cpu,cpuacct:/own\n0::/pod\n", mount), None);
        write(&mount.join("cpu/own/cpu.cfs_quota_us"), "150000\n");
        assert_eq!(cgroup_quota("4:cpu,cpuacct:/own\n0::/pod\n", mount), Some(Milli(1500)));
        assert_eq!(cgroup_quota("", mount), None);
        assert_eq!(share("100000", "0"), None, "nonsense is no quota");
    }

    #[test]
    fn there_are_cores_here() {
        assert!(cores_here() > Milli(0));
    }
}
