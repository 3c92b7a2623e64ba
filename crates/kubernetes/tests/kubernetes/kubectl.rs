//! What is printed is what Kubernetes's own client takes.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::Testbed;

/// Runs `kubectl` as the double's user; what it says.
fn kubectl(bed: &Testbed, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("kubectl");
    command.args(arguments).env("KUBECONFIG", bed.kubernetes.kubeconfig()).env("HOME", bed.folder.path());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "{said}");
    said
}

#[tokio::test]
async fn what_a_dry_run_prints_is_what_kubectl_applies() {
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        let why = "`kubectl` is missing (Debian: kubernetes-client)";
        assert!(std::env::var_os("LYCEUM_REQUIRE_TOOLS").is_none(), "{why}");
        eprintln!("skipped: {why}");
        return;
    }
    let bed = Testbed::start();
    let manifest = bed.manifest(
        &[
            ("a", "resources = { cpus = 1.5, memory = \"1 GiB\" }"),
            ("b", "node_selector = { disk = \"on\" }"),
        ],
        "env = { NCCL_DEBUG = \"yes\" }\ntolerations = [{ key = \"gpu\", effect = \"NoSchedule\" }]\n\
         claims = [{ claim = \"corpora\", path = \"/data\", read_only = true }]",
    );
    let printed = lyceum_kubernetes::dry_run(&manifest, &bed.options()).unwrap();
    assert!(!printed.contains("PRIVATE KEY"), "{printed}");
    // Nobody runs an order that is none.
    let objects: Vec<&str> = printed.split_inclusive("---\n").collect();
    assert_eq!(objects.len(), 6, "{printed}");
    let said = kubectl(&bed, &["apply", "--validate=false", "--filename=-"], &printed);
    for object in
        ["configmap/lyceum-test", "secret/lyceum-test.a", "secret/lyceum-test.b", "pod/lyceum-test.a"]
    {
        assert!(said.contains(&format!("{object} created")), "{said}");
    }
    let selected = "--selector=app.kubernetes.io/managed-by=lyceum,lyceum.io/cluster=test";
    let said = kubectl(&bed, &["get", "pods", selected, "--output=name"], "");
    assert_eq!(said, "pod/lyceum-test.a\npod/lyceum-test.b\n");
    let said = kubectl(
        &bed,
        &[
            "get",
            "pod",
            "lyceum-test.b",
            "--output=jsonpath={.spec.nodeSelector.disk} {.spec.containers[0].env[1].value}",
        ],
        "",
    );
    assert_eq!(said, "on yes");
    kubectl(&bed, &["delete", "configmap,secret,pod", selected, "--wait=false"], "");
}
