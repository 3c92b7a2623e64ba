//! Context tasks: questions whose answers the text itself gives.
//!
//! [`ask`] makes pairs for a text: what it asks is a function of the text alone (`plan`). [`judge`] says the right answer to a question, also to
//! one that a model wrote: it recognises the phrasing, reads the options and computes the
//! answer from the text again. Both use the same functions, so what was asked is what is judged.
//!
//! Debtags, sections and dependencies are left out on purpose: their values stand
//! in the text for only 10 to 35% of the packages, and a pair that the text does not
//! answer teaches invention. A name's affixes (`-dev`, `python3-`) do stand in the text.
//! What few texts answer (an acronym's long form, what a program is based on) is left out too: a model of
//! this size sees it too seldom to tell whether a text answers it.

mod closed;
mod extract;
mod phrasing;
mod plan;
mod question;
mod vocabulary;

use lyceum_synth::pair::{Kind, Pair};

pub use question::{Asked, read_question};

use crate::text::Text;

/// What a question is about. The order is the order of a text's pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// The package's name.
    Name,
    /// Which of several names is the package's.
    Identity,
    /// The one-line summary.
    Summary,
    /// What the text says a thing is ("X is a ...").
    Definition,
    /// What the package contains or provides, as stated.
    Contents,
    /// What it can be used for, as stated.
    Ability,
    /// The web address in the text.
    Address,
    /// The first item of the first list.
    FirstItem,
    /// Library, documentation, development files ...: from the name's affixes.
    Role,
    /// The language that a module is for: from the name's affixes.
    Language,
    /// Whether the text has a list.
    HasList,
}

impl Category {
    /// All categories, in the order of a text's pairs.
    pub const ALL: [Self; 11] = [
        Self::Name,
        Self::Identity,
        Self::Summary,
        Self::Definition,
        Self::Contents,
        Self::Ability,
        Self::Address,
        Self::FirstItem,
        Self::Role,
        Self::Language,
        Self::HasList,
    ];

    /// Whether the answer is one of few, or of the options: judged by accuracy against the majority answer.
    /// The others are free answers, judged by F1.
    pub fn is_closed(self) -> bool {
        matches!(self, Self::Identity | Self::Role | Self::Language | Self::HasList)
    }

    /// The kinds of pair the category is asked in.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Role | Self::Language => &[Kind::Options, Kind::Reasoning, Kind::Both],
            Self::HasList => &[Kind::Options, Kind::Both],
            Self::Identity => &[Kind::Options],
            _ => &[Kind::Plain],
        }
    }

    /// The category's name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Identity => "identity",
            Self::Summary => "summary",
            Self::Definition => "definition",
            Self::Contents => "contents",
            Self::Ability => "ability",
            Self::Address => "address",
            Self::FirstItem => "first-item",
            Self::Role => "role",
            Self::Language => "language",
            Self::HasList => "has-list",
        }
    }
}

/// All kinds of pair, with their names in files and tables.
pub const KINDS: [(Kind, &str); 4] = [
    (Kind::Plain, "plain"),
    (Kind::Options, "options"),
    (Kind::Reasoning, "reasoning"),
    (Kind::Both, "both"),
];

/// A question with its answer, and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// What the question is about.
    pub category: Category,
    /// Question and answer.
    pub pair: Pair,
}

/// A text with its questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The binary package.
    pub id: String,
    /// The source package.
    pub source: String,
    /// The text.
    pub context: String,
    /// Its questions, in the order in which they are to be asked.
    pub tasks: Vec<Task>,
}

/// The most pairs a text gets.
pub const MOST_PAIRS: usize = 4;

/// What tuning teaches at a time. All ask the same questions in the same words; they differ in which text is asked what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lesson {
    /// First: to write pairs, and to copy from the text.
    Copying,
    /// Then: which question fits a text. One that says little is asked for a list, so that there is always something to
    /// ask.
    Choosing,
}

/// Questions about a text, in the order of the categories: its name, and up to three others of those that it can answer,
/// as long as all fit into `budget` bytes.
pub fn ask(text: &Text<'_>, lesson: Lesson, budget: usize) -> Vec<Task> {
    let mut left = budget;
    let mut tasks: Vec<Task> = Vec::new();
    for (category, enough) in plan::candidates(text, lesson) {
        if tasks.len() >= enough {
            continue;
        }
        let Some(task) = question::make(text, category, plan::kind(text.name, category)) else { continue };
        let written = task.pair.written();
        let bytes = written.question.len() + written.answer.len();
        if bytes <= left {
            left -= bytes;
            tasks.push(task);
        }
    }
    tasks.sort_by_key(|task| task.category);
    tasks
}

/// One question of a given category and kind, where the text can answer it.
pub fn ask_one(text: &Text<'_>, category: Category, kind: Kind) -> Option<Task> {
    question::make(text, category, kind)
}

/// The right answer to a question that was recognised, from the text alone; `None` when
/// the text does not answer it or none of its options is the answer.
pub fn judge(text: &Text<'_>, asked: &Asked<'_>) -> Option<String> {
    let answer = if asked.category.is_closed() {
        closed::answer(text, asked.category)?
    } else {
        extract::answer(text, asked.category, asked.slot)?
    };
    let fits = asked.options.is_empty() || asked.options.iter().any(|option| *option == answer);
    let named = asked.subject.is_none_or(|name| name == text.name);
    (fits && named).then_some(answer)
}
