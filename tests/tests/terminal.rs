//! What a person sees who sits at a terminal.

use lyceum_tests::{Bed, RunText};

#[test]
fn a_run_on_a_terminal_shows_bars_for_steps_documents_and_pairs() {
    if std::process::Command::new("script").arg("--version").output().is_err() {
        assert!(std::env::var_os("LYCEUM_REQUIRE_TOOLS").is_none(), "script is missing: install `bsdutils`");
        eprintln!("skipped: script(1), which lends a terminal, is missing (Debian: bsdutils)");
        return;
    }
    let bed = Bed::new();
    let run = RunText { steps: 60, ..RunText::default() };
    let ended = bed.run_on_terminal(&run, "out").end();
    let said = ended.said.clone();
    ended.well();
    for label in ["steps", "documents", "pairs"] {
        assert!(said.contains(&format!("{label} ")), "no bar for {label} in:\n{said}");
    }
    // The bar, its numbers, and what is beside them.
    assert!(said.contains("█") && said.contains("/60") && said.contains("tokens/s"), "{said}");
    assert!(said.contains("\u{1b}["), "it is drawn over, not written line by line:\n{said}");

    let plain = bed.run(&run, "plain").end();
    assert!(!plain.said.contains('\u{1b}'), "elsewhere there are lines:\n{}", plain.said);
    plain.well();
}
