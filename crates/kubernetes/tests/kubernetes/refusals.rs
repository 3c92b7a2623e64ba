//! What goes wrong is said of each node by itself, in Kubernetes's words, and leaves nothing.

use lyceum_cluster::launch::{self, UpOptions};
use lyceum_cluster::manifest::Manifest;
use lyceum_cluster::state::StateDir;

use crate::harness::{Testbed, joined, within};

#[tokio::test]
async fn each_pod_that_cannot_start_is_told_of_by_itself() {
    let bed = Testbed::start();
    // Two wait for a host in vain, one finds no interface on its host, and one would have joined.
    let nodes = [
        ("a", ""),
        ("b", "resources = { gpus = 1 }"),
        ("c", "node_selector = { disk = \"fast\" }"),
        ("d", "interface = \"nowhere0\""),
    ];
    let said = bed.refused(&bed.manifest(&nodes[..3], "start_timeout = 1")).await;
    for expected in [
        "cluster `test`: 2 of its nodes did not start",
        "node `b`: its agent was not started within 1 s: Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
        "node `c`: its agent was not started within 1 s: Unschedulable: 0/1 nodes are available: 1 node(s) didn't match Pod's node \
         affinity/selector.",
        // Whether it has joined by then or not.
        "node `a`: its agent ",
    ] {
        assert!(said.contains(expected), "{expected}\nin: {said}");
    }
    let said = bed.refused(&bed.manifest(&nodes[3..], "")).await;
    let expected = "node `d`: its agent has ended: exit code 1; the end of the log of pod `lyceum-test.d`:\n  |   error: there is no \
                    interface `nowhere0`";
    assert!(said.contains(expected), "{said}");
    let said = bed.refused(&bed.manifest(&nodes[..1], "image = \"lyceum:missing\"")).await;
    let expected =
        "node `a`: its agent was not started: ImagePullBackOff: Back-off pulling image \"lyceum:missing\"";
    assert!(said.contains(expected), "{said}");
}

#[tokio::test]
async fn what_kubernetes_refuses_is_said_in_its_words() {
    let bed = Testbed::start();
    let nodes = [("a", ""), ("b", "")];
    let manifest = bed.manifest(&nodes, "");
    let forbidden = |verb: &str, plural: &str| {
        format!(
            "{plural} is forbidden: User \"tester\" cannot {verb} resource \"{plural}\" in API group \"\" in the namespace \"default\" \
             (docs/security.md has what must be allowed)"
        )
    };
    for (verb, plural, before) in [
        ("list", "pods", "Kubernetes does not list pods: "),
        ("get", "configmaps", "Kubernetes does not show the config map `lyceum-test`: "),
        ("create", "configmaps", "Kubernetes does not create the config map `lyceum-test`: "),
    ] {
        bed.kubernetes.forbid(verb, plural);
        assert_eq!(bed.refused(&manifest).await, format!("{before}{}", forbidden(verb, plural)));
    }
    for (verb, plural, what) in [("create", "secrets", "secret"), ("create", "pods", "pod")] {
        bed.kubernetes.forbid(verb, plural);
        let said = bed.refused(&manifest).await;
        for node in ["a", "b"] {
            let why = forbidden(verb, plural);
            let expected = format!("node `{node}`: its {what} `lyceum-test.{node}` cannot be made: {why}");
            assert!(said.contains(&expected), "{expected}\nin: {said}");
        }
    }
    bed.kubernetes.allow_all();

    let said = bed.refused(&bed.manifest(&nodes, "namespace = \"nowhere\"")).await;
    assert_eq!(
        said,
        "Kubernetes does not create the config map `lyceum-test`: namespaces \"nowhere\" not found"
    );
    let said = bed.refused(&bed.manifest(&nodes, "context = \"strange\"")).await;
    assert_eq!(said, "Kubernetes does not show the config map `lyceum-test`: Unauthorized");
    let said = bed.refused(&bed.manifest(&nodes, "context = \"none\"")).await;
    assert!(said.starts_with("the way to Kubernetes is not known: ") && said.contains("none"), "{said}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_named() {
    let bed = Testbed::start();
    let file = bed.folder.path().join("unreachable");
    let text = std::fs::read_to_string(bed.kubernetes.kubeconfig()).unwrap();
    // A port that this process has, and on which nobody listens.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let (before, after) = text.split_once("server: https://127.0.0.1:").unwrap();
    let (_, after) = after.split_once('\n').unwrap();
    std::fs::write(&file, format!("{before}server: https://127.0.0.1:{port}\n{after}")).unwrap();
    let mut manifest = bed.manifest(&[("a", "")], "");
    manifest.kubernetes.kubeconfig = Some(file);
    let said = bed.refused(&manifest).await;
    assert!(said.starts_with("Kubernetes does not show the config map `lyceum-test`: "), "{said}");
    assert!(
        said.contains("Connection refused") && said.contains(&format!("at https://127.0.0.1:{port}")),
        "{said}"
    );
    manifest.kubernetes.kubeconfig = Some(bed.folder.path().join("missing"));
    let said = bed.refused(&manifest).await;
    assert!(said.starts_with("the way to Kubernetes is not known: "), "{said}");
    assert!(said.contains("missing"), "{said}");
}

#[tokio::test]
async fn a_cluster_that_was_started_elsewhere_is_left_alone() {
    let bed = Testbed::start();
    let manifest: Manifest = bed.manifest(&[("a", "")], "");
    let up = bed.up(&manifest).await.unwrap();
    let elsewhere = StateDir::at(bed.folder.path().join("elsewhere"));
    let options = UpOptions { state: elsewhere.clone(), ..bed.options() };
    let said = within(launch::up(&manifest, options)).await.expect_err("refused").to_string();
    assert!(
        said.starts_with("cluster `test` is there already in namespace `default`, started from "),
        "{said}"
    );
    assert!(said.contains(&format!("{}: `lyceum down test` there", bed.state().root().display())), "{said}");
    assert!(said.ends_with("`kubectl delete configmap lyceum-test --namespace default`"), "{said}");
    within(launch::down_with(&elsewhere, Some(lyceum_kubernetes::pods))).await.unwrap();
    assert_eq!(joined(&up.client).await, ["a"]);
    drop(up);
    assert!(bed.down().await.unwrap());
    bed.nothing_is_left();
}

#[tokio::test]
async fn a_program_without_the_launcher_says_so() {
    let bed = Testbed::start();
    let options = UpOptions { pods: None, ..bed.options() };
    let said = within(launch::up(&bed.manifest(&[("a", "")], ""), options)).await.expect_err("refused");
    assert_eq!(said.to_string(), "cluster `test`: this program was made without the launcher `kubernetes`");
}
