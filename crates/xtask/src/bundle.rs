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
/// What they are packed into.
const ARCHIVE: &str = "programs.tar.xz";
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
    let hash = pack_programs(&directory)?;
    for carried in CARRIED {
        copy(&cargo::workspace_root().join(carried), &directory.join(carried))?;
    }
    for name in STARTED {
        write_launcher(&directory, name, &hash)?;
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

/// Strips the programs, checks their symbols, and packs them into the archive of `directory`, whose hash it returns.
/// Packed they take a fifth of their 37 MiB.
fn pack_programs(directory: &Path) -> Result<String> {
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
    let hash = pack(&staging, &directory.join(ARCHIVE))?;
    fs::remove_dir_all(&staging)?;
    Ok(hash)
}

/// Packs a folder and returns the first digits of the archive's SHA-256.
fn pack(folder: &Path, archive: &Path) -> Result<String> {
    cargo::run(Command::new("python3").arg("-c").arg(PACK).arg(folder).arg(archive))?;
    let mut hash = libtorch::sha256(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    hash.truncate(16);
    Ok(hash)
}

/// Writes what starts `program` out of the archive of this hash that lies beside it.
fn write_launcher(directory: &Path, program: &str, hash: &str) -> Result<()> {
    let script = LAUNCHER.replace("@PROGRAM@", program).replace("@ARCHIVE@", ARCHIVE).replace("@HASH@", hash);
    write_script(&directory.join(program), &script)
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
    let newest = newest_symbols(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| program.display().to_string())?;
    println!("{}: symbols up to {newest}", program.file_name().unwrap_or_default().to_string_lossy());
    Ok(())
}

/// The newest versions that a dynamic symbol table (`objdump -T`) asks for, refused where they are too new.
fn newest_symbols(listing: &str) -> Result<String> {
    let mut newest = [[0; 3]; NEWEST.len()];
    for word in listing.split(|c: char| c.is_whitespace() || c == '(' || c == ')') {
        for ((prefix, limit), newest) in NEWEST.iter().zip(&mut newest) {
            let Some(version) = word.strip_prefix(prefix).and_then(parse_version) else { continue };
            ensure!(version <= *limit, "it needs {word}, newer than {prefix}{}", dotted(*limit));
            *newest = version.max(*newest);
        }
    }
    let asked = NEWEST.iter().zip(newest).filter(|(_, newest)| *newest != [0; 3]);
    let asked: Vec<String> =
        asked.map(|((prefix, _), newest)| format!("{prefix}{}", dotted(newest))).collect();
    Ok(asked.join(" and "))
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

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::PathBuf;
    use std::process::Output;

    fn said(output: &Output) -> String {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// A bundle of one program that says where Lyceum lies.
    fn bundle(folder: &Path) -> PathBuf {
        let (staging, directory) = (folder.join("programs"), folder.join("a bundle"));
        fs::create_dir(&staging).unwrap();
        fs::create_dir(&directory).unwrap();
        write_script(&staging.join("lyceum"), "#!/bin/sh\necho \"$LYCEUM_HOME says $*\"\n").unwrap();
        let hash = pack(&staging, &directory.join(ARCHIVE)).unwrap();
        write_launcher(&directory, "lyceum", &hash).unwrap();
        directory
    }

    fn start(bundle: &Path, cache: &Path) -> Command {
        let mut command = Command::new(bundle.join("lyceum"));
        command.arg("hello").env("XDG_CACHE_HOME", cache);
        command
    }

    #[test]
    fn a_bundle_unpacks_itself_once_whoever_starts_it_first() {
        let folder = tempfile::tempdir().unwrap();
        let (bundle, cache) = (bundle(folder.path()), folder.path().join("cache"));
        let mut first: Vec<_> = (0..4)
            .map(|_| start(&bundle, &cache).stdout(std::process::Stdio::piped()).spawn().unwrap())
            .collect();
        for child in first.drain(..) {
            let output = child.wait_with_output().unwrap();
            assert_eq!(said(&output), format!("{} says hello\n", bundle.display()));
        }
        let unpacked: Vec<_> = fs::read_dir(cache.join("lyceum")).unwrap().collect();
        assert_eq!(unpacked.len(), 1, "{unpacked:?}");
        fs::remove_file(bundle.join(ARCHIVE)).unwrap();
        assert!(start(&bundle, &cache).output().unwrap().status.success(), "it is unpacked already");
    }

    #[test]
    fn a_damaged_bundle_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (bundle, cache) = (bundle(folder.path()), folder.path().join("cache"));
        let archive = bundle.join(ARCHIVE);
        let mut bytes = fs::read(&archive).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&archive, bytes).unwrap();
        let output = start(&bundle, &cache).output().unwrap();
        assert!(!output.status.success());
        assert!(said(&output).contains("programs.tar.xz is damaged"), "{}", said(&output));
        assert_eq!(fs::read_dir(cache.join("lyceum")).unwrap().count(), 0);
    }

    /// Starts a program that needs torch under a Python that has the torch of `version`, or none.
    fn with_torch(folder: &Path, version: Option<&str>) -> Output {
        let site = folder.join("site");
        if let Some(version) = version {
            fs::create_dir_all(site.join("torch/lib")).unwrap();
            fs::create_dir_all(site.join("nvidia/cu13/lib")).unwrap();
            fs::write(site.join("torch/__init__.py"), "").unwrap();
            let metadata = site.join(format!("torch-{version}.dist-info"));
            fs::create_dir_all(&metadata).unwrap();
            fs::write(metadata.join("METADATA"), format!("Name: torch\nVersion: {version}\n")).unwrap();
        }
        // Without its own site packages: what this machine has installed does not count.
        write_script(&folder.join("python"), "#!/bin/sh\nexec python3 -S \"$@\"\n").unwrap();
        write_script(
            &folder.join("lyceum-worker-torch"),
            "#!/bin/sh\necho \"$LYCEUM_TORCH_LIB;$LD_LIBRARY_PATH;$*\"\n",
        )
        .unwrap();
        let script = folder.join("lyceum-worker");
        write_script(&script, &WITH_TORCH.replace("@PROGRAM@", "lyceum-worker-torch")).unwrap();
        let mut command = Command::new(&script);
        command.arg("--help").env("LYCEUM_PYTHON", folder.join("python")).env("PYTHONPATH", &site);
        command.env_remove("LD_LIBRARY_PATH").output().unwrap()
    }

    #[test]
    fn the_nodes_own_torch_is_found_and_another_one_is_refused() {
        let folder = || tempfile::tempdir().unwrap();
        let without = with_torch(folder().path(), None);
        assert!(!without.status.success());
        assert!(said(&without).contains("has no torch: install torch 2.11.0"), "{}", said(&without));
        let other = with_torch(folder().path(), Some("2.10.0"));
        assert!(!other.status.success());
        assert!(said(&other).contains("has torch 2.10.0; torch 2.11.0 is needed"), "{}", said(&other));
        let folder = folder();
        let right = with_torch(folder.path(), Some("2.11.0+cu130"));
        let site = folder.path().join("site").display().to_string();
        assert_eq!(
            said(&right),
            format!("{site}/torch/lib;{site}/torch/lib:{site}/nvidia/cu13/lib;--help\n")
        );
    }

    #[test]
    fn symbols_that_supported_nodes_lack_are_refused_by_number() {
        let line = |symbol: &str| format!("0000 DF *UND* 0000 ({symbol}) memcpy\n");
        let old = line("GLIBC_2.9") + &line("GLIBC_2.34") + &line("GLIBCXX_3.4.29");
        assert_eq!(newest_symbols(&old).unwrap(), "GLIBC_2.34 and GLIBCXX_3.4.29");
        assert_eq!(newest_symbols(&line("GLIBC_2.2.5")).unwrap(), "GLIBC_2.2.5");
        let error = newest_symbols(&line("GLIBC_2.38")).unwrap_err().to_string();
        assert_eq!(error, "it needs GLIBC_2.38, newer than GLIBC_2.34");
        assert!(newest_symbols(&line("GLIBCXX_3.4.30")).is_err());
    }
}
