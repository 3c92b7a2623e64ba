//! What is asked of a text, and how: functions of what can be seen in it, with nothing drawn.
//!
//! A synthesizer that decodes greedily always takes the likeliest question. So what a text is asked follows from its own
//! signs (a list, an affix of its name, a stated cue), and what could be drawn (the phrasing, the kind of pair, the place
//! of the right option) follows from the letter that its name's stem begins with: a small model can learn both, and asks
//! everything, of some text each.

use lyceum_synth::pair::Kind;

use super::{Category, Lesson, MOST_PAIRS, closed};
use crate::text::Text;

/// What names begin with before their stem; a longer one before its own beginning.
const BEFORE_STEM: [&str; 19] = [
    "golang-github-",
    "golang-gopkg-",
    "golang-golang-x-",
    "golang-",
    "librust-",
    "libghc-",
    "libjs-",
    "lib",
    "python3-",
    "python-",
    "node-",
    "ruby-",
    "php-",
    "r-cran-",
    "r-bioc-",
    "fonts-",
    "elpa-",
    "cl-",
    "gir1.2-",
];
/// Letters whose texts choose their name among others instead of giving it: about a quarter of all.
const CHOOSE_THE_NAME: std::ops::RangeInclusive<u8> = b'd'..=b'i';
/// Letters whose texts are asked for a list that they do not have, in the first lesson: about as many as have one.
const ASKED_FOR_NO_LIST: std::ops::RangeInclusive<u8> = b'm'..=b'n';

/// After the first lesson, texts with fewer pairs are asked for a list that they do not have.
const FEW_PAIRS: usize = 3;

/// The letter that a name's stem begins with; `a` when the stem has none.
fn letter(name: &str) -> u8 {
    let stem = BEFORE_STEM
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix).filter(|stem| !stem.is_empty()))
        .unwrap_or(name);
    stem.bytes().find(u8::is_ascii_lowercase).unwrap_or(b'a')
}

fn number(name: &str) -> usize {
    usize::from(letter(name) - b'a')
}

/// The right option's place among `count`.
pub fn place(name: &str, count: usize) -> usize {
    number(name) % count
}

/// Which of `count` phrasings a question of `category` takes.
pub fn phrasing(name: &str, category: Category, count: usize) -> usize {
    (number(name) + category as usize) % count
}

/// Which of the category's kinds a question is.
pub fn kind(name: &str, category: Category) -> Kind {
    let kinds = category.kinds();
    kinds[number(name) / 3 % kinds.len()]
}

/// What a text may be asked, what matters most first: its name, then what few texts can answer, then what many can; each
/// with the number of pairs from which on it is no longer asked. A category may stand here that the text does not answer.
pub fn candidates(text: &Text<'_>, lesson: Lesson) -> Vec<(Category, usize)> {
    let letter = letter(text.name);
    let has_list = text.first_item.is_some();
    let identity = if CHOOSE_THE_NAME.contains(&letter) { Category::Identity } else { Category::Name };
    let mut candidates = vec![identity];
    candidates.extend((has_list && lesson != Lesson::Copying).then_some(Category::HasList));
    candidates.extend([Category::Address, Category::Ability, Category::FirstItem]);
    let drawn = has_list || ASKED_FOR_NO_LIST.contains(&letter);
    candidates.extend((drawn && lesson == Lesson::Copying).then_some(Category::HasList));
    candidates.extend(closed::told_by_affix(text.name));
    candidates.extend([Category::Definition, Category::Contents, Category::Summary]);
    let mut candidates: Vec<(Category, usize)> =
        candidates.into_iter().map(|category| (category, MOST_PAIRS)).collect();
    if !has_list && lesson != Lesson::Copying {
        candidates.push((Category::HasList, FEW_PAIRS));
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stem_begins_after_what_many_names_begin_with() {
        for (name, expected) in [
            ("python3-foo", b'f'),
            ("libbar-perl", b'b'),
            ("golang-github-user-thing-dev", b'u'),
            ("librust-zed-dev", b'z'),
            ("2048-qt", b'q'),
            ("lib", b'l'),
            ("0", b'a'),
        ] {
            assert_eq!(letter(name), expected, "{name}");
        }
    }

    #[test]
    fn every_place_kind_and_phrasing_is_some_letters() {
        let names: Vec<String> = (b'a'..=b'z').map(|letter| char::from(letter).to_string()).collect();
        let reached = |of: &dyn Fn(&str) -> usize| {
            names.iter().map(|name| of(name)).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(reached(&|name| place(name, 3)), 3);
        for category in Category::ALL {
            assert_eq!(reached(&|name| phrasing(name, category, 4)), 4, "{category:?}");
            let kinds = category.kinds();
            let index = |name: &str| kinds.iter().position(|known| *known == kind(name, category));
            assert_eq!(reached(&|name| index(name).expect("one of them")), kinds.len(), "{category:?}");
        }
        let choosing: Vec<&String> =
            names.iter().filter(|name| CHOOSE_THE_NAME.contains(&letter(name))).collect();
        for at in 0..3 {
            assert_eq!(choosing.iter().filter(|name| place(name, 3) == at).count(), 2, "{choosing:?}");
        }
    }

    #[test]
    fn signs_of_the_text_decide_what_it_is_asked() {
        let asked = |context: &str, lesson| -> Vec<Category> {
            let text = Text::parse(context).expect("a context");
            candidates(&text, lesson).into_iter().map(|(category, _)| category).collect()
        };
        let module = asked("python3-map - a thing\n\nbody", Lesson::Copying);
        assert!(module.contains(&Category::Language) && !module.contains(&Category::Role), "{module:?}");
        assert!(module.contains(&Category::HasList) && module.starts_with(&[Category::Name]), "{module:?}");
        let documentation = asked("python3-foo-doc - a thing\n\n* body", Lesson::Copying);
        assert!(documentation.contains(&Category::Role) && !documentation.contains(&Category::Language));
        assert!(documentation.contains(&Category::HasList), "it has one");
        assert!(documentation.starts_with(&[Category::Identity]));
        let plain = asked("foo - a thing\n\nbody", Lesson::Choosing);
        assert_eq!(plain.last(), Some(&Category::HasList), "when there is little else to ask");
        let listed = asked("foo - a thing\n\n* body", Lesson::Choosing);
        assert_eq!(listed[1], Category::HasList);
        assert_eq!(listed.iter().filter(|category| **category == Category::HasList).count(), 1);
    }
}
