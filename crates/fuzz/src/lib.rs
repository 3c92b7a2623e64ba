//! Fuzzing as ordinary tests: the same inputs on every machine, from seeds, on stable Rust.
//!
//! A *body* is a plain function of bytes that gives them to a parser. Whatever they are, it must come back: with a
//! panic, an abort, more memory than it may take, or no end, the test fails. What a body itself asserts (that what was
//! read can be written and read again) is held too.
//!
//! ```
//! fn a_number(data: &[u8]) {
//!     let Ok(text) = std::str::from_utf8(data) else { return };
//!     if let Ok(number) = text.parse::<u32>() {
//!         assert_eq!(number.to_string().parse(), Ok(number));
//!     }
//! }
//!
//! lyceum_fuzz::Fuzz::new("a number").seeds(["7", "4294967295"]).runs(500).run(a_number);
//! ```
//!
//! Each seed is tried as it is, then cut short, then mutated `runs` times. A seed is written by the parser's own
//! writer, so that it is never of an older format; a corpus folder keeps the inputs that once found a fault. Where a
//! checksum stands before a parser, [`Fuzz::repair`] makes it right again after most mutations.
//!
//! | environment | |
//! |---|---|
//! | `LYCEUM_FUZZ_INPUT` | a file: every body of the tests that run is given this input alone |
//! | `LYCEUM_FUZZ_SEED` | a number: other mutations than those of every day (seed 1) |
//! | `LYCEUM_FUZZ_RUNS` | a number: so many times as many mutations |
//! | `LYCEUM_FUZZ_KEEP` | a file: holds the input that is being tried, for bodies that end the process |
//!
//! Linking this crate makes a counting allocator the program's own.

#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

mod memory;
mod mutate;
mod watch;

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{env, fs};

use mutate::Mutator;
use watch::Watch;

/// Prefixes tried of each seed, at most.
const MOST_CUTS: usize = 64;

/// Of so many mutated inputs, one keeps a checksum that is wrong.
const UNREPAIRED: u64 = 8;

/// A fuzz test in the making.
#[derive(Debug)]
pub struct Fuzz {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    repair: Option<fn(&mut Vec<u8>)>,
    runs: u64,
    longest: usize,
    memory: usize,
}

impl Fuzz {
    /// One that is called `name` when it fails: 2,000 mutations, inputs of at most 16 KiB, 8 MiB of memory for each.
    pub fn new(name: &'static str) -> Fuzz {
        let (seeds, words) = (Vec::new(), Vec::new());
        Fuzz { name, seeds, words, repair: None, runs: 2000, longest: 16 << 10, memory: 8 << 20 }
    }

    /// Inputs to begin with.
    pub fn seeds<B: Into<Vec<u8>>>(mut self, seeds: impl IntoIterator<Item = B>) -> Fuzz {
        self.seeds.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// Inputs to begin with: the files of `folder`.
    ///
    /// # Panics
    /// If it cannot be read, or holds nothing.
    pub fn corpus(self, folder: impl AsRef<Path>) -> Fuzz {
        let folder = folder.as_ref();
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        // The order of a folder differs between machines.
        paths.sort();
        assert!(!paths.is_empty(), "{}: holds no input", folder.display());
        self.seeds(paths.iter().map(|path| read(path)))
    }

    /// What the parser looks for: put into inputs here and there.
    pub fn words<B: Into<Vec<u8>>>(mut self, words: impl IntoIterator<Item = B>) -> Fuzz {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// Makes the checksums, or lengths, of a mutated input right again.
    pub fn repair(mut self, repair: fn(&mut Vec<u8>)) -> Fuzz {
        self.repair = Some(repair);
        self
    }

    /// Mutations.
    pub fn runs(mut self, runs: u64) -> Fuzz {
        self.runs = runs;
        self
    }

    /// Bytes of the longest mutated input.
    pub fn longest(mut self, bytes: usize) -> Fuzz {
        self.longest = bytes;
        self
    }

    /// Bytes that the body may have allocated at a time, on its own thread.
    pub fn memory(mut self, bytes: usize) -> Fuzz {
        self.memory = bytes;
        self
    }

    /// Gives `body` one input after the other.
    ///
    /// # Panics
    /// With the input, and how to try it again, when the body panics or takes more memory than it may.
    pub fn run(self, body: fn(&[u8])) {
        if let Some(path) = env::var_os("LYCEUM_FUZZ_INPUT") {
            return self.attempt(body, &read(Path::new(&path)), "LYCEUM_FUZZ_INPUT");
        }
        let seed = number("LYCEUM_FUZZ_SEED").unwrap_or(1);
        let keep = env::var_os("LYCEUM_FUZZ_KEEP").map(PathBuf::from);
        let watch = Watch::begin(self.name);
        let mut count = 0;
        let mut attempt = |input: &[u8], what: &str| {
            count += 1;
            if let Some(path) = &keep {
                fs::write(path, input).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
            watch.next(input);
            self.attempt(body, input, what);
        };
        for (index, whole) in self.seeds.iter().enumerate() {
            attempt(whole, &format!("seed {index} as it is"));
            let step = whole.len().div_ceil(MOST_CUTS).max(1);
            for length in (0..whole.len()).step_by(step) {
                attempt(&whole[..length], &format!("seed {index} cut to {length} bytes"));
            }
        }
        let mut mutator = Mutator::new(seed, self.longest, self.words.clone());
        for run in 0..self.runs * number("LYCEUM_FUZZ_RUNS").unwrap_or(1) {
            let mut input = mutator.next(&self.seeds);
            if let Some(repair) = self.repair.filter(|_| !run.is_multiple_of(UNREPAIRED)) {
                repair(&mut input);
            }
            attempt(&input, &format!("mutation {run} under LYCEUM_FUZZ_SEED={seed}"));
        }
        println!("{}: {count} inputs", self.name);
    }

    fn attempt(&self, body: fn(&[u8]), input: &[u8], what: &str) {
        memory::begin();
        let ended = catch_unwind(AssertUnwindSafe(|| body(input)));
        let peak = memory::peak();
        let fault = match ended {
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("(no text)");
                format!("panicked: {text}")
            }
            Ok(()) if peak > self.memory => {
                format!("had {peak} bytes allocated at a time, {} are allowed", self.memory)
            }
            Ok(()) => return,
        };
        panic!("{}: given {what}, the body {fault}\n{}", self.name, told(self.name, input));
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Writes `input` to a file and says how to try it again.
fn told(name: &str, input: &[u8]) -> String {
    let words: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let path = env::temp_dir().join(format!("lyceum-fuzz-{words}-{}", std::process::id()));
    let mut text = format!("{} bytes:", input.len());
    for byte in input.iter().take(256) {
        let _ = write!(text, " {byte:02x}");
    }
    let written = fs::write(&path, input);
    let place = match written {
        Ok(()) => format!("try it again with LYCEUM_FUZZ_INPUT={}, and keep it in a corpus", path.display()),
        Err(error) => format!("it cannot be kept as {}: {error}", path.display()),
    };
    format!("{text}\n{place}")
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is {value:?}, expected a number")))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// What a failing run says.
    fn failure(fuzz: Fuzz, body: fn(&[u8])) -> String {
        let panic = catch_unwind(AssertUnwindSafe(|| fuzz.run(body))).unwrap_err();
        panic.downcast_ref::<String>().unwrap().clone()
    }

    #[test]
    fn a_fault_behind_a_checksum_is_found_and_told_with_its_input() {
        fn sum(bytes: &[u8]) -> u8 {
            bytes.iter().fold(7, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(*byte))
        }
        fn body(data: &[u8]) {
            if let [content @ .., check] = data
                && *check == sum(content)
            {
                assert!(content.len() < 4 || content[3] < 0x80, "the planted fault");
            }
        }
        fn repair(input: &mut Vec<u8>) {
            input.pop();
            let check = sum(input);
            input.push(check);
        }
        let said = failure(Fuzz::new("planted").seeds([vec![1, 2, 3, 4, 5, 6]]).repair(repair), body);
        assert!(said.contains("panicked: the planted fault"), "{said}");
        let (_, path) = said.split_once("LYCEUM_FUZZ_INPUT=").unwrap();
        let path = path.split(',').next().unwrap();
        let kept = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        assert!(catch_unwind(|| body(&kept)).is_err(), "what was kept is the input that failed");
    }

    #[test]
    fn memory_that_is_taken_for_a_length_field_is_told() {
        fn body(data: &[u8]) {
            if let Some(length) = data.first_chunk::<4>() {
                drop(Vec::<u8>::with_capacity(u32::from_le_bytes(*length) as usize));
            }
        }
        let said = failure(Fuzz::new("greedy").seeds([vec![9, 0, 0, 0, 1]]), body);
        assert!(said.contains("bytes allocated at a time, 8388608 are allowed"), "{said}");
        let (_, path) = said.split_once("LYCEUM_FUZZ_INPUT=").unwrap();
        fs::remove_file(path.split(',').next().unwrap()).unwrap();
    }

    #[test]
    fn the_same_seed_gives_the_same_inputs() {
        static SEEN: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
        fn body(data: &[u8]) {
            SEEN.lock().unwrap().push(data.to_vec());
        }
        let inputs = || {
            Fuzz::new("seen").seeds(["a text with 12 words", "another"]).words(["key"]).runs(300).run(body);
            std::mem::take(&mut *SEEN.lock().unwrap())
        };
        let first = inputs();
        assert_eq!(first, inputs());
        assert!(first.len() > 300, "{} inputs", first.len());
        assert!(first.iter().any(|input| input.windows(3).any(|part| part == b"key")));
    }
}
