//! Tensors that the runtime holds: cheap to clone, fed to programs and fetched from them without another copy.

use std::fmt;
use std::sync::Arc;

use engraft_plugin_api::{Data, Tensor};
use half::f16;
use ort::value::{DynValue, DynValueRef, PrimitiveTensorElementType, TensorElementType, TensorRef, ValueType};

use super::{codes, environment};
use crate::base::{Error, Result};

/// The element type of a value or a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 64-bit signed integers.
    I64,
    /// 32-bit signed integers.
    I32,
    /// Truth values.
    Bool,
    /// A type that engraft neither feeds nor reads.
    Other,
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::Bool => "bool",
            Self::Other => "another type",
        })
    }
}

impl From<TensorElementType> for DType {
    fn from(ty: TensorElementType) -> Self {
        match ty {
            TensorElementType::Float32 => Self::F32,
            TensorElementType::Float16 => Self::F16,
            TensorElementType::Int64 => Self::I64,
            TensorElementType::Int32 => Self::I32,
            TensorElementType::Bool => Self::Bool,
            _ => Self::Other,
        }
    }
}

/// A dense tensor in the runtime's memory, never changed after it was made. Clones share it.
///
/// Values can be made once a [`Runtime`](super::Runtime) is open; before that, making one is the error
/// `runtime-missing`.
///
/// # Shapes
/// Any rank, 0 included; any extent, 0 included.
#[derive(Clone)]
pub struct Value {
    inner: Arc<Held>,
    dtype: DType,
    shape: Arc<[usize]>,
}

/// Whose memory a value is.
enum Held {
    /// The runtime's, or one that was handed over to it.
    Own(DynValue),
    /// That of the second, which it keeps; the value, first of the two, is dropped before it.
    Lent(DynValueRef<'static>, #[allow(dead_code, reason = "it is kept for its memory")] Lender),
}

/// Who lends floats to a value. Called again, it gives the same floats.
type Lender = Arc<dyn AsRef<[f32]> + Send + Sync>;

impl Value {
    /// Reads floats where they are, and keeps them alive.
    ///
    /// # Errors
    /// `value-shape` if `shape` does not describe as many values.
    pub(crate) fn lent(shape: &[usize], floats: Lender) -> Result<Self> {
        let values = (*floats).as_ref();
        let error =
            |found: usize| Error::new(&codes::VALUE_SHAPE, format!("the shape {shape:?} does not hold {found} values"));
        if shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent)) != Some(values.len()) {
            return Err(error(values.len()));
        }
        environment::require_loaded()?;
        // SAFETY: the floats are borrowed from `*floats`, which `Held::Lent` keeps and nothing can change meanwhile, as
        // it is behind a shared `Arc`; the runtime's tensor over them is dropped before it, and is only ever read, since
        // a value is never changed and is fed as an input.
        let values = unsafe { std::slice::from_raw_parts(values.as_ptr(), values.len()) };
        let tensor =
            TensorRef::from_array_view((shape.to_vec(), values)).map_err(|e| error(values.len()).because(e))?;
        Ok(Self { inner: Arc::new(Held::Lent(tensor.into_dyn(), floats)), dtype: DType::F32, shape: shape.into() })
    }

    /// Takes floats without copying them.
    ///
    /// # Errors
    /// `value-shape` if `shape` does not describe `values.len()` values.
    pub fn f32(shape: &[usize], values: Vec<f32>) -> Result<Self> {
        Self::make(shape, values)
    }

    /// Takes 16-bit floats without copying them.
    ///
    /// # Errors
    /// `value-shape` if `shape` does not describe `values.len()` values.
    pub fn f16(shape: &[usize], values: Vec<f16>) -> Result<Self> {
        Self::make(shape, values)
    }

    /// Takes integers without copying them.
    ///
    /// # Errors
    /// `value-shape` if `shape` does not describe `values.len()` values.
    pub fn i64(shape: &[usize], values: Vec<i64>) -> Result<Self> {
        Self::make(shape, values)
    }

    /// Takes 32-bit integers without copying them.
    ///
    /// # Errors
    /// `value-shape` if `shape` does not describe `values.len()` values.
    pub fn i32(shape: &[usize], values: Vec<i32>) -> Result<Self> {
        Self::make(shape, values)
    }

    /// Takes truth values without copying them.
    ///
    /// # Errors
    /// `value-shape` if `shape` does not describe `values.len()` values.
    pub fn bool(shape: &[usize], values: Vec<bool>) -> Result<Self> {
        Self::make(shape, values)
    }

    /// Copies a tensor of the plugin contract into a value of another element type where a graph wants one.
    ///
    /// # Errors
    /// `value-type` if the tensor's numbers do not convert: floats to integers, integers to floats.
    pub fn from_tensor(tensor: &Tensor, dtype: DType) -> Result<Self> {
        let shape = tensor.shape();
        match (tensor.data(), dtype) {
            (Data::F32(values), DType::F32) => Self::f32(shape, values.to_vec()),
            (Data::F32(values), DType::F16) => Self::f16(shape, values.iter().map(|v| f16::from_f32(*v)).collect()),
            (Data::I64(values), DType::I64) => Self::i64(shape, values.clone()),
            (Data::I64(values), DType::Bool) => Self::bool(shape, values.iter().map(|v| *v != 0).collect()),
            (Data::I64(values), DType::I32) => {
                let narrow = |v: &i64| {
                    i32::try_from(*v).map_err(|e| {
                        Error::new(&codes::VALUE_TYPE, format!("{v} does not fit a tensor of i32")).because(e)
                    })
                };
                Self::i32(shape, values.iter().map(narrow).collect::<Result<_>>()?)
            }
            (data, dtype) => {
                let found = if matches!(data, Data::F32(_)) { DType::F32 } else { DType::I64 };
                Err(Error::new(&codes::VALUE_TYPE, format!("a tensor of {found} cannot become one of {dtype}")))
            }
        }
    }

    /// The values as a tensor of the plugin contract: 32-bit floats are shared, floats of other widths become f32,
    /// integers and truth values i64.
    ///
    /// # Errors
    /// `value-type` for a type that engraft does not read.
    pub fn to_tensor(&self) -> Result<Tensor> {
        let shape = self.shape.to_vec();
        let tensor = match self.dtype {
            DType::F32 => {
                self.as_f32()?;
                Tensor::shared(shape, Arc::new(Shared(self.clone())))
            }
            DType::F16 => Tensor::f32(shape, self.read::<f16>()?.iter().map(|v| v.to_f32()).collect()),
            DType::I64 => Tensor::i64(shape, self.read::<i64>()?.to_vec()),
            DType::I32 => Tensor::i64(shape, self.read::<i32>()?.iter().map(|v| i64::from(*v)).collect()),
            DType::Bool => Tensor::i64(shape, self.read::<bool>()?.iter().map(|v| i64::from(*v)).collect()),
            DType::Other => return Err(self.wrong_type("a number that engraft reads")),
        };
        tensor
            .map_err(|e| Error::new(&codes::VALUE_SHAPE, "a value of the runtime has an inconsistent shape").because(e))
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if the value holds no number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The floats, row-major.
    ///
    /// # Errors
    /// `value-type` if the value is of another type.
    pub fn as_f32(&self) -> Result<&[f32]> {
        self.read()
    }

    /// The 16-bit floats, row-major.
    ///
    /// # Errors
    /// `value-type` if the value is of another type.
    pub fn as_f16(&self) -> Result<&[f16]> {
        self.read()
    }

    /// The integers, row-major.
    ///
    /// # Errors
    /// `value-type` if the value is of another type.
    pub fn as_i64(&self) -> Result<&[i64]> {
        self.read()
    }

    /// The 32-bit integers, row-major.
    ///
    /// # Errors
    /// `value-type` if the value is of another type.
    pub fn as_i32(&self) -> Result<&[i32]> {
        self.read()
    }

    /// The truth values, row-major.
    ///
    /// # Errors
    /// `value-type` if the value is of another type.
    pub fn as_bool(&self) -> Result<&[bool]> {
        self.read()
    }

    /// Wraps what a session returned.
    pub(super) fn from_runtime(value: DynValue) -> Result<Self> {
        let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
            return Err(Error::new(
                &codes::VALUE_TYPE,
                format!("expected a tensor from the runtime, found {}", value.dtype()),
            ));
        };
        let (dtype, shape) = (DType::from(*ty), shape.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect());
        Ok(Self { inner: Arc::new(Held::Own(value)), dtype, shape })
    }

    pub(super) fn inner(&self) -> &DynValue {
        match &*self.inner {
            Held::Own(value) => value,
            Held::Lent(value, _) => value,
        }
    }

    fn make<T: PrimitiveTensorElementType + fmt::Debug + Clone + 'static>(
        shape: &[usize],
        values: Vec<T>,
    ) -> Result<Self> {
        let wanted = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
        let error =
            || Error::new(&codes::VALUE_SHAPE, format!("the shape {shape:?} does not hold {} values", values.len()));
        if wanted != Some(values.len()) {
            return Err(error());
        }
        let error = error();
        environment::require_loaded()?;
        let value = ort::value::Tensor::from_array((shape, values)).map_err(|e| error.because(e))?;
        Self::from_runtime(value.into_dyn())
    }

    fn read<T: PrimitiveTensorElementType>(&self) -> Result<&[T]> {
        let wanted = DType::from(T::into_tensor_element_type());
        match self.inner().try_extract_tensor::<T>() {
            Ok((_, values)) => Ok(values),
            Err(e) => Err(self.wrong_type(&wanted.to_string()).because(e)),
        }
    }

    fn wrong_type(&self, wanted: &str) -> Error {
        Error::new(&codes::VALUE_TYPE, format!("expected a value of {wanted}, found {}", self.dtype))
    }
}

/// A value that was found to hold 32-bit floats, as the slice of them.
struct Shared(Value);

impl AsRef<[f32]> for Shared {
    fn as_ref(&self) -> &[f32] {
        self.0.as_f32().unwrap_or(&[])
    }
}

impl TryFrom<&Tensor> for Value {
    type Error = Error;

    fn try_from(tensor: &Tensor) -> Result<Self> {
        Self::from_tensor(tensor, if matches!(tensor.data(), Data::F32(_)) { DType::F32 } else { DType::I64 })
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({}{:?})", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::for_tests;

    #[test]
    fn lent_floats_are_read_where_they_are_and_kept() {
        for_tests();
        let floats: Arc<Vec<f32>> = Arc::new((0..6).map(|i| i as f32).collect());
        let value = Value::lent(&[2, 3], floats.clone()).unwrap();
        assert_eq!(value.as_f32().unwrap().as_ptr(), floats.as_ptr());
        assert_eq!((value.shape(), value.dtype(), Arc::strong_count(&floats)), (&[2, 3][..], DType::F32, 2));
        let clone = value.clone();
        drop(value);
        assert_eq!(clone.to_tensor().unwrap().as_f32().unwrap(), floats.as_slice());
        drop(clone);
        assert_eq!(Arc::strong_count(&floats), 1);
        assert_eq!(Value::lent(&[4], floats).unwrap_err().code().id, "value-shape");
    }
}
