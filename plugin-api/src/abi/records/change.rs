//! Changes as records: lent while a call is evaluated under them, given away as the result of an edit.

use crate::abi::record::{FfiRecord, FfiTensor};
use crate::abi::records::{FromRecord, IntoRecord, ToRecord};
use crate::change::{Activation, Change, Delta, Fold, Increment, SlotGate, Slots, Splice};
use crate::error::MethodError;
use crate::site::Site;

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
            Self::Slots(slots) => slots.to_record(),
            Self::Splice(splice) => splice.to_record(),
            Self::Intercept { sites, whole_rows } => {
                sites_to(FfiRecord::new("intercept").with_flag("whole-rows", *whole_rows), "sites", sites)
            }
            Self::Route => FfiRecord::new("route"),
            Self::State(bytes) => FfiRecord::new("state").with_tensor(FfiTensor::bytes("bytes", bytes)),
            Self::Statistic(increment) => FfiRecord::new("statistic").with_child(increment.to_record()),
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
            // Small beside a delta: copied once an edit.
            other => other.to_record().into_owned(),
        }
    }
}

fn indices(rows: &[usize]) -> FfiTensor<'static> {
    FfiTensor::integers("rows", 1, rows.iter().map(|&row| (row as u64).cast_signed()))
}

fn sites_to<'a>(record: FfiRecord<'a>, kind: &str, sites: &[Site]) -> FfiRecord<'a> {
    record.with_list(kind, sites.iter().map(|site| FfiRecord::new("site").with_text("site", &site.to_string())))
}

fn sites_from(record: &mut FfiRecord<'_>, kind: &str) -> Result<Vec<Site>, MethodError> {
    record.take_list(kind, |site| site.parsed("site"))
}

impl FromRecord for Change {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        match record.kind.as_str() {
            "weight" => {}
            "slots" => return Slots::from_record(record).map(Self::Slots),
            "splice" => return Splice::from_record(record).map(Self::Splice),
            "intercept" => {
                let whole_rows = record.flag("whole-rows")?;
                return Ok(Self::Intercept { sites: sites_from(&mut record, "sites")?, whole_rows });
            }
            "route" => return Ok(Self::Route),
            "state" => return record.take_bytes("bytes").map(Self::State),
            "statistic" => return Increment::from_record(record.take_only()?).map(Self::Statistic),
            _ => return Err(record.wrong("is not a kind of change that is known here")),
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

impl ToRecord for Slots {
    fn to_record(&self) -> FfiRecord<'_> {
        let activation = match self.activation {
            Activation::Model => "model",
            Activation::Relu => "relu",
        };
        let record = FfiRecord::new("slots")
            .with_index("layer", self.layer)
            .with_text("activation", activation)
            .with_tensor(FfiTensor::lent("keys", &self.keys))
            .with_tensor(FfiTensor::lent("bias", &self.bias))
            .with_tensor(FfiTensor::lent("values", &self.values));
        match &self.gate {
            Some(gate) => record.with_child(
                FfiRecord::new("gate")
                    .with_tensor(FfiTensor::lent("keys", &gate.keys))
                    .with_tensor(FfiTensor::lent("bias", &gate.bias)),
            ),
            None => record,
        }
    }
}

impl FromRecord for Slots {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        let activation = match record.text("activation")? {
            "model" => Activation::Model,
            "relu" => Activation::Relu,
            other => return Err(record.wrong(format_args!("has the unknown activation `{other}`"))),
        };
        let gate = match record.take_child_if("gate") {
            Some(mut gate) => Some(SlotGate { keys: gate.take_tensor("keys")?, bias: gate.take_tensor("bias")? }),
            None => None,
        };
        Ok(Self {
            layer: record.index("layer")?,
            keys: record.take_tensor("keys")?,
            bias: record.take_tensor("bias")?,
            values: record.take_tensor("values")?,
            gate,
            activation,
        })
    }
}

impl ToRecord for Splice {
    fn to_record(&self) -> FfiRecord<'_> {
        let record = FfiRecord::new("splice")
            .with_text("writes", &self.writes.to_string())
            .with_flag("whole-rows", self.whole_rows)
            .with_integer("order", self.order.into())
            .with_tensor(FfiTensor::bytes("graph", &self.graph))
            .with_list("tables", self.tables.iter().map(ToRecord::to_record));
        sites_to(record, "reads", &self.reads)
    }
}

impl FromRecord for Splice {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        let order = record.integer("order")?;
        let order = i32::try_from(order).map_err(|_| record.wrong(format_args!("has {order} as `order`")))?;
        Ok(Self {
            graph: record.take_bytes("graph")?,
            reads: sites_from(&mut record, "reads")?,
            writes: record.parsed("writes")?,
            tables: record.take_list("tables", Increment::from_record)?,
            whole_rows: record.flag("whole-rows")?,
            order,
        })
    }
}

impl ToRecord for Increment {
    fn to_record(&self) -> FfiRecord<'_> {
        let fold = match self.fold {
            Fold::Sum => "sum",
            Fold::Stack => "stack",
        };
        FfiRecord::new("increment")
            .with_text("name", &self.name)
            .with_text("fold", fold)
            .with_tensor(FfiTensor::lent("value", &self.value))
    }
}

impl FromRecord for Increment {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        let fold = match record.text("fold")? {
            "sum" => Fold::Sum,
            "stack" => Fold::Stack,
            other => return Err(record.wrong(format_args!("has the unknown fold `{other}`"))),
        };
        Ok(Self { name: record.text("name")?.to_owned(), fold, value: record.take_tensor("value")? })
    }
}
