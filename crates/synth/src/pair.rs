//! An instruction-response pair, of one of four kinds, and its exact form in the synthesizer's language.

use serde::{Deserialize, Serialize};

/// What separates a question from its options.
pub const OPTIONS: &str = "\nOptions:";

/// What each option begins with.
pub const OPTION: &str = "\n- ";

/// How a question asks for reasoning: its last line.
pub const STEP_BY_STEP: &str = "\nLet's think step by step.";

/// How an answer ends its reasoning: the beginning of its last line.
pub const THEREFORE: &str = "\nTherefore, the answer is ";

/// The four kinds of pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A question and a free answer.
    Plain,
    /// The answer is one of the options.
    Options,
    /// The answer is reached by reasoning.
    Reasoning,
    /// One of the options, reached by reasoning.
    Both,
}

/// A well-formed pair: question and answer are not empty, the answer of one with options is one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenPair", into = "WrittenPair")]
pub struct Pair {
    question: String,
    options: Vec<String>,
    reasoning: Option<String>,
    answer: String,
}

/// A pair as two strings, the form it has in files and in the synthesizer's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenPair {
    /// With `\nOptions:\n- ...` and `\nLet's think step by step.` where the kind has them.
    pub question: String,
    /// With the reasoning and `\nTherefore, the answer is X` where the kind has it.
    pub answer: String,
}

/// Why two strings are no pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Malformed {
    /// The question is empty, also before its options.
    #[error("empty question")]
    EmptyQuestion,
    /// The answer is empty.
    #[error("empty answer")]
    EmptyAnswer,
    /// Fewer than two options, an empty one, the same one twice, or text that is no option among them.
    #[error("malformed options")]
    Options,
    /// The answer is none of the options.
    #[error("answer is none of the options")]
    NotAnOption,
    /// Reasoning was asked for, and the answer has none, or no conclusion of one line.
    #[error("malformed reasoning")]
    Reasoning,
}

impl Pair {
    /// A pair with a free answer.
    pub fn plain(question: &str, answer: &str) -> Result<Self, Malformed> {
        Self::new(question, &[], None, answer)
    }

    /// A pair from its parts; empty `options` mean none. White space around each part is dropped.
    pub fn new(
        question: &str,
        options: &[&str],
        reasoning: Option<&str>,
        answer: &str,
    ) -> Result<Self, Malformed> {
        let question = question.trim().to_owned();
        let answer = answer.trim().to_owned();
        let options: Vec<String> = options.iter().map(|option| option.trim().to_owned()).collect();
        let reasoning = reasoning.map(|reasoning| reasoning.trim().to_owned());
        if question.is_empty() {
            return Err(Malformed::EmptyQuestion);
        }
        if answer.is_empty() {
            return Err(Malformed::EmptyAnswer);
        }
        if reasoning.as_ref().is_some_and(String::is_empty) || (reasoning.is_some() && answer.contains('\n'))
        {
            return Err(Malformed::Reasoning);
        }
        if question.contains(OPTIONS) {
            return Err(Malformed::Options);
        }
        if question.ends_with(STEP_BY_STEP) {
            return Err(Malformed::Reasoning);
        }
        if !options.is_empty() {
            let repeated = |at: usize| options[..at].contains(&options[at]);
            let bad = |at: usize| options[at].is_empty() || options[at].contains('\n') || repeated(at);
            if options.len() < 2 || (0..options.len()).any(bad) {
                return Err(Malformed::Options);
            }
            if !options.contains(&answer) {
                return Err(Malformed::NotAnOption);
            }
        }
        Ok(Self { question, options, reasoning, answer })
    }

    /// Reads a pair from the synthesizer's two strings.
    pub fn read(question: &str, answer: &str) -> Result<Self, Malformed> {
        // Not trimmed at its start: a question may be nothing but its options' line.
        let (question, answer) = (question.trim_end(), answer.trim());
        let (question, asks_reasoning) = match question.strip_suffix(STEP_BY_STEP) {
            Some(question) => (question, true),
            None => (question, false),
        };
        let (question, options) = match question.split_once(OPTIONS) {
            Some((question, listed)) => (question, read_options(listed)?),
            None => (question, Vec::new()),
        };
        let (reasoning, answer) = if asks_reasoning {
            let (reasoning, conclusion) = answer.rsplit_once(THEREFORE).ok_or(Malformed::Reasoning)?;
            (Some(reasoning), without_full_stop(conclusion.trim(), &options))
        } else {
            (None, answer)
        };
        Self::new(question, &options, reasoning, answer)
    }

    /// The pair as the synthesizer writes it.
    pub fn written(&self) -> WrittenPair {
        let mut question = self.question.clone();
        if !self.options.is_empty() {
            question.push_str(OPTIONS);
            for option in &self.options {
                question.push_str(OPTION);
                question.push_str(option);
            }
        }
        let mut answer = String::new();
        if let Some(reasoning) = &self.reasoning {
            question.push_str(STEP_BY_STEP);
            answer.push_str(reasoning);
            answer.push_str(THEREFORE);
        }
        answer.push_str(&self.answer);
        WrittenPair { question, answer }
    }

    /// Which of the four it is.
    pub fn kind(&self) -> Kind {
        match (self.options.is_empty(), self.reasoning.is_some()) {
            (true, false) => Kind::Plain,
            (false, false) => Kind::Options,
            (true, true) => Kind::Reasoning,
            (false, true) => Kind::Both,
        }
    }

    /// The question alone, without options and without the demand for reasoning.
    pub fn question(&self) -> &str {
        &self.question
    }

    /// The options; empty when there are none, else at least two different ones.
    pub fn options(&self) -> &[String] {
        &self.options
    }

    /// The reasoning that leads to the answer.
    pub fn reasoning(&self) -> Option<&str> {
        self.reasoning.as_deref()
    }

    /// The answer alone; with options, the text of one of them.
    pub fn answer(&self) -> &str {
        &self.answer
    }
}

impl TryFrom<WrittenPair> for Pair {
    type Error = Malformed;

    fn try_from(written: WrittenPair) -> Result<Self, Malformed> {
        Self::read(&written.question, &written.answer)
    }
}

impl From<Pair> for WrittenPair {
    fn from(pair: Pair) -> Self {
        pair.written()
    }
}

fn read_options(listed: &str) -> Result<Vec<&str>, Malformed> {
    let mut options = listed.split(OPTION);
    if options.next().is_some_and(|before| !before.trim().is_empty()) {
        return Err(Malformed::Options);
    }
    let options: Vec<&str> = options.collect();
    if options.is_empty() { Err(Malformed::Options) } else { Ok(options) }
}

/// A conclusion may end its sentence where the option does not.
fn without_full_stop<'a>(conclusion: &'a str, options: &[&str]) -> &'a str {
    match conclusion.strip_suffix('.') {
        Some(shorter)
            if !options.iter().any(|option| option.trim() == conclusion)
                && (options.is_empty() || options.iter().any(|option| option.trim() == shorter.trim())) =>
        {
            shorter
        }
        _ => conclusion,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_written_exactly_and_read_again() {
        let cases = [
            (Pair::plain("What is it?", "A cat.").unwrap(), Kind::Plain, "What is it?", "A cat."),
            (
                Pair::new("Pick.", &["a", "b"], None, "b").unwrap(),
                Kind::Options,
                "Pick.\nOptions:\n- a\n- b",
                "b",
            ),
            (
                Pair::new("Why?", &[], Some("It rains."), "rain").unwrap(),
                Kind::Reasoning,
                "Why?\nLet's think step by step.",
                "It rains.\nTherefore, the answer is rain",
            ),
            (
                Pair::new("Which?", &["x", "y"], Some("Not y."), "x").unwrap(),
                Kind::Both,
                "Which?\nOptions:\n- x\n- y\nLet's think step by step.",
                "Not y.\nTherefore, the answer is x",
            ),
        ];
        for (pair, kind, question, answer) in cases {
            assert_eq!(pair.kind(), kind);
            let written = pair.written();
            assert_eq!((written.question.as_str(), written.answer.as_str()), (question, answer));
            assert_eq!(Pair::read(question, answer), Ok(pair));
        }
    }

    #[test]
    fn what_is_no_pair_is_refused_with_its_reason() {
        let cases = [
            (" ", "a", Malformed::EmptyQuestion),
            ("q", "\n", Malformed::EmptyAnswer),
            ("\nOptions:\n- a\n- b", "a", Malformed::EmptyQuestion),
            ("q\nOptions:\n- a", "a", Malformed::Options),
            ("q\nOptions:\n- a\n- a", "a", Malformed::Options),
            ("q\nOptions: a, b", "a", Malformed::Options),
            ("q\nOptions:\n- a\n- b", "c", Malformed::NotAnOption),
            ("q\nLet's think step by step.", "just so", Malformed::Reasoning),
            ("q\nLet's think step by step.", "Therefore, the answer is x", Malformed::Reasoning),
            (
                "q\nOptions:\n- a\n- b\nLet's think step by step.",
                "r\nTherefore, the answer is c",
                Malformed::NotAnOption,
            ),
        ];
        for (question, answer, reason) in cases {
            assert_eq!(Pair::read(question, answer), Err(reason), "{question:?} {answer:?}");
        }
    }

    #[test]
    fn a_conclusion_may_end_with_a_full_stop() {
        let pair =
            Pair::read("q\nOptions:\n- a\n- b.\nLet's think step by step.", "r\nTherefore, the answer is a.");
        assert_eq!(pair.unwrap().answer(), "a");
        let pair =
            Pair::read("q\nOptions:\n- a\n- b.\nLet's think step by step.", "r\nTherefore, the answer is b.");
        assert_eq!(pair.unwrap().answer(), "b.");
    }
}
