//! Families of templates, one for each kind of pair.

use crate::pair::Kind;

/// How a pair is put into words. `{question}`, `{options}`, `{reasoning}` and `{answer}` stand for its parts.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) question: &'static str,
    pub(super) joint: &'static str,
    pub(super) answer: &'static str,
}

/// The parts of a pair.
pub(super) struct Fields<'a> {
    pub(super) question: &'a str,
    pub(super) options: &'a str,
    pub(super) reasoning: &'a str,
    pub(super) answer: &'a str,
}

impl Fields<'_> {
    /// Puts the parts into a pattern, in one pass: braces in a part are left as they are.
    pub(super) fn fill(&self, pattern: &str) -> String {
        let mut filled = String::new();
        let mut rest = pattern;
        while let Some((before, after)) = rest.split_once('{') {
            filled.push_str(before);
            let (name, after) = after.split_once('}').unwrap_or((after, ""));
            filled.push_str(match name {
                "question" => self.question,
                "options" => self.options,
                "reasoning" => self.reasoning,
                _ => self.answer,
            });
            rest = after;
        }
        filled.push_str(rest);
        filled
    }
}

const fn template(question: &'static str, joint: &'static str, answer: &'static str) -> Template {
    Template { question, joint, answer }
}

/// The family of a kind. Its first template has no words around, for conversations and lists.
pub(super) fn family(kind: Kind) -> &'static [Template] {
    match kind {
        Kind::Plain => &FREE,
        Kind::Options => &CHOICE,
        Kind::Reasoning => &REASONED,
        Kind::Both => &REASONED_CHOICE,
    }
}

static FREE: [Template; 10] = [
    template("{question}", " ", "{answer}"),
    template("{question}", "\n", "{answer}"),
    template("Question: {question}", "\n", "Answer: {answer}"),
    template("Q: {question}", "\n", "A: {answer}"),
    template("Question: {question}", " ", "Answer: {answer}"),
    template("[Question] {question}", "\n", "[Answer] {answer}"),
    template("Asked: {question}", "\n", "Answered: {answer}"),
    template("From the text above: {question}", "\n", "{answer}"),
    template("* {question}", "\n", "  {answer}"),
    template("Problem: {question}", "\n", "Solution: {answer}"),
];

static CHOICE: [Template; 8] = [
    template("{question}\n{options}", "\n", "{answer}"),
    template("{question}\n{options}", "\n", "Answer: {answer}"),
    template("Question: {question}\n{options}", "\n", "Answer: {answer}"),
    template("Q: {question}\nChoices:\n{options}", "\n", "A: {answer}"),
    template("{question} Choose one.\n{options}", "\n", "{answer}"),
    template("Question: {question}\nPossible answers:\n{options}", "\n", "Correct answer: {answer}"),
    template("Which of these fits? {question}\n{options}", "\n", "The one that fits: {answer}"),
    template("Quiz: {question}\n{options}", "\n", "Right choice: {answer}"),
];

static REASONED: [Template; 7] = [
    template("{question}", "\n", "{reasoning} So the answer is {answer}."),
    template("{question}", "\n", "{reasoning}\nAnswer: {answer}"),
    template("Question: {question}", "\n", "Reasoning: {reasoning}\nAnswer: {answer}"),
    template("Q: {question} Explain.", "\n", "A: {reasoning} That gives {answer}."),
    template("{question} Give your reasons first.", "\n", "{reasoning}\nConclusion: {answer}"),
    template("Question: {question}", "\n", "Thinking it through: {reasoning}\nResult: {answer}"),
    template("{question} Work it out.", "\n", "{reasoning} Hence: {answer}"),
];

static REASONED_CHOICE: [Template; 6] = [
    template("{question}\n{options}", "\n", "{reasoning} So the answer is {answer}."),
    template("Question: {question}\n{options}", "\n", "Reasoning: {reasoning}\nAnswer: {answer}"),
    template("Q: {question}\nChoices:\n{options}", "\n", "A: {reasoning} That leaves {answer}."),
    template("{question} Choose one and say why.\n{options}", "\n", "{reasoning}\nChoice: {answer}"),
    template("Quiz: {question}\n{options}", "\n", "Because: {reasoning}\nRight choice: {answer}"),
    template("{question}\n{options}", "\n", "{reasoning}\nAnswer: {answer}"),
];
