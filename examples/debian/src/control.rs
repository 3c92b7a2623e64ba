//! Debian's control format: stanzas of `Field: value` lines, continued by lines
//! that begin with a space, parted by empty lines.
//!
//! Bounded: a line or a stanza beyond [`STANZA_BYTES`] is dropped and counted, as is
//! one that is not UTF-8.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use anyhow::{Context, Result};

/// The largest stanza that is read, in bytes. The largest of the real index has 40 KB.
pub const STANZA_BYTES: usize = 1 << 20;

/// One stanza: its fields by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Stanza {
    fields: BTreeMap<String, String>,
}

impl Stanza {
    /// The field's value, continuation lines joined by `\n` (their first space kept).
    pub fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }
}

/// What could not be read, by reason.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// Stanzas longer than [`STANZA_BYTES`].
    pub oversized: u64,
    /// Stanzas that are not UTF-8.
    pub not_utf8: u64,
}

/// Calls `visit` for each stanza and says what was dropped.
///
/// # Errors
/// When the reader fails.
pub fn read_stanzas(reader: &mut dyn BufRead, mut visit: impl FnMut(Stanza)) -> Result<Dropped> {
    let mut dropped = Dropped::default();
    let mut stanza = Vec::new();
    let mut line = Vec::new();
    let mut oversized = false;
    loop {
        line.clear();
        let read = Read::take(&mut *reader, STANZA_BYTES as u64)
            .read_until(b'\n', &mut line)
            .context("cannot read the list")?;
        let blank = line.iter().all(u8::is_ascii_whitespace);
        if !blank {
            if stanza.len() + line.len() > STANZA_BYTES {
                oversized = true;
                stanza.clear();
            } else if !oversized {
                stanza.extend_from_slice(&line);
            }
        }
        if blank || read == 0 {
            if oversized {
                dropped.oversized += 1;
            } else if !stanza.is_empty() {
                match std::str::from_utf8(&stanza) {
                    Ok(text) => visit(parse(text)),
                    Err(_) => dropped.not_utf8 += 1,
                }
            }
            stanza.clear();
            oversized = false;
        }
        if read == 0 {
            return Ok(dropped);
        }
    }
}

fn parse(text: &str) -> Stanza {
    let mut stanza = Stanza::default();
    let mut current: Option<String> = None;
    for line in text.lines() {
        if line.starts_with([' ', '\t']) {
            if let Some(value) = current.as_ref().and_then(|field| stanza.fields.get_mut(field)) {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((field, value)) = line.split_once(':') {
            let field = field.to_owned();
            stanza.fields.insert(field.clone(), value.trim().to_owned());
            current = Some(field);
        } else {
            current = None;
        }
    }
    stanza
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stanzas(bytes: &[u8]) -> (Vec<Stanza>, Dropped) {
        let mut all = Vec::new();
        let dropped = read_stanzas(&mut &bytes[..], |stanza| all.push(stanza)).expect("a slice can be read");
        (all, dropped)
    }

    #[test]
    fn fields_and_their_continuations_are_read() {
        let (all, dropped) = stanzas(
            b"Package: a\nDescription-en: short\n long\n .\n more\n\n\nPackage: b\nno colon\n lost\n",
        );
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("Description-en"), Some("short\n long\n .\n more"));
        assert_eq!(all[1].get("Package"), Some("b"));
        assert_eq!(dropped, Dropped::default());
    }

    #[test]
    fn bytes_that_are_not_utf8_and_endless_lines_are_counted_and_skipped() {
        let mut bytes = b"Package: \xff\xfe\n\nPackage: ".to_vec();
        bytes.extend(std::iter::repeat_n(b'x', 2 * STANZA_BYTES + 10));
        bytes.extend_from_slice(b"\n\nPackage: good\n");
        let (all, dropped) = stanzas(&bytes);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].get("Package"), Some("good"));
        assert_eq!(dropped, Dropped { oversized: 1, not_utf8: 1 });
    }

    proptest::proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            stanzas(&bytes);
        }
    }
}
