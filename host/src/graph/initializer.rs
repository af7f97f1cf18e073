//! A constant tensor of a graph: inline, or a range of an external file.

use std::sync::Arc;

use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{StringStringEntryProto, TensorProto};

use super::codes;
use super::node::DType;
use crate::base::{Error, Result};

/// A constant tensor; copies share the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Initializer(Arc<TensorProto>);

/// Where the values are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In the .onnx file.
    Inline,
    /// In another file of the model folder.
    External {
        /// Relative to the folder of the .onnx file.
        file: String,
        /// Bytes from the file's begin.
        offset: u64,
        /// Bytes.
        length: u64,
    },
}

impl Initializer {
    pub(super) fn from_proto(proto: TensorProto) -> Self {
        Self(Arc::new(proto))
    }

    pub(super) fn proto(&self) -> &TensorProto {
        &self.0
    }

    /// Floats, inline.
    ///
    /// # Shapes
    /// `dims` must hold `values.len()` values; this is checked when the graph is compiled.
    pub fn f32(name: &str, dims: &[usize], values: &[f32]) -> Self {
        Self::inline(name, DType::F32, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Integers, inline.
    pub fn i64(name: &str, dims: &[usize], values: &[i64]) -> Self {
        Self::inline(name, DType::I64, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Little-endian bytes of any type, inline.
    pub fn inline(name: &str, dtype: DType, dims: &[usize], bytes: Vec<u8>) -> Self {
        Self::from_proto(TensorProto {
            name: name.to_owned(),
            data_type: dtype.0,
            dims: dims.iter().map(|&d| d as i64).collect(),
            raw_data: bytes,
            ..Default::default()
        })
    }

    /// A range of an external file.
    pub fn external(name: &str, dtype: DType, dims: &[usize], file: &str, offset: u64, length: u64) -> Self {
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value, ..Default::default() };
        Self::from_proto(TensorProto {
            name: name.to_owned(),
            data_type: dtype.0,
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_location: DataLocation::EXTERNAL.into(),
            external_data: vec![
                entry("location", file.to_owned()),
                entry("offset", offset.to_string()),
                entry("length", length.to_string()),
            ],
            ..Default::default()
        })
    }

    /// The same tensor with its values in a range of an external file. The values themselves are not copied.
    #[must_use]
    pub(super) fn moved(&self, file: &str, offset: u64, length: u64) -> Self {
        let old = &self.0;
        let mut new = (*Self::external(&old.name, self.dtype(), &self.dims(), file, offset, length).0).clone();
        new.doc_string = old.doc_string.clone();
        new.metadata_props = old.metadata_props.clone();
        new.special_fields = old.special_fields.clone();
        Self::from_proto(new)
    }

    /// A copy under another name that shares nothing but the values' file.
    #[must_use]
    pub fn renamed(&self, name: &str) -> Self {
        let mut proto = (*self.0).clone();
        proto.name = name.to_owned();
        Self::from_proto(proto)
    }

    /// The edge's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        DType(self.0.data_type)
    }

    /// The extents. Loading refuses negative ones.
    pub fn dims(&self) -> Vec<usize> {
        self.0.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// True if the tensor holds no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the values, by type and shape.
    ///
    /// # Errors
    /// `data-truncated` if extents are negative or their product overflows; `tensor-type` for types without a size.
    pub fn byte_len(&self) -> Result<u64> {
        let size = self.dtype().size().ok_or_else(|| {
            let found = self.0.data_type;
            Error::new(&codes::TENSOR_TYPE, format!("the tensor `{}` has element type {found}", self.name()))
        })?;
        let mut total = size as u64;
        for &d in &self.0.dims {
            total = u64::try_from(d).ok().and_then(|d| total.checked_mul(d)).ok_or_else(|| {
                let dims = &self.0.dims;
                Error::new(&codes::DATA_TRUNCATED, format!("the tensor `{}` claims the shape {dims:?}", self.name()))
            })?;
        }
        Ok(total)
    }

    /// Where the values are.
    ///
    /// # Errors
    /// `data-missing` if external data names no file; `data-truncated` for numbers that cannot be;
    /// `graph-unsupported` for a location that is neither inline nor external.
    pub fn location(&self) -> Result<Location> {
        match self.0.data_location.enum_value() {
            Ok(DataLocation::DEFAULT) => return Ok(Location::Inline),
            Ok(DataLocation::EXTERNAL) => {}
            Err(other) => {
                let text = format!("the tensor `{}` has the data location {other}", self.name());
                return Err(Error::new(&codes::GRAPH_UNSUPPORTED, text));
            }
        }
        let entry = |key: &str| self.0.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str, default: u64| match entry(key) {
            None => Ok(default),
            Some(text) => text.trim().parse::<u64>().map_err(|_| {
                Error::new(&codes::DATA_TRUNCATED, format!("the tensor `{}` has the {key} `{text}`", self.name()))
            }),
        };
        let file = entry("location").filter(|f| !f.is_empty()).ok_or_else(|| {
            Error::new(&codes::DATA_MISSING, format!("the tensor `{}` is external but names no file", self.name()))
        })?;
        let (offset, length) = (number("offset", 0)?, number("length", self.byte_len()?)?);
        if length != self.byte_len()? {
            let text = format!(
                "the tensor `{}` of shape {:?} needs {} bytes, its external data says {length}",
                self.name(),
                self.0.dims,
                self.byte_len()?
            );
            return Err(Error::new(&codes::DATA_TRUNCATED, text));
        }
        Ok(Location::External { file: file.to_owned(), offset, length })
    }

    /// The inline values as little-endian bytes, whichever field of the message holds them.
    ///
    /// # Errors
    /// `data-truncated` if their number does not follow from the shape; `tensor-type` for strings.
    pub fn inline_bytes(&self) -> Result<std::borrow::Cow<'_, [u8]>> {
        use std::borrow::Cow;
        let t = &self.0;
        let bytes: Cow<'_, [u8]> = if !t.raw_data.is_empty() || self.is_empty() {
            Cow::Borrowed(&t.raw_data)
        } else {
            Cow::Owned(match self.dtype() {
                DType::F32 => t.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
                DType::F64 => t.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
                DType::I64 => t.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
                DType::I32 => t.int32_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
                DType::F16 | DType::BF16 => t.int32_data.iter().flat_map(|&v| (v as u16).to_le_bytes()).collect(),
                DType::BOOL | DType(2 | 3) => t.int32_data.iter().map(|&v| v as u8).collect(),
                _ => Vec::new(),
            })
        };
        let wanted = self.byte_len()?;
        if bytes.len() as u64 != wanted {
            let found = bytes.len();
            let text = format!("the tensor `{}` needs {wanted} bytes, the file holds {found}", self.name());
            return Err(Error::new(&codes::DATA_TRUNCATED, text));
        }
        Ok(bytes)
    }
}
