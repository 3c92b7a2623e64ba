//! Faulty manifests are refused with the exact place, the expectation and the nearest name. Each file under
//! `tests/manifests/bad` carries its expected message in its first line, after `#! `.

use lyceum_cluster::manifest::{MAX_NODES, Manifest};

#[test]
fn every_faulty_manifest_is_refused_with_its_exact_message() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manifests/bad");
    let mut wrong = Vec::new();
    let mut tried = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // One of them is no text.
        let bytes = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
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
    assert!(tried >= 130, "only {tried} manifests found in {folder}");
}

/// The keys of each table of the manifest, as the message about one that is none lists them.
fn keys(table: &str) -> Vec<String> {
    let text = match table {
        "" => "zzzzzz = 1".to_owned(),
        "nodes" => "name = \"c\"\n[[nodes]]\nzzzzzz = 1".to_owned(),
        "nodes.resources" => "name = \"c\"\n[[nodes]]\nresources = { zzzzzz = 1 }".to_owned(),
        table => format!("name = \"c\"\n[{table}]\nzzzzzz = 1"),
    };
    let message = Manifest::parse("c.toml", &text).expect_err("a key that is none").message;
    let (_, valid) = message.split_once("valid here: ").unwrap_or_else(|| panic!("{table}: {message}"));
    valid.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn each_key_has_a_manifest_in_which_it_is_wrong() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manifests/bad");
    // Where the messages point: a word or more before the value that is wrong, on that line.
    let mut blamed = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let line =
            text.lines().next().and_then(|first| first.strip_prefix("#! ")?.split(':').next()?.parse().ok());
        let line: usize = line.unwrap_or(1);
        blamed.push_str(text.lines().nth(line - 1).unwrap_or_default());
        blamed.push('\n');
    }
    for table in ["", "ssh", "kubernetes", "head", "ports", "store", "health", "nodes", "nodes.resources"] {
        for key in keys(table) {
            let is_there = blamed
                .lines()
                .any(|line| line.contains(&format!("{key} =")) || line.contains(&format!("{key}]")));
            assert!(is_there, "no faulty manifest is about `{table}.{key}`");
        }
    }
}

#[test]
fn what_is_too_large_for_a_manifest_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    let refused = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let error = Manifest::load(&path).unwrap_err().to_string();
        error.strip_prefix(&format!("{}:", path.display())).unwrap().to_owned()
    };
    let nodes = |count| (0..count).map(|node| format!("[[nodes]]\nname = \"n{node}\"\n")).collect::<String>();
    let message = refused(&format!("name = \"c\"\n{}", nodes(MAX_NODES + 1)));
    assert_eq!(message, "2:1: expected 1 to 4096 nodes, found 4097");
    let message = refused(&format!("name = \"c\" #{}", " ".repeat(4 << 20)));
    assert_eq!(message, " has 4194316 bytes, expected at most 4194304");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let error = Manifest::load(&path).unwrap_err().to_string();
    assert_eq!(error, format!("{}: is a folder, expected a TOML file", path.display()));
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
