//! Writing a graph back as an ONNX model.

use std::path::Path;

use onnx_protobuf::Message;

use super::codes;
use super::container::Graph;
use crate::base::{Error, Result, atomic};

impl Graph {
    /// Writes the .onnx file, whole or not at all; external data is not written.
    ///
    /// # Errors
    /// `model-write`, `file-write` or `disk-full`
    pub fn save(&self, path: &Path) -> Result<()> {
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
