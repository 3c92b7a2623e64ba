//! Logs of a cluster's processes: files that are opened before exec, appended to, and kept below a size.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A log is cut at this many bytes; what was before lies in one `.old` file.
const MAX_BYTES: u64 = 8 << 20;
/// How often a daemon looks at the size of its own log.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Logs of ended workers that are kept per node.
const MAX_KEPT: usize = 200;

/// Opens the log of a worker for its stdout and stderr.
pub(crate) fn open(folder: &Path, process: u64, role: &str) -> io::Result<(PathBuf, File)> {
    drop_oldest(folder);
    let role: String =
        role.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(48).collect();
    let path = folder.join(format!("{process:08}-{role}.log"));
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
    Ok((path, file))
}

/// Keeps a log below its size. The writer appends, so it goes on at the new end.
pub(crate) fn cap(path: &Path) {
    let too_long = fs::metadata(path).is_ok_and(|meta| meta.len() > MAX_BYTES);
    if !too_long {
        return;
    }
    let cut = fs::copy(path, path.with_extension("log.old"))
        .and_then(|_| OpenOptions::new().write(true).open(path)?.set_len(0));
    if let Err(error) = cut {
        tracing::warn!(path = %path.display(), %error, "a log could not be cut");
    }
}

/// Keeps the log of this process below its size for as long as it runs.
pub(crate) async fn keep_capped(path: PathBuf) {
    loop {
        cap(&path);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn drop_oldest(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut logs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    if logs.len() > MAX_KEPT {
        // Names begin with the process's number, which only grows.
        logs.sort();
        for path in &logs[..logs.len() - MAX_KEPT] {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_that_grows_too_long_is_cut_and_its_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut file) = open(folder.path(), 7, "a/role").unwrap();
        assert!(path.ends_with("00000007-a_role.log"), "{}", path.display());
        file.write_all(&vec![b'x'; MAX_BYTES as usize + 1]).unwrap();
        cap(&path);
        file.write_all(b"after").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"after");
        assert_eq!(fs::metadata(path.with_extension("log.old")).unwrap().len(), MAX_BYTES + 1);
    }

    #[test]
    fn only_the_newest_logs_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        for process in 0..MAX_KEPT as u64 + 5 {
            open(folder.path(), process, "role").unwrap();
        }
        assert!(fs::read_dir(folder.path()).unwrap().count() <= MAX_KEPT + 1);
        assert!(!folder.path().join("00000000-role.log").exists());
    }
}
