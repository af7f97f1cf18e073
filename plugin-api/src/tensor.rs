//! Tensors as plain data: a shape and a flat row-major buffer. No arithmetic lives here; `ndarray` views do that.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use ndarray::{ArrayView2, ArrayViewD, IxDyn};

use crate::error::MethodError;

/// The element type and values of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// 32-bit floats.
    F32(Floats),
    /// 64-bit signed integers.
    I64(Vec<i64>),
}

/// A row-major buffer of floats: its own, or one that whoever made it shares, so that large results are not copied.
/// It reads as a slice and is never changed.
#[derive(Clone)]
pub struct Floats(Storage);

#[derive(Clone)]
enum Storage {
    Owned(Vec<f32>),
    Shared(Arc<dyn AsRef<[f32]> + Send + Sync>),
}

impl Floats {
    /// The values as a vector; copies them if they are shared.
    pub fn into_vec(self) -> Vec<f32> {
        match self.0 {
            Storage::Owned(values) => values,
            Storage::Shared(values) => (*values).as_ref().to_vec(),
        }
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Storage::Owned(values) => values,
            Storage::Shared(values) => (**values).as_ref(),
        }
    }
}

impl From<Vec<f32>> for Floats {
    fn from(values: Vec<f32>) -> Self {
        Self(Storage::Owned(values))
    }
}

impl PartialEq for Floats {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Floats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// A dense, row-major tensor.
///
/// # Shapes
/// `shape.iter().product()` equals the number of values; a scalar has an empty shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

impl Tensor {
    /// A tensor of floats.
    ///
    /// # Errors
    /// `tensor-shape` if `shape` does not describe `values.len()` values.
    pub fn f32(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Result<Self, MethodError> {
        Self::checked(shape.into(), Data::F32(values.into()))
    }

    /// A tensor of floats that somebody else keeps, without a copy.
    ///
    /// # Errors
    /// `tensor-shape` if `shape` does not describe as many values.
    pub fn shared(
        shape: impl Into<Vec<usize>>,
        values: Arc<dyn AsRef<[f32]> + Send + Sync>,
    ) -> Result<Self, MethodError> {
        Self::checked(shape.into(), Data::F32(Floats(Storage::Shared(values))))
    }

    /// A tensor of integers.
    ///
    /// # Errors
    /// `tensor-shape` if `shape` does not describe `values.len()` values.
    pub fn i64(shape: impl Into<Vec<usize>>, values: Vec<i64>) -> Result<Self, MethodError> {
        Self::checked(shape.into(), Data::I64(values))
    }

    /// A tensor of zeros.
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let len = shape.iter().product();
        Self { shape, data: Data::F32(vec![0.0; len].into()) }
    }

    /// Copies any `ndarray` array or view of floats into a tensor, in row-major order.
    pub fn from_array<S, D>(array: &ndarray::ArrayBase<S, D>) -> Self
    where
        S: ndarray::Data<Elem = f32>,
        D: ndarray::Dimension,
    {
        Self { shape: array.shape().to_vec(), data: Data::F32(array.iter().copied().collect::<Vec<_>>().into()) }
    }

    fn checked(shape: Vec<usize>, data: Data) -> Result<Self, MethodError> {
        let len = match &data {
            Data::F32(v) => v.len(),
            Data::I64(v) => v.len(),
        };
        let wanted = shape.iter().try_fold(1usize, |acc, &d| acc.checked_mul(d));
        if wanted == Some(len) {
            Ok(Self { shape, data })
        } else {
            Err(MethodError::new("tensor-shape", format!("shape {shape:?} does not hold {len} values")))
        }
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The typed values.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if the tensor holds no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values as a flat slice of floats.
    ///
    /// # Errors
    /// `tensor-type` if the tensor holds integers.
    pub fn as_f32(&self) -> Result<&[f32], MethodError> {
        match &self.data {
            Data::F32(values) => Ok(values),
            Data::I64(_) => Err(MethodError::new("tensor-type", "expected a tensor of f32, found i64")),
        }
    }

    /// The values as a flat slice of integers.
    ///
    /// # Errors
    /// `tensor-type` if the tensor holds floats.
    pub fn as_i64(&self) -> Result<&[i64], MethodError> {
        match &self.data {
            Data::I64(values) => Ok(values),
            Data::F32(_) => Err(MethodError::new("tensor-type", "expected a tensor of i64, found f32")),
        }
    }

    /// Takes shape and values out of the tensor.
    pub fn into_parts(self) -> (Vec<usize>, Data) {
        (self.shape, self.data)
    }

    /// Takes the floats out of the tensor; copies them if they are shared.
    ///
    /// # Errors
    /// `tensor-type` if the tensor holds integers.
    pub fn into_f32(self) -> Result<Vec<f32>, MethodError> {
        match self.data {
            Data::F32(values) => Ok(values.into_vec()),
            Data::I64(_) => Err(MethodError::new("tensor-type", "expected a tensor of f32, found i64")),
        }
    }

    /// An `ndarray` view of any rank.
    ///
    /// # Errors
    /// `tensor-type` if the tensor holds integers.
    pub fn view(&self) -> Result<ArrayViewD<'_, f32>, MethodError> {
        ArrayViewD::from_shape(IxDyn(&self.shape), self.as_f32()?)
            .map_err(|e| MethodError::new("tensor-shape", e.to_string()))
    }

    /// An `ndarray` view as a matrix.
    ///
    /// # Errors
    /// `tensor-type` if the tensor holds integers, `tensor-shape` if it is not of rank 2.
    pub fn matrix(&self) -> Result<ArrayView2<'_, f32>, MethodError> {
        match self.shape[..] {
            [rows, cols] => ArrayView2::from_shape((rows, cols), self.as_f32()?)
                .map_err(|e| MethodError::new("tensor-shape", e.to_string())),
            _ => Err(MethodError::new("tensor-shape", format!("expected a matrix, found shape {:?}", self.shape))),
        }
    }
}
