//! The keys of the launcher `kubernetes`: what its API server would refuse later, after half of a cluster was made.

use std::collections::BTreeMap;

use super::launcher::{check_path, without_launcher};
use crate::manifest::{ClaimMount, KubernetesSection, Launcher, Manifest, NodeSection, Toleration};
use crate::strict::{Document, StrictError};

/// Folders of a pod that are the launcher's own.
const TAKEN: [&str; 4] = ["/etc/lyceum", "/var/lib/lyceum", "/tmp", "/dev/shm"];
/// Longest path, value of an environment variable, and image, in bytes.
const MAX_WORD: usize = 4096;
/// Largest number of a user.
const MAX_USER: u32 = i32::MAX as u32;

/// Keys that are without effect would be believed to have one.
pub(super) fn refuse(document: &Document<Manifest>) -> Result<(), StrictError> {
    let manifest = &document.value;
    if manifest.launcher == Launcher::Kubernetes {
        return Ok(());
    }
    if manifest.kubernetes != KubernetesSection::default() {
        return Err(document.refuse("kubernetes", without_launcher("kubernetes", "kubernetes")));
    }
    match manifest.nodes.iter().position(|node| !node.node_selector.is_empty()) {
        Some(index) => Err(document.refuse(
            &format!("nodes[{index}].node_selector"),
            without_launcher("node_selector", "kubernetes"),
        )),
        None => Ok(()),
    }
}

pub(super) fn check(document: &Document<Manifest>) -> Result<(), StrictError> {
    let manifest = &document.value;
    let section = &manifest.kubernetes;
    check_label(document, "name", "the cluster name", &manifest.name)?;
    for (index, node) in manifest.nodes.iter().enumerate() {
        let at = |key: &str| format!("nodes[{index}].{key}");
        check_label(document, &at("name"), "the node name", &node.name)?;
        let given = [("bind", node.bind.is_some()), ("advertise", node.advertise.is_some())];
        if let Some((key, _)) = given.into_iter().find(|(_, given)| *given) {
            let text = format!(
                "`{key}` is an address of one host, and Kubernetes chooses the host: expected `interface`"
            );
            return Err(document.refuse(&at(key), text));
        }
        check_labels(document, &at("node_selector"), &node.node_selector)?;
    }
    check_path(document, "kubernetes.kubeconfig", section.kubeconfig.as_deref())?;
    check_image(document)?;
    if !is_word(&section.program) {
        let text = "expected the name or path of a program, one word";
        return Err(document.refuse("kubernetes.program", text));
    }
    if section.context.as_ref().is_some_and(|context| context.is_empty()) {
        return Err(document.refuse("kubernetes.context", "an empty name, expected that of a context"));
    }
    if let Some(namespace) = &section.namespace {
        check_label(document, "kubernetes.namespace", "the namespace", namespace)?;
    }
    let names = [
        ("service_account", &section.service_account),
        ("priority_class", &section.priority_class),
        ("runtime_class", &section.runtime_class),
    ];
    for (key, name) in names {
        if let Some(name) = name {
            check_object(document, &format!("kubernetes.{key}"), name)?;
        }
    }
    for (index, name) in section.pull_secrets.iter().enumerate() {
        check_object(document, &format!("kubernetes.pull_secrets[{index}]"), name)?;
    }
    if !(1..=MAX_USER).contains(&section.user) {
        let text = format!("expected 1 to {MAX_USER}, found {}: nothing runs as root", section.user);
        return Err(document.refuse("kubernetes.user", text));
    }
    if !(1..=86_400).contains(&section.start_timeout) {
        let text = format!("expected 1 to 86400 seconds, found {}", section.start_timeout);
        return Err(document.refuse("kubernetes.start_timeout", text));
    }
    check_labels(document, "kubernetes.node_selector", &section.node_selector)?;
    check_tolerations(document)?;
    check_resources(document)?;
    check_claims(document)?;
    check_env(document)
}

fn check_image(document: &Document<Manifest>) -> Result<(), StrictError> {
    match &document.value.kubernetes.image {
        None => {
            let text = "`image` is missing, expected the image in which `lyceum` is";
            Err(document.refuse("kubernetes", text))
        }
        Some(image) if !is_word(image) => {
            let text = "expected an image such as `registry.example/lyceum:1`, one word";
            Err(document.refuse("kubernetes.image", text))
        }
        Some(_) => Ok(()),
    }
}

fn check_tolerations(document: &Document<Manifest>) -> Result<(), StrictError> {
    for (index, toleration) in document.value.kubernetes.tolerations.iter().enumerate() {
        let at = |key: &str| format!("kubernetes.tolerations[{index}].{key}");
        let Toleration { key, value, .. } = toleration;
        match (key, value) {
            (None, Some(_)) => return Err(document.refuse(&at("value"), "`value` is given without `key`")),
            (Some(key), _) if !is_qualified(key) => {
                return Err(document.refuse(&at("key"), no_qualified("a taint's key", key)));
            }
            (_, Some(value)) if !is_label_value(value) => {
                return Err(document.refuse(&at("value"), no_label_value(value)));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_resources(document: &Document<Manifest>) -> Result<(), StrictError> {
    let Manifest { kubernetes: section, nodes, .. } = &document.value;
    // Names without a domain are Kubernetes's own.
    let is_extended = |name: &str| name.contains('/') && is_qualified(name);
    let expected = |name: &str| {
        format!("`{name}` is no extended resource of Kubernetes: expected a name such as `nvidia.com/gpu`")
    };
    if !is_extended(&section.gpu_resource) {
        return Err(document.refuse("kubernetes.gpu_resource", expected(&section.gpu_resource)));
    }
    for (name, extended) in &section.custom_resources {
        let place = format!("kubernetes.custom_resources.{name}");
        if !is_extended(extended) {
            return Err(document.refuse(&place, expected(extended)));
        }
        let twice = |(other, theirs): (&String, &String)| other < name && theirs == extended;
        if *extended == section.gpu_resource || section.custom_resources.iter().any(twice) {
            let text = format!("`{extended}` is used twice, expected each resource of Kubernetes once");
            return Err(document.refuse(&place, text));
        }
        let amount = |node: &NodeSection| node.resources.as_ref()?.custom.get(name).copied();
        if !nodes.iter().any(|node| amount(node).is_some()) {
            let text = format!("no node has a custom resource `{name}`");
            return Err(document.refuse(&place, text));
        }
        for (index, node) in nodes.iter().enumerate() {
            let Some(amount) = amount(node).filter(|amount| amount.0 % 1000 != 0) else {
                continue;
            };
            let place = format!("nodes[{index}].resources.custom.{name}");
            let text = format!("Kubernetes counts `{extended}` in whole ones, found {amount}");
            return Err(document.refuse(&place, text));
        }
    }
    Ok(())
}

fn check_claims(document: &Document<Manifest>) -> Result<(), StrictError> {
    let claims = &document.value.kubernetes.claims;
    for (index, ClaimMount { claim, path, .. }) in claims.iter().enumerate() {
        let at = |key: &str| format!("kubernetes.claims[{index}].{key}");
        check_object(document, &at("claim"), claim)?;
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        let good = path.len() <= MAX_WORD
            && path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain))
            && !path.contains(|at: char| at == ':' || at.is_control());
        if !good {
            let text = format!("`{path}` cannot be mounted on: expected a folder such as `/data`");
            return Err(document.refuse(&at("path"), text));
        }
        let within = |one: &str, other: &str| {
            one.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let clash = |other: &str| within(path, other) || within(other, path);
        let mut earlier = claims[..index].iter().map(|claim| &*claim.path);
        if let Some(other) =
            TAKEN.into_iter().find(|taken| clash(taken)).or_else(|| earlier.find(|at| path == at))
        {
            let text = format!("`{path}` is where `{other}` is mounted, expected another folder");
            return Err(document.refuse(&at("path"), text));
        }
    }
    Ok(())
}

fn check_env(document: &Document<Manifest>) -> Result<(), StrictError> {
    for (name, value) in &document.value.kubernetes.env {
        let place = format!("kubernetes.env.{name}");
        let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name || name.starts_with("LYCEUM_") && name != "LYCEUM_LOG" {
            let text = format!("`{name}` cannot be set: expected a variable such as `NCCL_DEBUG`");
            return Err(document.refuse(&place, text));
        }
        if value.len() > MAX_WORD || value.contains('\0') {
            let text = format!("expected a text of at most {MAX_WORD} bytes, found {}", value.len());
            return Err(document.refuse(&place, text));
        }
    }
    Ok(())
}

/// A name that becomes part of objects' names and labels, and of a host name.
fn check_label(
    document: &Document<Manifest>,
    place: &str,
    what: &str,
    name: &str,
) -> Result<(), StrictError> {
    match is_dns_label(name) {
        true => Ok(()),
        false => Err(document.refuse(
            place,
            format!(
                "{what} `{name}` is one for Kubernetes too: expected lower-case letters, digits and `-`, with a letter or digit \
                 at both ends, 63 at most"
            ),
        )),
    }
}

fn check_object(document: &Document<Manifest>, place: &str, name: &str) -> Result<(), StrictError> {
    match name.len() <= 253 && name.split('.').all(is_dns_label) {
        true => Ok(()),
        false => Err(document.refuse(
            place,
            format!(
                "`{name}` cannot be the name of an object: expected lower-case letters, digits, `-` and `.`"
            ),
        )),
    }
}

fn check_labels(
    document: &Document<Manifest>,
    section: &str,
    labels: &BTreeMap<String, String>,
) -> Result<(), StrictError> {
    for (name, value) in labels {
        let place = format!("{section}.{name}");
        if !is_qualified(name) {
            return Err(document.refuse(&place, no_qualified("a label", name)));
        }
        if !is_label_value(value) {
            return Err(document.refuse(&place, no_label_value(value)));
        }
    }
    Ok(())
}

fn is_word(word: &str) -> bool {
    (1..=MAX_WORD).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_graphic())
}

/// RFC 1123.
fn is_dns_label(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(is_inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// `disk`, or with a domain before it: `example.com/disk`.
fn is_qualified(name: &str) -> bool {
    let (domain, name) = name.split_once('/').map_or((None, name), |(domain, name)| (Some(domain), name));
    !name.is_empty()
        && is_label_value(name)
        && domain.is_none_or(|domain| domain.len() <= 253 && domain.split('.').all(is_dns_label))
}

fn no_qualified(what: &str, name: &str) -> String {
    format!("`{name}` cannot be {what}: expected a name such as `disk` or `example.com/disk`")
}

fn is_label_value(value: &str) -> bool {
    let at_end = |end: Option<char>| end.is_none_or(|end| end.is_ascii_alphanumeric());
    value.len() <= 63
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && at_end(value.chars().next())
        && at_end(value.chars().last())
}

fn no_label_value(value: &str) -> String {
    format!("`{value}` cannot be a label's value: expected at most 63 letters, digits, `-`, `_` and `.`")
}
