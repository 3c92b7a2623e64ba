//! The one permanent thread that forks workers: a parent-death signal fires when the forking thread ends, so that thread
//! must last as long as the agent.

use std::io;
use std::process::{Child, Command};

use tokio::sync::{mpsc, oneshot};

use crate::error::ClusterError;

/// Forks that may wait.
const MAX_FORKS: usize = 256;

/// Asks the forking thread.
#[derive(Debug, Clone)]
pub(super) struct Forker {
    orders: mpsc::Sender<Order>,
}

type Order = (Command, oneshot::Sender<io::Result<Child>>);

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
        Ok(Forker { orders })
    }

    pub(super) async fn fork(&self, command: Command) -> io::Result<Child> {
        let (reply, forked) = oneshot::channel();
        let gone = || io::Error::other("the forking thread is gone");
        self.orders.send((command, reply)).await.map_err(|_| gone())?;
        forked.await.map_err(|_| gone())?
    }
}
