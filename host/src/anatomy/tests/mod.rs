//! The anatomy of every graph of the zoo, of decoders that are built here, and of graphs that are refused.

mod built;
mod goldens;
mod gpt2;
mod identities;
mod refusals;

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

/// The folders of the zoo that hold a graph, by name.
fn rows() -> Vec<(String, PathBuf)> {
    let folder = std::fs::read_dir(tests_folder().join("zoo")).unwrap();
    let mut found: Vec<(String, PathBuf)> = folder
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("model.onnx").is_file())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), path))
        .collect();
    found.sort();
    found
}
