//! The command line, the head, the node agent and the torch-free actors.

fn main() {}
