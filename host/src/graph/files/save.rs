//! Writing a graph back as an ONNX model.

use std::path::Path;

use onnx_protobuf::Message;

use crate::base::{Error, Result, atomic};
use crate::graph::codes;
use crate::graph::container::Graph;

impl Graph {
    /// Writes the .onnx file, whole or not at all, beside the data files that it reads; [`export`](super::export) is
    /// for another folder.
    ///
    /// # Errors
    /// `data-missing` if the graph has external data that is not in the folder of `path`; `model-write`, `disk-full`
    /// or `file-write`.
    pub fn save(&self, path: &Path) -> Result<()> {
        let folder = path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
        for (name, real) in self.external_paths() {
            if folder.join(name).canonicalize().ok().as_deref() != Some(real) {
                let text = format!("`{}` would not find its data file `{name}`", path.display());
                return Err(Error::new(&codes::DATA_MISSING, text).help("export the model to a folder of its own"));
            }
        }
        atomic::write_bytes(path, &self.to_bytes()?)
    }

    /// The model as the bytes of an .onnx file; external tensors stay external.
    ///
    /// # Errors
    /// `model-write` if the message is larger than protobuf's 2 GiB.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut model = (*self.shell).clone();
        let graph = model.graph.mut_or_insert_default();
        graph.node = self.nodes.iter().map(|n| n.proto().clone()).collect();
        graph.input = self.inputs.clone();
        graph.output = self.outputs.clone();
        graph.initializer =
            self.initializer_order.iter().filter_map(|n| self.initializers.get(n)).map(|i| i.proto().clone()).collect();
        model.write_to_bytes().map_err(|e| {
            Error::new(&codes::MODEL_WRITE, "the model does not fit into one protobuf message")
                .help("keep its weights in external data")
                .because(e)
        })
    }
}
