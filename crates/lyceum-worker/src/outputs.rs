//! `lyceum-worker synthesize`: what a synthesizer writes for given contexts, each alone, as its tuner wants to read it.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use lyceum_corpus::document::{Content, DocumentReader, ReaderOptions};
use lyceum_corpus::tokenizer::Tokenizer;
use lyceum_pretrain::run_file::Precision;
use lyceum_synth::engine::{Engine as _, Prompt, Sampling};
use lyceum_synth::prompt;
use serde::{Deserialize, Serialize};

/// Prompts of one call to the engine, as a multiple of the rows that it runs at once.
const CALLS: usize = 8;

#[derive(Deserialize)]
struct Asked {
    id: String,
    context: String,
}

#[derive(Serialize)]
struct Answered<'a> {
    id: &'a str,
    output: String,
}

/// Writes the greedy output for each context.
pub fn write(model: &Path, contexts: &Path, out: &Path, max_new_tokens: usize, rows: usize) -> Result<()> {
    let tokenizer = Tokenizer::load(model.join("tokenizer.json"))?;
    let mut engine = crate::synthesizer::load_engine(model, Precision::Auto, rows.max(1))?;
    let sampling = Sampling { max_new_tokens, ..Sampling::default() };
    let options =
        ReaderOptions { content: Content::Record, ..ReaderOptions::new(vec![contexts.to_path_buf()]) };
    let documents = DocumentReader::new(0, options).collect::<Result<Vec<_>, _>>()?;
    let mut file =
        BufWriter::new(File::create(out).with_context(|| format!("cannot write {}", out.display()))?);
    for documents in documents.chunks(rows.max(1) * CALLS) {
        let mut asked = Vec::with_capacity(documents.len());
        let mut prompts = Vec::with_capacity(documents.len());
        for document in documents {
            let entry: Asked = serde_json::from_str(&document.text)
                .with_context(|| format!("{}: expected id and context", contexts.display()))?;
            prompts.push(Prompt {
                tokens: prompt::request(&tokenizer, &entry.context)?,
                document: document.id,
                round: 0,
            });
            asked.push(entry);
        }
        for (asked, generation) in asked.iter().zip(engine.generate(&prompts, &sampling)?) {
            let answered = Answered { id: &asked.id, output: tokenizer.decode(&generation.tokens)? };
            serde_json::to_writer(&mut file, &answered)?;
            file.write_all(b"\n")?;
        }
    }
    Ok(file.flush()?)
}
