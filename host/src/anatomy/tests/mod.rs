//! The anatomy of every graph of the zoo, of decoders that are built here, and of graphs that are refused.

mod built;
mod goldens;
mod gpt2;
mod identities;
mod refusals;
mod spellings;
mod unread;

use std::path::PathBuf;

use super::Anatomy;
use crate::graph::testing::zoo;
use crate::graph::{Graph, Shapes};

fn tests_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

fn fixture(name: &str) -> Graph {
    Graph::load(&zoo(name)).unwrap()
}

fn anatomy(graph: &Graph) -> crate::base::Result<Anatomy> {
    Anatomy::of(graph, &Shapes::infer(graph).unwrap())
}
