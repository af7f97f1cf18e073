//! Changes as records: lent while a call is evaluated under them, given away as the result of an edit.

use crate::abi::record::{FfiRecord, FfiTensor};
use crate::abi::records::{FromRecord, IntoRecord, ToRecord};
use crate::change::{Change, Delta};
use crate::error::MethodError;

impl ToRecord for [Change] {
    fn to_record(&self) -> FfiRecord<'_> {
        FfiRecord::new("edited").with_list("changes", self.iter().map(ToRecord::to_record))
    }
}

impl IntoRecord for Vec<Change> {
    fn into_record(self) -> FfiRecord<'static> {
        FfiRecord::new("edited").with_list("changes", self.into_iter().map(IntoRecord::into_record))
    }
}

impl FromRecord for Vec<Change> {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        record.take_list("changes", Change::from_record)
    }
}

impl ToRecord for Change {
    fn to_record(&self) -> FfiRecord<'_> {
        match self {
            Self::Weight { weight, delta } => {
                let delta = match delta {
                    Delta::LowRank { left, right } => FfiRecord::new("low-rank")
                        .with_tensor(FfiTensor::lent("left", left))
                        .with_tensor(FfiTensor::lent("right", right)),
                    Delta::Dense(delta) => FfiRecord::new("dense").with_tensor(FfiTensor::lent("delta", delta)),
                    Delta::Rows { rows, values } => {
                        FfiRecord::new("rows").with_tensor(indices(rows)).with_tensor(FfiTensor::lent("values", values))
                    }
                };
                FfiRecord::new("weight").with_text("weight", &weight.to_string()).with_child(delta)
            }
        }
    }
}

impl IntoRecord for Change {
    fn into_record(self) -> FfiRecord<'static> {
        match self {
            Self::Weight { weight, delta } => {
                let delta = match delta {
                    Delta::LowRank { left, right } => FfiRecord::new("low-rank")
                        .with_tensor(FfiTensor::given("left", left))
                        .with_tensor(FfiTensor::given("right", right)),
                    Delta::Dense(delta) => FfiRecord::new("dense").with_tensor(FfiTensor::given("delta", delta)),
                    Delta::Rows { rows, values } => FfiRecord::new("rows")
                        .with_tensor(indices(&rows))
                        .with_tensor(FfiTensor::given("values", values)),
                };
                FfiRecord::new("weight").with_text("weight", &weight.to_string()).with_child(delta)
            }
        }
    }
}

fn indices(rows: &[usize]) -> FfiTensor<'static> {
    FfiTensor::integers("rows", 1, rows.iter().map(|&row| (row as u64).cast_signed()))
}

impl FromRecord for Change {
    fn from_record(record: FfiRecord<'_>) -> Result<Self, MethodError> {
        if record.kind != "weight" {
            return Err(record.wrong("is not a kind of change that is known here"));
        }
        let weight = record.parsed("weight")?;
        let mut delta = record.take_only()?;
        let delta = match delta.kind.as_str() {
            "low-rank" => Delta::LowRank { left: delta.take_tensor("left")?, right: delta.take_tensor("right")? },
            "dense" => Delta::Dense(delta.take_tensor("delta")?),
            "rows" => Delta::Rows {
                rows: delta.take_integers::<1, usize>("rows")?.into_iter().flatten().collect(),
                values: delta.take_tensor("values")?,
            },
            _ => return Err(delta.wrong("is not a kind of delta that is known here")),
        };
        Ok(Self::Weight { weight, delta })
    }
}
