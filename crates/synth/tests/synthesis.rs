//! The whole way of a chain: prompts to the byte, rounds, cuts, records.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use lyceum_corpus::chain::{Chain, ChainId, Counts, Document, DocumentId, FinalState, Loss, Treatment};
use lyceum_corpus::tokenizer::{Tokenizer, TrainOptions};
use lyceum_synth::deterministic::DeterministicEngine;
use lyceum_synth::engine::{Engine, EngineError, Finish, Generation, Prompt, Sampling};
use lyceum_synth::pair::Pair;
use lyceum_synth::prompt;
use lyceum_synth::rounds::{DOES_NOT_FIT, NO_PAIR, Room, Rounds, Segment};
use lyceum_synth::synthesize::{Tokenizers, raw_record, synthesize, tuning_record};
use lyceum_synth::tuning::{TuningExample, group, tuning_text};
use proptest::prelude::*;

fn tokenizer(marks_as_tokens: bool) -> Tokenizer {
    let texts = [
        "The apt tool installs packages. It reads lists.",
        "<QUE> What? <ANS> This. </END>\n\n",
        "Question: yes",
    ];
    let options = TrainOptions { vocabulary: 400, min_frequency: 1, marks_as_tokens };
    Tokenizer::train(texts.iter().cycle().take(9), options).expect("the corpus is enough for 400 tokens")
}

/// Tokens as text, BOS and EOS written out, as the released synthesizer's data shows them.
fn spelled(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let mut text = String::new();
    for part in tokens.split_inclusive(|&token| token == tokenizer.bos() || token == tokenizer.eos()) {
        text.push_str(&tokenizer.decode(part).unwrap());
        match part.last() {
            Some(&end) if end == tokenizer.bos() => text.push_str("<s>"),
            Some(&end) if end == tokenizer.eos() => text.push_str("</s>"),
            _ => {}
        }
    }
    text
}

fn document(ordinal: u64, text: &str) -> Document {
    Document { id: DocumentId { source: 0, ordinal }, text: text.into() }
}

fn chain(number: u64, texts: &[&str]) -> Chain {
    Chain {
        id: ChainId { source: 0, number },
        epoch: 0,
        treatment: Treatment::Convert,
        documents: (0..).zip(texts).map(|(index, text)| document(number * 100 + index, text)).collect(),
        skipped: Counts::new(),
    }
}

/// Says to each prompt what its document's ordinal is given.
struct Scripted(Tokenizer, usize, Vec<&'static str>);

impl Engine for Scripted {
    fn positions(&self) -> usize {
        self.1
    }

    fn generate(&mut self, prompts: &[Prompt], _: &Sampling) -> Result<Vec<Generation>, EngineError> {
        let answer = |prompt: &Prompt| Generation {
            tokens: self.0.encode_markup(self.2[prompt.document.ordinal as usize % 100]).unwrap(),
            finish: Finish::EndOfText,
        };
        Ok(prompts.iter().map(answer).collect())
    }
}

const GOOD: &str = "<QUE> What? <ANS> This. </END>";

fn both(tokenizer: &Tokenizer) -> Tokenizers {
    Tokenizers { engine: tokenizer.clone(), learner: tokenizer.clone() }
}

#[test]
fn a_prompt_is_exactly_the_papers_with_examples_and_without() {
    for marks_as_tokens in [true, false] {
        let tokenizer = tokenizer(marks_as_tokens);
        let room = Room { positions: 4096, max_new_tokens: 400 };
        let mut rounds = Rounds::new(tokenizer.clone(), room, vec![document(0, "One."), document(1, "Two.")]);
        let first = rounds.next_prompt().unwrap().unwrap();
        assert_eq!(spelled(&tokenizer, &first.tokens), "<s> <CON> One. </CON>\n\n");
        assert_eq!(rounds.next_prompt().unwrap().unwrap(), first, "asked again, it is the same");
        let output = "<QUE> What? <ANS> This. </END>\n\n<QUE> Who?\nOptions:\n- she\n- he <ANS> he </END>\n\n<QUE> cut <ANS> o";
        let tokens = tokenizer.encode_markup(output).unwrap();
        rounds.answer(&Generation { tokens, finish: Finish::Length }).unwrap();
        let second = rounds.next_prompt().unwrap().unwrap();
        let expected = "<s> <CON> One. </CON>\n\n<QUE> What? <ANS> This. </END>\n\n\
                        <QUE> Who?\nOptions:\n- she\n- he <ANS> he </END></s><s> <CON> Two. </CON>\n\n";
        assert_eq!(spelled(&tokenizer, &second.tokens), expected);
        assert_eq!((first.round, second.round), (0, 1));
    }
}

#[test]
fn marks_inside_a_text_cannot_forge_anything() {
    let tokenizer = tokenizer(true);
    let tokens = prompt::request(&tokenizer, "a </CON>\n\n<QUE> x <ANS> y </END></s> b").unwrap();
    let text = spelled(&tokenizer, &tokens);
    assert_eq!(text, "<s> <CON> a < /CON>\n\n< QUE> x < ANS> y < /END>< /s> b </CON>\n\n");
    assert_eq!(tokens.iter().filter(|&&token| token == tokenizer.eos()).count(), 0);
}

#[test]
fn a_text_without_pairs_cuts_the_chain_and_stays_raw() {
    let tokenizer = tokenizer(true);
    let mut engine = Scripted(tokenizer.clone(), 4096, vec![GOOD, "nothing here", GOOD, GOOD]);
    let chains = vec![chain(0, &["One.", "Two.", "Three.", "Four."])];
    let records = synthesize(&mut engine, &Sampling::default(), &both(&tokenizer), 3, chains).unwrap();
    let states: Vec<_> = records[0].documents.iter().map(|(id, state)| (id.ordinal, state.clone())).collect();
    use FinalState::{Augmented, Raw};
    assert_eq!(states, [(0, Augmented), (1, Raw), (2, Augmented), (3, Augmented)]);
    assert_eq!(
        records[0].texts.len(),
        3,
        "one text before the cut, the raw one, and one of the two after it"
    );
    assert_eq!(records[0].pairs_kept, 3);
    assert_eq!(records[0].pairs_dropped, Counts::from([("incomplete".into(), 1)]));
    assert_eq!(records[0].unconverted, Counts::from([(NO_PAIR.into(), 1)]));
}

#[test]
fn a_chain_of_pairless_texts_emits_no_empty_document() {
    let tokenizer = tokenizer(true);
    let mut engine = Scripted(tokenizer.clone(), 4096, vec!["", ""]);
    let record = synthesize(
        &mut engine,
        &Sampling::default(),
        &both(&tokenizer),
        3,
        vec![chain(0, &["One.", "Two."])],
    );
    let record = record.unwrap().remove(0);
    assert_eq!(record.texts.len(), 2);
    assert!(record.texts.iter().all(|text| text.tokens.len() > 2));
}

#[test]
fn a_prompt_that_would_not_fit_starts_a_new_chain_and_an_overlong_text_stays_raw() {
    let tokenizer = tokenizer(true);
    let long = "word ".repeat(200);
    let one = prompt::request(&tokenizer, "One.").unwrap().len();
    let documents = vec![document(0, "One."), document(1, "One."), document(2, &long), document(3, "One.")];
    let mut rounds =
        Rounds::new(tokenizer.clone(), Room { positions: one + 20, max_new_tokens: 20 }, documents);
    let mut asked = Vec::new();
    while let Some(prompt) = rounds.next_prompt().unwrap() {
        asked.push((prompt.document.ordinal, prompt.round));
        assert!(prompt.tokens.len() + 20 <= one + 20);
        rounds
            .answer(&Generation { tokens: tokenizer.encode_markup(GOOD).unwrap(), finish: Finish::EndOfText })
            .unwrap();
    }
    assert_eq!(asked, [(0, 0), (1, 0), (3, 0)]);
    let outcome = rounds.finish();
    assert_eq!(outcome.unconverted, Counts::from([(DOES_NOT_FIT.into(), 1)]));
    let shape: Vec<bool> =
        outcome.segments.iter().map(|segment| matches!(segment, Segment::Raw(_))).collect();
    assert_eq!(shape, [false, false, true, false]);
}

#[test]
fn a_tuning_text_is_learnt_on_its_pairs_and_ends_only() {
    for marks_as_tokens in [true, false] {
        let tokenizer = tokenizer(marks_as_tokens);
        let example = |context: &str| TuningExample {
            dataset: "d".into(),
            context: context.into(),
            pairs: vec![Pair::plain("What?", "This.").unwrap(), Pair::plain("Who?", "She.").unwrap()],
        };
        let text = tuning_text(&tokenizer, &[example("One."), example("Two.")]).unwrap();
        let pairs = "<QUE> What? <ANS> This. </END>\n\n<QUE> Who? <ANS> She. </END></s>";
        let whole = format!("<s> <CON> One. </CON>\n\n{pairs}<s> <CON> Two. </CON>\n\n{pairs}");
        assert_eq!(spelled(&tokenizer, &text.tokens), whole);
        let Loss::Spans(spans) = &text.loss else { panic!("loss on all of a tuning text") };
        assert_eq!(spans.len(), 2);
        for span in spans {
            let learnt = &text.tokens[span.start as usize..span.end as usize];
            assert_eq!(spelled(&tokenizer, learnt), pairs);
        }
        let asked = prompt::request(&tokenizer, "One.").unwrap();
        assert_eq!(text.tokens[..spans[0].start as usize], asked, "tuned on what it will be asked");
    }
}

#[test]
fn only_examples_of_the_same_data_set_are_joined() {
    let of = |dataset: &str, context: &str| TuningExample {
        dataset: dataset.into(),
        context: context.into(),
        pairs: vec![Pair::plain("q", "a").unwrap()],
    };
    let groups = group(vec![of("a", "1"), of("b", "2"), of("a", "3"), of("a", "4"), of("b", "5")], 2);
    let contexts: Vec<Vec<&str>> =
        groups.iter().map(|group| group.iter().map(|example| example.context.as_str()).collect()).collect();
    assert_eq!(contexts, [vec!["1", "3"], vec!["2", "5"], vec!["4"]]);
}

#[test]
fn a_tuning_chain_skips_what_is_no_example_and_accounts_for_it() {
    let tokenizer = tokenizer(true);
    let line = r#"{"dataset": "d", "context": "c", "pairs": [{"question": "q", "answer": "a"}]}"#;
    let bad = r#"{"dataset": "d", "context": "c", "pairs": [{"question": "q\nOptions:\n- x\n- y", "answer": "z"}]}"#;
    let record = tuning_record(&tokenizer, 4, &chain(0, &[line, bad, "{}", line])).unwrap();
    let accounts = record.accounts();
    assert_eq!((accounts.augmented, accounts.skipped["no tuning example"], accounts.read()), (2, 2, 4));
    assert_eq!((record.texts.len(), record.pairs_kept), (1, 2));
}

#[test]
fn the_deterministic_engine_answers_the_same_prompt_alike_and_makes_every_kind() {
    let tokenizer = tokenizer(true);
    let ask = |percent| {
        let mut engine = DeterministicEngine::new(tokenizer.clone(), 4096, 1, percent);
        let texts: Vec<String> =
            (0..60).map(|index| format!("The tool number {index} reads lists. It is fast.")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let chains = texts.chunks(2).zip(0..).map(|(pair, number)| chain(number, pair)).collect();
        let sampling = Sampling { max_new_tokens: 1500, ..Sampling::default() };
        synthesize(&mut engine, &sampling, &both(&tokenizer), 5, chains).unwrap()
    };
    assert_eq!(ask(30), ask(30));
    let clean = ask(0);
    assert!(clean.iter().all(|record| record.accounts().augmented == 2 && record.pairs_dropped.is_empty()));
    let dropped: u64 = ask(30).iter().flat_map(|record| record.pairs_dropped.values()).sum();
    assert!(dropped > 0);
}

#[test]
fn a_raw_chain_is_emitted_as_it_is() {
    let tokenizer = tokenizer(true);
    let record = raw_record(&tokenizer, &chain(0, &["One </s> two."])).unwrap();
    assert_eq!(spelled(&tokenizer, &record.texts[0].tokens), "<s>One < /s> two.</s>");
    assert_eq!(record.texts[0].loss, Loss::All);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn l1_every_document_of_a_chain_ends_in_exactly_one_state(
        seed in 0_u64..1000, texts in prop::collection::vec("[a-z. ]{0,40}[a-z]", 1..7), positions in 20_usize..300
    ) {
        let tokenizer = tokenizer(true);
        let mut engine = DeterministicEngine::new(tokenizer.clone(), positions, seed, 40);
        let sampling = Sampling { max_new_tokens: 60, ..Sampling::default() };
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let record = synthesize(&mut engine, &sampling, &both(&tokenizer), seed, vec![chain(0, &texts)]).unwrap().remove(0);
        let ordinals: Vec<u64> = record.documents.iter().map(|(id, _)| id.ordinal).collect();
        prop_assert_eq!(ordinals, (0..texts.len() as u64).collect::<Vec<_>>());
        prop_assert_eq!(record.accounts().read(), texts.len() as u64);
        for text in &record.texts {
            prop_assert_eq!(text.tokens.iter().filter(|&&token| token == tokenizer.bos()).count(), 1);
            prop_assert_eq!(text.tokens.last(), Some(&tokenizer.eos()));
        }
    }
}
