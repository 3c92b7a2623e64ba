//! The end of a session that is here: orders go out, answers and news come in.

use std::env::consts;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::mpsc;

use super::call::{Call, Destination, Trouble};
use super::programs::{PIECE, Programs};
use super::words::{Answer, MARK, MAX_LINE, Order, from_line, to_line};

/// Lines that may wait to be read.
const MAX_LINES: usize = 8;
/// How long a host may take for one step, beyond the time that the step itself is given.
const STEP: Duration = Duration::from_secs(30);

/// A session with one host about one node's agent. Until it is released the agent ends with it.
#[derive(Debug)]
pub(super) struct Session {
    call: Call,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<Vec<u8>>,
    news: Arc<Mutex<Option<Answer>>>,
}

impl Session {
    /// Begins one: has the programs on the host, whole, and runs them there.
    pub(super) async fn begin(destination: &Destination, programs: &Programs) -> Result<Session, Trouble> {
        let (call, input, output) = destination.call(&programs.serve())?;
        let (send, lines) = mpsc::channel(MAX_LINES);
        let news = Arc::new(Mutex::new(None));
        tokio::spawn(hear(output, send, news.clone()));
        let mut session = Session { call, input: Some(input), lines, news };
        let machine = session.word(destination.connect_timeout).await?;
        session.check(&machine)?;
        match session.take_programs(destination, programs).await {
            Ok(()) => Ok(session),
            Err(Trouble { what, said }) => {
                Err(Trouble { what: format!("was not given this program: it {what}"), said })
            }
        }
    }

    /// Sends what the host asks for, until it has all.
    async fn take_programs(&mut self, destination: &Destination, programs: &Programs) -> Result<(), Trouble> {
        loop {
            let word = self.word(Duration::ZERO).await?;
            match word.split_once(' ') {
                None if word == "ready" => return Ok(()),
                Some(("send", name)) => {
                    tracing::info!(host = destination.host, name, "a program is copied to a host");
                    let Some(path) = programs.path(name) else {
                        return Err(Trouble::new(format!("asks for a program `{name}`")));
                    };
                    self.send(path).await?;
                }
                _ => return Err(Trouble::new(format!("gave an answer that is not understood: {word}"))),
            }
        }
    }

    /// `machine SYSTEM ARCHITECTURE`, named as uname(1) and Rust do: the same for all that this program runs on.
    fn check(&self, word: &str) -> Result<(), Trouble> {
        let machine = word.strip_prefix("machine ").unwrap_or_default();
        let (system, architecture) = machine.split_once(' ').unwrap_or_default();
        if system.eq_ignore_ascii_case(consts::OS) && architecture == consts::ARCH {
            return Ok(());
        }
        let (os, arch) = (consts::OS, consts::ARCH);
        Err(Trouble::new(format!("is a {machine} machine, and this program is for {os} {arch}")))
    }

    /// The next word of the host's shell.
    async fn word(&mut self, patience: Duration) -> Result<String, Trouble> {
        let limit = STEP + patience;
        match tokio::time::timeout(limit, self.lines.recv()).await {
            Ok(Some(line)) => {
                Ok(String::from_utf8_lossy(line.strip_prefix(MARK).unwrap_or_default()).into_owned())
            }
            Ok(None) => Err(self.broken().await),
            Err(_) => Err(self.silent(limit)),
        }
    }

    /// Sends a program, for as long as the host takes it in.
    async fn send(&mut self, path: &Path) -> Result<(), Trouble> {
        let (mut file, mut piece) = match File::open(path) {
            Ok(file) => (file, vec![0; PIECE]),
            Err(error) => return Err(unread(path, &error)),
        };
        loop {
            let read = match file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) => return Err(unread(path, &error)),
            };
            let Some(input) = self.input.as_mut() else { return Err(self.broken().await) };
            match tokio::time::timeout(STEP, input.write_all(&piece[..read])).await {
                Ok(Ok(())) => {}
                // It has said why, or has ended.
                Ok(Err(_)) => return Err(self.broken().await),
                Err(_) => return Err(self.silent(STEP)),
            }
        }
    }

    /// Has an order carried out, for which the host is given `patience` and its own time.
    pub(super) async fn order(&mut self, order: &Order, patience: Duration) -> Result<Answer, Trouble> {
        let line = to_line(order).map_err(|why| Trouble::new(format!("was not given the order: {why}")))?;
        let limit = STEP + patience;
        let exchange = async {
            // Who does not read any more has said why, or has ended.
            let _ = self.input.as_mut()?.write_all(line.as_bytes()).await;
            self.lines.recv().await
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(Some(line)) => match from_line(&line) {
                Some(Ok(Answer::Refused(why))) => Err(Trouble::new(format!("refused: {why}"))),
                Some(Ok(answer)) => Ok(answer),
                Some(Err(why)) => Err(Trouble::new(format!("gave {why}"))),
                None => Err(Trouble::new("gave an answer that is not understood")),
            },
            Ok(None) => Err(self.broken().await),
            Err(_) => Err(self.silent(limit)),
        }
    }

    fn silent(&self, limit: Duration) -> Trouble {
        Trouble { what: format!("did not answer within {} s", limit.as_secs()), said: self.call.said() }
    }

    /// Why the session has ended unasked.
    async fn broken(&mut self) -> Trouble {
        drop(self.input.take());
        match tokio::time::timeout(STEP, self.call.wait()).await {
            Ok(Some(trouble)) => trouble,
            Ok(None) | Err(_) => Trouble { what: "ended the session unasked".into(), said: self.call.said() },
        }
    }

    /// The news of the agent's end, once there is any.
    pub(super) fn news(&self) -> Option<Answer> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it in good order.
    pub(super) async fn close(mut self) {
        drop(self.input.take());
        let _ = tokio::time::timeout(STEP, self.call.wait()).await;
    }
}

fn unread(path: &Path, error: &io::Error) -> Trouble {
    Trouble::new(format!("was not sent {}: {error}", path.display()))
}

/// Hands on the lines that are ours, and keeps the news.
async fn hear(output: ChildStdout, lines: mpsc::Sender<Vec<u8>>, news: Arc<Mutex<Option<Answer>>>) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        match (&mut output).take(MAX_LINE as u64).read_until(b'\n', &mut line).await {
            Ok(1..) if line.pop() == Some(b'\n') => {}
            _ => return,
        }
        if !line.starts_with(MARK) {
            continue;
        }
        if let Some(Ok(told @ Answer::Ended { .. })) = from_line(&line) {
            *news.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        } else if lines.send(line).await.is_err() {
            return;
        }
    }
}
