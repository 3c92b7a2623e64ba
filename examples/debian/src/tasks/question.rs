//! Questions in the pair format's exact words: written, and read back.

use super::phrasing::{fill, phrasings, recognise};
use super::{Category, Kind, Pair, closed, extract, judge};
use crate::draw;
use crate::text::Text;

const OPTIONS: &str = "\nOptions:";
const OPTION: &str = "\n- ";
const STEPS: &str = "\nLet's think step by step.";
const THEREFORE: &str = "\nTherefore, the answer is ";

/// A question that was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<'q> {
    /// What it is about.
    pub category: Category,
    /// Its kind, by its form.
    pub kind: Kind,
    /// The package's name as the question gives it.
    pub subject: Option<&'q str>,
    /// The term, acronym or item that it is about.
    pub slot: Option<&'q str>,
    /// Its options.
    pub options: Vec<&'q str>,
}

/// Recognises a question, whoever wrote it. `None` when its words are none of ours.
pub fn read_question(question: &str) -> Option<Asked<'_>> {
    let (rest, reasoned) = match question.strip_suffix(STEPS) {
        Some(rest) => (rest, true),
        None => (question, false),
    };
    let (stem, options) = match rest.split_once(OPTIONS) {
        Some((stem, list)) => {
            (stem, list.split(OPTION).map(str::trim).filter(|option| !option.is_empty()).collect())
        }
        None => (rest, Vec::new()),
    };
    let kind = match (options.is_empty(), reasoned) {
        (true, false) => Kind::Plain,
        (false, false) => Kind::Options,
        (true, true) => Kind::Reasoning,
        (false, true) => Kind::Both,
    };
    let recognised = recognise(stem)?;
    Some(Asked {
        category: recognised.category,
        kind,
        subject: recognised.subject,
        slot: recognised.slot,
        options,
    })
}

/// The answer proper: what follows `Therefore, the answer is` where there is reasoning.
pub fn final_answer(answer: &str) -> &str {
    answer.rsplit_once(THEREFORE).map_or(answer, |(_, last)| last)
}

/// A pair of this category about this text, if it can be answered.
pub(super) fn make(seed: u64, id: &str, text: &Text<'_>, category: Category) -> Option<Pair> {
    let decide = |decision: &str, choices: usize| {
        draw::below(seed, id, &format!("{} {decision}", category.name()), choices)
    };
    let slots = extract::slots(text, category);
    let slot = (!slots.is_empty()).then(|| slots[decide("slot", slots.len())]);
    let phrasing = phrasings(category)[decide("phrasing", phrasings(category).len())];
    let kind = category.kinds()[decide("kind", category.kinds().len())];

    let options = match kind.has_options() {
        true => Some(closed::options(seed, id, text, category)?),
        false => None,
    };
    let mut question = fill(phrasing, text.name, slot);
    if let Some(options) = &options {
        question.push_str(OPTIONS);
        for option in options {
            question.push_str(OPTION);
            question.push_str(option);
        }
    }
    if kind.has_reasoning() {
        question.push_str(STEPS);
    }
    // The answer is what the question, read back, is judged by.
    let asked = read_question(&question).filter(|asked| asked.category == category && asked.kind == kind)?;
    let gold = judge(text, &asked)?;
    let answer = match kind.has_reasoning() {
        true => format!("{}{THEREFORE}{gold}", closed::reason(text, category)?),
        false => gold,
    };
    Some(Pair { question, answer, kind, category })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_back_as_it_was_written() {
        let context = "libfoo-perl - a thing for XML\n\nFoo is a reader.\n\n* one\n* two";
        let text = Text::parse(context).expect("a context");
        for category in Category::ALL {
            for seed in 0..40 {
                let Some(pair) = make(seed, "x", &text, category) else { continue };
                let asked = read_question(&pair.question).expect("our own words");
                assert_eq!((asked.category, asked.kind), (category, pair.kind), "{pair:?}");
                assert_eq!(judge(&text, &asked).as_deref(), Some(final_answer(&pair.answer)), "{pair:?}");
            }
        }
    }

    #[test]
    fn both_options_and_reasoning_stand_in_their_exact_words() {
        let question =
            "Which kind of package is it?\nOptions:\n- fonts\n- documentation\nLet's think step by step.";
        let asked = read_question(question).expect("our own words");
        assert_eq!(asked.kind, Kind::Both);
        assert_eq!(asked.options, ["fonts", "documentation"]);
        assert_eq!(
            final_answer("The name foo-doc ends with -doc.\nTherefore, the answer is documentation"),
            "documentation"
        );
    }

    #[test]
    fn a_wrong_name_in_the_question_has_no_right_answer() {
        let text = Text::parse("foo - a thing\n\nbody").expect("a context");
        let asked = read_question("What is fooo in short?").expect("our own words");
        assert_eq!(judge(&text, &asked), None);
    }
}
