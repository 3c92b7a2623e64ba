//! From a small index to all files, twice the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use lyceum_debian::draw;
use lyceum_debian::lists::Lists;
use lyceum_debian::prepare::{Options, build, read_packages};
use lyceum_debian::split::Set;

/// Twelve made-up words that no other number has.
fn words(number: usize) -> String {
    let syllables =
        ["ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "wo", "xu", "za"];
    let syllable =
        |at: usize| syllables[draw::below(0, &number.to_string(), &at.to_string(), syllables.len())];
    let word = |at: usize| (0..3).map(|part| syllable(3 * at + part)).collect::<String>();
    (0..12).map(word).collect::<Vec<_>>().join(" ")
}

/// An index of 300 sources with two packages each. Every tenth source shares its text with the
/// next; one stanza is odd.
fn index(folder: &Path) -> Lists {
    let mut packages = String::from("Package: BAD NAME\nSection: libs\n\n: \n\n");
    let mut descriptions = String::new();
    for n in 0..300 {
        let section = ["libs", "science", "games"][n % 3];
        let text = words(if n % 10 == 0 { n + 1 } else { n });
        for package in [format!("thing{n}"), format!("libthing{n}-dev")] {
            packages += &format!(
                "Package: {package}\nSource: thing{n} (1.0)\nSection: {section}\nDescription-md5: {n}\n\n"
            );
            descriptions += &format!(
                "Package: {package}\nDescription-md5: {n}\nDescription-en: tool number {n}\n Thing{n} is a tool \
                 for {text}.\n It is written in Python.\n .\n It has:\n  * red pipes\n  * much XML\n\n"
            );
        }
    }
    let lists = Lists {
        packages: folder.join("Packages"),
        descriptions: folder.join("Translation-en"),
        release: "test".into(),
    };
    fs::write(&lists.packages, packages).expect("written");
    fs::write(&lists.descriptions, descriptions).expect("written");
    lists
}

#[test]
fn the_same_index_gives_the_same_disjoint_sets() {
    if !Path::new("/usr/lib/apt/apt-helper").exists() {
        assert!(std::env::var_os("LYCEUM_REQUIRE_TOOLS").is_none(), "apt-helper is missing: install `apt`");
        eprintln!("skipped: no apt-helper here, which reads Debian's lists (package `apt`)");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let lists = index(folder.path());
    let options = Options::demo(folder.path().join("out"), None);
    // `build` itself fails when its sets are not disjoint.
    let make = || {
        let (packages, _) = read_packages(&lists).expect("the lists can be read");
        build(&options, &packages).expect("disjoint sets")
    };
    let (one, two) = (make(), make());
    let mut sets_of_text: BTreeMap<String, BTreeSet<Set>> = BTreeMap::new();
    for set in Set::ALL {
        assert_eq!(one.documents(set), two.documents(set), "{set:?}");
        let domain = matches!(set, Set::Demo | Set::DemoHeldout);
        for document in one.documents(set) {
            assert!(document.section != "science" || domain, "{document:?} is of the domain, in {set:?}");
            let text = words(
                document.source["thing".len()..].parse::<usize>().map_or(0, |n| n + usize::from(n % 10 == 0)),
            );
            sets_of_text.entry(text).or_default().insert(set);
        }
    }
    assert!(sets_of_text.values().all(|sets| sets.len() == 1), "a shared text stays in one set");
    assert!(!one.tuning().is_empty());
    assert_eq!(one.tuning(), two.tuning());
    for example in one.tuning() {
        assert!(example.tasks.len() >= 2 && example.context.len() <= options.longest_context, "{example:?}");
    }
}
