//! The synthesizer's report, made afresh: it generates for texts of source packages that it never saw.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use lyceum_pretrain::run_file::RunFile;
use serde::Serialize;

use crate::installation::Installation;
use crate::output::{self, Document};
use crate::program;
use crate::report::{Gate, Judgement};

/// A text to generate for, as `lyceum-worker synthesize` reads it.
#[derive(Serialize)]
struct Asked<'a> {
    id: &'a str,
    context: &'a str,
}

/// Generates as the run of `run` does into `folder`, prints the report, and fails below the gates without which a demo makes no sense.
///
/// # Errors
/// Below those gates, or when nothing can be generated.
pub fn run(installation: &Installation, run: &RunFile, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let sample = installation.example().join("data/contexts.jsonl.zst");
    let documents: Vec<Document> = output::read(&sample)?;
    let rows: Vec<Asked<'_>> =
        documents.iter().map(|document| Asked { id: &document.id, context: &document.text }).collect();
    let (contexts, outputs) = (folder.join("contexts.jsonl"), folder.join("outputs.jsonl"));
    output::write(&contexts, &rows)?;
    println!("report: the synthesizer generates for {} texts", rows.len());
    let synthesizer = run.synthesizer.as_ref().context("the demo's run file has no [synthesizer]")?;
    let model = synthesizer.directory.as_ref().context("the demo's synthesizer has no directory")?;
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    let mut command = Command::new(installation.program("lyceum-worker")?);
    command.arg("synthesize").arg("--model").arg(model);
    command.arg("--contexts").arg(&contexts).arg("--out").arg(&outputs);
    command.arg("--max-new-tokens").arg(synthesizer.max_new_tokens.to_string());
    command
        .arg("--rows")
        .arg(synthesizer.chains_at_once.to_string())
        .arg("--threads")
        .arg(threads.to_string());
    program::run(command)?;
    let report = Judgement::of_files(&sample, &outputs)?.report();
    print!("{report}");
    let gate = Gate::default();
    for shortfall in report.shortfalls(&gate) {
        println!("below the gate: {shortfall}");
    }
    let fatal = report.fatal_shortfalls(&gate);
    if !fatal.is_empty() {
        bail!("the synthesizer is below the demo's gate: {}", fatal.join("; "));
    }
    Ok(())
}
