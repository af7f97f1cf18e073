//! The bytes of checkpoints and artefacts: a safetensors file of named tensors, whose metadata holds named texts.
//! Equal stores have equal bytes.

use std::collections::{BTreeMap, HashMap};

use engraft_plugin_api::{Data, MethodError, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};

/// The entry of the metadata that holds the texts, a line each.
const KEY: &str = "engraft";

/// Named tensors and texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Store {
    tensors: BTreeMap<String, Tensor>,
    texts: BTreeMap<String, String>,
}

fn damaged(what: impl std::fmt::Display) -> MethodError {
    MethodError::new("store-damaged", format!("a checkpoint or artefact is damaged or of another kind: {what}"))
        .help("train anew")
}

impl Store {
    /// Puts a tensor in, in place of one of that name.
    pub fn set(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Puts a text in, in place of one of that name.
    pub fn set_text(&mut self, name: &str, text: &str) {
        self.texts.insert(name.to_owned(), text.to_owned());
    }

    /// Puts a number in as a text; it comes back to the bit.
    pub fn set_number(&mut self, name: &str, number: f64) {
        self.set_text(name, &format!("{number:?}"));
    }

    /// The tensor of a name.
    ///
    /// # Errors
    /// `store-damaged` if there is none.
    pub fn tensor(&self, name: &str) -> Result<&Tensor, MethodError> {
        self.tensors.get(name).ok_or_else(|| damaged(format_args!("it holds no tensor `{name}`")))
    }

    /// The values of a tensor of floats that has `len` of them.
    ///
    /// # Errors
    /// `store-damaged` if there is none, or it is another.
    pub fn floats(&self, name: &str, len: usize) -> Result<Vec<f32>, MethodError> {
        let values = self.tensor(name)?.as_f32().map_err(|_| damaged(format_args!("`{name}` holds no floats")))?;
        if values.len() == len {
            return Ok(values.to_vec());
        }
        Err(damaged(format_args!("`{name}` holds {} values, expected {len}", values.len())))
    }

    /// The text of a name.
    ///
    /// # Errors
    /// `store-damaged` if there is none.
    pub fn text(&self, name: &str) -> Result<&str, MethodError> {
        self.texts.get(name).map(String::as_str).ok_or_else(|| damaged(format_args!("it holds no text `{name}`")))
    }

    /// The number of a name.
    ///
    /// # Errors
    /// `store-damaged` if there is none.
    pub fn number(&self, name: &str) -> Result<f64, MethodError> {
        self.text(name)?.parse().map_err(|_| damaged(format_args!("`{name}` is no number")))
    }

    /// The store as a safetensors file.
    ///
    /// # Errors
    /// `store-damaged` if a tensor is too large for the format.
    pub fn to_bytes(&self) -> Result<Vec<u8>, MethodError> {
        let mut stored = Vec::new();
        for (name, tensor) in &self.tensors {
            let (dtype, bytes): (_, Vec<u8>) = match tensor.data() {
                Data::F32(values) => (Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
                Data::I64(values) => (Dtype::I64, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            };
            stored.push((name, tensor.shape().to_vec(), dtype, bytes));
        }
        let mut views = Vec::new();
        for (name, shape, dtype, bytes) in &stored {
            views.push((*name, TensorView::new(*dtype, shape.clone(), bytes).map_err(damaged)?));
        }
        let lines: Vec<String> = self.texts.iter().map(|(k, v)| format!("{}={}", escape(k), escape(v))).collect();
        serialize(views, Some(HashMap::from([(KEY.to_owned(), lines.join("\n"))]))).map_err(damaged)
    }

    /// Reads a store.
    ///
    /// # Errors
    /// `store-damaged`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MethodError> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let lines = header.metadata().as_ref().and_then(|m| m.get(KEY)).ok_or_else(|| damaged("it has no texts"))?;
        let mut store = Self::default();
        for line in lines.lines() {
            let (name, text) = line.split_once('=').ok_or_else(|| damaged("a text has no name"))?;
            store.texts.insert(unescape(name), unescape(text));
        }
        for (name, view) in SafeTensors::deserialize(bytes).map_err(damaged)?.iter() {
            let tensor = match view.dtype() {
                Dtype::F32 => {
                    let values = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
                    Tensor::f32(view.shape(), values)
                }
                Dtype::I64 => {
                    let values = view.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
                    Tensor::i64(view.shape(), values)
                }
                other => return Err(damaged(format_args!("`{name}` is of the type {other:?}"))),
            };
            store.tensors.insert(name.to_owned(), tensor.map_err(damaged)?);
        }
        Ok(store)
    }
}

/// A text in one line without `=`.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '=' => out.push_str("\\e"),
            c => out.push(c),
        }
    }
    out
}

fn unescape(text: &str) -> String {
    let (mut out, mut chars) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = chars.next() {
        out.push(match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('e') => '=',
                other => other.unwrap_or('\\'),
            },
            (c, _) => c,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_comes_back_to_the_byte_and_damage_is_noticed() {
        let mut store = Store::default();
        store.set("weights", Tensor::f32([2, 1], vec![f32::MIN_POSITIVE, -0.0]).expect("fits"));
        store.set("seen", Tensor::i64([1], vec![i64::MIN]).expect("fits"));
        store.set("empty", Tensor::zeros([0, 3]));
        store.set_text("a=b\\\n", "größe\r\n= \\n");
        store.set_number("lr", 0.1 + 0.2);
        store.set_number("best", f64::INFINITY);
        let bytes = store.to_bytes().expect("writes");
        let read = Store::from_bytes(&bytes).expect("reads");
        assert_eq!(read, store);
        assert_eq!(read.to_bytes().expect("writes"), bytes);
        assert_eq!((read.number("lr"), read.number("best")), (Ok(0.1 + 0.2), Ok(f64::INFINITY)));
        let code = |result: Result<(), MethodError>| result.map_err(|e| e.code);
        let refused = || Err("store-damaged".to_owned());
        for cut in [0, 4, 20, bytes.len() - 1] {
            assert_eq!(code(Store::from_bytes(&bytes[..cut]).map(drop)), refused(), "{cut}");
        }
        assert_eq!(code(read.floats("weights", 3).map(drop)), refused());
        assert_eq!(code(read.floats("seen", 1).map(drop)), refused());
        assert_eq!(code(read.text("none").map(drop)), refused());
        assert_eq!(Store::from_bytes(&Store::default().to_bytes().expect("writes")), Ok(Store::default()));
    }
}
