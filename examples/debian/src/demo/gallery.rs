//! What the synthesizers made of the texts: augmented texts beside the raw ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

use anyhow::{Context, Result, ensure};
use lyceum_corpus::chain::{ChainRecord, DocumentId, FinalState};
use lyceum_corpus::document::{DocumentReader, ReaderOptions};
use lyceum_corpus::record::RecordStore;
use lyceum_corpus::tokenizer::Tokenizer;
use lyceum_pretrain::run_directory::RunDirectory;
use lyceum_pretrain::run_file::RunFile;

/// Width of each of the two columns, in characters.
const COLUMN: usize = 56;

/// An augmented text and the documents in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exhibit {
    /// The documents as they were, in their order.
    pub raw: Vec<String>,
    /// The text that was trained on.
    pub augmented: String,
}

/// The first `most` augmented texts of an ended run, in the order that its seed decided.
///
/// # Errors
/// When the run's folder is in use, or its records or sources cannot be read.
pub fn first(run: &RunFile, directory: &RunDirectory, most: usize) -> Result<Vec<Exhibit>> {
    // Opening records takes them over for a new attempt: nobody else may write meanwhile.
    let lock = directory.claim(run)?;
    let records = RecordStore::open(&directory.records().join("records"), lock.epoch())?;
    let mut chosen = Vec::new();
    let mut texts = 0;
    for chain in records.chains() {
        if texts >= most {
            break;
        }
        let record = records.read(chain)?;
        texts += augmented_texts(&record);
        if augmented_texts(&record) > 0 {
            chosen.push(record);
        }
    }
    let wanted = chosen.iter().flat_map(augmented_documents).collect();
    let raw = read_documents(run, wanted)?;
    let tokenizer = Tokenizer::load(run.model.directory.join("tokenizer.json"))?;
    let mut exhibits = Vec::new();
    for record in &chosen {
        exhibits.extend(exhibits_of(record, &raw, &tokenizer)?);
    }
    exhibits.truncate(most);
    Ok(exhibits)
}

/// Raw documents have a text of their own; all others are augmented, each of one document or more.
fn augmented_texts(record: &ChainRecord) -> usize {
    let raw = record.documents.iter().filter(|(_, state)| *state == FinalState::Raw).count();
    record.texts.len().saturating_sub(raw)
}

fn augmented_documents(record: &ChainRecord) -> impl Iterator<Item = DocumentId> {
    record.documents.iter().filter(|(_, state)| *state == FinalState::Augmented).map(|(id, _)| *id)
}

/// Reads the wanted documents from the run's sources.
fn read_documents(run: &RunFile, mut wanted: BTreeSet<DocumentId>) -> Result<BTreeMap<DocumentId, String>> {
    let mut found = BTreeMap::new();
    for (index, source) in (0..=u16::MAX).zip(&run.sources) {
        let options =
            ReaderOptions { bad_share: source.max_bad_share, ..ReaderOptions::new(source.paths.clone()) };
        let mut reader = DocumentReader::new(index, options);
        while wanted.iter().any(|id| id.source == index) {
            let Some(document) = reader.next() else { break };
            let document = document.with_context(|| format!("source '{}'", source.name))?;
            if wanted.remove(&document.id) {
                found.insert(document.id, document.text);
            }
        }
    }
    ensure!(wanted.is_empty(), "{} recorded documents are no longer in the sources", wanted.len());
    Ok(found)
}

/// The augmented texts of a chain, each with those of its documents that stand in it.
fn exhibits_of(
    record: &ChainRecord,
    raw: &BTreeMap<DocumentId, String>,
    tokenizer: &Tokenizer,
) -> Result<Vec<Exhibit>> {
    let documents: Vec<&String> = augmented_documents(record).filter_map(|id| raw.get(&id)).collect();
    let mut exhibits = Vec::new();
    for text in &record.texts {
        let tokens: Vec<u32> = text
            .tokens
            .iter()
            .copied()
            .filter(|&token| token != tokenizer.bos() && token != tokenizer.eos())
            .collect();
        let augmented = tokenizer.decode(&tokens)?;
        let inside =
            |document: &&&String| augmented.contains(tokenizer.neutralise(document.trim_end()).as_ref());
        let raw: Vec<String> = documents.iter().filter(inside).map(|document| document.to_string()).collect();
        if !raw.is_empty() {
            exhibits.push(Exhibit { raw, augmented });
        }
    }
    Ok(exhibits)
}

impl Display for Exhibit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let left = wrap(&self.raw.join("\n\n"), COLUMN);
        let right = wrap(&self.augmented, COLUMN);
        let rule = "-".repeat(COLUMN);
        writeln!(f, "{:<COLUMN$} | augmented", "raw")?;
        writeln!(f, "{rule}-+-{rule}")?;
        for line in 0..left.len().max(right.len()) {
            let of = |column: &[String]| column.get(line).cloned().unwrap_or_default();
            writeln!(f, "{}", format!("{:<COLUMN$} | {}", of(&left), of(&right)).trim_end())?;
        }
        Ok(())
    }
}

/// Breaks lines between words so that none has more than `width` characters; a longer word is cut.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.trim_end().split('\n') {
        let mut here = String::new();
        let mut taken = 0;
        for word in line.split_whitespace() {
            let letters: Vec<char> = word.chars().collect();
            for piece in letters.chunks(width) {
                if taken > 0 && taken + 1 + piece.len() > width {
                    lines.push(std::mem::take(&mut here));
                    taken = 0;
                }
                if taken > 0 {
                    here.push(' ');
                    taken += 1;
                }
                here.extend(piece);
                taken += piece.len();
            }
        }
        lines.push(here);
    }
    lines
}

#[cfg(test)]
mod tests {
    use lyceum_corpus::chain::{ChainId, Counts, Loss, Text};

    use super::*;
    use crate::testing::write_run;

    const RAW: [&str; 4] = ["one - a raw text\n", "two - asked about", "three - asked too", "four - alone"];

    fn id(ordinal: u64) -> DocumentId {
        DocumentId { source: 0, ordinal }
    }

    fn record(
        tokenizer: &Tokenizer,
        number: u64,
        documents: &[(u64, FinalState)],
        texts: &[&str],
    ) -> ChainRecord {
        let text = |text: &&str| Text {
            tokens: tokenizer.with_bos_eos(tokenizer.encode_text(text).unwrap()),
            loss: Loss::All,
        };
        ChainRecord {
            chain: ChainId { source: 0, number },
            texts: texts.iter().map(text).collect(),
            documents: documents.iter().map(|(ordinal, state)| (id(*ordinal), state.clone())).collect(),
            skipped: Counts::new(),
            pairs_kept: 0,
            pairs_dropped: Counts::new(),
            unconverted: Counts::new(),
        }
    }

    #[test]
    fn augmented_texts_are_shown_in_chain_order_with_their_documents() {
        let folder = tempfile::tempdir().unwrap();
        let run = write_run(folder.path(), &RAW, 1);
        let tokenizer = Tokenizer::load(folder.path().join("tokenizer.json")).unwrap();
        let directory = RunDirectory::at(folder.path().join("run"));
        {
            let lock = directory.claim(&run).unwrap();
            let mut records = RecordStore::open(&directory.records().join("records"), lock.epoch()).unwrap();
            let both = format!("{}\n\nWhat? This.\n\n{}\n\nWho? She.", RAW[1], RAW[2]);
            let alone = format!("Who? He.\n\n{}", RAW[3]);
            // Answered out of order, as synthesizers do.
            records.append(&record(&tokenizer, 1, &[(3, FinalState::Augmented)], &[&alone])).unwrap();
            let states = [(0, FinalState::Raw), (1, FinalState::Augmented), (2, FinalState::Augmented)];
            records.append(&record(&tokenizer, 0, &states, &[RAW[0], &both])).unwrap();
            records.sync().unwrap();
        }
        let exhibits = first(&run, &directory, 3).unwrap();
        assert_eq!(exhibits.len(), 2);
        assert_eq!(exhibits[0].raw, [RAW[1], RAW[2]]);
        assert!(exhibits[0].augmented.starts_with("two - asked about\n\nWhat? This."));
        assert_eq!(exhibits[1].raw, [RAW[3]]);
        assert_eq!(first(&run, &directory, 1).unwrap(), exhibits[..1], "and again");
    }

    #[test]
    fn columns_stand_beside_each_other_and_nothing_is_lost() {
        let exhibit = Exhibit { raw: vec!["a ".repeat(60), "x".repeat(70)], augmented: "é\n\nWhat?".into() };
        let shown = exhibit.to_string();
        assert!(shown.lines().all(|line| line.chars().count() <= 2 * COLUMN + 3), "{shown}");
        assert_eq!(shown.matches('a').count(), 60 + 3, "the heading has three");
        assert_eq!(shown.matches('x').count(), 70);
        assert!(shown.lines().nth(4).is_some_and(|line| line.ends_with("| What?")), "{shown}");
        assert_eq!(wrap("", 5), [""]);
    }
}
