//! Memory limits: a cgroup per worker where that can be written, else the worker's resident set is watched.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::host::ProcessMark;
use crate::units::Bytes;

/// How this node enforces memory limits.
#[derive(Debug)]
pub(super) struct MemoryGuard {
    group: Option<Group>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A cgroup of this agent, in which each worker gets its own.
#[derive(Debug)]
struct Group {
    version: Version,
    path: PathBuf,
}

impl fmt::Display for MemoryGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "memory limits by cgroup {}", group.path.display()),
            None => f.write_str("memory limits by watching"),
        }
    }
}

impl MemoryGuard {
    /// Uses cgroups if a group with a limit can be made below this process's own.
    pub(super) fn new(cluster: &str, node: &str) -> MemoryGuard {
        let prefix = format!("lyceum-{cluster}-{node}-");
        let group = own_group().and_then(|(version, parent)| {
            remove_stale(&parent, &prefix);
            let group = Group { version, path: parent.join(format!("{prefix}{}", std::process::id())) };
            fs::create_dir(&group.path).ok()?;
            if version == Version::V2 {
                // Lets the groups below have a memory controller; refused where this process's group is not its own.
                let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
                let _ = fs::write(group.path.join("cgroup.subtree_control"), "+memory");
            }
            let works = group.limit(&group.path.join("probe"), 64 << 20).is_ok();
            let _ = fs::remove_dir(group.path.join("probe"));
            if !works {
                let _ = fs::remove_dir(&group.path);
            }
            works.then_some(group)
        });
        MemoryGuard { group }
    }

    /// A limit for `process`; 0 bytes is none.
    pub(super) fn limit(&self, process: u64, bytes: u64) -> MemoryLimit {
        if bytes == 0 {
            return MemoryLimit { bytes, cgroup: None };
        }
        let cgroup = self.group.as_ref().and_then(|group| {
            let path = group.path.join(process.to_string());
            match group.limit(&path, bytes) {
                Ok(()) => Some((group.version, path)),
                Err(error) => {
                    tracing::warn!(process, %error, "no cgroup for a worker: its memory is watched instead");
                    None
                }
            }
        });
        MemoryLimit { bytes, cgroup }
    }
}

/// Removes the groups of agents that were killed; a group with processes in it cannot be removed, and stays.
fn remove_stale(parent: &Path, prefix: &str) {
    let folders = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    for stale in folders(parent) {
        let name = stale.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let owner = name.strip_prefix(prefix).and_then(|pid| pid.parse().ok());
        if owner.is_some_and(|pid| ProcessMark::of(pid).is_none()) {
            for worker in folders(&stale).filter(|path| path.is_dir()) {
                let _ = fs::remove_dir(worker);
            }
            let _ = fs::remove_dir(&stale);
        }
    }
}

impl Drop for MemoryGuard {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            let _ = fs::remove_dir(&group.path);
        }
    }
}

impl Group {
    fn limit(&self, path: &Path, bytes: u64) -> io::Result<()> {
        fs::create_dir(path)?;
        let limited = match self.version {
            Version::V1 => fs::write(path.join("memory.limit_in_bytes"), bytes.to_string()),
            Version::V2 => fs::write(path.join("memory.max"), bytes.to_string())
                .and_then(|()| fs::write(path.join("memory.swap.max"), "0").or(Ok(()))),
        };
        if limited.is_err() {
            let _ = fs::remove_dir(path);
        }
        limited
    }
}

/// The limit of one worker.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    bytes: u64,
    cgroup: Option<(Version, PathBuf)>,
}

impl MemoryLimit {
    /// The file to which a process writes itself to come under the limit.
    pub(super) fn door(&self) -> Option<OwnedFd> {
        let (_, path) = self.cgroup.as_ref()?;
        let file = fs::OpenOptions::new().write(true).open(path.join("cgroup.procs")).ok()?;
        Some(file.into())
    }

    /// Must the worker be looked at from time to time?
    pub(super) fn watched(&self) -> bool {
        self.bytes > 0 && self.cgroup.is_none()
    }

    /// Evidence that `pid` holds more than it may, by our own count.
    pub(super) fn exceeded(&self, pid: u32) -> Option<String> {
        let held = own_memory(pid)?;
        let above = self.watched() && held > self.bytes;
        above.then(|| {
            format!("it held {} of {} allowed, by its agent's count", Bytes(held), Bytes(self.bytes))
        })
    }

    /// Evidence that the kernel ended the worker for want of memory.
    pub(super) fn kernel_evidence(&self) -> Option<String> {
        let (version, path) = self.cgroup.as_ref()?;
        let file = match version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = fs::read_to_string(path.join(file)).ok()?;
        let kills: u64 = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()?;
        (kills > 0).then(|| format!("the kernel ended it at its limit of {}", Bytes(self.bytes)))
    }
}

impl Drop for MemoryLimit {
    /// Its processes have ended, or never began.
    fn drop(&mut self) {
        if let Some((_, path)) = &self.cgroup {
            let _ = fs::remove_dir(path);
        }
    }
}

/// What a process holds itself, in bytes: without the node's store, which it only maps. See proc(5).
fn own_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    Some((kib("RssAnon:")? + kib("RssFile:").unwrap_or(0)) << 10)
}

/// This process's own memory cgroup: see cgroups(7).
fn own_group() -> Option<(Version, PathBuf)> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let relative = |path: &str| path.trim_start_matches('/').to_owned();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if controllers.split(',').any(|controller| controller == "memory") {
            let root = Path::new("/sys/fs/cgroup/memory");
            // Inside a container the path is the host's, and the mount is already this group.
            let group = root.join(relative(path));
            return Some((Version::V1, if group.is_dir() { group } else { root.to_owned() }));
        }
    }
    let root = Path::new("/sys/fs/cgroup");
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    root.join("cgroup.controllers").exists().then(|| (Version::V2, root.join(relative(path))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_process_above_its_limit_is_named_with_both_figures() {
        let own = std::process::id();
        let limit = |bytes| MemoryLimit { bytes, cgroup: None };
        let evidence = limit(1 << 16).exceeded(own).expect("this test holds more than 64 KiB");
        assert!(evidence.contains("of 64 KiB allowed"), "{evidence}");
        assert_eq!(limit(1 << 40).exceeded(own), None);
        assert!(!limit(0).watched(), "no limit, nothing to watch");
    }
}
