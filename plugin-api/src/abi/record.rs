//! The one type that crosses the border: a record of named attributes, tensors and child records.
//!
//! Its layout never grows; what it says does. A reader ignores what it does not know, and asks for what it needs by
//! name: something that is missing or of another type is an error of the code `abi-record`.

use abi_stable::StableAbi;
use abi_stable::std_types::{RCow, RCowSlice, RString, RVec, Tuple2};
use ndarray::{ArrayViewD, IxDyn};

use crate::error::MethodError;
use crate::tensor::{Data, Tensor};

/// The code of an error in what was sent across the border.
pub const RECORD: &str = "abi-record";

/// A record. Tensors may be borrowed for `'a`, the duration of a call.
#[repr(C)]
#[derive(StableAbi, Clone, Debug, PartialEq)]
pub struct FfiRecord<'a> {
    /// What the record is; among children, also what it is to its parent.
    pub kind: RString,
    /// Named scalars and texts.
    pub attrs: RVec<Tuple2<RString, FfiValue>>,
    /// Named tensors.
    pub tensors: RVec<FfiTensor<'a>>,
    /// Records inside.
    pub children: RVec<FfiRecord<'a>>,
}

/// The value of an attribute.
#[repr(u8)]
#[derive(StableAbi, Clone, Debug, PartialEq)]
pub enum FfiValue {
    /// `true` or `false`.
    Flag(bool),
    /// A whole number; seeds of 64 bits keep their bits.
    Integer(i64),
    /// A real number.
    Number(f64),
    /// A text.
    Text(RString),
}

impl FfiValue {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Flag(_) => "a flag",
            Self::Integer(_) => "an integer",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
        }
    }
}

/// A tensor on its way. Nothing in its type promises that shape and values agree: the receiver checks.
#[repr(C)]
#[derive(StableAbi, Clone, Debug, PartialEq)]
pub struct FfiTensor<'a> {
    /// What the tensor is to its record.
    pub name: RString,
    /// The extents, outermost first.
    pub shape: RVec<usize>,
    /// The values, row-major.
    pub data: FfiData<'a>,
}

/// The values of a tensor, owned or borrowed for the duration of a call.
#[repr(u8)]
#[derive(StableAbi, Clone, Debug, PartialEq)]
pub enum FfiData<'a> {
    /// 32-bit floats.
    F32(RCowSlice<'a, f32>),
    /// 64-bit signed integers.
    I64(RCowSlice<'a, i64>),
    /// Bytes: what is opaque to the border, files of other formats, and element types to come.
    U8(RCowSlice<'a, u8>),
}

impl<'a> FfiTensor<'a> {
    /// A tensor that lends its values.
    pub fn lent(name: &str, tensor: &'a Tensor) -> Self {
        let data = match tensor.data() {
            Data::F32(values) => FfiData::F32(RCow::Borrowed((&**values).into())),
            Data::I64(values) => FfiData::I64(RCow::Borrowed(values.as_slice().into())),
        };
        Self { name: name.into(), shape: tensor.shape().into(), data }
    }

    /// A tensor that gives its values away.
    pub fn given(name: &str, tensor: Tensor) -> FfiTensor<'static> {
        let (shape, data) = tensor.into_parts();
        let data = match data {
            Data::F32(values) => FfiData::F32(RCow::Owned(values.into_vec().into())),
            Data::I64(values) => FfiData::I64(RCow::Owned(values.into())),
        };
        FfiTensor { name: name.into(), shape: shape.into(), data }
    }

    /// A vector of floats that lends its values.
    pub fn floats(name: &str, values: &'a [f32]) -> Self {
        let shape = vec![values.len()].into();
        Self { name: name.into(), shape, data: FfiData::F32(RCow::Borrowed(values.into())) }
    }

    /// A table of integers, `[values.len() / width, width]`.
    pub fn integers(name: &str, width: usize, values: impl Iterator<Item = i64>) -> Self {
        let values: Vec<i64> = values.collect();
        let shape = vec![values.len() / width, width].into();
        Self { name: name.into(), shape, data: FfiData::I64(RCow::Owned(values.into())) }
    }

    /// Any array of floats, lent if its values lie in row-major order, else copied.
    pub fn array(name: &str, array: &'a ArrayViewD<'_, f32>) -> Self {
        let values = match array.as_slice() {
            Some(values) => RCow::Borrowed(values.into()),
            None => RCow::Owned(array.iter().copied().collect()),
        };
        Self { name: name.into(), shape: array.shape().into(), data: FfiData::F32(values) }
    }

    /// Bytes that are lent.
    pub fn bytes(name: &str, bytes: &'a [u8]) -> Self {
        Self { name: name.into(), shape: vec![bytes.len()].into(), data: FfiData::U8(RCow::Borrowed(bytes.into())) }
    }

    /// The tensor with lent values copied into it.
    pub fn into_owned(self) -> FfiTensor<'static> {
        let data = match self.data {
            FfiData::F32(values) => FfiData::F32(RCow::Owned(values.into_owned())),
            FfiData::I64(values) => FfiData::I64(RCow::Owned(values.into_owned())),
            FfiData::U8(values) => FfiData::U8(RCow::Owned(values.into_owned())),
        };
        FfiTensor { name: self.name, shape: self.shape, data }
    }

    /// The checked tensor; values that were lent are copied.
    ///
    /// # Errors
    /// `abi-record` if shape and number of values disagree.
    pub fn into_tensor(self) -> Result<Tensor, MethodError> {
        let shape = self.shape.into_vec();
        match self.data {
            FfiData::F32(values) => Tensor::f32(shape, values.into_owned().into_vec()),
            FfiData::I64(values) => Tensor::i64(shape, values.into_owned().into_vec()),
            FfiData::U8(_) => Err(MethodError::new(RECORD, "it holds bytes, not numbers")),
        }
        .map_err(|e| MethodError::new(RECORD, format!("the tensor `{}` contradicts itself: {}", self.name, e.message)))
    }
}

/// Writing.
impl<'a> FfiRecord<'a> {
    /// An empty record.
    pub fn new(kind: &str) -> Self {
        Self { kind: kind.into(), attrs: RVec::new(), tensors: RVec::new(), children: RVec::new() }
    }

    fn with(mut self, name: &str, value: FfiValue) -> Self {
        self.attrs.push(Tuple2(name.into(), value));
        self
    }

    /// Adds a flag.
    #[must_use]
    pub fn with_flag(self, name: &str, value: bool) -> Self {
        self.with(name, FfiValue::Flag(value))
    }

    /// Adds a whole number.
    #[must_use]
    pub fn with_integer(self, name: &str, value: i64) -> Self {
        self.with(name, FfiValue::Integer(value))
    }

    /// Adds the bits of an unsigned number.
    #[must_use]
    pub fn with_bits(self, name: &str, value: u64) -> Self {
        self.with_integer(name, value.cast_signed())
    }

    /// Adds a count or an index.
    #[must_use]
    pub fn with_index(self, name: &str, value: usize) -> Self {
        self.with_bits(name, value as u64)
    }

    /// Adds a real number.
    #[must_use]
    pub fn with_number(self, name: &str, value: f64) -> Self {
        self.with(name, FfiValue::Number(value))
    }

    /// Adds a text.
    #[must_use]
    pub fn with_text(self, name: &str, value: &str) -> Self {
        self.with(name, FfiValue::Text(value.into()))
    }

    /// Adds a text where there is one.
    #[must_use]
    pub fn with_text_if(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with_text(name, value),
            None => self,
        }
    }

    /// Adds a tensor.
    #[must_use]
    pub fn with_tensor(mut self, tensor: FfiTensor<'a>) -> Self {
        self.tensors.push(tensor);
        self
    }

    /// Adds a child.
    #[must_use]
    pub fn with_child(mut self, child: FfiRecord<'a>) -> Self {
        self.children.push(child);
        self
    }

    /// Adds a child that holds a list.
    #[must_use]
    pub fn with_list(self, kind: &str, items: impl Iterator<Item = FfiRecord<'a>>) -> Self {
        let mut list = FfiRecord::new(kind);
        list.children.extend(items);
        self.with_child(list)
    }

    /// The record with everything lent copied into it.
    pub fn into_owned(self) -> FfiRecord<'static> {
        FfiRecord {
            kind: self.kind,
            attrs: self.attrs,
            tensors: self.tensors.into_iter().map(FfiTensor::into_owned).collect(),
            children: self.children.into_iter().map(FfiRecord::into_owned).collect(),
        }
    }
}

/// Reading.
impl<'a> FfiRecord<'a> {
    /// The error of a record that is not as it should be.
    pub fn wrong(&self, what: impl std::fmt::Display) -> MethodError {
        MethodError::new(RECORD, format!("the record `{}` {what}", self.kind))
    }

    /// Checks what the record is.
    ///
    /// # Errors
    /// `abi-record` if it is something else.
    pub fn expect_kind(&self, kind: &str) -> Result<(), MethodError> {
        if self.kind == kind { Ok(()) } else { Err(self.wrong(format_args!("came where a `{kind}` was expected"))) }
    }

    /// True if the record has an attribute of that name.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<&FfiValue> {
        self.attrs.iter().find(|attr| attr.0 == name).map(|attr| &attr.1)
    }

    fn need(&self, name: &str) -> Result<&FfiValue, MethodError> {
        self.find(name).ok_or_else(|| self.wrong(format_args!("has no attribute `{name}`")))
    }

    fn other(&self, name: &str, expected: &str, found: &FfiValue) -> MethodError {
        self.wrong(format_args!("has {} as `{name}` where {expected} was expected", found.type_name()))
    }

    /// A flag.
    ///
    /// # Errors
    /// `abi-record` if it is missing or something else.
    pub fn flag(&self, name: &str) -> Result<bool, MethodError> {
        match self.need(name)? {
            FfiValue::Flag(value) => Ok(*value),
            other => Err(self.other(name, "a flag", other)),
        }
    }

    /// A flag that older senders do not know; `false` where it is missing.
    ///
    /// # Errors
    /// `abi-record` if it is something else.
    pub fn flag_if(&self, name: &str) -> Result<bool, MethodError> {
        if self.has(name) { self.flag(name) } else { Ok(false) }
    }

    /// A whole number.
    ///
    /// # Errors
    /// `abi-record` if it is missing or something else.
    pub fn integer(&self, name: &str) -> Result<i64, MethodError> {
        match self.need(name)? {
            FfiValue::Integer(value) => Ok(*value),
            other => Err(self.other(name, "an integer", other)),
        }
    }

    /// The bits of an unsigned number.
    ///
    /// # Errors
    /// `abi-record` if it is missing or something else.
    pub fn bits(&self, name: &str) -> Result<u64, MethodError> {
        self.integer(name).map(i64::cast_unsigned)
    }

    /// A count or an index.
    ///
    /// # Errors
    /// `abi-record` if it is missing, negative or something else.
    pub fn index(&self, name: &str) -> Result<usize, MethodError> {
        narrow(self.integer(name)?).map_err(|n| self.wrong(format_args!("has {n} as `{name}`, which cannot be")))
    }

    /// A token.
    ///
    /// # Errors
    /// `abi-record` if it is missing, negative, too great or something else.
    pub fn token(&self, name: &str) -> Result<u32, MethodError> {
        narrow(self.integer(name)?).map_err(|n| self.wrong(format_args!("has {n} as `{name}`, which cannot be")))
    }

    /// A real number.
    ///
    /// # Errors
    /// `abi-record` if it is missing or something else.
    pub fn number(&self, name: &str) -> Result<f64, MethodError> {
        match self.need(name)? {
            FfiValue::Number(value) => Ok(*value),
            other => Err(self.other(name, "a number", other)),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// `abi-record` if it is missing or something else.
    pub fn text(&self, name: &str) -> Result<&str, MethodError> {
        match self.need(name)? {
            FfiValue::Text(value) => Ok(value.as_str()),
            other => Err(self.other(name, "a text", other)),
        }
    }

    /// A text that may be missing.
    ///
    /// # Errors
    /// `abi-record` if it is something else.
    pub fn text_if(&self, name: &str) -> Result<Option<String>, MethodError> {
        if self.has(name) { self.text(name).map(|t| Some(t.to_owned())) } else { Ok(None) }
    }

    /// A name in its one spelling: a site or a weight.
    ///
    /// # Errors
    /// `abi-record` if it is missing or not a text; else whatever parsing finds.
    pub fn parsed<T: std::str::FromStr<Err = MethodError>>(&self, name: &str) -> Result<T, MethodError> {
        self.text(name)?.parse()
    }

    /// Takes a tensor out.
    ///
    /// # Errors
    /// `abi-record` if it is missing or its shape and values disagree.
    pub fn take_tensor(&mut self, name: &str) -> Result<Tensor, MethodError> {
        match self.tensors.iter().position(|t| t.name == name) {
            Some(i) => {
                self.tensors.remove(i).into_tensor().map_err(|e| self.wrong(format_args!("is wrong: {}", e.message)))
            }
            None => Err(self.wrong(format_args!("has no tensor `{name}`"))),
        }
    }

    /// Takes a tensor out that may be missing.
    ///
    /// # Errors
    /// `abi-record` if its shape and values disagree.
    pub fn take_tensor_if(&mut self, name: &str) -> Result<Option<Tensor>, MethodError> {
        if self.tensors.iter().any(|t| t.name == name) { self.take_tensor(name).map(Some) } else { Ok(None) }
    }

    fn tensor(&self, name: &str) -> Result<&FfiTensor<'a>, MethodError> {
        self.tensors.iter().find(|t| t.name == name).ok_or_else(|| self.wrong(format_args!("has no tensor `{name}`")))
    }

    /// A look at an array of floats, without a copy.
    ///
    /// # Errors
    /// `abi-record` if it is missing, its shape and values disagree, or it holds something else.
    pub fn floats(&self, name: &str) -> Result<ArrayViewD<'_, f32>, MethodError> {
        let tensor = self.tensor(name)?;
        let FfiData::F32(values) = &tensor.data else {
            return Err(self.wrong(format_args!("has no floats as `{name}`")));
        };
        ArrayViewD::from_shape(IxDyn(&tensor.shape), values).map_err(|e| self.wrong(format_args!("is wrong: {e}")))
    }

    /// A look at a vector or table of integers, without a copy.
    ///
    /// # Errors
    /// `abi-record` if it is missing, its shape and values disagree, or it holds something else.
    pub fn integers(&self, name: &str) -> Result<ArrayViewD<'_, i64>, MethodError> {
        let tensor = self.tensor(name)?;
        let FfiData::I64(values) = &tensor.data else {
            return Err(self.wrong(format_args!("has no integers as `{name}`")));
        };
        ArrayViewD::from_shape(IxDyn(&tensor.shape), values).map_err(|e| self.wrong(format_args!("is wrong: {e}")))
    }

    /// A look at bytes, without a copy.
    ///
    /// # Errors
    /// `abi-record` if they are missing or something else.
    pub fn bytes(&self, name: &str) -> Result<&[u8], MethodError> {
        match &self.tensor(name)?.data {
            FfiData::U8(bytes) => Ok(bytes),
            _ => Err(self.wrong(format_args!("has no bytes as `{name}`"))),
        }
    }

    /// Takes bytes out.
    ///
    /// # Errors
    /// `abi-record` if they are missing or something else.
    pub fn take_bytes(&mut self, name: &str) -> Result<Vec<u8>, MethodError> {
        self.bytes(name)?;
        let at = self.tensors.iter().position(|t| t.name == name).unwrap_or_default();
        match self.tensors.remove(at).data {
            FfiData::U8(bytes) => Ok(bytes.into_owned().into_vec()),
            _ => Err(self.wrong(format_args!("has no bytes as `{name}`"))),
        }
    }

    /// Takes a vector of floats out.
    ///
    /// # Errors
    /// `abi-record` if it is missing, its shape and values disagree, or it holds integers.
    pub fn take_floats(&mut self, name: &str) -> Result<Vec<f32>, MethodError> {
        self.take_tensor(name)?.into_f32().map_err(|_| self.wrong(format_args!("has integers as `{name}`")))
    }

    /// Takes a table of integers out, as chunks of `WIDTH`, each narrowed to `T`.
    ///
    /// # Errors
    /// `abi-record` if it is missing, of another width, or a value is out of range.
    pub fn take_integers<const WIDTH: usize, T: TryFrom<i64> + Copy + Default>(
        &mut self,
        name: &str,
    ) -> Result<Vec<[T; WIDTH]>, MethodError> {
        let tensor = self.take_tensor(name)?;
        let values = tensor.as_i64().map_err(|_| self.wrong(format_args!("has floats as `{name}`")))?;
        let (chunks, rest) = values.as_chunks::<WIDTH>();
        if !rest.is_empty() {
            return Err(self.wrong(format_args!("has {} values as `{name}`, not rows of {WIDTH}", values.len())));
        }
        let row = |chunk: &[i64; WIDTH]| {
            let mut out = [T::default(); WIDTH];
            for (to, from) in out.iter_mut().zip(chunk) {
                *to = narrow(*from).map_err(|n| self.wrong(format_args!("has {n} among `{name}`, which cannot be")))?;
            }
            Ok(out)
        };
        chunks.iter().map(row).collect()
    }

    /// A look at a child.
    ///
    /// # Errors
    /// `abi-record` if it is missing.
    pub fn child(&self, kind: &str) -> Result<&FfiRecord<'a>, MethodError> {
        self.children.iter().find(|c| c.kind == kind).ok_or_else(|| self.wrong(format_args!("has no `{kind}`")))
    }

    /// Takes a child out.
    ///
    /// # Errors
    /// `abi-record` if it is missing.
    pub fn take_child(&mut self, kind: &str) -> Result<FfiRecord<'a>, MethodError> {
        self.take_child_if(kind).ok_or_else(|| self.wrong(format_args!("has no `{kind}`")))
    }

    /// Takes a child out that may be missing.
    pub fn take_child_if(&mut self, kind: &str) -> Option<FfiRecord<'a>> {
        self.children.iter().position(|c| c.kind == kind).map(|i| self.children.remove(i))
    }

    /// Takes the only child out, of whatever kind.
    ///
    /// # Errors
    /// `abi-record` if there are none or several.
    pub fn take_only(mut self) -> Result<FfiRecord<'a>, MethodError> {
        match (self.children.pop(), self.children.is_empty()) {
            (Some(child), true) => Ok(child),
            _ => Err(self.wrong("does not hold exactly one record")),
        }
    }

    /// Takes a list out and reads each of its items.
    ///
    /// # Errors
    /// `abi-record` if it is missing; else whatever `read` finds.
    pub fn take_list<T>(
        &mut self,
        kind: &str,
        read: impl Fn(FfiRecord<'a>) -> Result<T, MethodError>,
    ) -> Result<Vec<T>, MethodError> {
        self.take_child(kind)?.children.into_iter().map(read).collect()
    }
}

fn narrow<T: TryFrom<i64>>(value: i64) -> Result<T, i64> {
    T::try_from(value).map_err(|_| value)
}
