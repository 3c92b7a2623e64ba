//! The programs that run on a host: found there by what they are, or copied.
//!
//! They lie in `programs/KEY` of the user's cache folder there, where KEY is a hash over names and contents: what has the
//! same hash is never copied again, and what was cut off on the way never has that name.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::ClusterError;

/// A piece of a program on its way, in bytes.
pub(super) const PIECE: usize = 256 << 10;

/// The programs of a cluster, all of which lie in one folder.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    programs: Vec<Program>,
    key: String,
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    name: String,
    bytes: u64,
    hash: String,
}

/// The folder of all programs on a host, as its shell finds it.
const FOLDER: &str = r#""${XDG_CACHE_HOME:-$HOME/.cache}/lyceum/programs""#;

impl Programs {
    /// `main` is the one that serves sessions.
    pub(super) fn read(main: &Path, companions: &[PathBuf]) -> Result<Programs, ClusterError> {
        let programs = std::iter::once(main)
            .chain(companions.iter().map(PathBuf::as_path))
            .map(Program::read)
            .collect::<Result<Vec<_>, _>>()?;
        let mut programs = Programs { programs, key: String::new() };
        programs.key = hex(&Sha256::digest(programs.sums("\n")));
        Ok(programs)
    }

    pub(super) fn all(&self) -> &[Program] {
        &self.programs
    }

    pub(super) fn bytes(&self) -> u64 {
        self.programs.iter().map(|program| program.bytes).sum()
    }

    /// A shell command that says what machine it runs on, and whether the programs are there as they should be.
    pub(super) fn look(&self) -> String {
        let (key, check) = (&self.key, self.check());
        shell(&format!(
            r#"echo "machine $(uname -s) $(uname -m)"; cd {FOLDER}/{key} 2>/dev/null && {check} --status 2>/dev/null && echo present; exit 0"#
        ))
    }

    /// A shell command that takes them in, one after another, from its standard input. They are there when they are whole.
    pub(super) fn take_in(&self) -> String {
        let (key, check) = (&self.key, self.check());
        let files: String = self
            .programs
            .iter()
            .map(|Program { name, bytes, .. }| format!("head -c {bytes} >{name}; chmod 700 {name}; "))
            .collect();
        shell(&format!(
            r#"set -e; umask 077; folder={FOLDER}; mkdir -p "$folder"; new=$(mktemp -d "$folder/new.XXXXXX"); clear() {{ rm -rf "$new"; }}; trap clear EXIT; trap "exit 1" HUP TERM; cd "$new"; {files}{check} --quiet; cd ..; mv -T "$new" {key} 2>/dev/null || (cd {key} && {check} --status) || {{ rm -rf {key}; mv -T "$new" {key}; }}"#
        ))
    }

    /// A shell command that becomes the program's `host`.
    pub(super) fn serve(&self) -> String {
        let (key, name) = (&self.key, &self.programs[0].name);
        shell(&format!("exec {FOLDER}/{key}/{name} host"))
    }

    /// Compares what is in the current folder with what should be.
    fn check(&self) -> String {
        format!(r#"printf "{}" | sha256sum -c"#, self.sums("\\n"))
    }

    /// As sha256sum(1) writes and reads it.
    fn sums(&self, end: &str) -> String {
        self.programs.iter().map(|Program { name, hash, .. }| format!("{hash}  {name}{end}")).collect()
    }
}

/// `script`, which has no apostrophes, for a POSIX shell, whatever shell the user has there.
fn shell(script: &str) -> String {
    format!("exec sh -c '{script}'")
}

impl Program {
    fn read(path: &Path) -> Result<Program, ClusterError> {
        let fault = |error: &std::io::Error| ClusterError::file(path, error);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let plain = name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !plain {
            let text = format!(
                "{}: cannot be copied to a host: expected a name of letters, digits, `-`, `_` and `.`",
                path.display()
            );
            return Err(ClusterError::Refused(text));
        }
        let mut file = File::open(path).map_err(|error| fault(&error))?;
        let (mut digest, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => {
                    digest.update(&piece[..read]);
                    bytes += read as u64;
                }
                Err(error) => return Err(fault(&error)),
            }
        }
        Ok(Program { path: path.to_owned(), name: name.to_owned(), bytes, hash: hex(&digest.finalize()) })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;

    /// Runs `command` as a host does.
    fn on_host(command: &str, cache: &Path, input: &Path) -> (bool, String, String) {
        let output = Command::new("sh")
            .args(["-c", command])
            .env("XDG_CACHE_HOME", cache)
            .stdin(File::open(input).unwrap())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    #[test]
    fn programs_are_there_when_they_are_whole_and_are_taken_for_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let [main, other, both, cut] = ["main", "other", "both", "cut"].map(|name| folder.path().join(name));
        fs::write(&main, "#!/bin/sh\necho serves \"$1\"\n").unwrap();
        fs::write(&other, "beside it").unwrap();
        let whole = [fs::read(&main).unwrap(), fs::read(&other).unwrap()].concat();
        fs::write(&both, &whole).unwrap();
        fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
        let programs = Programs::read(&main, std::slice::from_ref(&other)).unwrap();
        let cache = folder.path().join("a cache");
        let is_present = || on_host(&programs.look(), &cache, &both).1.ends_with("present\n");
        let kept = || fs::read_dir(cache.join("lyceum/programs")).unwrap().count();

        assert!(on_host(&programs.look(), &cache, &both).1.starts_with("machine Linux "));
        assert!(!is_present());
        let (taken, _, said) = on_host(&programs.take_in(), &cache, &cut);
        assert!(!taken && said.contains("other: FAILED"), "{said}");
        assert_eq!(kept(), 0, "what was cut off stays");
        for _ in 0..2 {
            assert!(on_host(&programs.take_in(), &cache, &both).0);
            assert!(is_present());
            assert_eq!(kept(), 1);
        }
        assert_eq!(on_host(&programs.serve(), &cache, &both).1, "serves host\n");

        // One that was damaged is put right.
        let there = cache.join("lyceum/programs").join(&programs.key).join("other");
        assert_eq!(fs::metadata(&there).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(&there, "beside him").unwrap();
        assert!(!is_present());
        assert!(on_host(&programs.take_in(), &cache, &both).0);
        assert!(is_present());
        assert_eq!(kept(), 1);
    }

    #[test]
    fn a_name_that_a_shell_could_take_for_more_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a b", "-a", "$(a)", "it's"] {
            let path = folder.path().join(name);
            fs::write(&path, "").unwrap();
            let refused = Programs::read(&path, &[]).unwrap_err().to_string();
            assert!(refused.contains("cannot be copied to a host"), "{refused}");
        }
    }
}
