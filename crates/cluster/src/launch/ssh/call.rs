//! One command on a host, run through the system's `ssh`.
//!
//! Who logs in how, which host keys are believed, and whether connections are shared, is the user's configuration; nothing
//! of that is overruled here.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use crate::manifest::{NodeSection, SshSection};

/// What `ssh` exits with where the fault is not the command's.
const SSH_FAILED: i32 = 255;
/// Last bytes and lines of what is said to standard error that are told.
const TOLD_BYTES: usize = 4 << 10;
const TOLD_LINES: usize = 8;
/// Standard error is read to its end for so long after `ssh` has ended: the process of a connection that the user's
/// configuration shares may keep it open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a host did not do what it should.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    /// The end of a sentence about the host.
    pub(super) what: String,
    /// What `ssh`, or the host, said.
    pub(super) said: Vec<String>,
}

impl Trouble {
    pub(super) fn new(what: impl Into<String>) -> Trouble {
        Trouble { what: what.into(), said: Vec::new() }
    }
}

/// How `ssh` is called for one host.
#[derive(Debug, Clone)]
pub(super) struct Destination {
    pub(super) host: String,
    arguments: Vec<OsString>,
    /// Longest wait for a connection.
    pub(super) connect_timeout: Duration,
}

impl Destination {
    /// The host of `node`.
    pub(super) fn of(node: &NodeSection, ssh: &SshSection) -> Destination {
        let mut arguments: Vec<OsString> = vec!["-T".into()];
        let mut give = |option: &str, value: OsString| arguments.extend([option.into(), value]);
        if let Some(config) = &ssh.config {
            give("-F", config.into());
        }
        // BatchMode: nobody is asked anything, so nobody is waited for. The others find a host that is gone.
        give("-o", "BatchMode=yes".into());
        give("-o", format!("ConnectTimeout={}", ssh.connect_timeout).into());
        give("-o", "ServerAliveInterval=5".into());
        give("-o", "ServerAliveCountMax=3".into());
        if let Some(port) = node.port {
            give("-p", port.to_string().into());
        }
        if let Some(user) = &node.user {
            give("-l", user.into());
        }
        if let Some(identity) = &node.identity {
            give("-i", identity.into());
        }
        let connect_timeout = Duration::from_secs(ssh.connect_timeout.into());
        Destination { host: node.host.clone().unwrap_or_default(), arguments, connect_timeout }
    }

    /// Starts a command there. It does not hear the terminal's Ctrl-C, which is for this process to decide about.
    pub(super) fn call(&self, command: &str) -> Result<(Call, ChildStdin, ChildStdout), Trouble> {
        let mut ssh = Command::new("ssh");
        ssh.args(&self.arguments).arg("--").arg(&self.host).arg(command);
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        ssh.process_group(0).kill_on_drop(true);
        let mut child = ssh.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Trouble::new("was not called: there is no `ssh` here, install it (Debian: openssh-client)")
            }
            _ => Trouble::new(format!("was not called: {error}")),
        })?;
        let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Trouble::new("was not called: `ssh` has no pipes"));
        };
        let said = Arc::new(Mutex::new(Vec::new()));
        let hearing = tokio::spawn(hear(errors, said.clone()));
        Ok((Call { child, said, hearing }, input, output))
    }
}

/// A command that runs on a host. It ends when this is dropped, if it listens to the end of its input.
#[derive(Debug)]
pub(super) struct Call {
    child: Child,
    said: Arc<Mutex<Vec<u8>>>,
    hearing: JoinHandle<()>,
}

impl Call {
    /// Waits for its end, which comes with that of its input; what went wrong, if anything did.
    pub(super) async fn wait(&mut self) -> Option<Trouble> {
        let status = self.child.wait().await;
        let _ = tokio::time::timeout(LAST_WORDS, &mut self.hearing).await;
        let what = match status {
            Ok(status) if status.success() => return None,
            Ok(status) => in_words(status),
            Err(error) => format!("cannot be waited for: {error}"),
        };
        Some(Trouble { what, said: self.said() })
    }

    /// The last lines of what was said to standard error.
    pub(super) fn said(&self) -> Vec<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(TOLD_LINES)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

fn in_words(status: ExitStatus) -> String {
    match status.code() {
        Some(SSH_FAILED) => "cannot be reached".to_owned(),
        Some(code) => format!("failed in what it was to do (exit code {code})"),
        None => format!("cannot be reached: `ssh` was ended ({status})"),
    }
}

/// Keeps the end of what is said.
async fn hear(mut errors: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    let mut piece = [0; 1024];
    while let Ok(read @ 1..) = errors.read(&mut piece).await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(&piece[..read]);
        let surplus = said.len().saturating_sub(TOLD_BYTES);
        said.drain(..surplus);
    }
}
