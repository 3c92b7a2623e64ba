//! The command line, the head, the node agent and the torch-free actors.

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

mod command;

/// A cluster of actors, for instruction pre-training.
#[derive(Debug, Parser)]
#[command(name = "lyceum", version, about = "An actor cluster for instruction pre-training")]
struct Arguments {
    #[command(subcommand)]
    command: command::Command,
}

fn main() -> ExitCode {
    lyceum_cluster::worker::begin();
    let arguments = Arguments::parse();
    init_log(arguments.command.default_log());
    match arguments.command.run() {
        Ok(code) => code,
        Err(error) => {
            command::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Logs go to stderr; `LYCEUM_LOG` says which, as in `info,lyceum_wire=debug`.
fn init_log(default: &str) {
    let filter = EnvFilter::try_from_env("LYCEUM_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
