//! The doubles of NCCL and of the CUDA driver, compiled by the machine's C compiler, and child processes that run on
//! them: the loader looks for libraries where it was told when the process began.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Names the scenario that a child is to play.
pub const SCENARIO: &str = "LYCEUM_NCCL_SCENARIO";

/// Set where a missing tool is a failure, as in CI.
const REQUIRE_TOOLS: &str = "LYCEUM_REQUIRE_TOOLS";

/// A child to come.
pub struct Child {
    scenario: &'static str,
    library: Library,
    fault: &'static str,
}

enum Library {
    /// The double of NCCL, compiled with these flags.
    Double(&'static [&'static str]),
    /// Whatever lies at this path.
    At(&'static str),
}

/// What the double of NCCL was asked for.
pub struct Calls(Vec<Call>);

struct Call {
    rank: i32,
    name: String,
    thread: String,
}

impl Child {
    pub fn plays(scenario: &'static str) -> Self {
        Self { scenario, library: Library::Double(&[]), fault: "" }
    }

    /// The double fails in this way.
    pub fn with_fault(self, fault: &'static str) -> Self {
        Self { fault, ..self }
    }

    /// With another build of the double.
    pub fn with_double(self, flags: &'static [&'static str]) -> Self {
        Self { library: Library::Double(flags), ..self }
    }

    /// With what lies at `path` in NCCL's place.
    pub fn with_library(self, path: &'static str) -> Self {
        Self { library: Library::At(path), ..self }
    }

    /// The command that starts it, and where its calls will be written down. `None`, with a printed reason, where
    /// nothing compiles C.
    pub fn command(&self) -> Option<(Command, Log)> {
        let cuda = compiled("cuda.c", "libcuda.so", &[])?;
        let nccl = match &self.library {
            Library::Double(flags) => compiled("nccl.c", "libnccl.so.2", flags)?,
            Library::At(path) => PathBuf::from(path),
        };
        let name = format!("{}-{}-{}.calls", self.scenario, self.fault, std::process::id());
        let log = Log(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(SCENARIO, self.scenario)
            .env("LD_LIBRARY_PATH", cuda.parent().unwrap())
            .env("LYCEUM_NCCL", nccl)
            .env("NCCL_DOUBLE_LOG", &log.0)
            .env("NCCL_DOUBLE_FAULT", self.fault);
        Some((command, log))
    }

    /// Plays the scenario to its end, which must be a good one; `None` as for [`Child::command`].
    pub fn run(self) -> Option<Calls> {
        let (mut command, log) = self.command()?;
        let child = command.output().unwrap();
        let said = [child.stdout, child.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        assert!(child.status.success(), "{}: {}\n{}", self.scenario, child.status, said.concat());
        Some(log.calls())
    }
}

/// The file of a child's calls.
pub struct Log(PathBuf);

impl Log {
    /// What has been called so far.
    pub fn calls(&self) -> Calls {
        let calls = std::fs::read_to_string(&self.0).unwrap_or_default();
        Calls(calls.lines().map(Call::read).collect())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // A child that called nothing has made none.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Call {
    fn read(line: &str) -> Self {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap().to_owned();
        Self { rank: word().parse().unwrap(), name: word(), thread: word() }
    }
}

impl Calls {
    /// What `rank` called, one after the other.
    pub fn of(&self, rank: i32) -> Vec<&str> {
        self.0.iter().filter(|call| call.rank == rank).map(|call| call.name.as_str()).collect()
    }

    /// How often anybody called `name`.
    pub fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|call| call.name == name).count()
    }

    /// Every rank calls from one thread, and no two from the same.
    pub fn assert_one_thread_a_rank(&self) {
        let mut threads = BTreeMap::new();
        for call in self.0.iter().filter(|call| call.rank >= 0) {
            assert_eq!(threads.entry(call.rank).or_insert(&call.thread), &&call.thread, "{}", call.name);
        }
        let mut distinct: Vec<_> = threads.values().collect();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), threads.len());
    }
}

/// The library made of a source beside this file, anew once a process, in the folder of its flags.
fn compiled(source: &str, library: &str, flags: &[&str]) -> Option<PathBuf> {
    static MADE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut all = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nccl/doubles").join(source);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nccl-double{}", flags.concat()));
    let made = folder.join(library);
    if all.contains(&made) {
        return Some(made);
    }
    // Renamed when it is whole: another run of these tests may be loading it.
    let new = folder.join(format!("{library}.{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let arguments = ["-shared", "-fPIC", "-O1", "-w", "-pthread", "-o"];
    let output =
        Command::new(&compiler).args(arguments).arg(&new).arg(&source).args(flags).arg("-ldl").output();
    match output {
        Ok(output) if output.status.success() => {
            std::fs::rename(new, &made).unwrap();
            all.insert(made.clone());
            Some(made)
        }
        Ok(output) => panic!("{}: {}", source.display(), String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            assert!(std::env::var_os(REQUIRE_TOOLS).is_none(), "{compiler}: {error}");
            println!("skipped: no C compiler for the doubles ({compiler}: {error})");
            None
        }
    }
}
