//! How much there is of everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

use lyceum_synth::pair::Kind;

use crate::output::Document;
use crate::tasks::{Category, Example, KINDS};

/// The counts of one set of documents.
#[derive(Debug, Default)]
pub struct DocumentCount {
    documents: usize,
    bytes: usize,
    sources: BTreeSet<String>,
    sections: BTreeMap<String, usize>,
}

impl DocumentCount {
    /// Counts a set.
    pub fn of(documents: &[Document]) -> Self {
        let mut count = Self::default();
        for document in documents {
            count.documents += 1;
            count.bytes += document.text.len();
            count.sources.insert(document.source.clone());
            *count.sections.entry(document.section.clone()).or_default() += document.text.len();
        }
        count
    }
}

impl Display for DocumentCount {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mean = self.bytes / self.documents.max(1);
        write!(f, "{} documents, {} bytes ({mean} a document), ", self.documents, self.bytes)?;
        writeln!(f, "{} source packages", self.sources.len())?;
        let mut sections: Vec<_> = self.sections.iter().collect();
        sections.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
        let largest =
            sections.iter().take(8).map(|(section, bytes)| format!("{section} {} KB", **bytes / 1000));
        writeln!(f, "  largest sections: {}", largest.collect::<Vec<_>>().join(", "))
    }
}

/// The counts of one set of examples.
#[derive(Debug, Default)]
pub struct ExampleCount {
    examples: usize,
    context_bytes: usize,
    pair_bytes: usize,
    sources: BTreeSet<String>,
    pairs: BTreeMap<Category, BTreeMap<Kind, usize>>,
}

impl ExampleCount {
    /// Counts a set.
    pub fn of(examples: &[Example]) -> Self {
        let mut count = Self::default();
        for example in examples {
            count.examples += 1;
            count.context_bytes += example.context.len();
            count.sources.insert(example.source.clone());
            for task in &example.tasks {
                let written = task.pair.written();
                count.pair_bytes += written.question.len() + written.answer.len();
                *count.pairs.entry(task.category).or_default().entry(task.pair.kind()).or_default() += 1;
            }
        }
        count
    }

    /// All pairs.
    pub fn pairs(&self) -> usize {
        self.pairs.values().flat_map(BTreeMap::values).sum()
    }
}

impl Display for ExampleCount {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let pairs = self.pairs();
        writeln!(
            f,
            "{} examples of {} source packages, {} bytes of context and {} of pairs",
            self.examples,
            self.sources.len(),
            self.context_bytes,
            self.pair_bytes
        )?;
        writeln!(f, "  {pairs} pairs, {:.2} an example", pairs as f64 / self.examples.max(1) as f64)?;
        write!(f, "  {:<14}", "category")?;
        KINDS.iter().try_for_each(|(_, name)| write!(f, "{name:>10}"))?;
        writeln!(f)?;
        let mut totals = [0; KINDS.len()];
        for (category, kinds) in &self.pairs {
            write!(f, "  {:<14}", category.name())?;
            for (total, (kind, _)) in totals.iter_mut().zip(KINDS) {
                let count = kinds.get(&kind).copied().unwrap_or_default();
                *total += count;
                write!(f, "{count:>10}")?;
            }
            writeln!(f)?;
        }
        write!(f, "  {:<14}", "all")?;
        totals.iter().try_for_each(|total| write!(f, "{total:>10}"))?;
        writeln!(f)
    }
}
