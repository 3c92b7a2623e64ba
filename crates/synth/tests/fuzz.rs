//! What a model writes, and what a corpus of tuning examples holds, can be anything at all.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use lyceum_fuzz::Fuzz;
use lyceum_synth::parse::parse;
use lyceum_synth::tuning::TuningExample;

fn output(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = parse(&text);
    assert_eq!(parsed.pairs.len() as u64, parsed.accounts.kept);
    for pair in &parsed.pairs {
        assert!(text.contains(pair.question()) && text.contains(pair.answer()), "nothing is invented");
    }
    let pieces = text.split("</END>").count() as u64;
    assert!(parsed.accounts.kept + parsed.accounts.dropped.values().sum::<u64>() <= pieces);
}

#[test]
fn outputs_of_models_are_read_and_nothing_is_invented() {
    let seeds = [
        "<QUE> What? <ANS> This. </END>\n\n<QUE> Who? <ANS> She. </END>",
        "<QUE> Which?\nOptions:\n- one\n- two <ANS> one </END><QUE> Is it so?\nOptions:\n(A) yes\n(B) no <ANS> (A) </END>",
        "<QUE> a <ANS> First, think. Therefore, the answer is b. </END> <QUE> c",
    ];
    let words = ["<QUE>", "<ANS>", "</END>", "<CON>", "</CON>", "Options:", "\n- ", "(A) ", "\u{a0}", "İ"];
    Fuzz::new("synth output")
        .seeds(seeds)
        .words(words)
        .runs(60_000)
        .longest(4096)
        .memory(4 << 20)
        .run(output);
}

fn example(data: &[u8]) {
    if let Ok(example) = serde_json::from_slice::<TuningExample>(data) {
        let written = serde_json::to_vec(&example).unwrap();
        assert_eq!(serde_json::from_slice::<TuningExample>(&written).unwrap(), example);
    }
}

#[test]
fn tuning_examples_are_read_or_refused() {
    let one = r#"{"dataset": "names", "context": "apt installs.", "pairs": [{"question": "What?", "answer": "apt"}]}"#;
    let options = r#"{"dataset": "d", "context": "c", "pairs": [{"question": "Which?\nOptions:\n- one\n- two",
        "answer": "one"}, {"question": "Why?", "answer": "First this.\nThen that."}]}"#;
    for seed in [one, options] {
        assert!(serde_json::from_str::<TuningExample>(seed).is_ok(), "{seed}");
    }
    Fuzz::new("synth example").seeds([one, options]).runs(20_000).longest(4096).memory(4 << 20).run(example);
}
