//! How good a synthesizer is on texts it never saw.
//!
//! A generated question is recognised by its phrasing, and its right answer computed from the
//! text as for our own pairs: so a model that asks what it likes can be judged. A question that
//! the text does not answer, or whose options hold no single right one, counts as answered wrongly.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

use anyhow::Result;
use lyceum_synth::pair::Pair;
use lyceum_synth::parse::parse;
use serde::Deserialize;

use crate::output::{self, Document};
use crate::tasks::{Category, judge, read_question};
use crate::text::Text;

/// What a synthesizer has to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// Share of outputs from which at least one pair is read.
    pub parseable: f64,
    /// Pairs a text, on average over all texts.
    pub pairs_a_text: f64,
    /// Share of the name questions whose answer is the name, exactly.
    pub names: f64,
    /// Points by which the accuracy of each closed category beats its majority answer.
    pub points: f64,
    /// A closed category with fewer questions cannot be judged, and so is wanting.
    pub fewest: usize,
}

impl Default for Gate {
    fn default() -> Self {
        Self { parseable: 0.95, pairs_a_text: 2.0, names: 0.9, points: 15.0, fewest: 10 }
    }
}

/// Outputs, as they are judged one by one.
#[derive(Debug, Default)]
pub struct Judgement {
    texts: usize,
    parseable: usize,
    pairs: usize,
    dropped: BTreeMap<String, u64>,
    unrecognised: usize,
    categories: BTreeMap<Category, Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    asked: usize,
    answerable: usize,
    exact: usize,
    f1: f64,
    /// F1 of the whole context, taken for the answer.
    context_f1: f64,
    golds: BTreeMap<String, usize>,
    places: BTreeMap<usize, usize>,
}

/// What a synthesizer wrote about one text.
#[derive(Deserialize)]
struct Output {
    id: String,
    output: String,
}

impl Judgement {
    /// Judges the `outputs` (JSON lines with `id` and `output`) about the `contexts` (with `id` and `text`). A text without
    /// an output counts as one that gave nothing.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn of_files(contexts: &Path, outputs: &Path) -> Result<Self> {
        let outputs: BTreeMap<String, String> =
            output::read(outputs)?.into_iter().map(|row: Output| (row.id, row.output)).collect();
        let mut judgement = Self::default();
        for context in output::read::<Document>(contexts)? {
            judgement.add(&context.text, outputs.get(&context.id).map(String::as_str).unwrap_or_default());
        }
        Ok(judgement)
    }

    /// Judges what a synthesizer wrote about `context` (all after `</CON>\n\n`, without `</s>`).
    pub fn add(&mut self, context: &str, output: &str) {
        let parsed = parse(output);
        for (reason, count) in parsed.accounts.dropped {
            *self.dropped.entry(reason).or_default() += count;
        }
        self.texts += 1;
        self.parseable += usize::from(!parsed.pairs.is_empty());
        self.pairs += parsed.pairs.len();
        for pair in &parsed.pairs {
            self.judge(context, pair);
        }
    }

    fn judge(&mut self, context: &str, pair: &Pair) {
        let Some(asked) = read_question(pair) else {
            self.unrecognised += 1;
            return;
        };
        let gold = Text::parse(context).and_then(|text| judge(&text, &asked));
        let tally = self.categories.entry(asked.category).or_default();
        tally.asked += 1;
        let Some(gold) = gold else { return };
        tally.answerable += 1;
        tally.exact += usize::from(pair.answer() == gold);
        tally.f1 += f1(pair.answer(), &gold);
        tally.context_f1 += f1(context, &gold);
        if let Some(place) = asked.options.iter().position(|option| *option == gold) {
            *tally.places.entry(place).or_default() += 1;
        }
        *tally.golds.entry(gold).or_default() += 1;
    }

    /// The figures.
    pub fn report(&self) -> Report {
        let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let rows: Vec<Row> = self
            .categories
            .iter()
            .map(|(&category, tally)| {
                let commonest = |counts: Vec<usize>| counts.into_iter().max().unwrap_or_default();
                let majority = commonest(tally.golds.values().copied().collect())
                    .max(commonest(tally.places.values().copied().collect()));
                Row {
                    category,
                    asked: tally.asked,
                    answerable: tally.answerable,
                    accuracy: share(tally.exact, tally.asked),
                    majority: share(majority, tally.asked),
                    f1: tally.f1 / tally.asked.max(1) as f64,
                    context_f1: tally.context_f1 / tally.asked.max(1) as f64,
                }
            })
            .collect();
        let free: Vec<&Row> = rows.iter().filter(|row| !row.category.is_closed()).collect();
        let asked: usize = free.iter().map(|row| row.asked).sum();
        let mean = |of: fn(&Row) -> f64| {
            free.iter().map(|row| of(row) * row.asked as f64).sum::<f64>() / asked.max(1) as f64
        };
        Report {
            texts: self.texts,
            parseable: share(self.parseable, self.texts),
            pairs_a_text: self.pairs as f64 / self.texts.max(1) as f64,
            names: rows.iter().find(|row| row.category == Category::Name).map_or(0.0, |row| row.accuracy),
            free_f1: mean(|row| row.f1),
            context_f1: mean(|row| row.context_f1),
            unrecognised: self.unrecognised,
            dropped: self.dropped.clone(),
            rows,
        }
    }
}

/// The figures of a synthesizer.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Texts that were judged.
    pub texts: usize,
    /// Share of outputs with at least one pair.
    pub parseable: f64,
    /// Pairs a text.
    pub pairs_a_text: f64,
    /// Share of name questions answered with the exact name.
    pub names: f64,
    /// Mean F1 (of words) of all free answers.
    pub free_f1: f64,
    /// The same, had the whole context been the answer.
    pub context_f1: f64,
    /// Pairs whose question is none of our phrasings.
    pub unrecognised: usize,
    /// Dropped pairs by reason.
    pub dropped: BTreeMap<String, u64>,
    /// One row per category that was asked.
    pub rows: Vec<Row>,
}

/// The figures of one category. Shares are of all its questions.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The category.
    pub category: Category,
    /// Its questions.
    pub asked: usize,
    /// Those that the text answers.
    pub answerable: usize,
    /// Share answered exactly.
    pub accuracy: f64,
    /// Share that the best constant answer (or the best constant option) would get.
    pub majority: f64,
    /// Mean F1 of the answers' words.
    pub f1: f64,
    /// Mean F1 of the context's words, had it been the answer.
    pub context_f1: f64,
}

impl Row {
    /// Points above the majority answer.
    pub fn points(&self) -> f64 {
        (self.accuracy - self.majority) * 100.0
    }
}

impl Report {
    /// What the gate finds wanting, one line each; nothing when it is passed.
    pub fn shortfalls(&self, gate: &Gate) -> Vec<String> {
        let mut shortfalls = self.fatal_shortfalls(gate);
        if self.names < gate.names {
            shortfalls.push(format!(
                "names: {:.1}% copied exactly, {:.0}% wanted",
                self.names * 100.0,
                gate.names * 100.0
            ));
        }
        for category in Category::ALL.into_iter().filter(|category| category.is_closed()) {
            let row = self.rows.iter().find(|row| row.category == category);
            let (name, asked) = (category.name(), row.map_or(0, |row| row.asked));
            match row.filter(|_| asked >= gate.fewest).map(Row::points) {
                Some(points) if points < gate.points => {
                    let wanted = gate.points;
                    shortfalls.push(format!(
                        "{name}: {points:.1} points above the majority answer, {wanted} wanted"
                    ));
                }
                None if asked < gate.fewest => {
                    shortfalls.push(format!("{name}: asked {asked} times, too few to judge"));
                }
                Some(_) | None => {}
            }
        }
        if self.free_f1 <= self.context_f1 {
            shortfalls.push(format!(
                "free answers: F1 {:.3}, not above that of the context, {:.3}",
                self.free_f1, self.context_f1
            ));
        }
        shortfalls
    }

    /// The part of [`Report::shortfalls`] without which a demo makes no sense: pairs that can be
    /// read, and enough of them.
    pub fn fatal_shortfalls(&self, gate: &Gate) -> Vec<String> {
        let mut shortfalls = Vec::new();
        if self.parseable < gate.parseable {
            shortfalls.push(format!(
                "parseable: {:.1}% of the outputs, {:.0}% wanted",
                self.parseable * 100.0,
                gate.parseable * 100.0
            ));
        }
        if self.pairs_a_text < gate.pairs_a_text {
            shortfalls.push(format!("pairs a text: {:.2}, {} wanted", self.pairs_a_text, gate.pairs_a_text));
        }
        shortfalls
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| format!("{:.1}%", share * 100.0);
        writeln!(f, "{} texts of source packages never seen", self.texts)?;
        writeln!(f, "  parseable outputs       {:>8}", percent(self.parseable))?;
        writeln!(f, "  pairs a text            {:>8.2}", self.pairs_a_text)?;
        writeln!(f, "  names copied exactly    {:>8}", percent(self.names))?;
        writeln!(
            f,
            "  F1 of free answers      {:>8.3}   (the context as answer: {:.3})",
            self.free_f1, self.context_f1
        )?;
        writeln!(f, "  questions not ours      {:>8}", self.unrecognised)?;
        let dropped: Vec<String> =
            self.dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        writeln!(
            f,
            "  pairs dropped           {:>8}",
            if dropped.is_empty() { "none".into() } else { dropped.join(", ") }
        )?;
        writeln!(
            f,
            "  {:<15}{:>7}{:>12}{:>8}{:>10}{:>8}{:>7}{:>12}",
            "category", "asked", "answerable", "exact", "majority", "points", "F1", "F1 context"
        )?;
        for row in &self.rows {
            write!(
                f,
                "  {:<15}{:>7}{:>12}{:>8}",
                row.category.name(),
                row.asked,
                row.answerable,
                percent(row.accuracy)
            )?;
            if row.category.is_closed() {
                let judged = if row.asked < Gate::default().fewest { "   too few to judge" } else { "" };
                writeln!(f, "{:>10}{:>+8.1}{judged}", percent(row.majority), row.points())?;
            } else {
                writeln!(f, "{:>10}{:>8}{:>7.3}{:>12.3}", "", "", row.f1, row.context_f1)?;
            }
        }
        let unasked: Vec<&str> = Category::ALL
            .into_iter()
            .filter(|category| self.rows.iter().all(|row| row.category != *category))
            .map(Category::name)
            .collect();
        if !unasked.is_empty() {
            writeln!(f, "  never asked, so not judged: {}", unasked.join(", "))?;
        }
        Ok(())
    }
}

/// F1 of the words that two answers share, as SQuAD counts it: case, articles and punctuation
/// aside. 1 if both are empty.
pub fn f1(answer: &str, gold: &str) -> f64 {
    let (answer, gold) = (bag(answer), bag(gold));
    let total = |bag: &BTreeMap<String, usize>| bag.values().sum::<usize>();
    if total(&answer) + total(&gold) == 0 {
        return 1.0;
    }
    let both: usize =
        gold.iter().map(|(word, count)| answer.get(word).copied().unwrap_or_default().min(*count)).sum();
    2.0 * both as f64 / (total(&answer) + total(&gold)) as f64
}

fn bag(text: &str) -> BTreeMap<String, usize> {
    let mut bag = BTreeMap::new();
    for word in text.to_lowercase().split_whitespace() {
        let word: String = word.chars().filter(|c| c.is_alphanumeric()).collect();
        if !word.is_empty() && !["a", "an", "the"].contains(&word.as_str()) {
            *bag.entry(word).or_default() += 1;
        }
    }
    bag
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For outputs of a handful of texts.
    const FEW: Gate = Gate { parseable: 0.95, pairs_a_text: 2.0, names: 0.9, points: 15.0, fewest: 0 };

    const CONTEXT: &str = "libfoo-dev - a foo\n\nThis package contains the header files.";

    fn judged(outputs: &[&str]) -> Report {
        let mut judgement = Judgement::default();
        for output in outputs {
            judgement.add(CONTEXT, output);
        }
        judgement.report()
    }

    fn row(report: &Report, category: Category) -> &Row {
        report.rows.iter().find(|row| row.category == category).expect("it was asked")
    }

    #[test]
    fn a_good_synthesizer_is_told_from_a_bad_one() {
        let name = |name: &str| format!("<QUE> What is the package called? <ANS> {name} </END>");
        let contents = "<QUE> What does this package contain? <ANS> the header files </END>";
        let good = format!("{}\n\n{contents}", name("libfoo-dev"));
        let report = judged(&[&good, &good]);
        assert_eq!((report.texts, report.parseable, report.pairs_a_text, report.names), (2, 1.0, 2.0, 1.0));
        assert!(report.free_f1 > 0.99 && report.context_f1 < 0.6, "{report}");
        assert_eq!(report.shortfalls(&FEW), Vec::<String>::new());

        let report = judged(&[&name("libfo-dev"), "nothing"]);
        assert_eq!((report.parseable, report.pairs_a_text, report.names), (0.5, 0.5, 0.0));
        assert_eq!(report.fatal_shortfalls(&FEW).len(), 2);
        assert_eq!(report.shortfalls(&FEW).len(), 4, "{:?}", report.shortfalls(&FEW));
    }

    #[test]
    fn questions_that_the_model_chose_are_judged_by_the_text() {
        let role = |options: &str, answer: &str| {
            format!("<QUE> What kind of package is libfoo-dev?\nOptions:{options} <ANS> {answer} </END>")
        };
        let report = judged(&[
            &role("\n- development files\n- fonts", "development files"),
            &role("\n- fonts\n- development files", "fonts"),
            &role("\n- fonts\n- tools", "tools"),
            "<QUE> What is libbar in short? <ANS> a foo </END>",
            "<QUE> Who are you? <ANS> me </END>",
        ]);
        let asked = row(&report, Category::Role);
        assert_eq!((asked.asked, asked.answerable), (3, 2));
        assert!((asked.accuracy - 1.0 / 3.0).abs() < 1e-9);
        assert!((asked.majority - 2.0 / 3.0).abs() < 1e-9, "development files are right twice");
        assert_eq!(row(&report, Category::Summary).answerable, 0);
        assert_eq!(report.unrecognised, 1);
        assert!(report.to_string().contains("too few to judge"), "{report}");
    }

    #[test]
    fn a_constant_answer_earns_no_points() {
        let question = "<QUE> What kind of package is libfoo-dev?\nLet's think step by step. \
                        <ANS> So.\nTherefore, the answer is development files </END>";
        let report = judged(&[question; 12]);
        let role = row(&report, Category::Role);
        assert_eq!((role.accuracy, role.majority, role.points()), (1.0, 1.0, 0.0));
        let shortfalls = report.shortfalls(&Gate::default());
        assert!(shortfalls.contains(&"role: 0.0 points above the majority answer, 15 wanted".to_owned()));
        // What it did not ask cannot be said to be known.
        assert!(shortfalls.contains(&"language: asked 0 times, too few to judge".to_owned()));
        let text = report.to_string();
        assert!(text.contains("never asked, so not judged: name, identity, summary"), "{text}");
    }

    #[test]
    fn nothing_judged_is_no_success() {
        assert!(!Judgement::default().report().fatal_shortfalls(&Gate::default()).is_empty());
    }

    #[test]
    fn f1_counts_shared_words() {
        assert_eq!(f1("the header files", "Header files."), 1.0);
        assert_eq!(f1("header", "header files"), 2.0 / 3.0);
        assert_eq!(f1("x", "y"), 0.0);
        assert_eq!(f1("", ""), 1.0);
    }
}
