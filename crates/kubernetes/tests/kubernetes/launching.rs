//! From a manifest to pods, and back.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use base64::Engine as _;
use lyceum_cluster::launch::{self, UpOptions};
use serde_json::Value;

use crate::harness::{Testbed, joined, until, within};

fn names(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap()).collect()
}

fn uids(bed: &Testbed) -> Vec<Value> {
    bed.kubernetes.all("pods").iter().map(|pod| pod["metadata"]["uid"].clone()).collect()
}

#[tokio::test]
async fn a_cluster_is_pods_is_found_again_and_leaves_nothing() {
    let bed = Testbed::start();
    let kubernetes = &bed.kubernetes;
    let manifest = bed.manifest(&[("a", "resources = { cpus = 1 }"), ("b", "")], "");
    let up = bed.up(&manifest).await.unwrap();
    assert!(up.started);
    assert_eq!(joined(&up.client).await, ["a", "b"]);

    // One object owns all others, and private keys are in secrets alone.
    let [maps, secrets, pods] = ["configmaps", "secrets", "pods"].map(|plural| kubernetes.all(plural));
    assert_eq!(names(&maps), ["lyceum-test"]);
    assert_eq!(names(&secrets), ["lyceum-test.a", "lyceum-test.b"]);
    assert_eq!(names(&pods), ["lyceum-test.a", "lyceum-test.b"]);
    for object in secrets.iter().chain(&pods) {
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], maps[0]["metadata"]["uid"]);
    }
    let order = secrets[0]["data"]["order.json"].as_str().unwrap();
    let order = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(order).unwrap()).unwrap();
    assert!(order.contains("PRIVATE KEY"), "{order}");
    assert!(
        ![&maps, &pods].iter().any(|objects| serde_json::to_string(objects).unwrap().contains("PRIVATE"))
    );
    let mounted = fs::metadata(kubernetes.pod_folder("lyceum-test.a").join("order/order.json")).unwrap();
    assert_eq!(mounted.permissions().mode() & 0o777, 0o400);

    let before = uids(&bed);
    let again = bed.up(&manifest).await.unwrap();
    assert!(!again.started);
    assert_eq!(uids(&bed), before);
    drop(again);

    // A pod that has ended is told of with Kubernetes's own reason, and replaced by the next `up`, it alone.
    kubernetes.kill("lyceum-test.b", "OOMKilled");
    until("its end is seen", || up.agent_loss("b").is_some()).await;
    assert!(up.agent_loss("a").is_none());
    let said = up.agent_loss("b").unwrap().to_string();
    let expected = "the agent of node `b`, the pod `lyceum-test.b` on host `host-1`, has ended: OOMKilled: it used more memory than \
                    its pod may (exit code 137)";
    assert!(said.starts_with(expected), "{said}");
    let again = bed.up(&manifest).await.unwrap();
    assert!(again.started);
    let after = uids(&bed);
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    assert_eq!(joined(&again.client).await, ["a", "b"]);

    // One that somebody deletes, too.
    kubernetes.delete("pods", "lyceum-test.a");
    until("its end is seen", || again.agent_loss("a").is_some()).await;
    let said = again.agent_loss("a").unwrap().to_string();
    assert!(said.contains("deleted") || said.contains("has ended"), "{said}");

    drop((up, again));
    assert!(bed.down().await.unwrap());
    bed.nothing_is_left();
    assert!(!bed.down().await.unwrap());
}

#[tokio::test]
async fn a_cluster_ends_with_the_object_that_owns_it_and_begins_anew() {
    let bed = Testbed::start();
    let manifest = bed.manifest(&[("a", "")], "");
    let up = bed.up(&manifest).await.unwrap();
    let before = uids(&bed);
    bed.kubernetes.delete("configmaps", "lyceum-test");
    until("its pods end with it", || bed.kubernetes.all("pods").is_empty()).await;
    drop(up);
    let up = bed.up(&manifest).await.unwrap();
    assert!(up.started);
    assert_ne!(uids(&bed), before);
    assert_eq!(joined(&up.client).await, ["a"]);
    drop(up);
    assert!(bed.down().await.unwrap());
    bed.nothing_is_left();
}

#[tokio::test]
async fn a_cluster_of_one_run_ends_with_it() {
    let bed = Testbed::start();
    let manifest = bed.manifest(&[("a", ""), ("b", "")], "");
    let owned = || UpOptions { owned: true, ..bed.options() };
    let up = within(launch::up(&manifest, owned())).await.unwrap();
    assert_eq!(joined(&up.client).await, ["a", "b"]);
    within(up.kill()).await.unwrap();
    bed.nothing_is_left();

    // Who is killed cannot clear up: its agents miss it and end, and the next of its name clears up after it.
    let up = within(launch::up(&manifest, owned())).await.unwrap();
    let before = uids(&bed);
    drop(up);
    let over = |pod: &Value| pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed";
    until("its agents end", || bed.kubernetes.all("pods").iter().all(over)).await;
    until("its head ends", || !bed.head_runs()).await;
    let up = within(launch::up(&manifest, owned())).await.unwrap();
    assert!(before.iter().all(|uid| !uids(&bed).contains(uid)));
    within(up.down()).await.unwrap();
    bed.nothing_is_left();
}

#[tokio::test]
async fn an_up_that_is_interrupted_leaves_nothing() {
    let bed = Testbed::start();
    let manifest = bed.manifest(&[("a", ""), ("b", "")], "");
    let one_runs = until("a pod runs", || bed.kubernetes.process("lyceum-test.a").is_some());
    let up = within(launch::up_unless(&manifest, bed.options(), one_runs)).await;
    let said = up.expect_err("interrupted").to_string();
    assert_eq!(said, "cluster `test`: interrupted; what was started has been ended again");
    bed.nothing_is_left();

    // Of a cluster that runs already, only what it has added itself.
    let up = bed.up(&manifest).await.unwrap();
    let before = uids(&bed);
    bed.kubernetes.kill("lyceum-test.b", "Error");
    until("its end is seen", || up.agent_loss("b").is_some()).await;
    let again = until("a new pod runs", || bed.kubernetes.process("lyceum-test.b").is_some());
    let interrupted = within(launch::up_unless(&manifest, bed.options(), again)).await;
    // It may be done before that is seen.
    if interrupted.is_err() {
        assert_eq!(uids(&bed), before[..1]);
    }
    assert_eq!(uids(&bed)[0], before[0]);
    drop((up, interrupted));
    assert!(bed.down().await.unwrap());
    bed.nothing_is_left();
}
