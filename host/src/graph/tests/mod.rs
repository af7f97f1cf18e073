//! Tests of the graph folder over the tiny GPT-2 graphs of both exporters.

mod exports;
mod faults;
mod functions;
mod patches;
mod round_trip;
mod shapes;

use std::path::Path;

use onnx_protobuf::{Message, ModelProto};

use super::Graph;
use super::testing::{ZOO, zoo};
use crate::base::Result;

/// The message of a tiny GPT-2.
fn message(name: &str) -> ModelProto {
    ModelProto::parse_from_bytes(&std::fs::read(zoo(name).join("model.onnx")).unwrap()).unwrap()
}

/// Writes a changed model of `dynamo-mask` into `folder`, without its data file, and loads it.
fn load_changed(folder: &Path, change: impl FnOnce(&mut ModelProto)) -> Result<Graph> {
    let mut model = message("dynamo-mask");
    change(&mut model);
    std::fs::write(folder.join("model.onnx"), model.write_to_bytes().unwrap()).unwrap();
    Graph::load(folder)
}

/// The id of the code of an error.
fn code<T>(result: Result<T>) -> &'static str {
    result.err().expect("an error").code().id
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
