//! What the run's own synthesizers gave: judged from its records, so that also a demo without a report fails when its
//! synthesizer is below the gates without which it makes no sense.

use std::fmt::{self, Display, Formatter};

use anyhow::{Result, ensure};
use lyceum_corpus::chain::{ChainRecord, FinalState};
use lyceum_corpus::record::RecordStore;
use lyceum_pretrain::run_directory::RunDirectory;
use lyceum_pretrain::run_file::RunFile;
use lyceum_synth::rounds::NO_PAIR;

use crate::report::Gate;

/// What became of the texts that a synthesizer was asked about. Those that did not fit its positions were not asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Harvest {
    /// Texts that gave a pair.
    pub augmented: u64,
    /// Texts whose output gave none.
    pub barren: u64,
    /// Pairs kept.
    pub pairs: u64,
}

impl Harvest {
    /// The harvest of an ended run.
    ///
    /// # Errors
    /// When the run's folder is in use, or its records cannot be read.
    pub fn of(run: &RunFile, directory: &RunDirectory) -> Result<Self> {
        let lock = directory.claim(run)?;
        let records = RecordStore::open(&directory.records().join("records"), lock.epoch())?;
        let mut harvest = Self::default();
        for chain in records.chains() {
            harvest.add(&records.read(chain)?);
        }
        Ok(harvest)
    }

    fn add(&mut self, record: &ChainRecord) {
        let augmented = record.documents.iter().filter(|(_, state)| *state == FinalState::Augmented);
        self.augmented += augmented.count() as u64;
        self.barren += record.unconverted.get(NO_PAIR).copied().unwrap_or_default();
        self.pairs += record.pairs_kept;
    }

    /// Texts that a synthesizer was asked about.
    pub fn asked(&self) -> u64 {
        self.augmented + self.barren
    }

    /// Share of them that gave a pair.
    pub fn parseable(&self) -> f64 {
        self.augmented as f64 / self.asked().max(1) as f64
    }

    /// Pairs a text that was asked about.
    pub fn pairs_a_text(&self) -> f64 {
        self.pairs as f64 / self.asked().max(1) as f64
    }

    /// Refuses a harvest below the gates.
    ///
    /// # Errors
    /// Then, with what was wanted.
    pub fn require(&self, gate: &Gate) -> Result<()> {
        ensure!(
            self.parseable() >= gate.parseable && self.pairs_a_text() >= gate.pairs_a_text,
            "the run's synthesizers are below the demo's gate ({:.0}% and {} wanted): {self}",
            gate.parseable * 100.0,
            gate.pairs_a_text
        );
        Ok(())
    }
}

impl Display for Harvest {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1}% of {} texts gave a pair, {:.2} pairs a text",
            self.parseable() * 100.0,
            self.asked(),
            self.pairs_a_text()
        )
    }
}

#[cfg(test)]
mod tests {
    use lyceum_corpus::chain::{ChainId, Counts, DocumentId};

    use super::*;
    use crate::testing::write_run;

    fn record(
        source: u16,
        states: &[FinalState],
        pairs_kept: u64,
        unconverted: &[(&str, u64)],
    ) -> ChainRecord {
        let documents =
            (0..).zip(states).map(|(ordinal, state)| (DocumentId { source, ordinal }, state.clone()));
        ChainRecord {
            chain: ChainId { source, number: 0 },
            texts: Vec::new(),
            documents: documents.collect(),
            skipped: Counts::new(),
            pairs_kept,
            pairs_dropped: Counts::from([("incomplete".into(), 9)]),
            unconverted: unconverted.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        }
    }

    #[test]
    fn only_texts_that_were_asked_about_are_judged() {
        use FinalState::{Augmented, Raw};
        let mut harvest = Harvest::default();
        harvest.add(&record(0, &[Raw, Raw], 0, &[]));
        harvest.add(&record(1, &[Augmented, Raw, Raw], 3, &[(NO_PAIR, 1), ("does not fit", 1)]));
        assert_eq!(harvest, Harvest { augmented: 1, barren: 1, pairs: 3 });
        assert_eq!((harvest.asked(), harvest.parseable(), harvest.pairs_a_text()), (2, 0.5, 1.5));
    }

    #[test]
    fn a_demo_below_either_gate_fails_and_says_by_how_much() {
        let gate = Gate::default();
        assert!(Harvest { augmented: 95, barren: 5, pairs: 200 }.require(&gate).is_ok());
        for poor in [
            Harvest { augmented: 94, barren: 6, pairs: 300 },
            Harvest { augmented: 100, barren: 0, pairs: 199 },
            Harvest::default(),
        ] {
            let error = poor.require(&gate).unwrap_err().to_string();
            assert!(error.contains("95% and 2 wanted") && error.ends_with(&poor.to_string()), "{error}");
        }
    }

    #[test]
    fn the_harvest_is_read_from_a_runs_records() {
        let folder = tempfile::tempdir().unwrap();
        let run = write_run(folder.path(), &["a text"], 1);
        let directory = RunDirectory::at(folder.path().join("run"));
        {
            let lock = directory.claim(&run).unwrap();
            let mut records = RecordStore::open(&directory.records().join("records"), lock.epoch()).unwrap();
            records.append(&record(0, &[FinalState::Augmented, FinalState::Augmented], 5, &[])).unwrap();
            records.append(&record(1, &[FinalState::Raw], 0, &[(NO_PAIR, 1)])).unwrap();
            records.sync().unwrap();
        }
        let harvest = Harvest::of(&run, &directory).unwrap();
        assert_eq!(harvest, Harvest { augmented: 2, barren: 1, pairs: 5 });
    }
}
