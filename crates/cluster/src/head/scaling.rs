//! Asks for nodes when what waits needs them, and gives them back when nothing does. What is to be done is decided by
//! [`elastic`](crate::control::elastic).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;

use super::core::{Input, Look};
use super::{HeadAddress, HeadConfig};
use crate::client::Client;
use crate::control::HeadEvent;
use crate::control::elastic::{Demand, Order, Scaler};
use crate::error::ClusterError;
use crate::launch::{NodeOrder, NodeProvider, Provided, order_beside};
use crate::manifest::{ElasticSection, NodeSection};
use crate::state::StateDir;

/// The head is looked at this often, and the provider while something is on its way.
const LOOK: Duration = Duration::from_secs(1);
/// The provider is looked at this often while all is as it was.
const LOOK_IN_REST: Duration = Duration::from_secs(10);
/// What is drained for want of use is empty already; whatever has come to it meanwhile may take this long.
const DRAIN: Duration = Duration::from_secs(24 * 3600);
/// How long an order may take to reach the head.
const ORDERED: Duration = Duration::from_secs(2);
/// What further nodes are called, with a number.
const NAME: &str = "further-";

/// A cluster that may have more nodes than its manifest.
pub(super) struct Scaling {
    state: StateDir,
    config: HeadConfig,
    section: ElasticSection,
    provider: Arc<dyn NodeProvider>,
    events: Sender<Input>,
    scaler: Scaler,
    /// The highest number of a further node that was seen.
    last: usize,
    provided: BTreeMap<String, String>,
    demand: Demand,
    /// What is said of the last request that came to nothing.
    failure: Option<String>,
}

impl Scaling {
    /// Nothing where the manifest asks for no further nodes.
    pub(super) fn new(
        state: &StateDir,
        config: &HeadConfig,
        provider: Arc<dyn NodeProvider>,
        events: Sender<Input>,
    ) -> Option<Scaling> {
        let section = config.manifest.elastic.clone()?;
        Some(Scaling {
            state: state.clone(),
            config: config.clone(),
            scaler: Scaler::new(section.rules()),
            section,
            provider,
            events,
            last: 0,
            provided: BTreeMap::new(),
            demand: Demand::default(),
            failure: None,
        })
    }

    /// Until the head's term is over.
    pub(super) async fn run(mut self) {
        let began = Instant::now();
        let mut listed: Option<Instant> = None;
        let mut told = Vec::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let every = if self.is_moving() { LOOK } else { LOOK_IN_REST };
            if listed.is_none_or(|at| at.elapsed() >= every) {
                match self.provider.list().await {
                    Ok(provided) => self.provided = provided.into_iter().map(of_provided).collect(),
                    // Who does not answer now may answer later: nothing follows from that.
                    Err(error) => {
                        tracing::warn!(%error, "{} does not say what was asked for", self.provider.name());
                        continue;
                    }
                }
                listed = Some(Instant::now());
            }
            let now = began.elapsed();
            let Some(demand) = self.look(now).await else { return };
            self.demand = demand;
            let provided: BTreeSet<String> = self.provided.keys().cloned().collect();
            let failed_before = self.scaler.rests(now).is_some();
            let orders = self.scaler.decide(&self.demand, &provided, now);
            if self.scaler.rests(now).is_some() && !failed_before {
                self.failure = Some("what was asked for has ended before its agent joined".to_owned());
            }
            for order in orders {
                if let Err(error) = self.carry_out(order, now).await {
                    tracing::warn!(%error, "a cluster is not scaled");
                }
                listed = None;
            }
            let lines = self.lines(now);
            if lines != told {
                told.clone_from(&lines);
                if self.events.send(Input::Machine(HeadEvent::Scaled { lines })).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Is something on its way, or to be?
    fn is_moving(&self) -> bool {
        let settled = |node: &String| {
            self.demand.members.iter().any(|member| member.name == *node && member.present && !member.drained)
        };
        self.demand.lacking > 0 || !self.provided.keys().all(settled)
    }

    async fn look(&mut self, now: Duration) -> Option<Demand> {
        let patient = self.scaler.patient(now);
        let is_there =
            |node: &&String| self.demand.members.iter().any(|member| member.name == **node && member.present);
        let coming = self.provided.keys().filter(|node| !is_there(node)).count();
        let most = self.scaler.elastic().most.saturating_sub(self.provided.len());
        let (says, said) = oneshot::channel();
        let look = Look::new(move |head| drop(says.send(head.demand(&patient, coming, most))));
        self.events.send(Input::Look(look)).await.ok()?;
        said.await.ok()
    }

    async fn carry_out(&mut self, order: Order, now: Duration) -> Result<(), ClusterError> {
        match order {
            Order::Ask(count) => {
                for _ in 0..count {
                    let node = self.fresh_name();
                    if let Err(error) = self.ask(&node).await {
                        self.failure = Some(error.to_string());
                        self.scaler.failed(now);
                        return Err(error);
                    }
                    tracing::info!(node, "{} is asked for a further node", self.provider.name());
                    self.scaler.was_asked(&node);
                    self.provided.insert(node, "asked for".to_owned());
                    self.failure = None;
                }
                Ok(())
            }
            Order::Drain(node) => {
                tracing::info!(node, "a further node has been of no use for long enough");
                let client = Client::connect(&self.state).await?;
                let by = "the head, for want of use";
                // The order stands, whoever waits for the answer.
                let _ = tokio::time::timeout(ORDERED, client.drain(&node, DRAIN, by)).await;
                Ok(())
            }
            Order::Release(node) => {
                tracing::info!(node, "a further node is given back");
                self.provider.release(&node).await
            }
        }
    }

    async fn ask(&self, node: &str) -> Result<(), ClusterError> {
        let manifest = &self.config.manifest;
        let client = Client::connect(&self.state).await?;
        let heads = HeadAddress::of_candidates(&self.state, manifest)?;
        let section = self.section.node(node);
        let order = order_beside(&client, manifest, section, self.config.owned, heads).await?;
        self.provider.ask(NodeOrder { node: node.to_owned(), number: self.last, order }).await
    }

    /// A name that no node has.
    fn fresh_name(&mut self) -> String {
        let manifest = self.config.manifest.nodes.iter().map(|node: &NodeSection| &node.name);
        let members = self.demand.members.iter().map(|member| &member.name);
        let numbers = manifest
            .chain(members)
            .chain(self.provided.keys())
            .filter_map(|name| name.strip_prefix(NAME)?.parse::<usize>().ok())
            .filter(|number| *number < 1 << 31);
        self.last = numbers.max().unwrap_or(0).max(self.last) + 1;
        format!("{NAME}{}", self.last)
    }

    /// What people are told.
    fn lines(&self, now: Duration) -> Vec<String> {
        let is_there = |node: &String| {
            self.demand.members.iter().any(|member| member.name == *node && (member.present || member.lost))
        };
        let who = self.provider.name();
        let waits = |(node, state): (&String, &String)| format!("{who} was asked for node `{node}`: {state}");
        let mut lines: Vec<String> =
            self.provided.iter().filter(|(node, _)| !is_there(node)).map(waits).collect();
        let most = self.scaler.elastic().most;
        if !self.demand.waiting.is_empty() && self.provided.len() >= most {
            lines.push(format!(
                "of further nodes there may be {most}, and {} are asked for",
                self.provided.len()
            ));
        }
        if let (Some(failure), Some(_)) = (&self.failure, self.scaler.rests(now)) {
            lines.push(format!(
                "a further node did not come, and others are asked for after a pause: {failure}"
            ));
        }
        lines
    }
}

fn of_provided(Provided { node, state }: Provided) -> (String, String) {
    (node, state)
}
