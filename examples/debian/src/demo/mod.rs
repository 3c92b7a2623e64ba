//! The demo: continual pre-training on a domain, half of it augmented, and what it taught.
//!
//! [`attempt`] takes one run file to its end, [`gallery`] shows what the synthesizers made of the texts,
//! [`harvest`] how much that was, [`comparison`] what the model learnt. [`probe`] judges the synthesizer before.
//! [`hardware`] fits it all to the machine.

pub mod attempt;
pub mod comparison;
pub mod gallery;
pub mod hardware;
pub mod harvest;
pub mod probe;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lyceum_pretrain::run_file::RunFile;

use crate::installation::Installation;
use crate::output;
use crate::report::Gate;
use attempt::Attempt;
use comparison::Comparison;
use hardware::Hardware;
use harvest::Harvest;

/// Augmented texts that are shown.
const SHOWN: usize = 3;
/// Files without which a model cannot be used.
const MODEL_FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

/// What the demo does.
#[derive(Debug, Clone)]
pub struct Demo {
    /// The folder that gets runs and report.
    pub out: PathBuf,
    /// Judge the synthesizer first, on texts that it never saw.
    pub report: bool,
    /// Train on as many raw tokens too.
    pub compare: bool,
    /// Another seed than the run files'.
    pub seed: Option<u64>,
    /// What it computes on.
    pub hardware: Hardware,
}

impl Demo {
    /// Does it, in this terminal.
    ///
    /// # Errors
    /// When models are missing, a synthesizer is below the gates of parseable outputs and pairs a text, or a run fails.
    pub fn run(&self, installation: &Installation) -> Result<()> {
        let example = installation.example();
        require_models(&example.join("models"))?;
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot create {}", self.out.display()))?;
        let augmented = self.attempt(installation, "run.toml", "run")?;
        if self.report {
            probe::run(installation, &augmented.run, &self.out.join("report"))?;
        }
        let summary = augmented.finish(installation)?;
        for shown in gallery::first(&augmented.run, &augmented.directory, SHOWN)? {
            println!("\n{shown}");
        }
        let harvest = Harvest::of(&augmented.run, &augmented.directory)?;
        println!("\n{}: {harvest}", augmented.run.name);
        harvest.require(&Gate::default())?;
        let mut comparison = Comparison::default();
        comparison.add("augmented", summary);
        if self.compare {
            let vanilla = self.attempt(installation, "vanilla.toml", "vanilla")?;
            comparison.add("vanilla", vanilla.finish(installation)?);
        }
        println!("\n{comparison}");
        Ok(())
    }

    /// The run of a file of the example: as it is, or, with another seed or other hardware, as this demo writes it.
    fn attempt(&self, installation: &Installation, file: &str, name: &str) -> Result<Attempt> {
        let file = installation.example().join(file);
        let mut run = RunFile::load(&file)?;
        let original = run.clone();
        self.hardware.fit(&mut run);
        run.seed = self.seed.unwrap_or(run.seed);
        let cluster = installation.cluster(self.hardware.manifest());
        if run == original {
            return Attempt::new(&file, &cluster, &self.out.join(name));
        }
        let fitted = self.out.join(format!("{name}.toml"));
        write_run_file(&run, &fitted)?;
        Attempt::new(&fitted, &cluster, &self.out.join(name))
    }
}

/// Refuses to begin without both models.
fn require_models(models: &Path) -> Result<()> {
    for model in ["base", "synthesizer"] {
        for file in MODEL_FILES {
            let path = models.join(model).join(file);
            ensure!(
                path.is_file(),
                "{} is missing: `lyceum-debian models` (in a checkout: `cargo xtask models`) makes the demo's models, \
                 in up to two hours on 2 cores",
                path.display()
            );
        }
    }
    Ok(())
}

/// Writes a run, its paths made absolute, as the run file `path`.
fn write_run_file(run: &RunFile, path: &Path) -> Result<()> {
    let text = toml::to_string(run).context("a run file is a table")?;
    output::write_bytes(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write_run;

    #[test]
    fn missing_models_are_named_with_the_command_that_makes_them() {
        let folder = tempfile::tempdir().unwrap();
        for file in MODEL_FILES {
            let path = folder.path().join("base").join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let error = require_models(folder.path()).unwrap_err().to_string();
        assert!(error.contains("synthesizer/config.json is missing: `lyceum-debian models`"), "{error}");
    }

    #[test]
    fn a_run_file_that_is_written_reads_as_the_same_run_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let written = folder.path().join("out/run.toml");
        std::fs::create_dir(folder.path().join("out")).unwrap();
        let mut run = write_run(folder.path(), &["a text"], 1);
        run.seed = 7;
        Hardware::Gpu.fit(&mut run);
        write_run_file(&run, &written).unwrap();
        assert_eq!(RunFile::load(written).unwrap(), run);
    }
}
