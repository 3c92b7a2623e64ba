//! Running Lyceum's other programs in this terminal.

use std::process::ExitStatus;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// Runs a program to its end. Ctrl-C reaches it through the terminal and is left to it, so that it can stop cleanly;
/// a SIGTERM of ours is passed on as one Ctrl-C.
///
/// # Errors
/// When it cannot be started, fails, or was interrupted.
pub fn run(command: std::process::Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let (status, interrupted) =
        runtime.block_on(watch(command)).with_context(|| format!("cannot run {name}"))?;
    ensure!(!interrupted, "interrupted; the same command goes on from here");
    ensure!(status.success(), "{name} failed: {status}");
    Ok(())
}

/// Waits for the program; also tells whether a signal came meanwhile.
async fn watch(command: std::process::Command) -> Result<(ExitStatus, bool)> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut child = Command::from(command).spawn()?;
    let mut interrupted = false;
    loop {
        tokio::select! {
            status = child.wait() => return Ok((status?, interrupted)),
            _ = interrupts.recv() => interrupted = true,
            _ = terminations.recv() => {
                interrupted = true;
                interrupt(&child);
            }
        }
    }
}

fn interrupt(child: &Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself: then there is nobody to tell.
        let _ = kill_process(pid, Signal::INT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_or_is_missing_is_an_error_with_its_name() {
        run(std::process::Command::new("true")).unwrap();
        let error = run(std::process::Command::new("false")).unwrap_err().to_string();
        assert_eq!(error, "false failed: exit status: 1");
        let error = run(std::process::Command::new("/no/such/program")).unwrap_err().to_string();
        assert_eq!(error, "cannot run /no/such/program");
    }
}
