//! The test bed of the end-to-end tests: they run the programs that a person runs, on files like those that a person
//! writes, and look at what a person finds.
//!
//! - [`Bed`]: a folder with a generated corpus, a tiny model, a cluster manifest and run files. When it is dropped,
//!   nothing that was started in it may run any more.
//! - [`RunText`]: what a run file says, with defaults for what a test does not care about.
//! - [`Running`] and [`Ended`]: a `lyceum run` under way, and what it came to. [`Standing`]: a cluster of `lyceum up`.
//! - [`Output`]: what a run left in its folder: losses, summary, batch log, records, checkpoints.
//!
//! Clusters are slow to start and share the machine's cores: at most [`CLUSTERS`] run at a time in one test program.
//! `LYCEUM_TEST_PROGRAMS` names a folder with `lyceum` and `lyceum-worker` to test instead of those of this workspace.
// A test bed fails by panicking: that is how a test learns of it.
#![allow(clippy::unwrap_used)]

mod bed;
mod output;
mod processes;
mod programs;
mod running;
mod settings;
mod standing;
mod texts;
mod verdict;

pub use bed::Bed;
pub use output::Output;
pub use processes::Process;
pub use running::{CLUSTERS, Ended, HANGING, Running};
pub use settings::{RunText, SEED, manifest};
pub use standing::Standing;
pub use texts::{Dice, document, documents};
pub use verdict::first_told;
