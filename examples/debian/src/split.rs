//! Disjoint sets of whole clusters.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::draw;
use crate::duplicate::Clusters;

/// The demo's domain, held back from all other sets: sections whose packages are about
/// science and its instruments.
pub const DOMAIN_SECTIONS: [&str; 6] = ["education", "electronics", "gnu-r", "hamradio", "math", "science"];

/// Where a cluster's texts go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Plain text for the base model and for the synthesizer's first steps.
    Base,
    /// Tasks to tune the synthesizer with.
    Tuning,
    /// Texts that judge the synthesizer.
    TuningHeldout,
    /// The domain's raw documents: the demo trains on them.
    Demo,
    /// The domain's documents that judge the demo.
    DemoHeldout,
}

impl Set {
    /// All sets.
    pub const ALL: [Self; 5] = [Self::Base, Self::Tuning, Self::TuningHeldout, Self::Demo, Self::DemoHeldout];

    /// The stem of the set's file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Tuning => "tuning",
            Self::TuningHeldout => "tuning-heldout",
            Self::Demo => "demo",
            Self::DemoHeldout => "demo-heldout",
        }
    }
}

/// What the assignment needs to know of a package.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    /// The source package.
    pub source: &'a str,
    /// The archive section.
    pub section: &'a str,
}

/// The set of each source: a cluster with any package in a domain section is the domain's,
/// the others are drawn. Nothing but the cluster's name and the seed decides.
///
/// # Errors
/// When a source has no cluster: `clusters` was made of other packages.
pub fn assign(seed: u64, packages: &[Placed<'_>], clusters: &Clusters) -> Result<BTreeMap<String, Set>> {
    let mut domain: BTreeMap<&str, bool> = BTreeMap::new();
    let mut cluster_of: BTreeMap<&str, &str> = BTreeMap::new();
    for package in packages {
        let cluster = clusters.cluster_of(package.source);
        ensure!(cluster.is_some(), "source package {} has no cluster", package.source);
        let cluster = cluster.unwrap_or_default();
        cluster_of.insert(package.source, cluster);
        *domain.entry(cluster).or_default() |= DOMAIN_SECTIONS.contains(&package.section);
    }
    let set = |cluster: &str| {
        let share = draw::unit(seed, cluster, "set");
        match domain[cluster] {
            true if share < 0.12 => Set::DemoHeldout,
            true => Set::Demo,
            false if share < 0.04 => Set::TuningHeldout,
            false if share < 0.52 => Set::Base,
            false => Set::Tuning,
        }
    };
    Ok(cluster_of.into_iter().map(|(source, cluster)| (source.to_owned(), set(cluster))).collect())
}

/// Checks the promise of the split on the finished texts: no source, no cluster and no
/// paragraph group (boilerplate aside) has texts in two sets.
///
/// # Errors
/// Names the first source or paragraph that breaks the promise.
pub fn verify<'a>(
    texts: impl Iterator<Item = (Set, &'a str, &'a [String])>,
    clusters: &Clusters,
) -> Result<Disjointness> {
    let mut set_of_source: BTreeMap<&str, Set> = BTreeMap::new();
    let mut set_of_cluster: BTreeMap<&str, Set> = BTreeMap::new();
    let mut set_of_group: BTreeMap<usize, Set> = BTreeMap::new();
    let mut boilerplate = 0;
    for (set, source, paragraphs) in texts {
        let found = *set_of_source.entry(source).or_insert(set);
        ensure!(found == set, "source package {source} is in the sets {found:?} and {set:?}");
        if let Some(cluster) = clusters.cluster_of(source) {
            let found = *set_of_cluster.entry(cluster).or_insert(set);
            ensure!(found == set, "the cluster of {source} ({cluster}) is in the sets {found:?} and {set:?}");
        }
        for paragraph in paragraphs {
            let Some(group) = clusters.group_of(source, paragraph) else { continue };
            if clusters.is_boilerplate(group) {
                boilerplate += 1;
                continue;
            }
            let found = *set_of_group.entry(group).or_insert(set);
            ensure!(
                found == set,
                "a paragraph of {source} is in the sets {found:?} and {set:?}: {paragraph:?}"
            );
        }
    }
    Ok(Disjointness { sources: set_of_source.len(), groups: set_of_group.len(), boilerplate })
}

/// What [`verify`] looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disjointness {
    /// Source packages, each in one set.
    pub sources: usize,
    /// Paragraph groups, each in one set.
    pub groups: usize,
    /// Paragraphs that are boilerplate and may stand in several sets.
    pub boilerplate: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::duplicate::Member;

    #[test]
    fn a_domain_package_takes_its_whole_cluster_into_the_domain() {
        let shared = vec![
            "Numerical methods for the solution of partial differential equations on parallel computers"
                .to_owned(),
        ];
        let members = [
            Member { source: "solver", package: "solver", paragraphs: &shared },
            Member { source: "solver-python", package: "python3-solver", paragraphs: &shared },
            Member { source: "zebra", package: "zebra", paragraphs: &[] },
        ];
        let clusters = Clusters::of(&members);
        let packages = [
            Placed { source: "solver", section: "science" },
            Placed { source: "solver-python", section: "python" },
            Placed { source: "zebra", section: "games" },
        ];
        let sets = assign(1, &packages, &clusters).expect("all have clusters");
        assert_eq!(sets["solver"], sets["solver-python"]);
        assert!(matches!(sets["solver"], Set::Demo | Set::DemoHeldout));
        assert!(!matches!(sets["zebra"], Set::Demo | Set::DemoHeldout));
    }

    #[test]
    fn a_source_in_two_sets_is_found_out() {
        let clusters = Clusters::of(&[Member { source: "a", package: "a", paragraphs: &[] }]);
        let texts = [(Set::Base, "a", &[][..]), (Set::Demo, "a", &[][..])];
        let error = verify(texts.into_iter(), &clusters).expect_err("a stands in two sets");
        assert!(error.to_string().contains("source package a"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn the_sets_are_disjoint_by_source_cluster_and_paragraph(
            seed: u64,
            texts in proptest::collection::vec((0_usize..12, 0_usize..9, 0_usize..3), 1..60),
        ) {
            let stock: Vec<String> = (0..9)
                .map(|n| format!("Paragraph {} tells at some length what the thing can do for all of {} users", ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"][n], n))
                .collect();
            let sources: Vec<String> = (0..12).map(|n| format!("source-{n}")).collect();
            let members: Vec<Member<'_>> = texts
                .iter()
                .map(|&(source, paragraph, _)| Member {
                    source: &sources[source],
                    package: &sources[source],
                    paragraphs: &stock[paragraph..=paragraph],
                })
                .collect();
            let clusters = Clusters::of(&members);
            let packages: Vec<Placed<'_>> = texts
                .iter()
                .map(|&(source, _, section)| Placed { source: &sources[source], section: ["science", "libs", "games"][section] })
                .collect();
            let sets = assign(seed, &packages, &clusters).expect("all have clusters");
            let placed = members.iter().map(|m| (sets[m.source], m.source, m.paragraphs));
            verify(placed, &clusters).expect("disjoint");
        }
    }
}
