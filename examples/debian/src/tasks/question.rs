//! Questions written, and recognised again whoever wrote them.

use lyceum_synth::pair::{Kind, Pair};

use super::phrasing::{fill, phrasings, recognise};
use super::{Category, Task, closed, extract, judge, plan};
use crate::text::Text;

/// A question that was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<'q> {
    /// What it is about.
    pub category: Category,
    /// The package's name as the question gives it.
    pub subject: Option<&'q str>,
    /// The term that it is about.
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

/// A pair of this category and kind about this text, if the text can answer it.
pub(super) fn make(text: &Text<'_>, category: Category, kind: Kind) -> Option<Task> {
    let phrasings = phrasings(category);
    let phrasing = phrasings[plan::phrasing(text.name, category, phrasings.len())];
    let slot = extract::slot(text, category);
    let question = fill(phrasing, text.name, slot);
    let options = match kind {
        Kind::Options | Kind::Both => closed::options(text, category)?,
        Kind::Plain | Kind::Reasoning => Vec::new(),
    };
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let reason = match kind {
        Kind::Reasoning | Kind::Both => Some(closed::reason(text, category)?),
        Kind::Plain | Kind::Options => None,
    };
    let subject = phrasing.contains("{}").then_some(text.name);
    let answer = judge(text, &Asked { category, subject, slot, options: options.clone() })?;
    if answer.len() > extract::LONGEST_ASKED {
        return None;
    }
    let pair = Pair::new(&question, &options, reason.as_deref(), &answer).ok()?;
    // Odd names or terms could make it read as another question: then it is not asked.
    let unambiguous =
        read_question(&pair).is_some_and(|asked| asked.category == category && asked.slot == slot);
    unambiguous.then_some(Task { category, pair })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_recognised_and_judged_as_it_was_written() {
        let mut made = 0;
        for letter in b'a'..=b'z' {
            let stem = char::from(letter);
            for name in [format!("lib{stem}-perl"), format!("{stem}-data")] {
                let context =
                    format!("{name} - a thing for XML\n\nFoo is a reader based on SQL.\n\n* one\n* two");
                let text = Text::parse(&context).expect("a context");
                for category in Category::ALL {
                    for &kind in category.kinds() {
                        let Some(task) = make(&text, category, kind) else { continue };
                        let written = task.pair.written();
                        let read = Pair::read(&written.question, &written.answer).expect("well formed");
                        let asked = read_question(&read).expect("our own words");
                        assert_eq!(asked.category, category, "{read:?}");
                        assert_eq!(read.kind(), kind, "{read:?}");
                        assert_eq!(judge(&text, &asked).as_deref(), Some(read.answer()), "{read:?}");
                        made += 1;
                    }
                }
            }
        }
        assert!(made > 500, "{made}");
    }

    #[test]
    fn a_wrong_name_in_the_question_has_no_right_answer() {
        let text = Text::parse("foo - a thing\n\nbody").expect("a context");
        let pair = Pair::plain("What is fooo in short?", "a thing").expect("a pair");
        assert_eq!(judge(&text, &read_question(&pair).expect("our own words")), None);
    }
}
