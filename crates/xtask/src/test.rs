//! `cargo xtask test`: every test of the workspace, after the programs that end-to-end tests start.

use anyhow::Result;

use crate::cargo;
use crate::libtorch;

/// Builds the programs, then runs `cargo test --workspace` with the given further arguments.
pub fn run(arguments: &[String]) -> Result<()> {
    let libtorch = libtorch::provide()?;
    cargo::build_programs()?;
    let mut tests = cargo::cargo();
    tests.args(["test", "--workspace"]).args(arguments);
    cargo::become_program(cargo::with_libtorch(&mut tests, &libtorch))
}
