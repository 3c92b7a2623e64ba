//! What a manifest must be beyond its types: the rules, each with the words that it is refused with.

mod kubernetes;
mod launcher;

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{
    HeadSection, Health, Launcher, MAX_NAME, MAX_NODES, MAX_STANDBYS, Manifest, Ports, StateStore,
    StoreSection, check_name, loopback,
};
use crate::control::vocabulary::{CLIENT_NODE, HEAD_NODE};
use crate::strict::{Document, StrictError};
use crate::units::Bytes;

pub(super) fn check(document: &Document<Manifest>) -> Result<(), StrictError> {
    let manifest = &document.value;
    check_name("cluster name", &manifest.name).map_err(|why| document.refuse("name", why))?;
    check_head(document)?;
    check_standbys(document)?;
    check_nodes(document)?;
    check_ports(document)?;
    check_store(document)?;
    check_health(document)?;
    launcher::check(document)
}

fn check_head(document: &Document<Manifest>) -> Result<(), StrictError> {
    let HeadSection { bind, interface, advertise, .. } = &document.value.head;
    check_interface(document, "head", *bind, interface.as_deref())?;
    let bind = bind.or_else(|| interface.is_none().then(loopback));
    check_address(document, "head", bind, *advertise)
}

fn check_standbys(document: &Document<Manifest>) -> Result<(), StrictError> {
    let head = &document.value.head;
    match (&head.state, head.standbys) {
        (_, 0) => Ok(()),
        (StateStore::Redb, _) => {
            let text = "who stands by needs the state of the head before it: expected `state = \"etcd://HOST:PORT\"`";
            Err(document.refuse("head.standbys", text))
        }
        (_, standbys) if standbys > MAX_STANDBYS => {
            Err(document
                .refuse("head.standbys", format!("expected at most {MAX_STANDBYS}, found {standbys}")))
        }
        _ => Ok(()),
    }
}

fn check_nodes(document: &Document<Manifest>) -> Result<(), StrictError> {
    let manifest = &document.value;
    if manifest.nodes.is_empty() || manifest.nodes.len() > MAX_NODES {
        let count = manifest.nodes.len();
        return Err(document.refuse("nodes", format!("expected 1 to {MAX_NODES} nodes, found {count}")));
    }
    let mut seen = BTreeSet::new();
    for (index, node) in manifest.nodes.iter().enumerate() {
        let at = |key: &str| format!("nodes[{index}].{key}");
        check_name("node name", &node.name).map_err(|why| document.refuse(&at("name"), why))?;
        if [CLIENT_NODE, HEAD_NODE].contains(&node.name.as_str()) {
            let text = format!("node name `{}` is taken by the cluster itself, expected another", node.name);
            return Err(document.refuse(&at("name"), text));
        }
        if !seen.insert(&node.name) {
            let text = format!("node name `{}` is used twice, expected a unique one", node.name);
            return Err(document.refuse(&at("name"), text));
        }
        let section = format!("nodes[{index}]");
        check_interface(document, &section, node.bind, node.interface.as_deref())?;
        let default = manifest.launcher == Launcher::Local && node.interface.is_none();
        check_address(document, &section, node.bind.or_else(|| default.then(loopback)), node.advertise)?;
        if let Some(interface) = node.trusted_interface.as_ref().filter(|name| !is_interface(name)) {
            return Err(document.refuse(&at("trusted_interface"), no_interface(interface)));
        }
        if node.resources.gpus > 1024 {
            let text = format!("expected at most 1024 GPUs, found {}", node.resources.gpus);
            return Err(document.refuse(&at("resources.gpus"), text));
        }
        for name in node.resources.custom.keys() {
            let place = at(&format!("resources.custom.{name}"));
            check_name("resource name", name).map_err(|why| document.refuse(&place, why))?;
            if ["cpus", "gpus", "memory"].contains(&name.as_str()) {
                let text = format!("`{name}` is a resource of its own, write `resources.{name}`");
                return Err(document.refuse(&place, text));
            }
        }
        for (name, value) in &node.labels {
            let place = at(&format!("labels.{name}"));
            check_name("label", name).map_err(|why| document.refuse(&place, why))?;
            if value.len() > MAX_NAME {
                let bytes = value.len();
                let text =
                    format!("label `{name}`: expected a value of at most {MAX_NAME} bytes, found {bytes}");
                return Err(document.refuse(&place, text));
            }
        }
    }
    Ok(())
}

/// What Linux takes for an interface's name, and NCCL for one name and not a list or a pattern.
fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn no_interface(name: &str) -> String {
    format!("`{name}` cannot be a network interface: expected a name such as `ib0`")
}

fn check_interface(
    document: &Document<Manifest>,
    section: &str,
    bind: Option<IpAddr>,
    interface: Option<&str>,
) -> Result<(), StrictError> {
    let Some(interface) = interface else { return Ok(()) };
    let place = format!("{section}.interface");
    if !is_interface(interface) {
        return Err(document.refuse(&place, no_interface(interface)));
    }
    match bind {
        Some(_) => {
            Err(document.refuse(&place, "`interface` and `bind` are both given, expected one of them"))
        }
        None => Ok(()),
    }
}

fn check_address(
    document: &Document<Manifest>,
    section: &str,
    bind: Option<IpAddr>,
    advertise: Option<IpAddr>,
) -> Result<(), StrictError> {
    let many = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    };
    let addresses = [("bind", bind), ("advertise", advertise)];
    let given = addresses.into_iter().filter_map(|(key, address)| Some((key, address?)));
    for (key, address) in given {
        let place = format!("{section}.{key}");
        match (key, advertise) {
            _ if many(&address) => {
                let text =
                    format!("`{key}` is {address}, which is no single process's: expected an address of one");
                return Err(document.refuse(&place, text));
            }
            ("bind", None) if address.is_unspecified() => {
                let text = format!("`bind` is {address}, which others cannot reach: give `advertise` too");
                return Err(document.refuse(&place, text));
            }
            ("advertise", _) if address.is_unspecified() => {
                let text = format!("`advertise` is {address}, expected an address that others can reach");
                return Err(document.refuse(&place, text));
            }
            _ => check_family(document, &place, address)?,
        }
    }
    Ok(())
}

/// A socket of one family sends nothing to an address of the other: all addresses are of the head's.
fn check_family(document: &Document<Manifest>, place: &str, address: IpAddr) -> Result<(), StrictError> {
    let HeadSection { bind, interface, advertise, .. } = &document.value.head;
    // An interface may have addresses of both.
    let given = bind.or(*advertise);
    let Some(head) = given.or_else(|| interface.is_none().then(loopback)) else { return Ok(()) };
    if address.is_ipv4() == head.is_ipv4() {
        return Ok(());
    }
    let family = if head.is_ipv4() { "IPv4" } else { "IPv6" };
    let default = if address == loopback() { ", `bind` where none is given," } else { "" };
    let text = format!("{address}{default} and the head's {head} cannot reach each other: expected {family}");
    Err(document.refuse(place, text))
}

fn check_ports(document: &Document<Manifest>) -> Result<(), StrictError> {
    let manifest = &document.value;
    let Ports { first, count } = manifest.ports;
    match (first, count) {
        (0, 0) => Ok(()),
        (0, _) => Err(document.refuse("ports.count", "`count` is given without `first`")),
        (1..1024, _) => {
            Err(document.refuse("ports.first", format!("expected 0 or a port from 1024, found {first}")))
        }
        _ if u32::from(first) + u32::from(count) > 65536 => Err(document.refuse(
            "ports.count",
            format!("ports {first} + {count} go beyond 65535, expected fewer or lower"),
        )),
        _ if manifest.ports_per_node() < 2 => {
            let least = usize::from(manifest.head_ports()) + 2 * manifest.nodes.len();
            let nodes = manifest.nodes.len();
            Err(document.refuse(
                "ports.count",
                format!(
                    "{count} ports are too few for the head and {nodes} nodes, expected at least {least}"
                ),
            ))
        }
        _ => Ok(()),
    }
}

fn check_store(document: &Document<Manifest>) -> Result<(), StrictError> {
    let StoreSection { capacity, segment, spill, .. } = document.value.store;
    let spill = spill.unwrap_or_default();
    if segment.0 < 1 << 20 || segment.0 % 4096 != 0 {
        let bytes = segment.0;
        let text =
            format!("expected a segment of at least 1 MiB in whole pages of 4 KiB, found {bytes} bytes");
        return Err(document.refuse("store.segment", text));
    }
    if capacity < segment {
        let text = format!("a store of {capacity} does not hold one segment of {segment}");
        return Err(document.refuse("store.capacity", text));
    }
    // Half of it may be kept for what is read back; the largest object must fit into the rest.
    if spill.0 != 0 && spill.0 / 2 < segment.0 {
        let least = Bytes(segment.0.saturating_mul(2));
        let text = format!("expected 0 or at least two segments ({least}), found {spill}");
        return Err(document.refuse("store.spill", text));
    }
    Ok(())
}

fn check_health(document: &Document<Manifest>) -> Result<(), StrictError> {
    let fault = document.value.health.fault();
    fault.map_or(Ok(()), |(key, text)| Err(document.refuse(&format!("health.{key}"), text)))
}

impl Health {
    /// The first key whose value cannot be, and what was expected.
    pub(crate) fn fault(&self) -> Option<(&'static str, String)> {
        let Health { unreachable, verdict, stop, cordon_window, .. } = self;
        // Heartbeats come every half second: a late one is no silence.
        if !(1.0..=3.0).contains(unreachable) {
            return Some(("unreachable", format!("expected 1 to 3 seconds, found {unreachable}")));
        }
        if !(verdict > unreachable && *verdict <= 3600.0) {
            let text = format!(
                "expected more than `unreachable` ({unreachable}) up to 3600 seconds, found {verdict}"
            );
            return Some(("verdict", text));
        }
        if !(0.0..=3600.0).contains(stop) {
            return Some(("stop", format!("expected 0 to 3600 seconds, found {stop}")));
        }
        if !(1.0..=86_400.0).contains(cordon_window) {
            return Some(("cordon_window", format!("expected 1 to 86400 seconds, found {cordon_window}")));
        }
        None
    }

    /// As a daemon reads it again: a damaged number must not become a time that cannot be.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.fault().map_or(Ok(()), |(key, text)| Err(format!("is damaged: health.{key}: {text}")))
    }
}
