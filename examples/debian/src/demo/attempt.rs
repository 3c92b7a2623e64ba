//! One run file, taken to its end in a folder of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use lyceum_pretrain::run_directory::RunDirectory;
use lyceum_pretrain::run_file::RunFile;
use lyceum_pretrain::summary::Summary;

use crate::installation::Installation;
use crate::program;

/// A run and its folder.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// What is run.
    pub run: RunFile,
    /// Where.
    pub directory: RunDirectory,
    file: PathBuf,
    cluster: PathBuf,
}

/// What is in a run's folder already.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Before {
    Nothing,
    Interrupted,
    Finished,
}

impl Attempt {
    /// The run of `file` on the cluster of a manifest, in `directory`.
    ///
    /// # Errors
    /// When the run file is not valid.
    pub fn new(file: &Path, cluster: &Path, directory: &Path) -> Result<Self> {
        Ok(Self {
            run: RunFile::load(file)?,
            directory: RunDirectory::at(std::path::absolute(directory)?),
            file: file.to_path_buf(),
            cluster: cluster.to_path_buf(),
        })
    }

    /// Runs it on the demo's cluster: an interrupted run goes on, a finished one is removed and begins anew.
    ///
    /// # Errors
    /// When the run fails or is interrupted.
    pub fn finish(&self, installation: &Installation) -> Result<Summary> {
        let folder = self.directory.root();
        match self.before()? {
            Before::Nothing => println!("{}: begins in {}", self.run.name, folder.display()),
            Before::Interrupted => {
                println!("{}: the interrupted run in {} goes on", self.run.name, folder.display());
            }
            Before::Finished => {
                println!(
                    "{}: begins anew; the finished run in {} is removed",
                    self.run.name,
                    folder.display()
                );
                fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
            }
        }
        let begun = Instant::now();
        let mut command = Command::new(installation.program("lyceum")?);
        command.arg("run").arg(&self.file).arg("--cluster").arg(&self.cluster).arg("--out").arg(folder);
        program::run(command)?;
        println!(
            "{}: {:.0} seconds with start and end of the cluster",
            self.run.name,
            begun.elapsed().as_secs_f64()
        );
        let summary = read_summary(folder)?;
        summary.with_context(|| format!("the run ended well, and {} has no summary.json", folder.display()))
    }

    fn before(&self) -> Result<Before> {
        let folder = self.directory.root();
        if !folder.join("run.json").exists() {
            return Ok(Before::Nothing);
        }
        // A run that was stopped in time has a summary too, of fewer steps.
        Ok(match read_summary(folder)? {
            Some(summary) if summary.steps >= self.run.trainer.steps => Before::Finished,
            _ => Before::Interrupted,
        })
    }
}

fn read_summary(folder: &Path) -> Result<Option<Summary>> {
    let path = folder.join("summary.json");
    let place = || format!("cannot read {}", path.display());
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).with_context(place),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write_run;

    #[test]
    fn a_finished_run_is_told_from_an_interrupted_one() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write_run(folder.path(), &["a text"], 9);
        let attempt =
            Attempt::new(&folder.path().join("run.toml"), Path::new("one.toml"), &folder.path().join("run"))
                .unwrap();
        assert_eq!(attempt.before().unwrap(), Before::Nothing);
        write("run/run.json", "{}");
        assert_eq!(attempt.before().unwrap(), Before::Interrupted, "killed");
        let summary = |steps| Summary { steps, ..Summary::default() };
        summary(8).write(&folder.path().join("run")).unwrap();
        assert_eq!(attempt.before().unwrap(), Before::Interrupted, "stopped in time");
        summary(9).write(&folder.path().join("run")).unwrap();
        assert_eq!(attempt.before().unwrap(), Before::Finished);
        write("run/summary.json", "{");
        let error = attempt.before().unwrap_err().to_string();
        assert!(error.ends_with("run/summary.json"), "{error}");
    }
}
