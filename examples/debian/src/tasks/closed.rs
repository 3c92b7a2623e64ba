//! Closed answers: from a small set, told by a cue in the name or by the text's structure.

use super::Category;
use super::plan;
use super::vocabulary::{AFFIXES, LANGUAGES, ROLES, YES_NO, ring};
use crate::text::Text;

/// How many options a question has, where it is not answered by yes or no.
const OPTIONS: usize = 3;

/// The answer to a question of a closed category.
pub fn answer(text: &Text<'_>, category: Category) -> Option<String> {
    match category {
        Category::Identity => Some(text.name.to_owned()),
        Category::Role => role(text.name).map(|(role, _)| role.to_owned()),
        Category::Language => language(text.name).map(|(language, _)| language.to_owned()),
        Category::HasList => Some(has_list(text).to_owned()),
        _ => None,
    }
}

/// The reason for the answer, one short sentence that copies its evidence from the text.
pub fn reason(text: &Text<'_>, category: Category) -> Option<String> {
    match category {
        Category::Role => role(text.name).map(|(_, cue)| cue.sentence(text.name)),
        Category::Language => language(text.name).map(|(_, cue)| cue.sentence(text.name)),
        Category::HasList if text.first_item.is_some() => Some("Some lines begin with a star.".into()),
        Category::HasList => Some("No line begins with a star.".into()),
        _ => None,
    }
}

/// Options for a question, the right answer among them, at the place that [`plan::place`] says. `None` when the text
/// gives none.
pub fn options(text: &Text<'_>, category: Category) -> Option<Vec<String>> {
    let place = plan::place(text.name, OPTIONS);
    let around = |vocabulary: &[&str], right: &str| {
        let options = ring(vocabulary, right, OPTIONS, place)?;
        Some(options.into_iter().map(str::to_owned).collect())
    };
    match category {
        Category::Identity => Some(names(text.name, place)),
        Category::Role => around(&ROLES, role(text.name)?.0),
        Category::Language => around(&LANGUAGES, language(text.name)?.0),
        Category::HasList => {
            let mut options = YES_NO.map(str::to_owned);
            if plan::place(text.name, 2) == 1 {
                options.reverse();
            }
            Some(options.to_vec())
        }
        _ => None,
    }
}

/// Which of role and language a name is asked for: the language of a module, the role of anything else, also of a
/// module's documentation or data.
pub fn told_by_affix(name: &str) -> Option<Category> {
    let beside = ["-doc", "-data", "-common", "-examples", "-tools", "-utils"].iter();
    let is_module = language(name).is_some() && !beside.clone().any(|affix| name.ends_with(affix));
    if is_module { Some(Category::Language) } else { role(name).map(|_| Category::Role) }
}

fn has_list(text: &Text<'_>) -> &'static str {
    let [yes, no] = YES_NO;
    if text.first_item.is_some() { yes } else { no }
}

/// The name at its place among names with other endings of the same stem.
fn names(name: &str, place: usize) -> Vec<String> {
    let own = AFFIXES.into_iter().find(|affix| name.len() > affix.len() && name.ends_with(affix));
    let stem = &name[..name.len() - own.map_or(0, str::len)];
    let others = AFFIXES.into_iter().filter(|affix| Some(*affix) != own).skip(usize::from(own.is_none()));
    let mut names: Vec<String> = others.take(OPTIONS - 1).map(|affix| format!("{stem}{affix}")).collect();
    names.insert(place, name.to_owned());
    names
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
    let [
        client,
        plugin,
        server,
        library,
        theme,
        common,
        data,
        development,
        documentation,
        examples,
        fonts,
        tools,
    ] = ROLES;
    let cues = [
        (Cue::Ends("-doc"), documentation),
        (Cue::Ends("-dev"), development),
        (Cue::Ends("-data"), data),
        (Cue::Ends("-common"), common),
        (Cue::Ends("-examples"), examples),
        (Cue::Ends("-tools"), tools),
        (Cue::Ends("-utils"), tools),
        (Cue::Ends("-server"), server),
        (Cue::Ends("-client"), client),
        (Cue::Ends("-plugin"), plugin),
        (Cue::Ends("-plugins"), plugin),
        (Cue::Ends("-theme"), theme),
        (Cue::Ends("-themes"), theme),
        (Cue::Begins("fonts-"), fonts),
        (Cue::Begins("xfonts-"), fonts),
        (Cue::Library, library),
    ];
    first_that_fits(name, &cues)
}

fn language(name: &str) -> Option<(&'static str, Cue)> {
    let [go, haskell, java, javascript, lisp, lua, ocaml, php, perl, python, r, ruby, rust, tcl] = LANGUAGES;
    let cues = [
        (Cue::Begins("python3-"), python),
        (Cue::Begins("python-"), python),
        (Cue::Both("lib", "-perl"), perl),
        (Cue::Both("lib", "-java"), java),
        (Cue::Both("lib", "-ocaml-dev"), ocaml),
        (Cue::Both("lib", "-ocaml"), ocaml),
        (Cue::Begins("ruby-"), ruby),
        (Cue::Begins("node-"), javascript),
        (Cue::Begins("libjs-"), javascript),
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
            ("libfoo-perl", None, Some("Perl")),
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
    fn exactly_one_option_is_right_and_none_stands_twice() {
        for letter in b'a'..=b'z' {
            let stem = char::from(letter);
            for name in
                [format!("lib{stem}-perl"), format!("{stem}-dev"), format!("{stem}2-doc"), format!("{stem}x")]
            {
                let context =
                    format!("{name} - a thing for XML\n\nSpeaks SSH, HTTP and SQL with GTK.\n* one\n* two");
                let text = Text::parse(&context).expect("a context");
                for category in Category::ALL.into_iter().filter(|category| category.is_closed()) {
                    let Some(options) = options(&text, category) else {
                        assert!(
                            matches!(category, Category::Role | Category::Language),
                            "{category:?} of {name}"
                        );
                        continue;
                    };
                    let options: Vec<&str> = options.iter().map(String::as_str).collect();
                    let gold = answer(&text, category).expect("one is right");
                    let right = options.iter().filter(|option| **option == gold).count();
                    assert_eq!(right, 1, "{category:?} {options:?}");
                    let distinct: std::collections::BTreeSet<&&str> = options.iter().collect();
                    assert_eq!(distinct.len(), options.len(), "{options:?}");
                    let places = options.len();
                    if category != Category::HasList {
                        assert_eq!(options[plan::place(&name, places)], gold, "{category:?} {options:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn options_are_neighbours_in_their_ring() {
        let text =
            Text::parse("libbar-perl - a thing\n\nSpeaks SSH on Linux, not on UNIX.").expect("a context");
        assert_eq!(options(&text, Category::Language).expect("Perl"), ["PHP", "Perl", "Python"]);
        let text =
            Text::parse("libcar-perl - a thing\n\nSpeaks SSH on Linux, not on UNIX.").expect("a context");
        assert_eq!(options(&text, Category::Language).expect("Perl"), ["OCaml", "PHP", "Perl"]);
    }

    #[test]
    fn a_name_is_chosen_among_names_of_its_stem() {
        assert_eq!(names("foo", 0), ["foo", "foo-dev", "foo-doc"]);
        assert_eq!(names("foo-dev", 1), ["foo-data", "foo-dev", "foo-doc"]);
        assert_eq!(names("foo-doc", 2), ["foo-data", "foo-dev", "foo-doc"]);
        assert_eq!(names("-doc", 0), ["-doc", "-doc-dev", "-doc-doc"]);
    }

    #[test]
    fn a_module_is_asked_for_its_language_all_else_for_its_role() {
        for (name, expected) in [
            ("python3-foo", Some(Category::Language)),
            ("librust-foo-dev", Some(Category::Language)),
            ("python-foo-doc", Some(Category::Role)),
            ("libfoo-dev", Some(Category::Role)),
            ("foo", None),
        ] {
            assert_eq!(told_by_affix(name), expected, "{name}");
        }
    }
}
