//! The process for actors that need libtorch: trainers and synthesizers.

fn main() {}
