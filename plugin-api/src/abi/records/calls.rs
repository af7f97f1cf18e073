//! What is asked of a method besides edits, and what it answers. What is lent for a call on its way through the model
//! is read in place: [`BorrowRecord`].

use ndarray::Ix2;

use crate::abi::record::{FfiRecord, FfiTensor};
use crate::abi::records::access::{ids_from, ids_to, wide};
use crate::abi::records::{BorrowRecord, FromRecord, IntoRecord, ToRecord};
use crate::access::{ModuleId, OwnPatch};
use crate::descriptor::Calls;
use crate::error::MethodError;
use crate::method::{
    ActivePatch, Artefact, Checkpoint, Example, InterceptCall, InterceptRow, Route, RouteQuery, TrainData, TrainRecord,
};
use crate::request::EditRequest;
use crate::tensor::Tensor;

impl ToRecord for Calls {
    fn to_record(&self) -> FfiRecord<'_> {
        FfiRecord::new("calls")
            .with_flag("train", self.train)
            .with_flag("needs-artefact", self.needs_artefact)
            .with_flag("route", self.route)
            .with_flag("intercept", self.intercept)
    }
}

impl FromRecord for Calls {
    fn from_record(record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(Self {
            train: record.flag_if("train")?,
            needs_artefact: record.flag_if("needs-artefact")?,
            route: record.flag_if("route")?,
            intercept: record.flag_if("intercept")?,
        })
    }
}

impl ToRecord for Artefact {
    fn to_record(&self) -> FfiRecord<'_> {
        FfiRecord::new("artefact")
            .with_text("base", &self.base)
            .with_text("data", &self.data)
            .with_tensor(FfiTensor::bytes("bytes", &self.bytes))
    }
}

impl FromRecord for Artefact {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        record.expect_kind("artefact")?;
        let (base, data) = (record.text("base")?.to_owned(), record.text("data")?.to_owned());
        Ok(Self { base, data, bytes: record.take_bytes("bytes")? })
    }
}

impl ToRecord for Checkpoint {
    fn to_record(&self) -> FfiRecord<'_> {
        FfiRecord::new("checkpoint").with_bits("step", self.step).with_tensor(FfiTensor::bytes("bytes", &self.bytes))
    }
}

impl FromRecord for Checkpoint {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(Self { step: record.bits("step")?, bytes: record.take_bytes("bytes")? })
    }
}

impl ToRecord for TrainData {
    fn to_record(&self) -> FfiRecord<'_> {
        let text = |text: &String| FfiRecord::new("text").with_text("text", text);
        let record = FfiRecord::new("train")
            .with_text("hash", &self.hash)
            .with_list("train", self.train.iter().map(ToRecord::to_record))
            .with_list("validation", self.validation.iter().map(ToRecord::to_record))
            .with_list("texts", self.texts.iter().map(text));
        match &self.resume {
            Some(checkpoint) => record.with_child(checkpoint.to_record()),
            None => record,
        }
    }
}

impl FromRecord for TrainData {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(Self {
            hash: record.text("hash")?.to_owned(),
            train: record.take_list("train", TrainRecord::from_record)?,
            validation: record.take_list("validation", TrainRecord::from_record)?,
            texts: record.take_list("texts", |text| text.text("text").map(str::to_owned))?,
            resume: record.take_child_if("checkpoint").map(Checkpoint::from_record).transpose()?,
        })
    }
}

impl ToRecord for TrainRecord {
    fn to_record(&self) -> FfiRecord<'_> {
        let example = |example: &Example| {
            FfiRecord::new("example")
                .with_text("prompt", &example.prompt)
                .with_text_if("answer", example.answer.as_deref())
        };
        FfiRecord::new("record")
            .with_child(self.request.to_record())
            .with_list("in-scope", self.in_scope.iter().map(example))
            .with_list("out-of-scope", self.out_of_scope.iter().map(example))
    }
}

impl FromRecord for TrainRecord {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        let example = |record: FfiRecord<'_>| {
            Ok(Example { prompt: record.text("prompt")?.to_owned(), answer: record.text_if("answer")? })
        };
        Ok(Self {
            request: EditRequest::from_record(record.take_child("request")?)?,
            in_scope: record.take_list("in-scope", example)?,
            out_of_scope: record.take_list("out-of-scope", example)?,
        })
    }
}

/// Patches of a method: for each its identifier, requests and state.
impl IntoRecord for Vec<OwnPatch> {
    fn into_record(self) -> FfiRecord<'static> {
        let patch = |patch: OwnPatch| {
            FfiRecord::new("patch")
                .with_text("id", &patch.id)
                .with_list("requests", patch.requests.iter().map(ToRecord::to_record))
                .with_tensor(FfiTensor::bytes("state", &patch.state))
                .into_owned()
        };
        FfiRecord::new("patches").with_list("patches", self.into_iter().map(patch))
    }
}

impl FromRecord for Vec<OwnPatch> {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        record.take_list("patches", |mut patch| {
            Ok(OwnPatch {
                id: patch.text("id")?.to_owned(),
                requests: patch.take_list("requests", EditRequest::from_record)?,
                state: patch.take_bytes("state")?,
            })
        })
    }
}

fn patches_to<'a>(record: FfiRecord<'a>, patches: &[ActivePatch<'a>]) -> FfiRecord<'a> {
    let patch = |patch: &ActivePatch<'a>| {
        FfiRecord::new("patch").with_text("id", patch.id).with_tensor(FfiTensor::bytes("state", patch.state))
    };
    record.with_list("patches", patches.iter().map(patch))
}

fn patches_in<'r>(record: &'r FfiRecord<'_>) -> Result<Vec<ActivePatch<'r>>, MethodError> {
    let patch = |patch: &'r FfiRecord<'_>| Ok(ActivePatch { id: patch.text("id")?, state: patch.bytes("state")? });
    record.child("patches")?.children.iter().map(patch).collect()
}

impl ToRecord for RouteQuery<'_> {
    fn to_record(&self) -> FfiRecord<'_> {
        patches_to(FfiRecord::new("route").with_tensor(ids_to("tokens", &self.tokens)), &self.patches)
    }
}

impl<'r> BorrowRecord<'r> for RouteQuery<'r> {
    fn borrow_record(record: &'r FfiRecord<'_>) -> Result<Self, MethodError> {
        let token = |&id: &i64| u32::try_from(id).map_err(|_| record.wrong(format_args!("has {id} among `tokens`")));
        let tokens = record.integers("tokens")?.iter().map(token).collect::<Result<_, _>>()?;
        Ok(Self { tokens, patches: patches_in(record)? })
    }
}

impl IntoRecord for Route {
    fn into_record(self) -> FfiRecord<'static> {
        match self {
            Self::Base => FfiRecord::new("base"),
            Self::Changes(indices) => FfiRecord::new("changes").with_tensor(FfiTensor::integers(
                "indices",
                1,
                indices.iter().map(|&index| wide(index)),
            )),
            Self::Prompt(tokens) => FfiRecord::new("prompt").with_tensor(ids_to("tokens", &tokens)),
            Self::Delegate { module, tokens, mix } => FfiRecord::new("delegate")
                .with_text("module", &module.0)
                .with_tensor(ids_to("tokens", &tokens))
                .with_number("mix", mix.into()),
        }
    }
}

impl FromRecord for Route {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(match record.kind.as_str() {
            "base" => Self::Base,
            "changes" => Self::Changes(record.take_integers::<1, usize>("indices")?.into_iter().flatten().collect()),
            "prompt" => Self::Prompt(ids_from(&mut record, "tokens")?),
            "delegate" => Self::Delegate {
                module: ModuleId(record.text("module")?.to_owned()),
                tokens: ids_from(&mut record, "tokens")?,
                mix: record.number("mix")? as f32,
            },
            _ => return Err(record.wrong("is not a route that is known here")),
        })
    }
}

impl ToRecord for InterceptCall<'_> {
    fn to_record(&self) -> FfiRecord<'_> {
        let row = |row: &InterceptRow| {
            FfiRecord::new("row").with_index("prompt-end", row.prompt_end).with_tensor(FfiTensor::integers(
                "patches",
                1,
                row.patches.iter().map(|&index| wide(index)),
            ))
        };
        let (rows, columns) = self.positions.dim();
        let positions = FfiTensor::integers("positions", columns.max(1), self.positions.iter().copied());
        let record = FfiRecord::new("intercept")
            .with_text("site", &self.site.to_string())
            .with_tensor(FfiTensor::array("activation", &self.activation))
            .with_tensor(FfiTensor { shape: vec![rows, columns].into(), ..positions })
            .with_list("rows", self.rows.iter().map(row));
        patches_to(record, &self.patches)
    }
}

impl<'r> BorrowRecord<'r> for InterceptCall<'r> {
    fn borrow_record(record: &'r FfiRecord<'_>) -> Result<Self, MethodError> {
        let positions = record.integers("positions")?.into_dimensionality::<Ix2>();
        let row = |row: &FfiRecord<'_>| {
            let index = |&i: &i64| usize::try_from(i).map_err(|_| row.wrong(format_args!("has {i} among `patches`")));
            let patches = row.integers("patches")?.iter().map(index).collect::<Result<_, _>>()?;
            Ok(InterceptRow { prompt_end: row.index("prompt-end")?, patches })
        };
        Ok(Self {
            site: record.parsed("site")?,
            activation: record.floats("activation")?,
            positions: positions.map_err(|_| record.wrong("has `positions` that are no table"))?,
            rows: record.child("rows")?.children.iter().map(row).collect::<Result<_, MethodError>>()?,
            patches: patches_in(record)?,
        })
    }
}

/// The new value of an activation, or none.
impl IntoRecord for Option<Tensor> {
    fn into_record(self) -> FfiRecord<'static> {
        match self {
            Some(values) => FfiRecord::new("changed").with_tensor(FfiTensor::given("values", values)),
            None => FfiRecord::new("unchanged"),
        }
    }
}

impl FromRecord for Option<Tensor> {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        record.take_tensor_if("values")
    }
}
