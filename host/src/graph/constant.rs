//! Values that are fixed in the graph: initializers and `Constant` nodes, as numbers.

use half::f16;

use super::codes;
use super::container::Graph;
use super::index::Index;
use super::initializer::{Initializer, Location};
use super::node::DType;
use crate::base::{Error, Result};

/// A fixed tensor as numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// The extents.
    pub dims: Vec<usize>,
    /// The values.
    pub values: Values,
}

/// Numbers of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Floating point, widened or narrowed to 32 bits.
    Floats(Vec<f32>),
    /// Integers and booleans, widened to 64 bits.
    Ints(Vec<i64>),
}

impl Constant {
    /// The integers, if it holds integers.
    pub fn ints(&self) -> Option<&[i64]> {
        match &self.values {
            Values::Ints(v) => Some(v),
            Values::Floats(_) => None,
        }
    }

    /// The floats, if it holds floats.
    pub fn floats(&self) -> Option<&[f32]> {
        match &self.values {
            Values::Floats(v) => Some(v),
            Values::Ints(_) => None,
        }
    }

    /// The one float of a tensor with one element.
    pub fn scalar(&self) -> Option<f32> {
        match self.floats()? {
            [v] => Some(*v),
            _ => None,
        }
    }
}

impl Graph {
    /// The bytes of an initializer, little-endian, without a copy where the file allows it.
    ///
    /// # Errors
    /// `data-truncated` or `data-missing` where the values are not there.
    pub fn bytes<'a>(&'a self, initializer: &'a Initializer) -> Result<std::borrow::Cow<'a, [u8]>> {
        match initializer.location()? {
            Location::Inline => initializer.inline_bytes(),
            Location::External { file, offset, length } => {
                self.files.bytes(&file, offset, length).map(std::borrow::Cow::Borrowed).ok_or_else(|| {
                    let text = format!("the tensor `{}` lies outside the data file `{file}`", initializer.name());
                    Error::new(&codes::DATA_TRUNCATED, text)
                })
            }
        }
    }

    /// An initializer's values as numbers.
    ///
    /// # Errors
    /// As [`Graph::bytes`], and `tensor-type` for types that are not read as numbers.
    pub fn values(&self, initializer: &Initializer) -> Result<Constant> {
        let bytes = self.bytes(initializer)?;
        decode(initializer, &bytes)
    }

    /// The value of an edge if it is an initializer or the output of a `Constant` node, looking through `Identity`.
    /// Tensors of more than `limit` elements count as not fixed, so that asking never reads big weights.
    pub fn constant(&self, index: &Index<'_>, edge: &str, limit: usize) -> Option<Constant> {
        if let Some(initializer) = self.initializer(edge) {
            return (initializer.len() <= limit).then(|| self.values(initializer).ok()).flatten();
        }
        let node = index.producer(edge)?;
        if node.is("Identity") {
            return self.constant(index, node.input(0)?, limit);
        }
        if !node.is("Constant") {
            return None;
        }
        if let Some(tensor) = node.tensor("value") {
            let initializer = Initializer::from_proto(tensor.clone());
            return (initializer.len() <= limit).then(|| self.values(&initializer).ok()).flatten();
        }
        let scalar = |values| Some(Constant { dims: vec![], values });
        if let Some(v) = node.float("value_float") {
            return scalar(Values::Floats(vec![v]));
        }
        if let Some(v) = node.int("value_int") {
            return scalar(Values::Ints(vec![v]));
        }
        node.ints("value_ints").map(|v| Constant { dims: vec![v.len()], values: Values::Ints(v.to_vec()) })
    }

    /// The first number of an edge if it is fixed: an initializer, however large, the output of a `Constant` node, or
    /// what a `ConstantOfShape` fills its output with.
    pub fn first(&self, index: &Index<'_>, edge: &str) -> Option<f64> {
        let of = |initializer: &Initializer| {
            let bytes = self.bytes(initializer).ok()?;
            first(&decode(initializer, bytes.get(..initializer.dtype().size()?)?).ok()?)
        };
        if let Some(initializer) = self.initializer(edge) {
            return of(initializer);
        }
        let node = index.producer(edge)?;
        match node.tensor("value").filter(|_| node.is("Constant") || node.is("ConstantOfShape")) {
            Some(tensor) => of(&Initializer::from_proto(tensor.clone())),
            None if node.is("ConstantOfShape") => Some(0.0),
            None => first(&self.constant(index, edge, usize::MAX).filter(|_| node.is("Constant"))?),
        }
    }
}

fn first(constant: &Constant) -> Option<f64> {
    match &constant.values {
        Values::Floats(v) => v.first().map(|&x| f64::from(x)),
        Values::Ints(v) => v.first().map(|&x| x as f64),
    }
}

fn decode(initializer: &Initializer, bytes: &[u8]) -> Result<Constant> {
    fn each<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|&c| f(c)).collect()
    }
    let values = match initializer.dtype() {
        DType::F32 => Values::Floats(each(bytes, f32::from_le_bytes)),
        DType::F16 => Values::Floats(each(bytes, |b| f16::from_le_bytes(b).to_f32())),
        DType::BF16 => Values::Floats(each(bytes, |b| half::bf16::from_le_bytes(b).to_f32())),
        DType::F64 => Values::Floats(each(bytes, |b| f64::from_le_bytes(b) as f32)),
        DType::I64 => Values::Ints(each(bytes, i64::from_le_bytes)),
        DType::I32 => Values::Ints(each(bytes, |b| i64::from(i32::from_le_bytes(b)))),
        DType::BOOL => Values::Ints(bytes.iter().map(|&b| i64::from(b)).collect()),
        other => {
            let text = format!("the tensor `{}` has the element type {}", initializer.name(), other.name());
            return Err(Error::new(&codes::TENSOR_TYPE, text));
        }
    };
    Ok(Constant { dims: initializer.dims(), values })
}
