//! The command line of engraft.

fn main() {}
