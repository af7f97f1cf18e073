//! Graphs of a few nodes for the tests of this folder, encoded by hand: the protobuf belongs to `graph/`.

use std::path::Path;

pub(super) const F32: u64 = 1;
pub(super) const I32: u64 = 6;
pub(super) const I64: u64 = 7;
pub(super) const BOOL: u64 = 9;
pub(super) const F16: u64 = 10;

/// A message of protobuf's wire format.
#[derive(Clone, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u64, bytes: impl AsRef<[u8]>) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.as_ref().len() as u64);
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    fn message(self, field: u64, message: Message) -> Self {
        self.bytes(field, message.0)
    }
}

/// A model under construction.
pub(super) struct Model(Message);

impl Model {
    pub(super) fn new() -> Self {
        Self(Message::default().bytes(2, "tiny"))
    }

    /// Extents that are not numbers are names.
    pub(super) fn input(self, name: &str, kind: u64, dims: &[&str]) -> Self {
        Self(self.0.message(11, port(name, kind, dims)))
    }

    pub(super) fn output(self, name: &str, kind: u64, dims: &[&str]) -> Self {
        Self(self.0.message(12, port(name, kind, dims)))
    }

    pub(super) fn node(self, op: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        let node = inputs.iter().fold(Message::default(), |node, name| node.bytes(1, name));
        let node = outputs.iter().fold(node, |node, name| node.bytes(2, name));
        Self(self.0.message(1, node.bytes(4, op)))
    }

    /// A matrix or vector of floats in a file beside the model.
    pub(super) fn external(self, name: &str, dims: &[u64], file: &str) -> Self {
        let tensor = dims.iter().fold(Message::default(), |tensor, dim| tensor.number(1, *dim));
        let entry = Message::default().bytes(1, "location").bytes(2, file);
        Self(self.0.message(5, tensor.number(2, F32).bytes(8, name).message(13, entry).number(14, 1)))
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        let opset = Message::default().bytes(1, "").number(2, 17);
        Message::default().number(1, 8).message(7, self.0).message(8, opset).0
    }
}

fn port(name: &str, kind: u64, dims: &[&str]) -> Message {
    let shape = dims.iter().fold(Message::default(), |shape, dim| {
        let extent = Message::default();
        shape.message(
            1,
            match dim.parse() {
                Ok(number) => extent.number(1, number),
                Err(_) => extent.bytes(2, dim),
            },
        )
    });
    let tensor = Message::default().number(1, kind).message(2, shape);
    Message::default().bytes(1, name).message(2, Message::default().message(1, tensor))
}

/// `y = (x · W) * scale`, `z = y + y`; writes `W[3, 2] = 1..=6` to the file `weights` in `folder`.
pub(super) fn affine(folder: &Path) -> Vec<u8> {
    let weights: Vec<u8> = (1..=6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    std::fs::write(folder.join("weights"), weights).unwrap();
    Model::new()
        .input("x", F32, &["batch", "3"])
        .input("scale", F32, &[])
        .external("W", &[3, 2], "weights")
        .node("MatMul", &["x", "W"], &["product"])
        .node("Mul", &["product", "scale"], &["y"])
        .node("Add", &["y", "y"], &["z"])
        .output("y", F32, &["batch", "2"])
        .output("z", F32, &["batch", "2"])
        .bytes()
}
