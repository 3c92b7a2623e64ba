//! The committed run files are valid, and say what the demo promises.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lyceum_debian::models::Model;
use lyceum_pretrain::run_file::{RunFile, Start};

fn example() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A model as it is committed.
fn stand_in(model: &str, folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(example().join("models").join(model).join(name), folder.join(name)).expect("copied");
    }
}

#[test]
fn the_demo_trains_half_raw_half_augmented_within_its_means() {
    let run = RunFile::load(example().join("run.toml")).expect("a valid run file");
    let [raw, augmented] = &run.sources[..] else { panic!("{:?}", run.sources) };
    assert_eq!((raw.converted, augmented.converted), (0.0, 1.0));
    assert_eq!(raw.share, augmented.share);
    let trainer = &run.trainer;
    assert_eq!(u64::from(trainer.batch_rows * trainer.sequence_length), 4096);
    assert_eq!((trainer.steps, trainer.world_size), (120, 2));
    let synthesizer = run.synthesizer.as_ref().expect("a synthesizer");
    assert_eq!((synthesizer.min, synthesizer.max, synthesizer.rounds), (1, 3, 2));
    assert!(run.evaluation.heldout.is_some() && run.evaluation.multiple_choice.is_some());
}

#[test]
fn vanilla_trains_as_much_on_the_same_files() {
    let load = |name: &str| RunFile::load(example().join(name)).expect("a valid run file");
    let (run, vanilla) = (load("run.toml"), load("vanilla.toml"));
    assert!(run.synthesizes() && !vanilla.synthesizes());
    let files = |run: &RunFile| -> BTreeSet<_> {
        run.sources.iter().flat_map(|source| source.paths.clone()).collect()
    };
    assert_eq!(files(&run), files(&vanilla));
    assert_eq!(run.trainer, vanilla.trainer);
    assert_eq!(run.evaluation, vanilla.evaluation);
    assert_eq!((run.seed, run.model), (vanilla.seed, vanilla.model));
}

#[test]
fn the_recipes_stages_follow_each_other() {
    let work = tempfile::tempdir().expect("a folder");
    for name in [
        "base-documents.jsonl",
        "tuning-documents.jsonl",
        "tuning.jsonl",
        "tuning-finish.jsonl",
        "tuning-names.jsonl",
    ] {
        fs::write(work.path().join(name), "{\"text\": \"a text\"}\n").expect("written");
    }
    for model in Model::ALL {
        let mut before = None;
        for stage in model.stages() {
            let name = format!("{stage}.toml");
            fs::copy(example().join("recipe").join(&name), work.path().join(&name)).expect("copied");
            // The first stage begins with the recipe's shape, each other one where the one before ends.
            let start = before.take().unwrap_or_else(|| work.path().join("models").join(model.name()));
            stand_in(model.name(), &start);
            let run = RunFile::load(work.path().join(&name)).expect("a valid run file");
            assert_eq!(run.model.directory, start.canonicalize().expect("it is there"), "{stage}");
            assert_eq!(run.model.start == Start::Random, *stage == model.stages()[0], "{stage}");
            assert_eq!(run.trainer.world_size, 1, "{stage}");
            let last = format!("runs/{stage}/checkpoints/step-{:08}/model", run.trainer.steps);
            before = Some(work.path().join(last));
        }
    }
}
