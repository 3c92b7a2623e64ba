//! A run file is refused at once, with its place and what was meant.
#![allow(clippy::unwrap_used)]

mod bed;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use bed::{Bed, CONFIG};
use lyceum_cluster::manifest::Manifest;
use lyceum_pretrain::demand;
use lyceum_pretrain::feed::Feed;
use lyceum_pretrain::run_directory::{RunDirectory, RunDirectoryError};
use lyceum_pretrain::run_file::RunFile;

/// What the run file says after `from` became `to`, without the folder's own name.
fn refusal(from: &str, to: &str) -> String {
    let bed = Bed::new(4);
    let text = Bed::text();
    assert!(text.contains(from), "the test changes something that is there");
    let path = bed.write(&text.replacen(from, to, 1));
    let error = RunFile::load(path).unwrap_err().to_string();
    error.replace(&format!("{}/", bed.folder.path().display()), "")
}

#[test]
fn what_is_left_out_has_defaults() {
    let run = Bed::new(4).run(&Bed::text());
    assert_eq!((run.trainer.world_size, run.checkpoint.keep, run.sources[0].epochs), (1, 2, 1));
    assert!(run.sources[0].paths[0].is_absolute());
    assert!(!run.synthesizes());
}

#[test]
fn a_wrong_key_is_named_with_its_place_and_the_nearest_valid_one() {
    let said = refusal("batch_rows = 2", "batch_row = 2");
    assert!(said.starts_with("run.toml:20:1: "), "{said}");
    assert!(said.contains("`batch_row`") && said.contains("did you mean `batch_rows`"), "{said}");
}

#[test]
fn values_that_do_not_fit_each_other_are_refused_at_their_place() {
    let cases = [
        ("steps = 100", "steps = 0", "run.toml:18:9: ", "0: expected 1 to 99999999"),
        ("steps = 100", "steps = 100000000", "run.toml:18:9: ", "100000000: expected 1 to 99999999"),
        ("rounds = 2", "rounds = 257", "run.toml:14:10: ", "257: expected 1 to 256"),
        ("rounds = 2", "rounds = 2\nchains_at_once = 1025", "run.toml:15:18: ", "1025: expected 1 to 1024"),
        ("batch_rows = 2", "batch_rows = 3\nworld_size = 2", "run.toml:20:", "cannot be shared out evenly"),
        ("sequence_length = 32", "sequence_length = 33", "run.toml:19:", "a multiple of 8"),
        ("name = \"texts\"", "name = \"texts\"\nconverted = 1.5", "run.toml:10:", "expected 0 to 1"),
        (
            "engine = \"deterministic\"",
            "min = 3\nmax = 2\nengine = \"deterministic\"",
            "run.toml:14:",
            "below min = 3",
        ),
        ("texts.jsonl", "text.jsonl", "run.toml:10:", "text.jsonl"),
        ("learning_rate = 1e-3", "learning_rate = nan", "run.toml:21:", "above 0"),
        ("steps = 100", "steps = 100\nbetas = [0.9, 0.95, \"x\"]", "run.toml:19:21: ", "expected a number"),
        ("steps = 100", "steps = 100\nbetas = [0.9, 0.95, 0.9]", "run.toml:", "expected two numbers"),
        ("steps = 100", "steps = 100\ncpus = 0.0001", "run.toml:", "at least 0.001"),
        ("steps = 100", "steps = 100\nworld_size = 4294967295", "run.toml:", "expected 1 to 65536"),
        ("name = \"bed\"", "name = \"..\"", "run.toml:1:", "a letter or digit first"),
    ];
    for (from, to, place, why) in cases {
        let said = refusal(from, to);
        assert!(
            said.starts_with(place) && said.contains(why),
            "{to:?} gave {said:?}, expected {place} ... {why}"
        );
    }
}

#[test]
fn a_source_that_is_no_readable_file_of_a_known_kind_is_refused_at_its_place() {
    let with = |name: &'static str, make: fn(&Path)| {
        let make = move |folder: &Path| make(&folder.join(name));
        refusal_of_files(make, "\"texts.jsonl\"", &format!("\"texts.jsonl\", \"{name}\""))
    };
    let file = |path: &Path| fs::write(path, "{\"text\": \"one\"}\n").unwrap();
    let said = with("more.jsonl", |path| fs::create_dir(path).unwrap());
    assert_eq!(said, "run.toml:10:25: more.jsonl is a folder, expected a file");
    let said = with("more.jsonl", |path| drop(UnixListener::bind(path).unwrap()));
    assert_eq!(said, "run.toml:10:25: more.jsonl is not a regular file, expected a file");
    let valid = "(valid here: `jsonl`, `ndjson`, `json`, `txt`, `md`, `gz`, `zst`)";
    for (name, said) in [
        ("more.jsnl", "unknown extension `jsnl`, did you mean `jsonl`?"),
        ("more.JSONL", "unknown extension `JSONL`, did you mean `jsonl`?"),
        ("more.jsonl.zstd", "unknown extension `zstd`, did you mean `zst`?"),
        ("more.parquet", "unknown extension `parquet`"),
    ] {
        assert_eq!(with(name, file), format!("run.toml:10:25: {name}: {said} {valid}"));
    }
    let said = with("more.gz", file);
    assert!(said.starts_with("run.toml:10:25: more.gz: no extension says what it holds"), "{said}");
}

#[test]
fn a_source_behind_a_link_is_what_the_links_name_says() {
    let bed = Bed::new(4);
    let folder = bed.folder.path();
    fs::rename(folder.join("texts.jsonl"), folder.join("blob")).unwrap();
    symlink("blob", folder.join("texts.jsonl")).unwrap();
    let run = bed.run(&Bed::text());
    assert_eq!(run.sources[0].paths, [folder.canonicalize().unwrap().join("texts.jsonl")]);
}

#[test]
fn sources_without_any_document_are_refused_with_what_was_skipped() {
    let more =
        "paths = [\"texts.jsonl\"]\nmax_bad_share = 1\n[[source]]\nname = \"more\"\npaths = [\"more.jsonl\"]";
    let with = |texts: &'static str, more: &'static str| {
        move |folder: &Path| {
            fs::write(folder.join("texts.jsonl"), texts).unwrap();
            fs::write(folder.join("more.jsonl"), more).unwrap();
        }
    };
    let blank = "{\"text\": \" \"}\n\nno json\n";
    let said = refusal_of_files(with(blank, ""), "paths = [\"texts.jsonl\"]", more);
    let expected = "run.toml:10:9: no source has a document to train on: \
                    'texts' (skipped corrupt json 1, empty 2), 'more' (skipped none)";
    assert_eq!(said, expected);
    // Of what is skipped no more than the allowed share may be.
    let said = refusal_of_files(with("", blank), "paths = [\"texts.jsonl\"]", more);
    assert!(said.starts_with("run.toml:14:9: 3 of 3 entries are bad"), "{said}");
    let bed = Bed::new(4);
    with(blank, "{\"text\": \"one\"}\n")(bed.folder.path());
    bed.run(&Bed::text().replace("paths = [\"texts.jsonl\"]", more));
}

#[test]
fn tuning_examples_and_choices_are_json_lines() {
    let text = |folder: &Path| fs::write(folder.join("one.txt"), "one").unwrap();
    let said = refusal_of_files(text, "\"texts.jsonl\"]", "\"one.txt\"]\nkind = \"tuning\"");
    assert_eq!(said, "run.toml:10:10: one.txt is one text, expected lines of JSON (`.jsonl`)");
    let choices = "learning_rate = 1e-3\n[evaluation]\nmultiple_choice = \"one.txt\"";
    let said = refusal_of_files(text, "learning_rate = 1e-3", choices);
    assert_eq!(said, "run.toml:23:19: one.txt is one text, expected lines of JSON (`.jsonl`)");
}

#[test]
fn converting_without_a_synthesizer_is_refused() {
    let bed = Bed::new(4);
    let text = Bed::text().replace("name = \"texts\"", "name = \"texts\"\nconverted = 0.5");
    let without = text.replace("[synthesizer]\nengine = \"deterministic\"\nrounds = 2\nwindow = 8\n", "");
    let said = RunFile::load(bed.write(&without)).unwrap_err().to_string();
    assert!(said.contains("no [synthesizer]"), "{said}");
    assert!(bed.run(&text).synthesizes());
}

#[test]
fn what_a_cluster_can_never_hold_is_said_before_anything_starts() {
    let bed = Bed::new(4);
    let path = bed.folder.path().join("cluster.toml");
    std::fs::write(&path, "name = \"small\"\noversubscribe = true\n[[nodes]]\nname = \"a\"\nresources = { cpus = 2, memory = \"1 GiB\" }\n")
        .unwrap();
    let manifest = Manifest::load(&path).unwrap();
    assert_eq!(demand::unmet(&bed.run(&Bed::text()), &manifest, None), None);
    let cases = [
        ("steps = 100\ncpus = 3", "trainer.cpus", "no node of 'small'"),
        ("steps = 100\ngpus = 1", "trainer.gpus", "0 gpus"),
        ("steps = 100\ncpus = 2\nworld_size = 2", "trainer.world_size", "room for 1 of 2"),
    ];
    for (asked, key, why) in cases {
        let unmet =
            demand::unmet(&bed.run(&Bed::text().replace("steps = 100", asked)), &manifest, None).unwrap();
        assert!(unmet.key == key && unmet.message.contains(why), "{asked}: {unmet:?}");
    }
    // One port is the head's, one the agent's, and the trainer takes two.
    let ports = |count: u16| {
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("[[nodes]]", &format!("[ports]\nfirst = 7400\ncount = {count}\n[[nodes]]"));
        Manifest::parse("ports.toml", &text).unwrap()
    };
    let one = demand::unmet(&bed.run(&Bed::text()), &ports(6), None).unwrap();
    assert!(
        one.key == "trainer.world_size" && one.message.contains("have 4 beside their agents'"),
        "{one:?}"
    );
    let two = one
        .message
        .split_once("in all")
        .unwrap()
        .0
        .rsplit_once(": ")
        .unwrap()
        .1
        .trim()
        .parse::<u16>()
        .unwrap();
    assert_eq!(demand::unmet(&bed.run(&Bed::text()), &ports(2 + two), None), None);
    let heavy = CONFIG.replace("\"intermediate_size\": 24", "\"intermediate_size\": 8388608");
    std::fs::write(bed.folder.path().join("model/config.json"), heavy).unwrap();
    let unmet = demand::unmet(&bed.run(&Bed::text()), &manifest, None).unwrap();
    assert!(unmet.key == "model.directory" && unmet.message.contains("1 GiB at most"), "{unmet:?}");
    std::fs::write(bed.folder.path().join("model/config.json"), CONFIG).unwrap();
    // 64 MiB are one piece of a store.
    let wide = bed.run(&Bed::text().replace("batch_rows = 2", "batch_rows = 80000"));
    let unmet = demand::unmet(&wide, &manifest, None).unwrap();
    assert!(unmet.key == "trainer.batch_rows" && unmet.message.contains("store.segment"), "{unmet:?}");
    // 256 MiB hold five batches of 60,000 rows of 32 tokens no more.
    let long = bed.run(&Bed::text().replace("batch_rows = 2", "batch_rows = 60000"));
    let unmet = demand::unmet(&long, &manifest, None).unwrap();
    assert!(unmet.key == "trainer.batch_rows" && unmet.message.contains("store.capacity"), "{unmet:?}");
}

/// What a run file says whose folder was changed by `change`, and which says `to` instead of `from`.
fn refusal_of_files(change: impl Fn(&Path), from: &str, to: &str) -> String {
    let bed = Bed::new(4);
    change(bed.folder.path());
    let text = Bed::text();
    assert!(text.contains(from), "the test changes something that is there");
    let error = RunFile::load(bed.write(&text.replacen(from, to, 1))).unwrap_err().to_string();
    let folder = bed.folder.path().canonicalize().unwrap();
    error
        .replace(&format!("{}/", folder.display()), "")
        .replace(&format!("{}/", bed.folder.path().display()), "")
}

#[test]
fn models_that_do_not_fit_are_refused_before_anything_starts() {
    let config =
        |text: &'static str| move |folder: &Path| fs::write(folder.join("model/config.json"), text).unwrap();
    let said = refusal_of_files(config(&CONFIG.replace("300", "250").leak()[..]), "seed = 3", "seed = 3");
    assert!(said.starts_with("run.toml:5:13: ") && said.contains("vocab_size is 250"), "{said}");
    let said = refusal_of_files(config("{\"model_type\": \"llama\",\n oops}"), "seed = 3", "seed = 3");
    assert!(said.starts_with("model/config.json:2:2: "), "{said}");
    let said = refusal_of_files(config("{\"model_type\": \"llama\"}"), "seed = 3", "seed = 3");
    assert!(
        said.starts_with("model/config.json:1:") && said.contains("missing field `vocab_size`"),
        "{said}"
    );
    let other = CONFIG.replace("llama", "gpt2").leak();
    let said = refusal_of_files(config(other), "seed = 3", "seed = 3");
    assert!(
        said.starts_with("run.toml:5:13: ") && said.contains("expected \"llama\" or \"mistral\""),
        "{said}"
    );
    let odd = CONFIG.replace("_heads\": 4", "_heads\": 3").leak();
    let said = refusal_of_files(config(odd), "seed = 3", "seed = 3");
    let expected = "run.toml:5:13: model/config.json: hidden_size 16 is no multiple of num_attention_heads 3";
    assert_eq!(said, expected);
    let broken = |folder: &Path| fs::write(folder.join("model/tokenizer.json"), "{").unwrap();
    let said = refusal_of_files(broken, "seed = 3", "seed = 3");
    assert!(said.starts_with("run.toml:5:13: ") && said.contains("not a usable tokenizer.json"), "{said}");
    let said = refusal_of_files(|_| (), "sequence_length = 32", "sequence_length = 128");
    assert!(said.starts_with("run.toml:19:19: ") && said.contains("has 64 positions"), "{said}");
}

#[test]
fn weights_that_are_not_there_are_refused_before_anything_starts() {
    let said = refusal_of_files(|_| (), "start = \"random\"", "start = \"weights\"");
    assert!(said.starts_with("run.toml:5:13: ") && said.contains("there are no weights"), "{said}");
    assert!(said.contains("start = \"random\""), "{said}");
    let cut = |folder: &Path| fs::write(folder.join("model/model.safetensors"), "\x08\0\0").unwrap();
    let said = refusal_of_files(cut, "start = \"random\"\n", "");
    assert!(said.starts_with("run.toml:5:13: model/model.safetensors: "), "{said}");
    let empty = |folder: &Path| {
        fs::write(folder.join("model/model.safetensors"), "\x02\0\0\0\0\0\0\0{}").unwrap();
    };
    let said = refusal_of_files(empty, "start = \"random\"\n", "");
    assert!(said.starts_with("run.toml:5:13: model: parameter ") && said.contains("is missing"), "{said}");
    let sharded = |folder: &Path| {
        let index = r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
        fs::write(folder.join("model/model.safetensors.index.json"), index).unwrap();
        fs::write(folder.join("model/one.safetensors"), "").unwrap();
    };
    let said = refusal_of_files(sharded, "start = \"random\"\n", "");
    assert!(
        said.starts_with("run.toml:5:13: ") && said.contains("names \"two.safetensors\", which is not there"),
        "{said}"
    );
    let said = refusal_of_files(|_| (), "engine = \"deterministic\"", "directory = \"model\"");
    assert!(said.starts_with("run.toml:13:13: ") && said.contains("there are no weights"), "{said}");
}

#[test]
fn a_synthesizer_without_room_for_a_text_is_refused_before_anything_starts() {
    let said = refusal_of_files(|_| (), "rounds = 2", "rounds = 2\nmax_new_tokens = 4093");
    assert!(said.starts_with("run.toml:15:18: ") && said.contains("4096 positions"), "{said}");
}

#[test]
fn evaluation_files_are_refused_at_the_line_and_column_of_their_fault() {
    let with = |key: &str, text: &'static str| {
        let write = move |folder: &Path| fs::write(folder.join("e.jsonl"), text).unwrap();
        let table = format!("learning_rate = 1e-3\n[evaluation]\n{key} = \"e.jsonl\"");
        refusal_of_files(write, "learning_rate = 1e-3", &table)
    };
    let good = "{\"text\": \"one\"}\n";
    let said = with("heldout", format!("{good}{{\"text\": 5}}\n").leak());
    assert!(said.starts_with("e.jsonl:2:10: ") && said.contains("expected a string"), "{said}");
    let said = with("heldout", format!("{good}{good}{{\"title\": \"x\"}}\n").leak());
    assert!(said.starts_with("e.jsonl:3:") && said.contains("no string \"text\""), "{said}");
    assert!(with("heldout", "").starts_with("e.jsonl: holds nothing"));
    let item = "{\"prompt\": \"p\", \"choices\": [\"a\", \"b\"], \"answer\": 1}\n";
    let cases = [
        ("{\"prompt\": \"p\", \"choices\": [\"a\", \"b\"]}", "e.jsonl:2:", "missing field `answer`"),
        (
            "{\"prompt\": \"p\", \"choices\": [\"a\", \"b\"], \"answer\": 2}",
            "e.jsonl:2:",
            "answer 2 of 2 choices",
        ),
        ("{\"prompt\": \"p\", \"choices\": [\"a\", \"\"], \"answer\": 0}", "e.jsonl:2:", "an empty choice"),
        ("{\"prompt\": \"p\",, ", "e.jsonl:2:", "corrupt json"),
    ];
    for (line, place, why) in cases {
        let said = with("multiple_choice", format!("{item}{line}\n").leak());
        assert!(said.starts_with(place) && said.contains(why), "{line}: {said}");
    }
}

/// As if a chain had been recorded.
fn begin(directory: &RunDirectory, run: &RunFile, epoch: u64) {
    let mut feed = Feed::open(run, &directory.records(), epoch, 0).unwrap();
    feed.next_batch().unwrap().unwrap();
}

#[test]
fn a_folder_belongs_to_one_run_at_a_time_and_to_one_set_of_data() {
    let bed = Bed::new(40);
    let directory = RunDirectory::at(bed.folder.path().join("out"));
    let run = bed.run(&Bed::text());
    let lock = directory.claim(&run).unwrap();
    assert_eq!(lock.epoch(), 1);
    assert!(matches!(directory.claim(&run), Err(RunDirectoryError::InUse(_))));
    begin(&directory, &run, lock.epoch());
    drop(lock);
    let longer = bed.run(&Bed::text().replace("steps = 100", "steps = 200"));
    assert_eq!(directory.claim(&longer).unwrap().epoch(), 2, "each attempt has a number of its own");
    let other = bed.run(&Bed::text().replace("seed = 3", "seed = 4"));
    assert!(directory.claim(&other).unwrap_err().to_string().contains("seed differs"));
}

#[test]
fn until_something_is_recorded_everything_about_a_run_may_be_corrected() {
    let bed = Bed::new(40);
    let directory = RunDirectory::at(bed.folder.path().join("out"));
    let wrong = bed.run(&Bed::text().replace("batch_rows = 2", "batch_rows = 64"));
    drop(directory.claim(&wrong).unwrap());
    let run = bed.run(&Bed::text());
    bed.write_documents("texts.jsonl", 0..50);
    let lock = directory.claim(&run).unwrap();
    begin(&directory, &run, lock.epoch());
    drop(lock);
    let refused = directory.claim(&wrong).unwrap_err().to_string();
    assert!(refused.contains("trainer.batch_rows differs"), "{refused}");
    assert_eq!(directory.resumption(), "the same command goes on from step 0");
    std::fs::create_dir_all(directory.checkpoints().join("step-00000040")).unwrap();
    std::fs::create_dir_all(directory.checkpoints().join(".step-00000080.epoch-1.partial")).unwrap();
    assert_eq!(directory.resumption(), "the same command goes on from step 40");
}

#[test]
fn l5_a_run_is_not_resumed_over_files_that_have_changed() {
    let bed = Bed::new(40);
    let directory = RunDirectory::at(bed.folder.path().join("out"));
    let run = bed.run(&Bed::text());
    let lock = directory.claim(&run).unwrap();
    begin(&directory, &run, lock.epoch());
    drop(lock);
    let source = bed.folder.path().join("texts.jsonl");
    let before = fs::read(&source).unwrap();
    let refused = |why: &str| {
        let refused = directory.claim(&run).unwrap_err().to_string();
        assert!(refused.contains(why) && refused.contains("has changed since this run began"), "{refused}");
    };
    // Of the same length: the last digit of a port.
    let mut changed = before.clone();
    let last = changed.iter().rposition(u8::is_ascii_digit).unwrap();
    changed[last] = if changed[last] == b'0' { b'1' } else { b'0' };
    fs::write(&source, &changed).unwrap();
    refused("texts.jsonl");
    fs::write(&source, &before).unwrap();
    directory.claim(&run).unwrap();
    let tokenizer = bed.folder.path().join("model/tokenizer.json");
    let text = fs::read_to_string(&tokenizer).unwrap();
    fs::write(&tokenizer, text + "\n").unwrap();
    refused("tokenizer.json");
}
