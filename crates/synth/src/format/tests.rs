use std::collections::BTreeSet;

use lyceum_corpus::chain::{Document, DocumentId};

use super::*;

fn article(ordinal: u64, text: &str, pairs: Vec<Pair>) -> Article {
    Article { document: Document { id: DocumentId { source: 0, ordinal }, text: text.into() }, pairs }
}

fn plain(ordinal: u64) -> Article {
    let pairs = ["first", "second"].map(|name| Pair::plain(&format!("Which is {name}?"), name).unwrap());
    article(ordinal, "A text.", pairs.into())
}

fn choice(ordinal: u64) -> Article {
    let pair = Pair::new("Which?", &["red", "green", "blue"], None, "green").unwrap();
    article(ordinal, "Grass is green.", vec![pair])
}

#[test]
fn the_modes_lay_out_text_and_pairs_as_they_say() {
    let two = [plain(1)];
    let speakers = Style::draw(0, 1).speakers;
    let separator = Style::draw(0, 1).separator;
    let (asks, answers) = speakers;
    let dialogue = format!(
        "A text.{separator}{asks}: Which is first?\n{answers}: first{separator}{asks}: Which is second?\n{answers}: second"
    );
    assert_eq!(format_as(0, Mode::Dialogue, &two), dialogue);
    let numbered = format!(
        "A text.{separator}Questions\n1. Which is first?\n2. Which is second?{separator}Answers\n1. first\n2. second"
    );
    assert_eq!(format_as(0, Mode::Numbered, &two), numbered);
    let inline = format!("A text.{separator}Which is first? first\nWhich is second? second");
    assert_eq!(format_as(0, Mode::Inline, &two), inline);
    assert!(format_as(0, Mode::Classic, &two).starts_with("A text."));
    assert!(format_as(0, Mode::Inverted, &two).ends_with("A text."));
    assert!(format_as(0, Mode::NextTurn, &two).starts_with(&format!("{asks}: ")));
}

#[test]
fn every_mode_and_template_says_question_and_answer_of_every_pair() {
    let modes = [Mode::Classic, Mode::Inverted, Mode::Dialogue, Mode::NextTurn, Mode::Numbered, Mode::Inline];
    for seed in 0..40 {
        for mode in modes {
            let text = format_as(seed, mode, &[plain(seed), plain(seed + 1000)]);
            for part in ["Which is first?", "Which is second?", "first", "second", "A text."] {
                assert!(text.matches(part).count() >= 2, "seed {seed}, {mode:?}: {part:?} in {text:?}");
            }
            assert!(!text.contains('{'), "seed {seed}: {text:?}");
        }
    }
}

#[test]
fn options_are_shuffled_and_the_answer_is_the_label_of_the_right_one() {
    let mut places = BTreeSet::new();
    let mut labels = BTreeSet::new();
    for seed in 0..200 {
        let style = Style::draw(seed, 7);
        let text = format_as(seed, Mode::Classic, &[choice(7)]);
        let order: Vec<usize> = ["red", "green", "blue"]
            .map(|option| text.find(&format!("{option}\n")))
            .map(|at| at.unwrap_or(usize::MAX))
            .into();
        let place = order.iter().filter(|&&at| at < order[1]).count();
        let label = style.letters.answer(place);
        assert!(text.ends_with(&label), "seed {seed}: {label:?} in {text:?}");
        places.insert(place);
        labels.insert(label);
    }
    assert_eq!(places.len(), 3);
    assert!(labels.len() >= 12, "{labels:?}");
}

#[test]
fn a_chain_shares_one_template_and_one_separator() {
    for seed in 0..60 {
        let both = format_as(seed, Mode::Classic, &[plain(3), plain(4)]);
        let (first, second) = both.split_at(both.rfind("A text.").unwrap());
        assert_eq!(first.trim_end(), second.trim_end(), "seed {seed}");
    }
}

#[test]
fn modes_follow_their_weights_and_five_percent_of_classic_texts_are_inverted() {
    let count = |rich: bool| {
        let mut counts = std::collections::HashMap::new();
        for ordinal in 0..20_000 {
            let one = if rich { plain(ordinal) } else { choice(ordinal) };
            *counts.entry(mode(1, &[one])).or_insert(0_i32) += 1;
        }
        counts
    };
    let rich = count(true);
    let near = |value: i32, expected: i32| (value - expected).abs() < 150;
    assert!(near(rich[&Mode::Classic], 15_200) && near(rich[&Mode::Inverted], 800), "{rich:?}");
    for mode in [Mode::Dialogue, Mode::NextTurn, Mode::Numbered, Mode::Inline] {
        assert!(near(rich[&mode], 1_000), "{rich:?}");
    }
    let poor = count(false);
    assert_eq!(poor.len(), 3, "{poor:?}");
    assert!(near(poor[&Mode::Dialogue], 1_000) && near(poor[&Mode::Inverted], 950), "{poor:?}");
}

#[test]
fn l5_a_format_is_a_function_of_seed_and_document() {
    let chain = [plain(5), choice(6)];
    assert_eq!(format(9, &chain), format(9, &chain));
    let texts: BTreeSet<String> = (0..50).map(|seed| format(seed, &chain)).collect();
    assert!(texts.len() > 10, "only {} formats", texts.len());
}

#[test]
fn nothing_gives_no_text() {
    assert_eq!(format(0, &[]), "");
}
