//! The rules of a run file: paths that must be there, values that must fit each other, files that a run would fail for.

use std::fs::File;
use std::path::{Path, PathBuf};

use lyceum_cluster::strict::{self, Place, Source as Text, StrictError};
use lyceum_corpus::document::{DocumentReader, Format};
use lyceum_corpus::tokenizer::Tokenizer;
use lyceum_synth::prompt;

use super::model_directory::ModelDirectory;
use super::{DETERMINISTIC_POSITIONS, EngineKind, RunFile, Source, SourceKind, Start, Synthesizer};
use crate::evaluation;
use crate::summary::skipped;

/// Most steps of a run: as many as a checkpoint's name has digits for.
const MOST_STEPS: u64 = 99_999_999;
/// Most texts of a chain, which waits and travels as one piece; the paper's chains have a few.
const MOST_ROUNDS: u64 = 256;
/// More trainers, or synthesizers, than a cluster has processes.
const MOST_ACTORS: u64 = 65_536;
/// Most chains of one synthesizer at a time: each of them holds its place in the model's cache.
const MOST_CHAINS_AT_ONCE: u64 = 1024;

/// `run` with absolute paths, if everything about it is right.
pub(super) fn checked(run: RunFile, text: &Text) -> Result<RunFile, StrictError> {
    let run = with_absolute_paths(run, text)?;
    check_values(&run, text)?;
    check_models(&run, text)?;
    check_evaluation(&run)?;
    check_documents(&run, text)?;
    Ok(run)
}

fn with_absolute_paths(mut run: RunFile, text: &Text) -> Result<RunFile, StrictError> {
    let existing = |key: &str, path: &Path| -> Result<PathBuf, StrictError> {
        let found = text.resolve_existing(key, path)?;
        found.canonicalize().map_err(|error| text.refuse(key, format!("{}: {error}", found.display())))
    };
    // A file keeps the name that it was given, which tells what it holds: what a link points to may have any.
    let file = |key: &str, path: &Path, lines: bool| -> Result<PathBuf, StrictError> {
        let target = existing(key, path)?;
        let given = text.resolve(path);
        let folder = given.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let found = match (folder.canonicalize(), given.file_name()) {
            (Ok(folder), Some(name)) => folder.join(name),
            _ => target,
        };
        check_file(key, &found, lines, text)?;
        Ok(found)
    };
    run.model.directory = existing("model.directory", &run.model.directory)?;
    for file in ["config.json", "tokenizer.json"] {
        existing("model.directory", &run.model.directory.join(file))?;
    }
    for (number, source) in run.sources.iter_mut().enumerate() {
        for (index, path) in source.paths.iter_mut().enumerate() {
            let key = format!("source[{number}].paths[{index}]");
            *path = file(&key, path, source.kind == SourceKind::Tuning)?;
        }
    }
    if let Some(directory) = run.synthesizer.as_mut().and_then(|synthesizer| synthesizer.directory.as_mut()) {
        *directory = existing("synthesizer.directory", directory)?;
    }
    if let Some(path) = &mut run.evaluation.heldout {
        *path = file("evaluation.heldout", path, false)?;
    }
    if let Some(path) = &mut run.evaluation.multiple_choice {
        *path = file("evaluation.multiple_choice", path, true)?;
    }
    Ok(run)
}

/// A file of entries: one that can be read, and whose name tells how. `lines` says that only JSON lines will do.
fn check_file(key: &str, path: &Path, lines: bool, text: &Text) -> Result<(), StrictError> {
    let shown = path.display();
    // Of a pipe or a device nobody can take fingerprints, and an attempt that resumes could not read it again.
    if !path.is_file() {
        let what = if path.is_dir() { "a folder" } else { "not a regular file" };
        return Err(text.refuse(key, format!("{shown} is {what}, expected a file")));
    }
    File::open(path).map_err(|error| text.refuse(key, format!("{shown} cannot be read: {error}")))?;
    let format = Format::of(path).map_err(|unknown| {
        let said = match unknown.extension.as_str() {
            "" => format!("no extension says what it holds, expected `{}`", Format::EXTENSIONS.join("`, `")),
            extension => strict::unknown("extension", extension, Format::EXTENSIONS),
        };
        text.refuse(key, format!("{shown}: {said}"))
    })?;
    if lines && !format.lines {
        return Err(text.refuse(key, format!("{shown} is one text, expected lines of JSON (`.jsonl`)")));
    }
    Ok(())
}

fn check_values(run: &RunFile, text: &Text) -> Result<(), StrictError> {
    let require = |holds: bool, key: &str, message: String| {
        if holds { Ok(()) } else { Err(text.refuse(key, message)) }
    };
    let name_fits = !run.name.is_empty()
        && run.name.len() <= 64
        && run.name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && run.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    require(
        name_fits,
        "name",
        format!("'{}': expected 1 to 64 letters, digits, '-', '_' or '.', a letter or digit first", run.name),
    )?;
    require(!run.sources.is_empty(), "source", "expected at least one [[source]]".into())?;
    for (number, source) in run.sources.iter().enumerate() {
        check_source(run, number, source, &require)?;
    }
    if run.synthesizes() {
        require(
            run.synthesizer.is_some(),
            "source",
            "a source has `converted` above 0, and there is no [synthesizer]".into(),
        )?;
    }
    if let Some(synthesizer) = &run.synthesizer {
        check_synthesizer(synthesizer, &require)?;
    }
    check_trainer(run, &require)?;
    require(run.checkpoint.every > 0, "checkpoint.every", "0: expected at least 1 step".into())?;
    require(run.checkpoint.keep > 0, "checkpoint.keep", "0: expected at least 1 checkpoint".into())
}

fn check_source(
    run: &RunFile,
    number: usize,
    source: &Source,
    require: &Require<'_>,
) -> Result<(), StrictError> {
    let key = |field: &str| format!("source[{number}].{field}");
    let twice = run.sources[..number].iter().any(|other| other.name == source.name);
    require(!twice, &key("name"), format!("'{}' names two sources", source.name))?;
    require(!source.paths.is_empty(), &key("paths"), "expected at least one file".into())?;
    let unit = 0.0..=1.0;
    for (field, value) in [("converted", source.converted), ("max_bad_share", source.max_bad_share)] {
        require(unit.contains(&value), &key(field), format!("{value}: expected 0 to 1"))?;
    }
    let share = source.share;
    let fits = share.is_finite() && share > 0.0;
    require(fits, &key("share"), format!("{share}: expected a number above 0"))?;
    for (field, value) in [("epochs", source.epochs), ("shots", source.shots)] {
        require(value > 0, &key(field), "0: expected at least 1".into())?;
    }
    require(
        source.converted == 0.0 || source.kind == SourceKind::Text,
        &key("converted"),
        "tuning examples cannot be converted".into(),
    )
}

fn check_trainer(run: &RunFile, require: &Require<'_>) -> Result<(), StrictError> {
    let trainer = &run.trainer;
    within("trainer.steps", trainer.steps, MOST_STEPS, require)?;
    within("trainer.world_size", trainer.world_size.into(), MOST_ACTORS, require)?;
    let counts = [
        ("trainer.batch_rows", u64::from(trainer.batch_rows)),
        ("trainer.micro_batch_rows", trainer.micro_batch_rows.unwrap_or(1).into()),
    ];
    for (key, value) in counts {
        require(value > 0, key, "0: expected at least 1".into())?;
    }
    let length = trainer.sequence_length;
    let fits = length > 0 && length.is_multiple_of(8) && length <= 1 << 20;
    require(fits, "trainer.sequence_length", format!("{length}: expected a multiple of 8 up to 1,048,576"))?;
    require(
        trainer.batch_rows.is_multiple_of(trainer.world_size),
        "trainer.batch_rows",
        format!("{} rows cannot be shared out evenly to {} ranks", trainer.batch_rows, trainer.world_size),
    )?;
    let positive =
        [("trainer.learning_rate", trainer.learning_rate), ("trainer.clip_norm", trainer.clip_norm)];
    for (key, value) in positive {
        require(value.is_finite() && value > 0.0, key, format!("{value}: expected a number above 0"))?;
    }
    let unit = 0.0..1.0;
    for value in trainer.betas {
        require(unit.contains(&value), "trainer.betas", format!("{value}: expected 0 up to below 1"))?;
    }
    let share = trainer.minimum_rate_share;
    require((0.0..=1.0).contains(&share), "trainer.minimum_rate_share", format!("{share}: expected 0 to 1"))?;
    let decay = trainer.weight_decay;
    require(
        decay.is_finite() && decay >= 0.0,
        "trainer.weight_decay",
        format!("{decay}: expected at least 0"),
    )?;
    check_processors("trainer", trainer.cpus, require)?;
    let gpus = trainer.gpus;
    require(gpus == 0.0 || gpus == 1.0, "trainer.gpus", format!("{gpus}: a rank has no GPU or one"))
}

/// What the models and tokenizers say of themselves must fit what is asked of them.
fn check_models(run: &RunFile, text: &Text) -> Result<(), StrictError> {
    let (model, learner) = ModelDirectory::read(&run.model.directory, "model.directory", text)?;
    let length = run.trainer.sequence_length;
    if u64::from(length) > model.positions() {
        let (directory, positions) = (run.model.directory.display(), model.positions());
        let said = format!("{length}: the model in {directory} has {positions} positions");
        return Err(text.refuse("trainer.sequence_length", said));
    }
    if run.model.start == Start::Weights {
        model.check_weights("model.directory", ", or `start = \"random\"` beside it", text)?;
    }
    let Some(synthesizer) = &run.synthesizer else { return Ok(()) };
    match (synthesizer.engine, &synthesizer.directory) {
        (EngineKind::Model, Some(directory)) => {
            let (model, tokenizer) = ModelDirectory::read(directory, "synthesizer.directory", text)?;
            model.check_weights("synthesizer.directory", "", text)?;
            check_room(synthesizer, &tokenizer, model.positions(), text)
        }
        _ => check_room(synthesizer, &learner, DETERMINISTIC_POSITIONS as u64, text),
    }
}

/// New tokens and at least a prompt without a text must fit the synthesizer's positions.
fn check_room(
    synthesizer: &Synthesizer,
    tokenizer: &Tokenizer,
    positions: u64,
    text: &Text,
) -> Result<(), StrictError> {
    let refuse = |said: String| text.refuse("synthesizer.max_new_tokens", said);
    let least = prompt::request(tokenizer, "").map_err(|error| refuse(error.to_string()))?.len() as u64;
    let new = u64::from(synthesizer.max_new_tokens);
    if new + least < positions {
        return Ok(());
    }
    Err(refuse(format!(
        "{new}: of the synthesizer's {positions} positions {least} go to the marks around a text, and none is left for the text"
    )))
}

/// Evaluation files must be readable to their last line.
fn check_evaluation(run: &RunFile) -> Result<(), StrictError> {
    let fault = |error: evaluation::EvaluationError| StrictError {
        place: error.line.map(|line| Place { line: line as usize, column: error.column.unwrap_or(1) }),
        file: error.path,
        message: error.message,
    };
    if let Some(path) = &run.evaluation.heldout {
        evaluation::heldout(path).map_err(fault)?;
    }
    if let Some(path) = &run.evaluation.multiple_choice {
        evaluation::multiple_choice(path).map_err(fault)?;
    }
    Ok(())
}

/// Some source must have a document, or no step could be trained. Reading ends at the first that is found.
fn check_documents(run: &RunFile, text: &Text) -> Result<(), StrictError> {
    let mut nothing = Vec::new();
    for (number, source) in run.sources.iter().enumerate() {
        let mut reader = DocumentReader::new(0, source.reading());
        match reader.next() {
            Some(Ok(_)) => return Ok(()),
            Some(Err(error)) => {
                return Err(text.refuse(&format!("source[{number}].paths"), error.to_string()));
            }
            None => nothing.push(format!("'{}' ({})", source.name, skipped(&reader.take_skipped()))),
        }
    }
    let nothing = nothing.join(", ");
    Err(text.refuse("source[0].paths", format!("no source has a document to train on: {nothing}")))
}

type Require<'a> = dyn Fn(bool, &str, String) -> Result<(), StrictError> + 'a;

fn check_synthesizer(synthesizer: &Synthesizer, require: &Require<'_>) -> Result<(), StrictError> {
    require(
        synthesizer.engine != EngineKind::Model || synthesizer.directory.is_some(),
        "synthesizer",
        "expected `directory`, the model that generates".into(),
    )?;
    let Synthesizer { min, max, .. } = *synthesizer;
    require(min > 0, "synthesizer.min", "0: expected at least 1".into())?;
    within("synthesizer.max", max.into(), MOST_ACTORS, require)?;
    require(min <= max, "synthesizer.max", format!("{max} is below min = {min}"))?;
    within("synthesizer.rounds", synthesizer.rounds.into(), MOST_ROUNDS, require)?;
    within("synthesizer.chains_at_once", synthesizer.chains_at_once.into(), MOST_CHAINS_AT_ONCE, require)?;
    let counts = [
        ("synthesizer.max_new_tokens", synthesizer.max_new_tokens),
        ("synthesizer.window", synthesizer.window),
    ];
    for (key, value) in counts {
        require(value > 0, key, "0: expected at least 1".into())?;
    }
    let Synthesizer { temperature, top_p, gpus, .. } = *synthesizer;
    require(
        temperature.is_finite() && temperature >= 0.0,
        "synthesizer.temperature",
        format!("{temperature}: expected at least 0"),
    )?;
    require(top_p > 0.0 && top_p <= 1.0, "synthesizer.top_p", format!("{top_p}: expected above 0, up to 1"))?;
    require(gpus.is_finite() && gpus >= 0.0, "synthesizer.gpus", format!("{gpus}: expected at least 0"))?;
    check_processors("synthesizer", synthesizer.cpus, require)
}

/// A count from 1 to `most`.
fn within(key: &str, count: u64, most: u64, require: &Require<'_>) -> Result<(), StrictError> {
    require((1..=most).contains(&count), key, format!("{count}: expected 1 to {most}"))
}

fn check_processors(table: &str, cpus: f64, require: &Require<'_>) -> Result<(), StrictError> {
    // Counted in thousandths.
    let (least, most) = (0.001, 1_000_000);
    let fits = (least..=f64::from(most)).contains(&cpus);
    require(fits, &format!("{table}.cpus"), format!("{cpus:?}: expected at least {least}, at most {most}"))
}
