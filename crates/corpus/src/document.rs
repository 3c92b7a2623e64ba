//! Documents from files, streaming: JSON lines or whole texts, plain, gzip or zstd.
//!
//! What kind a file is, is told by its name (see [`Format`]): `.jsonl` (also `.ndjson`, `.json`) holds one JSON object
//! on each line, `.txt` and `.md` are one text; a further `.gz` or `.zst` means compressed. A file of another name is
//! not read. Memory is bounded by the longest entry allowed, whatever the files hold. An entry that is no document is
//! counted by reason and skipped; when too large a share of them is bad, reading ends with an error that names the first
//! ones by file, line and column.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::chain::{Counts, Document, DocumentId};

/// Where a source's documents are and how they are read.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// The files, read in this order.
    pub files: Vec<PathBuf>,
    /// What of a JSON line is the document.
    pub content: Content,
    /// Longest line, or whole text file, in bytes; a longer one is skipped as [`TOO_LONG`].
    pub longest: usize,
    /// Share of bad entries above which reading fails.
    pub bad_share: f64,
}

/// What of a JSON line is the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The string under this key.
    Field(String),
    /// The whole line, which must be a JSON object: for data whose reader knows its shape, such as tuning examples.
    Record,
}

impl ReaderOptions {
    /// Reads `files` with the defaults: the key `text`, 16 MiB an entry, one bad entry in a hundred.
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self { files, content: Content::Field("text".into()), longest: 16 << 20, bad_share: 0.01 }
    }
}

/// Reason: the line is not a JSON object with the expected key.
pub const CORRUPT_JSON: &str = "corrupt json";
/// Reason: the entry is not UTF-8.
pub const BROKEN_UTF8: &str = "broken utf-8";
/// Reason: nothing but white space.
pub const EMPTY: &str = "empty";
/// Reason: longer than [`ReaderOptions::longest`].
pub const TOO_LONG: &str = "too long";

/// Entries read before the share of bad ones is judged; a source that ends earlier is judged at its end.
const JUDGED_AFTER: u64 = 1000;

/// Bad entries named in the error.
const NAMED: usize = 5;

/// What a file holds, told by the extensions of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Each line is an entry; else the whole file is one.
    pub lines: bool,
    compression: Option<Compression>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Gzip,
    Zstd,
}

/// Extensions of files with a JSON object on each line.
const LINES: [&str; 3] = ["jsonl", "ndjson", "json"];

impl Format {
    /// All extensions that mean something; the last two follow one of the others.
    pub const EXTENSIONS: [&str; 7] = ["jsonl", "ndjson", "json", "txt", "md", "gz", "zst"];

    /// The format of the file at `path`, which need not be there.
    pub fn of(path: &Path) -> Result<Self, UnknownExtension> {
        let compression = match extension(path) {
            "gz" => Some(Compression::Gzip),
            "zst" => Some(Compression::Zstd),
            _ => None,
        };
        let inner = if compression.is_some() { path.file_stem().map(Path::new) } else { Some(path) };
        let known = match inner.map_or("", extension) {
            name if LINES.contains(&name) => Ok(true),
            "txt" | "md" => Ok(false),
            other => Err(UnknownExtension { path: path.to_owned(), extension: other.to_owned() }),
        };
        known.map(|lines| Self { lines, compression })
    }
}

/// A name that does not tell what its file holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path}: unknown extension `{extension}`: expected `.jsonl`, `.ndjson`, `.json`, `.txt` or `.md`, plain or with a further `.gz` or `.zst`"
)]
pub struct UnknownExtension {
    /// The file.
    pub path: PathBuf,
    /// Its extension, without that of a compression; empty where there is none.
    pub extension: String,
}

/// Why documents cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file whose name does not tell what it holds.
    #[error(transparent)]
    Format(#[from] UnknownExtension),
    /// A file cannot be opened, or breaks off (a compressed one that is cut, for instance).
    #[error("{path}:{line}: cannot read on: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Line at which it happened, from one; zero when it cannot be opened.
        line: u64,
        /// What the system says.
        error: std::io::Error,
    },
    /// More bad entries than allowed.
    #[error("{bad} of {read} entries are bad, more than the allowed share of {allowed}: {}", listed(first))]
    TooManyBad {
        /// Bad entries so far.
        bad: u64,
        /// Entries so far.
        read: u64,
        /// Share allowed.
        allowed: f64,
        /// The first bad ones.
        first: Vec<BadEntry>,
    },
}

/// An entry that is no document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadEntry {
    /// Its file.
    pub path: PathBuf,
    /// Its line, from one.
    pub line: u64,
    /// The column at which it goes wrong, from one, where that is known.
    pub column: Option<usize>,
    /// The reason it is counted under.
    pub reason: &'static str,
    /// What is wrong with it.
    pub detail: String,
}

impl fmt::Display for BadEntry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:", self.path.display(), self.line)?;
        if let Some(column) = self.column {
            write!(out, "{column}:")?;
        }
        write!(out, " {} ({})", self.reason, self.detail)
    }
}

fn listed(entries: &[BadEntry]) -> String {
    entries.iter().map(BadEntry::to_string).collect::<Vec<_>>().join("; ")
}

/// Reads the documents of one source in order: an iterator that counts what it skips.
pub struct DocumentReader {
    options: ReaderOptions,
    source: u16,
    files: VecDeque<PathBuf>,
    open: Option<OpenFile>,
    ordinal: u64,
    skipped: Counts,
    bad: u64,
    first_bad: Vec<BadEntry>,
    failed: bool,
}

struct OpenFile {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    lines: bool,
    line: u64,
}

enum Entry {
    End,
    TooLong,
    Bytes(Vec<u8>),
}

impl DocumentReader {
    /// A reader of the source with index `source`. Nothing is opened yet.
    pub fn new(source: u16, options: ReaderOptions) -> Self {
        let files = options.files.iter().cloned().collect();
        Self {
            options,
            source,
            files,
            open: None,
            ordinal: 0,
            skipped: Counts::new(),
            bad: 0,
            first_bad: Vec::new(),
            failed: false,
        }
    }

    /// Takes the counts of what was skipped since this was last asked.
    pub fn take_skipped(&mut self) -> Counts {
        std::mem::take(&mut self.skipped)
    }

    /// File and line, from one, of the document that was read last; nothing before the first.
    pub fn place(&self) -> Option<(&Path, u64)> {
        self.open.as_ref().map(|file| (file.path.as_path(), file.line))
    }

    /// Entries read so far, good or bad.
    pub fn entries(&self) -> u64 {
        self.ordinal
    }

    fn advance(&mut self) -> Result<Option<Document>, ReadError> {
        loop {
            let file = match &mut self.open {
                Some(file) => file,
                None => match self.files.pop_front() {
                    Some(path) => self.open.insert(OpenFile::open(path)?),
                    None => {
                        self.judge(true)?;
                        return Ok(None);
                    }
                },
            };
            let entry = match file.entry(self.options.longest)? {
                Entry::End => {
                    self.open = None;
                    continue;
                }
                Entry::TooLong => Err(Fault::new(TOO_LONG, format!("above {} bytes", self.options.longest))),
                Entry::Bytes(bytes) => text_of(bytes, file.lines, &self.options.content),
            };
            let id = DocumentId { source: self.source, ordinal: self.ordinal };
            self.ordinal += 1;
            match entry {
                Ok(text) => return Ok(Some(Document { id, text })),
                Err(Fault { reason, detail, column }) => {
                    let entry = BadEntry { path: file.path.clone(), line: file.line, column, reason, detail };
                    tracing::debug!(%entry, "entry skipped");
                    *self.skipped.entry(reason.to_owned()).or_default() += 1;
                    self.bad += 1;
                    if self.first_bad.len() < NAMED {
                        self.first_bad.push(entry);
                    }
                    self.judge(false)?;
                }
            }
        }
    }

    fn judge(&self, at_end: bool) -> Result<(), ReadError> {
        let enough = at_end || self.ordinal >= JUDGED_AFTER;
        if enough && self.bad as f64 > self.ordinal as f64 * self.options.bad_share {
            return Err(ReadError::TooManyBad {
                bad: self.bad,
                read: self.ordinal,
                allowed: self.options.bad_share,
                first: self.first_bad.clone(),
            });
        }
        Ok(())
    }
}

impl Iterator for DocumentReader {
    type Item = Result<Document, ReadError>;

    /// The next document. After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance();
        self.failed = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

impl OpenFile {
    fn open(path: PathBuf) -> Result<Self, ReadError> {
        let Format { lines, compression } = Format::of(&path)?;
        let failed = |error| ReadError::File { path: path.clone(), line: 0, error };
        let file = File::open(&path).map_err(failed)?;
        let reader: Box<dyn BufRead + Send> = match compression {
            Some(Compression::Gzip) => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file))),
            Some(Compression::Zstd) => Box::new(BufReader::new(zstd::Decoder::new(file).map_err(failed)?)),
            None => Box::new(BufReader::new(file)),
        };
        Ok(Self { path, reader, lines, line: 0 })
    }

    /// The next line, or the whole of a text file; blank lines at a file's end are no entries.
    fn entry(&mut self, longest: usize) -> Result<Entry, ReadError> {
        if !self.lines && self.line > 0 {
            return Ok(Entry::End);
        }
        self.line += 1;
        let (path, line) = (self.path.clone(), self.line);
        let failed = |error| ReadError::File { path, line, error };
        let mut bytes = Vec::new();
        let most = longest as u64 + 1;
        let complete = if self.lines {
            self.reader.by_ref().take(most).read_until(b'\n', &mut bytes).map_err(failed)?;
            if bytes.is_empty() {
                return Ok(Entry::End);
            }
            let ended = bytes.last() == Some(&b'\n');
            if !ended && bytes.len() > longest {
                self.discard_line()?;
                return Ok(Entry::TooLong);
            }
            bytes.truncate(bytes.len() - usize::from(ended));
            true
        } else {
            self.reader.by_ref().take(most).read_to_end(&mut bytes).map_err(failed)?;
            bytes.len() <= longest
        };
        if self.line == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        Ok(if complete { Entry::Bytes(bytes) } else { Entry::TooLong })
    }

    fn discard_line(&mut self) -> Result<(), ReadError> {
        loop {
            let (path, line) = (self.path.clone(), self.line);
            let buffer = self.reader.fill_buf().map_err(|error| ReadError::File { path, line, error })?;
            let length = buffer.len();
            match buffer.iter().position(|&byte| byte == b'\n') {
                Some(at) => {
                    self.reader.consume(at + 1);
                    return Ok(());
                }
                None if length == 0 => return Ok(()),
                None => self.reader.consume(length),
            }
        }
    }
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or("")
}

/// Why an entry is no document.
struct Fault {
    reason: &'static str,
    detail: String,
    column: Option<usize>,
}

impl Fault {
    fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), column: None }
    }

    /// Bytes before the fault make its column: lines are short, and mostly ASCII.
    fn of_utf8(error: &std::str::Utf8Error) -> Self {
        Self { column: Some(error.valid_up_to() + 1), ..Self::new(BROKEN_UTF8, error.to_string()) }
    }

    fn of_json(error: &serde_json::Error) -> Self {
        // An entry is one line: its number in the file is told by who reads the file.
        let said = error.to_string();
        let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
        Self { column: Some(error.column().max(1)), ..Self::new(CORRUPT_JSON, said) }
    }
}

/// The document in an entry, or why there is none.
fn text_of(bytes: Vec<u8>, json: bool, content: &Content) -> Result<String, Fault> {
    let raw = String::from_utf8(bytes).map_err(|error| Fault::of_utf8(&error.utf8_error()))?;
    let text = if json && !raw.trim().is_empty() {
        match content {
            Content::Record => {
                serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&raw)
                    .map_err(|error| Fault::of_json(&error))?;
                raw
            }
            Content::Field(field) => field_of(&raw, field).map_err(|error| Fault::of_json(&error))?,
        }
    } else {
        raw
    };
    if text.trim().is_empty() {
        return Err(Fault::new(EMPTY, "no text"));
    }
    Ok(text)
}

/// The string under `field` of a JSON object, without building the other values.
fn field_of(line: &str, field: &str) -> Result<String, serde_json::Error> {
    struct Wanted<'a>(&'a str);

    impl<'de> serde::de::DeserializeSeed<'de> for Wanted<'_> {
        type Value = String;

        fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
            deserializer.deserialize_map(self)
        }
    }

    impl<'de> serde::de::Visitor<'de> for Wanted<'_> {
        type Value = String;

        fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(out, "an object with the string {:?}", self.0)
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
            let mut found = None;
            while let Some(key) = map.next_key::<String>()? {
                if key == self.0 {
                    found = Some(map.next_value()?);
                } else {
                    map.next_value::<serde::de::IgnoredAny>()?;
                }
            }
            found.ok_or_else(|| serde::de::Error::custom(format!("no string {:?} in it", self.0)))
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(line);
    let text = serde::de::DeserializeSeed::deserialize(Wanted(field), &mut deserializer)?;
    deserializer.end()?;
    Ok(text)
}
