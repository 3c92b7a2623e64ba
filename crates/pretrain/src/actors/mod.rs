//! The torch-free actors of a run.

mod controller;
mod corpus_reader;
mod packer;

use anyhow::Context as _;
use lyceum_actor::Registry;

use crate::gang::TORCH_PROGRAM;
use crate::roles::Settings;
use crate::run_file::RunFile;

/// The torch-free actors, for the processes that may host them.
pub fn registry() -> Registry {
    Registry::new()
        .register::<controller::ControllerActor>()
        .register::<corpus_reader::CorpusReaderActor>()
        .register::<packer::PackerActor>()
}

impl Settings {
    /// The settings of an attempt at `run`, with the worker that lies beside the agents' program.
    pub fn new(run: &RunFile, directory: &std::path::Path, epoch: u64) -> anyhow::Result<Self> {
        let directory = directory.to_str().with_context(|| format!("{}: not UTF-8", directory.display()))?;
        let (run, worker) = (serde_json::to_string(run)?, TORCH_PROGRAM.to_owned());
        Ok(Self { run, directory: directory.to_owned(), epoch, worker })
    }

    /// The run file.
    pub fn run_file(&self) -> anyhow::Result<RunFile> {
        serde_json::from_str(&self.run).context("the run file that came with the actor's arguments")
    }
}
