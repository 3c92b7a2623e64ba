//! What is refused before anything starts, and what bad input comes to.

use std::fs;

use lyceum_tests::{Bed, RunText, documents};

/// Runs these files, which must be refused with `words` before any process or state comes into being.
fn refused(run: impl Fn(String) -> String, manifest: impl Fn(String) -> String, words: &[&str]) {
    let bed = Bed::with_documents(20);
    let text = fs::read_to_string(bed.path("cluster.toml")).expect("the bed wrote it");
    bed.write("cluster.toml", manifest(text));
    bed.write("out.toml", run(RunText::default().to_string()));
    let output = bed.run_files("out.toml", "cluster.toml", "out").end().failed(words);
    assert!(!bed.state().exists(), "a state folder came into being");
    assert!(!output.root().exists(), "an output folder came into being");
}

fn same(text: String) -> String {
    text
}

#[test]
fn an_unknown_key_of_a_run_file_is_refused_with_its_place_and_the_nearest_name() {
    let run = |text: String| text.replace("learning_rate", "learing_rate");
    refused(run, same, &["out.toml:", ":1: unknown key `learing_rate`", "`learning_rate`"]);
}

#[test]
fn an_unknown_key_of_a_manifest_is_refused_with_its_place_and_the_nearest_name() {
    let manifest = |text: String| text.replace("oversubscribe", "oversubscribed");
    refused(same, manifest, &["cluster.toml:2:1: unknown key `oversubscribed`", "`oversubscribe`"]);
}

#[test]
fn a_wrong_type_is_refused_with_its_place() {
    let run = |text: String| text.replace("steps = 40", "steps = \"forty\"");
    let line = RunText::default().to_string().lines().position(|line| line == "steps = 40").unwrap() + 1;
    refused(run, same, &[&format!("out.toml:{line}:9"), "forty"]);
    let manifest = |text: String| text.replace("cpus = 4", "cpus = [4]");
    refused(same, manifest, &["cluster.toml:15:"]);
}

#[test]
fn a_missing_file_is_refused_with_the_place_that_names_it() {
    let run = |text: String| text.replace("raw.jsonl", "row.jsonl");
    let line =
        RunText::default().to_string().lines().position(|line| line.contains("raw.jsonl")).unwrap() + 1;
    refused(run, same, &[&format!("out.toml:{line}:"), "row.jsonl"]);
    let run = |text: String| text.replace("directory = \"model\"", "directory = \"modell\"");
    refused(run, same, &["out.toml:5:", "modell"]);
}

#[test]
fn a_request_that_no_node_can_meet_is_refused_before_anything_starts() {
    let run = |text: String| text.replace("[trainer]", "[trainer]\ncpus = 5");
    refused(run, same, &["a trainer asks for 5 cpus", "the largest have 4 cpus"]);
    let run = |text: String| {
        text.replace("world_size = 1", "world_size = 4").replace("[trainer]", "[trainer]\ncpus = 3")
    };
    refused(run, same, &["the run needs 13.3 cpus", "have 8"]);
}

#[test]
fn values_that_do_not_fit_each_other_are_refused() {
    let run = |text: String| text.replace("world_size = 1", "world_size = 3");
    refused(run, same, &["4 rows cannot be shared out evenly to 3 ranks"]);
    let run = |text: String| text.replace("min = 1", "min = 2");
    refused(run, same, &["1 is below min = 2"]);
}

#[test]
fn a_folder_of_another_run_is_refused_and_left_as_it_is() {
    let bed = Bed::with_documents(300);
    let run = RunText { converted: None, steps: 5, ..RunText::default() };
    let output = bed.run(&run, "out").end().well();
    let before = output.losses();
    let state = fs::read_dir(bed.state()).unwrap().count();
    bed.write("other.toml", run.to_string().replace("seed = ", "seed = 1"));
    let output = bed
        .run_files("other.toml", "cluster.toml", "out")
        .end()
        .failed(&["belongs to a run of other settings (seed differs)", "--out"]);
    assert_eq!(output.losses(), before);
    assert_eq!(fs::read_dir(bed.state()).unwrap().count(), state);
    // The run itself has nothing left to do, and says the same.
    let again = bed.run(&run, "out").end().well();
    assert_eq!((again.summary().steps, again.losses()), (5, before));
}

#[test]
fn l1_corrupt_lines_broken_utf8_and_empty_texts_are_counted_by_reason_and_skipped() {
    const GOOD: u64 = 120;
    let bed = Bed::with_documents(20);
    let mut bytes = documents(7, GOOD / 2).into_bytes();
    bytes.extend_from_slice(b"{\"text\": \"cut sho\n");
    bytes.extend_from_slice(b"{\"text\": \"caf\xe9 au lait\"}\n");
    bytes.extend_from_slice(b"{\"text\": \"  \"}\n{\"text\": \"\"}\n");
    bytes.extend_from_slice(b"[1, 2]\n{\"title\": \"no text\"}\n");
    bytes.extend_from_slice(documents(8, GOOD / 2).as_bytes());
    bed.write("raw.jsonl", bytes);
    // More steps than there is data: every line is accounted for at the end.
    let run =
        RunText { converted: None, steps: 1000, source_extra: "max_bad_share = 0.1", ..RunText::default() };
    let output = bed.run(&run, "out").end().well();
    let documents = output.summary().documents;
    assert_eq!((documents.raw, documents.augmented, documents.read), (GOOD, 0, GOOD + 6), "{documents:?}");
    assert!(documents.adds_up());
    let skipped: Vec<(&str, u64)> =
        documents.skipped.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    assert_eq!(skipped, [("broken utf-8", 1), ("corrupt json", 3), ("empty", 2)]);
    assert_eq!(output.documents().0.len() as u64, GOOD);
}

#[test]
fn too_many_bad_lines_end_the_run_with_an_error_that_names_them() {
    let bed = Bed::with_documents(20);
    let mut text = documents(7, 100);
    text += &"not json\n".repeat(5);
    bed.write("raw.jsonl", text);
    let run = RunText { converted: None, steps: 1000, ..RunText::default() };
    let words = ["5 of 105 entries are bad, more than the allowed share of 0.01", "raw.jsonl:101"];
    bed.run(&run, "out").end().failed(&words);
}
