//! What a person means by the name of a log.

use std::collections::{BTreeMap, BTreeSet};

use super::words::LogSelector;
use super::{LogEntry, LogLabel};
use crate::control::vocabulary::Status;
use crate::strict;

/// Names that a message lists at most.
const MAX_TOLD: usize = 40;

/// What is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) of: LogSelector,
    /// The node, where all of one is meant.
    pub(super) node: Option<String>,
    /// The job that it is of, where it is of one.
    pub(super) job: Option<u64>,
    /// What was meant by several, or else.
    pub(super) note: Option<String>,
}

/// A job or an actor that is called as was asked for.
#[derive(Debug, Default)]
struct Found {
    actors: BTreeSet<u64>,
    lives: bool,
}

/// The text without the word before it that says what it names.
fn kind_of(text: &str) -> (Option<&str>, &str) {
    match text.split_once('/') {
        Some((kind @ ("node" | "job" | "actor"), rest)) => (Some(kind), rest),
        _ => (None, text),
    }
}

/// What agents are asked for, to find out what is meant; nothing where that is clear.
pub(super) fn question(text: &str) -> Option<LogSelector> {
    match kind_of(text) {
        (Some("node"), _) => None,
        (_, text) => Some(LogSelector::Called(text.to_owned())),
    }
}

/// What `text` means in a cluster of this `status`, of which agents have these logs that are called so. The error is a kind of
/// thing to be known by that name; `None` where there is none at all.
pub(super) fn resolve(text: &str, status: &Status, logs: &[LogEntry]) -> Result<Option<Target>, String> {
    let (kind, name) = kind_of(text);
    let wants = |what| kind.is_none_or(|kind| kind == what);
    let mut found: Vec<(&str, Target)> = Vec::new();
    if wants("node") && status.nodes.iter().any(|node| node.name == name) {
        let of = LogSelector::Node;
        found.push(("node", Target { of, node: Some(name.to_owned()), job: None, note: None }));
    }
    if wants("job")
        && let Some(target) = job(name, status, logs)?
    {
        found.push(("job", target));
    }
    if wants("actor")
        && let Some(target) = actor(name, status, logs)?
    {
        found.push(("actor", target));
    }
    match found.len() {
        0 | 1 => Ok(found.pop().map(|(_, target)| target)),
        _ => {
            let kinds: Vec<String> = found.iter().map(|(kind, _)| format!("`{kind}/{name}`")).collect();
            Err(format!("several things are called `{name}`, say which is meant: {}", kinds.join(" or ")))
        }
    }
}

fn job(name: &str, status: &Status, logs: &[LogEntry]) -> Result<Option<Target>, String> {
    let is_it = |job: u64, called: &str| job.to_string() == name || called == name;
    let mut jobs: BTreeMap<u64, Found> = BTreeMap::new();
    for log in logs.iter().map(|log| &log.label).filter(|log| log.process != 0) {
        if is_it(log.job, &log.job_name) {
            jobs.entry(log.job).or_default();
        }
    }
    for job in status.jobs.iter().filter(|job| is_it(job.job, &job.name)) {
        jobs.entry(job.job).or_default().lives = true;
    }
    let chosen = choose(&jobs, name, "job", |job| job.to_string())?;
    Ok(chosen.map(|(job, note)| Target { of: LogSelector::Job(job), node: None, job: Some(job), note }))
}

/// An actor by its number or name, a gang by its name, or one process by its number.
fn actor(name: &str, status: &Status, logs: &[LogEntry]) -> Result<Option<Target>, String> {
    let living: Vec<LogLabel> = status
        .actors
        .iter()
        .map(|actor| LogLabel {
            process: actor.process,
            actor: actor.actor,
            job: actor.job,
            role: actor.role.clone(),
            name: actor.name.clone(),
            namespace: actor.namespace.clone(),
            rank: actor.rank,
            ..LogLabel::default()
        })
        .collect();
    let is_number = |number: u64| number != 0 && number.to_string() == name;
    let all = || living.iter().chain(logs.iter().map(|log| &log.label));
    if let Some(one) = all().find(|label| is_number(label.process)) {
        let of = LogSelector::Processes(vec![one.process]);
        return Ok(Some(Target { of, node: None, job: Some(one.job), note: None }));
    }
    // One name of one job is one actor, or one gang, however often it was started.
    let mut named: BTreeMap<(u64, Option<String>), Found> = BTreeMap::new();
    let is_it = |label: &&LogLabel| is_number(label.actor) || label.actor_is_called(name);
    for label in all().filter(is_it) {
        let found = named.entry((label.job, label.namespace.clone())).or_default();
        found.actors.insert(label.actor);
        found.lives |= living.iter().any(|living| living.actor == label.actor);
    }
    let number = |(job, namespace): &(u64, Option<String>)| {
        let actors = named.get(&(*job, namespace.clone())).map(|found| &found.actors);
        let actors: Vec<String> = actors.into_iter().flatten().map(u64::to_string).collect();
        format!("{} of job {job}", actors.join(" and "))
    };
    let chosen = choose(&named, name, "actor", number)?;
    Ok(chosen.map(|(key, note)| {
        let of = LogSelector::Actors(named[&key].actors.iter().copied().collect());
        Target { of, node: None, job: Some(key.0), note }
    }))
}

/// The one of several that lives; where none does, the newest.
fn choose<K: Ord + Clone>(
    found: &BTreeMap<K, Found>,
    name: &str,
    what: &str,
    told: impl Fn(&K) -> String,
) -> Result<Option<(K, Option<String>)>, String> {
    let list = |keys: Vec<&K>| keys.into_iter().map(&told).collect::<Vec<_>>().join(", ");
    let living: Vec<&K> = found.iter().filter(|(_, found)| found.lives).map(|(key, _)| key).collect();
    let chosen = match living.as_slice() {
        [one] => *one,
        [] => match found.keys().next_back() {
            Some(newest) => newest,
            None => return Ok(None),
        },
        _ => {
            let which = list(living);
            return Err(format!("several {what}s are called `{name}`, name one by its number: {which}"));
        }
    };
    let others: Vec<&K> = found.keys().filter(|key| *key != chosen).collect();
    let note = (!others.is_empty()).then(|| {
        format!(
            "of several {what}s that were called `{name}` this is {}; the others: {}",
            told(chosen),
            list(others)
        )
    });
    Ok(Some((chosen.clone(), note)))
}

/// What is said of a name that nothing has.
pub(super) fn nothing(text: &str, status: &Status, logs: &[LogEntry]) -> String {
    let mut names: BTreeSet<String> = status.nodes.iter().map(|node| node.name.clone()).collect();
    names.extend(status.jobs.iter().map(|job| job.name.clone()));
    let of_actors = status.actors.iter().filter_map(|actor| actor.name.clone());
    names.extend(of_actors.chain(logs.iter().filter_map(|log| log.label.name.clone())));
    names.extend(logs.iter().map(|log| log.label.job_name.clone()));
    names.remove("");
    let (_, name) = kind_of(text);
    let hint = match strict::nearest(name, names.iter().map(String::as_str)) {
        Some(near) => format!(", did you mean `{near}`?"),
        None => String::new(),
    };
    let told: Vec<String> = names.iter().take(MAX_TOLD).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > MAX_TOLD { " ..." } else { "" };
    format!(
        "no node, job or actor is called `{name}`{hint} (there are {}{more}, and numbers)",
        told.join(", ")
    )
}
