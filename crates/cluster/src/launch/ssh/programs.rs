//! The programs that run on a host: found there by what they are, or copied.
//!
//! They lie in `programs/KEY` of the user's cache folder there, where KEY is a hash over names and contents: what has the
//! same hash is never copied again, and what was cut off on the way never has that name.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::ClusterError;
use crate::program::{ProgramHash, hex};

/// A piece of a program on its way, in bytes.
pub(super) const PIECE: usize = 256 << 10;

/// The programs of a cluster, all of which lie in one folder.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    programs: Vec<Program>,
    key: String,
}

#[derive(Debug, Clone)]
struct Program {
    path: PathBuf,
    name: String,
    bytes: u64,
    hash: String,
}

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

    /// Where the program called `name` lies here.
    pub(super) fn path(&self, name: &str) -> Option<&Path> {
        Some(&self.programs.iter().find(|program| program.name == name)?.path)
    }

    /// A command for a host's shell that ends as the program's `host` there.
    ///
    /// It says `machine SYSTEM ARCHITECTURE`; then, if the programs are not there as they should be, `send NAME` for each,
    /// and takes in that many bytes; then `ready`. Nothing may be sent before it is asked for: who reads it may read
    /// further than it needs.
    pub(super) fn serve(&self) -> String {
        let (key, first) = (&self.key, &self.programs[0].name);
        let take: String = self
            .programs
            .iter()
            .map(|Program { name, bytes, .. }| {
                format!("echo \"lyceum: send {name}\"; head -c {bytes} >{name}; chmod 700 {name}\n")
            })
            .collect();
        let sums = self.sums("\\n");
        // Without apostrophes, so that it can be quoted for every shell that a user may have.
        let script = format!(
            r#"echo "lyceum: machine $(uname -s) $(uname -m)"
folder="${{XDG_CACHE_HOME:-$HOME/.cache}}/lyceum/programs"
sums() {{ printf "{sums}"; }}
whole() {{ (cd "$folder/{key}" 2>/dev/null && sums | sha256sum -c --status 2>/dev/null); }}
if ! whole; then
set -e
umask 077
home=$(pwd)
mkdir -p "$folder"
new=$(mktemp -d "$folder/new.XXXXXX")
clear() {{ rm -rf "$new"; }}
trap clear EXIT
trap "exit 1" HUP TERM
cd "$new"
{take}sums | sha256sum -c --quiet >&2
cd "$folder"
mv -T "$new" {key} 2>/dev/null || whole || {{ rm -rf {key}; mv -T "$new" {key}; }}
cd "$home"
clear
trap - EXIT HUP TERM
fi
echo "lyceum: ready"
exec "$folder/{key}/{first}" host"#
        );
        format!("exec sh -c '{script}'")
    }

    /// As sha256sum(1) writes and reads it.
    fn sums(&self, end: &str) -> String {
        self.programs.iter().map(|Program { name, hash, .. }| format!("{hash}  {name}{end}")).collect()
    }
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
        let (hash, bytes) = ProgramHash::of_file(path).map_err(|error| fault(&error))?;
        Ok(Program { path: path.to_owned(), name: name.to_owned(), bytes, hash: hash.digits() })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;

    /// Does as a host does, and sends what it asks for; or `other`, and then the connection breaks.
    fn on_host(programs: &Programs, cache: &Path, other: Option<&Path>) -> (bool, Vec<String>, String) {
        let mut host = Command::new("sh")
            .args(["-c", &programs.serve()])
            .env("XDG_CACHE_HOME", cache)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = host.stdin.take();
        let mut lines = Vec::new();
        for line in BufReader::new(host.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // Where the connection has broken, nothing is sent any more.
            if let (Some(name), Some(to)) = (line.strip_prefix("lyceum: send "), &mut input) {
                let sent = fs::read(other.unwrap_or(programs.path(name).unwrap())).unwrap();
                to.write_all(&sent).unwrap();
                if other.is_some() {
                    input = None;
                }
            }
            lines.push(line.trim_start_matches("lyceum: ").to_owned());
        }
        drop(input);
        let output = host.wait_with_output().unwrap();
        (output.status.success(), lines, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[test]
    fn programs_are_there_when_they_are_whole_and_are_taken_for_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let [main, other, cut] = ["main", "other", "cut"].map(|name| folder.path().join(name));
        fs::write(&main, "#!/bin/sh\necho serves \"$1\" in \"$(pwd)\"\n").unwrap();
        fs::write(&other, "beside it").unwrap();
        fs::write(&cut, "#!/bin/sh\n").unwrap();
        let programs = Programs::read(&main, std::slice::from_ref(&other)).unwrap();
        let cache = folder.path().join("a cache");
        let kept = || fs::read_dir(cache.join("lyceum/programs")).unwrap().count();
        let machine = format!("machine Linux {}", std::env::consts::ARCH);
        let serves = format!("serves host in {}", std::env::current_dir().unwrap().display());

        let (served, lines, said) = on_host(&programs, &cache, Some(&cut));
        assert!(!served && said.contains("main: FAILED"), "{lines:?} {said}");
        assert_eq!(kept(), 0, "what was cut off stays");
        let (_, lines, said) = on_host(&programs, &cache, None);
        assert_eq!(lines, [&machine, "send main", "send other", "ready", &serves], "{said}");
        let (_, lines, said) = on_host(&programs, &cache, None);
        assert_eq!(lines, [&machine, "ready", &serves], "{said}");
        assert_eq!(kept(), 1);

        // One that was damaged is put right.
        let there = cache.join("lyceum/programs").join(&programs.key).join("other");
        assert_eq!(fs::metadata(&there).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(&there, "beside him").unwrap();
        let (_, lines, said) = on_host(&programs, &cache, None);
        assert_eq!(lines, [&machine, "send main", "send other", "ready", &serves], "{said}");
        assert_eq!(fs::read_to_string(&there).unwrap(), "beside it");
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
