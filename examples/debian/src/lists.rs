//! Debian's package index, fetched with apt into a directory of our own: no root,
//! and nothing of the system's own lists is read or changed.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

const HELPER: &str = "/usr/lib/apt/apt-helper";

/// Where the index comes from. The release and the architecture are fixed, so that the
/// corpus does not depend on the machine that prepares it.
pub struct Archive {
    /// A Debian mirror.
    pub mirror: String,
    /// The release's code name.
    pub suite: String,
}

impl Default for Archive {
    fn default() -> Self {
        Self { mirror: "http://deb.debian.org/debian".into(), suite: "bookworm".into() }
    }
}

/// The two lists that the corpus is made of, and the release they belong to.
pub struct Lists {
    /// One stanza per binary package: source, section, homepage.
    pub packages: PathBuf,
    /// One stanza per English description.
    pub descriptions: PathBuf,
    /// The release file's own words, for the record: `Version`, `Date`.
    pub release: String,
}

/// Brings the lists under `directory` up to date and finds them. The index is signed by
/// Debian's archive key; apt checks it.
///
/// # Errors
/// When apt is missing, fails (its own last words are part of the error), or leaves no list.
pub fn fetch(directory: &Path, archive: &Archive) -> Result<Lists> {
    let directory = absolute(directory)?;
    for part in ["lists/partial", "cache/archives/partial", "etc"] {
        let path = directory.join(part);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    let sources = directory.join("etc/sources.list");
    let entry = format!(
        "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} {} main\n",
        archive.mirror, archive.suite
    );
    fs::write(&sources, entry).with_context(|| format!("cannot write {}", sources.display()))?;

    let options = [
        format!("Dir::State={}", directory.display()),
        format!("Dir::State::lists={}", directory.join("lists").display()),
        format!("Dir::Cache={}", directory.join("cache").display()),
        format!("Dir::Etc::sourcelist={}", sources.display()),
        "Dir::Etc::sourceparts=-".into(),
        "Acquire::Languages=en".into(),
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
        "Acquire::Retries=3".into(),
        // As root apt would drop to `_apt`, which cannot write into our directory.
        "APT::Sandbox::User=root".into(),
    ];
    let mut apt = Command::new("apt-get");
    for option in options {
        apt.arg("-o").arg(option);
    }
    let output = apt
        .args(["--error-on=any", "update"])
        .stdin(Stdio::null())
        .output()
        .context("cannot run apt-get: this needs Debian's apt")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("apt-get update failed ({}): {}", output.status, words.trim());
    }
    find(&directory)
}

/// Finds lists that [`fetch`] has put under `directory` before.
///
/// # Errors
/// When the directory holds none, or more than one release.
pub fn find(directory: &Path) -> Result<Lists> {
    let lists = directory.join("lists");
    let mut packages = Vec::new();
    let mut descriptions = Vec::new();
    let mut releases = Vec::new();
    let entries = fs::read_dir(&lists).with_context(|| format!("cannot read {}", lists.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.contains("_main_binary-amd64_Packages") {
            packages.push(path);
        } else if name.contains("_main_i18n_Translation-en") {
            descriptions.push(path);
        } else if name.ends_with("_InRelease") {
            releases.push(path);
        }
    }
    ensure!(
        packages.len() == 1 && descriptions.len() == 1 && releases.len() == 1,
        "{} holds {} package lists, {} lists of English descriptions and {} release files, expected one of each: \
         delete the directory and fetch again",
        lists.display(),
        packages.len(),
        descriptions.len(),
        releases.len(),
    );
    let release = fs::read(&releases[0]).with_context(|| format!("cannot read {}", releases[0].display()))?;
    let release = String::from_utf8_lossy(&release)
        .lines()
        .take(30)
        .filter(|line| line.starts_with("Version:") || line.starts_with("Date:"))
        .collect::<Vec<_>>()
        .join(", ");
    Ok(Lists { packages: packages.remove(0), descriptions: descriptions.remove(0), release })
}

/// Reads one list, whatever compression apt keeps it in, and hands it to `read`.
///
/// # Errors
/// When apt's helper cannot be run or fails, or `read` does.
pub fn open<T>(list: &Path, read: impl FnOnce(&mut dyn BufRead) -> Result<T>) -> Result<T> {
    let mut helper = Command::new(HELPER)
        .arg("cat-file")
        .arg(list)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {HELPER}: this needs Debian's apt"))?;
    let stdout = helper.stdout.take().context("the helper has no output")?;
    let mut reader = BufReader::with_capacity(1 << 20, stdout);
    let result = read(&mut reader);
    if result.is_ok() {
        drain(&mut reader)?;
    }
    drop(reader);
    let status = helper.wait()?;
    let value = result?;
    ensure!(status.success(), "{HELPER} cat-file {} failed ({status})", list.display());
    Ok(value)
}

fn drain(reader: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let available = match reader.fill_buf() {
            Ok(buffer) => buffer.len(),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if available == 0 {
            return Ok(());
        }
        reader.consume(available);
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot make {} absolute", path.display()))
}
