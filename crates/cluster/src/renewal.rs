//! Keeps the certificate of this process new, for as long as it lives.
//!
//! When half of a certificate's time has passed a new key is made here, and the head signs a certificate for its public
//! half. Where the head is away that is tried again until it is back: for the other half of the time nothing depends on it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use lyceum_actor::ControlError;
use lyceum_wire::{Credentials, FreshKey, Membership};
use tokio::sync::Notify;

use crate::ask::{Reply, unexpected};
use crate::control::vocabulary::{Answer, Ask};

/// How long the head may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two attempts, at least and at most.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// A certificate that was renewed is not renewed again sooner, whatever the clock says.
const REST: Duration = Duration::from_millis(500);

/// Renews what `membership` shows when it is time, or `wanted` says so, with what `ask` brings from the head. In `folder`, if
/// there is one, it is kept for the next start.
pub(crate) async fn keep<A>(membership: Membership, wanted: Arc<Notify>, folder: Option<PathBuf>, ask: A)
where
    A: Fn(Ask) -> BoxFuture<'static, Result<Reply, ControlError>>,
{
    let mut failing: Option<Instant> = None;
    let mut wait = WAITS.0;
    loop {
        let pause = if failing.is_some() { wait } else { membership.renewal_due().max(REST) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wanted.notified() => {}
        }
        match tokio::time::timeout(PATIENCE, renew(&membership, folder.as_ref(), &ask)).await {
            Ok(Ok(())) => {
                let fingerprint = membership.credentials().fingerprint();
                tracing::info!(%fingerprint, "the certificate is renewed");
                (failing, wait) = (None, WAITS.0);
            }
            failed => {
                let why = match failed {
                    Ok(Err(why)) => why,
                    _ => format!("no answer within {} s", PATIENCE.as_secs()),
                };
                if failing.is_none() {
                    tracing::warn!(why, "the certificate is not renewed yet: this is tried again");
                }
                failing.get_or_insert_with(Instant::now);
                wait = (wait * 2).min(WAITS.1);
            }
        }
    }
}

async fn renew<A>(membership: &Membership, folder: Option<&PathBuf>, ask: &A) -> Result<(), String>
where
    A: Fn(Ask) -> BoxFuture<'static, Result<Reply, ControlError>>,
{
    let words = |error: lyceum_wire::WireError| error.to_string();
    let key = FreshKey::generate().map_err(words)?;
    let chain = match ask(Ask::Renew { public_key: key.public_key() }).await {
        Ok((Answer::Certified { chain }, _)) => chain,
        Ok((other, _)) => return Err(unexpected(&other).to_string()),
        Err(error) => return Err(error.to_string()),
    };
    let credentials = Credentials::with_key(&chain, key).map_err(words)?;
    membership.renew(credentials.clone()).map_err(words)?;
    // The process goes on without; it is the next start that would find an older one.
    folder.map_or(Ok(()), |folder| credentials.save(folder)).map_err(words)
}
