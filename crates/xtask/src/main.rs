//! Set-up and developer commands: `cargo xtask <command>`. Nothing heavy lives here, so that the first command
//! of a newcomer starts at once.

use std::process::ExitCode;

mod bundle;
mod cargo;
mod demo;
mod libtorch;
mod peers;
mod test;

const USAGE: &str = "\
usage: cargo xtask <command>

  setup              fetch libtorch (or link the one LIBTORCH or LIBTORCH_USE_PYTORCH names)
  demo [options]     the main job on Debian package descriptions, into target/demo/
       --report            judge the synthesizer on source packages it never saw
       --compare vanilla   the same tokens raw, for comparison
  models [--out DIR] make the demo's tokenizer, base model and synthesizer again (hours on 2 cores)
  test [arguments]   build everything and run every test; arguments go to `cargo test`
  bundle [DIR]       one directory that runs on a node without Rust
  peers              the systems that `lyceum bench --peer` runs beside ours, into .peers/";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let outcome = match arguments.first().map(String::as_str) {
        Some("setup") => libtorch::provide().map(|_| ()),
        Some("demo") => demo::run(rest),
        Some("models") => demo::models(rest),
        Some("test") => test::run(rest),
        Some("bundle") => bundle::run(rest),
        Some("peers") => peers::run_all(),
        Some("help" | "--help" | "-h") | None => {
            println!("{USAGE}");
            Ok(())
        }
        Some(other) => Err(anyhow::anyhow!("unknown command '{other}'\n\n{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
