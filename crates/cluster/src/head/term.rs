//! A head's terms: where only one process can lead there is one, with etcd one for each time that this process leads.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lyceum_wire::{
    Admission, Authority, Door, Endpoint, EndpointOptions, Membership, PeerIdentity, PeerRole, Revocation,
};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::core::{Core, Input};
use super::etcd::{self, Etcd, EtcdRecords, Leadership};
use super::issuer::Issuer;
use super::scaling::Scaling;
use super::{Beats, Decider, HeadAddress, HeadConfig, MAX_EVENTS, end_when_told, options, sessions, tick};
use crate::control::offer::check_node_name;
use crate::control::vocabulary::HEAD_NODE;
use crate::error::ClusterError;
use crate::launch::NodeProvider;
use crate::manifest::StateStore;
use crate::state::{StateDir, read_json, write_json};

/// Longest wait for the authority, which the first of several candidates makes.
const AUTHORITY: Duration = Duration::from_secs(20);
/// How long what a term has begun may take to end.
const END_OF_TERM: Duration = Duration::from_secs(1);
/// How often a head looks whether it leads still.
const LOOK: Duration = Duration::from_millis(250);

/// A process that is the head, or stands by.
pub(super) struct Candidate<'a> {
    pub(super) state: &'a StateDir,
    pub(super) config: HeadConfig,
    pub(super) number: u32,
    pub(super) runtime: &'a Runtime,
    /// By whom it was told to end, once it was.
    pub(super) told: watch::Receiver<Option<String>>,
    /// Who gives further hosts, if anybody does.
    pub(super) provider: Option<Arc<dyn NodeProvider>>,
}

impl Candidate<'_> {
    pub(super) fn lead_until_told(&self) -> Result<(), ClusterError> {
        let authority = Arc::new(self.authority()?);
        let StateStore::Etcd(members) = &self.config.manifest.head.state else {
            let decider = Decider::open(&self.state.head().join("records.redb"), options(&self.config))?;
            let term = decider.term();
            return self.lead(&authority, decider, term, None);
        };
        let prefix = etcd::prefix(&self.config.manifest.name, &authority.mark());
        loop {
            let place = self.claim_place()?;
            let Some(leadership) = self.wait_to_lead(Etcd::of(members), &prefix, place)? else {
                return Ok(());
            };
            let leadership = Arc::new(leadership);
            tracing::info!(term = leadership.term(), "this head leads");
            match self.term(&authority, &leadership) {
                Err(ClusterError::Deposed(_)) if self.told.borrow().is_some() => return Ok(()),
                Err(ClusterError::Deposed(why)) => tracing::warn!("this head leads no more: {why}"),
                ended => return ended.and_then(|()| leadership.clear()),
            }
        }
    }

    /// One term of several.
    fn term(&self, authority: &Arc<Authority>, leadership: &Arc<Leadership>) -> Result<(), ClusterError> {
        let records = EtcdRecords::new(leadership.clone());
        let decider = Decider::with(Box::new(records), options(&self.config))?;
        self.lead(authority, decider, leadership.term(), Some(leadership))
    }

    /// Leads until the cluster has ended, or another leads.
    fn lead(
        &self,
        authority: &Arc<Authority>,
        decider: Decider,
        term: u64,
        leadership: Option<&Arc<Leadership>>,
    ) -> Result<(), ClusterError> {
        let cluster = &self.config.manifest.name;
        let identity = PeerIdentity::new(cluster, PeerRole::Head, HEAD_NODE, term)?;
        let membership = Membership::from(authority.issue(&identity, self.config.lifetime())?);
        for revoked in decider.head().revocations().into_iter().flatten() {
            membership.revoke(Revocation::from(revoked))?;
        }
        let door = Door::default();
        door.set_open(decider.head().awaits_guests());
        // With it goes all that a term has begun, and its socket.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            // One: what comes from many agents at once is then taken in by one wake.
            .worker_threads(1)
            .thread_name("lyceum-head-io")
            .enable_all()
            .build()
            .map_err(ClusterError::system("start the head's threads"))?;
        let endpoint = {
            let _entered = runtime.enter();
            self.bind(&membership, &door)?
        };
        if let Some(leadership) = leadership {
            // Whoever stood still for long does not speak for the cluster any more.
            leadership.confirm()?;
        }
        let mut issuer = Issuer::new(authority.clone(), self.config.lifetime());
        issuer.renew_own(&membership)?.save(&self.state.client())?;
        write_json(&self.state.head_address(), &self.address(endpoint.local_addr()))?;

        let (events, inbox) = mpsc::channel(MAX_EVENTS);
        let beats = Beats::default();
        runtime.spawn(sessions::accept(endpoint.clone(), beats.clone(), events.clone()));
        runtime.spawn(sessions::accept_guests(endpoint.clone(), events.clone()));
        runtime.spawn(tick(beats, events.clone()));
        runtime.spawn(end_when_told(self.told.clone(), self.hands_over(), events.clone()));
        if let Some(provider) = &self.provider
            && let Some(scaling) = Scaling::new(self.state, &self.config, provider.clone(), events.clone())
        {
            runtime.spawn(scaling.run());
        }
        runtime.spawn(watch_leadership(leadership.cloned(), events.clone()));
        tracing::info!(cluster, address = %endpoint.local_addr(), "the head is up");
        let (state, handle) = (self.state.clone(), runtime.handle().clone());
        let config = self.config.clone();
        let core = Core::new(state, config, decider, issuer, endpoint, door, events, handle);
        let ended = core.run(inbox);
        runtime.shutdown_timeout(END_OF_TERM);
        ended
    }

    /// Whether another goes on with the cluster when this process is told to end.
    fn hands_over(&self) -> bool {
        self.config.manifest.head.standbys > 0 && !self.config.owned
    }

    /// Waits until this process leads; `None` when it is told to end before.
    fn wait_to_lead(
        &self,
        etcd: Etcd,
        prefix: &str,
        place: SocketAddr,
    ) -> Result<Option<Leadership>, ClusterError> {
        // Nobody else has the place while this process waits; whatever comes there is not answered.
        let _held = UdpSocket::bind(place).map_err(ClusterError::system(format!("listen on {place}")))?;
        let me = serde_json::to_vec(&self.address(place)).unwrap_or_default();
        let (prefix, wanted) = (prefix.to_owned(), Arc::new(AtomicBool::new(true)));
        let is_wanted = wanted.clone();
        let mut told = self.told.clone();
        self.runtime.block_on(async {
            let campaign = tokio::task::spawn_blocking(move || {
                etcd::campaign(etcd, &prefix, &me, || is_wanted.load(Ordering::Acquire))
            });
            tokio::select! {
                led = campaign => led.unwrap_or_else(|error| Err(ClusterError::Refused(error.to_string()))),
                _ = told.wait_for(Option::is_some) => {
                    wanted.store(false, Ordering::Release);
                    Ok(None)
                }
            }
        })
    }

    /// The authority; the first candidate makes it where there is none.
    fn authority(&self) -> Result<Authority, ClusterError> {
        let dir = self.state.authority();
        if self.number > 0 {
            let began = Instant::now();
            loop {
                match Authority::load(&dir) {
                    Ok(authority) => return Ok(authority),
                    // It may be half written.
                    Err(_) if began.elapsed() < AUTHORITY => thread::sleep(Duration::from_millis(20)),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if crate::host::is_folder(&dir) {
            return Ok(Authority::load(&dir)?);
        }
        let authority = Authority::create(&self.config.manifest.name)?;
        authority.save(&dir)?;
        Ok(authority)
    }

    /// Where this candidate listens when it leads: the same place in each of its terms, if that can be had again. It says it
    /// before it leads, and the head of that time tells the agents.
    fn claim_place(&self) -> Result<SocketAddr, ClusterError> {
        let file = self.state.candidate_address(self.number);
        let first = match self.config.manifest.ports.first {
            0 => 0,
            first => first + self.number as u16,
        };
        let wanted = SocketAddr::new(self.listen_address()?, first);
        let earlier = read_json::<HeadAddress>(&file).map(|address| address.bound).ok();
        let bound = |at: SocketAddr| UdpSocket::bind(at).and_then(|socket| socket.local_addr());
        let again = earlier.and_then(|earlier| {
            let again = bound(earlier);
            again
                .inspect_err(
                    |error| tracing::warn!(%earlier, %error, "the earlier place cannot be had again"),
                )
                .ok()
        });
        let place = again.map_or_else(|| bound(wanted), Ok);
        let place = place.map_err(|error| {
            let port = wanted.port();
            let held = lyceum_wire::port_holders(&(port..port.saturating_add(1)));
            let holder = held.get(&port).map(|holder| format!(": {port} has {holder}")).unwrap_or_default();
            ClusterError::Refused(format!("cannot bind {wanted}: {error}{holder}"))
        })?;
        write_json(&file, &self.address(place))?;
        Ok(place)
    }

    /// Binds where an earlier term was reached, so that agents and clients find this one; else where the manifest says.
    fn bind(&self, membership: &Membership, door: &Door) -> Result<Endpoint, ClusterError> {
        let manifest = &self.config.manifest;
        let wanted = SocketAddr::new(self.listen_address()?, manifest.ports.first);
        // A node may join that the manifest does not have: its certificate says that it is one of this cluster's.
        let admission = Admission::by(|peer| match peer.role() {
            PeerRole::Client => Ok(()),
            PeerRole::Agent => check_node_name(peer.node()),
            role => Err(format!("a {role} may not speak to the head; it asks its node's agent")),
        });
        let options = |bind| EndpointOptions {
            admission: admission.clone(),
            door: Some(door.clone()),
            ..EndpointOptions::new(bind)
        };
        if manifest.head.state != StateStore::Redb {
            // Agents know this place, and no other.
            let own = read_json::<HeadAddress>(&self.state.candidate_address(self.number))?;
            return Ok(Endpoint::bind(membership.clone(), options(own.bound))?);
        }
        if let Ok(earlier) = HeadAddress::load(self.state) {
            match Endpoint::bind(membership.clone(), options(earlier.bound)) {
                Ok(endpoint) => return Ok(endpoint),
                Err(error) => tracing::warn!(%error, "the earlier address cannot be had again"),
            }
        }
        Ok(Endpoint::bind(membership.clone(), options(wanted))?)
    }

    fn listen_address(&self) -> Result<IpAddr, ClusterError> {
        let head = &self.config.manifest.head;
        // Of an interface with addresses of both families, that of the advertised one.
        let family = head.advertise.map(|ip| SocketAddr::new(ip, 0)).filter(|_| head.interface.is_some());
        crate::host::listen_address(head.bind, head.interface.as_deref(), family)
            .map_err(ClusterError::Refused)
    }

    fn address(&self, bound: SocketAddr) -> HeadAddress {
        let ip = self.config.manifest.head.advertise.unwrap_or(bound.ip());
        HeadAddress { bound, advertised: SocketAddr::new(ip, bound.port()), pid: std::process::id() }
    }
}

/// Ends the term when it is over; never where there is no other.
async fn watch_leadership(leadership: Option<Arc<Leadership>>, events: mpsc::Sender<Input>) {
    let Some(leadership) = leadership else { return };
    while !leadership.is_over() {
        tokio::time::sleep(LOOK).await;
    }
    let _ = events.send(Input::Deposed("its lease is over".to_owned())).await;
}
