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

/// Builds all programs, of the whole workspace: chosen one by one, they would have dependencies built with other features
/// than the tests have, which takes minutes.
pub fn build_programs() -> Result<()> {
    run(cargo().args(["build", "--workspace", "--bins"]))
}

/// Lets a program find the libtorch of `directory`, also where flags or a target folder of the user's own have cost it
/// the run path that `.cargo/config.toml` gives.
pub fn with_libtorch<'c>(command: &'c mut Command, directory: &Path) -> &'c mut Command {
    let mut paths = vec![directory.join("lib")];
    if let Some(set) = std::env::var_os("LD_LIBRARY_PATH") {
        paths.extend(std::env::split_paths(&set).filter(|path| !path.as_os_str().is_empty()));
    }
    // A path with a colon in it cannot be told this way; the run path still can.
    if let Ok(joined) = std::env::join_paths(paths) {
        command.env("LD_LIBRARY_PATH", joined);
    }
    command
}

/// Becomes the command: what Ctrl-C means is then up to it alone. Returns only when it cannot be started.
pub fn become_program(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let error = std::os::unix::process::CommandExt::exec(command);
    Err(error).with_context(|| format!("cannot start {program}"))
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
