//! The files: JSON lines, plain or (by a name that ends in `.zst`) zstd-compressed,
//! written beside their place and renamed into it when whole.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const LEVEL: i32 = 19;

/// A raw document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The binary package.
    pub id: String,
    /// The text.
    pub text: String,
    /// The source package.
    pub source: String,
    /// The archive section.
    pub section: String,
}

/// A multiple-choice item. A choice is scored as the continuation of the prompt, the two
/// put together as they stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The binary package and the kind of item.
    pub id: String,
    /// What stands before the choice.
    pub prompt: String,
    /// The choices.
    pub choices: Vec<String>,
    /// The index of the right one.
    pub answer: usize,
}

/// Writes `rows` as JSON lines and returns the file's size in bytes.
///
/// # Errors
/// When the file cannot be written.
pub fn write<T: Serialize>(path: &Path, rows: &[T]) -> Result<u64> {
    let mut lines = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut lines, row)?;
        lines.push(b'\n');
    }
    if is_compressed(path) {
        lines = zstd::stream::encode_all(&lines[..], LEVEL)?;
    }
    write_bytes(path, &lines)?;
    Ok(lines.len() as u64)
}

/// Writes a whole file, or none.
///
/// # Errors
/// When it cannot be written.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let put = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(&beside)?);
        file.write_all(bytes)?;
        file.into_inner()?.sync_all()?;
        fs::rename(&beside, path)
    };
    put().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads JSON lines.
///
/// # Errors
/// With file and line when one is not what it should be.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let reader: Box<dyn BufRead> = match is_compressed(path) {
        true => Box::new(BufReader::new(zstd::stream::Decoder::new(file)?)),
        false => Box::new(BufReader::new(file)),
    };
    let mut rows = Vec::new();
    for (number, line) in reader.lines().enumerate() {
        let place = || format!("{}:{}", path.display(), number + 1);
        let line = line.with_context(place)?;
        if !line.trim().is_empty() {
            rows.push(serde_json::from_str(&line).with_context(place)?);
        }
    }
    Ok(rows)
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "zst")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item() -> Item {
        Item { id: "a/x".into(), prompt: "p\n".into(), choices: vec!["é".into(), "b".into()], answer: 1 }
    }

    #[test]
    fn what_is_written_is_read_back_plain_and_compressed() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a.jsonl", "a.jsonl.zst"] {
            let path = folder.path().join(name);
            write(&path, &[item(), item()]).expect("written");
            assert_eq!(read::<Item>(&path).expect("read"), [item(), item()]);
        }
    }

    #[test]
    fn a_bad_line_is_named_by_file_and_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bad.jsonl");
        write_bytes(&path, b"\n{]\n").expect("written");
        let error = read::<Item>(&path).expect_err("the second line is no JSON");
        assert!(error.to_string().ends_with("bad.jsonl:2"), "{error}");
    }
}
