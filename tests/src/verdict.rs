//! When a death was found, as the cluster's own logs tell it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The time of the first line of any log under `state` that was written from `after` on and has all of `words`.
pub fn first_told(state: &Path, after: SystemTime, words: &[&str]) -> Option<SystemTime> {
    let mut logs = Vec::new();
    find_logs(state, &mut logs);
    let told = |log: &PathBuf| {
        let text =
            fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines = text.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        lines.filter_map(time_of).find(|&time| time >= after)
    };
    logs.iter().filter_map(told).min()
}

fn find_logs(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            find_logs(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
}

/// The time that a line begins with: `2026-11-22T23:05:21.123456Z`, in UTC.
fn time_of(line: &str) -> Option<SystemTime> {
    let stamp = line.split(' ').next()?.strip_suffix('Z')?;
    let (date, time) = stamp.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (whole, fraction) = time.split_once('.')?;
    let mut whole = whole.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (whole.next()??, whole.next()??, whole.next()??);
    let micros: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    // Days since 1970 by the civil calendar, whose years begin in March here.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    let seconds = u64::try_from(days).ok()? * 86_400 + hour * 3600 + minute * 60 + second;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_lines_are_seconds_since_1970() {
        let seconds = |line| time_of(line).map(|time| time.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        assert_eq!(seconds("1970-01-01T00:00:00.000001Z  INFO x"), Some(Duration::from_micros(1)));
        let told = seconds("2026-11-22T23:05:21.250000Z  WARN lyceum: y");
        assert_eq!(told, Some(Duration::from_secs_f64(1_795_388_721.25)));
        assert_eq!(seconds("2024-02-29T00:00:00.0Z z"), Some(Duration::from_secs(1_709_164_800)));
        assert_eq!(seconds("error: no time at all"), None);
    }
}
