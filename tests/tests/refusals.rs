//! What is refused before anything starts, and what bad input comes to.

#![allow(clippy::unwrap_used)]

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
    let text = RunText::default().to_string().replace("[trainer]", "[trainer]\ncpus = 5");
    let line = text.lines().position(|line| line == "cpus = 5").unwrap() + 1;
    refused(
        run,
        same,
        &[&format!("out.toml:{line}:8: "), "a trainer asks for 5 cpus", "the largest have 4 cpus"],
    );
    let run = |text: String| {
        text.replace("world_size = 1", "world_size = 4").replace("[trainer]", "[trainer]\ncpus = 3")
    };
    refused(run, same, &["out.toml:", "a trainer asks for 3 cpus", "have room for 2 of 4"]);
    let run = |text: String| text.replace("batch_rows = 4", "batch_rows = 5000");
    let line = RunText::default().to_string().lines().position(|line| line == "batch_rows = 4").unwrap() + 1;
    refused(run, same, &[&format!("out.toml:{line}:14: "), "a batch of 5000 rows", "16777216 bytes"]);
}

#[test]
fn a_manifest_that_this_machine_cannot_meet_is_refused_at_its_place() {
    let manifest = |text: String| text.replace("oversubscribe = true", "").replace("cpus = 4", "cpus = 9999");
    refused(
        same,
        manifest,
        &["cluster.toml:15:22: ", "claim 19998 cores, this machine has ", "oversubscribe"],
    );
    let manifest = |text: String| text.replace("\"16 MiB\"", "\"4096 TiB\"");
    refused(same, manifest, &["cluster.toml:5:12: ", "a store of 4096 TiB lies in memory"]);
    // An address of a block that is kept for documentation: no machine has it.
    let manifest = |text: String| text.replace("name = \"b\"", "name = \"b\"\nbind = \"192.0.2.1\"");
    refused(same, manifest, &["cluster.toml:19:8: ", "`bind` is 192.0.2.1", "an address of this machine"]);
}

#[test]
fn a_cluster_of_another_run_is_refused_before_a_folder_is_made() {
    let bed = Bed::new();
    // It goes on for as long as the test looks.
    let run = RunText {
        converted: None,
        steps: 10_000_000,
        source_extra: "epochs = 1000000",
        ..RunText::default()
    };
    let mut first = bed.run(&run, "out");
    first.until_step(1);
    bed.write("other.toml", run.to_string());
    let other = bed.run_files("other.toml", "cluster.toml", "other").end_on_standing();
    let other = other.failed(&["cluster `test` runs and belongs to another `lyceum run`"]);
    assert!(!other.root().exists(), "an output folder came into being");
    first.interrupt();
    first.end();
}

#[test]
fn models_without_weights_and_synthesizers_without_room_are_refused_at_their_place() {
    let run = |text: String| text.replace("start = \"random\"", "start = \"weights\"");
    refused(run, same, &["out.toml:5:13: ", "there are no weights", "start = \"random\""]);
    let run = |text: String| text.replace("max_new_tokens = 400", "max_new_tokens = 4096");
    let line =
        |wanted: &str| RunText::default().to_string().lines().position(|line| line == wanted).unwrap() + 1;
    let place = format!("out.toml:{}:18: ", line("max_new_tokens = 400"));
    refused(run, same, &[&place, "4096 positions", "none is left for the text"]);
}

#[test]
fn a_tokenizer_that_its_model_has_no_room_for_is_refused_at_the_place_that_names_them() {
    let bed = Bed::with_documents(20);
    let config = fs::read_to_string(bed.path("model/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let small = config["vocab_size"].as_u64().unwrap() - 1;
    let mut changed = config.clone();
    changed["vocab_size"] = small.into();
    bed.write("model/config.json", changed.to_string());
    let words = ["out.toml:5:13: ", &format!("the model's vocab_size is {small}")];
    bed.run(&RunText::default(), "out").end().failed(&words);
    bed.write("model/config.json", "{\"model_type\": \"llama\",\n  vocab_size");
    bed.run(&RunText::default(), "out").end().failed(&["model/config.json:2:3: "]);
    assert!(!bed.state().exists() && !bed.path("out").exists(), "something was started");
}

#[test]
fn models_that_cannot_be_are_refused_before_anything_starts() {
    let bed = Bed::with_documents(20);
    let config = fs::read_to_string(bed.path("model/config.json")).unwrap();
    let mut changed: serde_json::Value = serde_json::from_str(&config).unwrap();
    let refused = |start: &str, words: &[&str]| {
        bed.write("bad.toml", RunText::default().to_string().replace("start = \"random\"\n", start));
        bed.run_files("bad.toml", "cluster.toml", "out").end().failed(words);
        assert!(!bed.state().exists() && !bed.path("out").exists(), "something was started");
    };
    let random = "start = \"random\"\n";
    bed.write("model/model.safetensors", [0xff; 64]);
    refused("", &["bad.toml:5:13: ", "model.safetensors: "]);
    // A pipe that nobody writes to.
    let made = std::process::Command::new("mkfifo").arg(bed.path("model/pipe")).status().unwrap();
    assert!(made.success());
    for name in ["tokenizer.json", "config.json"] {
        let (file, kept) = (bed.path(&format!("model/{name}")), bed.path("model/kept"));
        fs::rename(&file, &kept).unwrap();
        std::os::unix::fs::symlink("pipe", &file).unwrap();
        refused(random, &["bad.toml:5:13: ", name, "file"]);
        fs::rename(&kept, &file).unwrap();
    }
    changed["intermediate_size"] = 8_388_608.into();
    bed.write("model/config.json", changed.to_string());
    refused(random, &["bad.toml:5:13: ", "parameters takes at least"]);
    changed["bos_token_id"] = 4_000_000.into();
    bed.write("model/config.json", changed.to_string());
    refused(random, &["bad.toml:5:13: ", "special token 4000000 is outside"]);
}

#[test]
fn evaluation_files_are_read_before_anything_starts() {
    let bed = Bed::with_documents(20);
    bed.write("heldout.jsonl", documents(3, 4) + "{\"text\": 7}\n");
    let run = RunText { heldout: Some("heldout.jsonl"), ..RunText::default() };
    bed.run(&run, "out").end().failed(&["heldout.jsonl:5:10: corrupt json", "expected a string"]);
    bed.write("choices.jsonl", "{\"prompt\": \"p\", \"choices\": [\"a\", \"b\"], \"answer\": 2}\n");
    let text = RunText::default().to_string() + "\n[evaluation]\nmultiple_choice = \"choices.jsonl\"\n";
    bed.write("choices.toml", text);
    bed.run_files("choices.toml", "cluster.toml", "out")
        .end()
        .failed(&["choices.jsonl:1:1: answer 2 of 2 choices"]);
    assert!(!bed.state().exists() && !bed.path("out").exists(), "something was started");
}

#[test]
fn a_source_that_is_a_folder_or_of_no_known_kind_is_refused_at_its_place() {
    let run = |text: String| text.replace("raw.jsonl", "model");
    let line = RunText::default().to_string().lines().position(|line| line.contains("raw.jsonl")).unwrap();
    let place = format!("out.toml:{}:10: ", line + 1);
    refused(run, same, &[&place, "model is a folder, expected a file"]);
    let run = |text: String| text.replace("raw.jsonl", "cluster.toml");
    refused(run, same, &[&place, "cluster.toml: unknown extension `toml`", "`jsonl`"]);
}

#[test]
fn a_run_without_any_text_is_refused_or_ends_with_an_error_that_says_why() {
    let bed = Bed::with_documents(20);
    bed.write("raw.jsonl", "\n\n");
    let run = RunText { converted: None, source_extra: "max_bad_share = 1.0", ..RunText::default() };
    let words = ["out.toml:", "no source has a document to train on: 'raw' (skipped empty 2)"];
    bed.run(&run, "out").end().failed(&words);
    assert!(!bed.state().exists() && !bed.path("out").exists(), "something was started");
    // Documents, but no tuning examples: that is found by who makes texts of them.
    bed.write("raw.jsonl", documents(7, 3));
    let run = RunText { source_extra: "kind = \"tuning\"", ..run };
    let words = ["error: ", "nothing was trained: no text came of 'raw' (skipped ", " 3)"];
    bed.run(&run, "out").end().failed(&words);
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
    // Nor is it taken up over a source that has changed.
    let source = fs::read_to_string(bed.path("raw.jsonl")).unwrap();
    bed.write("raw.jsonl", source.replacen("library", "Library", 1));
    bed.run(&run, "out").end().failed(&["raw.jsonl has changed since this run began", "--out"]);
    bed.write("raw.jsonl", source);
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
