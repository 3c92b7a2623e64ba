//! A rank's socket to other hosts, open before any gang is known.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use lyceum_wire::{Admission, CloseCode, Credentials, Endpoint, EndpointOptions, PeerRole};
use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

use crate::CollectiveError;

const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// How long the last words to peers may take when a seat closes.
const FAREWELL: Duration = Duration::from_secs(1);

/// A rank's own endpoint for bulk to the other hosts' ranks, with its own thread. It outlives epochs. Cheap to clone.
#[derive(Clone)]
pub struct Seat(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Seat {
    /// Binds `bind`, or one of `ports` where its port is 0 and there are any, with a worker's credentials; only workers of
    /// the same cluster come in. A peer whose packets stop is
    /// lost after `silence`: choose it longer than whoever supervises the ranks takes for its verdict, which says more
    /// and ends the wait sooner. (A process that dies takes its host's peers with it at once.)
    ///
    /// # Errors
    /// [`CollectiveError::Unavailable`] when the socket, the thread or the credentials are refused. Its rank is 0: no
    /// gang is known yet.
    pub fn open(
        credentials: Credentials,
        bind: SocketAddr,
        ports: Range<u16>,
        silence: Duration,
    ) -> Result<Self, CollectiveError> {
        let unavailable = |reason: String| CollectiveError::Unavailable {
            rank: 0,
            what: format!("open a seat at {bind}"),
            reason,
        };
        let mut options = EndpointOptions { ports, ..EndpointOptions::new(bind) };
        options.admission = Admission::roles([PeerRole::Worker]);
        options.transport.keep_alive = KEEP_ALIVE;
        options.transport.idle_timeout = silence;
        let (opened, report) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(opened.send(Err(error.to_string()))),
            };
            runtime.block_on(async {
                let endpoint = match Endpoint::bind(credentials, options) {
                    Ok(endpoint) => endpoint,
                    Err(error) => return drop(opened.send(Err(error.to_string()))),
                };
                // The opener waits for this.
                let _ = opened.send(Ok((endpoint.clone(), Handle::current())));
                let _ = stopped.await;
                endpoint.close(CloseCode::ShuttingDown, "the seat is closed");
                let _ = tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await;
            });
        };
        let thread = std::thread::Builder::new().name("lyceum-coll-io".into());
        let thread = thread.spawn(serve).map_err(|error| unavailable(error.to_string()))?;
        let opened = report.recv().map_err(|_| unavailable("its thread ended".into()))?;
        let (endpoint, runtime) = opened.map_err(unavailable)?;
        Ok(Self(Arc::new(Inner { endpoint, runtime, stop: Some(stop), thread: Some(thread) })))
    }

    /// The address for [`Member::addr`](crate::Member::addr).
    pub fn addr(&self) -> SocketAddr {
        self.0.endpoint.local_addr()
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It fails only where the thread has ended.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // The last reference may fall on the thread itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seat({})", self.addr())
    }
}
