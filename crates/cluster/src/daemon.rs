//! What head and agent have in common as processes that run in the background.

use std::future;

use tokio::signal::unix::{SignalKind, signal};

use crate::state::StateDir;

/// Names the read end of a pipe that the runner of an owned cluster holds open: at its end-of-file the runner is gone.
pub(crate) const TETHER_VARIABLE: &str = "LYCEUM_TETHER_FD";

/// Waits until this process of the cluster in `state` is told to end, by a signal or by the end of its runner, and says
/// by whom. What the runner would have cleared away goes with it.
pub(crate) async fn told_to_end(state: &StateDir) -> String {
    tokio::select! {
        () = signalled(SignalKind::terminate()) => "SIGTERM".to_owned(),
        () = signalled(SignalKind::interrupt()) => "SIGINT".to_owned(),
        () = tether_cut() => {
            crate::launch::remove_keys(state).await;
            "the end of its runner".to_owned()
        }
    }
}

async fn signalled(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => future::pending().await,
    }
}

/// Returns when the runner is gone; never, where there is none.
async fn tether_cut() {
    let Some(tether) = crate::spawn::inherited_fd(TETHER_VARIABLE) else { return future::pending().await };
    let Ok(tether) = crate::spawn::readable(tether) else { return };
    loop {
        let Ok(mut ready) = tether.readable().await else { return };
        let mut byte = [0; 1];
        match rustix::io::read(&tether, &mut byte) {
            Ok(0) => return,
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => ready.clear_ready(),
            Err(_) => return,
        }
    }
}
