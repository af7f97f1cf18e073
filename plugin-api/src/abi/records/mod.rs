//! Plain types as records and back. Every plain type of this crate that crosses the border has its spelling in this
//! folder, and nowhere else; each round trip is tested.

mod access;
mod calls;
mod change;
mod describe;
mod module;
#[cfg(test)]
pub(super) mod tests;

use super::record::FfiRecord;
use crate::error::MethodError;

/// What the receiver of a call is asked: tensors are lent to it.
pub trait ToRecord {
    /// The record of a value, which lends its tensors.
    fn to_record(&self) -> FfiRecord<'_>;
}

/// What a call answers: tensors are given away.
pub trait IntoRecord {
    /// The record of a value, which gives its tensors away.
    fn into_record(self) -> FfiRecord<'static>;
}

/// What is read from a record.
pub trait FromRecord: Sized {
    /// Reads and checks a value.
    ///
    /// # Errors
    /// `abi-record` if something is missing, of another type or contradicts itself.
    fn from_record(record: FfiRecord<'_>) -> Result<Self, MethodError>;
}

/// What is read from a record in place: what was lent stays lent.
pub trait BorrowRecord<'r>: Sized {
    /// Reads and checks a value that holds on to the record.
    ///
    /// # Errors
    /// As [`FromRecord::from_record`].
    fn borrow_record(record: &'r FfiRecord<'_>) -> Result<Self, MethodError>;
}

impl ToRecord for MethodError {
    fn to_record(&self) -> FfiRecord<'_> {
        let label = |(name, value): &(String, String)| {
            FfiRecord::new("label").with_text("name", name).with_text("value", value)
        };
        FfiRecord::new("error")
            .with_text("code", &self.code)
            .with_text("message", &self.message)
            .with_text_if("help", self.help.as_deref())
            .with_list("labels", self.labels.iter().map(label))
            .with_list("causes", self.causes.iter().map(|cause| FfiRecord::new("cause").with_text("message", cause)))
    }
}

impl FromRecord for MethodError {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        record.expect_kind("error")?;
        Ok(Self {
            code: record.text("code")?.to_owned(),
            message: record.text("message")?.to_owned(),
            labels: record
                .take_list("labels", |label| Ok((label.text("name")?.to_owned(), label.text("value")?.to_owned())))?,
            help: record.text_if("help")?,
            causes: record.take_list("causes", |cause| cause.text("message").map(str::to_owned))?,
        })
    }
}
