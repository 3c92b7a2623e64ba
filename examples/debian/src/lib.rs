//! The demo's real input: Debian's package descriptions as a corpus, context
//! tasks to tune a small synthesizer with, and the report that judges it.
//!
//! The way through the crate is the way of the data:
//!
//! 1. [`lists`] fetches Debian's package index (`main` only) into a directory of
//!    its own and [`control`] reads its stanzas;
//! 2. [`clean`] makes a readable text of each description:
//!    `name - summary`, a blank line, the body;
//! 3. [`duplicate`] finds the texts that share paragraphs, [`split`] assigns whole
//!    clusters of source packages to disjoint sets;
//! 4. [`tasks`] asks questions of a text, each with the answer the text itself
//!    gives: the pair `(context, question)` determines the answer, so that
//!    questions which a model chose can be judged too;
//! 5. [`choices`] makes the domain's multiple-choice items;
//! 6. [`prepare`] ties it together and writes the files, [`statistics`] counts them; [`rename`] gives tuning texts other
//!    names;
//! 7. [`report`] judges generated pairs against the texts;
//! 8. [`models`] is the recipe of the demo's models, [`demo`] the demo itself. Both run Lyceum's other programs
//!    ([`program`]), which [`installation`] finds in a checkout or a bundle.
//!
//! Every decision is a function of (seed, document, decision): see [`draw`].

pub mod attribution;
pub mod choices;
pub mod clean;
pub mod control;
pub mod demo;
pub mod draw;
pub mod duplicate;
pub mod installation;
pub mod lists;
pub mod models;
pub mod output;
pub mod prepare;
pub mod program;
pub mod rename;
pub mod report;
pub mod split;
pub mod statistics;
pub mod tasks;
#[cfg(test)]
mod testing;
pub mod text;
