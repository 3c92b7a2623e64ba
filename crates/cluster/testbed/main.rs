//! The program that the tests of this crate run as head, agent, worker and runner. It plays one role, [`Probe`], which
//! tells what its process was given and misbehaves when asked to.

use std::path::PathBuf;
use std::process::ExitCode;

use lyceum_cluster::state::StateDir;
use lyceum_cluster::{agent, head, launch, worker};
use tracing_subscriber::EnvFilter;

mod probe;

fn main() -> ExitCode {
    worker::begin();
    let filter = EnvFilter::try_from_env("LYCEUM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let state = after("--state").map(|path| StateDir::at(PathBuf::from(path)));
    let node = after("--node").unwrap_or_default();
    let ran = match (arguments.first().map(String::as_str), state) {
        (Some("worker"), _) => return worker::run(probe::registry()),
        (Some("head"), Some(state)) => {
            head::run(&state, after("--candidate").and_then(|number| number.parse().ok()).unwrap_or(0))
        }
        (Some("agent"), Some(state)) => agent::run(&state, &node),
        (Some("task"), Some(state)) => {
            launch::run_task(&state, after("--index").and_then(|it| it.parse().ok()))
        }
        (Some("up"), Some(state)) => probe::bring_up(&state, &after("--manifest").unwrap_or_default()),
        (Some("down"), Some(state)) => probe::bring_down(&state),
        (Some("host"), _) => launch::serve_orders(),
        (Some("runner"), Some(state)) => probe::run_owned(&state, &after("--manifest").unwrap_or_default()),
        _ => {
            eprintln!("this program belongs to the tests of lyceum-cluster");
            return ExitCode::from(2);
        }
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
