//! A `lyceum run` under way.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::output::Output;
use crate::processes::{self, Process};

/// Clusters of one test program that run at a time.
pub const CLUSTERS: usize = 2;

/// The longest that any run or wait of these tests may take before it counts as hanging.
pub const HANGING: Duration = Duration::from_secs(120);

const POLL: Duration = Duration::from_millis(5);

static FREE: (Mutex<usize>, Condvar) = (Mutex::new(CLUSTERS), Condvar::new());

/// The right to have a cluster.
#[derive(Debug)]
pub struct Slot(());

impl Slot {
    pub fn take() -> Self {
        let free = FREE.0.lock().unwrap();
        *FREE.1.wait_while(free, |free| *free == 0).unwrap() -= 1;
        Self(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *FREE.0.lock().unwrap() += 1;
        FREE.1.notify_one();
    }
}

/// A command that was started and not waited for.
#[derive(Debug)]
pub struct Running {
    child: Child,
    state: PathBuf,
    /// Where its output goes: a file, never a pipe that could fill up.
    log: PathBuf,
    /// What is in the run's folder.
    pub output: Output,
    begun: Instant,
    _slot: Slot,
}

impl Running {
    /// Starts `command` in a process group of its own, with `state` as the folder of its clusters.
    pub(crate) fn start(mut command: Command, state: PathBuf, log: PathBuf, output: Output) -> Self {
        let stdout = File::create(&log).unwrap();
        command.stderr(stdout.try_clone().unwrap()).stdout(stdout);
        Self::spawn(command, state, log, output)
    }

    /// As [`start`](Self::start), with an output that nobody reads: all that it writes is refused.
    pub(crate) fn start_unread(mut command: Command, state: PathBuf, output: Output) -> Self {
        command.stderr(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Self::spawn(command, state, PathBuf::new(), output);
        drop((running.child.stderr.take(), running.child.stdout.take()));
        running
    }

    fn spawn(mut command: Command, state: PathBuf, log: PathBuf, output: Output) -> Self {
        let slot = Slot::take();
        // Whoever is started in a shell's background ignores Ctrl-C, and so do its children; a terminal's command does not.
        // SAFETY: between fork and exec nothing is called but signal(2), which may be.
        unsafe {
            command.pre_exec(|| match libc::signal(libc::SIGINT, libc::SIG_DFL) {
                libc::SIG_ERR => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let child = command.env("LYCEUM_STATE_DIR", &state).process_group(0).spawn();
        let child = child.expect("the program under test starts");
        Self { child, state, log, output, begun: Instant::now(), _slot: slot }
    }

    /// Waits until step `step` is done; that the command ends before is a failure.
    pub fn until_step(&mut self, step: u64) {
        let steps = self.output.clone();
        self.until(&format!("step {step}"), || steps.losses().len() as u64 >= step);
    }

    /// Waits until it says `words`; that the command ends before is a failure.
    pub fn until_said(&mut self, words: &str) {
        let log = self.log.clone();
        self.until(words, || fs::read_to_string(&log).is_ok_and(|said| said.contains(words)));
    }

    /// Waits until `done`; that the command ends before is a failure.
    pub fn until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("ended ({status}) before {what}:\n{}", self.said());
            }
            assert!(begun.elapsed() < HANGING, "never came to {what}:\n{}", self.said());
            std::thread::sleep(POLL);
        }
    }

    /// Kills a process of this role as soon as there is one: the first that was started, or, after `skip`, a later one.
    pub fn kill(&mut self, role: &str, skip: usize) {
        let mut found = Vec::new();
        let state = self.state.clone();
        self.until(&format!("a process of role {role}"), || {
            found = processes::of(&state);
            found.retain(|process| process.role == role);
            found.len() > skip
        });
        found[skip].kill();
    }

    /// Presses Ctrl-C: a terminal signals the whole group of the command in its foreground.
    pub fn interrupt(&self) {
        let group = -(self.child.id() as i32);
        Process { pid: group, role: "run".into() }.signal(libc::SIGINT);
    }

    /// Kills the command itself.
    pub fn kill_command(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end, after which no process of the cluster may be left.
    pub fn end(self) -> Ended {
        let state = self.state.clone();
        let ended = self.end_on_standing();
        let over = Instant::now();
        let mut left = processes::of(&state);
        // What is killed takes a moment to be gone.
        while !left.is_empty() && over.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(POLL);
            left = processes::of(&state);
        }
        assert!(left.is_empty(), "{left:?} are left running after:\n{}", ended.said);
        ended
    }

    /// Waits for the end of a run on a cluster that goes on.
    pub fn end_on_standing(mut self) -> Ended {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < HANGING, "does not end:\n{}", self.said());
            std::thread::sleep(POLL);
        };
        Ended {
            code: status.code(),
            said: self.said(),
            at: SystemTime::now(),
            took: self.begun.elapsed(),
            output: self.output.clone(),
        }
    }

    /// All that it has written so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// All that it wrote.
    pub said: String,
    /// When it ended.
    pub at: SystemTime,
    /// Time from its start.
    pub took: Duration,
    /// What it left in the run's folder.
    pub output: Output,
}

impl Ended {
    /// The last line that a person reads.
    pub fn last_line(&self) -> &str {
        self.said.trim_end().lines().last().unwrap_or_default()
    }

    /// Where it says, last of all, that the same command goes on: from the newest checkpoint, which is whole.
    pub fn goes_on_from(&self) -> u64 {
        let (_, step) = self.output.whole_checkpoint();
        assert_eq!(self.last_line(), format!("the same command goes on from step {step}"), "{}", self.said);
        step
    }

    /// It ended well.
    pub fn well(self) -> Output {
        assert_eq!(self.code, Some(0), "{}", self.said);
        self.output
    }

    /// It was refused or failed, and said each of `words` in one error.
    pub fn failed(self, words: &[&str]) -> Output {
        assert_eq!(self.code, Some(1), "{}", self.said);
        assert_eq!(self.said.matches("error: ").count(), 1, "one error is expected:\n{}", self.said);
        let deaths = self.said.matches("ended by signal").count();
        assert!(deaths <= 1, "a death is told once:\n{}", self.said);
        for word in words {
            assert!(self.said.contains(word), "`{word}` is expected in:\n{}", self.said);
        }
        self.output
    }
}
