//! The program that the tests of this crate run as head and in pods.

use std::path::PathBuf;
use std::process::ExitCode;

use lyceum_cluster::state::StateDir;
use lyceum_cluster::{head, launch};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).map(PathBuf::from)
    };
    let state = after("--state").map(StateDir::at);
    let ran = match (arguments.first().map(String::as_str), state, after("--order")) {
        (Some("head"), Some(state), _) => head::run(&state, 0),
        (Some("pod"), Some(state), Some(order)) => launch::run_pod(&order, &state),
        _ => {
            eprintln!("this program belongs to the tests of lyceum-kubernetes");
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
