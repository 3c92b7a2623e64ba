//! What a run leaves in its folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lyceum_corpus::batch_log::{BatchLog, Entry};
use lyceum_corpus::chain::{Accounts, ChainRecord, DocumentId, FinalState};
use lyceum_corpus::record::RecordStore;
use lyceum_pretrain::metrics::StepMetrics;
use lyceum_pretrain::summary::Summary;

/// A run's folder, looked at from outside.
#[derive(Debug, Clone)]
pub struct Output {
    root: PathBuf,
}

impl Output {
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The loss of each step, from the first on. A last line that is being written does not count.
    pub fn losses(&self) -> Vec<f64> {
        let text = fs::read_to_string(self.root.join("metrics.jsonl")).unwrap_or_default();
        let metrics = text.split_inclusive('\n').map_while(|line| serde_json::from_str(line).ok());
        let metrics: Vec<StepMetrics> = metrics.collect();
        for (before, metric) in metrics.iter().enumerate() {
            assert_eq!(metric.step, before as u64 + 1, "the steps' lines are in order");
        }
        metrics.iter().map(|metric| metric.loss).collect()
    }

    /// `summary.json`.
    pub fn summary(&self) -> Summary {
        let text = fs::read_to_string(self.root.join("summary.json")).expect("there is a summary.json");
        serde_json::from_str(&text).unwrap()
    }

    /// The entries of the batch log. Only of a run that has ended: the log has one writer.
    pub fn batches(&self) -> Vec<Entry> {
        let log = BatchLog::open(&self.root.join("records/batches"), self.epoch()).unwrap();
        (0..log.len()).map(|position| log.read(position).unwrap()).collect()
    }

    /// Bytes of the recorded chains, also of a run that goes on.
    pub fn recorded_bytes(&self) -> u64 {
        let files = fs::read_dir(self.root.join("records/records")).into_iter().flatten().flatten();
        files.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    /// What was made of each document whose chain was drawn, each chain's record held against the log (L1).
    pub fn documents(&self) -> (BTreeMap<DocumentId, FinalState>, Accounts) {
        let records = RecordStore::open(&self.root.join("records/records"), self.epoch()).unwrap();
        let mut states = BTreeMap::new();
        let mut sum = Accounts::default();
        for entry in self.batches() {
            let mut of_entry = Accounts::default();
            for (chain, tokens) in entry.drawn {
                let record: ChainRecord = records.read(chain).unwrap();
                assert_eq!(record.tokens(), tokens, "chain {chain} has the tokens that the log drew");
                of_entry.add(&record.accounts());
                for (document, state) in record.documents {
                    let before = states.insert(document, state);
                    assert_eq!(before, None, "L1: document {document} of chain {chain} was there before");
                }
            }
            assert_eq!(of_entry, entry.accounts, "L1: the accounts of batch {}", entry.position);
            sum.add(&of_entry);
        }
        (states, sum)
    }

    /// The folders of checkpoints, oldest first.
    pub fn checkpoints(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.root.join("checkpoints")) else { return Vec::new() };
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("step-"))
            .collect();
        found.sort();
        found
    }

    /// The newest checkpoint is whole: its manifest can be read, and every file is there, of the length that it says.
    /// Returns the folder and the step.
    pub fn whole_checkpoint(&self) -> (PathBuf, u64) {
        let folder = self.checkpoints().pop().expect("there is a checkpoint");
        let manifest = fs::read_to_string(folder.join("manifest")).expect("a checkpoint has a manifest");
        let (_, json) = manifest.split_once('\n').expect("a header line, then JSON");
        let manifest: serde_json::Value = serde_json::from_str(json).unwrap();
        let files = manifest["files"].as_array().expect("the manifest lists files");
        assert!(files.len() >= 4, "{files:?}");
        for file in files {
            let path = folder.join(file["path"].as_str().unwrap());
            let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(Some(bytes.len() as u64), file["bytes"].as_u64(), "{}", path.display());
        }
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        (folder, name["step-".len()..].parse().unwrap())
    }

    fn epoch(&self) -> u64 {
        fs::read_to_string(self.root.join("attempt")).unwrap().trim().parse().unwrap()
    }
}
