//! Context tasks: questions whose answers the text itself gives.
//!
//! [`ask`] makes pairs for a text, [`judge`] says the right answer to a question, also to
//! one that a model wrote: it recognises the phrasing, reads the options and computes the
//! answer from the text again. Both use the same functions, so what was asked is what is judged.
//!
//! Debtags, sections and dependencies are left out on purpose: their values stand
//! in the text for only 10 to 35% of the packages, and a pair that the text does not
//! answer teaches invention. A name's affixes (`-dev`, `python3-`) do stand in the text.

mod closed;
mod extract;
mod phrasing;
mod question;
mod vocabulary;

use lyceum_synth::pair::{Kind, Pair};

pub use question::{Asked, read_question};

use crate::draw;
use crate::text::Text;

/// What a question is about. The order is the order of a text's pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// The package's name.
    Name,
    /// The one-line summary.
    Summary,
    /// What the text says a thing is ("X is a ...").
    Definition,
    /// What the package contains or provides, as stated.
    Contents,
    /// What it can be used for, as stated.
    Ability,
    /// What it is based on, as stated.
    Basis,
    /// The language it is stated to be written in.
    WrittenIn,
    /// The long form of an acronym.
    Acronym,
    /// The web address in the text.
    Address,
    /// Another package that the text names.
    Companion,
    /// The first item of the list.
    FirstItem,
    /// The item after a given one.
    NextItem,
    /// The last item of the list.
    LastItem,
    /// How many items the list has.
    ItemCount,
    /// Library, documentation, development files ...: from the name's affixes.
    Role,
    /// The language that a module is for: from the name's affixes.
    Language,
    /// Which option stands in the text.
    Mentioned,
    /// Which option does not stand in the text.
    NotMentioned,
    /// Whether the text has a list.
    HasList,
}

impl Category {
    /// All categories, in the order of a text's pairs.
    pub const ALL: [Self; 19] = [
        Self::Name,
        Self::Summary,
        Self::Definition,
        Self::Contents,
        Self::Ability,
        Self::Basis,
        Self::WrittenIn,
        Self::Acronym,
        Self::Address,
        Self::Companion,
        Self::FirstItem,
        Self::NextItem,
        Self::LastItem,
        Self::ItemCount,
        Self::Role,
        Self::Language,
        Self::Mentioned,
        Self::NotMentioned,
        Self::HasList,
    ];

    /// Whether the answer is one of few: judged by accuracy against the majority answer.
    /// The others are free answers, judged by F1.
    pub fn is_closed(self) -> bool {
        matches!(
            self,
            Self::ItemCount
                | Self::Role
                | Self::Language
                | Self::Mentioned
                | Self::NotMentioned
                | Self::HasList
        )
    }

    /// The kinds of pair the category is asked in.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::ItemCount => &[Kind::Reasoning],
            Self::Role | Self::Language => &[Kind::Options, Kind::Reasoning, Kind::Both],
            Self::HasList => &[Kind::Options, Kind::Both],
            Self::Mentioned | Self::NotMentioned => &[Kind::Options],
            _ => &[Kind::Plain],
        }
    }

    /// The category's name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Summary => "summary",
            Self::Definition => "definition",
            Self::Contents => "contents",
            Self::Ability => "ability",
            Self::Basis => "basis",
            Self::WrittenIn => "written-in",
            Self::Acronym => "acronym",
            Self::Address => "address",
            Self::Companion => "companion",
            Self::FirstItem => "first-item",
            Self::NextItem => "next-item",
            Self::LastItem => "last-item",
            Self::ItemCount => "item-count",
            Self::Role => "role",
            Self::Language => "language",
            Self::Mentioned => "mentioned",
            Self::NotMentioned => "not-mentioned",
            Self::HasList => "has-list",
        }
    }

    /// How much likelier than the summary a category is to be asked where it can be: the rarer
    /// the texts that answer it, the likelier.
    fn weight(self) -> f64 {
        match self {
            Self::Name => f64::INFINITY,
            Self::Role | Self::Language => 0.8,
            Self::Mentioned => 0.7,
            Self::Summary | Self::Contents | Self::Address => 1.0,
            Self::Definition | Self::NotMentioned => 1.2,
            Self::HasList => 1.5,
            Self::Ability => 2.5,
            Self::Basis | Self::Acronym => 3.0,
            Self::WrittenIn | Self::Companion => 4.0,
            Self::FirstItem | Self::NextItem | Self::LastItem => 4.0,
            Self::ItemCount => 5.0,
        }
    }

    /// The share of texts that are asked at all. One text in eleven has a list: those without
    /// are asked for one so rarely that both answers are about as common.
    fn share(self, text: &Text<'_>) -> f64 {
        match self {
            Self::HasList if text.has_list => 0.8,
            Self::HasList => 0.08,
            _ => 1.0,
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
    /// The binary package, `#` and the number of the variant.
    pub id: String,
    /// The source package.
    pub source: String,
    /// The text.
    pub context: String,
    /// Its questions, in the order in which they are to be asked.
    pub tasks: Vec<Task>,
}

/// The most pairs a text gets.
pub const MOST_PAIRS: usize = 5;

/// Questions about a text, in the order of the categories: its name, then two to four others of
/// those that the text can answer, as long as all fit into `budget` bytes.
pub fn ask(seed: u64, id: &str, text: &Text<'_>, budget: usize) -> Vec<Task> {
    let wanted = 3 + draw::below(seed, id, "pairs", MOST_PAIRS - 2);
    let mut ranked: Vec<(f64, Category)> = Category::ALL
        .into_iter()
        .filter(|category| draw::unit(seed, id, &format!("{} share", category.name())) < category.share(text))
        .map(|category| {
            // The largest u^(1/w) win: a weighted draw without replacement.
            let u = draw::unit(seed, id, category.name());
            (u.powf(1.0 / category.weight()), category)
        })
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut left = budget;
    let mut tasks: Vec<Task> = Vec::new();
    for (_, category) in ranked {
        if tasks.len() == wanted {
            break;
        }
        let Some(task) = question::make(seed, id, text, category) else { continue };
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

/// One question of a given category, where the text can answer it.
pub fn ask_one(seed: u64, id: &str, text: &Text<'_>, category: Category) -> Option<Task> {
    question::make(seed, id, text, category)
}

/// The right answer to a question that was recognised, from the text alone; `None` when
/// the text does not answer it or none of its options is the answer.
pub fn judge(text: &Text<'_>, asked: &Asked<'_>) -> Option<String> {
    let answer = match asked.category {
        Category::ItemCount
        | Category::Role
        | Category::Language
        | Category::Mentioned
        | Category::NotMentioned
        | Category::HasList => closed::answer(text, asked.category, &asked.options)?,
        _ => extract::answer(text, asked.category, asked.slot)?,
    };
    let fits = asked.options.is_empty() || asked.options.iter().any(|option| *option == answer);
    let named = asked.subject.is_none_or(|name| name == text.name);
    (fits && named).then_some(answer)
}
