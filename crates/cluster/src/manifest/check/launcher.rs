//! The keys of a launcher: given where it needs them, and nowhere else.

use std::path::Path;

use super::kubernetes;
use crate::manifest::{Launcher, Manifest, NodeSection, SlurmSection, SshSection};
use crate::strict::{Document, StrictError};

/// Longest word for another program, in bytes: that of a host name.
const MAX_WORD: usize = 255;

pub(super) fn check(document: &Document<Manifest>) -> Result<(), StrictError> {
    let manifest = &document.value;
    // A key that is without effect would be believed to have one.
    if manifest.launcher != Launcher::Ssh {
        refuse_ssh(document)?;
    }
    if manifest.launcher != Launcher::Slurm && manifest.slurm != SlurmSection::default() {
        return Err(document.refuse("slurm", without_launcher("slurm", "slurm")));
    }
    kubernetes::refuse(document)?;
    let head = &manifest.head;
    if manifest.launcher != Launcher::Local && head.bind.is_none() && head.interface.is_none() {
        let text = "the nodes are on other hosts: give `bind` or `interface` in `[head]`, an address of this machine that \
                    they reach";
        return Err(document.refuse("head", text));
    }
    match manifest.launcher {
        Launcher::Local => Ok(()),
        Launcher::Ssh => check_ssh(document),
        Launcher::Slurm => check_slurm(document),
        Launcher::Kubernetes => kubernetes::check(document),
    }
}

pub(super) fn without_launcher(key: &str, launcher: &str) -> String {
    format!("`{key}` is given, expected `launcher = \"{launcher}\"` with it")
}

fn refuse_ssh(document: &Document<Manifest>) -> Result<(), StrictError> {
    let manifest = &document.value;
    if manifest.ssh != SshSection::default() {
        return Err(document.refuse("ssh", without_launcher("ssh", "ssh")));
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
            return Err(document.refuse(&format!("nodes[{index}].{key}"), without_launcher(key, "ssh")));
        }
    }
    Ok(())
}

fn check_ssh(document: &Document<Manifest>) -> Result<(), StrictError> {
    let manifest = &document.value;
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

fn check_slurm(document: &Document<Manifest>) -> Result<(), StrictError> {
    let manifest = &document.value;
    let SlurmSection { partition, account, time, options } = &manifest.slurm;
    for (key, word) in [("partition", partition), ("account", account), ("time", time)] {
        if let Some(word) = word {
            check_word(document, &format!("slurm.{key}"), key, word)?;
        }
    }
    for (index, option) in options.iter().enumerate() {
        if !option.starts_with('-') || option.chars().any(char::is_control) {
            let text = format!("`{option}` cannot be an option of `sbatch`: expected `--name=value`");
            return Err(document.refuse(&format!("slurm.options[{index}]"), text));
        }
    }
    for (index, node) in manifest.nodes.iter().enumerate() {
        let given = [("bind", node.bind.is_some()), ("advertise", node.advertise.is_some())];
        if let Some((key, _)) = given.into_iter().find(|(_, given)| *given) {
            let text = format!(
                "`{key}` is an address of one host, and Slurm chooses the host: expected `interface`"
            );
            return Err(document.refuse(&format!("nodes[{index}].{key}"), text));
        }
    }
    Ok(())
}

/// What is put on a command line must not be taken for an option, nor for more than one word.
fn check_word(document: &Document<Manifest>, place: &str, what: &str, word: &str) -> Result<(), StrictError> {
    let good = (1..=MAX_WORD).contains(&word.len())
        && word.starts_with(|first: char| first.is_ascii_alphanumeric() || "_:".contains(first))
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:%@,+".contains(&byte));
    match good {
        true => Ok(()),
        false => Err(document.refuse(
            place,
            format!("`{word}` cannot be a {what}: expected one word, beginning with a letter or digit"),
        )),
    }
}

pub(super) fn check_path(
    document: &Document<Manifest>,
    place: &str,
    path: Option<&Path>,
) -> Result<(), StrictError> {
    match path {
        Some(path) if path.as_os_str().is_empty() => {
            Err(document.refuse(place, "an empty path, expected a file"))
        }
        _ => Ok(()),
    }
}
