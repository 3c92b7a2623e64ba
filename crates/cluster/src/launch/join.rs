//! A host becomes a node with a token: nothing of the cluster was on it before, and its key is made there.
//!
//! What a launcher does for the hosts that it reaches, the host does here for itself: the head gives it a certificate, and
//! the order that it would have given a launcher.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lyceum_wire::{Credentials, FreshKey, PeerRole, TOO_MANY_GUESTS, WireError, ask_as_guest};

use super::ends::Ends;
use super::order::{AgentOrder, Secret};
use super::record::{Lock, RunRecord};
use super::starter::{POLL, Starter, agents_here, end_processes, loss, tail_of};
use crate::error::ClusterError;
use crate::host;
use crate::manifest::{Manifest, NodeSection, check_name};
use crate::message::{self, Admission, Application, GuestToHead, HeadToGuest};
use crate::state::{StateDir, read_json, remove};
use crate::token::JoinToken;

/// How long one attempt to ask the head may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// A head that does not answer is asked again for so long: it may be starting.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest wait for the agent to join.
const JOIN: Duration = Duration::from_secs(30);

/// How a host joins.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// Where it keeps its key and its logs.
    pub state: StateDir,
    /// The program whose `agent` command is run.
    pub program: PathBuf,
    /// The address to listen on.
    pub bind: Option<IpAddr>,
    /// The network interface whose address to listen on.
    pub interface: Option<String>,
    /// The address that others reach it by, where that is not the one it listens on.
    pub advertise: Option<IpAddr>,
}

impl JoinOptions {
    /// As the manifest and the way to the head say; in the default place, run by this very program.
    pub fn standing(token: &JoinToken) -> Result<JoinOptions, ClusterError> {
        let program = std::env::current_exe().map_err(ClusterError::system("find this program"))?;
        let state = StateDir::of(&token.cluster)?;
        Ok(JoinOptions { state, program, bind: None, interface: None, advertise: None })
    }
}

/// A host that has joined.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Its node.
    pub node: String,
    /// The incarnation that it was given.
    pub incarnation: u64,
    /// Its agent's number on this machine.
    pub pid: u32,
    /// Its agent's log.
    pub log: PathBuf,
}

/// The order to start the agent of `node` on a host that the head knows nothing of, without credentials.
pub(crate) fn order_for(
    manifest: &Manifest,
    node: &str,
    owned: bool,
    heads: Vec<SocketAddr>,
) -> Result<Vec<u8>, ClusterError> {
    let known = manifest.nodes.iter().position(|section| section.name == node);
    let section = known.map_or_else(|| NodeSection::named(node), |index| manifest.nodes[index].clone());
    let order = AgentOrder {
        manifest: Manifest { nodes: vec![section], ..manifest.clone() },
        index: 0,
        owned,
        // A block of ports is shared out among the manifest's nodes.
        ports: known.map_or(0..0, |index| manifest.node_ports(index)),
        heads,
        credentials: Secret::none(),
    };
    serde_json::to_vec(&order).map_err(|error| ClusterError::Refused(format!("the order: {error}")))
}

/// Has this host join as the node that the token is for; returns when its agent has joined. The agent goes on without this
/// process.
///
/// # Errors
/// [`ClusterError::Wire`] with the head's words when it does not let this host in.
pub async fn join(token: &JoinToken, options: JoinOptions) -> Result<Joined, ClusterError> {
    let state = options.state.clone();
    state.make(state.root())?;
    let _lock = Lock::take(&state).await?;
    if let Some(agent) = agents_here(&state, Some(&token.node)).first() {
        return Err(ClusterError::Refused(format!(
            "an agent of node `{}` of cluster `{}` runs here already, process {}",
            token.node, token.cluster, agent.pid
        )));
    }
    let key = FreshKey::generate()?;
    let Admission { chain, order } = apply(token, &key).await?;
    let credentials = Credentials::with_key(&chain, key)?;
    check(token, &credentials)?;
    let mut order: AgentOrder = serde_json::from_slice(&order)
        .map_err(|error| ClusterError::Refused(format!("the head's order is not understood: {error}")))?;
    order.credentials = Secret::of(&credentials);
    settle(&mut order, token, &options)?;

    let mark_file = state.node(&token.node).join(JOINED);
    remove(&mark_file)?;
    let ends = Ends::default();
    let starter = Starter::new(options.program.clone(), state.clone(), None, ends.clone());
    let mark = order.carry_out(&starter)?;
    let mut record = RunRecord::load(&state);
    record.agents.insert(token.node.clone(), mark);
    record.save(&state)?;
    let incarnation = credentials.identity().incarnation();
    let log = state.agent_log(&token.node);
    let began = Instant::now();
    while read_json::<u64>(&mark_file).ok() != Some(incarnation) {
        let who = format!("the agent of node `{}`", token.node);
        if let Some(loss) = loss(&who, mark, &ends, &log) {
            return Err(loss);
        }
        if began.elapsed() > JOIN {
            end_processes(vec![mark], Duration::ZERO).await;
            let what = format!("{who} did not join the head within {} s", JOIN.as_secs());
            return Err(ClusterError::Process { what, log: tail_of(&log) });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(Joined { node: token.node.clone(), incarnation, pid: mark.pid, log })
}

/// In a node's folder: the incarnation as which its agent has joined last.
pub(crate) const JOINED: &str = "joined";

/// Asks the head, with the same key until it answers: a token that was used is good for that key still.
async fn apply(token: &JoinToken, key: &FreshKey) -> Result<Admission, ClusterError> {
    let application = Application { id: token.id, secret: token.secret, public_key: key.public_key() };
    let request = message::to_bytes(GuestToHead::Apply(application))?;
    let began = Instant::now();
    let mut heads = token.heads.iter().cycle();
    loop {
        let Some(head) = heads.next() else {
            return Err(ClusterError::Refused("the token names no head".into()));
        };
        match ask_as_guest(*head, &token.cluster, token.authority, &request, ATTEMPT).await {
            Ok(answer) => {
                let HeadToGuest::Admitted(admission) = message::from_bytes(&answer)?;
                return Ok(admission);
            }
            Err(error) if may_pass(&error) && began.elapsed() < PATIENCE => {
                tracing::info!(%error, "the head is asked again");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Is it a trouble of the moment?
fn may_pass(error: &WireError) -> bool {
    match error {
        WireError::Connect { .. } => true,
        WireError::Refused { reason, .. } => reason == TOO_MANY_GUESTS,
        _ => false,
    }
}

/// The head gives what the token promises, and nothing else.
fn check(token: &JoinToken, credentials: &Credentials) -> Result<(), ClusterError> {
    let identity = credentials.identity();
    let is_meant = credentials.authority_fingerprint() == token.authority
        && identity.cluster() == token.cluster
        && identity.role() == PeerRole::Agent
        && identity.node() == token.node;
    match is_meant {
        true => Ok(()),
        false => Err(ClusterError::Refused(format!(
            "the head gave a certificate for {identity}, and the token is for node `{}` of cluster `{}`",
            token.node, token.cluster
        ))),
    }
}

/// Where this host listens: as its user says, as the manifest says, or on the way to the head.
fn settle(order: &mut AgentOrder, token: &JoinToken, options: &JoinOptions) -> Result<(), ClusterError> {
    let heads = order.heads.clone();
    let node = order.manifest.nodes.get_mut(order.index);
    let node = node
        .filter(|node| node.name == token.node)
        .ok_or_else(|| ClusterError::Refused(format!("the head's order is not for node `{}`", token.node)))?;
    check_name("node name", &node.name).map_err(ClusterError::Refused)?;
    if options.bind.is_some() || options.interface.is_some() {
        (node.bind, node.interface) = (options.bind, options.interface.clone());
        node.advertise = None;
    }
    node.advertise = options.advertise.or(node.advertise);
    if node.bind.is_none() && node.interface.is_none() {
        let bind = host::listen_address(None, None, heads.first().copied());
        node.bind = Some(bind.map_err(ClusterError::Refused)?);
    }
    Ok(())
}
