//! Free answers: spans of the text, found by stated cues. Each answer stands in the context
//! word for word.

use super::Category;
use crate::text::Text;

/// The longest answer that is asked for, in bytes: see [`answer`].
pub const LONGEST_ASKED: usize = 90;
/// The longest answer, in bytes.
const LONGEST: usize = 240;

/// Where a clause ends within its sentence. A comma alone may be one of an enumeration.
const CLAUSE_ENDS: [&str; 18] = [
    " that ",
    " which ",
    " who ",
    " whose ",
    ", which ",
    ", but ",
    ", with ",
    ", based ",
    ", written ",
    ", designed ",
    ", so ",
    ", where ",
    ", using ",
    ", similar ",
    "; ",
    ": ",
    " - ",
    " -- ",
];

/// The answer to a question of an extractive category. Some are longer than one would ask for: a model that asks all
/// the same does not ask for what the text does not say.
pub fn answer(text: &Text<'_>, category: Category, slot: Option<&str>) -> Option<String> {
    let span = match category {
        Category::Name => Some(text.name),
        Category::Summary => (text.summary.len() <= LONGEST).then_some(text.summary),
        Category::Definition => definition(text, slot?),
        Category::Contents => contents(text),
        Category::Ability => ability(text),
        Category::Address => address(text),
        Category::FirstItem => text.first_item.filter(|item| (2..=LONGEST).contains(&item.len())),
        _ => None,
    };
    span.map(str::to_owned)
}

/// What the question is about: the term that the first sentence defines, the first acronym that is spelt out. `None`
/// for categories that need nothing, and where the text has none.
pub fn slot<'a>(text: &Text<'a>, category: Category) -> Option<&'a str> {
    match category {
        Category::Definition => Some(defined(text.sentences().next()?)?.0),
        _ => None,
    }
}

/// "T is a ...": the term and what it is said to be, up to the first clause's end.
fn defined(sentence: &str) -> Option<(&str, &str)> {
    let at = [" is a ", " is an ", " is the "].iter().filter_map(|cue| sentence.find(cue)).min()?;
    let term = &sentence[..at];
    let first = term.split(' ').next().unwrap_or_default();
    let vague = [
        "This", "It", "That", "There", "Here", "If", "The", "What", "Each", "One", "These", "A", "An", "In",
        "As", "For", "Its", "Our", "When", "Also", "Which",
    ];
    let plain = !term.contains([',', '(', ':', '"', '[', ']']) && term.split(' ').count() <= 3;
    if !plain || term.len() < 2 || vague.contains(&first) || !term.starts_with(char::is_alphanumeric) {
        return None;
    }
    let rest = &sentence[at + " is ".len()..];
    Some((term, clause(rest, &CLAUSE_ENDS)?))
}

fn definition<'a>(text: &Text<'a>, term: &str) -> Option<&'a str> {
    text.sentences()
        .filter_map(defined)
        .find(|(defined, _)| defined.eq_ignore_ascii_case(term))
        .map(|(_, answer)| answer)
}

fn contents<'a>(text: &Text<'a>) -> Option<&'a str> {
    text.sentences().find_map(|sentence| {
        let rest = sentence.strip_prefix("This package ")?;
        let rest = ["contains ", "provides ", "includes ", "ships ", "installs ", "holds "]
            .iter()
            .find_map(|verb| rest.strip_prefix(verb))?;
        clause(rest, &[" which ", "; ", ": ", " - ", " -- "])
    })
}

fn ability<'a>(text: &Text<'a>) -> Option<&'a str> {
    const CUES: [&str; 14] = [
        "can be used to ",
        "allows you to ",
        "allows users to ",
        "allows the user to ",
        "allows one to ",
        "allows to ",
        "enables you to ",
        "lets you ",
        "is used to ",
        "is designed to ",
        "is intended to ",
        "aims to ",
        "makes it possible to ",
        "makes it easy to ",
    ];
    text.sentences().find_map(|sentence| {
        let cue = CUES.iter().filter_map(|cue| Some((sentence.find(cue)?, cue.len()))).min()?;
        clause(&sentence[cue.0 + cue.1..], &CLAUSE_ENDS)
    })
}

/// The first web address of the text, if it has no other.
fn address<'a>(text: &Text<'a>) -> Option<&'a str> {
    let mut found: Option<&str> = None;
    for word in text.body.split(|c: char| c.is_whitespace() || "<>()\"'`[]{}|".contains(c)) {
        if !["http://", "https://", "ftp://"].iter().any(|scheme| word.starts_with(scheme)) {
            continue;
        }
        let word = word.trim_end_matches(['.', ',', ';', ':', '!', '?', '*']);
        match found {
            Some(known) if known != word => return None,
            _ => found = Some(word),
        }
    }
    found.filter(|word| word.len() <= LONGEST && word.len() > "https://".len())
}

/// The beginning of a sentence up to the first of `stops`; `None` when that is too short or too long.
fn clause<'a>(rest: &'a str, stops: &[&str]) -> Option<&'a str> {
    let end = stops.iter().filter_map(|stop| rest.find(stop)).min().unwrap_or(rest.len());
    if rest[end..].is_empty() && rest.ends_with(':') {
        // The rest stands in a list below.
        return None;
    }
    let span = rest[..end].trim_end_matches(['.', ',', ';', ':', ' ', '!']);
    let whole =
        span.matches('(').count() == span.matches(')').count() && span.matches('"').count().is_multiple_of(2);
    ((4..=LONGEST).contains(&span.len()) && whole).then_some(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(body: &str, category: Category, slot: Option<&str>) -> Option<String> {
        let context = format!("foo - a thing\n\n{body}");
        answer(&Text::parse(&context).expect("a context"), category, slot)
    }

    #[test]
    fn stated_cues_give_spans() {
        let body = "Foo is a fast reader for tables that runs anywhere. \
                    It can be used to read, write and sort. This package contains the header files. See https://foo.example/x.";
        let said = |category, slot| ask(body, category, slot);
        assert_eq!(said(Category::Definition, Some("Foo")).as_deref(), Some("a fast reader for tables"));
        assert_eq!(said(Category::Ability, None).as_deref(), Some("read, write and sort"));
        assert_eq!(said(Category::Contents, None).as_deref(), Some("the header files"));
        assert_eq!(said(Category::Address, None).as_deref(), Some("https://foo.example/x"));
        assert_eq!(said(Category::Name, None).as_deref(), Some("foo"));
        assert_eq!(said(Category::Summary, None).as_deref(), Some("a thing"));
    }

    #[test]
    fn the_first_item_is_that_of_the_first_list() {
        let body = "Features:\n* red.\n* green\n\nAnd:\n* blue";
        assert_eq!(ask(body, Category::FirstItem, None).as_deref(), Some("red"));
    }

    #[test]
    fn a_term_is_asked_for_where_the_first_sentence_defines_it() {
        let slot = |body: &str| {
            let context = format!("foo - a thing\n\n{body}");
            let text = Text::parse(&context).expect("a context");
            slot(&text, Category::Definition).map(str::to_owned)
        };
        assert_eq!(slot("Foo is a reader. Bar is a writer.").as_deref(), Some("Foo"));
        assert_eq!(slot("Reads. Bar is a writer."), None);
        assert_eq!(slot("This package is a reader."), None);
        let defined = ask("Reads. Bar is a writer.", Category::Definition, Some("bar"));
        assert_eq!(defined.as_deref(), Some("a writer"), "whoever asks is answered");
    }

    #[test]
    fn without_a_cue_there_is_no_answer() {
        let body = "It is a thing. JavaScripting (XYZ) for all, http://a.example and http://b.example, in the binary package.";
        for category in [Category::Contents, Category::Ability, Category::Address, Category::FirstItem] {
            assert_eq!(ask(body, category, None), None, "{category:?}");
        }
        assert_eq!(ask(body, Category::Definition, Some("It")), None);
    }
}
