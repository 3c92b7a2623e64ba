//! One host as the system's `ssh` reaches it: one connection, over which every command goes.
//!
//! Who logs in how, and which host keys are believed, is the user's configuration; nothing of that is overruled here.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};

use super::programs::{PIECE, Program};
use crate::manifest::{NodeSection, SshSection};
use crate::state::log_tail;

/// What `ssh` exits with where the fault is not the command's.
const SSH_FAILED: i32 = 255;
/// Most bytes of an answer that are read.
const MAX_ANSWER: u64 = 64 << 10;
/// Lines of what was said to standard error that are told.
const TOLD_LINES: usize = 8;
/// A shared connection that nobody uses any more, and nobody has closed, is closed after this many seconds.
const PERSIST: u32 = 60;
/// How long a host may take to answer a short command, beyond the time to connect.
const ANSWER: Duration = Duration::from_secs(30);

/// Why a command on a host did not do what it should.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    /// The end of a sentence about the host.
    pub(super) what: String,
    /// What `ssh`, or the host, said.
    pub(super) said: Vec<String>,
}

/// The way to one host. The connection is made with the first command.
#[derive(Debug)]
pub(super) struct Connection {
    host: String,
    /// `ssh`'s options and the host.
    arguments: Vec<OsString>,
    connect_timeout: Duration,
    /// For what is said to standard error: a pipe might be kept open by the shared connection's process.
    folder: Arc<TempDir>,
    number: usize,
    calls: AtomicUsize,
}

impl Connection {
    /// To the host of `node`; `number` is its own in `folder`.
    pub(super) fn new(
        node: &NodeSection,
        ssh: &SshSection,
        folder: Arc<TempDir>,
        number: usize,
    ) -> Connection {
        let host = node.host.clone().unwrap_or_default();
        let mut arguments: Vec<OsString> = Vec::new();
        if let Some(config) = &ssh.config {
            arguments.extend(["-F".into(), config.into()]);
        }
        // BatchMode: nobody is asked anything, so nobody is waited for.
        let options = [
            "BatchMode=yes".to_owned(),
            format!("ConnectTimeout={}", ssh.connect_timeout),
            "ServerAliveInterval=5".to_owned(),
            "ServerAliveCountMax=3".to_owned(),
            "ControlMaster=auto".to_owned(),
            format!("ControlPersist={PERSIST}"),
            format!("ControlPath={}", folder.path().join(number.to_string()).display()),
        ];
        arguments.push("-T".into());
        for option in options {
            arguments.extend(["-o".into(), option.into()]);
        }
        if let Some(port) = node.port {
            arguments.extend(["-p".into(), port.to_string().into()]);
        }
        if let Some(user) = &node.user {
            arguments.extend(["-l".into(), user.into()]);
        }
        if let Some(identity) = &node.identity {
            arguments.extend(["-i".into(), identity.into()]);
        }
        let connect_timeout = Duration::from_secs(ssh.connect_timeout.into());
        Connection { host, arguments, connect_timeout, folder, number, calls: AtomicUsize::new(0) }
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// `ssh` with `more` options. It does not hear the terminal's Ctrl-C, which is for this process to decide about.
    fn ssh(&self, more: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command.args(more).args(&self.arguments).arg("--").arg(&self.host);
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Runs a short command there and returns what it says.
    pub(super) async fn ask(&self, command: &str) -> Result<String, Trouble> {
        let limit = self.connect_timeout + ANSWER;
        match tokio::time::timeout(limit, self.run(command, &[])).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(Trouble { what: format!("did not answer within {} s", limit.as_secs()), said: vec![] })
            }
        }
    }

    /// Runs a command there that reads `programs` one after another.
    pub(super) async fn send(&self, command: &str, programs: &[Program]) -> Result<(), Trouble> {
        self.run(command, programs).await.map(drop)
    }

    async fn run(&self, command: &str, programs: &[Program]) -> Result<String, Trouble> {
        let mut call = self.open(command)?;
        let (mut input, mut answer) = (call.input.take(), Vec::new());
        let mut output = call.child.stdout.take();
        let sending = async {
            if let Some(input) = &mut input {
                for program in programs {
                    send_file(&program.path, input).await?;
                }
            }
            drop(input.take());
            Ok::<(), io::Error>(())
        };
        let hearing = async {
            match &mut output {
                Some(output) => output.take(MAX_ANSWER).read_to_end(&mut answer).await.map(drop),
                None => Ok(()),
            }
        };
        // Who stops reading has an exit status that says more than the broken pipe.
        let (sent, heard) = tokio::join!(sending, hearing);
        let trouble = call.wait().await;
        match (trouble, sent.and(heard)) {
            (Some(trouble), _) => Err(trouble),
            (None, Err(error)) => {
                Err(Trouble { what: format!("was sent a program in part: {error}"), said: vec![] })
            }
            (None, Ok(())) => Ok(String::from_utf8_lossy(&answer).into_owned()),
        }
    }

    /// Starts a command there; its standard input and output are pipes.
    pub(super) fn open(&self, command: &str) -> Result<Call, Trouble> {
        let trouble = |error: io::Error| Trouble { what: format!("was not called: {error}"), said: vec![] };
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let errors = self.folder.path().join(format!("{}-{number}.said", self.number));
        let mut ssh = self.ssh(&[]);
        ssh.arg(command).stdin(Stdio::piped()).stdout(Stdio::piped());
        ssh.stderr(File::create(&errors).map_err(trouble)?);
        let mut child = ssh.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Trouble {
                what: "was not called: there is no program `ssh` here, install it (Debian: openssh-client)"
                    .into(),
                said: vec![],
            },
            _ => trouble(error),
        })?;
        Ok(Call { input: child.stdin.take(), child, errors })
    }

    /// Closes the shared connection, if there is one.
    pub(super) async fn close(&self) {
        if self.calls.swap(0, Ordering::Relaxed) > 0 {
            let mut command = self.ssh(&["-O", "exit"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let _ = command.status().await;
        }
    }
}

impl Drop for Connection {
    /// Where nobody could wait for the closing.
    fn drop(&mut self) {
        if *self.calls.get_mut() > 0 {
            let mut command = self.ssh(&["-O", "exit"]).into_std();
            let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// A command that runs on the host. It ends when this is dropped, if it listens to the end of its input.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) child: Child,
    pub(super) input: Option<ChildStdin>,
    errors: PathBuf,
}

impl Call {
    /// Waits for its end; what went wrong, if anything did.
    pub(super) async fn wait(&mut self) -> Option<Trouble> {
        drop(self.input.take());
        match self.child.wait().await {
            Ok(status) if status.success() => None,
            Ok(status) => Some(Trouble { what: in_words(status), said: self.said() }),
            Err(error) => Some(Trouble { what: format!("cannot be waited for: {error}"), said: self.said() }),
        }
    }

    /// The last lines of what was said to standard error.
    pub(super) fn said(&self) -> Vec<String> {
        log_tail(&self.errors, TOLD_LINES)
    }
}

fn in_words(status: ExitStatus) -> String {
    match status.code() {
        Some(SSH_FAILED) => "cannot be reached".to_owned(),
        Some(code) => format!("failed in what it was to do (exit code {code})"),
        None => format!("cannot be reached: `ssh` was ended ({status})"),
    }
}

async fn send_file(path: &Path, to: &mut ChildStdin) -> io::Result<()> {
    let (mut file, mut piece) = (File::open(path)?, vec![0; PIECE]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(()),
            read => to.write_all(&piece[..read]).await?,
        }
    }
}
