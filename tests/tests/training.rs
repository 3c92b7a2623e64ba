//! From two files to a checkpoint: what comes out, and that the same files give the same numbers.

use std::collections::BTreeMap;
use std::fs;

use lyceum_tests::{Bed, RunText, SEED, documents};

/// The greatest relative difference of two runs' losses.
fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max)
}

/// What `summary.json` of a whole run has.
const SUMMARY: [&str; 13] = [
    "checkpoint",
    "documents augmented raw read skipped",
    "heldout after before",
    "loss first last",
    "multiple_choice after before",
    "pairs dropped kept",
    "restarts",
    "steps",
    "synthesizers_peak",
    "tokens",
    "tokens_per_second",
    "trainer_wait_share",
    "world_size",
];

/// Each name of a JSON object, sorted, with those of the object behind it.
fn summary_names(text: &str) -> Vec<String> {
    type Object = BTreeMap<String, serde_json::Value>;
    let summary: Object = serde_json::from_str(text).expect("it is an object");
    let line = |(name, value): (String, serde_json::Value)| {
        let within: Object = serde_json::from_value(value).unwrap_or_default();
        within.into_keys().fold(name, |line, name| format!("{line} {name}"))
    };
    summary.into_iter().map(line).collect()
}

#[test]
fn l1_a_manifest_and_a_run_file_give_a_trained_model_and_accounts_that_add_up() {
    let bed = Bed::new();
    let run = RunText { steps: 60, heldout: Some("heldout.jsonl"), world_size: 2, ..RunText::default() };
    let output = bed.run(&run, "out").end().well();

    let summary = output.summary();
    assert_eq!((summary.steps, summary.world_size), (60, 2));
    assert!(summary.tokens > 60 * 4 * 60, "{summary:?}");
    assert!(summary.documents.adds_up(), "{summary:?}");
    assert!(summary.documents.raw > 0 && summary.documents.augmented > 0, "{summary:?}");
    assert!(summary.pairs.kept >= summary.documents.augmented, "{summary:?}");
    assert_eq!(summary.restarts, 0);
    let (documents, accounts) = output.documents();
    assert_eq!(documents.len() as u64, accounts.read());
    assert!(accounts.read() >= summary.documents.read, "the Packer runs ahead of its summary at most");

    let (first, last) = (summary.loss.first.unwrap(), summary.loss.last.unwrap());
    assert!(last < 0.8 * first, "the loss falls: {first} to {last}");
    let (before, after) = (summary.heldout.before.unwrap(), summary.heldout.after.unwrap());
    assert!(after < 0.8 * before, "the held-out loss falls: {before} to {after}");
    let losses = output.losses();
    assert_eq!(losses.len(), 60);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(difference(&[first, last], &[mean(&losses[..5]), mean(&losses[55..])]) < 1e-9, "{summary:?}");

    let (checkpoint, step) = output.whole_checkpoint();
    assert_eq!(step, 60);
    assert_eq!(summary.checkpoint.as_deref(), Some(checkpoint.as_path()));
    let model = checkpoint.join("model");
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"][0], "LlamaForCausalLM");
    assert_eq!(config["hidden_size"], 32);
    assert_eq!(
        fs::read(model.join("tokenizer.json")).unwrap(),
        fs::read(bed.path("model/tokenizer.json")).unwrap()
    );
    assert!(fs::metadata(model.join("model.safetensors")).unwrap().len() > 20_000);

    let names = summary_names(&fs::read_to_string(output.root().join("summary.json")).unwrap());
    assert_eq!(names, SUMMARY, "scripts read these");

    // The model that came out is one to go on from.
    let again = fs::read_to_string(bed.path("out.toml")).unwrap();
    let again = again.replace("directory = \"model\"", &format!("directory = \"{}\"", model.display()));
    bed.write("again.toml", again.replace("start = \"random\"", "").replace("steps = 60", "steps = 5"));
    let summary = bed.run_files("again.toml", "cluster.toml", "again").end().well().summary();
    assert!((summary.heldout.before.unwrap() - after).abs() < 1e-3, "{summary:?} after {after}");
}

#[test]
fn a_run_that_comes_to_nothing_is_an_error_each_time_it_is_asked_for() {
    let bed = Bed::new();
    let run = RunText { steps: 5, converted: None, ..RunText::default() };
    let good = bed.run(&run, "good").end().well();
    let text = run.to_string();
    // Numbers that are none, of the right shapes.
    let model = good.whole_checkpoint().0.join("model");
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[data..].fill(0xff);
    fs::write(&weights, bytes).unwrap();
    let from = format!("directory = \"{}\"", model.display());
    let spoilt = text.replace("directory = \"model\"", &from).replace("start = \"random\"", "");
    bed.write("spoilt.toml", spoilt);
    let wild =
        text.replace("learning_rate = 3e-3", "learning_rate = 1e300").replace("steps = 5\n", "steps = 20\n");
    bed.write("wild.toml", wild);
    for _ in 0..2 {
        let none = "none of 5 steps changed the model";
        bed.run_files("spoilt.toml", "cluster.toml", "spoilt").end().failed(&[none, "are the weights in"]);
        bed.run_files("wild.toml", "cluster.toml", "wild").end().failed(&["the model has diverged"]);
    }
}

#[test]
fn l5_two_ranks_have_the_losses_of_one_and_the_same_batches() {
    let bed = Bed::new();
    let outputs = [1, 2].map(|world_size| {
        let run = RunText { world_size, ..RunText::default() };
        bed.run(&run, &format!("world-{world_size}")).end().well()
    });
    let [one, two] = outputs.each_ref().map(|output| output.losses());
    assert_eq!(one.len(), 40);
    assert!(difference(&two, &one) < 1e-4, "{two:?} for {one:?}");
    let [one, two] = outputs.each_ref().map(|output| output.batches());
    assert_eq!(one[..40], two[..40]);
}

#[test]
fn l5_a_run_without_a_cluster_has_the_losses_of_one_with_it_bit_for_bit() {
    let bed = Bed::new();
    let run = RunText { converted: None, ..RunText::default() };
    let alone = bed.local(&run, "alone").end().well();
    let gang = bed.run(&run, "gang").end().well();
    assert_eq!(alone.losses().len(), 40);
    assert_eq!(alone.losses(), gang.losses());
    assert_eq!(alone.batches()[..40], gang.batches()[..40]);
}

#[test]
fn l2_many_sources_of_all_kinds_are_trained_to_their_end() {
    const SOURCES: u64 = 12;
    const DOCUMENTS: u64 = 30;
    let bed = Bed::with_documents(20);
    let run = RunText { steps: 100_000, raw: None, synthesizers: (2, 2), ..RunText::default() };
    let text = run.to_string();
    let (before, source) = text.split_once("[[source]]").unwrap();
    let (_, after) = source.split_once("[synthesizer]").unwrap();
    let source = |number| {
        let name = format!("many-{number}.jsonl");
        bed.write(&name, documents(SEED + number, DOCUMENTS));
        let (converted, share) = ([0.0, 1.0, 0.5][number as usize % 3], 1 + number % 4);
        format!(
            "[[source]]\nname = \"s{number}\"\npaths = [\"{name}\"]\nconverted = {converted:?}\nshare = {share}\n"
        )
    };
    let sources: String = (0..SOURCES).map(source).collect();
    bed.write("many.toml", format!("{before}{sources}\n[synthesizer]{after}"));
    let output = bed.run_files("many.toml", "cluster.toml", "many").end().well();
    let summary = output.summary();
    assert_eq!(summary.documents.read, SOURCES * DOCUMENTS, "L1: {summary:?}");
    assert!(summary.documents.adds_up() && summary.documents.augmented > 100, "{summary:?}");
    assert_eq!(output.documents().0.len() as u64, SOURCES * DOCUMENTS);
}

#[test]
fn l2_a_store_that_holds_few_batches_at_a_time_holds_up_no_run() {
    // What went to the other node, or to a trainer that is done with it, must leave the store at once: all batches of this
    // run are many times what it holds.
    let bed = Bed::with_documents(1500);
    let manifest = lyceum_tests::manifest("test");
    bed.write("small.toml", manifest.replace("16 MiB", "1 MiB").replace("8 MiB", "1 MiB"));
    let run = RunText { steps: 400, world_size: 2, synthesizers: (1, 2), ..RunText::default() };
    bed.write("out.toml", run.to_string());
    let summary = bed.run_files("out.toml", "small.toml", "out").end().well().summary();
    assert_eq!(summary.steps, 400);
    assert!(summary.documents.adds_up(), "{summary:?}");
}
