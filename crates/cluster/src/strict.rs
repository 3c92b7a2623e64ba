//! Strict TOML: a file becomes a typed value, or an error that says where, what was expected and what was meant.
//!
//! Files that a person writes (cluster manifests, run files) are read through [`load`]. Types derive
//! `serde::Deserialize` with `#[serde(deny_unknown_fields)]`; every fault then prints as
//!
//! ```text
//! cluster/laptop.toml:3:1: unknown key `laucher`, did you mean `launcher`? (valid here: `name`, `launcher`)
//! ```
//!
//! Rules between values (a name used twice, a request that no node can hold) are checked afterwards through
//! [`Document::refuse`], which finds the place of a value by its path: `document.refuse("nodes[1].name", "...")`.
//!
//! ```
//! #[derive(Debug, serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Oven { degrees: u32 }
//!
//! let fault = lyceum_cluster::strict::parse::<Oven>("oven.toml", "degree = 180").unwrap_err();
//! assert_eq!(
//!     fault.to_string(),
//!     "oven.toml:1:1: unknown key `degree`, did you mean `degrees`? (valid here: `degrees`)"
//! );
//! ```

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

/// Largest file that is read, in bytes: a larger one is not a file that a person wrote.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Longest message, in characters: a name that is wrong may be as long as the file.
const MAX_MESSAGE: usize = 1000;

/// Reads the TOML file at `path` as a `T`; relative paths inside it are relative to its folder.
pub fn load<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<Document<T>, StrictError> {
    let path = path.as_ref();
    let unreadable = |why: String| StrictError { file: path.to_path_buf(), place: None, message: why };
    let size = std::fs::metadata(path).map_err(|error| unreadable(describe_io(&error)))?;
    if size.is_dir() {
        return Err(unreadable("is a folder, expected a TOML file".into()));
    }
    if size.len() > MAX_FILE_BYTES {
        return Err(unreadable(format!("has {} bytes, expected at most {MAX_FILE_BYTES}", size.len())));
    }
    let bytes = std::fs::read(path).map_err(|error| unreadable(describe_io(&error)))?;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let before = String::from_utf8_lossy(&error.as_bytes()[..good]).into_owned();
            return Err(StrictError {
                file: path.to_path_buf(),
                place: Some(Place::of(&before, before.len())),
                message: "not UTF-8 text".into(),
            });
        }
    };
    parse(path, &text)
}

/// Reads `text` as a `T`; `file` is the name that errors carry.
pub fn parse<T: DeserializeOwned>(file: impl Into<PathBuf>, text: &str) -> Result<Document<T>, StrictError> {
    let file = file.into();
    match toml::from_str(text) {
        Ok(value) => Ok(Document { value, source: Source { file, text: text.to_owned() } }),
        Err(error) => Err(StrictError {
            place: error.span().map(|span| Place::of(text, span.start)),
            message: in_one_line(&explain(
                error.message(),
                error.span().and_then(|span| text.get(span)).unwrap_or_default(),
            )),
            file,
        }),
    }
}

/// A value and the text it was read from.
#[derive(Debug, Clone)]
pub struct Document<T> {
    /// What the file says.
    pub value: T,
    /// The file itself, for errors found later.
    pub source: Source,
}

impl<T> Document<T> {
    /// An error at the value called `path` (`head.bind`, `nodes[1].name`), or at its nearest ancestor in the file.
    pub fn refuse(&self, path: &str, message: impl Into<String>) -> StrictError {
        self.source.refuse(path, message)
    }
}

/// The text of a strict TOML file, kept for errors that are found after it was parsed.
#[derive(Debug, Clone)]
pub struct Source {
    file: PathBuf,
    text: String,
}

impl Source {
    /// The file's name as it was given.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// An error at the value called `path` (`head.bind`, `nodes[1].name`), or at its nearest ancestor in the file.
    pub fn refuse(&self, path: &str, message: impl Into<String>) -> StrictError {
        let place = self.locate(path).map(|offset| Place::of(&self.text, offset));
        StrictError { file: self.file.clone(), place, message: in_one_line(&message.into()) }
    }

    /// `path` as written in the file, relative to the file's folder.
    pub fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    /// [`Source::resolve`] for a path that must exist; the error names `key`'s place and the path that was tried.
    pub fn resolve_existing(&self, key: &str, path: impl AsRef<Path>) -> Result<PathBuf, StrictError> {
        let resolved = self.resolve(path);
        match std::fs::metadata(&resolved) {
            Ok(_) => Ok(resolved),
            Err(error) => {
                Err(self.refuse(key, format!("`{key}`: {} {}", resolved.display(), describe_io(&error))))
            }
        }
    }

    fn locate(&self, path: &str) -> Option<usize> {
        let document = DeTable::parse(&self.text).ok()?;
        let mut best = None;
        let mut here: Option<&DeValue<'_>> = None;
        for step in steps(path) {
            let next = match (step, here) {
                (Step::Key(key), None) => document.get_ref().get(key),
                (Step::Key(key), Some(DeValue::Table(table))) => table.get(key),
                (Step::Index(index), Some(DeValue::Array(array))) => array.get(index),
                _ => None,
            };
            let Some(next) = next else { break };
            best = Some(next.span().start);
            here = Some(next.get_ref());
        }
        best.or(Some(0))
    }
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// `nodes[1].name` as the steps `nodes`, 1, `name`.
fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    path.split(['.', '[', ']']).filter(|step| !step.is_empty()).map(|step| match step.parse() {
        Ok(index) => Step::Index(index),
        Err(_) => Step::Key(step),
    })
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrictError {
    /// The file's name as it was given.
    pub file: PathBuf,
    /// Where in the file; absent when the file could not be read at all.
    pub place: Option<Place>,
    /// What was found, what was expected, and the nearest valid name.
    pub message: String,
}

impl fmt::Display for StrictError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(place) = self.place {
            write!(f, "{}:{}:", place.line, place.column)?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for StrictError {}

/// A place in a text file; both numbers count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Place {
    fn of(text: &str, offset: usize) -> Place {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

/// The valid name nearest to `given`, if one is near enough to have been meant.
pub fn nearest<'a>(given: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase();
    valid
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&given, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.chars().count().max(given.chars().count()) / 3).max(1))
        .min()
        .map(|(_, name)| name)
}

/// `unknown <what> `given`, did you mean ...? (valid here: ...)`: one wording for every list of names.
pub fn unknown<'a>(what: &str, given: &str, valid: impl IntoIterator<Item = &'a str> + Clone) -> String {
    let hint = match nearest(given, valid.clone()) {
        Some(name) => format!(", did you mean `{name}`?"),
        None => String::new(),
    };
    let names: Vec<String> = valid.into_iter().map(|name| format!("`{name}`")).collect();
    match names.is_empty() {
        true => format!("unknown {what} `{given}`{hint} (none is valid here)"),
        false => format!("unknown {what} `{given}`{hint} (valid here: {})", names.join(", ")),
    }
}

fn describe_io(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".into(),
        std::io::ErrorKind::PermissionDenied => "may not be read".into(),
        _ => format!("cannot be read: {error}"),
    }
}

/// A message that quotes the file, which may hold anything: without line breaks and the like, and not endless.
fn in_one_line(message: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    let mut line: String = message.chars().take(MAX_MESSAGE).map(escaped).collect();
    if message.chars().nth(MAX_MESSAGE).is_some() {
        line.push_str(" ...");
    }
    line
}

/// Puts serde's and the parser's messages about the text at `place` into one wording, with the nearest valid name.
fn explain(message: &str, place: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    match first {
        "duplicate key" => return format!("key `{place}` is given twice"),
        "invalid IP address syntax" => {
            return format!("expected an IP address such as \"10.0.0.1\" or \"::1\", found {place}");
        }
        "wanted string or table" => return format!("expected a string, found {place}"),
        "recursion limit" | "cannot recurse further; max recursion depth met" => {
            return "nested too deep".into();
        }
        _ => {}
    }
    for (prefix, what) in [("unknown field ", "key"), ("unknown variant ", "value")] {
        if let Some(rest) = first.strip_prefix(prefix) {
            let mut quoted = rest.split('`').skip(1).step_by(2);
            let given = quoted.next().unwrap_or_default();
            let valid: Vec<&str> = quoted.collect();
            return unknown(what, given, valid.iter().copied());
        }
    }
    if let Some(key) = first.strip_prefix("missing field ") {
        return format!("missing key {key}");
    }
    if let Some(rest) = first.strip_prefix("duplicate field ") {
        return format!("key {rest} is given twice");
    }
    for prefix in ["invalid type: ", "invalid value: ", "invalid length "] {
        if let Some((found, expected)) =
            first.strip_prefix(prefix).and_then(|rest| rest.split_once(", expected "))
        {
            return format!("expected {}, found {}", in_words(expected), found_in_words(found));
        }
    }
    first.to_owned()
}

/// Rust's type names in a reader's words.
fn in_words(expected: &str) -> String {
    match expected {
        "u8" => format!("a whole number from 0 to {}", u8::MAX),
        "u16" => format!("a whole number from 0 to {}", u16::MAX),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u64" | "usize" => "a whole number, 0 or more".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        "IP address" => "an IP address".into(),
        other if other.starts_with("struct ") => "a table".into(),
        other => other.to_owned(),
    }
}

/// The same for what was found.
fn found_in_words(found: &str) -> &str {
    match found {
        "sequence" => "a list",
        "map" => "a table",
        // Of a number beyond 64 bits the type is nobody's business.
        other => other.trim_end_matches(" as i128").trim_end_matches(" as u128"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct School {
        name: String,
        #[serde(default)]
        rooms: Vec<Room>,
        kind: Option<Kind>,
    }

    #[derive(Debug, serde::Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Room {
        seats: u32,
    }

    #[derive(Debug, serde::Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Theatre,
        Hall,
    }

    fn fault(text: &str) -> String {
        parse::<School>("s.toml", text).expect_err("a faulty file").to_string()
    }

    #[test]
    fn a_good_file_is_read() {
        let school =
            parse::<School>("s.toml", "name = \"a\"\nkind = \"hall\"\n[[rooms]]\nseats = 3\n").unwrap();
        assert_eq!(
            school.value,
            School { name: "a".into(), rooms: vec![Room { seats: 3 }], kind: Some(Kind::Hall) }
        );
    }

    #[test]
    fn faults_name_place_expectation_and_nearest_name() {
        assert_eq!(
            fault("name = \"a\"\n[[rooms]]\n  seat = 3\n"),
            "s.toml:3:3: unknown key `seat`, did you mean `seats`? (valid here: `seats`)"
        );
        assert_eq!(
            fault("name = \"a\"\ncolour = 1"),
            "s.toml:2:1: unknown key `colour` (valid here: `name`, `rooms`, `kind`)"
        );
        assert_eq!(
            fault("name = \"a\"\nkind = \"theater\""),
            "s.toml:2:8: unknown value `theater`, did you mean `theatre`? (valid here: `theatre`, `hall`)"
        );
        assert_eq!(
            fault("name = \"a\"\n[[rooms]]\nseats = \"many\""),
            "s.toml:3:9: expected a whole number from 0 to 4294967295, found string \"many\""
        );
        assert_eq!(
            fault("name = \"a\"\n[[rooms]]\nseats = -1"),
            "s.toml:3:9: expected a whole number from 0 to 4294967295, found integer `-1`"
        );
        assert_eq!(fault("name = 3"), "s.toml:1:8: expected a string, found integer `3`");
        assert_eq!(fault("name = \"a\"\nrooms = 1"), "s.toml:2:9: expected a list, found integer `1`");
        assert_eq!(fault("name = \"a\"\n[[rooms]]\n"), "s.toml:2:1: missing key `seats`");
        assert_eq!(fault("name = \"a\"\nname = \"b\""), "s.toml:2:1: key `name` is given twice");
        assert_eq!(fault("name = \"é\" = 2"), "s.toml:1:12: unexpected key or value, expected newline, `#`");
    }

    #[test]
    fn a_missing_file_is_named() {
        let fault = load::<School>("/nowhere/s.toml").unwrap_err();
        assert_eq!(fault.to_string(), "/nowhere/s.toml: does not exist");
    }

    #[test]
    fn later_faults_find_their_place_by_path() {
        let school =
            parse::<School>("s.toml", "name = \"a\"\n[[rooms]]\nseats = 1\n[[rooms]]\nseats = 2").unwrap();
        assert_eq!(school.refuse("rooms[1].seats", "too few").to_string(), "s.toml:5:9: too few");
        assert_eq!(school.refuse("rooms[1].doors", "none").to_string(), "s.toml:4:1: none");
        assert_eq!(school.refuse("gate", "none").to_string(), "s.toml:1:1: none");
    }
}
