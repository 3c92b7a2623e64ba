//! Formatting: documents with pairs become one instruction-augmented text.
//!
//! All documents of a chain share one document mode, one template for each kind of pair, one separator and one way to
//! letter options; each is its own decision about the chain's first document. How options are shuffled is a decision
//! about each pair. The words are our own.

mod letters;
mod template;

use lyceum_corpus::random::{Decision, Stream};

use crate::pair::{Kind, Pair};
use crate::rounds::Article;
use letters::Letters;
use template::{Fields, Template};

const MODE: Decision = Decision::new("format.mode");
const INVERT: Decision = Decision::new("format.invert");
const TEMPLATE: Decision = Decision::new("format.template");
const SEPARATOR: Decision = Decision::new("format.separator");
const LETTERS: Decision = Decision::new("format.letters");
const SPEAKERS: Decision = Decision::new("format.speakers");
const SHUFFLE: Decision = Decision::new("format.shuffle");

/// How a document and its pairs stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The text, then its pairs.
    Classic,
    /// The pairs, then the text.
    Inverted,
    /// The text, then its pairs as a conversation.
    Dialogue,
    /// A conversation whose first turn gives the text.
    NextTurn,
    /// The text, then all questions by number, then all answers.
    Numbered,
    /// The text, then its pairs one to a line, as examples of each other.
    Inline,
}

/// Modes where every document has at least two pairs, and their weights.
const RICH: [(Mode, u64); 5] =
    [(Mode::Classic, 80), (Mode::Dialogue, 5), (Mode::NextTurn, 5), (Mode::Numbered, 5), (Mode::Inline, 5)];

/// Modes otherwise.
const PLAIN: [(Mode, u64); 2] = [(Mode::Classic, 95), (Mode::Dialogue, 5)];

/// Percentage of classic texts that are inverted.
const INVERTED_PERCENT: u64 = 5;

/// What stands between a text and its pairs, and between pairs.
const SEPARATORS: [&str; 4] = ["\n\n", "\n\n", "\n", "\n\n\n"];

/// Between the documents of a chain.
const DOCUMENTS: &str = "\n\n";

/// Who asks and who answers in a conversation.
const SPEAKERS_OF: [(&str, &str); 6] = [
    ("User", "Assistant"),
    ("Student", "Teacher"),
    ("Reader", "Librarian"),
    ("A", "B"),
    ("Visitor", "Guide"),
    ("Interviewer", "Expert"),
];

/// What the first turn of [`Mode::NextTurn`] says before the text.
const HAND_OVER: [&str; 4] = [
    "Here is something I would like to talk about.",
    "Please read this first.",
    "I have a text and some questions about it.",
    "Take a look at the following.",
];

/// The mode that `seed` decides for a chain.
pub fn mode(seed: u64, articles: &[Article]) -> Mode {
    let Some(first) = articles.first() else { return Mode::Classic };
    let chain = first.document.id.as_u64();
    let rich = articles.iter().all(|article| article.pairs.len() >= 2);
    let modes: &[(Mode, u64)] = if rich { &RICH } else { &PLAIN };
    let weights: Vec<u64> = modes.iter().map(|&(_, weight)| weight).collect();
    match modes[Stream::new(seed, chain, MODE).weighted(&weights)].0 {
        Mode::Classic if Stream::new(seed, chain, INVERT).chance(INVERTED_PERCENT, 100) => Mode::Inverted,
        mode => mode,
    }
}

/// The instruction-augmented text of documents that are examples of each other, in the mode that `seed` decides.
pub fn format(seed: u64, articles: &[Article]) -> String {
    format_as(seed, mode(seed, articles), articles)
}

/// The same in a given mode.
pub fn format_as(seed: u64, mode: Mode, articles: &[Article]) -> String {
    let Some(first) = articles.first() else { return String::new() };
    let style = Style::draw(seed, first.document.id.as_u64());
    let documents = articles.iter().map(|article| style.document(seed, mode, article));
    documents.collect::<Vec<_>>().join(DOCUMENTS)
}

/// What all documents of a chain share.
struct Style {
    templates: [&'static Template; 4],
    separator: &'static str,
    letters: Letters,
    speakers: (&'static str, &'static str),
    hand_over: &'static str,
}

/// A pair in words.
struct Spoken {
    question: String,
    joint: &'static str,
    answer: String,
}

impl Style {
    fn draw(seed: u64, chain: u64) -> Self {
        let kinds = [Kind::Plain, Kind::Options, Kind::Reasoning, Kind::Both];
        let template = |kind: Kind| {
            let family = template::family(kind);
            &family[Stream::new(seed, chain, TEMPLATE.at(kind as u64)).index(family.len())]
        };
        let mut speakers = Stream::new(seed, chain, SPEAKERS);
        Self {
            templates: kinds.map(template),
            separator: SEPARATORS[Stream::new(seed, chain, SEPARATOR).index(SEPARATORS.len())],
            letters: Letters::draw(&mut Stream::new(seed, chain, LETTERS)),
            speakers: SPEAKERS_OF[speakers.index(SPEAKERS_OF.len())],
            hand_over: HAND_OVER[speakers.index(HAND_OVER.len())],
        }
    }

    fn document(&self, seed: u64, mode: Mode, article: &Article) -> String {
        let text = article.document.text.trim_end();
        let bare = !matches!(mode, Mode::Classic | Mode::Inverted);
        let spoken: Vec<Spoken> = (0..)
            .zip(&article.pairs)
            .map(|(index, pair)| {
                let mut shuffle = Stream::new(seed, article.document.id.as_u64(), SHUFFLE.at(index));
                self.speak(pair, bare, &mut shuffle)
            })
            .collect();
        let (asks, answers) = self.speakers;
        let turn = |pair: &Spoken| format!("{asks}: {}\n{answers}: {}", pair.question, pair.answer);
        let joined = |parts: Vec<String>| parts.join(self.separator);
        let listed = || spoken.iter().map(|pair| format!("{}{}{}", pair.question, pair.joint, pair.answer));
        match mode {
            Mode::Classic => joined(std::iter::once(text.to_owned()).chain(listed()).collect()),
            Mode::Inverted => joined(listed().chain(std::iter::once(text.to_owned())).collect()),
            Mode::Dialogue => {
                joined(std::iter::once(text.to_owned()).chain(spoken.iter().map(turn)).collect())
            }
            Mode::NextTurn => {
                let opening = format!("{asks}: {}\n{text}", self.hand_over);
                joined(std::iter::once(opening).chain(spoken.iter().map(turn)).collect())
            }
            Mode::Numbered => {
                let numbered = |part: fn(&Spoken) -> &str| {
                    let lines = (1..).zip(&spoken).map(|(number, pair)| format!("{number}. {}", part(pair)));
                    lines.collect::<Vec<_>>().join("\n")
                };
                let questions = format!("Questions\n{}", numbered(|pair| &pair.question));
                let answers = format!("Answers\n{}", numbered(|pair| &pair.answer));
                joined(vec![text.to_owned(), questions, answers])
            }
            Mode::Inline => {
                let lines = spoken.iter().map(|pair| format!("{} {}", pair.question, pair.answer));
                joined(vec![text.to_owned(), lines.collect::<Vec<_>>().join("\n")])
            }
        }
    }

    fn speak(&self, pair: &Pair, bare: bool, shuffle: &mut Stream) -> Spoken {
        let kind = pair.kind();
        let template = if bare { &template::family(kind)[0] } else { self.templates[kind as usize] };
        let mut options: Vec<&String> = pair.options().iter().collect();
        shuffle.shuffle(&mut options);
        let chosen = options.iter().position(|option| option.as_str() == pair.answer());
        let answer = match chosen {
            Some(index) => self.letters.answer(index),
            None => pair.answer().to_owned(),
        };
        let lines = options.iter().enumerate().map(|(index, option)| self.letters.line(index, option));
        let fields = Fields {
            question: pair.question(),
            options: &lines.collect::<Vec<_>>().join("\n"),
            reasoning: pair.reasoning().unwrap_or_default(),
            answer: &answer,
        };
        Spoken {
            question: fields.fill(template.question),
            joint: template.joint,
            answer: fields.fill(template.answer),
        }
    }
}

#[cfg(test)]
mod tests;
