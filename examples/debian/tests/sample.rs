//! The committed sample keeps the promises of the corpus.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lyceum_debian::choices;
use lyceum_debian::output::{self, Document, Item};
use lyceum_debian::prepare::PAIR_BUDGET;
use lyceum_debian::report::{Gate, Judgement};
use lyceum_debian::tasks::{self, Category, Lesson, judge, read_question};
use lyceum_debian::text::Text;

const SETS: [&str; 4] = ["domain-raw", "domain-to-augment", "heldout", "contexts"];

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name)
}

fn documents(set: &str) -> Vec<Document> {
    output::read(&data(&format!("{set}.jsonl.zst"))).expect("the sample can be read")
}

#[test]
fn the_sets_share_no_source_package() {
    let mut set_of: BTreeMap<String, &str> = BTreeMap::new();
    for set in SETS {
        for document in documents(set) {
            let known = set_of.insert(document.source.clone(), set);
            assert!(known.is_none_or(|known| known == set), "{} is in {set} and {known:?}", document.source);
        }
    }
}

#[test]
fn the_domain_is_divided_as_prepare_divides_it() {
    let (raw, to_augment) = (documents("domain-raw"), documents("domain-to-augment"));
    let bytes = |set: &[Document]| set.iter().map(|document| document.text.len()).sum::<usize>();
    let share = bytes(&raw) as f64 / (bytes(&raw) + bytes(&to_augment)) as f64;
    assert!((0.55..0.65).contains(&share), "{share}");
    let both = [raw.clone(), to_augment.clone()].concat();
    assert_eq!(lyceum_debian::prepare::divide(lyceum_debian::prepare::SEED, &both), (raw, to_augment));
}

#[test]
fn each_source_package_is_attributed() {
    let attribution = std::fs::read_to_string(data("ATTRIBUTION")).expect("it is there");
    let credited: BTreeSet<&str> = attribution.lines().filter_map(|line| line.split('\t').next()).collect();
    for set in SETS {
        for document in documents(set) {
            assert!(credited.contains(document.source.as_str()), "{}", document.source);
        }
    }
}

#[test]
fn no_answer_is_invented_and_each_is_what_the_text_says() {
    let mut asked: BTreeMap<Category, usize> = BTreeMap::new();
    for document in documents("contexts") {
        let text = Text::parse(&document.text).expect("a context");
        let tasks = tasks::ask(&text, Lesson::Choosing, PAIR_BUDGET);
        assert!(tasks.len() >= 2, "{}", document.id);
        assert!(tasks.is_sorted_by_key(|task| task.category), "{}", document.id);
        for task in tasks {
            let pair = &task.pair;
            *asked.entry(task.category).or_default() += 1;
            if !task.category.is_closed() {
                assert!(document.text.contains(pair.answer()), "{pair:?} is not in {}", document.text);
            }
            let read = read_question(pair).expect("our own words");
            assert_eq!(judge(&text, &read).as_deref(), Some(pair.answer()), "{pair:?}");
        }
    }
    assert_eq!(asked.len(), Category::ALL.len(), "all categories are asked: {asked:?}");
}

#[test]
fn a_synthesizer_that_writes_what_we_would_passes_the_gate() {
    let mut judgement = Judgement::default();
    for document in documents("contexts") {
        let text = Text::parse(&document.text).expect("a context");
        let pairs = tasks::ask(&text, Lesson::Choosing, PAIR_BUDGET).into_iter().map(|task| {
            let written = task.pair.written();
            format!("<QUE> {} <ANS> {} </END>", written.question, written.answer)
        });
        judgement.add(&document.text, &pairs.collect::<Vec<_>>().join("\n\n"));
    }
    let report = judgement.report();
    println!("{report}");
    assert_eq!(report.shortfalls(&Gate::default()), Vec::<String>::new(), "{report}");
    assert!(report.rows.iter().all(|row| row.accuracy == 1.0) && report.unrecognised == 0, "{report}");
}

#[test]
fn the_multiple_choice_items_are_what_the_held_out_texts_give() {
    let committed: Vec<Item> = output::read(&data("choices.jsonl.zst")).expect("the sample can be read");
    assert_eq!(committed.len(), 450);
    let sources: BTreeSet<String> = documents("heldout").into_iter().map(|document| document.id).collect();
    for item in &committed {
        let package = item.id.rsplit_once('/').map(|(package, _)| package).unwrap_or_default();
        assert!(sources.contains(package), "{}", item.id);
        assert!(item.answer < item.choices.len() && item.choices.len() >= 3, "{item:?}");
    }
    let again = choices::items(lyceum_debian::prepare::SEED, &documents("heldout"), 150);
    assert!(again == committed, "the same texts and seed give the same items");
}
