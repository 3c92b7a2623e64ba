//! Running cargo and the programs it built.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The root of the workspace: xtask always runs from a checkout.
pub fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where cargo puts what it builds (`CARGO_TARGET_DIR` is honoured).
pub fn target_directory() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => workspace_root().join(directory),
        None => workspace_root().join("target"),
    }
}

/// A program of the workspace, as the shared profile built it.
pub fn program(name: &str) -> PathBuf {
    target_directory().join("debug").join(name)
}

/// The cargo that runs us, in the root of the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root());
    command
}

/// Builds all programs that a user runs.
pub fn build_programs() -> Result<()> {
    run(cargo().args([
        "build",
        "--package",
        "lyceum",
        "--package",
        "lyceum-worker",
        "--package",
        "lyceum-debian",
    ]))
}

/// Runs a command with our own terminal and fails when it does.
pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start {program}"))?;
    if !status.success() {
        bail!("{program} failed: {status}");
    }
    Ok(())
}
