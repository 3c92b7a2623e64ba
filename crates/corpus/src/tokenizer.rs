//! Tokens: a Hugging Face `tokenizer.json`, loaded or trained, and the rules by which text becomes ids.
//!
//! Three rules keep marks and text apart:
//! - No encoding adds special tokens; [`Tokenizer::with_bos_eos`] is the one place where BOS and EOS are set.
//! - Text from outside goes through [`Tokenizer::encode_text`], which neutralises anything in it that looks like a
//!   mark, so that a document that says `</s>` or `<ANS>` cannot end a text or forge a pair.
//! - Text whose marks are ours (a prompt) goes through [`Tokenizer::encode_markup`], after [`Tokenizer::neutralise`]
//!   was applied to the foreign parts in it.
//!
//! The synthesizer's marks are ordinary text to the released Mistral synthesizer, and dedicated tokens in a small
//! vocabulary of one's own ([`TrainOptions`]): both work, because nothing here asks which it is.

use std::borrow::Cow;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{AddedToken, Tokenizer as Inner};

/// Marks of the synthesizer's prompt and output.
pub const MARKS: [&str; 5] = ["<CON>", "</CON>", "<QUE>", "<ANS>", "</END>"];

/// Marks of beginning, end and the unknown, as Llama, Mistral and our own tokenizers name them.
pub const SPECIALS: [&str; 3] = ["<s>", "</s>", "<unk>"];

/// Names of the beginning of a text in the tokenizers of the model families we load, in order of preference.
const BOS_NAMES: [&str; 3] = ["<s>", "<|begin_of_text|>", "<|endoftext|>"];

/// Names of the end of a text, likewise.
const EOS_NAMES: [&str; 3] = ["</s>", "<|end_of_text|>", "<|endoftext|>"];

/// What can be wrong with a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file could not be loaded or saved.
    #[error("{path}: not a usable tokenizer.json: {reason}")]
    File {
        /// The file.
        path: String,
        /// What the library says.
        reason: String,
    },
    /// The vocabulary has no token for the beginning or end of a text.
    #[error("the tokenizer has none of the tokens {names:?}: a text needs one to begin or end with")]
    NoSpecial {
        /// The names looked for.
        names: Vec<String>,
    },
    /// The vocabulary asked for cannot hold even bytes and marks, or is beyond [`MAX_VOCABULARY`].
    #[error(
        "a vocabulary of {asked}: it holds bytes and marks, so at least {least} tokens, and at most {MAX_VOCABULARY}"
    )]
    Vocabulary {
        /// Size asked for.
        asked: usize,
        /// Least size possible.
        least: usize,
    },
    /// Training, encoding or decoding failed inside the library.
    #[error("the tokenizer failed to {doing}: {reason}")]
    Failed {
        /// What it was doing.
        doing: &'static str,
        /// What the library says.
        reason: String,
    },
}

/// Bytes of the largest `tokenizer.json` that is read; those of the largest vocabularies have 40 MiB.
const LARGEST_FILE: u64 = 512 << 20;

/// Most tokens of a vocabulary that is trained here, several times what models have.
pub const MAX_VOCABULARY: usize = 1 << 20;

/// How [`Tokenizer::train`] makes a vocabulary.
#[derive(Debug, Clone, Copy)]
pub struct TrainOptions {
    /// Tokens in the vocabulary, bytes and marks included.
    pub vocabulary: usize,
    /// A pair seen less often is not merged.
    pub min_frequency: u64,
    /// Whether the synthesizer's [`MARKS`] become one token each. Right for a synthesizer small enough that spelling
    /// them out would cost a tenth of its positions; wrong only when its tokens must look like the released one's.
    pub marks_as_tokens: bool,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self { vocabulary: 4096, min_frequency: 2, marks_as_tokens: true }
    }
}

/// A tokenizer; clones share it.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
    bos: u32,
    eos: u32,
    marks: Arc<[String]>,
}

impl Tokenizer {
    /// Loads a `tokenizer.json`.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = path.as_ref();
        let failed = |reason: String| TokenizerError::File { path: path.display().to_string(), reason };
        let about = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
        // A pipe or a device would be waited on, or read without an end.
        if !about.is_file() || about.len() > LARGEST_FILE {
            return Err(failed(format!("expected a file of at most {LARGEST_FILE} bytes")));
        }
        let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        Self::parse(&bytes).map_err(failed)?
    }

    /// Reads a `tokenizer.json` from memory.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        Self::parse(bytes).map_err(|reason| TokenizerError::File { path: "(memory)".into(), reason })?
    }

    /// The outer error is one of form. The library panics on some files that are cut or damaged, which is an error here.
    fn parse(bytes: &[u8]) -> Result<Result<Self, TokenizerError>, String> {
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|error| error.to_string())?;
        let read = || Inner::from_bytes(bytes).map(Self::new).map_err(|error| error.to_string());
        catch_unwind(read).unwrap_or_else(|_| Err("the library cannot read it".into()))
    }

    /// Trains byte-level BPE on `texts`: the same texts in any order give the same vocabulary.
    pub fn train<S: AsRef<str> + Send>(
        texts: impl Iterator<Item = S> + Send,
        options: TrainOptions,
    ) -> Result<Self, TokenizerError> {
        let marks: &[&str] = if options.marks_as_tokens { &MARKS } else { &[] };
        let specials: Vec<AddedToken> =
            SPECIALS.iter().chain(marks).map(|&mark| AddedToken::from(mark, true)).collect();
        let least = ByteLevel::alphabet().len() + specials.len();
        if !(least..=MAX_VOCABULARY).contains(&options.vocabulary) {
            return Err(TokenizerError::Vocabulary { asked: options.vocabulary, least });
        }
        let trainer = BpeTrainer::builder()
            .vocab_size(options.vocabulary)
            .min_frequency(options.min_frequency)
            .show_progress(false)
            .special_tokens(specials)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let mut inner = Inner::new(BPE::default());
        inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        inner.with_decoder(Some(ByteLevel::new(false, true, true)));
        inner
            .train(&mut TrainerWrapper::BpeTrainer(trainer), texts)
            .map_err(|error| TokenizerError::Failed { doing: "train", reason: error.to_string() })?;
        Self::new(inner)
    }

    fn new(mut inner: Inner) -> Result<Self, TokenizerError> {
        // A file may ask for truncation or padding to some model's length: nothing is truncated here.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| TokenizerError::Failed {
            doing: "drop its truncation",
            reason: error.to_string(),
        })?;
        let find = |names: [&str; 3]| {
            let missing = || TokenizerError::NoSpecial { names: names.map(String::from).to_vec() };
            names.iter().find_map(|name| inner.token_to_id(name)).ok_or_else(missing)
        };
        let (bos, eos) = (find(BOS_NAMES)?, find(EOS_NAMES)?);
        let mut marks: Vec<String> = MARKS.iter().chain(&SPECIALS).map(|&mark| mark.to_owned()).collect();
        for token in inner.get_added_tokens_decoder().into_values() {
            if token.special && token.content.chars().count() > 1 && !marks.contains(&token.content) {
                marks.push(token.content);
            }
        }
        marks.sort_unstable();
        Ok(Self { inner: Arc::new(inner), bos, eos, marks: marks.into() })
    }

    /// Writes a `tokenizer.json`.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), TokenizerError> {
        let path = path.as_ref();
        let failed = |reason: String| TokenizerError::File { path: path.display().to_string(), reason };
        self.inner.save(path, true).map_err(|error| failed(error.to_string()))
    }

    /// Tokens in the vocabulary, added ones included.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The highest id that any token has: a model needs more rows than this in its embedding.
    pub fn highest_id(&self) -> u32 {
        self.inner.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// Id of the beginning of a text.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// Id of the end of a text.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// Breaks whatever looks like a mark by a space after its first character: `<ANS>` becomes `< ANS>`.
    pub fn neutralise<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let is_mark = |at: usize| self.marks.iter().any(|mark| text[at..].starts_with(mark.as_str()));
        let mut broken = String::new();
        let mut copied = 0;
        for (at, first) in text.char_indices() {
            if is_mark(at) {
                let after = at + first.len_utf8();
                broken.push_str(&text[copied..after]);
                broken.push(' ');
                copied = after;
            }
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        broken.push_str(&text[copied..]);
        Cow::Owned(broken)
    }

    /// Ids of a text from outside, marks in it neutralised, nothing added.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_markup(&self.neutralise(text))
    }

    /// Ids of a text whose marks are ours and count, nothing added.
    pub fn encode_markup(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding
            .map_err(|error| TokenizerError::Failed { doing: "encode", reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`. Marks that are tokens appear as their text; BOS and EOS do not.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let ids: Vec<u32> = ids.iter().copied().filter(|&id| id != self.bos && id != self.eos).collect();
        self.inner
            .decode(&ids, false)
            .map_err(|error| TokenizerError::Failed { doing: "decode", reason: error.to_string() })
    }

    /// An emitted text: BOS, `tokens`, EOS. The one place where either is set.
    pub fn with_bos_eos(&self, mut tokens: Vec<u32>) -> Vec<u32> {
        tokens.insert(0, self.bos);
        tokens.push(self.eos);
        tokens
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Tokenizer({} tokens, bos {}, eos {})", self.vocabulary(), self.bos, self.eos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained(marks_as_tokens: bool) -> Tokenizer {
        let texts =
            ["the cat sat on the mat", "the dog sat on the log", "a naïve café <CON> is </s> no mark"];
        let options = TrainOptions { vocabulary: 300, min_frequency: 1, marks_as_tokens };
        Tokenizer::train(texts.iter().cycle().take(30), options).expect("300 tokens hold bytes and marks")
    }

    #[test]
    fn encoding_adds_nothing_and_decodes_to_the_same_text() {
        for tokenizer in [trained(true), trained(false)] {
            for text in
                ["the cat sat", " leading and trailing ", "tabs\tnew\n\nlines", "日本語 \u{1F600} naïve"]
            {
                let ids = tokenizer.encode_text(text).unwrap();
                assert!(!ids.contains(&tokenizer.bos()) && !ids.contains(&tokenizer.eos()));
                assert_eq!(tokenizer.decode(&ids).unwrap(), text);
            }
        }
    }

    #[test]
    fn bos_and_eos_are_set_once() {
        let tokenizer = trained(true);
        let ids = tokenizer.with_bos_eos(tokenizer.encode_text("<s> the </s> cat </s>").unwrap());
        assert_eq!(ids.iter().filter(|&&id| id == tokenizer.bos()).count(), 1);
        assert_eq!(ids.iter().filter(|&&id| id == tokenizer.eos()).count(), 1);
        assert_eq!((ids[0], *ids.last().unwrap()), (tokenizer.bos(), tokenizer.eos()));
    }

    #[test]
    fn marks_in_foreign_text_are_broken_and_other_text_is_left_alone() {
        let tokenizer = trained(false);
        assert_eq!(tokenizer.neutralise("a <ANS> b </END>"), "a < ANS> b < /END>");
        assert_eq!(tokenizer.neutralise("<<CON>>é</CON></s>"), "<< CON>>é< /CON>< /s>");
        assert!(matches!(tokenizer.neutralise("a < b > c <strong>"), Cow::Borrowed(_)));
        let once = tokenizer.neutralise("<QUE><QUE>").into_owned();
        assert_eq!(tokenizer.neutralise(&once), once);
    }

    #[test]
    fn marks_are_one_token_each_or_ordinary_text_as_asked_for() {
        let tokens = trained(true).encode_markup("<ANS>").unwrap().len();
        let text = trained(false).encode_markup("<ANS>").unwrap().len();
        assert!(tokens == 1 && text > 1, "{tokens} and {text}");
        for tokenizer in [trained(true), trained(false)] {
            let ids = tokenizer.encode_markup(" <CON> x </CON>\n\n").unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), " <CON> x </CON>\n\n");
        }
    }

    #[test]
    fn training_is_repeatable_and_survives_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        trained(true).save(&path).unwrap();
        let loaded = Tokenizer::load(&path).unwrap();
        let text = "the naïve cat on the log";
        assert_eq!(loaded.encode_text(text).unwrap(), trained(true).encode_text(text).unwrap());
        assert_eq!(loaded.vocabulary(), trained(true).vocabulary());
    }

    #[test]
    fn a_broken_file_or_an_impossible_size_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, "{").unwrap();
        let error = Tokenizer::load(&path).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
        for vocabulary in [0, 100, MAX_VOCABULARY + 1, usize::MAX] {
            let impossible = TrainOptions { vocabulary, ..TrainOptions::default() };
            let error = Tokenizer::train(["x"].iter(), impossible).unwrap_err().to_string();
            assert!(error.contains(&format!("a vocabulary of {vocabulary}")), "{error}");
        }
    }
}
