//! Closed answers: from a small set, told by a cue in the name or by the text's structure.

use super::Category;
use super::extract::list;
use super::vocabulary::{LANGUAGES, ROLES, THINGS, YES_NO};
use crate::draw;
use crate::text::{Text, mentions};

/// How many options a question has, where it is not answered by yes or no.
const OPTIONS: usize = 3;

/// The answer to a question of a closed category.
pub fn answer(text: &Text<'_>, category: Category, options: &[&str]) -> Option<String> {
    match category {
        Category::ItemCount => list(text).map(|items| items.len().to_string()),
        Category::Role => role(text.name).map(|(role, _)| role.to_owned()),
        Category::Language => language(text.name).map(|(language, _)| language.to_owned()),
        Category::HasList => Some(YES_NO[usize::from(!text.has_list)].to_owned()),
        Category::Mentioned => the_only(options, |option| mentions(text.context, option)),
        Category::NotMentioned => the_only(options, |option| !mentions(text.context, option)),
        _ => None,
    }
}

/// The reason for the answer, one short sentence that copies its evidence from the text.
pub fn reason(text: &Text<'_>, category: Category) -> Option<String> {
    match category {
        Category::ItemCount => {
            let numbered = list(text)?.iter().enumerate();
            let words: Vec<String> = numbered
                .map(|(at, item)| format!("{}: {}", at + 1, item.split(' ').next().unwrap_or_default()))
                .collect();
            Some(format!("The items begin {}.", words.join(", ")))
        }
        Category::Role => role(text.name).map(|(_, cue)| cue.sentence(text.name)),
        Category::Language => language(text.name).map(|(_, cue)| cue.sentence(text.name)),
        Category::HasList if text.has_list => Some("Some lines begin with a star.".into()),
        Category::HasList => Some("No line begins with a star.".into()),
        _ => None,
    }
}

/// Options for a question, the right answer among them, in an order drawn for this text.
/// `None` when the text gives none.
pub fn options(seed: u64, id: &str, text: &Text<'_>, category: Category) -> Option<Vec<String>> {
    let drawn = |from: &[&str]| {
        let mut from: Vec<String> = from.iter().map(|&option| option.to_owned()).collect();
        draw::shuffle(seed, &format!("{id} {} options", category.name()), &mut from, |option| option);
        from
    };
    let with_gold = |vocabulary: &[&str]| {
        let gold = answer(text, category, &[])?;
        let mut options = drawn(vocabulary);
        options.retain(|option| *option != gold);
        options.truncate(OPTIONS - 1);
        options.push(gold);
        Some(options)
    };
    let mut options = match category {
        Category::Role => with_gold(&ROLES)?,
        Category::Language => with_gold(&LANGUAGES)?,
        Category::HasList => YES_NO.map(str::to_owned).to_vec(),
        Category::Mentioned | Category::NotMentioned => {
            let (mut inside, outside): (Vec<String>, Vec<String>) =
                drawn(&THINGS).into_iter().partition(|thing| mentions(text.context, thing));
            let wanted = if category == Category::Mentioned { 1 } else { OPTIONS - 1 };
            // What the name gives away comes last.
            inside.sort_by_key(|thing| language(text.name).is_some_and(|(language, _)| language == thing));
            if inside.len() < wanted {
                return None;
            }
            inside.into_iter().take(wanted).chain(outside.into_iter().take(OPTIONS - wanted)).collect()
        }
        _ => return None,
    };
    draw::shuffle(seed, &format!("{id} {} order", category.name()), &mut options, |option| option);
    Some(options)
}

fn the_only(options: &[&str], right: impl Fn(&str) -> bool) -> Option<String> {
    let mut right = options.iter().filter(|option| right(option));
    let only = right.next()?;
    right.next().is_none().then(|| (*only).to_owned())
}

/// What in a name tells something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cue {
    Begins(&'static str),
    Ends(&'static str),
    /// Begins with the first, ends with the second.
    Both(&'static str, &'static str),
    /// Begins with `lib` and ends in a digit: Debian's shared libraries carry their version.
    Library,
}

impl Cue {
    fn fits(self, name: &str) -> bool {
        match self {
            Self::Begins(prefix) => name.len() > prefix.len() && name.starts_with(prefix),
            Self::Ends(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
            Self::Both(prefix, suffix) => Self::Begins(prefix).fits(name) && Self::Ends(suffix).fits(name),
            Self::Library => name.starts_with("lib") && name.ends_with(|c: char| c.is_ascii_digit()),
        }
    }

    fn sentence(self, name: &str) -> String {
        match self {
            Self::Begins(prefix) => format!("The name {name} begins with {prefix}."),
            Self::Ends(suffix) => format!("The name {name} ends with {suffix}."),
            Self::Both(prefix, suffix) => {
                format!("The name {name} begins with {prefix} and ends with {suffix}.")
            }
            Self::Library => format!("The name {name} begins with lib and ends with a number."),
        }
    }
}

fn role(name: &str) -> Option<(&'static str, Cue)> {
    let [development, documentation, library, module, data, fonts, debugging] = ROLES;
    let cues = [
        (Cue::Ends("-doc"), documentation),
        (Cue::Ends("-dev"), development),
        (Cue::Ends("-dbg"), debugging),
        (Cue::Ends("-data"), data),
        (Cue::Begins("fonts-"), fonts),
        (Cue::Begins("python3-"), module),
        (Cue::Both("lib", "-perl"), module),
        (Cue::Both("lib", "-java"), module),
        (Cue::Begins("ruby-"), module),
        (Cue::Begins("node-"), module),
        (Cue::Begins("php-"), module),
        (Cue::Begins("r-cran-"), module),
        (Cue::Begins("r-bioc-"), module),
        (Cue::Begins("lua-"), module),
        (Cue::Library, library),
    ];
    first_that_fits(name, &cues)
}

fn language(name: &str) -> Option<(&'static str, Cue)> {
    let [python, perl, ruby, javascript, go, rust, haskell, java, r, php, ocaml, lisp, lua, tcl] = LANGUAGES;
    let cues = [
        (Cue::Begins("python3-"), python),
        (Cue::Begins("python-"), python),
        (Cue::Both("lib", "-perl"), perl),
        (Cue::Both("lib", "-java"), java),
        (Cue::Both("lib", "-ocaml-dev"), ocaml),
        (Cue::Both("lib", "-ocaml"), ocaml),
        (Cue::Begins("ruby-"), ruby),
        (Cue::Begins("node-"), javascript),
        (Cue::Begins("golang-"), go),
        (Cue::Begins("librust-"), rust),
        (Cue::Begins("libghc-"), haskell),
        (Cue::Begins("r-cran-"), r),
        (Cue::Begins("r-bioc-"), r),
        (Cue::Begins("php-"), php),
        (Cue::Begins("cl-"), lisp),
        (Cue::Begins("elpa-"), lisp),
        (Cue::Begins("lua-"), lua),
        (Cue::Begins("tcl-"), tcl),
    ];
    first_that_fits(name, &cues)
}

fn first_that_fits(name: &str, cues: &[(Cue, &'static str)]) -> Option<(&'static str, Cue)> {
    cues.iter().find(|(cue, _)| cue.fits(name)).map(|&(cue, value)| (value, cue))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_and_languages_are_told_by_affixes_alone() {
        for (name, expected_role, expected_language) in [
            ("libfoo-dev", Some("development files"), None),
            ("python3-foo-doc", Some("documentation"), Some("Python")),
            ("libfoo-perl", Some("a language module"), Some("Perl")),
            ("librust-foo-dev", Some("development files"), Some("Rust")),
            ("libfoo-1.2-0", Some("a shared library"), None),
            ("fonts-foo", Some("fonts"), None),
            ("foo", None, None),
            ("-doc", None, None),
        ] {
            assert_eq!(role(name).map(|(role, _)| role), expected_role, "{name}");
            assert_eq!(language(name).map(|(language, _)| language), expected_language, "{name}");
        }
    }

    #[test]
    fn exactly_one_option_is_right() {
        let context =
            "libfoo-perl - a thing for XML\n\nSpeaks SSH, HTTP and SQL with GTK.\n* one\n* two\n* three";
        let text = Text::parse(context).expect("a context");
        for category in [
            Category::Role,
            Category::Language,
            Category::Mentioned,
            Category::NotMentioned,
            Category::HasList,
        ] {
            for id in ["a", "b", "c", "d", "e"] {
                let options = options(3, id, &text, category).expect("the text gives some");
                let options: Vec<&str> = options.iter().map(String::as_str).collect();
                let gold = answer(&text, category, &options).expect("one is right");
                assert_eq!(
                    options.iter().filter(|option| **option == gold).count(),
                    1,
                    "{category:?} {options:?}"
                );
            }
        }
    }

    #[test]
    fn two_right_options_are_no_question() {
        let text = Text::parse("foo - a thing\n\nSpeaks SSH and HTTP.").expect("a context");
        assert_eq!(answer(&text, Category::Mentioned, &["SSH", "HTTP", "FTP"]), None);
        assert_eq!(answer(&text, Category::NotMentioned, &["SSH", "HTTP"]), None);
        assert_eq!(answer(&text, Category::NotMentioned, &["SSH", "HTTP", "FTP"]).as_deref(), Some("FTP"));
    }

    #[test]
    fn items_are_counted_with_their_first_words() {
        let text = Text::parse("foo - a thing\n\n* red things\n* green\n* blue").expect("a context");
        assert_eq!(answer(&text, Category::ItemCount, &[]).as_deref(), Some("3"));
        assert_eq!(
            reason(&text, Category::ItemCount).as_deref(),
            Some("The items begin 1: red, 2: green, 3: blue.")
        );
    }
}
