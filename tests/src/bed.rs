//! The folder of a test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use lyceum_corpus::tokenizer::{Tokenizer, TrainOptions};

use crate::output::Output;
use crate::processes::{self, Process};
use crate::running::Running;
use crate::settings::{self, RunText, SEED};
use crate::standing::Standing;
use crate::{documents, programs};

/// A folder with everything that a run needs:
///
/// ```text
/// raw.jsonl converted.jsonl heldout.jsonl   generated documents
/// model/                                    config.json and tokenizer.json
/// cluster.toml                              two nodes
/// state/                                    LYCEUM_STATE_DIR of what is started here
/// ```
#[derive(Debug)]
pub struct Bed {
    folder: tempfile::TempDir,
    logs: AtomicU32,
}

impl Bed {
    /// A bed whose two training sources have 600 documents each.
    pub fn new() -> Self {
        Self::with_documents(600)
    }

    /// A bed whose two training sources have `count` documents each.
    pub fn with_documents(count: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("lyceum-test-").tempdir().unwrap();
        let bed = Self { folder, logs: AtomicU32::new(0) };
        bed.write("raw.jsonl", documents(SEED, count));
        bed.write("converted.jsonl", documents(SEED + 1, count));
        bed.write("heldout.jsonl", documents(SEED + 2, 20));
        // The cluster's name need not be unique: each bed has a state folder of its own.
        bed.write("cluster.toml", settings::manifest("test"));
        let texts: Vec<String> = (0..200).map(|number| crate::document(SEED, number)).collect();
        let options = TrainOptions { vocabulary: 320, min_frequency: 2, marks_as_tokens: true };
        let tokenizer = Tokenizer::train(texts.iter(), options).unwrap();
        bed.write("model/config.json", settings::model(tokenizer.vocabulary()));
        tokenizer.save(bed.path("model/tokenizer.json")).unwrap();
        bed
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of the folder.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Starts `lyceum run` of these settings into the folder `out`.
    pub fn run(&self, run: &RunText, out: &str) -> Running {
        self.run_text(&run.to_string(), out)
    }

    /// Starts `lyceum run` of a run file that says `text` into the folder `out`.
    pub fn run_text(&self, text: &str, out: &str) -> Running {
        self.start(self.run_command(&self.run_file(text, out), "cluster.toml", out), out)
    }

    /// Writes a run file that says `text`: one a folder, because the settings of a test's runs differ.
    fn run_file(&self, text: impl AsRef<[u8]>, out: &str) -> String {
        let file = format!("{out}.toml");
        self.write(&file, text);
        file
    }

    /// Starts `lyceum run` of these settings into the folder `out`; whoever should read what it says is gone.
    pub fn run_unread(&self, run: &RunText, out: &str) -> Running {
        let run = self.run_command(&self.run_file(run.to_string(), out), "cluster.toml", out);
        Running::start_unread(run, self.state(), self.output(out))
    }

    /// Starts `lyceum run` of these settings into the folder `out`, on a terminal: that of script(1).
    pub fn run_on_terminal(&self, run: &RunText, out: &str) -> Running {
        let run = self.run_command(&self.run_file(run.to_string(), out), "cluster.toml", out);
        let words = std::iter::once(run.get_program()).chain(run.get_args());
        let words: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"])
            .env("TERM", "xterm");
        self.start(command, out)
    }

    /// Starts `lyceum run` of a run file and a manifest of this folder.
    pub fn run_files(&self, run: &str, manifest: &str, out: &str) -> Running {
        self.start(self.run_command(run, manifest, out), out)
    }

    fn run_command(&self, run: &str, manifest: &str, out: &str) -> Command {
        let mut command = Command::new(programs::folder().join("lyceum"));
        command.arg("run").arg(self.path(run)).arg("--cluster").arg(self.path(manifest));
        command.arg("--out").arg(self.path(out));
        command
    }

    /// Starts `lyceum-worker local` of these settings into the folder `out`.
    pub fn local(&self, run: &RunText, out: &str) -> Running {
        let file = self.path(&self.run_file(run.to_string(), out));
        let mut command = Command::new(programs::folder().join("lyceum-worker"));
        command.arg("local").arg(file).arg("--out").arg(self.path(out));
        self.start(command, out)
    }

    /// Starts `lyceum COMMAND ARGUMENTS FILE`, in this folder.
    pub fn command(&self, command: &str, arguments: &[&str], file: &Path) -> Running {
        let mut lyceum = Command::new(programs::folder().join("lyceum"));
        lyceum.arg(command).args(arguments).arg(file).current_dir(self.folder());
        self.start(lyceum, command)
    }

    fn start(&self, command: Command, out: &str) -> Running {
        let number = self.logs.fetch_add(1, Ordering::Relaxed);
        let log = self.path(&format!("{out}-{number}.log"));
        Running::start(command, self.state(), log, self.output(out))
    }

    fn output(&self, out: &str) -> Output {
        Output::at(self.path(out))
    }

    /// `LYCEUM_STATE_DIR` of what is started here.
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// The processes of this role that run now.
    pub fn processes(&self, role: &str) -> Vec<Process> {
        processes::of(&self.state()).into_iter().filter(|process| process.role == role).collect()
    }

    /// All processes that run now with this bed's state.
    pub fn all_processes(&self) -> Vec<Process> {
        processes::of(&self.state())
    }

    /// Starts a standing cluster of `cluster.toml`.
    pub fn up(&self) -> Standing<'_> {
        Standing::up(self)
    }

    /// Does `lyceum up`, `status` or `down` of `cluster.toml`; returns what it printed.
    pub fn lyceum(&self, command: &str) -> String {
        self.lyceum_with(&[command, &self.path("cluster.toml").display().to_string()])
    }

    /// Does a command of `lyceum` with these arguments; returns what it printed.
    pub fn lyceum_with(&self, arguments: &[&str]) -> String {
        let mut lyceum = Command::new(programs::folder().join("lyceum"));
        lyceum.args(arguments).env("LYCEUM_STATE_DIR", self.state());
        let output = lyceum.output().expect("the program under test starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "lyceum {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Default for Bed {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let left = processes::of(&self.state());
        for process in &left {
            process.kill();
        }
        if !std::thread::panicking() {
            assert!(left.is_empty(), "{left:?} were left running");
        }
    }
}
