//! `lyceum tokenizer train`.

use lyceum_corpus::tokenizer::Tokenizer;
use lyceum_tests::{Bed, SEED, document};

#[test]
fn a_tokenizer_is_trained_on_files_of_several_kinds_and_gives_every_text_back() {
    let bed = Bed::new();
    bed.write("notes.txt", "A text of its own, with marks: <QUE> Why? <ANS> Because. </END>");
    let raw = bed.path("raw.jsonl");
    let arguments = ["train", "--out", "tokenizer.json", "--vocabulary", "400", raw.to_str().unwrap()];
    let ended = bed.command("tokenizer", &arguments, &bed.path("notes.txt")).end();
    assert!(ended.said.contains("400 tokens from 601 texts"), "{}", ended.said);
    ended.well();

    let tokenizer = Tokenizer::load(bed.path("tokenizer.json")).unwrap();
    assert_eq!(tokenizer.vocabulary(), 400);
    let texts = [document(SEED, 7), "not seen: żółć, 漢字, 🦀\n\n\t end".to_owned()];
    for text in texts {
        let tokens = tokenizer.encode_text(&text).unwrap();
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
    }
    assert_eq!(tokenizer.encode_markup("<QUE>").unwrap().len(), 1, "a mark is a token");

    // The same files give the same tokenizer.
    let before = std::fs::read(bed.path("tokenizer.json")).unwrap();
    bed.command("tokenizer", &arguments, &bed.path("notes.txt")).end().well();
    assert!(std::fs::read(bed.path("tokenizer.json")).unwrap() == before);
}

#[test]
fn a_tokenizer_of_nothing_is_refused() {
    let bed = Bed::new();
    let train =
        |file: &str| bed.command("tokenizer", &["train", "--out", "tokenizer.json"], &bed.path(file)).end();
    train("nowhere.jsonl").failed(&["nowhere.jsonl"]);
    bed.write("empty.jsonl", "");
    train("empty.jsonl").failed(&["hold no text"]);
    assert!(!bed.path("tokenizer.json").exists());
}
