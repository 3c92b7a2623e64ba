//! What a manifest must be beyond its types: the rules, each with the words that it is refused with.

mod kubernetes;
mod launcher;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::{
    CertificateSection, ElasticSection, HeadSection, Health, Launcher, LogsSection, MAX_GPUS, MAX_NAME,
    MAX_NODES, MAX_STANDBYS, Manifest, Ports, ResourceSection, StateStore, StoreSection, check_name,
    loopback,
};
use crate::control::MAX_LIFETIME;
use crate::control::vocabulary::{CLIENT_NODE, HEAD_NODE, Labels};
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
    check_certificates(document)?;
    check_elastic(document)?;
    check_logs(document)?;
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
        if let Some(resources) = &node.resources {
            check_resources(document, &section, resources)?;
        }
        check_labels(document, &section, &node.labels)?;
    }
    Ok(())
}

fn check_resources(
    document: &Document<Manifest>,
    section: &str,
    resources: &ResourceSection,
) -> Result<(), StrictError> {
    if resources.gpus > MAX_GPUS {
        let text = format!("expected at most {MAX_GPUS} GPUs, found {}", resources.gpus);
        return Err(document.refuse(&format!("{section}.resources.gpus"), text));
    }
    for name in resources.custom.keys() {
        let place = format!("{section}.resources.custom.{name}");
        check_name("resource name", name).map_err(|why| document.refuse(&place, why))?;
        if ["cpus", "gpus", "memory"].contains(&name.as_str()) {
            let text = format!("`{name}` is a resource of its own, write `resources.{name}`");
            return Err(document.refuse(&place, text));
        }
    }
    Ok(())
}

fn check_labels(document: &Document<Manifest>, section: &str, labels: &Labels) -> Result<(), StrictError> {
    for (name, value) in labels {
        let place = format!("{section}.labels.{name}");
        check_name("label", name).map_err(|why| document.refuse(&place, why))?;
        if value.len() > MAX_NAME {
            let bytes = value.len();
            let text = format!("label `{name}`: expected a value of at most {MAX_NAME} bytes, found {bytes}");
            return Err(document.refuse(&place, text));
        }
    }
    Ok(())
}

fn check_elastic(document: &Document<Manifest>) -> Result<(), StrictError> {
    let Some(elastic) = &document.value.elastic else { return Ok(()) };
    let ElasticSection { resources, labels, interface, trusted_interface, .. } = elastic;
    if let Some((key, text)) = elastic.fault() {
        return Err(document.refuse(&format!("elastic.{key}"), text));
    }
    check_resources(document, "elastic", resources)?;
    check_labels(document, "elastic", labels)?;
    check_interface(document, "elastic", None, interface.as_deref())?;
    match trusted_interface.as_ref().filter(|name| !is_interface(name)) {
        Some(name) => Err(document.refuse("elastic.trusted_interface", no_interface(name))),
        None => Ok(()),
    }
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
    let Ports { first, count, clients } = manifest.ports;
    match (first, count) {
        (0, 0) if clients > 0 => Err(document.refuse("ports.clients", "`clients` is given without `first`")),
        (0, 0) => Ok(()),
        (0, _) => Err(document.refuse("ports.count", "`count` is given without `first`")),
        (1..1024, _) => {
            Err(document.refuse("ports.first", format!("expected 0 or a port from 1024, found {first}")))
        }
        _ if first.checked_add(count).is_none() => Err(document.refuse(
            "ports.count",
            format!("ports {first} + {count} go beyond 65534, expected fewer or lower"),
        )),
        _ if clients == 1 => Err(document
            .refuse("ports.clients", "a command-line process takes two: expected 0 or at least 2, found 1")),
        _ if manifest.ports_per_node() < 2 => {
            let least = usize::from(manifest.reserved_ports()) + 2 * manifest.nodes.len();
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

fn check_logs(document: &Document<Manifest>) -> Result<(), StrictError> {
    let LogsSection { size, total, .. } = document.value.logs;
    if size.0 < 64 << 10 {
        return Err(document.refuse("logs.size", format!("expected at least 64 KiB, found {size}")));
    }
    match total {
        Some(total) if total < size => {
            let text = format!("expected at least one log's size ({size}), found {total}");
            Err(document.refuse("logs.total", text))
        }
        _ => Ok(()),
    }
}

fn check_health(document: &Document<Manifest>) -> Result<(), StrictError> {
    let fault = document.value.health.fault();
    fault.map_or(Ok(()), |(key, text)| Err(document.refuse(&format!("health.{key}"), text)))
}

fn check_certificates(document: &Document<Manifest>) -> Result<(), StrictError> {
    let fault = document.value.certificates.fault();
    fault.map_or(Ok(()), |(key, text)| Err(document.refuse(&format!("certificates.{key}"), text)))
}

impl CertificateSection {
    /// The first key whose value cannot be, and what was expected.
    fn fault(&self) -> Option<(&'static str, String)> {
        let Self { lifetime } = self;
        let longest = MAX_LIFETIME as f64;
        let text = || format!("expected 4 to {MAX_LIFETIME} seconds, which are 366 days, found {lifetime}");
        (!(4.0..=longest).contains(lifetime)).then(|| ("lifetime", text()))
    }

    /// As the head reads it again.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.fault().map_or(Ok(()), |(key, text)| Err(format!("is damaged: certificates.{key}: {text}")))
    }
}

impl Health {
    /// Heartbeats are this far apart: twice before there is silence. A lost one is none, since QUIC asks again within it.
    pub(crate) fn beat(&self) -> Duration {
        Duration::from_secs_f64(self.unreachable / 2.0)
    }

    /// The first key whose value cannot be, and what was expected.
    pub(crate) fn fault(&self) -> Option<(&'static str, String)> {
        let Health { unreachable, verdict, stop, cordon_window, .. } = self;
        // Two heartbeats come in this time.
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

impl ElasticSection {
    /// The first key whose number cannot be, and what was expected.
    fn fault(&self) -> Option<(&'static str, String)> {
        let ElasticSection { max_nodes, patience, idle, .. } = self;
        if !(1..=MAX_NODES).contains(&(*max_nodes as usize)) {
            return Some(("max_nodes", format!("expected 1 to {MAX_NODES} nodes, found {max_nodes}")));
        }
        let times = [("patience", patience, 0.0), ("idle", idle, 1.0)];
        let (key, seconds, least) =
            times.into_iter().find(|(_, seconds, least)| !(*least..=86_400.0).contains(*seconds))?;
        Some((key, format!("expected {least} to 86400 seconds, found {seconds}")))
    }

    /// As a head reads it again: a damaged number must not become a time that cannot be.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.fault().map_or(Ok(()), |(key, text)| Err(format!("is damaged: elastic.{key}: {text}")))
    }
}
