//! Which source packages share text.
//!
//! Paragraphs are reduced to their words (names of the source's own packages to one
//! placeholder, digits to `0`), near-duplicates among them found by MinHash, and
//! paragraph groups joined by union-find. A group that spans few sources joins those
//! sources into one cluster; a group that spans many is *boilerplate* ("This package
//! contains the development files for §"): it tells nothing about kinship and joins nothing.
//!
//! Deterministic: the same descriptions in any order give the same clusters.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A paragraph with fewer words of its own (the words of `PACKAGING` do not count) says too
/// little to tell kinship by.
pub const SHORTEST_WORDS: usize = 7;
/// A paragraph group that spans more sources than this is boilerplate.
pub const BOILERPLATE_SOURCES: usize = 12;
/// Two paragraphs are near-duplicates when they share this part of their shingles (Jaccard).
pub const NEAR: f64 = 0.6;

/// Words that say how software is packaged, not what it does; and the commonest of English.
const PACKAGING: [&str; 96] = [
    "0",
    "00",
    "a",
    "all",
    "an",
    "and",
    "any",
    "api",
    "applications",
    "architecture",
    "are",
    "as",
    "available",
    "be",
    "binaries",
    "binary",
    "bindings",
    "build",
    "building",
    "by",
    "c",
    "can",
    "common",
    "compile",
    "compiled",
    "compiling",
    "contain",
    "contains",
    "data",
    "debian",
    "debug",
    "debugging",
    "dependencies",
    "depends",
    "develop",
    "developing",
    "development",
    "documentation",
    "dynamic",
    "example",
    "examples",
    "file",
    "files",
    "for",
    "format",
    "from",
    "generate",
    "gobject",
    "header",
    "headers",
    "html",
    "if",
    "in",
    "include",
    "includes",
    "independent",
    "install",
    "installed",
    "introspection",
    "is",
    "it",
    "its",
    "libraries",
    "library",
    "link",
    "main",
    "module",
    "need",
    "needed",
    "of",
    "on",
    "or",
    "package",
    "packages",
    "programs",
    "provides",
    "python",
    "require",
    "required",
    "run",
    "runtime",
    "shared",
    "software",
    "static",
    "suite",
    "tests",
    "that",
    "the",
    "this",
    "to",
    "use",
    "used",
    "using",
    "which",
    "with",
    "§",
];

const SHINGLE_WORDS: usize = 4;
const BANDS: usize = 10;
const ROWS: usize = 3;
/// In a bucket a paragraph is compared with this many others at most.
const COMPARED: usize = 16;

/// One package's text, as far as kinship goes.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// The source package.
    pub source: &'a str,
    /// The package's name.
    pub package: &'a str,
    /// The body's paragraphs.
    pub paragraphs: &'a [String],
}

/// The clusters of a set of packages.
#[derive(Debug)]
pub struct Clusters {
    of_source: BTreeMap<String, String>,
    group_of_form: HashMap<u64, usize>,
    boilerplate: HashSet<usize>,
    names: BTreeMap<String, BTreeSet<String>>,
}

impl Clusters {
    /// Finds the clusters of these packages.
    pub fn of(members: &[Member<'_>]) -> Self {
        let names = names_by_source(members);
        let mut forms: BTreeMap<Vec<String>, BTreeSet<&str>> = BTreeMap::new();
        for member in members {
            for paragraph in member.paragraphs {
                let words = words(paragraph, &names[member.source]);
                if tells_kinship(&words) {
                    forms.entry(words).or_default().insert(member.source);
                }
            }
        }
        let groups = near_groups(forms.keys());
        let mut sources_of_group: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
        for (sources, &group) in forms.values().zip(&groups) {
            sources_of_group.entry(group).or_default().extend(sources);
        }

        let sources: Vec<&String> = names.keys().collect();
        let number: HashMap<&str, usize> = sources.iter().enumerate().map(|(n, s)| (s.as_str(), n)).collect();
        let mut union = Union::new(sources.len());
        let mut boilerplate = HashSet::new();
        for (group, members) in &sources_of_group {
            if members.len() > BOILERPLATE_SOURCES {
                boilerplate.insert(*group);
                continue;
            }
            let mut members = members.iter().map(|source| number[source]);
            if let Some(first) = members.next() {
                members.for_each(|other| union.join(first, other));
            }
        }
        // Sources are sorted and a root is its class's smallest member: the cluster's name.
        let of_source =
            (0..sources.len()).map(|n| (sources[n].clone(), sources[union.root(n)].clone())).collect();
        let group_of_form = forms.keys().zip(groups).map(|(words, group)| (form(words), group)).collect();
        Self { of_source, group_of_form, boilerplate, names }
    }

    /// The cluster that a source belongs to, by the name of its first member.
    pub fn cluster_of(&self, source: &str) -> Option<&str> {
        self.of_source.get(source).map(String::as_str)
    }

    /// The near-duplicate group of a source's paragraph; `None` for one that is too short to tell.
    pub fn group_of(&self, source: &str, paragraph: &str) -> Option<usize> {
        let words = words(paragraph, self.names.get(source)?);
        self.group_of_form.get(&form(&words)).copied()
    }

    /// Whether a group is boilerplate.
    pub fn is_boilerplate(&self, group: usize) -> bool {
        self.boilerplate.contains(&group)
    }

    /// Clusters by size in sources, largest first.
    pub fn sizes(&self) -> Vec<(usize, &str)> {
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        for cluster in self.of_source.values() {
            *sizes.entry(cluster).or_default() += 1;
        }
        let mut sizes: Vec<(usize, &str)> = sizes.into_iter().map(|(name, size)| (size, name)).collect();
        sizes.sort_by(|a, b| b.cmp(a));
        sizes
    }

    /// How many paragraph groups there are, and how many are boilerplate.
    pub fn groups(&self) -> (usize, usize) {
        let all: HashSet<usize> = self.group_of_form.values().copied().collect();
        (all.len(), self.boilerplate.len())
    }
}

fn names_by_source(members: &[Member<'_>]) -> BTreeMap<String, BTreeSet<String>> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for member in members {
        let own = names.entry(member.source.to_owned()).or_default();
        own.insert(member.source.to_lowercase());
        own.insert(member.package.to_lowercase());
    }
    names
}

fn words(paragraph: &str, names: &BTreeSet<String>) -> Vec<String> {
    let mut words = Vec::new();
    for token in paragraph.to_lowercase().split_whitespace() {
        let token = token.trim_matches(|c: char| !c.is_alphanumeric() && c != '+');
        if names.contains(token) {
            words.push("§".to_owned());
            continue;
        }
        for word in token.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            words.push(word.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect());
        }
    }
    words
}

fn tells_kinship(words: &[String]) -> bool {
    words.iter().filter(|word| PACKAGING.binary_search(&word.as_str()).is_err()).count() >= SHORTEST_WORDS
}

fn form(words: &[String]) -> u64 {
    xxh3_64_with_seed(words.join(" ").as_bytes(), 0)
}

/// For each paragraph the number of its near-duplicate group.
fn near_groups<'a>(paragraphs: impl Iterator<Item = &'a Vec<String>>) -> Vec<usize> {
    let shingles: Vec<Vec<u64>> = paragraphs.map(|words| shingles(words)).collect();
    let mut union = Union::new(shingles.len());
    for band in 0..BANDS {
        let mut buckets: HashMap<[u64; ROWS], Vec<usize>> = HashMap::new();
        for (number, own) in shingles.iter().enumerate() {
            let key = std::array::from_fn(|row| minimum(own, (band * ROWS + row) as u64));
            let bucket = buckets.entry(key).or_default();
            for &other in bucket.iter().rev().take(COMPARED) {
                if union.root(other) != union.root(number) && jaccard(own, &shingles[other]) >= NEAR {
                    union.join(other, number);
                }
            }
            bucket.push(number);
        }
    }
    (0..shingles.len()).map(|number| union.root(number)).collect()
}

/// The sorted hashes of all runs of [`SHINGLE_WORDS`] words.
fn shingles(words: &[String]) -> Vec<u64> {
    let mut hashes: Vec<u64> = words.windows(SHINGLE_WORDS).map(form).collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

fn minimum(shingles: &[u64], function: u64) -> u64 {
    let salt = (function + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    shingles
        .iter()
        .map(|hash| (hash ^ salt).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29))
        .min()
        .unwrap_or(0)
}

/// Shared part of two sorted sets.
fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0_usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                both += 1;
                i += 1;
                j += 1;
            }
        }
    }
    both as f64 / (a.len() + b.len() - both).max(1) as f64
}

/// Union-find whose roots are the smallest members.
struct Union {
    parent: Vec<usize>,
}

impl Union {
    fn new(size: usize) -> Self {
        Self { parent: (0..size).collect() }
    }

    fn root(&mut self, mut member: usize) -> usize {
        while self.parent[member] != member {
            self.parent[member] = self.parent[self.parent[member]];
            member = self.parent[member];
        }
        member
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "A spreadsheet for the command line that reads tables of numbers, adds their columns \
                        and writes the sums to its standard output in many formats";

    fn paragraphs(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    #[test]
    fn sources_that_share_a_paragraph_up_to_a_few_words_are_one_cluster() {
        let (one, near) = (paragraphs(LONG), paragraphs(&LONG.replace("many formats", "several formats")));
        let other = paragraphs(
            "Something else entirely: a game in which the player herds sheep across hills and rivers",
        );
        let members = [
            Member { source: "b", package: "b", paragraphs: &near },
            Member { source: "a", package: "a", paragraphs: &one },
            Member { source: "c", package: "c", paragraphs: &other },
        ];
        let clusters = Clusters::of(&members);
        assert_eq!(clusters.cluster_of("b"), Some("a"));
        assert_eq!(clusters.cluster_of("a"), Some("a"));
        assert_eq!(clusters.cluster_of("c"), Some("c"));
    }

    #[test]
    fn a_paragraph_that_many_sources_share_joins_none_of_them() {
        let sources: Vec<String> = (0..=BOILERPLATE_SOURCES).map(|n| format!("s{n:03}x")).collect();
        let texts: Vec<Vec<String>> = sources
            .iter()
            .map(|source| {
                paragraphs(&format!(
                    "Haskell is a lazy, purely functional language; {source} is one of its many small pieces."
                ))
            })
            .collect();
        let members: Vec<Member<'_>> = sources
            .iter()
            .zip(&texts)
            .map(|(source, paragraphs)| Member { source, package: source, paragraphs })
            .collect();
        let clusters = Clusters::of(&members);
        for source in &sources {
            assert_eq!(clusters.cluster_of(source), Some(source.as_str()));
        }
        let group = clusters.group_of(&sources[0], &texts[0][0]).expect("long enough to tell");
        assert!(clusters.is_boilerplate(group));
    }

    #[test]
    fn packaging_remarks_tell_no_kinship() {
        let remark = paragraphs(
            "This package contains the header files and static libraries that are needed for development.",
        );
        let members = ["a", "b"].map(|source| Member { source, package: source, paragraphs: &remark });
        let clusters = Clusters::of(&members);
        assert_eq!(clusters.group_of("a", &remark[0]), None);
        assert_ne!(clusters.cluster_of("a"), clusters.cluster_of("b"));
        assert!(PACKAGING.is_sorted(), "it is searched by halves");
    }

    #[test]
    fn the_order_of_the_packages_does_not_matter() {
        let texts: Vec<Vec<String>> = (0..30)
            .map(|n| paragraphs(&format!("{LONG} number {} of {}", ["one", "two", "three"][n % 3], n / 6)))
            .collect();
        let sources: Vec<String> = (0..30).map(|n| format!("source{n}")).collect();
        let mut members: Vec<Member<'_>> = sources
            .iter()
            .zip(&texts)
            .map(|(source, paragraphs)| Member { source, package: source, paragraphs })
            .collect();
        let forward = Clusters::of(&members).of_source;
        members.reverse();
        assert_eq!(forward, Clusters::of(&members).of_source);
    }
}
