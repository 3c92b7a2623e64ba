//! Reading what a synthesizer wrote: good pairs survive, bad ones are dropped one by one and counted by reason.

use std::collections::BTreeSet;

use crate::accounts::PairAccounts;
use crate::pair::{Malformed, Pair};
use crate::prompt::{ANSWER, PAIR_END, QUESTION};

/// Why a pair was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Dropped {
    /// The output broke off before `</END>`.
    #[error("incomplete")]
    Incomplete,
    /// It does not start with `<QUE>`.
    #[error("no question mark")]
    NoQuestion,
    /// It has no `<ANS>`, or more than one, or another mark inside.
    #[error("not exactly one answer mark")]
    Marks,
    /// The question was asked before about the same text.
    #[error("question repeated")]
    Repeated,
    /// Question and answer are no pair.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// What was read from one output.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// The good pairs, in the order written.
    pub pairs: Vec<Pair>,
    /// How many were kept, and how many dropped for which reason.
    pub accounts: PairAccounts,
}

/// Reads the pairs in a synthesizer's `output` about one text.
///
/// Pieces end with `</END>`; what follows the last one is incomplete. A piece is a pair when it starts with `<QUE>`,
/// has exactly one `<ANS>` and a question and answer that [`Pair::read`] accepts. Questions are compared without case.
/// Every string of a returned pair stands literally in `output`: nothing is invented.
pub fn parse(output: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let mut asked = BTreeSet::new();
    let mut pieces = output.split(PAIR_END).peekable();
    while let Some(piece) = pieces.next() {
        let read = if pieces.peek().is_some() {
            read_piece(piece.trim(), &mut asked)
        } else if piece.trim().is_empty() {
            break;
        } else {
            Err(Dropped::Incomplete)
        };
        match read {
            Ok(pair) => {
                parsed.pairs.push(pair);
                parsed.accounts.keep(1);
            }
            Err(reason) => parsed.accounts.drop(reason),
        }
    }
    parsed
}

fn read_piece(piece: &str, asked: &mut BTreeSet<String>) -> Result<Pair, Dropped> {
    let body = piece.strip_prefix(QUESTION).ok_or(Dropped::NoQuestion)?;
    let (question, answer) = body.split_once(ANSWER).ok_or(Dropped::Marks)?;
    if answer.contains(ANSWER) || body.contains(QUESTION) {
        return Err(Dropped::Marks);
    }
    let pair = Pair::read(question, answer)?;
    if !asked.insert(pair.written().question.to_lowercase()) {
        return Err(Dropped::Repeated);
    }
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn questions(output: &str) -> Vec<String> {
        parse(output).pairs.iter().map(|pair| pair.question().to_owned()).collect()
    }

    fn dropped(output: &str) -> Vec<(String, u64)> {
        parse(output).accounts.dropped.into_iter().collect()
    }

    #[test]
    fn two_pairs_joined_by_a_blank_line_are_read() {
        let parsed = parse("<QUE> What? <ANS> This. </END>\n\n<QUE> Who? <ANS> She. </END>");
        let read: Vec<_> = parsed.pairs.iter().map(|pair| (pair.question(), pair.answer())).collect();
        assert_eq!(read, [("What?", "This."), ("Who?", "She.")]);
        assert_eq!((parsed.accounts.kept, parsed.accounts.dropped.len()), (2, 0));
    }

    #[test]
    fn an_output_that_breaks_off_loses_only_its_last_piece() {
        let output = "<QUE> a <ANS> b </END>\n\n<QUE> c <ANS> d";
        assert_eq!(questions(output), ["a"]);
        assert_eq!(dropped(output), [("incomplete".to_owned(), 1)]);
    }

    #[test]
    fn bad_pairs_are_dropped_one_by_one_and_good_ones_survive() {
        let output = "a <ANS> b </END><QUE> c </END><QUE> d <ANS> e <ANS> f </END><QUE> <ANS> x </END>\
                      <QUE> y <ANS> </END><QUE> Good? <ANS> Yes. </END><QUE> GOOD? <ANS> No. </END>";
        assert_eq!(questions(output), ["Good?"]);
        let expected = [
            ("empty answer", 1),
            ("empty question", 1),
            ("no question mark", 1),
            ("not exactly one answer mark", 2),
            ("question repeated", 1),
        ];
        assert_eq!(dropped(output), expected.map(|(reason, count)| (reason.to_owned(), count)));
    }

    #[test]
    fn nothing_gives_nothing() {
        assert_eq!(parse(""), Parsed::default());
        assert_eq!(parse(" \n"), Parsed::default());
    }

    fn soup() -> impl Strategy<Value = String> {
        let marks = prop::sample::select(vec![
            "<QUE>",
            "<ANS>",
            "</END>",
            "</CON>",
            "\n\n",
            " ",
            "\nOptions:",
            "\n- a",
            "\n- b",
            "a",
            "b",
            "é",
            "\nLet's think step by step.",
            "\nTherefore, the answer is ",
            ".",
            "<",
            "QUE>",
        ]);
        prop::collection::vec(prop_oneof![9 => marks.prop_map(str::to_owned), 1 => ".{0,6}"], 0..60)
            .prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_parser_never_panics_and_never_invents(output in soup()) {
            let parsed = parse(&output);
            prop_assert_eq!(parsed.accounts.kept, parsed.pairs.len() as u64);
            let pieces = output.split("</END>").count() as u64;
            let dropped: u64 = parsed.accounts.dropped.values().sum();
            prop_assert!(parsed.accounts.kept + dropped <= pieces);
            prop_assert!(parsed.accounts.kept + dropped + 1 >= pieces);
            for pair in &parsed.pairs {
                prop_assert!(output.contains(pair.question()) && output.contains(pair.answer()));
                prop_assert!(pair.options().iter().all(|option| output.contains(option.as_str())));
                prop_assert!(pair.reasoning().is_none_or(|reasoning| output.contains(reasoning)));
            }
        }

        #[test]
        fn well_formed_pairs_are_read_as_they_were_written(
            texts in prop::collection::vec(("[a-z]{1,8}", "[a-z ]{0,8}[a-z]"), 0..6)
        ) {
            let mut seen = BTreeSet::new();
            let pairs: Vec<Pair> = texts
                .iter()
                .filter(|(question, _)| seen.insert(question.clone()))
                .map(|(question, answer)| Pair::plain(question, answer).unwrap())
                .collect();
            let written: Vec<String> = pairs
                .iter()
                .map(|pair| format!("<QUE> {} <ANS> {} </END>", pair.question(), pair.answer()))
                .collect();
            prop_assert_eq!(parse(&written.join("\n\n")).pairs, pairs);
        }
    }
}
