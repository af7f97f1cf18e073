//! The test kit: where things are, models and methods ready to use, and PyTorch's records.

pub mod zoo;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engraft::data::{self, DataKind};
use engraft::model::{Model, OpenOptions};
use engraft::plugins::{Library, Method};
use engraft::runtime::{Runtime, RuntimeSettings, silent};
use engraft_plugin_api::EditRequest;
use safetensors::SafeTensors;

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the kit lies in a folder").to_path_buf()
}

/// The shipped model and its world.
pub fn atlas() -> PathBuf {
    root().join("examples/atlas")
}

/// Facts of the atlas to change, each with another answer than the one that its model knows.
pub fn requests(count: usize) -> Vec<EditRequest> {
    let data = data::load(DataKind::CounterFact, &atlas().join("counterfact_train.json"), Some(count));
    data.expect("the data loads").records.into_iter().map(|record| record.request).collect()
}

/// A fact of the atlas to change.
pub fn a_request() -> EditRequest {
    requests(1).swap_remove(0)
}

/// Opens a model on the CPU.
pub fn open(path: &Path) -> Model {
    let runtime = Runtime::open(&RuntimeSettings::default(), silent()).expect("ONNX Runtime is there or provided");
    Model::open(path, &runtime, &OpenOptions::default()).expect("the model opens")
}

/// The folder that test binaries and plugins are built into.
pub fn deps() -> PathBuf {
    let exe = std::env::current_exe().expect("a test has a path");
    exe.parent().expect("in a folder").to_owned()
}

/// A plugin that `cargo test --workspace` builds, by the name of its crate with underscores.
pub fn library(name: &str) -> Arc<Library> {
    library_at(&deps().join(format!("lib{name}.so")))
}

/// A plugin by its path.
pub fn library_at(path: &Path) -> Arc<Library> {
    assert!(path.is_file(), "{} is not built: run `cargo test --workspace`", path.display());
    Arc::new(Library::load(path, &[]).expect("the plugin loads"))
}

/// A method with parameters in TOML.
pub fn method(library: &Arc<Library>, params: &str) -> Method {
    let table = params.parse().expect("parameters are TOML");
    library.create(library.configure(&table).expect("parameters fit")).expect("the method is created")
}

/// PyTorch's records.
pub struct Records(Vec<u8>);

impl Records {
    /// Reads a file.
    pub fn open(path: &Path) -> Self {
        Self(std::fs::read(path).expect("the records are there"))
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).expect("the records are safetensors")
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.file().names().into_iter().map(|n| n.to_string()).collect();
        names.sort();
        names
    }

    /// The extents of a tensor.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.file().tensor(name).expect("the tensor is recorded").shape().to_vec()
    }

    /// Floats.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        let file = self.file();
        let tensor = file.tensor(name).expect("the tensor is recorded");
        tensor.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }

    /// Integers.
    pub fn i64(&self, name: &str) -> Vec<i64> {
        let file = self.file();
        let tensor = file.tensor(name).expect("the tensor is recorded");
        tensor.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect()
    }

    /// Rows of tokens: `input_ids` cut to `lengths`.
    pub fn rows(&self) -> Vec<Vec<u32>> {
        let width = self.shape("input_ids")[1];
        let ids = self.i64("input_ids");
        let lengths = self.i64("lengths");
        ids.chunks(width).zip(lengths).map(|(row, n)| row[..n as usize].iter().map(|&t| t as u32).collect()).collect()
    }
}

/// The largest absolute difference.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The norm of the difference over the norm of `b`.
pub fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |v: f64| v * v;
    let off: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(a - b))).sum();
    let all: f64 = b.iter().map(|&b| square(f64::from(b))).sum();
    (off / all).sqrt()
}

/// The cosine between two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
