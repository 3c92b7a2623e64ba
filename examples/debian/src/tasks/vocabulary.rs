//! The closed sets that options are drawn from.

/// Roles of a package, as its name tells them, in the order of their ring.
pub const ROLES: [&str; 12] = [
    "a client",
    "a plugin",
    "a server",
    "a shared library",
    "a theme",
    "common files",
    "data files",
    "development files",
    "documentation",
    "examples",
    "fonts",
    "tools",
];

/// Languages that modules are named after, in the order of their ring.
pub const LANGUAGES: [&str; 14] = [
    "Go",
    "Haskell",
    "Java",
    "JavaScript",
    "Lisp",
    "Lua",
    "OCaml",
    "PHP",
    "Perl",
    "Python",
    "R",
    "Ruby",
    "Rust",
    "Tcl",
];

/// What names of packages end with that belong to another, in the order of their ring.
pub const AFFIXES: [&str; 4] = ["-data", "-dev", "-doc", "-tools"];

/// The two answers to a question of fact.
pub const YES_NO: [&str; 2] = ["yes", "no"];

/// `right` and `count - 1` others of a ring (a vocabulary whose end is followed by its beginning): those that come
/// before it as far as `place` reaches, those that follow it for the rest, all in the ring's order. So each option
/// follows from the one above it, and none stands twice. `None` when `right` is not in the vocabulary, or that has fewer
/// than `count` values.
pub fn ring<'v>(vocabulary: &[&'v str], right: &str, count: usize, place: usize) -> Option<Vec<&'v str>> {
    let at = vocabulary.iter().position(|value| *value == right)?;
    let (before, after) = (&vocabulary[..at], &vocabulary[at + 1..]);
    let following: Vec<&str> = after.iter().chain(before).copied().collect();
    if following.len() + 1 < count || place >= count {
        return None;
    }
    let preceding = &following[following.len() - place..];
    let rest = &following[..count - 1 - place];
    Some([preceding, &[vocabulary[at]], rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_gives_neighbours_around_the_right_one() {
        let ring = |right, place| ring(&["a", "b", "c", "d", "e"], right, 3, place);
        assert_eq!(ring("a", 0), Some(vec!["a", "b", "c"]));
        assert_eq!(ring("a", 1), Some(vec!["e", "a", "b"]));
        assert_eq!(ring("b", 2), Some(vec!["e", "a", "b"]));
        assert_eq!(ring("b", 3), None);
        assert_eq!(ring("x", 0), None);
    }
}
