//! Multiple choice on the domain's held-out texts, for the model before and after the demo.
//! A model scores each choice as a continuation (log-probability by length), so the
//! items are cloze-like: nothing needs to be generated.

use std::collections::BTreeMap;

use lyceum_synth::pair::Kind;

use crate::draw;
use crate::output::{Document, Item};
use crate::tasks::{Category, ask_one};
use crate::text::{Text, sentences};

/// Choices an item has where the text itself gives no options.
const CHOICES: usize = 4;
/// Sentences that serve as choices have about the same length, in bytes.
const SENTENCE: std::ops::RangeInclusive<usize> = 40..=200;

/// At most `each` items of each of the three kinds: `opening` (which first sentence belongs to
/// this summary), `continuation` (which sentence comes next), `reading` (a question about the
/// text, with the options of the context tasks or the names of other packages).
/// Wrong choices come from other sources of the same section.
pub fn items(seed: u64, documents: &[Document], each: usize) -> Vec<Item> {
    let mut ordered: Vec<&Document> = documents.iter().collect();
    draw::shuffle(seed, "choices", &mut ordered, |document| &document.id);
    let stock = Stock::of(&ordered);
    let mut items = Vec::new();
    for make in [opening, continuation, reading] {
        items.extend(ordered.iter().filter_map(|document| make(seed, document, &stock)).take(each));
    }
    items
}

/// What wrong choices are taken from, by section: (source, text).
struct Stock<'a> {
    openings: BTreeMap<&'a str, Vec<(&'a str, &'a str)>>,
    others: BTreeMap<&'a str, Vec<(&'a str, &'a str)>>,
    names: Vec<(&'a str, &'a str)>,
}

impl<'a> Stock<'a> {
    fn of(documents: &[&'a Document]) -> Self {
        let mut stock = Self { openings: BTreeMap::new(), others: BTreeMap::new(), names: Vec::new() };
        for document in documents {
            let Some(text) = Text::parse(&document.text) else { continue };
            let (source, section) = (document.source.as_str(), document.section.as_str());
            stock.names.push((source, text.name));
            for (at, sentence) in usable(&text).into_iter().enumerate() {
                let shelf = if at == 0 { &mut stock.openings } else { &mut stock.others };
                shelf.entry(section).or_default().push((source, sentence));
            }
        }
        stock
    }
}

/// The first line of running text cut into sentences, each with what a model would see.
fn usable<'a>(text: &Text<'a>) -> Vec<&'a str> {
    text.prose()
        .next()
        .map(|line| sentences(line).take_while(|s| SENTENCE.contains(&s.len())).collect())
        .unwrap_or_default()
}

fn opening(seed: u64, document: &Document, stock: &Stock<'_>) -> Option<Item> {
    let text = Text::parse(&document.text)?;
    let right = *usable(&text).first()?;
    if !text.body.starts_with(right) {
        return None;
    }
    let wrong = wrong_choices(seed, document, "opening", stock.openings.get(document.section.as_str())?)?;
    let prompt = format!("{} - {}\n\n", text.name, text.summary);
    Some(item(seed, document, "opening", prompt, right, wrong, ""))
}

fn continuation(seed: u64, document: &Document, stock: &Stock<'_>) -> Option<Item> {
    let text = Text::parse(&document.text)?;
    let right = *usable(&text).get(1)?;
    // The prompt ends with the first sentence's full stop.
    let at = document.text.find(right)?;
    let prompt = document.text[..at].trim_end().to_owned();
    let wrong = wrong_choices(seed, document, "continuation", stock.others.get(document.section.as_str())?)?;
    Some(item(seed, document, "continuation", prompt, right, wrong, " "))
}

fn reading(seed: u64, document: &Document, stock: &Stock<'_>) -> Option<Item> {
    const ASKED: [Category; 4] = [Category::Name, Category::Identity, Category::Role, Category::Language];
    let text = Text::parse(&document.text).filter(|text| text.context.len() <= 1000)?;
    let first = draw::below(seed, &document.id, "reading", ASKED.len());
    let mut category = ASKED.into_iter().cycle().skip(first).take(ASKED.len());
    let pair = category.find_map(|category| {
        let kind = if category == Category::Name { Kind::Plain } else { Kind::Options };
        Some(ask_one(&text, category, kind)?.pair)
    })?;
    let right = pair.answer();
    let wrong: Vec<&str> = match pair.options() {
        [] => wrong_choices(seed, document, "names", &stock.names)?,
        options => options.iter().map(String::as_str).filter(|option| *option != right).collect(),
    };
    let stem = pair.question();
    let prompt = format!("{}\n\nQuestion: {stem}\nAnswer:", document.text);
    Some(item(seed, document, "reading", prompt, right, wrong, " "))
}

fn wrong_choices<'a>(
    seed: u64,
    document: &Document,
    kind: &str,
    stock: &[(&str, &'a str)],
) -> Option<Vec<&'a str>> {
    let mut wrong: Vec<&str> = Vec::new();
    for attempt in 0..4 * CHOICES {
        let decision = format!("{kind} wrong {attempt}");
        let (source, choice) = *stock.get(draw::below(seed, &document.id, &decision, stock.len()))?;
        if source != document.source && !wrong.contains(&choice) && !document.text.contains(choice) {
            wrong.push(choice);
        }
        if wrong.len() == CHOICES - 1 {
            return Some(wrong);
        }
    }
    None
}

fn item(
    seed: u64,
    document: &Document,
    kind: &str,
    prompt: String,
    right: &str,
    wrong: Vec<&str>,
    before: &str,
) -> Item {
    let id = format!("{}/{kind}", document.id);
    let mut choices: Vec<String> =
        std::iter::once(right).chain(wrong).map(|choice| format!("{before}{choice}")).collect();
    draw::shuffle(seed, &id, &mut choices, |choice| choice);
    let right = format!("{before}{right}");
    let answer = choices.iter().position(|choice| *choice == right).unwrap_or_default();
    Item { id, prompt, choices, answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents() -> Vec<Document> {
        (0..40)
            .map(|n| Document {
                id: format!("libthing{n}-perl"),
                text: format!(
                    "libthing{n}-perl - thing number {n}\n\nThis is the first sentence that tells about thing {n}. \
                     And then there is a second sentence, also about thing {n}. It uses XML and SQL."
                ),
                source: format!("thing{n}"),
                section: "science".into(),
            })
            .collect()
    }

    #[test]
    fn each_item_has_distinct_choices_and_its_right_one_belongs_to_the_text() {
        let documents = documents();
        let items = items(5, &documents, 20);
        assert!(items.len() > 40, "{}", items.len());
        for item in &items {
            let mut choices = item.choices.clone();
            choices.sort();
            choices.dedup();
            assert!(choices.len() == item.choices.len() && choices.len() >= 3, "{item:?}");
            if item.id.ends_with("/opening") || item.id.ends_with("/continuation") {
                let own = documents
                    .iter()
                    .find(|d| item.id.starts_with(&format!("{}/", d.id)))
                    .expect("a document");
                let whole = format!("{}{}", item.prompt, item.choices[item.answer]);
                assert!(own.text.starts_with(&whole), "{item:?}");
            }
        }
    }

    #[test]
    fn the_right_choice_stands_at_every_place() {
        let items = items(5, &documents(), 40);
        for place in 0..3 {
            assert!(items.iter().any(|item| item.answer == place), "never at {place}");
        }
    }

    #[test]
    fn the_same_documents_in_another_order_give_the_same_items() {
        let mut documents = documents();
        let first = items(5, &documents, 20);
        documents.reverse();
        assert_eq!(first, items(5, &documents, 20));
    }
}
