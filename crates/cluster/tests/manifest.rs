//! Faulty manifests are refused with the exact place, the expectation and the nearest name. Each file under
//! `tests/manifests/bad` carries its expected message in its first line, after `#! `.

use lyceum_cluster::manifest::Manifest;

#[test]
fn every_faulty_manifest_is_refused_with_its_exact_message() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manifests/bad");
    let mut wrong = Vec::new();
    let mut tried = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = text.lines().next().and_then(|line| line.strip_prefix("#! ")).unwrap();
        let expected = format!("{}:{expected}", path.display());
        let found = match Manifest::load(&path) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        };
        if found != expected {
            wrong.push(format!("expected {expected}\n   found {found}"));
        }
        tried += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried >= 15, "only {tried} manifests found in {folder}");
}

#[test]
fn the_shipped_manifests_are_good() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../cluster");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            Manifest::load(&path).unwrap();
        }
    }
}

#[test]
fn a_missing_manifest_is_named() {
    let fault = Manifest::load("/nowhere/cluster.toml").unwrap_err();
    assert_eq!(fault.to_string(), "/nowhere/cluster.toml: does not exist");
}

#[test]
fn ports_are_shared_evenly_after_the_heads() {
    let text = "name = \"c\"\nports = { first = 7400, count = 11 }\n[[nodes]]\nname = \"a\"\n[[nodes]]\nname = \"b\"";
    let manifest = Manifest::parse("c.toml", text).unwrap();
    assert_eq!(manifest.node_ports(0), 7401..7406);
    assert_eq!(manifest.node_ports(1), 7406..7411);
}

#[test]
fn a_word_that_is_no_name_leads_to_no_folder() {
    for word in ["", ".", "..", "../victim", "/tmp/victim", "a/b"] {
        let error = lyceum_cluster::state::StateDir::of(word).unwrap_err().to_string();
        assert!(error.contains(&format!("cluster name `{word}`: expected letters")), "{error}");
    }
}
