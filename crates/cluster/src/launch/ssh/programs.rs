//! The programs that run on a host: found there by what they are, or copied.
//!
//! They lie in `programs/KEY` of the user's cache folder there, where KEY is a hash over names and contents: what has the
//! same hash is never copied again, and what was cut off on the way never has that name. The few that were used last stay, and
//! those that a process runs.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::ClusterError;
use crate::program::{ProgramHash, hex};

/// A piece of a program on its way, in bytes.
pub(super) const PIECE: usize = 256 << 10;

/// Other programs that stay in a host's cache, those that were used last: a person goes back and forth between few versions.
const KEPT: usize = 3;

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
old() {{
real=$(cd "$folder" && pwd -P) || return 0
used=$(ls -l /proc/[0-9]*/exe); kept=0
for other in $(cd "$real" && ls -t); do
case "$other" in *[g-zG-Z.]* | {key}) continue ;; esac
case "$used" in *"$real/$other/"*) continue ;; esac
kept=$((kept + 1))
[ $kept -le {KEPT} ] || rm -rf "$real/$other"
done
find "$real" -maxdepth 1 -name "new.*" -mmin +60 -exec rm -rf {{}} +
}}
whole() {{ (cd "$folder/{key}" 2>/dev/null && sums | sha256sum -c --status 2>/dev/null); }}
touch -c "$folder/{key}" 2>/dev/null
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
set +e
old >/dev/null 2>&1
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
    fn the_few_programs_that_were_used_last_stay_and_those_that_run() {
        let folder = tempfile::tempdir().unwrap();
        let (main, other) = (folder.path().join("main"), folder.path().join("other"));
        let cache = folder.path().join("a cache");
        fs::copy("/bin/sleep", &other).unwrap();
        let version = |number: u32| {
            fs::write(&main, format!("#!/bin/sh\n# {number}\n")).unwrap();
            let programs = Programs::read(&main, std::slice::from_ref(&other)).unwrap();
            let (served, lines, said) = on_host(&programs, &cache, None);
            assert!(served, "{lines:?} {said}");
            programs.key
        };
        let there = cache.join("lyceum/programs");
        let kept = || {
            let entries = fs::read_dir(&there).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        let set_used = |key: &str, age: u64| {
            let then = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
            fs::File::open(there.join(key)).unwrap().set_modified(then).unwrap();
        };
        let keys: Vec<String> = (0..3).map(version).collect();
        let mut running = Command::new(there.join(&keys[0]).join("other")).arg("600").spawn().unwrap();
        fs::create_dir(there.join("new.abcdef")).unwrap();
        for (key, age) in keys.iter().zip([500, 400, 300]) {
            set_used(key, age);
        }
        // Used again, so that it is not the oldest any more.
        version(1);
        let newer: Vec<String> = (3..6).map(version).collect();
        let mut expected: std::collections::BTreeSet<String> = newer.iter().cloned().collect();
        expected.extend([keys[0].clone(), keys[1].clone(), "new.abcdef".to_owned()]);
        let found = kept();
        running.kill().unwrap();
        running.wait().unwrap();
        assert_eq!(found, expected, "the one that runs, this one, and the three before it");
        // When it runs no more it goes, and with it what was cut off long ago.
        set_used("new.abcdef", 4000);
        for (key, age) in newer.iter().zip([30, 20, 10]) {
            set_used(key, age);
        }
        version(5);
        expected.remove(&keys[0]);
        expected.remove("new.abcdef");
        assert_eq!(kept(), expected);
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
