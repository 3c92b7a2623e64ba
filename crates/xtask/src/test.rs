//! `cargo xtask test`: every test of the workspace, after the programs that end-to-end tests start.

use anyhow::Result;

use crate::cargo;
use crate::libtorch;

/// Builds the programs, then runs `cargo test --workspace` with the given further arguments.
pub fn run(arguments: &[String]) -> Result<()> {
    libtorch::provide()?;
    cargo::build_programs()?;
    cargo::run(cargo::cargo().args(["test", "--workspace"]).args(arguments))
}
