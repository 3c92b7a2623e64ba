//! The files that a model is measured on: held-out documents, and multiple-choice items.
//!
//! They are read strictly: what is measured must be the same before and after, so no line is skipped.

use std::fmt;
use std::path::{Path, PathBuf};

use lyceum_corpus::document::{Content, DocumentReader, ReadError, ReaderOptions};
use serde::Deserialize;

/// One multiple-choice item, a line of its file. Prompt and choice are joined as they stand.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Item {
    /// What comes before each choice.
    pub prompt: String,
    /// Continuations of the prompt, at least two, none empty.
    pub choices: Vec<String>,
    /// Which of them is right, from zero.
    pub answer: usize,
}

/// An evaluation file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluationError {
    /// The file.
    pub path: PathBuf,
    /// The line, from one, where it is one line's fault.
    pub line: Option<u64>,
    /// The column, from one, where it is known.
    pub column: Option<usize>,
    /// What is wrong, and what was expected.
    pub message: String,
}

impl fmt::Display for EvaluationError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:", self.path.display())?;
        for number in [self.line, self.column.map(|column| column as u64)].into_iter().flatten() {
            write!(out, "{number}:")?;
        }
        write!(out, " {}", self.message)
    }
}

impl std::error::Error for EvaluationError {}

/// The held-out documents of a file: `{"text"}` a line, or a text file.
pub fn heldout(path: &Path) -> Result<Vec<String>, EvaluationError> {
    let mut texts = Vec::new();
    each(path, Content::Field("text".into()), |text, _| {
        texts.push(text);
        Ok(())
    })?;
    Ok(texts)
}

/// The items of a file of `{"prompt", "choices", "answer"}` a line.
pub fn multiple_choice(path: &Path) -> Result<Vec<Item>, EvaluationError> {
    let mut items = Vec::new();
    each(path, Content::Record, |text, line| {
        let item = serde_json::from_str::<Item>(&text).map_err(|error| {
            let said = error.to_string();
            let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
            let message = format!("{said}: expected `prompt`, `choices` and `answer`");
            fault(path, Some(line), Some(error.column().max(1)), message)
        })?;
        let wrong = if item.choices.len() < 2 {
            Some(format!("{} choices, expected at least 2", item.choices.len()))
        } else if item.answer >= item.choices.len() {
            Some(format!("answer {} of {} choices, counted from 0", item.answer, item.choices.len()))
        } else {
            item.choices.iter().any(String::is_empty).then(|| "an empty choice cannot be scored".into())
        };
        match wrong {
            Some(message) => Err(fault(path, Some(line), None, message)),
            None => {
                items.push(item);
                Ok(())
            }
        }
    })?;
    Ok(items)
}

/// Gives every entry of a file to `take`, with its line. A file without any measures nothing and is refused.
fn each(
    path: &Path,
    content: Content,
    mut take: impl FnMut(String, u64) -> Result<(), EvaluationError>,
) -> Result<(), EvaluationError> {
    let options = ReaderOptions { content, bad_share: 0.0, ..ReaderOptions::new(vec![path.to_owned()]) };
    let mut reader = DocumentReader::new(0, options);
    let mut count = 0_u64;
    while let Some(document) = reader.next() {
        let document = document.map_err(|error| unreadable(path, error))?;
        let line = reader.place().map_or(1, |(_, line)| line);
        take(document.text, line)?;
        count += 1;
    }
    if count == 0 {
        return Err(fault(path, None, None, "holds nothing to measure".into()));
    }
    Ok(())
}

fn unreadable(path: &Path, error: ReadError) -> EvaluationError {
    match error {
        ReadError::TooManyBad { mut first, .. } if !first.is_empty() => {
            let entry = first.swap_remove(0);
            fault(path, Some(entry.line), entry.column, format!("{} ({})", entry.reason, entry.detail))
        }
        ReadError::File { line, error, .. } => {
            fault(path, Some(line).filter(|&line| line > 0), None, format!("cannot be read: {error}"))
        }
        other => fault(path, None, None, other.to_string()),
    }
}

fn fault(path: &Path, line: Option<u64>, column: Option<usize>, message: String) -> EvaluationError {
    EvaluationError { path: path.to_owned(), line, column, message }
}
