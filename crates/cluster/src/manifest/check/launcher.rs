//! The keys of a launcher: given where it needs them, and nowhere else.

use std::path::Path;

use crate::manifest::{Launcher, Manifest, NodeSection, SshSection};
use crate::strict::{Document, StrictError};

/// Longest name of a host or user, in bytes: that of a host name.
const MAX_WORD: usize = 255;

pub(super) fn check(document: &Document<Manifest>) -> Result<(), StrictError> {
    match document.value.launcher {
        Launcher::Local => check_local(document),
        Launcher::Ssh => check_ssh(document),
    }
}

/// A key that is without effect would be believed to have one.
fn check_local(document: &Document<Manifest>) -> Result<(), StrictError> {
    let manifest = &document.value;
    let SshSection { config, connect_timeout } = &manifest.ssh;
    if config.is_some() || *connect_timeout != SshSection::default().connect_timeout {
        return Err(document.refuse("ssh", "`ssh` is given, expected `launcher = \"ssh\"` with it"));
    }
    for (index, node) in manifest.nodes.iter().enumerate() {
        let NodeSection { host, user, port, identity, .. } = node;
        let given = [
            ("host", host.is_some()),
            ("user", user.is_some()),
            ("port", port.is_some()),
            ("identity", identity.is_some()),
        ];
        if let Some((key, _)) = given.into_iter().find(|(_, given)| *given) {
            let text = format!("`{key}` is given, expected `launcher = \"ssh\"` with it");
            return Err(document.refuse(&format!("nodes[{index}].{key}"), text));
        }
    }
    Ok(())
}

fn check_ssh(document: &Document<Manifest>) -> Result<(), StrictError> {
    let manifest = &document.value;
    let head = &manifest.head;
    if head.bind.is_none() && head.interface.is_none() {
        let text = "the nodes are on other hosts: give `bind` or `interface` in `[head]`, an address of this machine that \
                    they reach";
        return Err(document.refuse("head", text));
    }
    let seconds = manifest.ssh.connect_timeout;
    if !(1..=600).contains(&seconds) {
        return Err(
            document.refuse("ssh.connect_timeout", format!("expected 1 to 600 seconds, found {seconds}"))
        );
    }
    check_path(document, "ssh.config", manifest.ssh.config.as_deref())?;
    for (index, node) in manifest.nodes.iter().enumerate() {
        let at = |key: &str| format!("nodes[{index}].{key}");
        let Some(host) = &node.host else {
            let text = format!("node `{}` has no `host`, expected what `ssh` is to call", node.name);
            return Err(document.refuse(&format!("nodes[{index}]"), text));
        };
        check_word(document, &at("host"), "host", host)?;
        if let Some(user) = &node.user {
            check_word(document, &at("user"), "user", user)?;
        }
        if node.port == Some(0) {
            return Err(document.refuse(&at("port"), "expected a port from 1, found 0"));
        }
        check_path(document, &at("identity"), node.identity.as_deref())?;
    }
    Ok(())
}

/// What is put on a command line must not be taken for an option, nor for more than one word.
fn check_word(document: &Document<Manifest>, place: &str, what: &str, word: &str) -> Result<(), StrictError> {
    let good = (1..=MAX_WORD).contains(&word.len())
        && word.starts_with(|first: char| first.is_ascii_alphanumeric() || "_:".contains(first))
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:%@".contains(&byte));
    match good {
        true => Ok(()),
        false => Err(document.refuse(
            place,
            format!("`{word}` cannot be a {what}: expected one word, beginning with a letter or digit"),
        )),
    }
}

fn check_path(document: &Document<Manifest>, place: &str, path: Option<&Path>) -> Result<(), StrictError> {
    match path {
        Some(path) if path.as_os_str().is_empty() => {
            Err(document.refuse(place, "an empty path, expected a file"))
        }
        _ => Ok(()),
    }
}
