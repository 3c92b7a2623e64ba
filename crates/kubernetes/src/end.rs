//! How pods end, and what belongs to them goes.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use lyceum_cluster::ClusterError;
use lyceum_cluster::launch::Fault;
use serde::de::DeserializeOwned;

use crate::access::{Access, Refusal};
use crate::objects::{NODE_LABEL, Objects};

/// Requests that are on their way at a time.
pub(crate) const AT_A_TIME: usize = 16;
/// Whether pods have ended is looked at after this, then after twice as long, and so on, up to the second.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(2);
/// A deleted pod may take so much longer than it was given: its host has other pods too.
const SLACK: Duration = Duration::from_secs(60);

/// All pods of the cluster.
pub(crate) async fn list_pods(access: &Access, objects: &Objects) -> Result<Vec<Pod>, ClusterError> {
    let found = access.answer(access.pods.list(&ListParams::default().labels(&objects.selector()))).await;
    found.map(|list| list.items).map_err(|why| why.while_doing("list pods"))
}

/// Deletes an object; that there is none is no fault.
pub(crate) async fn remove<K>(access: Access, of: Api<K>, name: String) -> Result<(), Refusal>
where
    K: Clone + DeserializeOwned + Debug,
{
    match access.answer(of.delete(&name, &DeleteParams::default())).await {
        Err(why) if !why.is_not_found() => Err(why),
        _ => Ok(()),
    }
}

/// Waits until there is no pod of that name any more.
pub(crate) async fn until_gone(access: &Access, name: &str) -> Result<(), Refusal> {
    let (began, mut pause) = (Instant::now(), FIRST_LOOK);
    while access.answer(access.pods.get_metadata_opt(name)).await?.is_some() {
        if began.elapsed() > SLACK {
            let seconds = SLACK.as_secs();
            return Err(Refusal::of(format!(
                "an earlier one is still there, {seconds} s after it was deleted"
            )));
        }
        tokio::time::sleep(pause).await;
        pause = LAST_LOOK.min(pause * 2);
    }
    Ok(())
}

/// Ends all pods of the cluster and waits until they are gone, then removes all else. Tells whether there was anything, and
/// which pods do not end; with those, what owns them stays, and finds them for the next time.
pub(crate) async fn end_all(access: &Access, objects: &Objects) -> Result<(bool, Vec<Fault>), ClusterError> {
    let pods = names(access, &access.pods, objects, "pods").await?;
    let mut there_were = !pods.is_empty();
    remove_all(access, &access.pods, pods, "pod").await?;
    let (began, mut pause) = (Instant::now(), FIRST_LOOK);
    let most = Duration::from_secs(objects.grace().unsigned_abs()) + SLACK;
    let are_left = loop {
        let are_left = !names(access, &access.pods, objects, "pods").await?.is_empty();
        if !are_left || began.elapsed() > most {
            break are_left;
        }
        tokio::time::sleep(pause).await;
        pause = LAST_LOOK.min(pause * 2);
    };
    let secrets = names(access, &access.secrets, objects, "secrets").await?;
    there_were |= !secrets.is_empty();
    remove_all(access, &access.secrets, secrets, "secret").await?;
    if are_left {
        let left = list_pods(access, objects).await?;
        return Ok((true, left.iter().map(|pod| stuck(pod, began.elapsed())).collect()));
    }
    let maps = names(access, &access.maps, objects, "config maps").await?;
    there_were |= !maps.is_empty();
    remove_all(access, &access.maps, maps, "config map").await?;
    Ok((there_were, Vec::new()))
}

/// The names of the cluster's objects of one kind, without what is in them.
async fn names<K>(
    access: &Access,
    of: &Api<K>,
    objects: &Objects,
    what: &str,
) -> Result<Vec<String>, ClusterError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let found = access.answer(of.list_metadata(&ListParams::default().labels(&objects.selector()))).await;
    let found = found.map_err(|why| why.while_doing(&format!("list {what}")))?;
    Ok(found.items.into_iter().filter_map(|object| object.metadata.name).collect())
}

fn stuck(pod: &Pod, after: Duration) -> Fault {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    let host = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("none");
    let node = pod.labels().get(NODE_LABEL).map_or("", String::as_str);
    let seconds = after.as_secs();
    Fault::new(
        node,
        format!(
            "its pod `{name}` is still there, {seconds} s after it was deleted, on host `{host}`: where that host is gone, \
             `kubectl delete pod {name} --namespace {namespace} --force`"
        ),
    )
}

/// Deletes objects of one kind, by name; `what` is what they are called.
pub(crate) async fn remove_all<K>(
    access: &Access,
    of: &Api<K>,
    names: Vec<String>,
    what: &str,
) -> Result<(), ClusterError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let removes = names.into_iter().map(|name| {
        let (access, of, doing) = (access.clone(), of.clone(), format!("delete the {what} `{name}`"));
        async move { remove(access, of, name).await.map_err(|why| why.while_doing(&doing)) }
    });
    let removes: Vec<_> = removes.collect();
    let removed: Vec<Result<(), ClusterError>> =
        stream::iter(removes).buffer_unordered(AT_A_TIME).collect().await;
    removed.into_iter().collect()
}
