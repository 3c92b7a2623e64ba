//! The state of a cluster as tables of text.

use std::sync::Arc;

use lyceum_cluster::control::resources::{Allotment, Capacity};
use lyceum_cluster::control::vocabulary::StoreUse;
use lyceum_cluster::logs::LogEntry;
use lyceum_cluster::units::{Bytes, Milli};
use lyceum_cluster::{ActorStatus, Status};
use time::OffsetDateTime;

/// One line per node: state, what is used of what there is, store.
pub fn nodes(status: &Status) -> String {
    let rows = status.nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            match node.in_manifest {
                true => node.state.clone(),
                false => format!("{} (not in the manifest)", node.state),
            },
            used_of(&node.used, &node.capacity),
            node.processes.to_string(),
            store(node.store),
            node.address.map(|address| address.to_string()).unwrap_or_default(),
        ]
    });
    table(&["NODE", "STATE", "USED", "ACTORS", "STORE", "ADDRESS"], rows)
}

/// One line per GPU of which something is known.
pub fn gpus(status: &Status) -> String {
    let rows = status.nodes.iter().flat_map(|node| {
        node.gpus.iter().zip(0_u32..).map(|(gpu, number)| {
            let used = node.used.gpus.get(&number).copied().unwrap_or_default();
            let (memory, used) = (Bytes(gpu.memory).to_string(), format!("{used}/1"));
            vec![
                node.name.clone(),
                number.to_string(),
                gpu.model.clone(),
                memory,
                used,
                gpu.pci.clone(),
                gpu.uuid.clone(),
            ]
        })
    });
    table(&["NODE", "GPU", "MODEL", "MEMORY", "USED", "PCI", "UUID"], rows)
}

/// One line per job.
pub fn jobs(status: &Status) -> String {
    let rows = status.jobs.iter().map(|job| {
        let state = if job.ending { "ending" } else { "running" };
        vec![job.job.to_string(), job.name.clone(), state.to_owned(), job.actors.to_string()]
    });
    table(&["JOB", "NAME", "STATE", "ACTORS"], rows)
}

/// One line per actor.
pub fn actors(status: &Status) -> String {
    let rows = status.actors.iter().map(|actor: &ActorStatus| {
        vec![
            actor.actor.to_string(),
            actor.role.clone(),
            name_of(actor),
            actor.job.to_string(),
            actor.state.clone(),
            actor.node.clone(),
            if actor.pid == 0 { String::new() } else { actor.pid.to_string() },
            given(&actor.allotment),
        ]
    });
    table(&["ACTOR", "ROLE", "NAME", "JOB", "STATE", "NODE", "PID", "HOLDS"], rows)
}

/// One line per log.
pub fn logs(found: &[(Arc<str>, LogEntry)]) -> String {
    let rows = found.iter().map(|(node, LogEntry { label, cut, written })| {
        vec![
            label.process.to_string(),
            label.title(),
            label.job_name.clone(),
            node.to_string(),
            date(label.began_ms),
            label.end.as_ref().map(|end| date(end.at_ms)).unwrap_or_default(),
            Bytes(written.saturating_sub(*cut)).to_string(),
            label.end.as_ref().map_or("running".to_owned(), |end| end.cause.clone()),
        ]
    });
    table(&["INCARNATION", "ACTOR", "JOB", "NODE", "BEGAN", "ENDED", "LOG", "STATE"], rows)
}

/// Its name with its namespace, and its rank if it is one of a gang.
pub fn name_of(actor: &ActorStatus) -> String {
    let namespace = actor.namespace.as_ref().map(|namespace| format!("{namespace}/"));
    let rank = actor.rank.map(|(rank, size)| format!("[{rank} of {size}]"));
    let name = actor.name.as_deref().unwrap_or_default();
    format!("{}{name}{}", namespace.unwrap_or_default(), rank.unwrap_or_default())
}

/// A moment in milliseconds since 1970; nothing for one that is not known.
fn date(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).ok().filter(|seconds| *seconds > 0);
    let Some(at) = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()) else {
        return String::new();
    };
    let (date, time) = (at.date(), at.time());
    format!("{date} {:02}:{:02}:{:02}Z", time.hour(), time.minute(), time.second())
}

fn used_of(used: &Allotment, capacity: &Capacity) -> String {
    let gpus = Milli(used.gpus.values().map(|share| share.0).sum());
    let mut parts = vec![format!("cpus {}/{}", used.cpus, capacity.cpus)];
    if capacity.gpus > 0 {
        parts.push(format!("gpus {gpus}/{}", capacity.gpus));
    }
    if capacity.memory > 0 {
        parts.push(format!("memory {}/{}", Bytes(used.memory), Bytes(capacity.memory)));
    }
    for (name, total) in &capacity.custom {
        parts.push(format!("{name} {}/{total}", used.custom.get(name).copied().unwrap_or_default()));
    }
    parts.join(", ")
}

fn given(allotment: &Allotment) -> String {
    let mut parts = Vec::new();
    if allotment.cpus.0 > 0 {
        parts.push(format!("cpus {}", allotment.cpus));
    }
    for (gpu, share) in &allotment.gpus {
        parts.push(format!("gpu {gpu} ({share})"));
    }
    if allotment.memory > 0 {
        parts.push(format!("memory {}", Bytes(allotment.memory)));
    }
    parts.extend(allotment.custom.iter().map(|(name, amount)| format!("{name} {amount}")));
    parts.join(", ")
}

fn store(store: StoreUse) -> String {
    match store.capacity_bytes {
        0 => String::new(),
        capacity => {
            let disk = match store.spilled_bytes {
                0 => String::new(),
                bytes => format!(", {} on disk", Bytes(bytes)),
            };
            format!("{}/{} ({} objects{disk})", Bytes(store.used_bytes), Bytes(capacity), store.objects)
        }
    }
}

/// Columns below their heads.
pub fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|name| (*name).to_owned()).collect()];
    lines.extend(rows);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_has_on_disk_is_said_where_there_is_any() {
        let of = |spilled_bytes| {
            store(StoreUse { capacity_bytes: 8 << 20, used_bytes: 1 << 20, objects: 3, spilled_bytes })
        };
        assert_eq!(of(0), "1 MiB/8 MiB (3 objects)");
        assert_eq!(of(2 << 20), "1 MiB/8 MiB (3 objects, 2 MiB on disk)");
        assert_eq!(store(StoreUse::default()), "");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "joined".to_owned()], vec!["long".to_owned(), "absent".to_owned()]];
        let text = table(&["NODE", "STATE"], rows.into_iter());
        assert_eq!(text, "NODE  STATE\na     joined\nlong  absent\n");
    }
}
