//! Where Lyceum lies: a checkout, or a bundle on a node without Rust.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Set by a bundle's launcher: the bundle's folder.
const HOME_VARIABLE: &str = "LYCEUM_HOME";

/// The files of Lyceum and its programs.
#[derive(Debug, Clone)]
pub struct Installation {
    home: PathBuf,
    programs: PathBuf,
}

impl Installation {
    /// The bundle that `LYCEUM_HOME` names, or the checkout that this program was built from. Its programs lie beside
    /// the one that runs.
    ///
    /// # Errors
    /// When neither is there.
    pub fn find() -> Result<Self> {
        let home = match env::var_os(HOME_VARIABLE).filter(|value| !value.is_empty()) {
            Some(home) => PathBuf::from(home),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."),
        };
        let home = home
            .canonicalize()
            .with_context(|| format!("{}: set {HOME_VARIABLE} to Lyceum's folder", home.display()))?;
        let own = env::current_exe().context("cannot tell where this program lies")?;
        let programs = own.parent().unwrap_or(Path::new("/")).to_path_buf();
        Ok(Self { home, programs })
    }

    /// The example's folder: run files, sample, recipe, models.
    pub fn example(&self) -> PathBuf {
        self.home.join("examples/debian")
    }

    /// A cluster manifest of Lyceum's own, such as `cluster/laptop.toml`.
    pub fn cluster(&self, manifest: &str) -> PathBuf {
        self.home.join(manifest)
    }

    /// Where runs and other products go by default.
    pub fn products(&self) -> PathBuf {
        self.home.join("target")
    }

    /// The program of this name.
    ///
    /// # Errors
    /// When it is not there.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.programs.join(name);
        ensure!(
            path.is_file(),
            "{} is missing: build it with `cargo build`, or start this by `cargo xtask demo`",
            path.display()
        );
        Ok(path)
    }
}
