//! How each category is asked. `{}` is the package's name, `[]` what the question is about
//! (a term).

use super::Category;

/// The category's phrasings, at least four each.
pub fn phrasings(category: Category) -> &'static [&'static str] {
    match category {
        Category::Name => &[
            "What is the package called?",
            "What is the name of the package?",
            "Which package does this text describe?",
            "Which package is this?",
        ],
        Category::Identity => &[
            "Which of these packages does the text describe?",
            "Which of these names is the right one?",
            "About which of these packages is the text?",
            "One of these is described. Which one?",
        ],
        Category::Summary => &[
            "What is {} in short?",
            "Describe {} in one line.",
            "How is {} summed up?",
            "Sum up this package in a few words.",
        ],
        Category::Definition => &[
            "How does the text define []?",
            "According to the text, what is []?",
            "What does the text say [] is?",
            "What sort of thing is []?",
        ],
        Category::Contents => &[
            "What does this package contain?",
            "What does {} provide?",
            "What is in {}?",
            "What comes with this package?",
        ],
        Category::Ability => &[
            "What can one do with {}?",
            "What does it make possible?",
            "What can it be used for?",
            "What is {} good for?",
        ],
        Category::Address => &[
            "Which web address does the text give?",
            "Where on the web is more about {}?",
            "Which link is in the text?",
            "What is the URL in the text?",
        ],
        Category::FirstItem => &[
            "What is the first item of the list?",
            "Which item comes first?",
            "What does the list begin with?",
            "What is listed first?",
        ],
        Category::Role => &[
            "What kind of package is {}?",
            "What does {} hold?",
            "Which kind of package is it?",
            "What is the role of {}?",
        ],
        Category::Language => &[
            "For which language is {}?",
            "Which programming language is {} for?",
            "Which language does this package serve?",
            "Programs in which language can use {}?",
        ],
        Category::HasList => &[
            "Does the text contain a list?",
            "Is there a list in the text?",
            "Does the description of {} include a list?",
            "Are there list items in the text?",
        ],
    }
}

/// What the words of a question (options and reasoning taken off) ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recognised<'q> {
    /// The category.
    pub category: Category,
    /// The package's name in the question.
    pub subject: Option<&'q str>,
    /// What else the question is about.
    pub slot: Option<&'q str>,
}

/// Recognises a phrasing; the one with the most fixed words if several fit.
pub fn recognise(stem: &str) -> Option<Recognised<'_>> {
    let mut best: Option<(usize, Recognised<'_>)> = None;
    for category in Category::ALL {
        for phrasing in phrasings(category) {
            let Some((subject, slot)) = fit(phrasing, stem) else { continue };
            if best.as_ref().is_none_or(|(length, _)| phrasing.len() > *length) {
                best = Some((phrasing.len(), Recognised { category, subject, slot }));
            }
        }
    }
    best.map(|(_, recognised)| recognised)
}

fn fit<'q>(phrasing: &str, stem: &'q str) -> Option<(Option<&'q str>, Option<&'q str>)> {
    let filled = |hole: &str| -> Option<&'q str> {
        let (before, after) = phrasing.split_once(hole)?;
        stem.strip_prefix(before)?.strip_suffix(after).filter(|filling| !filling.is_empty())
    };
    if phrasing == stem {
        return Some((None, None));
    }
    if let Some(subject) = filled("{}") {
        // A name has no spaces: so "What is in the list?" is not about a package.
        return (!subject.contains(' ')).then_some((Some(subject), None));
    }
    filled("[]").map(|slot| (None, Some(slot)))
}

/// A phrasing with its holes filled.
pub fn fill(phrasing: &str, name: &str, slot: Option<&str>) -> String {
    match slot {
        Some(slot) => phrasing.replacen("[]", slot, 1),
        None => phrasing.replacen("{}", name, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_category_has_four_phrasings_that_are_its_own() {
        for category in Category::ALL {
            assert!(phrasings(category).len() >= 4, "{category:?}");
            for phrasing in phrasings(category) {
                for filling in ["libfoo-dev", "GNU"] {
                    let slot = phrasing.contains("[]").then_some(filling);
                    let stem = fill(phrasing, filling, slot);
                    let recognised = recognise(&stem).unwrap_or_else(|| panic!("{stem:?} is not recognised"));
                    assert_eq!(recognised.category, category, "{stem:?}");
                    assert_eq!(recognised.slot, slot, "{stem:?}");
                    assert_eq!(recognised.subject.is_some(), phrasing.contains("{}"), "{stem:?}");
                }
            }
        }
    }

    #[test]
    fn other_questions_are_not_recognised() {
        for stem in ["", "What?", "Who wrote it?", "What is  in short?"] {
            assert_eq!(recognise(stem), None, "{stem:?}");
        }
    }
}
