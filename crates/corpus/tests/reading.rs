//! Reading and ordering: every entry is a document or counted, every document stands in the order once.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use lyceum_corpus::chain::{Chain, Counts, Treatment};
use lyceum_corpus::document::{Content, DocumentReader, Format, ReadError, ReaderOptions};
use lyceum_corpus::order::{Order, OrderOptions, plan_window};
use proptest::prelude::*;

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    let bytes = match path.extension().unwrap().to_str().unwrap() {
        "gz" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "zst" => zstd::encode_all(bytes, 1).unwrap(),
        _ => bytes.to_vec(),
    };
    fs::write(&path, bytes).unwrap();
    path
}

fn tolerant(files: Vec<PathBuf>) -> ReaderOptions {
    ReaderOptions { bad_share: 1.0, longest: 200, ..ReaderOptions::new(files) }
}

fn texts(reader: &mut DocumentReader) -> Vec<(u64, String)> {
    reader
        .by_ref()
        .map(|document| document.map(|document| (document.id.ordinal, document.text)).unwrap())
        .collect()
}

const LINES: &[u8] = b"\xef\xbb\xbf{\"id\": 1, \"text\": \"one\"}\r\n{\"text\": \"  \"}\nnot json\n{\"text\": 5}\n\n\
    {\"title\": \"no text\"}\n{\"text\": \"bro\xffken\"}\n{\"text\": \"two\\nlines\", \"more\": [1, {\"text\": \"x\"}]}";

#[test]
fn bad_lines_are_counted_by_reason_and_skipped_whatever_the_compression() {
    let folder = tempfile::tempdir().unwrap();
    let long = [b"{\"text\": \"".as_slice(), &[b'x'; 300], b"\"}\n{\"text\": \"after\"}\n"].concat();
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
        let files =
            vec![write(folder.path(), name, LINES), write(folder.path(), &format!("long-{name}"), &long)];
        let mut reader = DocumentReader::new(0, tolerant(files));
        let expected =
            [(0, "one"), (7, "two\nlines"), (9, "after")].map(|(ordinal, text)| (ordinal, text.to_owned()));
        assert_eq!(texts(&mut reader), expected, "{name}");
        let counts = [("broken utf-8", 1), ("corrupt json", 3), ("empty", 2), ("too long", 1)];
        assert_eq!(
            reader.take_skipped(),
            counts.map(|(reason, count)| (reason.to_owned(), count)).into(),
            "{name}"
        );
        assert_eq!((reader.entries(), reader.take_skipped()), (10, Counts::new()));
    }
}

#[test]
fn a_text_file_is_one_document() {
    let folder = tempfile::tempdir().unwrap();
    let files = vec![
        write(folder.path(), "a.txt", b"one\n\ntwo\n"),
        write(folder.path(), "b.txt.gz", b"three"),
        write(folder.path(), "c.md", &[b'y'; 201]),
        write(folder.path(), "d.txt", b""),
    ];
    let mut reader = DocumentReader::new(0, tolerant(files));
    assert_eq!(texts(&mut reader), [(0, "one\n\ntwo\n".to_owned()), (1, "three".to_owned())]);
    assert_eq!(reader.take_skipped(), Counts::from([("empty".into(), 1), ("too long".into(), 1)]));
}

#[test]
fn a_file_is_what_its_extensions_say_and_one_that_says_nothing_is_not_read() {
    let lines = |name: &str| Format::of(Path::new(name)).map(|format| format.lines);
    for name in ["a.jsonl", "a.ndjson.gz", "a.b.json.zst"] {
        assert_eq!(lines(name), Ok(true), "{name}");
    }
    for name in ["a.txt", "a.md.zst"] {
        assert_eq!(lines(name), Ok(false), "{name}");
    }
    for (name, unknown) in [
        ("a.csv", "csv"),
        ("a.jsonl.bz2", "bz2"),
        ("a.gz", ""),
        ("a.gz.gz", "gz"),
        ("a", ""),
        (".jsonl", ""),
        ("a.JSONL", "JSONL"),
    ] {
        assert_eq!(lines(name).unwrap_err().extension, unknown, "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.csv", b"text\none\n");
    let said = DocumentReader::new(0, tolerant(vec![file])).next().unwrap().unwrap_err().to_string();
    assert!(said.contains("a.csv: unknown extension `csv`: expected `.jsonl`"), "{said}");
}

#[test]
fn whole_records_are_read_as_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let files = vec![write(folder.path(), "a.jsonl", b"{\"context\": \"c\"}\n[1]\n")];
    let mut reader = DocumentReader::new(0, ReaderOptions { content: Content::Record, ..tolerant(files) });
    assert_eq!(texts(&mut reader), [(0, "{\"context\": \"c\"}".to_owned())]);
    assert_eq!(reader.take_skipped(), Counts::from([("corrupt json".into(), 1)]));
}

#[test]
fn too_large_a_share_of_bad_lines_is_fatal_and_names_the_first_by_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.jsonl", LINES);
    let mut reader =
        DocumentReader::new(0, ReaderOptions { bad_share: 0.1, ..ReaderOptions::new(vec![path]) });
    let error = reader.find_map(Result::err).expect("six of eight lines are bad");
    let message = error.to_string();
    assert!(matches!(error, ReadError::TooManyBad { bad: 6, read: 8, .. }), "{message}");
    assert!(
        message.contains("a.jsonl:2: empty") && message.contains("a.jsonl:3:2: corrupt json (expected"),
        "{message}"
    );
    assert!(reader.next().is_none());
}

#[test]
fn a_missing_or_broken_off_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let missing = DocumentReader::new(0, tolerant(vec![folder.path().join("none.jsonl")])).next().unwrap();
    assert!(missing.unwrap_err().to_string().contains("none.jsonl"));
    let lines: String = (0..20_000).map(|line| format!("{{\"text\": \"line {line}\"}}\n")).collect();
    let path = write(folder.path(), "cut.jsonl.gz", lines.as_bytes());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = DocumentReader::new(0, tolerant(vec![path])).find_map(Result::err).unwrap();
    assert!(error.to_string().contains("cut.jsonl.gz"), "{error}");
}

fn corpus(folder: &Path, documents: usize) -> ReaderOptions {
    let lines: String = (0..documents).map(|line| format!("{{\"text\": \"text {line}\"}}\nbad\n")).collect();
    tolerant(vec![write(folder, "corpus.jsonl", lines.as_bytes())])
}

const ORDER: OrderOptions =
    OrderOptions { seed: 4, window: 10, window_bytes: 1 << 20, converted: 0.5, rounds: 2, epochs: 2 };

#[test]
fn l1_each_epoch_has_every_document_and_every_skip_once_and_chains_are_numbered_densely() {
    let folder = tempfile::tempdir().unwrap();
    let chains: Vec<Chain> =
        Order::new(3, corpus(folder.path(), 34), ORDER, 0).unwrap().map(|chain| chain.unwrap()).collect();
    for epoch in 0..2 {
        let of = || chains.iter().filter(|chain| chain.epoch == epoch);
        let ids: BTreeSet<u64> =
            of().flat_map(|chain| &chain.documents).map(|document| document.id.ordinal).collect();
        assert_eq!(ids, (0..34).map(|line| line * 2).collect());
        assert_eq!(of().map(|chain| chain.documents.len()).sum::<usize>(), 34);
        assert_eq!(of().flat_map(|chain| chain.skipped.values()).sum::<u64>(), 34);
        let converted = of().filter(|chain| chain.treatment == Treatment::Convert);
        assert_eq!(converted.map(|chain| chain.documents.len()).sum::<usize>(), 17);
    }
    assert!((0..).zip(&chains).all(|(number, chain)| chain.id.number == number && chain.id.source == 3));
    let texts = |epoch| -> Vec<&str> {
        let of = chains.iter().filter(move |chain| chain.epoch == epoch);
        of.flat_map(|chain| &chain.documents).map(|document| document.text.as_str()).collect()
    };
    assert_ne!(texts(0), texts(1), "each epoch has its own order");
}

#[test]
fn l5_an_order_resumed_at_any_chain_goes_on_with_the_same_chains() {
    let folder = tempfile::tempdir().unwrap();
    let reading = corpus(folder.path(), 34);
    let order = |first| -> Vec<Chain> {
        Order::new(0, reading.clone(), ORDER, first).unwrap().map(|chain| chain.unwrap()).collect()
    };
    let whole = order(0);
    for first in 0..=whole.len() + 2 {
        assert_eq!(order(first as u64), whole[first.min(whole.len())..], "resumed at {first}");
    }
}

#[test]
fn the_chains_of_the_rounds_are_those_of_the_paper() {
    let options = OrderOptions { converted: 1.0, rounds: 3, ..ORDER };
    let planned = plan_window(&options, 0, 0, 0, 8);
    let sizes: Vec<usize> = planned.iter().map(|chain| chain.documents.len()).collect();
    assert_eq!(sizes, [3, 3, 2], "8 texts in 3 rounds are ceil(8/3) chains");
}

proptest! {
    #[test]
    fn l1_a_window_has_each_document_in_exactly_one_chain(
        seed in any::<u64>(), documents in 0_usize..200, converted in 0.0_f64..1.0, rounds in 1_usize..5
    ) {
        let options = OrderOptions { seed, converted, rounds, ..ORDER };
        let planned = plan_window(&options, 1, 2, 3, documents);
        let mut all: Vec<usize> = planned.iter().flat_map(|chain| chain.documents.clone()).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..documents).collect::<Vec<_>>());
        prop_assert!(planned.iter().all(|chain| (1..=rounds).contains(&chain.documents.len())));
        prop_assert_eq!(planned, plan_window(&options, 1, 2, 3, documents));
    }
}

#[test]
fn l2_a_window_of_long_documents_is_closed_before_it_has_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let chains = |window_bytes| {
        let options = OrderOptions { window: 64, window_bytes, epochs: 1, ..ORDER };
        let order = Order::new(0, corpus(folder.path(), 40), options, 0).unwrap();
        let chains: Vec<Chain> = order.map(Result::unwrap).collect();
        let documents: BTreeSet<_> = chains.iter().flat_map(|chain| &chain.documents).map(|d| d.id).collect();
        assert_eq!(documents.len(), 40);
        chains
    };
    // Texts of six or seven bytes: ten of them are no more than 70.
    let first: Vec<u64> =
        chains(60).iter().take(5).flat_map(|chain| &chain.documents).map(|d| d.id.ordinal / 2).collect();
    assert!(first.iter().all(|&ordinal| ordinal < 10), "{first:?}");
    assert_ne!(chains(60), chains(1 << 20));
    assert_eq!(chains(60), chains(60));
}
