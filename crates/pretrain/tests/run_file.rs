//! A run file is refused at once, with its place and what was meant.
#![allow(clippy::unwrap_used)]

mod bed;

use bed::Bed;
use lyceum_cluster::manifest::Manifest;
use lyceum_pretrain::demand;
use lyceum_pretrain::run_directory::{RunDirectory, RunDirectoryError};
use lyceum_pretrain::run_file::RunFile;

/// What the run file says after `from` became `to`, without the folder's own name.
fn refusal(from: &str, to: &str) -> String {
    let bed = Bed::new(4);
    let text = Bed::text();
    assert!(text.contains(from), "the test changes something that is there");
    let path = bed.write(&text.replacen(from, to, 1));
    let error = RunFile::load(path).unwrap_err().to_string();
    error.replace(&format!("{}/", bed.folder.path().display()), "")
}

#[test]
fn what_is_left_out_has_defaults() {
    let run = Bed::new(4).run(&Bed::text());
    assert_eq!((run.trainer.world_size, run.checkpoint.keep, run.sources[0].epochs), (1, 2, 1));
    assert!(run.sources[0].paths[0].is_absolute());
    assert!(!run.synthesizes());
}

#[test]
fn a_wrong_key_is_named_with_its_place_and_the_nearest_valid_one() {
    let said = refusal("batch_rows = 2", "batch_row = 2");
    assert!(said.starts_with("run.toml:19:1: "), "{said}");
    assert!(said.contains("`batch_row`") && said.contains("did you mean `batch_rows`"), "{said}");
}

#[test]
fn values_that_do_not_fit_each_other_are_refused_at_their_place() {
    let cases = [
        ("steps = 100", "steps = 0", "run.toml:17:", "expected at least 1"),
        ("batch_rows = 2", "batch_rows = 3\nworld_size = 2", "run.toml:19:", "cannot be shared out evenly"),
        ("sequence_length = 32", "sequence_length = 33", "run.toml:18:", "a multiple of 8"),
        ("name = \"texts\"", "name = \"texts\"\nconverted = 1.5", "run.toml:9:", "expected 0 to 1"),
        (
            "engine = \"deterministic\"",
            "min = 3\nmax = 2\nengine = \"deterministic\"",
            "run.toml:13:",
            "below min = 3",
        ),
        ("texts.jsonl", "text.jsonl", "run.toml:9:", "text.jsonl"),
        ("learning_rate = 1e-3", "learning_rate = nan", "run.toml:20:", "above 0"),
    ];
    for (from, to, place, why) in cases {
        let said = refusal(from, to);
        assert!(
            said.starts_with(place) && said.contains(why),
            "{to:?} gave {said:?}, expected {place} ... {why}"
        );
    }
}

#[test]
fn converting_without_a_synthesizer_is_refused() {
    let bed = Bed::new(4);
    let text = Bed::text().replace("name = \"texts\"", "name = \"texts\"\nconverted = 0.5");
    let without = text.replace("[synthesizer]\nengine = \"deterministic\"\nrounds = 2\nwindow = 8\n", "");
    let said = RunFile::load(bed.write(&without)).unwrap_err().to_string();
    assert!(said.contains("no [synthesizer]"), "{said}");
    assert!(bed.run(&text).synthesizes());
}

#[test]
fn what_a_cluster_can_never_hold_is_said_before_anything_starts() {
    let bed = Bed::new(4);
    let path = bed.folder.path().join("cluster.toml");
    std::fs::write(&path, "name = \"small\"\noversubscribe = true\n[[nodes]]\nname = \"a\"\nresources = { cpus = 2, memory = \"1 GiB\" }\n")
        .unwrap();
    let manifest = Manifest::load(&path).unwrap();
    assert_eq!(demand::unmet(&bed.run(&Bed::text()), &manifest), None);
    let wide = bed.run(&Bed::text().replace("steps = 100", "steps = 100\ncpus = 3"));
    assert!(demand::unmet(&wide, &manifest).unwrap().contains("no node of 'small'"));
    let many = bed.run(&Bed::text().replace("steps = 100", "steps = 100\nworld_size = 2"));
    assert!(
        demand::unmet(&many, &manifest).unwrap().contains("2.3 cpus"),
        "{:?}",
        demand::unmet(&many, &manifest)
    );
}

#[test]
fn a_folder_belongs_to_one_run_at_a_time_and_to_one_set_of_data() {
    let bed = Bed::new(4);
    let directory = RunDirectory::at(bed.folder.path().join("out"));
    let run = bed.run(&Bed::text());
    let lock = directory.claim(&run).unwrap();
    assert_eq!(lock.epoch(), 1);
    assert!(matches!(directory.claim(&run), Err(RunDirectoryError::InUse(_))));
    drop(lock);
    let longer = bed.run(&Bed::text().replace("steps = 100", "steps = 200"));
    assert_eq!(directory.claim(&longer).unwrap().epoch(), 2, "each attempt has a number of its own");
    let other = bed.run(&Bed::text().replace("seed = 3", "seed = 4"));
    assert!(directory.claim(&other).unwrap_err().to_string().contains("seed differs"));
}
