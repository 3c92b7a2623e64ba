//! The end of a session that is on the host: carries out what `up` and `down` order there.

use std::io::{self, BufRead, Read, Write};
use std::time::Duration;

use tokio::sync::mpsc;

use super::words::{Answer, MAX_LINE, Order, Subject, from_line, to_line};
use crate::error::ClusterError;
use crate::host::ProcessMark;
use crate::launch::ends::Ends;
use crate::launch::order::AgentOrder;
use crate::launch::starter::{Starter, agents_here, end_processes, ended, tail_of};
use crate::state::{StateDir, read_json, remove, write_json};

/// Orders that may wait.
const MAX_ORDERS: usize = 8;

/// Serves one session on standard input and output, until it ends. The body of `lyceum host`.
///
/// An agent that was started in it ends with it, unless it was released before: a session that breaks off leaves nothing.
pub fn serve_orders() -> Result<(), ClusterError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(ClusterError::system("start the session's runtime"))?;
    let (lines, orders) = mpsc::channel(MAX_ORDERS);
    // A thread: what is read may be a file, on which nobody can wait.
    std::thread::Builder::new()
        .name("lyceum-orders".into())
        .spawn(move || read_orders(&lines))
        .map_err(ClusterError::system("start a thread"))?;
    runtime.block_on(serve(orders))
}

fn read_orders(orders: &mpsc::Sender<Result<Order, String>>) {
    let mut input = io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let read = (&mut input).take(MAX_LINE as u64).read_until(b'\n', &mut line);
        let order = match read {
            Ok(0) | Err(_) => return,
            // Cut off, or far too long.
            Ok(_) if line.pop() != Some(b'\n') => return,
            Ok(_) => from_line(&line),
        };
        if order.is_some_and(|order| orders.blocking_send(order).is_err()) {
            return;
        }
    }
}

async fn serve(mut orders: mpsc::Receiver<Result<Order, String>>) -> Result<(), ClusterError> {
    let Some(first) = orders.recv().await else { return Ok(()) };
    let subject = match first {
        Ok(Order::Look(subject)) => subject,
        Ok(_) | Err(_) => {
            return Err(ClusterError::Refused("`host` is what `up` calls on other machines".into()));
        }
    };
    let mut place = match Place::find(subject) {
        Ok(place) => place,
        Err(error) => return say(&Answer::Refused(error.to_string())),
    };
    say(&Answer::Looked { lives: !place.agents().is_empty() })?;
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            news = place.agent_ended() => {
                if say(&news).is_err() {
                    break;
                }
                continue;
            }
        };
        let Some(order) = order else { break };
        let answer = match order {
            Ok(Order::Start(order)) => place.start(&order).await,
            Ok(Order::ShowLog) => Ok(place.log()),
            Ok(Order::Release) => {
                place.started = None;
                return say(&Answer::Released);
            }
            Ok(Order::End { patience_ms }) => place.end(Duration::from_millis(patience_ms)).await,
            Ok(Order::Look(_)) => Ok(Answer::Refused("the session is about another agent already".into())),
            Err(error) => Ok(Answer::Refused(error)),
        };
        if say(&answer.unwrap_or_else(|error| Answer::Refused(error.to_string()))).is_err() {
            break;
        }
    }
    // Nobody is there any more, and nobody has said that the agent is to go on.
    match place.started {
        Some(_) => place.end(Duration::ZERO).await.map(drop),
        None => Ok(()),
    }
}

fn say(answer: &Answer) -> Result<(), ClusterError> {
    let line = to_line(answer).map_err(ClusterError::Refused)?;
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).map_err(ClusterError::system("answer"))
}

/// The node's place on this host.
struct Place {
    subject: Subject,
    state: StateDir,
    ends: Ends,
    /// The agent that this session has started and not released.
    started: Option<Started>,
}

#[derive(Clone, Copy)]
struct Started {
    mark: ProcessMark,
    /// Its end has been told.
    told: bool,
}

impl Place {
    /// Refused where an agent runs that another machine's `up` has started: it is not ours to find, nor to end.
    fn find(subject: Subject) -> Result<Place, ClusterError> {
        let state = StateDir::of(&subject.cluster)?;
        crate::manifest::check_name("node name", &subject.node).map_err(ClusterError::Refused)?;
        let place = Place { subject, state, ends: Ends::default(), started: None };
        let Subject { cluster, node, origin } = &place.subject;
        match read_json::<String>(&place.origin_file()) {
            Ok(other) if other != *origin && !place.agents().is_empty() => {
                Err(ClusterError::Refused(format!(
                    "an agent of node `{node}` of a cluster `{cluster}` that was started from {other} runs there: \
                     `lyceum down {cluster}` on that machine first, or give this cluster another name"
                )))
            }
            _ => Ok(place),
        }
    }

    fn origin_file(&self) -> std::path::PathBuf {
        self.state.node(&self.subject.node).join("origin")
    }

    fn agents(&self) -> Vec<ProcessMark> {
        agents_here(&self.state, Some(&self.subject.node))
    }

    async fn start(&mut self, order: &AgentOrder) -> Result<Answer, ClusterError> {
        let node = &self.subject.node;
        if order.manifest.name != self.subject.cluster || order.node()?.name != *node {
            return Err(ClusterError::Refused("the order is for another agent".into()));
        }
        self.end(Duration::ZERO).await?;
        let program = std::env::current_exe().map_err(ClusterError::system("find this program"))?;
        let starter = Starter::new(program, self.state.clone(), None, self.ends.clone());
        let started = order.carry_out(&starter).and_then(|mark| {
            self.started = Some(Started { mark, told: false });
            write_json(&self.origin_file(), &self.subject.origin)?;
            Ok(Answer::Started { pid: mark.pid })
        });
        if started.is_err() {
            self.end(Duration::ZERO).await?;
        }
        started
    }

    fn log(&self) -> Answer {
        let file = self.state.agent_log(&self.subject.node);
        Answer::Log { lines: tail_of(&file), file: file.display().to_string() }
    }

    /// The news of the end of the agent that was started here, once.
    async fn agent_ended(&mut self) -> Answer {
        let Some(Started { mark, told: false }) = self.started else { return std::future::pending().await };
        ended(mark).await;
        self.started = Some(Started { mark, told: true });
        let file = self.state.agent_log(&self.subject.node);
        Answer::Ended {
            pid: mark.pid,
            how: self.ends.in_words(mark),
            lines: tail_of(&file),
            file: file.display().to_string(),
        }
    }

    /// Ends the node's agents, whoever has started them, and removes what they leave: nothing of the node stays, and
    /// nothing of the cluster when it was the last.
    async fn end(&mut self, patience: Duration) -> Result<Answer, ClusterError> {
        let agents = self.agents();
        let was_up = !agents.is_empty();
        end_processes(agents, patience).await;
        self.started = None;
        let (state, node) = (&self.state, &self.subject.node);
        let log = state.agent_log(node);
        for path in [state.node(node), state.worker_logs(node), log] {
            remove(&path)?;
        }
        // Folders that others still use stay, for they are not empty.
        for folder in [&state.nodes(), &state.logs(), state.root()] {
            let _ = std::fs::remove_dir(folder);
        }
        Ok(Answer::Cleared { was_up })
    }
}
