//! Set-up and developer commands: nothing heavy.

fn main() {}
