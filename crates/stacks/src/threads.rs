//! The list of threads, from `/proc`.

use std::{fmt, fs, io, path::PathBuf};

use rustix::thread::Pid;

/// One thread and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thread {
    /// Its number on this machine.
    pub number: u32,
    /// Its name, of which the kernel keeps 15 bytes.
    pub name: String,
    /// What the kernel says of it: `running`, `sleeping`, ...
    pub state: &'static str,
    /// Its functions, the innermost first, with file and line where they are known; or why there are none.
    pub frames: Result<Vec<String>, String>,
}

impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "thread {} {:?}, {}", self.number, self.name, self.state)?;
        match &self.frames {
            Ok(frames) => frames.iter().try_for_each(|frame| writeln!(f, "    {frame}")),
            Err(why) => writeln!(f, "    ({why})"),
        }
    }
}

/// The threads of this process, by number.
pub(crate) fn list() -> io::Result<Vec<Pid>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        threads.extend(number.and_then(Pid::from_raw));
    }
    threads.sort_unstable_by_key(|thread: &Pid| thread.as_raw_nonzero());
    Ok(threads)
}

/// A thread's name and state, unless it has ended.
pub(crate) fn look(thread: Pid) -> Option<(String, &'static str)> {
    let folder = PathBuf::from(format!("/proc/self/task/{}", thread.as_raw_nonzero()));
    let name = fs::read_to_string(folder.join("comm")).ok()?.trim_end().to_owned();
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // The name stands in parentheses and may have any character in it.
    let state = match stat.rsplit_once(") ")?.1.chars().next()? {
        'R' => "running",
        'S' => "sleeping",
        'D' => "in a system call that nothing interrupts",
        'T' | 't' => "stopped",
        _ => "ending",
    };
    Some((name, state))
}
