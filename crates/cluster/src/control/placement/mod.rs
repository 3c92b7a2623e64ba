//! Where a process goes: a pure function of the nodes' accounts and the request.

mod gang;

use std::fmt;

use lyceum_actor::LabelRule;

pub use self::gang::{gang_waits_for, place_gang};
use super::resources::{Allotment, Ledger, Request, Strategy};

/// A node as placement sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a std::collections::BTreeMap<String, String>,
    /// Its account.
    pub ledger: &'a Ledger,
    /// How often actors of the role in question failed there of late.
    pub failures: usize,
    /// Why no process may be started on it now, if none may.
    pub closed: Option<&'a str>,
}

/// Nodes of which it is said why they do not hold a waiting request.
const SHOWN: usize = 4;

/// Why a request has no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unplaced {
    /// It fits once others have ended or a node has come back.
    Later,
    /// No node that is there can ever hold it.
    Never(Impossible),
}

/// A request that the nodes can never hold, with the reason of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impossible {
    what: String,
    reasons: Vec<(String, String)>,
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons = self.reasons.iter().map(|(node, reason)| format!("node `{node}`: {reason}"));
        write!(f, "{}: {}", self.what, listed(&reasons.collect::<Vec<_>>(), 16))
    }
}

/// The node that `request` is given, and what it is given there: one on which its role failed least of late. Ties go to the
/// name that comes first.
pub fn place<'a>(
    nodes: impl Iterator<Item = Candidate<'a>> + Clone,
    request: &Request,
) -> Result<(String, Allotment), Unplaced> {
    let fits = |node: &Candidate<'_>| {
        node.closed.is_none() && refusal(node, request).is_none() && node.ledger.check(request).is_ok()
    };
    let preference = |node: &Candidate<'_>| {
        let fullness = node.ledger.fullness(request);
        let fullness = match request.strategy {
            Strategy::Spread | Strategy::StrictSpread => fullness,
            Strategy::Pack | Strategy::StrictPack => u64::MAX - fullness,
        };
        (node.failures, fullness)
    };
    match nodes.clone().filter(fits).min_by_key(preference) {
        Some(node) => {
            node.ledger.fit(request).map(|given| (node.name.to_owned(), given)).map_err(|_| Unplaced::Later)
        }
        None => Err(possible(nodes, request).map_or_else(Unplaced::Never, |()| Unplaced::Later)),
    }
}

/// Whether some node can hold `request` when it has nothing else.
pub fn possible<'a>(
    nodes: impl Iterator<Item = Candidate<'a>> + Clone,
    request: &Request,
) -> Result<(), Impossible> {
    if is_possible(nodes.clone(), request) {
        return Ok(());
    }
    let reason = |node: Candidate<'a>| Some((node.name.to_owned(), never_on(&node, request)?));
    let what = "no present node can ever hold this request".to_owned();
    Err(Impossible { what, reasons: nodes.filter_map(reason).collect() })
}

/// The same, without a word on why not.
pub fn is_possible<'a>(mut nodes: impl Iterator<Item = Candidate<'a>>, request: &Request) -> bool {
    nodes.any(|node| never_on(&node, request).is_none())
}

/// Why `request` has no place now, of each of the nodes that may come to hold it.
pub fn waits_for<'a>(nodes: impl Iterator<Item = Candidate<'a>>, request: &Request) -> String {
    let possible = nodes.filter(|node| never_on(node, request).is_none());
    let reasons: Vec<String> = possible
        .filter_map(|node| {
            let why = match node.closed {
                Some(why) => why.to_owned(),
                None => node.ledger.check(request).err()?.to_string(),
            };
            Some(format!("{}: {why}", node.name))
        })
        .collect();
    listed(&reasons, SHOWN)
}

/// What is said of nodes, of the first `most`.
fn listed(said: &[String], most: usize) -> String {
    match said.len().saturating_sub(most) {
        0 => said.join("; "),
        more => format!("{}; and {more} more nodes", said[..most].join("; ")),
    }
}

/// Why `request` could not be held by this node even if it were empty.
fn never_on(node: &Candidate<'_>, request: &Request) -> Option<String> {
    let alone = || node.ledger.check_alone(request).err();
    refusal(node, request).or_else(|| Some(alone()?.to_string().replace(" free", " in all")))
}

/// Why `request` is not for this node, whatever the node has.
fn refusal(node: &Candidate<'_>, request: &Request) -> Option<String> {
    if request.node.as_deref().is_some_and(|name| name != node.name) {
        return Some(format!("is not the node asked for, `{}`", request.node.as_deref().unwrap_or_default()));
    }
    for rule in &request.labels {
        let found = node.labels.get(&rule.label).map(String::as_str);
        if !rule.allows(found) {
            return Some(mismatch(rule, found));
        }
    }
    None
}

fn mismatch(rule: &LabelRule, found: Option<&str>) -> String {
    let label = &rule.label;
    let values: Vec<String> = rule.values.iter().map(|value| format!("`{value}`")).collect();
    let values = values.join(" or ");
    match found {
        Some(found) if rule.not => format!("label `{label}` is `{found}`, anything but {values} asked"),
        Some(found) => format!("label `{label}` is `{found}`, {values} asked"),
        None => format!("has no label `{label}`, {values} asked"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::resources::Capacity;
    use super::*;
    use crate::units::Milli;

    fn cluster(cpus: &[(&str, u64, u64)]) -> Vec<(String, Ledger)> {
        let node = |(name, total, used): &(&str, u64, u64)| {
            let mut ledger = Ledger::new(Capacity { cpus: Milli::whole(*total), ..Capacity::default() });
            ledger.take(&Allotment { cpus: Milli::whole(*used), ..Allotment::default() });
            (name.to_string(), ledger)
        };
        cpus.iter().map(node).collect()
    }

    fn candidate<'a>(
        (name, ledger): &'a (String, Ledger),
        labels: &'a BTreeMap<String, String>,
    ) -> Candidate<'a> {
        Candidate { name, labels, ledger, failures: 0, closed: None }
    }

    fn choose(nodes: &[(String, Ledger)], request: &Request) -> Result<String, Unplaced> {
        let labels = BTreeMap::new();
        let candidates = nodes.iter().map(|node| candidate(node, &labels));
        place(candidates, request).map(|(name, _)| name)
    }

    fn cpus(units: u64, strategy: Strategy) -> Request {
        Request { cpus: Milli::whole(units), strategy, ..Request::default() }
    }

    #[test]
    fn spread_takes_the_emptiest_and_pack_the_fullest_that_fits() {
        let nodes = cluster(&[("a", 4, 2), ("b", 4, 1), ("c", 4, 4)]);
        assert_eq!(choose(&nodes, &cpus(1, Strategy::Spread)).unwrap(), "b");
        assert_eq!(choose(&nodes, &cpus(1, Strategy::Pack)).unwrap(), "a");
        assert_eq!(choose(&nodes, &cpus(3, Strategy::Pack)).unwrap(), "b");
    }

    #[test]
    fn a_full_cluster_means_later_and_a_small_one_never() {
        let nodes = cluster(&[("a", 4, 2), ("b", 2, 0)]);
        assert_eq!(choose(&nodes, &cpus(4, Strategy::Spread)).unwrap_err(), Unplaced::Later);
        let Err(Unplaced::Never(why)) = choose(&nodes, &cpus(5, Strategy::Spread)) else {
            panic!("5 cores fit nowhere");
        };
        assert_eq!(
            why.to_string(),
            "no present node can ever hold this request: node `a`: cpus: 5 asked, 4 in all; \
             node `b`: cpus: 5 asked, 2 in all"
        );
    }

    #[test]
    fn an_unknown_node_is_never() {
        let nodes = cluster(&[("a", 4, 0)]);
        let elsewhere = Request { node: Some("z".into()), ..Request::default() };
        let Err(Unplaced::Never(why)) = choose(&nodes, &elsewhere) else { panic!("there is no node z") };
        assert!(why.to_string().ends_with("node `a`: is not the node asked for, `z`"));
    }

    #[test]
    fn a_label_can_be_asked_for_one_of_several_or_excluded() {
        let nodes = cluster(&[("a", 4, 0)]);
        let with = |disk: Option<&str>, values: &[&str], not| {
            let labels = disk.map(|disk| ("disk".to_owned(), disk.to_owned())).into_iter().collect();
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            let rule = LabelRule { label: "disk".into(), values, not };
            let request = Request { labels: vec![rule], ..Request::default() };
            let candidates = nodes.iter().map(|node| candidate(node, &labels));
            match place(candidates, &request) {
                Err(Unplaced::Never(why)) => why.to_string(),
                placed => placed.expect("a node that is open and empty").0,
            }
        };
        let refused = "no present node can ever hold this request: node `a`: ";
        assert_eq!(with(Some("fast"), &["fast"], false), "a");
        assert_eq!(with(Some("fast"), &["slow", "fast"], false), "a");
        assert_eq!(
            with(Some("tape"), &["slow", "fast"], false),
            format!("{refused}label `disk` is `tape`, `slow` or `fast` asked")
        );
        assert_eq!(with(None, &["fast"], false), format!("{refused}has no label `disk`, `fast` asked"));
        assert_eq!(with(None, &["fast"], true), "a");
        assert_eq!(with(Some("slow"), &["fast"], true), "a");
        assert_eq!(
            with(Some("fast"), &["fast"], true),
            format!("{refused}label `disk` is `fast`, anything but `fast` asked")
        );
    }
}
