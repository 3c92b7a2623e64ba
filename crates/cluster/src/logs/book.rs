//! The logs of one node: whose they are, how large, since when, and for how long.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use super::moments::Moments;
use super::words::LogSelector;
use super::{AGENT, LogEnd, LogEntry, LogLabel, file, now_ms};
use crate::manifest::LogsSection;

/// Most logs of one node: what is known of each is in memory.
const MAX_LOGS: usize = 4096;
/// Longest label, in bytes.
const MAX_LABEL: u64 = 64 << 10;
/// Longest cause of an end in a label, in bytes.
const MAX_CAUSE: usize = 4 << 10;

/// The logs of a node. One for all of its agent.
#[derive(Debug)]
pub(crate) struct LogBook {
    folder: PathBuf,
    limits: LogsSection,
    pages: Mutex<Pages>,
}

#[derive(Debug)]
struct Pages {
    /// That of the agent itself.
    agent: Log,
    /// Those of its workers, by process.
    workers: BTreeMap<u64, Log>,
    /// Another one whenever a log begins or ends.
    version: u64,
}

#[derive(Debug, Clone)]
struct Log {
    label: LogLabel,
    path: PathBuf,
    /// The place of the file's first byte, cut out or not.
    base: u64,
    moments: Moments,
}

/// What lies beside a log.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Label {
    #[serde(flatten)]
    label: LogLabel,
    moments: Moments,
}

/// A log that is open for reading. Its places are those of the log as it was when it was opened.
#[derive(Debug)]
pub(super) struct OpenLog {
    pub(super) file: Arc<File>,
    /// The place of the file's first byte, which moves where a log cannot be cut in its place.
    pub(super) base: u64,
    moments: Moments,
}

impl LogBook {
    /// Of the node whose workers' logs lie in `folder`, where earlier agents may have left some, and whose agent's log is at
    /// `agent`.
    pub(crate) fn open(folder: PathBuf, agent: PathBuf, limits: LogsSection) -> Arc<LogBook> {
        let label = LogLabel { role: AGENT.to_owned(), began_ms: now_ms(), ..LogLabel::default() };
        let agent = Log { label, path: agent, base: 0, moments: Moments::default() };
        let workers = found_in(&folder);
        let book = LogBook { folder, limits, pages: Mutex::new(Pages { agent, workers, version: 0 }) };
        book.prune(now_ms());
        Arc::new(book)
    }

    /// Begins the log of a process: where it lies, and the file for its stdout and stderr.
    pub(crate) fn begin(&self, label: LogLabel) -> io::Result<(PathBuf, File)> {
        let role: String = label
            .role
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
            .take(48)
            .collect();
        let path = self.folder.join(format!("{:08}-{role}.log", label.process));
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let log = Log { label, path: path.clone(), base: 0, moments: Moments::default() };
        log.write_label();
        let mut pages = self.pages();
        pages.version += 1;
        pages.workers.insert(log.label.process, log);
        Ok((path, file))
    }

    /// A process has ended: from now on its log is one of those that are kept for a while.
    pub(crate) fn end(&self, process: u64, cause: &str) {
        let mut pages = self.pages();
        pages.version += 1;
        let Some(log) = pages.workers.get_mut(&process).filter(|log| log.label.end.is_none()) else { return };
        log.trim(self.limits.size.0);
        let cause = cause[..cause.floor_char_boundary(MAX_CAUSE)].to_owned();
        log.label.end = Some(LogEnd { at_ms: now_ms(), cause });
        log.write_label();
    }

    /// Notes how long the logs of the living have become, and cuts them.
    pub(crate) fn look(&self) {
        let now = now_ms();
        let mut pages = self.pages();
        let Pages { agent, workers, .. } = &mut *pages;
        let living = workers.values_mut().filter(|log| log.label.end.is_none());
        for log in std::iter::once(agent).chain(living) {
            log.trim(self.limits.size.0);
            if let Ok(meta) = fs::metadata(&log.path) {
                log.moments.note(now, log.base + meta.len());
            }
        }
    }

    /// Deletes what has ended and was kept long enough, or has no room; those that ended first go first.
    pub(crate) fn prune(&self, now_ms: u64) {
        let mut pages = self.pages();
        let mut ended: Vec<(u64, u64)> = pages
            .workers
            .values()
            .filter_map(|log| Some((log.label.end.as_ref()?.at_ms, log.label.process)))
            .collect();
        ended.sort_unstable();
        let mut bytes: u64 = pages.workers.values().map(|log| file::disk_bytes(&log.path)).sum();
        for (at, process) in ended {
            let is_old = now_ms.saturating_sub(at) >= self.limits.keep.0;
            if !is_old && bytes <= self.limits.total_bytes() && pages.workers.len() <= MAX_LOGS {
                break;
            }
            if let Some(log) = pages.workers.remove(&process) {
                bytes = bytes.saturating_sub(file::disk_bytes(&log.path));
                log.delete();
            }
        }
    }

    /// Those that `of` means, in the order in which they began: processes are numbered in it.
    pub(super) fn select(&self, of: &LogSelector) -> Vec<LogEntry> {
        let pages = self.pages();
        let all = std::iter::once(&pages.agent).chain(pages.workers.values());
        all.filter(|log| of.means(&log.label)).filter_map(Log::entry).collect()
    }

    /// Another number whenever a log has begun or ended.
    pub(super) fn version(&self) -> u64 {
        self.pages().version
    }

    /// Will nothing more be written into the process's log?
    pub(super) fn has_ended(&self, process: u64) -> bool {
        self.pages().log(process).is_none_or(|log| log.label.end.is_some())
    }

    /// How the process's log stands now; `None` where it is not kept any more.
    pub(super) fn entry(&self, process: u64) -> Option<LogEntry> {
        self.pages().log(process)?.entry()
    }

    /// Opens the log of `process`; 0 is the agent's own.
    pub(super) fn open_log(&self, process: u64) -> io::Result<OpenLog> {
        let log = self.pages().log(process).cloned().ok_or(io::ErrorKind::NotFound)?;
        let file = Arc::new(File::open(&log.path)?);
        Ok(OpenLog { file, base: log.base, moments: log.moments })
    }

    /// See [`OpenLog::base`].
    pub(super) fn base(&self, process: u64) -> Option<u64> {
        self.pages().log(process).map(|log| log.base)
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn log(&self, process: u64) -> Option<&Log> {
        match process {
            0 => Some(&self.agent),
            process => self.workers.get(&process),
        }
    }
}

impl OpenLog {
    /// What is there of it, as places.
    pub(super) fn kept(&self) -> io::Result<std::ops::Range<u64>> {
        let kept = file::kept(&self.file)?;
        Ok(self.base + kept.start..self.base + kept.end)
    }

    /// Where who wants the last `tail` lines, of what was written since `since_ms`, begins to read.
    pub(super) fn start(&self, tail: Option<u64>, since_ms: Option<u64>) -> io::Result<u64> {
        let kept = file::kept(&self.file)?;
        let mut start = file::first_line(&self.file, kept.clone())?;
        if let Some(since) = since_ms {
            start = start.max(self.moments.before(since).saturating_sub(self.base).min(kept.end));
        }
        if let Some(tail) = tail {
            start = start.max(file::last_lines(&self.file, kept, tail)?);
        }
        Ok(self.base + start)
    }
}

impl Log {
    fn entry(&self) -> Option<LogEntry> {
        let kept = File::open(&self.path).and_then(|file| file::kept(&file)).ok()?;
        let label = self.label.clone();
        Some(LogEntry { label, cut: self.base + kept.start, written: self.base + kept.end })
    }

    fn trim(&mut self, size: u64) {
        match file::trim(&self.path, size) {
            Ok(moved) => self.base += moved,
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "a log could not be cut"),
        }
    }

    /// It may be cut off by a crash: then the log is one of which little is known.
    fn write_label(&self) {
        let label = Label { label: self.label.clone(), moments: self.moments.clone() };
        let path = label_of(&self.path);
        let fresh = path.with_extension("new");
        let written = serde_json::to_vec(&label)
            .map_err(io::Error::other)
            .and_then(|text| {
                let mut file =
                    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
                io::Write::write_all(&mut file, &text)
            })
            .and_then(|()| fs::rename(&fresh, &path));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "whose a log is cannot be written down");
        }
    }

    fn delete(&self) {
        for path in [&self.path, &label_of(&self.path)] {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a log that was kept long enough is left");
            }
        }
    }
}

fn label_of(log: &Path) -> PathBuf {
    log.with_extension("json")
}

/// What earlier agents of the node have left: all of it has ended.
fn found_in(folder: &Path) -> BTreeMap<u64, Log> {
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let logs = paths.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.filter_map(|path| found(path).map(|log| (log.label.process, log))).collect()
}

fn found(path: PathBuf) -> Option<Log> {
    let (number, role) = path.file_stem()?.to_str()?.split_once('-')?;
    let process: u64 = number.parse().ok().filter(|process| *process > 0)?;
    let read = || {
        let path = label_of(&path);
        let is_small = fs::metadata(&path).is_ok_and(|meta| meta.len() <= MAX_LABEL);
        fs::read(path).ok().filter(|_| is_small).and_then(|text| read_label(&text))
    };
    let unknown = || LogLabel { process, role: role.to_owned(), ..LogLabel::default() };
    let Label { mut label, moments } = read()
        .filter(|found| found.label.process == process)
        .unwrap_or_else(|| Label { label: unknown(), moments: Moments::default() });
    let modified = fs::metadata(&path).and_then(|meta| meta.modified()).ok()?;
    let at_ms = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    label.end.get_or_insert_with(|| LogEnd { at_ms, cause: "ended with its node's agent".to_owned() });
    Some(Log { label, path, base: 0, moments })
}

/// Reads what lies beside a log.
pub(crate) fn read_label(text: &[u8]) -> Option<Label> {
    serde_json::from_slice(text).ok()
}
