//! Files that are read: a corpus and a tokenizer from anywhere, and a run's own journals and batches, which may be damaged or
//! another's; given as anything at all.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use lyceum_fuzz::Fuzz;
use rkyv::rancor::Error as Rancor;

use crate::assembly::{Assembly, AssemblyOptions, Next};
use crate::batch::{self, BatchView};
use crate::batch_log::{self, Entry};
use crate::chain::*;
use crate::document::*;
use crate::journal::{self, Durability, Journal, JournalError, JournalOptions};
use crate::pack::{BatchPlan, BatchShape, Packer, Piece};
use crate::record;
use crate::tokenizer::{Tokenizer, TokenizerError, TrainOptions};

fn corpus(body: &str) -> String {
    format!("{}/fuzz/{body}", env!("CARGO_MANIFEST_DIR"))
}

/// Longest entry that the bodies allow, in bytes.
const LONGEST: usize = 2000;

/// What the file of this name holds: documents and counts of what is none, or the error.
fn read(
    folder: &Path,
    name: &str,
    bytes: &[u8],
    content: &Content,
) -> Result<(Vec<Document>, Counts), String> {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    let mut options = ReaderOptions::new(vec![path]);
    options.longest = LONGEST;
    options.bad_share = 1.0;
    options.content = content.clone();
    let mut reader = DocumentReader::new(0, options);
    let mut documents = Vec::new();
    for document in &mut reader {
        let document = document.map_err(|error| error.to_string())?;
        assert!(document.text.len() <= LONGEST && !document.text.trim().is_empty());
        documents.push(document);
    }
    let skipped = reader.take_skipped();
    assert_eq!(reader.entries(), documents.len() as u64 + skipped.values().sum::<u64>(), "L1");
    Ok((documents, skipped))
}

/// The first byte says what kind of file it is, and whether the rest is its content or what it is when it is unpacked.
fn documents(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let folder = tempfile::tempdir().unwrap();
    let content = if kind & 1 == 0 { Content::Field("text".into()) } else { Content::Record };
    let inner = ["jsonl", "ndjson", "json", "txt", "md"][usize::from(kind >> 1) % 5];
    let plain = format!("a.{inner}");
    let (gzip, zstd) = (format!("{plain}.gz"), format!("{plain}.zst"));
    match kind >> 5 {
        0 => drop(read(folder.path(), &gzip, bytes, &content)),
        1 => drop(read(folder.path(), &zstd, bytes, &content)),
        _ => {
            // Packed in whatever way, it is the same.
            let expected = read(folder.path(), &plain, bytes, &content).unwrap();
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(bytes).unwrap();
            let packed = packed.finish().unwrap();
            assert_eq!(read(folder.path(), &gzip, &packed, &content).unwrap(), expected);
            let packed = zstd::encode_all(bytes, 1).unwrap();
            assert_eq!(read(folder.path(), &zstd, &packed, &content).unwrap(), expected);
        }
    }
}

#[test]
fn documents_are_read_or_counted_by_reason() {
    let lines = br#"{"text": "a text", "other": [1, {"deep": [null, true, -1.5e3]}]}
{"text": "", "text": "twice"}

{"nothing": "here"}
"a string"
{"text": "\ud83d\ude00 \u00e9", "id": 18446744073709551615}"#;
    let text = "A whole text.\nOf two lines, with an \u{e9}.\n".as_bytes();
    let gzip = |bytes: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    };
    // What unpacks to a hundred times its size is longer than an entry may be.
    let bomb = vec![b'x'; 200_000];
    let seed = |kind: u8, bytes: &[u8]| [&[kind][..], bytes].concat();
    let seeds = [
        seed(0b0100_0000, lines),
        seed(0b0100_0001, lines),
        seed(0b0100_0110, text),
        seed(0b0000_0000, &gzip(lines)),
        seed(0b0010_0000, &zstd::encode_all(&lines[..], 3).unwrap()),
        seed(0b0000_0110, &gzip(&bomb)),
        seed(0b0010_0000, &zstd::encode_all(&bomb[..], 3).unwrap()),
    ];
    let words =
        ["{\"text\": \"", "\"text\"", "[[[[", "{\"a\":", "\\u0000", "\\ud800", "\u{feff}", "\n", "\r\n"];
    Fuzz::new("corpus documents")
        .seeds(seeds)
        .words(words)
        .runs(4000)
        .longest(8 << 10)
        .memory(4 << 20)
        .run(documents);
}

const KIND: u32 = u32::from_le_bytes(*b"FUZZ");
const OPTIONS: JournalOptions =
    JournalOptions { kind: KIND, durability: Durability::OnSync, file_bytes: 4096 };

/// A journal's first file.
fn journal(data: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("00000000.log"), data).unwrap();
    let payloads = |epoch| {
        let mut payloads = Vec::new();
        let journal = Journal::open(folder.path(), epoch, OPTIONS, |location, payload| {
            payloads.push((location, payload.to_vec()));
            Ok::<_, JournalError>(())
        })?;
        Ok::<_, JournalError>((journal, payloads))
    };
    let Ok((mut journal, mut before)) = payloads(1) else { return };
    for (location, payload) in &before {
        assert_eq!(journal.read(*location).unwrap(), *payload);
    }
    // What could be opened can be written on, and is whole then.
    let added = b"one more".to_vec();
    before.push((journal.append(&added).unwrap(), added));
    journal.sync().unwrap();
    let (journal, after) = payloads(2).unwrap();
    assert_eq!((after, journal.cut()), (before, 0));
}

#[test]
fn journals_are_read_cut_or_refused() {
    let payloads: [&[u8]; 5] = [b"first", &[7; 40], b"", &[8; 16], b"the last of them"];
    let file = |marks: bool| journal::file_of(KIND, payloads.iter().copied(), marks);
    let repair: fn(&mut Vec<u8>) = |bytes| journal::repair(bytes, KIND);
    let fuzz = Fuzz::new("corpus journal").seeds([file(true), file(false)]).repair(repair);
    fuzz.runs(600).longest(4096).memory(4 << 20).run(journal);
}

/// A run's folder: of each item a byte that says whether it is a recorded chain or an entry of the batch log, two of its
/// length, its archive.
fn run(data: &[u8]) {
    let (mut records, mut entries) = (Vec::new(), Vec::new());
    let mut rest = data;
    while let [kind, low, high, tail @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        let (item, after) = tail.split_at(length);
        rest = after;
        if kind % 2 == 0 { &mut records } else { &mut entries }.push(item);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |part: &str, kind: u32, payloads: &[&[u8]]| {
        let folder = folder.path().join(part);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("00000000.log"), journal::file_of(kind, payloads.iter().copied(), true))
            .unwrap();
    };
    file("records", record::OPTIONS.kind, &records);
    file("batches", batch_log::OPTIONS.kind, &entries);
    let Ok(mut assembly) = Assembly::open(folder.path(), 1, options()) else { return };
    let mut plans = Vec::new();
    for position in 0..assembly.log().len() {
        plans.extend(assembly.replay(position));
    }
    for _ in 0..4 {
        match assembly.next_batch() {
            Ok(Next::Batch(_, plan)) => plans.push(plan),
            Ok(Next::Waits(chain)) => assembly.end_source(chain.source, chain.number),
            Ok(Next::Ended) | Err(_) => break,
        }
    }
    let _ = (assembly.accounts().read(), assembly.waiting_bytes());
    // A batch may have a gigabyte, whoever asks for it.
    plans.iter().filter(|plan| plan.shape().tokens() < 4096).for_each(|plan| drop(written(plan)));
}

fn options() -> AssemblyOptions {
    AssemblyOptions {
        shape: BatchShape::new(2, 16, 0).unwrap(),
        weights: vec![3, 1],
        window_chains: 8,
        window_bytes: 1 << 16,
    }
}

fn chain_record(source: u16, number: u64) -> ChainRecord {
    let text = |tokens: u32, loss| Text { tokens: (0..tokens).collect(), loss };
    ChainRecord {
        chain: ChainId { source, number },
        texts: vec![
            text(9, Loss::All),
            text(14, Loss::Spans(vec![Span { start: 2, end: 4 }, Span { start: 6, end: 14 }])),
        ],
        documents: vec![
            (DocumentId { source, ordinal: 4 }, FinalState::Raw),
            (DocumentId { source, ordinal: 5 }, FinalState::Skipped("too long for it".into())),
            (DocumentId { source, ordinal: 6 }, FinalState::Augmented),
        ],
        skipped: Counts::from([("corrupt json".into(), 2)]),
        pairs_kept: 3,
        pairs_dropped: Counts::from([("too short".into(), 1)]),
        unconverted: Counts::new(),
    }
}

#[test]
fn whatever_a_runs_folder_holds_it_is_resumed_or_refused() {
    // A run that was interrupted: six chains recorded, of which the first batches were made.
    let folder = tempfile::tempdir().unwrap();
    let chains: Vec<ChainRecord> =
        (0..3).flat_map(|number| [chain_record(0, number), chain_record(1, number)]).collect();
    let mut assembly = Assembly::open(folder.path(), 1, options()).unwrap();
    chains.iter().for_each(|chain| assembly.record(chain.clone()).unwrap());
    let mut entries = Vec::new();
    while let Next::Batch(position, _) = assembly.next_batch().unwrap() {
        entries.push(assembly.log().read(position).unwrap());
    }
    assert!(entries.len() >= 2, "{} batches", entries.len());
    let item =
        |kind: u8, payload: &[u8]| [&[kind][..], &(payload.len() as u16).to_le_bytes(), payload].concat();
    let archive = |chain: &ChainRecord| rkyv::to_bytes::<Rancor>(chain).unwrap();
    let records: Vec<Vec<u8>> = chains.iter().map(|chain| item(0, &archive(chain))).collect();
    let log: Vec<Vec<u8>> =
        entries.iter().map(|entry| item(1, &rkyv::to_bytes::<Rancor>(entry).unwrap())).collect();
    let seeds = [
        [records.concat(), log.concat()].concat(),
        [records.concat(), log[0].clone()].concat(),
        [records[..1].concat(), log[..1].concat()].concat(),
        records.concat(),
    ];
    Fuzz::new("corpus run").seeds(seeds).corpus(corpus("run")).runs(1000).memory(8 << 20).run(run);
}

/// One archive of each kind that a journal of a run holds, with what is derived of it.
fn recorded(data: &[u8]) {
    if let Ok(chain) = record::decode(data) {
        let again = record::decode(&rkyv::to_bytes::<Rancor>(&chain).unwrap()).unwrap();
        assert_eq!(again, chain);
        let (mut sum, more) = (chain.accounts(), chain.accounts());
        sum.add(&more);
        let _ = (sum.read(), chain.tokens(), chain.memory());
        for text in chain.texts.iter().take(100) {
            let _ = (0..40).filter(|index| text.loss.covers(*index)).count();
        }
        let mut packer = Packer::new(BatchShape::new(2, 16, 0).unwrap());
        for (text, index) in chain.texts.into_iter().take(100).zip(0..) {
            packer.push(TextId { chain: chain.chain, index }, Arc::new(text));
        }
        while let Some(plan) = packer.next_batch() {
            drop(written(&plan));
        }
    }
    if let Ok(entry) = batch_log::decode(data) {
        let again = batch_log::decode(&rkyv::to_bytes::<Rancor>(&entry).unwrap()).unwrap();
        assert_eq!(again, entry);
        let text = Arc::new(chain_record(0, 0).texts[1].clone());
        if let Ok(plan) =
            BatchPlan::replay(entry.shape, &entry.rows, |_| Ok::<_, crate::pack::LayoutError>(text.clone()))
            && plan.shape().tokens() < 4096
        {
            drop(written(&plan));
        }
    }
}

#[test]
fn recorded_chains_and_logged_batches_are_read_or_refused() {
    let piece = |chain: u64, start, length| Piece {
        text: TextId { chain: ChainId { source: 0, number: chain }, index: 1 },
        start,
        length,
    };
    let entry = Entry {
        position: 0,
        shape: BatchShape::new(2, 16, 0).unwrap(),
        drawn: vec![(ChainId { source: 0, number: 0 }, 23), (ChainId { source: 1, number: 0 }, 23)],
        ended: vec![1],
        rows: vec![vec![piece(0, 0, 14), piece(1, 3, 2)], vec![piece(1, 5, 9)]],
        accounts: chain_record(0, 0).accounts(),
        tokens: 25,
        last: true,
    };
    let seeds = [
        rkyv::to_bytes::<Rancor>(&chain_record(0, 7)).unwrap().to_vec(),
        rkyv::to_bytes::<Rancor>(&entry).unwrap().to_vec(),
    ];
    Fuzz::new("corpus recorded")
        .seeds(seeds)
        .corpus(corpus("recorded"))
        .runs(60_000)
        .memory(1 << 20)
        .run(recorded);
}

/// The batch of `plan`, read from what is written of it.
fn written(plan: &BatchPlan) -> Vec<u8> {
    let length = batch::encoded_len(plan).unwrap();
    let mut memory = vec![0; length + batch::ALIGNMENT];
    let from = memory.as_ptr().align_offset(batch::ALIGNMENT);
    let place = &mut memory[from..from + length];
    batch::write(plan, 3, place).unwrap();
    let view = BatchView::open(place).unwrap();
    for (index, row) in plan.rows().iter().enumerate() {
        assert_eq!(view.row(index).inputs, row.inputs().collect::<Vec<_>>());
        assert_eq!(view.row(index).labels, row.labels().collect::<Vec<_>>());
        assert_eq!(view.row(index).borders, row.borders());
    }
    place.to_vec()
}

fn packed(data: &[u8]) {
    let mut memory = vec![0; data.len() + batch::ALIGNMENT];
    let from = memory.as_ptr().align_offset(batch::ALIGNMENT);
    let place = &mut memory[from..from + data.len()];
    place.copy_from_slice(data);
    let Ok(view) = BatchView::open(place) else { return };
    let within = place.as_ptr_range();
    for index in 0..view.rows() {
        let row = view.row(index);
        assert_eq!((row.inputs.len(), row.labels.len()), (view.sequence_length(), view.sequence_length()));
        assert!(row.borders.iter().all(|border| (*border as usize) < view.sequence_length()));
        for tokens in [row.inputs, row.labels] {
            let lies = tokens.as_ptr_range();
            assert!(within.start <= lies.start.cast() && lies.end.cast() <= within.end);
        }
    }
    let _ = (view.log_position(), view.target_tokens(), view.tokens());
}

#[test]
fn packed_batches_are_read_in_place_or_refused() {
    let mut packer = Packer::new(BatchShape::new(2, 16, 0).unwrap());
    for (text, index) in chain_record(0, 0).texts.into_iter().zip(0..) {
        packer.push(TextId { chain: ChainId { source: 0, number: 0 }, index }, Arc::new(text));
    }
    let batch = written(&packer.last_batch().unwrap());
    Fuzz::new("corpus batch").seeds([batch]).runs(90_000).memory(64 << 10).run(packed);
}

fn tokenizer(data: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_bytes(data) else { return };
    let _ = (tokenizer.vocabulary(), tokenizer.highest_id(), tokenizer.bos(), tokenizer.eos());
    for text in ["", "the light of a text </s> <ANS> é", "\u{10ffff}\0 ab"] {
        if let Ok(ids) = tokenizer.encode_text(text) {
            let _ = tokenizer.decode(&ids);
        }
    }
    let _ = tokenizer.decode(&[0, 1, 70_000, u32::MAX]);
}

fn small_tokenizer() -> Result<Vec<u8>, TokenizerError> {
    let texts = ["the light of the text", "the lights of texts"].into_iter().cycle().take(20);
    let trained = Tokenizer::train(texts, TrainOptions { vocabulary: 290, ..TrainOptions::default() })?;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    trained.save(&path)?;
    Ok(fs::read(path).unwrap())
}

#[test]
fn tokenizers_are_read_or_refused() {
    let seed = small_tokenizer().unwrap();
    let words = [
        "\"type\": \"BPE\"",
        "\"WordPiece\"",
        "\"Unigram\"",
        "\"WordLevel\"",
        "\"Sequence\"",
        "\"merges\": [",
        "null",
        "\"dropout\": 1.0",
        "\"unk_token\": \"<unk>\"",
        "\"fuse_unk\": true",
        "\"byte_fallback\": true",
        "\"id\": 4294967295",
        "\"truncation\": {",
        "\"padding\": {",
        "\"special\": true",
        "\"normalizer\": {\"type\": \"NFC\"}",
        "\"Regex\": \"(\"",
    ];
    Fuzz::new("corpus tokenizer")
        .seeds([seed])
        .corpus(corpus("tokenizer"))
        .words(words)
        .runs(1500)
        .longest(64 << 10)
        .memory(64 << 20)
        .run(tokenizer);
}
