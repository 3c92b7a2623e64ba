//! Files of a run: what a person writes, and what the run left in its folder, given as anything at all.
#![allow(clippy::unwrap_used)]

mod bed;

use std::fs;

use bed::Bed;
use lyceum_fuzz::Fuzz;
use lyceum_pretrain::metrics::{Metrics, StepMetrics};
use lyceum_pretrain::run_directory::RunDirectory;
use lyceum_pretrain::run_file::RunFile;
use lyceum_pretrain::summary::{Documents, Summary};

thread_local!(static BED: Bed = Bed::new(4));

fn run_file(data: &[u8]) {
    BED.with(|bed| {
        let path = bed.folder.path().join("run.toml");
        fs::write(&path, data).unwrap();
        match RunFile::load(&path) {
            Ok(run) => {
                let written = serde_json::to_string(&run).unwrap();
                assert_eq!(serde_json::from_str::<RunFile>(&written).unwrap(), run);
            }
            Err(error) => {
                assert!(!error.message.is_empty() && error.message.len() < 8000);
                assert!(!error.message.contains(char::is_control), "{error:?}");
            }
        }
    });
}

#[test]
fn run_files_are_read_or_refused() {
    let example = include_str!("../../../examples/debian/run.toml");
    let words = [
        "[[source]]\n",
        "[model]\n",
        "[trainer]\n",
        "[checkpoint]\n",
        "[synthesizer]\n",
        "epochs = ",
        "weight = ",
        "converted = ",
        "\"texts.jsonl\"",
        "\"/dev/zero\"",
        "\"..\"",
        "nan",
        "inf",
        "keep = ",
        "world_size = ",
        "min = ",
        "max = ",
        "temperature = ",
    ];
    Fuzz::new("pretrain run file")
        .seeds([Bed::text().as_str(), example])
        .words(words)
        .runs(4000)
        .longest(8 << 10)
        .memory(16 << 20)
        .run(run_file);
}

/// The files of a run's folder; the first byte of an input says which of them it is.
const FILES: [&str; 5] = ["metrics.jsonl", "progress.json", "run.json", "files.json", "attempt"];

fn folder(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    BED.with(|bed| {
        let run = bed.run(&Bed::text());
        let folder = tempfile::tempdir().unwrap();
        let directory = RunDirectory::at(folder.path());
        directory.claim(&run).unwrap();
        // It has begun: what it left is looked at.
        fs::create_dir_all(directory.checkpoints().join("step-000003")).unwrap();
        fs::write(folder.path().join(FILES[usize::from(*which) % FILES.len()]), bytes).unwrap();
        if let Ok(lock) = directory.claim(&run) {
            assert!(lock.epoch() > 0);
        }
        if let Ok(metrics) = Metrics::open(folder.path(), 3) {
            assert!(metrics.step() <= 3);
            let _ = (metrics.tokens_per_second(), metrics.wait_share(), metrics.loss());
        }
    });
}

#[test]
fn whatever_a_runs_folder_holds_it_goes_on_or_says_why_not() {
    let lines: String = (1..=4)
        .map(|step| {
            let metric = StepMetrics {
                step,
                loss: if step == 2 { f64::NAN } else { 3.5 },
                gradient_norm: 1.0,
                learning_rate: 1e-3,
                tokens: 64,
                seconds: 0.5,
                waited: 0.1,
                skipped: step == 2,
            };
            serde_json::to_string(&metric).unwrap() + "\n"
        })
        .collect();
    let progress = r#"{"heldout": {"before": 3.5, "after": null}, "multiple_choice": {"before": 0.25, "after": 0.5},
        "synthesizers_peak": 2, "restarts": 1}"#;
    let bed = Bed::new(4);
    let run = bed.run(&Bed::text());
    let made = tempfile::tempdir().unwrap();
    RunDirectory::at(made.path()).claim(&run).unwrap();
    let of_run = |name: &str| fs::read(made.path().join(name)).unwrap();
    let contents =
        [lines.into_bytes(), progress.into(), of_run("run.json"), of_run("files.json"), of_run("attempt")];
    let seeds = (0..).zip(contents).map(|(which, content): (u8, _)| [vec![which], content].concat());
    Fuzz::new("pretrain folder")
        .seeds(seeds)
        .corpus(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/folder"))
        .runs(1500)
        .run(folder);
}

fn summary(data: &[u8]) {
    if let Ok(summary) = serde_json::from_slice::<Summary>(data) {
        let _ = (summary.table(), summary.documents.adds_up());
        let written = serde_json::to_vec(&summary).unwrap();
        drop(serde_json::from_slice::<Summary>(&written).unwrap());
    }
}

#[test]
fn summaries_are_read_or_refused() {
    let documents = Documents { read: 4, raw: 1, augmented: 2, skipped: [("empty".to_owned(), 1)].into() };
    let (steps, tokens, checkpoint) = (100, 6400, Some("/a/checkpoints/step-000100".into()));
    let summary_of_a_run = Summary { steps, tokens, documents, checkpoint, ..Summary::default() };
    let seed = serde_json::to_vec(&summary_of_a_run).unwrap();
    Fuzz::new("pretrain summary").seeds([seed]).runs(10_000).longest(8 << 10).run(summary);
}
