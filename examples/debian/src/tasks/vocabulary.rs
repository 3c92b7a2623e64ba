//! The closed sets that options are drawn from.

/// Roles of a package, as its name tells them.
pub const ROLES: [&str; 7] = [
    "development files",
    "documentation",
    "a shared library",
    "a language module",
    "data files",
    "fonts",
    "debugging symbols",
];

/// Languages that modules are named after.
pub const LANGUAGES: [&str; 14] = [
    "Python",
    "Perl",
    "Ruby",
    "JavaScript",
    "Go",
    "Rust",
    "Haskell",
    "Java",
    "R",
    "PHP",
    "OCaml",
    "Lisp",
    "Lua",
    "Tcl",
];

/// Languages that software is said to be written in; longer names before their beginnings.
pub const WRITTEN_IN: [&str; 30] = [
    "Emacs Lisp",
    "Common Lisp",
    "Standard ML",
    "Objective-C",
    "Objective C",
    "CoffeeScript",
    "TypeScript",
    "JavaScript",
    "Javascript",
    "Haskell",
    "Fortran",
    "Pascal",
    "Python",
    "Erlang",
    "Scheme",
    "Prolog",
    "OCaml",
    "Scala",
    "Perl",
    "Java",
    "Ruby",
    "Rust",
    "Lisp",
    "PHP",
    "C++",
    "Lua",
    "Tcl",
    "Go",
    "C#",
    "C",
];

/// Things that descriptions mention; distinct words, none part of another as a whole word.
pub const THINGS: [&str; 64] = [
    "Python",
    "Perl",
    "Java",
    "Ruby",
    "Haskell",
    "JavaScript",
    "PHP",
    "Lisp",
    "Fortran",
    "Lua",
    "Tcl",
    "OCaml",
    "GNOME",
    "KDE",
    "Qt",
    "GTK",
    "X11",
    "OpenGL",
    "SDL",
    "Emacs",
    "Vim",
    "LaTeX",
    "TeX",
    "XML",
    "HTML",
    "JSON",
    "YAML",
    "CSV",
    "SQL",
    "MySQL",
    "PostgreSQL",
    "SQLite",
    "HTTP",
    "HTTPS",
    "FTP",
    "SSH",
    "SSL",
    "TLS",
    "DNS",
    "IMAP",
    "SMTP",
    "LDAP",
    "PDF",
    "PostScript",
    "Unicode",
    "MIDI",
    "MP3",
    "Ogg",
    "PNG",
    "JPEG",
    "USB",
    "Bluetooth",
    "Apache",
    "Windows",
    "macOS",
    "Linux",
    "Unix",
    "POSIX",
    "Debian",
    "Git",
    "Subversion",
    "MPI",
    "regular expressions",
    "command line",
];

/// The two answers to a question of fact.
pub const YES_NO: [&str; 2] = ["yes", "no"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::mentions;

    #[test]
    fn no_thing_is_mentioned_by_naming_another() {
        for a in THINGS {
            for b in THINGS {
                assert!(a == b || !mentions(a, b), "{a} mentions {b}");
            }
        }
    }

    #[test]
    fn a_language_stands_before_its_beginning() {
        for (at, long) in WRITTEN_IN.iter().enumerate() {
            assert!(WRITTEN_IN[..at].iter().all(|earlier| !long.starts_with(earlier)), "{long}");
        }
    }
}
