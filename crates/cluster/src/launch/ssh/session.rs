//! The end of a session that is here: orders go out, answers and news come in.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::mpsc;

use super::connection::{Call, Connection, Trouble};
use super::words::{Answer, MAX_LINE, Order, from_line, to_line};

/// Answers that may wait to be read.
const MAX_ANSWERS: usize = 8;
/// How long a host may take to carry out an order, beyond the time that the order itself grants.
const CARRY_OUT: Duration = Duration::from_secs(30);

/// A session with one host about one node's agent. Until it is released the agent ends with it.
#[derive(Debug)]
pub(super) struct Session {
    call: Call,
    input: Option<ChildStdin>,
    answers: mpsc::Receiver<Result<Answer, String>>,
    news: Arc<Mutex<Option<Answer>>>,
}

impl Session {
    /// Begins one by `command` on the host of `connection`.
    pub(super) fn begin(connection: &Connection, command: &str) -> Result<Session, Trouble> {
        let mut call = connection.open(command)?;
        let (send, answers) = mpsc::channel(MAX_ANSWERS);
        let news = Arc::new(Mutex::new(None));
        if let Some(output) = call.child.stdout.take() {
            tokio::spawn(hear(output, send, news.clone()));
        }
        Ok(Session { input: call.input.take(), call, answers, news })
    }

    /// Has an order carried out, for which the host is given `patience` and its own time.
    pub(super) async fn order(&mut self, order: &Order, patience: Duration) -> Result<Answer, Trouble> {
        let limit = CARRY_OUT + patience;
        let answer = match tokio::time::timeout(limit, self.exchange(order)).await {
            Ok(answer) => answer,
            Err(_) => Some(Err(format!("did not answer within {} s", limit.as_secs()))),
        };
        match answer {
            Some(Ok(Answer::Refused(why))) => Err(Trouble { what: format!("refused: {why}"), said: vec![] }),
            Some(Ok(answer)) => Ok(answer),
            Some(Err(what)) => Err(Trouble { what, said: self.call.said() }),
            None => Err(self.broken().await),
        }
    }

    async fn exchange(&mut self, order: &Order) -> Option<Result<Answer, String>> {
        let line = match to_line(order) {
            Ok(line) => line,
            Err(why) => return Some(Err(format!("was not given the order: {why}"))),
        };
        let input = self.input.as_mut()?;
        // Who does not read any more has said why, or ended.
        let _ = input.write_all(line.as_bytes()).await;
        self.answers.recv().await
    }

    /// Why the session has ended unasked.
    async fn broken(&mut self) -> Trouble {
        drop(self.input.take());
        match tokio::time::timeout(CARRY_OUT, self.call.wait()).await {
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
        let _ = tokio::time::timeout(CARRY_OUT, self.call.wait()).await;
    }
}

async fn hear(
    output: ChildStdout,
    answers: mpsc::Sender<Result<Answer, String>>,
    news: Arc<Mutex<Option<Answer>>>,
) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        match (&mut output).take(MAX_LINE as u64).read_until(b'\n', &mut line).await {
            Ok(1..) if line.pop() == Some(b'\n') => {}
            _ => return,
        }
        let heard = match from_line(&line) {
            Some(Ok(told @ Answer::Ended { .. })) => {
                *news.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
                continue;
            }
            Some(answer) => answer,
            None => continue,
        };
        if answers.send(heard).await.is_err() {
            return;
        }
    }
}
