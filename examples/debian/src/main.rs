//! Debian's package descriptions: corpus, context tasks, report.

fn main() {}
