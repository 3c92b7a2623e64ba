//! `lyceum bench` measures the real thing and says so in a table and a file; how fast it is is no test's matter.
#![allow(clippy::unwrap_used)]

use std::fs;

use lyceum_tests::Bed;
use serde_json::Value;

#[test]
fn bench_actor_measures_every_work_and_leaves_nothing_running() {
    let bed = Bed::with_documents(1);
    let file = bed.path("rows.json");
    let run = bed.command("bench", &["actor", "--rounds", "1", "--millis", "20", "--json"], &file);
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let rows: Vec<Value> = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let works: Vec<_> = rows.iter().map(|row| row["work"].as_str().unwrap()).collect();
    let expected = [
        "call, one at a time",
        "calls, 1,000 in flight",
        "call with 1 MiB",
        "process actors without libtorch",
        "process actors with libtorch",
        "actors of one process",
    ];
    assert_eq!(works, expected, "{}", ended.said);
    for row in &rows {
        assert!(row["ours"].as_f64().unwrap() > 0.0, "{row}");
        assert!(ended.said.contains(row["work"].as_str().unwrap()), "{}", ended.said);
    }
    let echo = &rows[0];
    assert_eq!(echo["peer_name"], "bare echo");
    assert!(
        echo["ratio"].as_f64().unwrap() > 0.0 && echo["ours_us"]["p99"].as_f64().unwrap() > 0.0,
        "{echo}"
    );
}

#[test]
fn bench_store_measures_every_work_beside_what_bounds_it() {
    let bed = Bed::with_documents(1);
    let file = bed.path("rows.json");
    let run = bed.command("bench", &["store", "--rounds", "1", "--millis", "20", "--json"], &file);
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let rows: Vec<Value> = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let beside: Vec<_> = rows.iter().map(|row| (row["work"].as_str().unwrap(), &row["peer_name"])).collect();
    let (reading, stream) = (Value::from("reading it"), Value::from("bare stream"));
    let expected = [
        ("put of 100 MiB, with a copy", &Value::Null),
        ("100 MiB made in place, from seal to the last byte read", &reading),
        ("fetch of 100 MiB", &stream),
    ];
    assert_eq!(beside, expected, "{}", ended.said);
    for row in &rows {
        assert!(
            row["ours"].as_f64().unwrap() > 0.0 && row["ours_us"]["p50"].as_f64().unwrap() > 0.0,
            "{row}"
        );
    }
    assert!(rows[1..].iter().all(|row| row["ratio"].as_f64().unwrap() > 0.0), "{}", ended.said);
}

#[test]
fn a_peer_without_its_environment_is_refused_by_the_command_that_makes_it() {
    let bed = Bed::with_documents(1);
    let run = bed.command("bench", &["actor", "--peer", "ray", "--json"], &bed.path("rows.json"));
    run.end().failed(&["ray/bin/python is missing", "cargo xtask peers"]);
}
