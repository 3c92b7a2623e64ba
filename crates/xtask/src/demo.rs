//! `cargo xtask demo` and `cargo xtask models`: set-up and build, then the example's own program, which also runs
//! from a bundle.

use std::process::Command;

use anyhow::Result;

use crate::cargo;
use crate::libtorch;

/// The main job on Debian package descriptions, into `target/demo/`.
pub fn run(arguments: &[String]) -> Result<()> {
    let out = cargo::target_directory().join("demo");
    let out = ["--out", &out.to_string_lossy()];
    let chosen = arguments.iter().any(|argument| argument == "--out" || argument.starts_with("--out="));
    example("demo", if chosen { &[] } else { &out }, arguments)
}

/// Makes the demo's tokenizer, base model and synthesizer again, by the recipe in `examples/debian/`.
pub fn models(arguments: &[String]) -> Result<()> {
    example("models", &[], arguments)
}

fn example(command: &str, defaults: &[&str], arguments: &[String]) -> Result<()> {
    let libtorch = libtorch::provide()?;
    cargo::build_programs()?;
    let mut program = Command::new(cargo::program("lyceum-debian"));
    program.current_dir(cargo::workspace_root()).arg(command).args(defaults).args(arguments);
    cargo::become_program(cargo::with_libtorch(&mut program, &libtorch))
}
