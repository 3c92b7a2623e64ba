//! Questions written, and recognised again whoever wrote them.

use lyceum_synth::pair::{Kind, Pair};

use super::phrasing::{fill, phrasings, recognise};
use super::{Category, Task, closed, extract, judge};
use crate::draw;
use crate::text::Text;

/// A question that was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<'q> {
    /// What it is about.
    pub category: Category,
    /// The package's name as the question gives it.
    pub subject: Option<&'q str>,
    /// The term, acronym or item that it is about.
    pub slot: Option<&'q str>,
    /// Its options; empty when there are none.
    pub options: Vec<&'q str>,
}

/// Recognises a pair's question. `None` when its words are none of ours.
pub fn read_question(pair: &Pair) -> Option<Asked<'_>> {
    let recognised = recognise(pair.question())?;
    Some(Asked {
        category: recognised.category,
        subject: recognised.subject,
        slot: recognised.slot,
        options: pair.options().iter().map(String::as_str).collect(),
    })
}

/// A pair of this category about this text, if the text can answer it.
pub(super) fn make(seed: u64, id: &str, text: &Text<'_>, category: Category) -> Option<Task> {
    let decide = |decision: &str, choices: usize| {
        draw::below(seed, id, &format!("{} {decision}", category.name()), choices)
    };
    let slots = extract::slots(text, category);
    let slot = (!slots.is_empty()).then(|| slots[decide("slot", slots.len())]);
    let phrasing = phrasings(category)[decide("phrasing", phrasings(category).len())];
    let kind = category.kinds()[decide("kind", category.kinds().len())];

    let question = fill(phrasing, text.name, slot);
    let options = match kind {
        Kind::Options | Kind::Both => closed::options(seed, id, text, category)?,
        Kind::Plain | Kind::Reasoning => Vec::new(),
    };
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let reason = match kind {
        Kind::Reasoning | Kind::Both => Some(closed::reason(text, category)?),
        Kind::Plain | Kind::Options => None,
    };
    let subject = phrasing.contains("{}").then_some(text.name);
    let answer = judge(text, &Asked { category, subject, slot, options: options.clone() })?;
    let pair = Pair::new(&question, &options, reason.as_deref(), &answer).ok()?;
    // Odd names or items could make it read as another question: then it is not asked.
    let unambiguous =
        read_question(&pair).is_some_and(|asked| asked.category == category && asked.slot == slot);
    unambiguous.then_some(Task { category, pair })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_recognised_and_judged_as_it_was_written() {
        let context = "libfoo-perl - a thing for XML\n\nFoo is a reader.\n\n* one\n* two";
        let text = Text::parse(context).expect("a context");
        let mut made = 0;
        for category in Category::ALL {
            for seed in 0..40 {
                let Some(task) = make(seed, "x", &text, category) else { continue };
                let written = task.pair.written();
                let read = Pair::read(&written.question, &written.answer).expect("well formed");
                let asked = read_question(&read).expect("our own words");
                assert_eq!(asked.category, category, "{read:?}");
                assert!(category.kinds().contains(&read.kind()), "{read:?}");
                assert_eq!(judge(&text, &asked).as_deref(), Some(read.answer()), "{read:?}");
                made += 1;
            }
        }
        assert!(made > 300, "{made}");
    }

    #[test]
    fn a_wrong_name_in_the_question_has_no_right_answer() {
        let text = Text::parse("foo - a thing\n\nbody").expect("a context");
        let pair = Pair::plain("What is fooo in short?", "a thing").expect("a pair");
        assert_eq!(judge(&text, &read_question(&pair).expect("our own words")), None);
    }
}
