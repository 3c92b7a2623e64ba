//! The programs that jobs bring: this node's own, and how they come here.
//!
//! A client brings a program to one node. An agent that is to start a worker of it, and lacks it, fetches it once from a node
//! that has it, however many workers wait for it. A node gives a program to two others at a time, and tells who asks meanwhile
//! of a node that has it since, so that one program reaches many nodes along a tree.

mod cache;
pub(crate) mod transfer;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use lyceum_store::StorePeers;
use lyceum_wire::{BulkReceiver, BulkSender, PeerRole};
use tokio::sync::{Semaphore, mpsc::Sender};

use self::cache::Cache;
pub(crate) use self::cache::Kept;
use self::transfer::{Said, Wish};
use super::driver::Happening;
use crate::error::ClusterError;
use crate::program::ProgramHash;

/// Nodes that are given a program at a time.
const GIVEN_AT_A_TIME: usize = 2;
/// Who waits for its turn is told so this often.
const WAIT_EVERY: Duration = Duration::from_secs(2);
/// Programs of which it is known who has them.
const MAX_KNOWN: usize = 1024;

type Having = BoxFuture<'static, Result<Arc<Kept>, String>>;
/// One fetch, for all who wait for it.
type Fetch = Shared<Having>;

/// The programs of this node. Cheap to clone.
#[derive(Clone)]
pub(super) struct Programs(Arc<Inner>);

struct Inner {
    node: String,
    cache: Cache,
    peers: Arc<dyn StorePeers>,
    events: Sender<Happening>,
    /// Those that are on their way.
    fetches: Mutex<BTreeMap<ProgramHash, WeakShared<Having>>>,
    /// Which other nodes have which, as the head says.
    holders: Mutex<BTreeMap<ProgramHash, Vec<String>>>,
    /// To which nodes which were given.
    given: Mutex<BTreeMap<ProgramHash, BTreeSet<String>>>,
    turns: Semaphore,
}

/// What one client has brought: it stays here for as long as the client is connected.
pub(super) type Pins = Arc<Mutex<BTreeMap<ProgramHash, Arc<Kept>>>>;

impl Programs {
    /// Those in `folder`, of at most `bound` bytes.
    pub(super) fn open(
        node: &str,
        folder: PathBuf,
        bound: u64,
        peers: Arc<dyn StorePeers>,
        events: Sender<Happening>,
    ) -> Result<Programs, ClusterError> {
        let cache =
            Cache::open(folder.clone(), bound).map_err(|error| ClusterError::file(&folder, &error))?;
        Ok(Programs(Arc::new(Inner {
            node: node.to_owned(),
            cache,
            peers,
            events,
            fetches: Mutex::default(),
            holders: Mutex::default(),
            given: Mutex::default(),
            turns: Semaphore::new(GIVEN_AT_A_TIME),
        })))
    }

    /// What is here.
    pub(super) fn held(&self) -> Vec<String> {
        self.0.cache.held().iter().map(ProgramHash::to_string).collect()
    }

    /// These nodes have it.
    pub(super) fn held_by(&self, hash: ProgramHash, nodes: Vec<String>) {
        let mut holders = locked(&self.0.holders);
        if holders.len() >= MAX_KNOWN && !holders.contains_key(&hash) {
            holders.pop_first();
        }
        holders.insert(hash, nodes);
    }

    /// The program, checked, from here or from another node. Who asks while it is on its way waits for the same fetch, which ends
    /// when nobody waits any more.
    pub(super) fn have(&self, hash: ProgramHash) -> Fetch {
        let mut fetches = locked(&self.0.fetches);
        fetches.retain(|_, fetch| fetch.upgrade().is_some_and(|fetch| fetch.peek().is_none()));
        if let Some(fetch) = fetches.get(&hash).and_then(WeakShared::upgrade) {
            return fetch;
        }
        let programs = self.clone();
        let fetch = async move {
            let node = programs.0.node.clone();
            programs.find(hash).await.map_err(|why| format!("program {hash} on node `{node}`: {why}"))
        };
        let fetch = fetch.boxed().shared();
        fetches.extend(fetch.downgrade().map(|fetch| (hash, fetch)));
        fetch
    }

    async fn find(&self, hash: ProgramHash) -> Result<Arc<Kept>, String> {
        let mut said = Vec::new();
        match self.here(hash).await {
            Some(Ok(program)) => return Ok(program),
            // What was here is not that any more, and is fetched again.
            Some(Err(why)) => said.push(why),
            None => {}
        }
        let holders = locked(&self.0.holders).get(&hash).cloned().unwrap_or_default();
        if holders.is_empty() {
            said.push("no other node has it any more".into());
        }
        for node in holders {
            match self.fetch(hash, &node).await {
                Ok(program) => {
                    tracing::info!(program = %hash, from = node, bytes = program.bytes(), "a program was fetched");
                    self.changed().await;
                    return Ok(program);
                }
                Err(why) => {
                    tracing::warn!(program = %hash, from = node, why, "a program was not fetched");
                    said.push(format!("not had from node `{node}`: {why}"));
                }
            }
        }
        Err(said.join("; "))
    }

    /// That of this node, once it is known to be whole.
    async fn here(&self, hash: ProgramHash) -> Option<Result<Arc<Kept>, String>> {
        let program = self.0.cache.get(hash)?;
        let cache = self.0.cache.clone();
        let checking = tokio::task::spawn_blocking(move || cache.check(&program).map(|()| program));
        let checked = checking.await.unwrap_or_else(|error| Err(error.to_string()));
        if let Err(why) = &checked {
            tracing::warn!(program = %hash, why, "a program is not what it was, and is given up");
            self.changed().await;
        }
        Some(checked)
    }

    async fn fetch(&self, hash: ProgramHash, node: &str) -> Result<Arc<Kept>, String> {
        let mut insists = false;
        loop {
            match self.fetch_once(hash, node, insists).await? {
                Ok(program) => return Ok(program),
                Err(other) => match self.fetch_once(hash, &other, true).await {
                    Ok(Ok(program)) => return Ok(program),
                    // A copy that was given up costs a question.
                    _ => insists = true,
                },
            }
        }
    }

    /// Asks one node, which may name another.
    async fn fetch_once(
        &self,
        hash: ProgramHash,
        node: &str,
        insists: bool,
    ) -> Result<Result<Arc<Kept>, String>, String> {
        let connecting = tokio::time::timeout(transfer::STALL, self.0.peers.connect(node, 0)).await;
        let connection = match connecting {
            Ok(connection) => connection.map_err(|error| format!("its agent cannot be reached: {error}"))?,
            Err(_) => return Err("its agent does not answer".into()),
        };
        let wish = Wish::Fetch { hash, insists }.encode();
        let (mut sender, mut receiver) = transfer::within(connection.open_bulk(&wish)).await?;
        sender.finish().map_err(|error| error.to_string())?;
        match transfer::hear(&mut receiver).await? {
            Said::Here => {
                let bytes = transfer::size(&mut receiver).await?;
                let cache = self.0.cache.clone();
                let room = tokio::task::spawn_blocking(move || cache.receive(hash, bytes));
                let incoming = room.await.map_err(|error| error.to_string())??;
                transfer::take(&mut receiver, incoming).await.map(Ok)
            }
            Said::Elsewhere(other) if !insists => Ok(Err(other)),
            Said::NotHere(why) => Err(why),
            said => Err(format!("its agent answered {said:?}, which does not fit")),
        }
    }

    /// Serves a stream that a peer of this role opened, if its header says that it is one of these.
    pub(super) async fn serve(
        &self,
        peer: (PeerRole, &str),
        header: &Bytes,
        sender: BulkSender,
        receiver: BulkReceiver,
        pins: &Pins,
    ) {
        let served = match (Wish::decode(header), peer) {
            (Ok(Wish::Fetch { hash, insists }), (PeerRole::Agent, node)) => {
                self.serve_fetch(hash, insists, node, sender).await
            }
            (Ok(Wish::Bring { hash, bytes }), (PeerRole::Client, _)) => {
                self.take_in(hash, bytes, sender, receiver, pins).await
            }
            (Ok(wish), (role, _)) => Err(format!("{wish:?} is not for one of role {role}")),
            (Err(why), _) => Err(why),
        };
        if let Err(why) = served {
            tracing::debug!(peer = peer.1, why, "a stream about a program broke off");
        }
    }

    async fn serve_fetch(
        &self,
        hash: ProgramHash,
        insists: bool,
        node: &str,
        mut sender: BulkSender,
    ) -> Result<(), String> {
        let program = match self.here(hash).await {
            Some(Ok(program)) => program,
            Some(Err(why)) => return transfer::say_last(&mut sender, &Said::NotHere(why)).await,
            None => {
                let why = "it is not there any more".to_owned();
                return transfer::say_last(&mut sender, &Said::NotHere(why)).await;
            }
        };
        let mut turn = self.0.turns.try_acquire().ok();
        if turn.is_none()
            && !insists
            && let Some(other) = self.given_to(hash, node)
        {
            return transfer::say_last(&mut sender, &Said::Elsewhere(other)).await;
        }
        while turn.is_none() {
            match tokio::time::timeout(WAIT_EVERY, self.0.turns.acquire()).await {
                Ok(Ok(ours)) => turn = Some(ours),
                Ok(Err(_)) => return Err("it is over".into()),
                Err(_) => transfer::say_wait(&mut sender).await?,
            }
        }
        tracing::info!(program = %hash, to = node, "a program is given");
        transfer::give(&mut sender, program).await?;
        let held = self.0.cache.held();
        let mut given = locked(&self.0.given);
        given.retain(|hash, _| held.contains(hash));
        given.entry(hash).or_default().insert(node.to_owned());
        Ok(())
    }

    /// A node that was given it, other than `node`: not the same one for all who ask.
    fn given_to(&self, hash: ProgramHash, node: &str) -> Option<String> {
        let given = locked(&self.0.given);
        let nodes = given.get(&hash)?;
        let after = nodes.range::<str, _>((Bound::Excluded(node), Bound::Unbounded));
        after.chain(nodes.iter().filter(|other| other.as_str() < node)).next().cloned()
    }

    async fn take_in(
        &self,
        hash: ProgramHash,
        bytes: u64,
        mut sender: BulkSender,
        mut receiver: BulkReceiver,
        pins: &Pins,
    ) -> Result<(), String> {
        let taken = async {
            if let Some(Ok(program)) = self.here(hash).await {
                return Ok(program);
            }
            let cache = self.0.cache.clone();
            let room = tokio::task::spawn_blocking(move || cache.receive(hash, bytes));
            let incoming = room.await.map_err(|error| error.to_string())??;
            transfer::say_send(&mut sender).await?;
            let program = transfer::take(&mut receiver, incoming).await?;
            tracing::info!(program = %hash, bytes, "a client brought a program");
            self.changed().await;
            Ok(program)
        };
        let said = match taken.await {
            Ok(program) => {
                locked(pins).insert(hash, program);
                Said::Here
            }
            Err(why) => Said::NotHere(why),
        };
        transfer::say_last(&mut sender, &said).await
    }

    /// The head is to know.
    async fn changed(&self) {
        let _ = self.0.events.send(Happening::ProgramsChanged).await;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
