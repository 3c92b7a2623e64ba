//! Provides libtorch 2.11.0 in `.libtorch`, where `.cargo/config.toml` points torch-sys and the run path.
//!
//! Three sources, in this order: the Python environment when `LIBTORCH_USE_PYTORCH` is set, the directory that
//! `LIBTORCH` names, or the wheel from the Python package index, of which the CPU part alone is kept. The wheel's
//! hash is pinned; what was unpacked is checked against its own hashes each time, and made again when broken.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::cargo::{run, workspace_root};

const VERSION: &str = "2.11.0";

/// What pip fetches, hashes pinned: torch itself, and the two CUDA libraries that libtorch_cpu needs to load.
const REQUIREMENTS: &str = "\
torch==2.11.0 --hash=sha256:7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cupti==13.0.85 --hash=sha256:4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
";

/// Libraries that an intact directory holds, with their SHA-256.
const LIBRARIES: [(&str, &str); 5] = [
    ("libtorch_cpu.so", "99ea9120891528198d73d477714adf14ec662dec467aca8a3940796ccd452e91"),
    ("libc10.so", "be5e17cd7752a6af003978706379384c3108f6b68916bb1949e610f6397bb640"),
    ("libgomp.so.1", "e28fb2896a3d612b46a27d7f8ef840d34c9efbc29b70a044c42095fb94856890"),
    ("libcudart.so.13", "96c42e418cec19054186b9429c321603cc190bf26a18104e19408117a2a817b0"),
    ("libcupti.so.13", "e2f9ed861fe27c492b8bb52b5e3220ef5120f3edcda36312e96b7fd8a186be3e"),
];

/// Headers of an intact directory.
const HEADER_COUNT: usize = 9410;

/// Takes the wheels apart: argv = wheel directory, destination.
const UNPACK: &str = include_str!("unpack.py");

/// Makes `.libtorch` point at a usable libtorch and returns its directory.
pub fn provide() -> Result<PathBuf> {
    let link = workspace_root().join(".libtorch");
    let directory = match chosen_by_user(&link)? {
        Some(directory) => directory,
        None => fetched()?,
    };
    if fs::read_link(&link).ok().as_deref() != Some(&directory) {
        if link.is_symlink() {
            fs::remove_file(&link).with_context(|| format!("cannot replace {}", link.display()))?;
        }
        std::os::unix::fs::symlink(&directory, &link)
            .with_context(|| format!("cannot link {} to {}", link.display(), directory.display()))?;
    }
    Ok(directory)
}

/// The libtorch that the environment asks for. Cargo itself sets `LIBTORCH` to our own link: that is no wish.
fn chosen_by_user(link: &Path) -> Result<Option<PathBuf>> {
    if std::env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        let python = if std::env::var_os("VIRTUAL_ENV").is_some() { "python" } else { "python3" };
        let output = Command::new(python)
            .args([
                "-c",
                "import torch, os; print(torch.__version__); print(os.path.dirname(torch.__file__))",
            ])
            .output()
            .with_context(|| format!("cannot start {python}, which LIBTORCH_USE_PYTORCH asks for"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines();
        let (Some(version), Some(directory)) = (lines.next(), lines.next()) else {
            bail!(
                "LIBTORCH_USE_PYTORCH is set, but `{python} -c 'import torch'` fails:\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        ensure!(
            version.split('+').next() == Some(VERSION),
            "LIBTORCH_USE_PYTORCH names torch {version}; torch {VERSION} is needed"
        );
        return Ok(Some(PathBuf::from(directory)));
    }
    match std::env::var_os("LIBTORCH").map(PathBuf::from) {
        Some(directory) if directory != link => {
            ensure!(
                directory.join("lib/libtorch_cpu.so").is_file(),
                "LIBTORCH is {}, where there is no lib/libtorch_cpu.so",
                directory.display()
            );
            let directory = directory.canonicalize().context("cannot resolve LIBTORCH")?;
            let found = header_version(&directory);
            ensure!(
                found.as_deref() == Some(VERSION),
                "LIBTORCH is {}, which has libtorch {}; libtorch {VERSION} is needed",
                directory.display(),
                found.as_deref().unwrap_or("of a version before 2.11")
            );
            Ok(Some(directory))
        }
        _ => Ok(None),
    }
}

/// The version that libtorch's own headers give, such as `2.11.0`.
fn header_version(directory: &Path) -> Option<String> {
    let header = fs::read_to_string(directory.join("include/torch/headeronly/version.h")).ok()?;
    let number = |part: &str| {
        let name = format!("#define TORCH_VERSION_{part} ");
        header.lines().find_map(|line| line.strip_prefix(&name)).map(str::trim)
    };
    Some([number("MAJOR")?, number("MINOR")?, number("PATCH")?].join("."))
}

/// The fetched libtorch in the user's cache, made or repaired when it is not whole.
fn fetched() -> Result<PathBuf> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "libtorch is fetched for x86-64 Linux only: set LIBTORCH to your own libtorch {VERSION}"
    );
    let cache = cache_directory()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    // Two checkouts may set up at the same time: the second waits and finds the work done.
    let lock = File::create(cache.join("lock")).context("cannot create the cache's lock")?;
    lock.lock().context("cannot lock the cache")?;

    let directory = cache.join(format!("libtorch-{VERSION}"));
    match damage(&directory) {
        None => return Ok(directory),
        Some(reason) => println!("libtorch {VERSION}: {reason}; fetching it (545 MB, once)"),
    }
    let wheels = cache.join("wheels");
    let unpacked = cache.join(format!("libtorch-{VERSION}.partial"));
    for leftover in [&wheels, &unpacked, &directory] {
        if leftover.exists() {
            fs::remove_dir_all(leftover).with_context(|| format!("cannot remove {}", leftover.display()))?;
        }
    }
    fs::create_dir_all(&wheels)?;
    let requirements = wheels.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    // One wheel for all: the platform is named, so that the hash does not depend on this machine's Python.
    run(Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"])
        .args(["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "none"])
        .args(["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_25_x86_64"])
        .args(["--platform", "manylinux_2_17_x86_64", "--platform", "manylinux2014_x86_64"])
        .arg("--dest")
        .arg(&wheels)
        .arg("--requirement")
        .arg(&requirements))
    .context("pip could not fetch libtorch (python3 with pip is needed, and the package index)")?;
    println!("libtorch {VERSION}: unpacking");
    run(Command::new("python3").arg("-c").arg(UNPACK).arg(&wheels).arg(&unpacked))?;
    if let Some(reason) = damage(&unpacked) {
        bail!("libtorch {VERSION} was unpacked, but {reason}");
    }
    fs::rename(&unpacked, &directory).context("cannot move libtorch into place")?;
    fs::remove_dir_all(&wheels).context("cannot remove the fetched wheels")?;
    println!("libtorch {VERSION}: ready in {}", directory.display());
    Ok(directory)
}

/// `$XDG_CACHE_HOME/lyceum` or `~/.cache/lyceum`.
fn cache_directory() -> Result<PathBuf> {
    if let Some(cache) = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(cache).join("lyceum"));
    }
    let home = std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/lyceum"))
}

/// What is wrong with an unpacked libtorch, if anything.
fn damage(directory: &Path) -> Option<String> {
    if !directory.exists() {
        return Some("not there yet".into());
    }
    for (name, expected) in LIBRARIES {
        match sha256(&directory.join("lib").join(name)) {
            Ok(hash) if hash == expected => {}
            Ok(_) => return Some(format!("lib/{name} is damaged")),
            Err(_) => return Some(format!("lib/{name} is missing")),
        }
    }
    if !directory.join("lib/libtorch.so").is_file() {
        return Some("lib/libtorch.so is missing".into());
    }
    let headers = count_files(&directory.join("include"));
    (headers != HEADER_COUNT).then(|| format!("include/ has {headers} of {HEADER_COUNT} headers"))
}

/// SHA-256 of a file, in hexadecimal digits.
pub fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn count_files(directory: &Path) -> usize {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => count_files(&entry.path()),
            Ok(_) => 1,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_libtorch_is_read_from_its_headers() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(header_version(folder.path()), None);
        let header = folder.path().join("include/torch/headeronly/version.h");
        fs::create_dir_all(header.parent().unwrap()).unwrap();
        fs::write(
            &header,
            "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 9\n\n#define TORCH_VERSION_PATCH 1\n",
        )
        .unwrap();
        assert_eq!(header_version(folder.path()).as_deref(), Some("2.9.1"));
    }

    #[test]
    fn a_damaged_libtorch_is_told_by_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("libtorch");
        assert_eq!(damage(&directory).as_deref(), Some("not there yet"));
        fs::create_dir_all(directory.join("lib")).unwrap();
        assert_eq!(damage(&directory).as_deref(), Some("lib/libtorch_cpu.so is missing"));
        fs::write(directory.join("lib/libtorch_cpu.so"), "half of it").unwrap();
        assert_eq!(damage(&directory).as_deref(), Some("lib/libtorch_cpu.so is damaged"));
    }
}
