//! Whose words the sample is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A package that has a text in the sample.
#[derive(Debug, Clone, Copy)]
pub struct Credit<'a> {
    /// The source package.
    pub source: &'a str,
    /// The binary package.
    pub package: &'a str,
    /// The archive section.
    pub section: &'a str,
    /// The homepage, where the index gives one.
    pub homepage: Option<&'a str>,
}

/// The attribution file: one line per source package.
pub fn write<'a>(release: &str, credits: impl Iterator<Item = Credit<'a>>) -> String {
    #[derive(Default)]
    struct Line<'a> {
        sections: BTreeSet<&'a str>,
        packages: BTreeSet<&'a str>,
        homepage: Option<&'a str>,
    }
    let mut lines: BTreeMap<&str, Line<'_>> = BTreeMap::new();
    for credit in credits {
        let line = lines.entry(credit.source).or_default();
        line.sections.insert(credit.section);
        line.packages.insert(credit.package);
        line.homepage = line.homepage.or(credit.homepage);
    }
    let join = |set: BTreeSet<&str>| set.into_iter().collect::<Vec<_>>().join(" ");
    let mut file = format!(
        "# The texts in this folder are package descriptions of Debian's archive, section \"main\" (free software),\n\
         # taken from the English descriptions of its package index ({release}) and rewrapped.\n\
         # They were written by each package's Debian maintainers, upstream authors and description editors, and stand\n\
         # under the licence of their source package: see its debian/copyright, linked from\n\
         # https://tracker.debian.org/pkg/SOURCE. One line per source package:\n\
         # source<TAB>sections<TAB>packages<TAB>homepage\n"
    );
    for (source, line) in lines {
        let homepage = line.homepage.unwrap_or("-");
        // Writing to a string cannot fail.
        let _ = writeln!(file, "{source}\t{}\t{}\t{homepage}", join(line.sections), join(line.packages));
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_one_line_with_all_its_packages() {
        let credit = |package, homepage| Credit { source: "foo", package, section: "science", homepage };
        let file = write(
            "Version: 12",
            [credit("libfoo", None), credit("foo-doc", Some("https://foo"))].into_iter(),
        );
        let lines: Vec<&str> = file.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, ["foo\tscience\tfoo-doc libfoo\thttps://foo"]);
    }
}
