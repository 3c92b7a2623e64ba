//! `cargo xtask bundle`: one directory that runs on a node without Rust, with that node's own torch 2.11.0.
//!
//! The programs travel stripped and packed; a launcher unpacks them once into the cache of the node's user. Of them
//! `lyceum-worker` alone needs torch: it is started through a script that finds the node's.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo;
use crate::libtorch;

/// Programs of a bundle.
const PROGRAMS: [&str; 3] = ["lyceum", "lyceum-worker", "lyceum-debian"];
/// Those that a user starts: each gets a launcher.
const STARTED: [&str; 2] = ["lyceum", "lyceum-debian"];
/// The one that links libtorch: started through a script that finds the node's.
const TORCH_PROGRAM: &str = "lyceum-worker";
/// Files and folders of the checkout that travel along.
const CARRIED: [&str; 5] = ["cluster", "examples/debian", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];
/// A bundle is copied to every node: MiB.
const LARGEST_MIB: f64 = 30.0;
/// The newest symbol versions that the oldest supported nodes (RHEL 9, Ubuntu 22.04) have.
const NEWEST: [(&str, [u32; 3]); 2] = [("GLIBC_", [2, 34, 0]), ("GLIBCXX_", [3, 4, 29])];

/// Unpacks the bundle's programs on first use and starts one.
const LAUNCHER: &str = include_str!("launcher.sh");
/// Finds the node's torch and starts a program under it.
const WITH_TORCH: &str = include_str!("with_torch.sh");
/// Packs a folder: argv = folder, archive. The same files give the same bytes.
const PACK: &str = include_str!("pack.py");

/// Writes the bundle into the given directory, by default `target/bundle`.
pub fn run(arguments: &[String]) -> Result<()> {
    let directory = match arguments {
        [] => cargo::target_directory().join("bundle"),
        [directory] if !directory.starts_with('-') => std::path::absolute(directory)?,
        _ => bail!("usage: cargo xtask bundle [DIR]"),
    };
    libtorch::provide()?;
    cargo::build_programs()?;
    if directory.exists() {
        ensure!(
            directory.join("lyceum-debian").is_file() && directory.join("cluster").is_dir(),
            "{} is there and is no bundle: remove it or name another",
            directory.display()
        );
        fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let (archive, hash) = pack_programs(&directory)?;
    for carried in CARRIED {
        copy(&cargo::workspace_root().join(carried), &directory.join(carried))?;
    }
    for name in STARTED {
        let script =
            LAUNCHER.replace("@PROGRAM@", name).replace("@ARCHIVE@", &archive).replace("@HASH@", &hash);
        write_script(&directory.join(name), &script)?;
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

/// Strips the programs, checks their symbols, and packs them into one archive of `directory`: its name, and the first
/// digits of its SHA-256. Packed they take a quarter of their 37 MiB.
fn pack_programs(directory: &Path) -> Result<(String, String)> {
    let staging = directory.join("programs");
    fs::create_dir(&staging)?;
    for program in PROGRAMS {
        let name = if program == TORCH_PROGRAM { format!("{program}-torch") } else { program.to_owned() };
        let target = staging.join(&name);
        fs::copy(cargo::program(program), &target).with_context(|| format!("cannot copy {program}"))?;
        cargo::run(Command::new("strip").arg(&target)).context("strip comes with binutils")?;
        check_symbols(&target)?;
        if program == TORCH_PROGRAM {
            write_script(&staging.join(program), &WITH_TORCH.replace("@PROGRAM@", &name))?;
        }
    }
    let archive = "programs.tar.xz";
    let path = directory.join(archive);
    cargo::run(Command::new("python3").arg("-c").arg(PACK).arg(&staging).arg(&path))?;
    fs::remove_dir_all(&staging)?;
    let mut hash = libtorch::sha256(&path).with_context(|| format!("cannot read {}", path.display()))?;
    hash.truncate(16);
    Ok((archive.to_owned(), hash))
}

fn write_script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
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
    let found: Vec<String> = NEWEST
        .iter()
        .zip(newest)
        .filter(|(_, newest)| *newest != [0; 3])
        .map(|((prefix, _), newest)| format!("{prefix}{}", dotted(newest)))
        .collect();
    println!(
        "{}: symbols up to {}",
        program.file_name().unwrap_or_default().to_string_lossy(),
        found.join(" and ")
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
