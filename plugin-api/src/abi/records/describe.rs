//! Descriptors, parameters and edit requests as records.

use std::collections::BTreeMap;

use crate::abi::record::FfiRecord;
use crate::abi::records::{FromRecord, ToRecord};
use crate::descriptor::{Capabilities, Descriptor, Family};
use crate::error::MethodError;
use crate::params::{ParamKind, ParamSpec, ParamValue, Params};
use crate::request::{EditRequest, Target};

impl ToRecord for Descriptor {
    fn to_record(&self) -> FfiRecord<'_> {
        let can = FfiRecord::new("capabilities")
            .with_flag("batch", self.capabilities.batch)
            .with_flag("sequential", self.capabilities.sequential)
            .with_flag("needs-subject", self.capabilities.needs_subject);
        FfiRecord::new("descriptor")
            .with_text("name", &self.name)
            .with_text("version", &self.version)
            .with_text("family", self.family.name())
            .with_text("summary", &self.summary)
            .with_text("paper", &self.paper)
            .with_child(can)
            .with_list("params", self.params.iter().map(ToRecord::to_record))
    }
}

impl FromRecord for Descriptor {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        record.expect_kind("descriptor")?;
        let can = record.take_child("capabilities")?;
        let family = record.text("family")?;
        let family = [Family::ExternalExtension, Family::InternalModification]
            .into_iter()
            .find(|f| f.name() == family)
            .ok_or_else(|| record.wrong(format_args!("names an unknown family `{family}`")))?;
        Ok(Self {
            name: record.text("name")?.to_owned(),
            version: record.text("version")?.to_owned(),
            family,
            summary: record.text("summary")?.to_owned(),
            paper: record.text("paper")?.to_owned(),
            capabilities: Capabilities {
                batch: can.flag_if("batch")?,
                sequential: can.flag_if("sequential")?,
                needs_subject: can.flag_if("needs-subject")?,
            },
            params: record.take_list("params", ParamSpec::from_record)?,
        })
    }
}

impl ToRecord for ParamSpec {
    fn to_record(&self) -> FfiRecord<'_> {
        let record = FfiRecord::new("param")
            .with_text("name", &self.name)
            .with_text("help", &self.help)
            .with_child(FfiRecord::new("kind").with_child(self.kind.to_record()));
        match &self.default {
            Some(value) => record.with_child(FfiRecord::new("default").with_child(value.to_record())),
            None => record,
        }
    }
}

impl FromRecord for ParamSpec {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        let default = record.take_child_if("default");
        Ok(Self {
            name: record.text("name")?.to_owned(),
            help: record.text("help")?.to_owned(),
            kind: ParamKind::from_record(record.take_child("kind")?.take_only()?)?,
            default: default.map(|d| d.take_only().and_then(ParamValue::from_record)).transpose()?,
        })
    }
}

impl ToRecord for ParamKind {
    fn to_record(&self) -> FfiRecord<'_> {
        match self {
            Self::Flag => FfiRecord::new("flag"),
            Self::Integer { min, max } => FfiRecord::new("integer").with_integer("min", *min).with_integer("max", *max),
            Self::Number { min, max } => FfiRecord::new("number").with_number("min", *min).with_number("max", *max),
            Self::Layer => FfiRecord::new("layer"),
            Self::Choice(words) => FfiRecord::new("choice")
                .with_list("words", words.iter().map(|word| FfiRecord::new("word").with_text("text", word))),
            Self::Text => FfiRecord::new("text"),
            Self::List(element) => FfiRecord::new("list").with_child(element.to_record()),
        }
    }
}

impl FromRecord for ParamKind {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(match record.kind.as_str() {
            "flag" => Self::Flag,
            "integer" => Self::Integer { min: record.integer("min")?, max: record.integer("max")? },
            "number" => Self::Number { min: record.number("min")?, max: record.number("max")? },
            "layer" => Self::Layer,
            "choice" => Self::Choice(record.take_list("words", |word| word.text("text").map(str::to_owned))?),
            "text" => Self::Text,
            "list" => Self::List(Box::new(Self::from_record(record.take_only()?)?)),
            _ => return Err(record.wrong("is not a kind of parameter that is known here")),
        })
    }
}

impl ToRecord for ParamValue {
    fn to_record(&self) -> FfiRecord<'_> {
        match self {
            Self::Flag(value) => FfiRecord::new("flag").with_flag("value", *value),
            Self::Integer(value) => FfiRecord::new("integer").with_integer("value", *value),
            Self::Number(value) => FfiRecord::new("number").with_number("value", *value),
            Self::Text(value) => FfiRecord::new("text").with_text("value", value),
            Self::List(values) => FfiRecord::new("list").with_list("values", values.iter().map(ToRecord::to_record)),
        }
    }
}

impl FromRecord for ParamValue {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(match record.kind.as_str() {
            "flag" => Self::Flag(record.flag("value")?),
            "integer" => Self::Integer(record.integer("value")?),
            "number" => Self::Number(record.number("value")?),
            "text" => Self::Text(record.text("value")?.to_owned()),
            "list" => Self::List(record.take_list("values", Self::from_record)?),
            _ => return Err(record.wrong("is not a kind of value that is known here")),
        })
    }
}

impl ToRecord for Params {
    fn to_record(&self) -> FfiRecord<'_> {
        let param = |(name, value): (&'_ String, &'_ ParamValue)| {
            FfiRecord::new("param").with_text("name", name).with_child(value.to_record().into_owned())
        };
        FfiRecord::new("create").with_list("params", self.0.iter().map(param))
    }
}

impl FromRecord for Params {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        let params = record.take_list("params", |param| {
            let name = param.text("name")?.to_owned();
            Ok((name, ParamValue::from_record(param.take_only()?)?))
        })?;
        Ok(Self(params.into_iter().collect::<BTreeMap<_, _>>()))
    }
}

impl ToRecord for [EditRequest] {
    fn to_record(&self) -> FfiRecord<'_> {
        FfiRecord::new("edit").with_list("requests", self.iter().map(ToRecord::to_record))
    }
}

impl FromRecord for Vec<EditRequest> {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        record.take_list("requests", EditRequest::from_record)
    }
}

impl ToRecord for EditRequest {
    fn to_record(&self) -> FfiRecord<'_> {
        FfiRecord::new("request")
            .with_text("id", &self.id)
            .with_text("prompt", &self.prompt)
            .with_text_if("subject", self.subject.as_deref())
            .with_text("target", &self.target.new)
            .with_text_if("target-old", self.target.old.as_deref())
    }
}

impl FromRecord for EditRequest {
    fn from_record(record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(Self {
            id: record.text("id")?.to_owned(),
            prompt: record.text("prompt")?.to_owned(),
            subject: record.text_if("subject")?,
            target: Target { new: record.text("target")?.to_owned(), old: record.text_if("target-old")? },
        })
    }
}
