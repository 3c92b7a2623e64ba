//! The one permanent thread that starts processes: a parent-death signal fires when the forking thread ends, so that thread must
//! last as long as the agent. What a template forks has that thread for its parent too, since the template has.

use std::io;
use std::process::Command;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::child::Child;
use super::start::Start;
use super::templates::Templates;
use crate::error::ClusterError;

/// Forks that may wait.
const MAX_FORKS: usize = 256;

/// Asks the forking thread, or the template of a program.
#[derive(Debug, Clone)]
pub(super) struct Forker {
    orders: mpsc::Sender<Order>,
    templates: Arc<Templates>,
}

type Order = (Command, oneshot::Sender<io::Result<std::process::Child>>);

impl Forker {
    pub(super) fn start() -> Result<Forker, ClusterError> {
        let (orders, mut inbox) = mpsc::channel::<Order>(MAX_FORKS);
        std::thread::Builder::new()
            .name("lyceum-forker".into())
            .spawn(move || {
                while let Some((mut command, reply)) = inbox.blocking_recv() {
                    // Whoever asked may have gone; the agent is ending then, and so is the child.
                    let _ = reply.send(command.spawn());
                }
                // The agent ends in another thread; until then its workers must not lose their parent.
                loop {
                    std::thread::park();
                }
            })
            .map_err(ClusterError::system("start the forking thread"))?;
        Ok(Forker { orders, templates: Arc::default() })
    }

    /// Starts a worker.
    pub(super) async fn fork(&self, start: Start) -> io::Result<Child> {
        if start.can_be_forked()
            && let Some(child) = self.templates.fork(&start, self).await?
        {
            return Ok(child);
        }
        self.run(start.command()?).await
    }

    /// Runs a program.
    pub(super) async fn run(&self, command: Command) -> io::Result<Child> {
        let (reply, forked) = oneshot::channel();
        let gone = || io::Error::other("the forking thread is gone");
        self.orders.send((command, reply)).await.map_err(|_| gone())?;
        Child::try_from(forked.await.map_err(|_| gone())??)
    }

    /// Ends what it keeps for workers that are still to come.
    pub(super) async fn end(&self) {
        self.templates.end().await;
    }
}
