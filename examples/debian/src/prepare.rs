//! The whole corpus: from the package index to the files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::attribution::{self, Credit};
use crate::choices;
use crate::clean::{self, Description};
use crate::control::{Dropped, Stanza, read_stanzas};
use crate::draw;
use crate::duplicate::{Clusters, Member};
use crate::lists::{self, Lists};
use lyceum_corpus::tokenizer::Tokenizer;
use lyceum_synth::tuning::TuningExample;

use crate::output::{self, Document};
use crate::rename::Renamer;
use crate::split::{self, Placed, Set};
use crate::statistics::{DocumentCount, ExampleCount};
use crate::tasks::{self, Example, Lesson};
use crate::text::{Text, compose};

/// What to prepare, and where.
pub struct Options {
    /// The folder that gets the whole corpus.
    pub out: PathBuf,
    /// The folder that gets the demo's sample, if any.
    pub sample: Option<PathBuf>,
    /// Decides sets, questions and orders.
    pub seed: u64,
    /// Contexts longer than this are not tuned on, in bytes: two texts with their pairs
    /// should fit into the small synthesizer's 512 tokens.
    pub longest_context: usize,
    /// Pairs of one context are at most this long together, in bytes.
    pub pair_budget: usize,
    /// Packages of one source that are tuned on, at most.
    pub per_source: usize,
}

/// Bytes of a text's questions and answers, at most: about 110 tokens, with their marks some 30 less than what the demo
/// lets its synthesizer write.
pub const PAIR_BUDGET: usize = 330;

/// The demo's seed.
pub const SEED: u64 = 20_240_620;

impl Options {
    /// The demo's own choices.
    pub fn demo(out: PathBuf, sample: Option<PathBuf>) -> Self {
        Self { out, sample, seed: SEED, longest_context: 1000, pair_budget: PAIR_BUDGET, per_source: 3 }
    }
}

/// Contexts of the report, and items of each kind of multiple choice, in the sample.
const REPORT_CONTEXTS: usize = 400;
const ITEMS_OF_EACH_KIND: usize = 150;
/// A body with less text than this is not worth a document, in bytes.
const SHORTEST_BODY: usize = 80;
/// The tuning examples under other names.
pub const NAMES: &str = "tuning-names.jsonl";
/// All tuning examples are of one data set: the demo's chains mix all packages, too.
const DATA_SET: &str = "debian-packages";

/// One binary package of the index.
pub struct Package {
    name: String,
    source: String,
    section: String,
    homepage: Option<String>,
    description: Description,
}

impl Package {
    fn body_bytes(&self) -> usize {
        self.description.paragraphs.iter().map(|paragraph| paragraph.len() + 2).sum()
    }
}

/// Reads the two lists, joined by the description's checksum. Packages come sorted by name,
/// each once.
///
/// # Errors
/// When a list cannot be read.
pub fn read_packages(lists: &Lists) -> Result<(Vec<Package>, Skipped)> {
    let mut skipped = Skipped::default();
    let mut descriptions: HashMap<(String, String), String> = HashMap::new();
    let dropped = lists::open(&lists.descriptions, |reader| {
        read_stanzas(reader, |stanza| {
            let fields = (stanza.get("Package"), stanza.get("Description-md5"), stanza.get("Description-en"));
            if let (Some(package), Some(sum), Some(text)) = fields {
                descriptions.insert((package.to_owned(), sum.to_owned()), text.to_owned());
            }
        })
    })?;
    skipped.add(dropped);
    let mut packages: BTreeMap<String, Package> = BTreeMap::new();
    let dropped = lists::open(&lists.packages, |reader| {
        read_stanzas(reader, |stanza| match package(&stanza, &descriptions) {
            Ok(package) => {
                packages.entry(package.name.clone()).or_insert(package);
            }
            Err(reason) => *skipped.packages.entry(reason).or_default() += 1,
        })
    })?;
    skipped.add(dropped);
    Ok((packages.into_values().collect(), skipped))
}

/// What of the index was not used.
#[derive(Debug, Default)]
pub struct Skipped {
    stanzas: Dropped,
    packages: BTreeMap<&'static str, u64>,
}

impl Skipped {
    fn add(&mut self, dropped: Dropped) {
        self.stanzas.oversized += dropped.oversized;
        self.stanzas.not_utf8 += dropped.not_utf8;
    }
}

fn package(
    stanza: &Stanza,
    descriptions: &HashMap<(String, String), String>,
) -> Result<Package, &'static str> {
    let name = stanza.get("Package").filter(|name| is_package_name(name)).ok_or("no valid name")?;
    // `Source: name (version)` where it differs from the package's name and version.
    let source = stanza.get("Source").and_then(|source| source.split_whitespace().next()).unwrap_or(name);
    let section = stanza.get("Section").ok_or("no section")?;
    if section.contains('/') {
        return Err("not in main");
    }
    if section == "tasks" || section == "metapackages" || section == "oldlibs" {
        return Err("an empty package: task, metapackage or transition");
    }
    let sum = stanza.get("Description-md5").ok_or("no description")?;
    let key = (name.to_owned(), sum.to_owned());
    let description = descriptions.get(&key).ok_or("no English description")?;
    let description = clean::description(description).ok_or("nothing readable in the description")?;
    let summary = description.summary.to_lowercase();
    if summary.contains("transitional") || summary.contains("dummy package") {
        return Err("an empty package: task, metapackage or transition");
    }
    Ok(Package {
        name: name.to_owned(),
        source: source.to_owned(),
        section: section.to_owned(),
        homepage: stanza.get("Homepage").filter(|page| !page.contains(['\t', '\n'])).map(str::to_owned),
        description,
    })
}

/// Debian policy 5.6.1: at least two characters, lower-case letters, digits, `+-.`
fn is_package_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    name.len() >= 2 && name.as_bytes()[0].is_ascii_alphanumeric() && name.bytes().all(allowed)
}

/// Everything that is written, in memory.
pub struct Corpus {
    documents: BTreeMap<Set, Vec<Document>>,
    tuning: Vec<Example>,
    finish: Vec<Example>,
    tuning_heldout: Vec<Example>,
    /// What was counted and checked on the way.
    pub notes: String,
}

/// Makes all sets of these packages. The same packages and options give the same sets.
///
/// # Errors
/// When a set is not disjoint from the others: see [`split::verify`].
pub fn build(options: &Options, packages: &[Package]) -> Result<Corpus> {
    let members: Vec<Member<'_>> = packages
        .iter()
        .map(|p| Member { source: &p.source, package: &p.name, paragraphs: &p.description.paragraphs })
        .collect();
    let clusters = Clusters::of(&members);
    let placed: Vec<Placed<'_>> =
        packages.iter().map(|p| Placed { source: &p.source, section: &p.section }).collect();
    let sets = split::assign(options.seed, &placed, &clusters)?;

    let mut notes = String::new();
    let (groups, boilerplate) = clusters.groups();
    let sizes = clusters.sizes();
    let _ = writeln!(
        notes,
        "{} packages of {} sources in {} clusters; the largest: {:?}",
        packages.len(),
        sets.len(),
        sizes.len(),
        &sizes[..sizes.len().min(6)]
    );
    let _ = writeln!(notes, "{groups} groups of paragraphs, {boilerplate} of them boilerplate");

    let mut by_source: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
    for package in packages {
        by_source.entry(&package.source).or_default().push(package);
    }
    let mut documents: BTreeMap<Set, Vec<Document>> = BTreeMap::new();
    let mut written: Vec<(Set, &str, Vec<String>)> = Vec::new();
    for (source, packages) in by_source {
        let set = sets[source];
        let kept = match set {
            Set::Base | Set::Demo | Set::DemoHeldout => fresh(packages, &clusters, set == Set::DemoHeldout),
            Set::Tuning | Set::TuningHeldout => {
                whole(options, packages, if set == Set::Tuning { options.per_source } else { 1 })
            }
        };
        for (package, paragraphs) in kept {
            let text = compose(&package.name, &package.description.summary, &paragraphs);
            documents.entry(set).or_default().push(Document {
                id: package.name.clone(),
                text,
                source: source.to_owned(),
                section: package.section.clone(),
            });
            written.push((set, source, paragraphs));
        }
    }
    let checked = split::verify(written.iter().map(|(set, source, p)| (*set, *source, &p[..])), &clusters)?;
    let _ = writeln!(
        notes,
        "disjoint: {} sources and {} paragraph groups, each in one set; {} boilerplate paragraphs may stand in several",
        checked.sources, checked.groups, checked.boilerplate
    );
    for set in documents.values_mut() {
        draw::shuffle(options.seed, "order", set, |document| &document.id);
    }
    let of = |set: Set| documents.get(&set).map(Vec::as_slice).unwrap_or_default();
    let tuning = examples(options, of(Set::Tuning), Lesson::Copying);
    let finish = examples(options, of(Set::Tuning), Lesson::Choosing);
    let tuning_heldout = examples(options, of(Set::TuningHeldout), Lesson::Choosing);
    Ok(Corpus { tuning, finish, tuning_heldout, documents, notes })
}

/// A source's packages with the paragraphs that its earlier packages do not have; packages
/// that say nothing new are left out. `strict` leaves out boilerplate too, so that a held-out
/// text shares no paragraph with any other set.
fn fresh<'a>(
    packages: Vec<&'a Package>,
    clusters: &Clusters,
    strict: bool,
) -> Vec<(&'a Package, Vec<String>)> {
    let mut seen = BTreeSet::new();
    let mut kept = Vec::new();
    for package in packages {
        let mut paragraphs = Vec::new();
        for paragraph in &package.description.paragraphs {
            let group = clusters.group_of(&package.source, paragraph);
            let new =
                group.is_none_or(|group| seen.insert(group) && !(strict && clusters.is_boilerplate(group)));
            if new {
                paragraphs.push(paragraph.clone());
            }
        }
        if paragraphs.iter().map(String::len).sum::<usize>() >= SHORTEST_BODY {
            kept.push((package, paragraphs));
        }
    }
    kept
}

/// Up to `most` packages of a source, drawn, with their whole texts.
fn whole<'a>(
    options: &Options,
    mut packages: Vec<&'a Package>,
    most: usize,
) -> Vec<(&'a Package, Vec<String>)> {
    packages.retain(|package| {
        let body = package.body_bytes();
        let context = package.name.len() + 3 + package.description.summary.len() + body;
        body >= SHORTEST_BODY && context <= options.longest_context
    });
    draw::shuffle(options.seed, "per source", &mut packages, |package| &package.name);
    packages.truncate(most);
    packages.into_iter().map(|package| (package, package.description.paragraphs.clone())).collect()
}

/// Each document with its questions, in a drawn order.
fn examples(options: &Options, documents: &[Document], lesson: Lesson) -> Vec<Example> {
    let mut examples: Vec<Example> = documents
        .iter()
        .filter_map(|document| {
            let text = Text::parse(&document.text)?;
            let tasks = tasks::ask(&text, lesson, options.pair_budget);
            (tasks.len() >= 2).then(|| Example {
                id: document.id.clone(),
                source: document.source.clone(),
                context: document.text.clone(),
                tasks,
            })
        })
        .collect();
    draw::shuffle(options.seed, "example order", &mut examples, |example| &example.id);
    examples
}

fn tuning_row(example: &Example) -> TuningExample {
    TuningExample {
        dataset: DATA_SET.to_owned(),
        context: example.context.clone(),
        pairs: example.tasks.iter().map(|task| task.pair.clone()).collect(),
    }
}

impl Corpus {
    /// The documents of a set.
    pub fn documents(&self, set: Set) -> &[Document] {
        self.documents.get(&set).map(Vec::as_slice).unwrap_or_default()
    }

    /// The tuning examples of the first lesson.
    pub fn tuning(&self) -> &[Example] {
        &self.tuning
    }
}

/// Fetches, builds, writes; returns the statistics, which also stand in `stats.txt`.
///
/// # Errors
/// When the index cannot be had or a file not be written.
pub fn prepare(options: &Options, lists: &Lists) -> Result<String> {
    let (packages, skipped) = read_packages(lists)?;
    ensure!(
        packages.len() > 1000,
        "the index has only {} packages: delete the lists and fetch again",
        packages.len()
    );
    let corpus = build(options, &packages)?;
    let mut statistics = format!("Debian's package index: {}\n{}", lists.release, corpus.notes);
    let _ = writeln!(statistics, "not used: {:?} {:?}", skipped.stanzas, skipped.packages);
    fs::create_dir_all(&options.out).with_context(|| format!("cannot create {}", options.out.display()))?;
    for set in Set::ALL {
        let documents = corpus.documents(set);
        output::write(&options.out.join(format!("{}-documents.jsonl", set.name())), documents)?;
        let _ = write!(statistics, "\n{}-documents: {}", set.name(), DocumentCount::of(documents));
    }
    let tuning = [
        ("tuning", &corpus.tuning),
        ("tuning-finish", &corpus.finish),
        ("tuning-heldout", &corpus.tuning_heldout),
    ];
    for (name, examples) in tuning {
        let rows: Vec<TuningExample> = examples.iter().map(tuning_row).collect();
        output::write(&options.out.join(format!("{name}.jsonl")), &rows)?;
        let _ = write!(statistics, "\n{name}: {}", ExampleCount::of(examples));
    }
    let items = choices::items(options.seed, corpus.documents(Set::DemoHeldout), ITEMS_OF_EACH_KIND);
    output::write(&options.out.join("choices.jsonl"), &items)?;
    let _ = writeln!(statistics, "\nchoices: {} multiple-choice items", items.len());

    if let Some(sample) = &options.sample {
        fs::create_dir_all(sample).with_context(|| format!("cannot create {}", sample.display()))?;
        let demo = corpus.documents(Set::Demo);
        let heldout = corpus.documents(Set::DemoHeldout);
        let contexts = corpus.documents(Set::TuningHeldout);
        let contexts = &contexts[..contexts.len().min(REPORT_CONTEXTS)];
        let mut sizes = Vec::new();
        let (raw, to_augment) = divide(options.seed, demo);
        let sets = [
            ("domain-raw", &raw[..]),
            ("domain-to-augment", &to_augment[..]),
            ("heldout", heldout),
            ("contexts", contexts),
        ];
        for (name, documents) in sets {
            let name = format!("{name}.jsonl.zst");
            sizes.push((output::write(&sample.join(&name), documents)?, name));
        }
        sizes.push((output::write(&sample.join("choices.jsonl.zst"), &items)?, "choices.jsonl.zst".into()));
        let homepages: HashMap<&str, Option<&str>> =
            packages.iter().map(|package| (package.name.as_str(), package.homepage.as_deref())).collect();
        let credits = demo.iter().chain(heldout).chain(contexts).map(|document| Credit {
            source: &document.source,
            package: &document.id,
            section: &document.section,
            homepage: homepages.get(document.id.as_str()).copied().flatten(),
        });
        output::write_bytes(
            &sample.join("ATTRIBUTION"),
            attribution::write(&lists.release, credits).as_bytes(),
        )?;
        let _ = writeln!(statistics, "sample in {}: {sizes:?}", sample.display());
    }
    output::write_bytes(&options.out.join("stats.txt"), statistics.as_bytes())?;
    Ok(statistics)
}

/// Writes `tuning-names.jsonl` beside a prepared corpus: its tuning texts under other names, put together from
/// all tokens of the tokenizer that learnt from it. Returns its statistics.
///
/// # Errors
/// When the corpus or the tokenizer cannot be read, or the file not be written.
pub fn prepare_names(options: &Options, tokenizer: &Path) -> Result<String> {
    let documents: Vec<Document> = output::read(&options.out.join("tuning-documents.jsonl"))?;
    let renamer = Renamer::new(options.seed, &documents, &Tokenizer::load(tokenizer)?)?;
    let short = |document: &Document| document.text.len() <= options.longest_context;
    let renamed: Vec<Document> = documents
        .into_iter()
        .map(|document| Some(renamer.rename(&document)).filter(short).unwrap_or(document))
        .collect();
    let examples = examples(options, &renamed, Lesson::Choosing);
    let rows: Vec<TuningExample> = examples.iter().map(tuning_row).collect();
    output::write(&options.out.join(NAMES), &rows)?;
    Ok(format!("{NAMES}: {}", ExampleCount::of(&examples)))
}

/// The domain's documents that the demo trains on as they are, and those that it augments: three parts and two, since
/// pairs make about as many tokens again. Drawn by source package, so that what is said in one set is not said again in
/// the other. Both keep the order of `documents`.
pub fn divide(seed: u64, documents: &[Document]) -> (Vec<Document>, Vec<Document>) {
    let raw = |document: &Document| draw::below(seed, &document.source, "raw or to augment", 5) < 3;
    documents.iter().cloned().partition(raw)
}

/// Finds the lists under `out/apt`, or fetches them.
///
/// # Errors
/// When they cannot be had.
pub fn index(out: &Path, archive: &lists::Archive, refresh: bool) -> Result<Lists> {
    let directory = out.join("apt");
    match lists::find(&directory) {
        Ok(lists) if !refresh => Ok(lists),
        _ => lists::fetch(&directory, archive),
    }
}
