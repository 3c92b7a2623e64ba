//! What a work came to, for people and for files.

use serde::Serialize;

use crate::round::Rounds;

/// One work, ours beside one other party's. Rates: more is better.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was done.
    pub work: String,
    /// What is counted.
    pub unit: String,
    /// Our median.
    pub ours: f64,
    /// Theirs; absent where there was no other party.
    pub peer: Option<f64>,
    /// Who they are.
    pub peer_name: Option<String>,
    /// Ours over theirs.
    pub ratio: Option<f64>,
    /// The least that the ratio, or where there is no other party our figure, should be.
    pub floor: Option<f64>,
    /// Quantiles of our latencies in microseconds, where calls were made one at a time.
    pub ours_us: Option<Latencies>,
    /// Theirs.
    pub peer_us: Option<Latencies>,
}

/// Quantiles of latencies, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latencies {
    /// Half are below.
    pub p50: f64,
    /// One in a hundred is above.
    pub p99: f64,
}

impl Latencies {
    fn of(rounds: &Rounds) -> Option<Self> {
        Some(Self { p50: rounds.latency(0.5)?, p99: rounds.latency(0.99)? })
    }
}

impl Row {
    /// Of our rounds, and another party's by name with the ratio's floor.
    pub fn new(work: &str, unit: &str, ours: &Rounds, other: Option<(&str, &Rounds, Option<f64>)>) -> Self {
        let rate = ours.rate().unwrap_or_default();
        let peer = other.and_then(|(_, rounds, _)| rounds.rate());
        Self {
            work: work.into(),
            unit: unit.into(),
            ours: rate,
            peer,
            peer_name: other.map(|(name, ..)| name.into()),
            ratio: peer.filter(|peer| *peer > 0.0).map(|peer| rate / peer),
            floor: other.and_then(|(.., floor)| floor),
            ours_us: Latencies::of(ours),
            peer_us: other.and_then(|(_, rounds, _)| Latencies::of(rounds)),
        }
    }

    /// Of a figure of ours that may be `allowed` at most: the ratio is what is allowed over ours.
    pub fn within(work: &str, unit: &str, ours: f64, allowed: f64) -> Self {
        Self {
            work: work.into(),
            unit: unit.into(),
            ours,
            peer: Some(allowed),
            peer_name: Some("allowed".into()),
            ratio: (ours > 0.0).then(|| allowed / ours),
            floor: Some(1.0),
            ours_us: None,
            peer_us: None,
        }
    }

    /// The same with a floor on our own figure.
    pub fn with_floor(self, floor: f64) -> Self {
        Self { floor: Some(floor), ..self }
    }

    /// Whether the floor is kept; nothing can be said without one.
    pub fn keeps_floor(&self) -> Option<bool> {
        let held = if self.peer_name.is_some() { self.ratio? } else { self.ours };
        Some(held >= self.floor?)
    }
}

/// The rows as a table.
pub fn table(rows: &[Row]) -> String {
    let head = ["work", "unit", "ours", "p50/p99 us", "beside", "theirs", "p50/p99 us", "ratio", "floor", ""];
    let mut lines = vec![head.map(String::from)];
    let latencies = |found: Option<Latencies>| {
        found.map_or(String::new(), |found| format!("{:.0}/{:.0}", found.p50, found.p99))
    };
    let number = |found: Option<f64>| found.map_or(String::new(), short);
    for row in rows {
        let kept = match row.keeps_floor() {
            Some(true) => "kept",
            Some(false) => "MISSED",
            None => "",
        };
        lines.push([
            row.work.clone(),
            row.unit.clone(),
            short(row.ours),
            latencies(row.ours_us),
            row.peer_name.clone().unwrap_or_default(),
            number(row.peer),
            latencies(row.peer_us),
            number(row.ratio),
            number(row.floor),
            kept.into(),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            // Words to the left, numbers to the right.
            if [0, 1, 4, 9].contains(&column) { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value.abs() {
        big if big >= 1e6 => format!("{:.2}M", value / 1e6),
        big if big >= 1e4 => format!("{:.1}k", value / 1e3),
        big if big >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::Round;

    fn rounds(done: u64) -> Rounds {
        let mut rounds = Rounds::default();
        rounds.add(Round { done, seconds: 1.0, latencies_us: Vec::new() });
        rounds
    }

    #[test]
    fn a_floor_is_held_against_the_ratio_or_without_a_peer_against_the_figure() {
        let (ours, theirs) = (rounds(600), rounds(100));
        let row = |floor| Row::new("call", "calls/s", &ours, Some(("ray", &theirs, floor)));
        assert_eq!(row(Some(6.0)).keeps_floor(), Some(true));
        assert_eq!(row(Some(6.1)).keeps_floor(), Some(false));
        assert_eq!(row(None).keeps_floor(), None);
        let alone = Row::new("spawn", "actors/s", &ours, None);
        assert_eq!(alone.keeps_floor(), None);
        assert_eq!(alone.clone().with_floor(600.0).keeps_floor(), Some(true));
        assert_eq!(alone.with_floor(601.0).keeps_floor(), Some(false));
        let silent = Row::new("call", "calls/s", &ours, Some(("ray", &Rounds::default(), Some(1.0))));
        assert_eq!((silent.ratio, silent.keeps_floor()), (None, None));
    }

    #[test]
    fn what_may_be_so_much_at_most_keeps_its_floor_while_it_is_no_more() {
        assert_eq!(Row::within("memory", "MiB", 29.0, 30.0).keeps_floor(), Some(true));
        assert_eq!(Row::within("memory", "MiB", 31.0, 30.0).keeps_floor(), Some(false));
    }

    #[test]
    fn a_file_has_the_keys_that_readers_expect() {
        let row = Row::new("call", "calls/s", &rounds(600), Some(("ray", &rounds(100), Some(6.0))));
        let json = serde_json::to_value(&row).unwrap();
        for key in ["work", "unit", "ours", "peer", "peer_name", "ratio", "floor"] {
            assert!(!json[key].is_null(), "{key} of {json}");
        }
        let table = table(&[row]);
        assert!(table.contains("6.00") && table.trim_end().ends_with("kept"), "{table}");
    }
}
