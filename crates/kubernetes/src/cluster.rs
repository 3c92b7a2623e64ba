//! The pods of one cluster: looked for, made, watched, and ended.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::{LogParams, PostParams};
use lyceum_cluster::ClusterError;
use lyceum_cluster::launch::{AgentLoss, AgentOrder, Fault, Pods};
use lyceum_cluster::manifest::Manifest;

use crate::access::{Access, Refusal};
use crate::end::{AT_A_TIME, end_all, list_pods, remove, remove_all, until_gone};
use crate::fate::{Fate, last_lines};
use crate::objects::{NODE_LABEL, ORIGIN_ANNOTATION, ORIGIN_LABEL, Objects};
use crate::watch::Watch;

/// The pods of one cluster.
#[derive(Debug)]
pub(crate) struct PodCluster {
    manifest: Manifest,
    origin: String,
    /// Who they are asked of, and what they are made of; known when first needed.
    known: Option<(Access, Objects)>,
    watch: Option<Watch>,
    /// Has this process begun to make the cluster?
    made: bool,
    /// Nodes whose pods this process has begun to make.
    added: Vec<String>,
}

impl PodCluster {
    pub(crate) fn new(manifest: &Manifest, origin: String) -> PodCluster {
        let manifest = manifest.clone();
        PodCluster { manifest, origin, known: None, watch: None, made: false, added: Vec::new() }
    }

    async fn known(&mut self) -> Result<(Access, Objects), ClusterError> {
        if let Some(known) = &self.known {
            return Ok(known.clone());
        }
        let access = Access::of(&self.manifest.kubernetes).await?;
        let objects = Objects::new(&self.manifest, &self.origin, Some(&access.namespace));
        Ok(self.known.insert((access, objects)).clone())
    }

    async fn look(&mut self) -> Result<Vec<Result<bool, Fault>>, ClusterError> {
        let (access, objects) = self.known().await?;
        let name = objects.anchor_name();
        let anchor = access.answer(access.maps.get_opt(&name)).await;
        let anchor = anchor.map_err(|why| why.while_doing(&format!("show the config map `{name}`")))?;
        anchor.as_ref().map_or(Ok(()), |anchor| self.is_ours(&access, &objects, anchor))?;
        let pods = list_pods(&access, &objects).await?;
        let lives = |node: &str| {
            let mut its = pods.iter().filter(|pod| pod.labels().get(NODE_LABEL).is_some_and(|it| it == node));
            its.any(|pod| !matches!(Fate::of(pod), Fate::Over { .. }))
        };
        // Without what owns them pods are about to be ended by Kubernetes.
        let there = anchor.is_some_and(|anchor| anchor.metadata.deletion_timestamp.is_none());
        let reached = self.manifest.nodes.iter().map(|node| Ok(there && lives(&node.name))).collect();
        self.follow(access, &objects, &pods);
        Ok(reached)
    }

    /// Refuses a cluster of the same name that was started elsewhere.
    fn is_ours(&self, access: &Access, objects: &Objects, anchor: &ConfigMap) -> Result<(), ClusterError> {
        if anchor.labels().get(ORIGIN_LABEL) == Some(&objects.origin_hash()) {
            return Ok(());
        }
        let (name, namespace, anchor_name) = (&self.manifest.name, &access.namespace, objects.anchor_name());
        let origin = anchor.annotations().get(ORIGIN_ANNOTATION).map_or("an unknown place", String::as_str);
        Err(ClusterError::Refused(format!(
            "cluster `{name}` is there already in namespace `{namespace}`, started from {origin}: `lyceum down {name}` there, or, \
             where that is gone, `kubectl delete configmap {anchor_name} --namespace {namespace}`"
        )))
    }

    fn follow(&mut self, access: Access, objects: &Objects, pods: &[Pod]) {
        let patience = Duration::from_secs(self.manifest.kubernetes.start_timeout.into());
        self.watch = Some(Watch::begin(access, objects.selector(), pods, patience));
    }

    async fn make(&mut self, orders: Vec<AgentOrder>) -> Result<Vec<Fault>, ClusterError> {
        if orders.is_empty() {
            return Ok(Vec::new());
        }
        let (access, objects) = self.known().await?;
        self.watch = None;
        let anchor = match orders.len() == self.manifest.nodes.len() {
            true => self.make_anchor(&access, &objects, orders.iter().any(AgentOrder::is_owned)).await?,
            false => self.find_anchor(&access, &objects).await?,
        };
        let owner = Objects::owned_by(&anchor);
        let mut makes = Vec::new();
        for order in &orders {
            let node = order.node()?;
            let secret = objects.secret(&node.name, order.to_json()?, owner.clone());
            let pod = objects.pod(node, Some(owner.clone()));
            self.added.push(node.name.clone());
            makes.push(make_one(access.clone(), node.name.clone(), secret, pod));
        }
        let made: Vec<Result<(), Fault>> = stream::iter(makes).buffer_unordered(AT_A_TIME).collect().await;
        let faults = made.into_iter().filter_map(Result::err).collect();
        let pods = list_pods(&access, &objects).await?;
        self.follow(access, &objects, &pods);
        Ok(faults)
    }

    /// What owns all other objects of a new cluster; what is left of an earlier one is ended first.
    async fn make_anchor(
        &mut self,
        access: &Access,
        objects: &Objects,
        owned: bool,
    ) -> Result<ConfigMap, ClusterError> {
        let (_, left) = end_all(access, objects).await?;
        if let Some(fault) = left.first() {
            return Err(ClusterError::Refused(format!("of an earlier cluster: {}", fault.lines().join(" "))));
        }
        self.made = true;
        let name = objects.anchor_name();
        let owner = if owned { own_pod(&access.namespace, |name| std::env::var(name).ok()) } else { None };
        let anchor = objects.anchor(owner);
        match access.answer(access.maps.create(&PostParams::default(), &anchor)).await {
            Ok(anchor) => Ok(anchor),
            Err(why) if why.is_conflict() => {
                let anchor = access.answer(access.maps.get(&name)).await;
                let anchor =
                    anchor.map_err(|why| why.while_doing(&format!("show the config map `{name}`")))?;
                self.is_ours(access, objects, &anchor)?;
                Err(why.while_doing(&format!("create the config map `{name}`")))
            }
            Err(why) => Err(why.while_doing(&format!("create the config map `{name}`"))),
        }
    }

    async fn find_anchor(&self, access: &Access, objects: &Objects) -> Result<ConfigMap, ClusterError> {
        let name = objects.anchor_name();
        let anchor = access.answer(access.maps.get(&name)).await.map_err(|why| {
            if why.is_not_found() {
                let cluster = &self.manifest.name;
                return ClusterError::Refused(format!(
                    "the config map `{name}` of cluster `{cluster}` was deleted, and its pods end with it: `lyceum down {cluster}`"
                ));
            }
            why.while_doing(&format!("show the config map `{name}`"))
        })?;
        self.is_ours(access, objects, &anchor)?;
        Ok(anchor)
    }

    async fn give_up_all(&mut self, all: bool) -> Result<(), ClusterError> {
        let added = std::mem::take(&mut self.added);
        if all || self.made {
            let (access, objects) = self.known().await?;
            self.watch = None;
            let (_, left) = end_all(&access, &objects).await?;
            left.iter().for_each(|fault| tracing::warn!("{}", fault.lines().join(" ")));
            return Ok(());
        }
        if added.is_empty() {
            return Ok(());
        }
        let (access, objects) = self.known().await?;
        let names: Vec<String> = added.iter().map(|node| objects.node_name(node)).collect();
        remove_all(&access, &access.pods, names.clone(), "pod").await?;
        remove_all(&access, &access.secrets, names.clone(), "secret").await?;
        for name in names {
            until_gone(&access, &name)
                .await
                .map_err(|why| why.while_doing(&format!("end the pod `{name}`")))?;
        }
        Ok(())
    }
}

impl Pods for PodCluster {
    fn reach(&mut self) -> BoxFuture<'_, Result<Vec<Result<bool, Fault>>, ClusterError>> {
        self.look().boxed()
    }

    fn start(&mut self, orders: Vec<AgentOrder>) -> BoxFuture<'_, Result<Vec<Fault>, ClusterError>> {
        self.make(orders).boxed()
    }

    fn are_awaited(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::one_waits)
    }

    fn loss(&self, node: &str) -> Option<AgentLoss> {
        let (_, objects) = self.known.as_ref()?;
        let (fate, host) = self.watch.as_ref()?.fate(node);
        let Fate::Over { how, log } = fate else { return None };
        let name = objects.node_name(node);
        let who = match host {
            Some(host) => format!("the pod `{name}` on host `{host}`"),
            None => format!("the pod `{name}`"),
        };
        Some(AgentLoss { how, who, log_file: log_of(&name), log })
    }

    fn log<'a>(&'a mut self, node: &'a str) -> BoxFuture<'a, (String, Vec<String>)> {
        async move {
            let Ok((access, objects)) = self.known().await else { return (log_of(node), Vec::new()) };
            let name = objects.node_name(node);
            let params =
                LogParams { tail_lines: Some(12), limit_bytes: Some(16 << 10), ..LogParams::default() };
            let lines = match access.answer(access.pods.logs(&name, &params)).await {
                Ok(log) => last_lines(&log),
                Err(why) => vec![format!("it cannot be read: {}", why.said)],
            };
            (log_of(&name), lines)
        }
        .boxed()
    }

    fn give_up(&mut self, all: bool) -> BoxFuture<'_, ()> {
        async move {
            if let Err(error) = self.give_up_all(all).await {
                tracing::warn!(%error, "pods may be left");
            }
        }
        .boxed()
    }

    fn end(&mut self) -> BoxFuture<'_, Result<(bool, Vec<Fault>), ClusterError>> {
        async move {
            let (access, objects) = self.known().await?;
            self.watch = None;
            end_all(&access, &objects).await
        }
        .boxed()
    }
}

fn log_of(pod: &str) -> String {
    format!("the log of pod `{pod}`")
}

/// The pod in which this process runs, where its variables say so, as the owner of what ends with this process.
fn own_pod(namespace: &str, variable: impl Fn(&str) -> Option<String>) -> Option<OwnerReference> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let (name, uid) = (set("POD_NAME")?, set("POD_UID")?);
    // An owner is of the same namespace.
    (set("POD_NAMESPACE")? == namespace).then(|| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name,
        uid,
        ..OwnerReference::default()
    })
}

/// Makes secret and pod of one node; those of an earlier pod, that has ended, are removed first.
async fn make_one(access: Access, node: String, secret: Secret, pod: Pod) -> Result<(), Fault> {
    let (name, params) = (pod.name_any(), PostParams::default());
    let fault = |what: &str, why: Refusal| {
        Fault::new(&node, format!("its {what} `{name}` cannot be made: {}", why.said))
    };
    remove(access.clone(), access.pods.clone(), name.clone()).await.map_err(|why| fault("pod", why))?;
    remove(access.clone(), access.secrets.clone(), name.clone()).await.map_err(|why| fault("secret", why))?;
    until_gone(&access, &name).await.map_err(|why| fault("pod", why))?;
    access.answer(access.secrets.create(&params, &secret)).await.map_err(|why| fault("secret", why))?;
    access.answer(access.pods.create(&params, &pod)).await.map_err(|why| fault("pod", why)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_in_a_pod_is_owned_by_that_pod_where_it_is_known_and_of_the_namespace() {
        let variable = |name: &str| match name {
            "POD_NAME" => Some("notebook".to_owned()),
            "POD_NAMESPACE" => Some("training".to_owned()),
            "POD_UID" => Some("7".to_owned()),
            _ => None,
        };
        let owner = own_pod("training", variable).map(|owner| (owner.kind, owner.name, owner.uid));
        assert_eq!(owner, Some(("Pod".to_owned(), "notebook".to_owned(), "7".to_owned())));
        assert_eq!(own_pod("default", variable), None);
        assert_eq!(own_pod("training", |name| variable(name).filter(|_| name != "POD_UID")), None);
    }
}
