#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use serde_json::{Value, json};

use super::*;

const TEXT: &str = r#"
name = "c"
launcher = "kubernetes"
[head]
bind = "127.0.0.1"
[store]
capacity = "1 GiB"
[health]
stop = 5.5
[kubernetes]
image = "registry.example/lyceum:1"
pull_policy = "Always"
pull_secrets = ["registry"]
service_account = "lyceum"
node_selector = { pool = "gpu", disk = "slow" }
tolerations = [{ key = "nvidia.com/gpu", value = "yes", effect = "NoSchedule" }, {}]
user = 1234
priority_class = "high"
runtime_class = "nvidia"
custom_resources = { fpga = "example.com/fpga" }
claims = [{ claim = "corpora", path = "/data", read_only = true }]
env = { NCCL_DEBUG = "off" }

[[nodes]]
name = "a"
resources = { cpus = 1.5, gpus = 8, memory = "64 GiB", custom = { fpga = 2, seats = 3 } }
node_selector = { disk = "fast" }

[[nodes]]
name = "b"
"#;

fn objects() -> Objects {
    Objects::new(&Manifest::parse("c.toml", TEXT).unwrap(), "host:/state", Some("training"))
}

fn pod(index: usize) -> Value {
    let objects = objects();
    serde_json::to_value(objects.pod(&objects.manifest.nodes[index], None)).unwrap()
}

#[test]
fn a_pod_may_nothing_that_an_agent_does_not_need() {
    let pod = pod(1);
    let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
    assert_eq!(
        container["securityContext"],
        json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } })
    );
    assert_eq!(
        spec["securityContext"],
        json!({ "runAsNonRoot": true, "runAsUser": 1234, "runAsGroup": 1234, "fsGroup": 1234,
                "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": { "type": "RuntimeDefault" } })
    );
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(spec["restartPolicy"], "Never");
    assert_eq!(spec["volumes"][0]["secret"], json!({ "secretName": "lyceum-c.b", "defaultMode": 0o400 }));
    assert_eq!(
        container["volumeMounts"][0],
        json!({ "name": "order", "mountPath": "/etc/lyceum", "readOnly": true })
    );
    // Workers' time to stop, rounded up, and the agent's own.
    assert_eq!(spec["terminationGracePeriodSeconds"], 16);
    assert_eq!(container["resources"], json!({}));
}

#[test]
fn a_pod_has_what_its_node_claims_and_what_store_and_agent_need() {
    let pod = pod(0);
    let container = &pod["spec"]["containers"][0];
    let claims =
        json!({ "cpu": "1500m", "memory": "66688Mi", "nvidia.com/gpu": "8", "example.com/fpga": "2" });
    assert_eq!(container["resources"], json!({ "limits": claims, "requests": claims }));
    assert!(
        pod["spec"]["volumes"]
            .as_array()
            .unwrap()
            .contains(&json!({ "name": "shm", "emptyDir": { "medium": "Memory" } }))
    );
    assert!(
        container["volumeMounts"]
            .as_array()
            .unwrap()
            .contains(&json!({ "name": "shm", "mountPath": "/dev/shm" }))
    );
    assert!(!self::pod(1)["spec"]["volumes"].to_string().contains("Memory"));
}

#[test]
fn a_pod_is_as_the_manifest_says() {
    let pod = pod(0);
    let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
    assert_eq!(pod["metadata"]["namespace"], "training");
    assert_eq!(spec["nodeSelector"], json!({ "pool": "gpu", "disk": "fast" }));
    assert_eq!(
        spec["tolerations"],
        json!([{ "key": "nvidia.com/gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule" },
               { "operator": "Exists" }])
    );
    assert_eq!(spec["imagePullSecrets"], json!([{ "name": "registry" }]));
    let keys = ["serviceAccountName", "priorityClassName", "runtimeClassName", "hostname", "hostNetwork"];
    assert_eq!(
        keys.map(|key| spec[key].clone()),
        [json!("lyceum"), json!("high"), json!("nvidia"), json!("a"), json!(null)]
    );
    assert_eq!(
        (&container["image"], &container["imagePullPolicy"]),
        (&json!("registry.example/lyceum:1"), &json!("Always"))
    );
    assert_eq!(
        container["command"],
        json!(["lyceum", "pod", "--order", "/etc/lyceum/order.json", "--state", "/var/lib/lyceum"])
    );
    assert_eq!(
        container["env"],
        json!([{ "name": "HOME", "value": "/tmp" }, { "name": "NCCL_DEBUG", "value": "off" }])
    );
    let claims = spec["volumes"].as_array().unwrap().last().unwrap();
    assert_eq!(
        *claims,
        json!({ "name": "claim-0", "persistentVolumeClaim": { "claimName": "corpora", "readOnly": true } })
    );
    let mount = container["volumeMounts"].as_array().unwrap().last().unwrap();
    assert_eq!(*mount, json!({ "name": "claim-0", "mountPath": "/data", "readOnly": true }));

    let mut objects = objects();
    objects.manifest.kubernetes.host_network = true;
    let spec = serde_json::to_value(objects.pod(&objects.manifest.nodes[0], None)).unwrap()["spec"].clone();
    assert_eq!((&spec["hostNetwork"], &spec["dnsPolicy"]), (&json!(true), &json!("ClusterFirstWithHostNet")));
}

#[test]
fn what_is_printed_is_what_is_made_but_for_secrets_and_owners() {
    let objects = objects();
    let printed = yaml(&objects).unwrap();
    let documents: Vec<&str> = printed.split("---\n").filter(|document| !document.is_empty()).collect();
    let [map, _, pod_a, secret, pod_b] = documents[..] else { panic!("{printed}") };
    let map: ConfigMap = serde_saphyr::from_str(map).unwrap();
    assert_eq!(map, objects.anchor(None));
    for (index, printed) in [pod_a, pod_b].into_iter().enumerate() {
        let pod: Pod = serde_saphyr::from_str(printed).unwrap();
        assert_eq!(pod, objects.pod(&objects.manifest.nodes[index], None));
    }
    let secret: Secret = serde_saphyr::from_str(secret).unwrap();
    assert_eq!(secret.metadata, objects.bare_secret("b", None).metadata);
    let said = "the order for this agent, with its credentials: `lyceum up` makes it";
    assert_eq!(secret.string_data.unwrap()["order.json"], said);
    assert_eq!(secret.data, None);
}

#[test]
fn two_places_of_a_cluster_are_two_clusters() {
    let manifest = Manifest::parse("c.toml", TEXT).unwrap();
    let [one, other] = ["host:/one", "host:/other"].map(|origin| Objects::new(&manifest, origin, None));
    assert_ne!(one.selector(), other.selector());
    assert!(
        one.selector()
            .starts_with("app.kubernetes.io/managed-by=lyceum,lyceum.io/cluster=c,lyceum.io/origin=")
    );
}
