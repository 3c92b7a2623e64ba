//! The recipe of the demo's models: corpus, tokenizer, texts under other names, base model, synthesizer. Each stage is
//! seeded; one that is finished is passed over, one that was interrupted goes on.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use lyceum_pretrain::run_directory::RunDirectory;
use lyceum_pretrain::run_file::RunFile;

use crate::installation::Installation;
use crate::lists::Archive;
use crate::output;
use crate::prepare::{self, Options};
use crate::program;

/// Tokens of both models' vocabulary.
const VOCABULARY: usize = 4096;
/// What the tokenizer learns from, and what a prepared corpus has.
const TOKENIZER_INPUTS: [&str; 2] = ["base-documents.jsonl", "tuning-documents.jsonl"];
/// The last file that `prepare` writes.
const PREPARED: &str = "stats.txt";
/// Files of a model as it is given away.
const MODEL_FILES: [&str; 5] =
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];

/// One of the demo's two models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Model {
    /// What the demo trains further.
    Base,
    /// What writes pairs.
    Synthesizer,
}

impl Model {
    /// Both, in the order of the recipe.
    pub const ALL: [Self; 2] = [Self::Base, Self::Synthesizer];

    /// The name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Synthesizer => "synthesizer",
        }
    }

    /// Its runs, in order: run files of the recipe. The last one's weights are the model's.
    pub fn stages(self) -> &'static [&'static str] {
        match self {
            Self::Base => &["base"],
            Self::Synthesizer => {
                &["synthesizer-text", "synthesizer-tuning", "synthesizer-finish", "synthesizer-names"]
            }
        }
    }
}

impl Display for Model {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What to make, and where.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The folder of corpus and runs (about 200 MB).
    pub work: PathBuf,
    /// The folder that gets the models, a folder each.
    pub out: PathBuf,
    /// Which models.
    pub models: Vec<Model>,
}

impl Recipe {
    /// Makes the models, with all processors of this machine.
    ///
    /// # Errors
    /// When a stage fails or is interrupted: the same call goes on from there.
    pub fn run(&self, installation: &Installation) -> Result<()> {
        self.prepare()?;
        self.train_tokenizer(installation)?;
        self.prepare_names()?;
        for &model in &self.models {
            self.lay_out(&installation.example().join("recipe"), model)?;
            let mut made = None;
            for stage in model.stages() {
                made = Some(self.train(installation, stage)?);
            }
            if let Some(made) = made {
                let bytes = give_away(&made, &self.out.join(model.name()))?;
                println!("{model}: {:.1} MiB in {}", bytes as f64 / f64::from(1 << 20), self.out.display());
            }
        }
        Ok(())
    }

    fn prepare(&self) -> Result<()> {
        if self.work.join(PREPARED).exists() {
            println!("corpus: there");
            return Ok(());
        }
        println!("corpus: prepared in {}", self.work.display());
        fs::create_dir_all(&self.work).with_context(|| format!("cannot create {}", self.work.display()))?;
        let lists = prepare::index(&self.work, &Archive::default(), false)?;
        print!("{}", prepare::prepare(&Options::demo(self.work.clone(), None), &lists)?);
        Ok(())
    }

    fn tokenizer(&self) -> PathBuf {
        self.work.join("tokenizer.json")
    }

    fn train_tokenizer(&self, installation: &Installation) -> Result<()> {
        if self.tokenizer().exists() {
            println!("tokenizer: there");
            return Ok(());
        }
        println!("tokenizer: {VOCABULARY} tokens");
        let partial = self.work.join("tokenizer.partial.json");
        let mut command = Command::new(installation.program("lyceum")?);
        command.args(["tokenizer", "train", "--vocabulary"]).arg(VOCABULARY.to_string());
        command.arg("--out").arg(&partial).args(TOKENIZER_INPUTS.map(|name| self.work.join(name)));
        program::run(command)?;
        fs::rename(&partial, self.tokenizer()).context("cannot name the tokenizer")
    }

    fn prepare_names(&self) -> Result<()> {
        if self.work.join(prepare::NAMES).exists() {
            println!("names: there");
            return Ok(());
        }
        print!("{}", prepare::prepare_names(&Options::demo(self.work.clone(), None), &self.tokenizer())?);
        Ok(())
    }

    /// Copies a model's run files, shape and tokenizer from the recipe into the work folder.
    fn lay_out(&self, recipe: &Path, model: Model) -> Result<()> {
        for stage in model.stages() {
            let name = format!("{stage}.toml");
            copy(&recipe.join(&name), &self.work.join(&name))?;
        }
        let directory = self.work.join("models").join(model.name());
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        copy(&recipe.join(model.name()).join("config.json"), &directory.join("config.json"))?;
        copy(&self.tokenizer(), &directory.join("tokenizer.json"))?;
        Ok(())
    }

    /// Takes a stage to its last step and returns the folder of its weights.
    fn train(&self, installation: &Installation, stage: &str) -> Result<PathBuf> {
        let file = self.work.join(format!("{stage}.toml"));
        let run = RunFile::load(&file)?;
        let directory = RunDirectory::at(self.work.join("runs").join(stage));
        let made = weights(&directory, run.trainer.steps);
        if made.exists() {
            println!("{stage}: there");
            return Ok(made);
        }
        let threads = thread::available_parallelism().map_or(1, |threads| threads.get());
        println!("{stage}: {} steps with {threads} threads", run.trainer.steps);
        let mut command = Command::new(installation.program("lyceum-worker")?);
        command.arg("local").arg(&file).arg("--out").arg(directory.root());
        command.arg("--threads").arg(threads.to_string());
        program::run(command)?;
        ensure!(
            made.exists(),
            "{stage} ended before its step {}: its sources ran dry; give them more epochs in {}",
            run.trainer.steps,
            file.display()
        );
        Ok(made)
    }
}

/// The model of the checkpoint of `step`. A checkpoint gets its name when it is whole.
fn weights(directory: &RunDirectory, step: u64) -> PathBuf {
    directory.checkpoints().join(format!("step-{step:08}")).join("model")
}

/// Copies a model out; returns its size in bytes.
fn give_away(from: &Path, to: &Path) -> Result<u64> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    MODEL_FILES.iter().map(|name| copy(&from.join(name), &to.join(name))).sum()
}

/// Copies a whole file or none; returns its size in bytes.
fn copy(from: &Path, to: &Path) -> Result<u64> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    output::write_bytes(to, &bytes)?;
    Ok(bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{weights_made_by, write_model, write_weights};

    #[test]
    fn a_finished_recipe_only_gives_its_models_away() {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        let write = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let document = "{\"text\": \"a text\"}\n";
        for name in ["stats.txt", "base-documents.jsonl", "tuning-documents.jsonl"] {
            write(work.join(name), document);
        }
        write_model(&work, &["a text"]);
        for name in ["tuning.jsonl", "tuning-finish.jsonl", "tuning-names.jsonl"] {
            write(work.join(name), document);
        }
        let installation = Installation::find().unwrap();
        for stage in Model::ALL.into_iter().flat_map(Model::stages) {
            let file = installation.example().join("recipe").join(format!("{stage}.toml"));
            let run: toml::Table = fs::read_to_string(file).unwrap().parse().unwrap();
            let last = run["trainer"]["steps"].as_integer().unwrap().try_into().unwrap();
            let model = weights(&RunDirectory::at(work.join("runs").join(stage)), last);
            write_model(&model, &["a text"]);
            for name in ["generation_config.json", "tokenizer_config.json"] {
                write(model.join(name), "{}");
            }
            write_weights(&model, stage);
        }
        let out = folder.path().join("out");
        let recipe = Recipe { work, out: out.clone(), models: Model::ALL.to_vec() };
        recipe.run(&installation).unwrap();
        let weights = |model: &str| weights_made_by(&out.join(model));
        assert_eq!((weights("base"), weights("synthesizer")), ("base".into(), "synthesizer-names".into()));
    }

    #[test]
    fn a_model_without_weights_is_not_given_away() {
        let folder = tempfile::tempdir().unwrap();
        let error = give_away(folder.path(), &folder.path().join("out")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read") && error.ends_with("config.json"), "{error}");
    }
}
