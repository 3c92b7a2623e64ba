//! `cargo xtask bundle`: one directory that runs on a node without Rust, with that node's own torch 2.11.0.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo;
use crate::libtorch;

/// Programs of a bundle.
const PROGRAMS: [&str; 3] = ["lyceum", "lyceum-worker", "lyceum-debian"];
/// Files and folders of the checkout that travel along.
const CARRIED: [&str; 5] = ["cluster", "examples/debian", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];
/// A bundle is copied to every node: MiB.
const LARGEST_MIB: f64 = 30.0;
/// The newest symbol versions that the oldest supported nodes (RHEL 9, Ubuntu 22.04) have.
const NEWEST: [(&str, [u32; 3]); 2] = [("GLIBC_", [2, 34, 0]), ("GLIBCXX_", [3, 4, 29])];

/// Finds the node's torch and starts a program of the bundle under it.
const LAUNCHER: &str = include_str!("launcher.sh");

/// Writes the bundle into the given directory, by default `target/bundle`.
pub fn run(arguments: &[String]) -> Result<()> {
    let directory = match arguments {
        [] => cargo::target_directory().join("bundle"),
        [directory] => PathBuf::from(directory),
        _ => bail!("usage: cargo xtask bundle [DIR]"),
    };
    libtorch::provide()?;
    cargo::build_programs()?;
    let marker = directory.join("bin/lyceum");
    if directory.exists() {
        ensure!(
            marker.exists(),
            "{} is there and is no bundle: remove it or name another",
            directory.display()
        );
        fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory.join("bin"))?;
    for program in PROGRAMS {
        let target = directory.join("bin").join(program);
        fs::copy(cargo::program(program), &target).with_context(|| format!("cannot copy {program}"))?;
        cargo::run(Command::new("strip").arg(&target)).context("strip comes with binutils")?;
        check_symbols(&target)?;
    }
    for carried in CARRIED {
        copy(&cargo::workspace_root().join(carried), &directory.join(carried))?;
    }
    for name in ["lyceum", "lyceum-debian"] {
        let launcher = directory.join(name);
        fs::write(&launcher, LAUNCHER.replace("@PROGRAM@", name))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&launcher, mode)?;
    }
    let mib = size(&directory)? as f64 / f64::from(1 << 20);
    ensure!(mib <= LARGEST_MIB, "the bundle has {mib:.1} MiB, of {LARGEST_MIB} MiB at most");
    println!(
        "{}: {mib:.1} MiB; on the node: {}/lyceum-debian demo",
        directory.display(),
        directory.display()
    );
    Ok(())
}

/// Refuses a program that asks for symbols which supported nodes lack.
fn check_symbols(program: &Path) -> Result<()> {
    let output =
        Command::new("objdump").arg("-T").arg(program).output().context("objdump comes with binutils")?;
    ensure!(output.status.success(), "objdump cannot read {}", program.display());
    let listing = String::from_utf8_lossy(&output.stdout);
    let mut newest = [[0; 3]; 2];
    for word in listing.split(|c: char| c.is_whitespace() || c == '(' || c == ')') {
        for ((prefix, limit), newest) in NEWEST.iter().zip(&mut newest) {
            let Some(version) = word.strip_prefix(prefix).and_then(parse_version) else { continue };
            ensure!(
                version <= *limit,
                "{} needs {word}, newer than {prefix}{}",
                program.display(),
                dotted(*limit)
            );
            *newest = version.max(*newest);
        }
    }
    println!(
        "{}: symbols up to GLIBC_{} and GLIBCXX_{}",
        program.file_name().unwrap_or_default().to_string_lossy(),
        dotted(newest[0]),
        dotted(newest[1])
    );
    Ok(())
}

fn parse_version(text: &str) -> Option<[u32; 3]> {
    let mut version = [0; 3];
    for (index, part) in text.split('.').enumerate() {
        *version.get_mut(index)? = part.parse().ok()?;
    }
    Some(version)
}

fn dotted(version: [u32; 3]) -> String {
    let parts = if version[2] == 0 { &version[..2] } else { &version[..] };
    parts.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

/// Copies a file or a folder, without sources and build files.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            if !["src", "tests", "Cargo.toml"].iter().any(|skipped| name == *skipped) {
                copy(&entry.path(), &to.join(name))?;
            }
        }
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

fn size(path: &Path) -> Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut total = 0;
    for entry in fs::read_dir(path)? {
        total += size(&entry?.path())?;
    }
    Ok(total)
}
