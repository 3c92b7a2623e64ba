//! Texts under other names, so that names are copied and not remembered.
//!
//! Real names are made of few words: of the tokens that a name could have, many stand in hardly any, and a model that never
//! copied a token writes a more usual one in its place. So a name gets new words, put together from all tokens of the
//! tokenizer, and the text is rewritten to match; what tells something (`lib`, `-dev`, `python3-`, a version) stays.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use lyceum_corpus::tokenizer::Tokenizer;

use crate::draw;
use crate::output::Document;
use crate::text::{Text, compose};

/// A word of a name stays when at least this many names have it: `dev`, `python3`, `django`.
const USUAL: usize = 20;
/// Tokens of a new word, at most.
const MOST_PIECES: usize = 3;
/// Letters of a new word, at most, if it has more than one token.
const LONGEST_WORD: usize = 12;
/// One text of this many keeps its name.
const ONE_OF: usize = 5;

/// Gives texts other names.
#[derive(Debug)]
pub struct Renamer {
    seed: u64,
    usual: BTreeSet<String>,
    pieces: Pieces,
}

/// The tokens that names can be made of: lower-case ASCII letters, at least two.
#[derive(Debug)]
struct Pieces {
    /// Those that begin a word after a space.
    beginnings: Vec<String>,
    /// All others.
    others: Vec<String>,
}

impl Pieces {
    fn of(tokenizer: &Tokenizer) -> Result<Self> {
        let mut pieces = Self { beginnings: Vec::new(), others: Vec::new() };
        for token in 0..=tokenizer.highest_id() {
            let written = tokenizer.decode(&[token])?;
            let letters = written.trim_start_matches(' ');
            if letters.len() < 2 || !letters.bytes().all(|byte| byte.is_ascii_lowercase()) {
                continue;
            }
            let list = if letters == written { &mut pieces.others } else { &mut pieces.beginnings };
            list.push(letters.to_owned());
        }
        Ok(pieces)
    }
}

impl Renamer {
    /// One that draws names from all of the vocabulary, and knows from `documents` what is usual in a name.
    ///
    /// # Errors
    /// When a token cannot be decoded.
    pub fn new(seed: u64, documents: &[Document], tokenizer: &Tokenizer) -> Result<Self> {
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for document in documents {
            for part in runs(&document.id).collect::<BTreeSet<_>>() {
                *names.entry(part).or_default() += 1;
            }
        }
        let usual = names.into_iter().filter(|(_, count)| *count >= USUAL).map(|(part, _)| part.to_owned());
        Ok(Self { seed, usual: usual.collect(), pieces: Pieces::of(tokenizer)? })
    }

    /// The document under another name; some keep theirs, and so does one whose name has but usual words. Of half of the
    /// renamed ones only the first sentence is left, so that there are more names to copy in as many tokens.
    pub fn rename(&self, document: &Document) -> Document {
        let drawn = |decision: &str, choices| draw::below(self.seed, &document.id, decision, choices);
        let Some(text) = Text::parse(&document.text) else { return document.clone() };
        let new_words = self.new_words(&document.id, text.name);
        if new_words.is_empty() || drawn("keeps its name", ONE_OF) == 0 {
            return document.clone();
        }
        let first = text.sentences().next().filter(|_| drawn("is cut short", 2) == 0);
        let kept = first.map(|sentence| compose(text.name, text.summary, &[format!("{sentence}.")]));
        let text = rewrite(kept.as_deref().unwrap_or(&document.text), &new_words);
        Document { text, ..document.clone() }
    }

    /// What takes the place of which word, in small letters. A word with `lib` before it or a version after it stands
    /// there without them, too.
    fn new_words(&self, document: &str, name: &str) -> BTreeMap<String, String> {
        let mut new_words = BTreeMap::new();
        for part in runs(name).filter(|part| !self.usual.contains(*part)) {
            let prefix = if part.len() > "lib".len() + 1 && part.starts_with("lib") { "lib" } else { "" };
            let stem = part[prefix.len()..].trim_end_matches(|c: char| c.is_ascii_digit());
            let version = &part[prefix.len() + stem.len()..];
            let begins = prefix.is_empty() && name.starts_with(part);
            if stem.len() < 2 {
                continue;
            }
            if let Some(word) = self.word(document, stem, begins) {
                new_words.insert(part.to_owned(), format!("{prefix}{word}{version}"));
                new_words.insert(stem.to_owned(), word);
            }
        }
        new_words
    }

    /// A word of one to three tokens; `None` when the vocabulary has none.
    fn word(&self, document: &str, stem: &str, begins: bool) -> Option<String> {
        let below =
            |what: &str, choices| draw::below(self.seed, document, &format!("{what} of {stem}"), choices);
        let count = 1 + below("pieces", MOST_PIECES);
        let mut word = String::new();
        for at in 0..count {
            let pieces = if begins && at == 0 { &self.pieces.beginnings } else { &self.pieces.others };
            let piece = pieces.get(below(&at.to_string(), pieces.len()))?;
            if at > 0 && word.len() + piece.len() > LONGEST_WORD {
                break;
            }
            word.push_str(piece);
        }
        Some(word)
    }
}

/// The runs of ASCII letters and digits.
fn runs(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|run| !run.is_empty())
}

/// The text with other words, each in the writing (`foo`, `Foo`, `FOO`) of the one whose place it takes.
fn rewrite(text: &str, new_words: &BTreeMap<String, String>) -> String {
    let mut written = String::with_capacity(text.len());
    for piece in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let run = piece.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        match new_words.get(&run.to_ascii_lowercase()) {
            Some(word) if run.bytes().all(|byte| !byte.is_ascii_uppercase()) => written.push_str(word),
            Some(word) if run.bytes().all(|byte| !byte.is_ascii_lowercase()) => {
                written.push_str(&word.to_ascii_uppercase());
            }
            Some(word) => {
                written.push_str(&word[..1].to_ascii_uppercase());
                written.push_str(&word[1..]);
            }
            None => written.push_str(run),
        }
        written.push_str(&piece[run.len()..]);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write_model;

    fn document(id: &str, body: &str) -> Document {
        Document {
            id: id.into(),
            text: format!("{id} - a thing\n\n{body}"),
            source: id.into(),
            section: "libs".into(),
        }
    }

    fn renamer() -> Renamer {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), &["the theory of ether, the weather; The Ether"]);
        let tokenizer = Tokenizer::load(folder.path().join("tokenizer.json")).unwrap();
        let usual: Vec<Document> =
            (0..USUAL).map(|n| document(&format!("python3-thing{n}-dev"), "body")).collect();
        Renamer::new(1, &usual, &tokenizer).unwrap()
    }

    #[test]
    fn pieces_are_tokens_of_small_letters_with_and_without_a_space_before_them() {
        let Renamer { usual, pieces, .. } = renamer();
        assert_eq!(usual.into_iter().collect::<Vec<_>>(), ["dev", "python3"]);
        assert!(pieces.beginnings.contains(&"the".into()), "{pieces:?}");
        assert!(!pieces.others.is_empty(), "{pieces:?}");
        for piece in pieces.beginnings.iter().chain(&pieces.others) {
            assert!(piece.len() >= 2 && piece.bytes().all(|byte| byte.is_ascii_lowercase()), "{piece:?}");
        }
    }

    #[test]
    fn what_tells_something_stays_and_the_rest_is_another_everywhere() {
        let renamer = renamer();
        let (mut kept, mut cut) = (0, 0);
        for letter in b'a'..=b'z' {
            let stem = format!("q{}q", char::from(letter));
            let name = format!("lib{stem}2-dev");
            let upper = stem.to_ascii_uppercase();
            let body = format!("Of {stem}, {upper} and {name}, python3-dev, é. More of {stem}.");
            let original = document(&name, &body);
            let renamed = renamer.rename(&original);
            assert_eq!(renamed, renamer.rename(&original), "and again");
            let text = Text::parse(&renamed.text).expect("a context");
            if text.name == name {
                assert_eq!(renamed, original);
                kept += 1;
                continue;
            }
            let word = text.name.strip_prefix("lib").and_then(|rest| rest.strip_suffix("2-dev"));
            let word = word.unwrap_or_else(|| panic!("{}", text.name));
            let upper = word.to_ascii_uppercase();
            let first = format!("Of {word}, {upper} and {}, python3-dev, é.", text.name);
            cut += usize::from(text.body == first);
            assert!(text.body == first || text.body == format!("{first} More of {word}."), "{}", text.body);
        }
        assert!((1..13).contains(&kept) && (1..26 - kept).contains(&cut), "{kept} kept, {cut} cut");
    }

    #[test]
    fn a_name_of_usual_words_and_numbers_stays() {
        let renamer = renamer();
        for letter in b'a'..=b'z' {
            let original = document(&format!("python3-{}-42-dev", char::from(letter)), "body");
            assert_eq!(renamer.rename(&original), original);
        }
    }
}
