//! What a method asks of the host, and what it is told, as records.

use std::ops::Range;

use crate::abi::record::{FfiRecord, FfiTensor};
use crate::abi::records::{FromRecord, IntoRecord, ToRecord};
use crate::access::{
    Decoding, GenerateRequest, GradientReply, GradientRequest, KlDirection, Level, ModelFacts, Place, Poke, RunReply,
    RunRequest, Sampling, SecondMoment, Tap, Term, Tokens, Wrt,
};
use crate::change::Change;
use crate::error::MethodError;
use crate::tensor::Tensor;

pub(super) fn wide(value: usize) -> i64 {
    (value as u64).cast_signed()
}

fn rows_to(rows: &[Vec<u32>]) -> FfiRecord<'static> {
    FfiRecord::new("rows")
        .with_tensor(FfiTensor::integers("lengths", 1, rows.iter().map(|row| wide(row.len()))))
        .with_tensor(FfiTensor::integers("ids", 1, rows.iter().flatten().map(|&id| i64::from(id))))
}

fn rows_from(record: &mut FfiRecord<'_>) -> Result<Vec<Vec<u32>>, MethodError> {
    let mut rows = record.take_child("rows")?;
    let lengths = rows.take_integers::<1, usize>("lengths")?;
    let ids = ids_from(&mut rows, "ids")?;
    let mut rest = ids.as_slice();
    let mut out = Vec::with_capacity(lengths.len());
    for [length] in lengths {
        let (row, after) = rest.split_at_checked(length).ok_or_else(|| rows.wrong("has fewer ids than it says"))?;
        out.push(row.to_vec());
        rest = after;
    }
    if rest.is_empty() { Ok(out) } else { Err(rows.wrong("has more ids than it says")) }
}

pub(super) fn ids_to(name: &str, ids: &[u32]) -> FfiTensor<'static> {
    FfiTensor::integers(name, 1, ids.iter().map(|&id| i64::from(id)))
}

pub(super) fn ids_from(record: &mut FfiRecord<'_>, name: &str) -> Result<Vec<u32>, MethodError> {
    Ok(record.take_integers::<1, u32>(name)?.into_iter().flatten().collect())
}

/// The ends of prompts, where there are any.
fn ends_to<'a>(record: FfiRecord<'a>, ends: &[usize]) -> FfiRecord<'a> {
    if ends.is_empty() {
        return record;
    }
    record.with_tensor(FfiTensor::integers("prompt-ends", 1, ends.iter().map(|&end| wide(end))))
}

fn ends_from(record: &mut FfiRecord<'_>) -> Result<Vec<usize>, MethodError> {
    if record.tensors.iter().all(|t| t.name != "prompt-ends") {
        return Ok(Vec::new());
    }
    Ok(record.take_integers::<1, usize>("prompt-ends")?.into_iter().flatten().collect())
}

fn places_to(name: &str, places: &[Place]) -> FfiTensor<'static> {
    FfiTensor::integers(name, 2, places.iter().flat_map(|p| [wide(p.row), wide(p.pos)]))
}

fn places_from(record: &mut FfiRecord<'_>, name: &str) -> Result<Vec<Place>, MethodError> {
    Ok(record.take_integers::<2, usize>(name)?.into_iter().map(|[row, pos]| Place { row, pos }).collect())
}

fn place_from(record: &FfiRecord<'_>) -> Result<Place, MethodError> {
    Ok(Place { row: record.index("row")?, pos: record.index("pos")? })
}

fn under_to(under: &[Change]) -> FfiRecord<'_> {
    FfiRecord::new("under").with_child(under.to_record())
}

fn under_from(record: &mut FfiRecord<'_>) -> Result<Vec<Change>, MethodError> {
    Vec::from_record(record.take_child("under")?.take_only()?)
}

fn pokes_to<'a>(record: FfiRecord<'a>, kind: &str, pokes: &'a [Poke]) -> FfiRecord<'a> {
    let poke = |poke: &'a Poke| {
        FfiRecord::new("poke")
            .with_text("site", &poke.site.to_string())
            .with_tensor(places_to("places", &poke.places))
            .with_tensor(FfiTensor::lent("values", &poke.values))
    };
    record.with_list(kind, pokes.iter().map(poke))
}

fn pokes_from(record: &mut FfiRecord<'_>, kind: &str) -> Result<Vec<Poke>, MethodError> {
    record.take_list(kind, |mut poke| {
        Ok(Poke {
            site: poke.parsed("site")?,
            places: places_from(&mut poke, "places")?,
            values: poke.take_tensor("values")?,
        })
    })
}

fn tensors_to(kind: &str, tensors: Vec<Tensor>) -> FfiRecord<'static> {
    let mut record = FfiRecord::new(kind);
    record.tensors.extend(tensors.into_iter().map(|t| FfiTensor::given("value", t)));
    record
}

fn tensors_from(record: FfiRecord<'_>) -> Result<Vec<Tensor>, MethodError> {
    record.tensors.into_iter().map(FfiTensor::into_tensor).collect()
}

impl IntoRecord for ModelFacts {
    fn into_record(self) -> FfiRecord<'static> {
        let named = |name: String| FfiRecord::new("name").with_text("text", &name);
        let record = FfiRecord::new("facts")
            .with_text("hash", &self.hash)
            .with_index("layers", self.layers)
            .with_index("d-model", self.d_model)
            .with_index("d-mlp", self.d_mlp)
            .with_index("heads", self.heads)
            .with_index("vocab", self.vocab)
            // The largest number stands for no bound.
            .with_integer("context", i64::try_from(self.context).unwrap_or(i64::MAX))
            .with_list("sites", self.sites.iter().map(|site| named(site.to_string())))
            .with_list("weights", self.weights.iter().map(|weight| named(weight.to_string())))
            .with_list("prefixes", self.prefixes.into_iter().map(named));
        match self.start_token {
            Some(token) => record.with_integer("start-token", token.into()),
            None => record,
        }
    }
}

impl FromRecord for ModelFacts {
    /// Sites and weights that this side has no name for are left out: it could not ask for them.
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        record.expect_kind("facts")?;
        let sites = record.take_list("sites", |name| Ok(name.text("text")?.parse().ok()))?;
        let weights = record.take_list("weights", |name| Ok(name.text("text")?.parse().ok()))?;
        Ok(Self {
            hash: record.text("hash")?.to_owned(),
            layers: record.index("layers")?,
            d_model: record.index("d-model")?,
            d_mlp: record.index("d-mlp")?,
            heads: record.index("heads")?,
            vocab: record.index("vocab")?,
            context: if record.integer("context")? == i64::MAX { usize::MAX } else { record.index("context")? },
            start_token: if record.has("start-token") { Some(record.token("start-token")?) } else { None },
            sites: sites.into_iter().flatten().collect(),
            weights: weights.into_iter().flatten().collect(),
            prefixes: record.take_list("prefixes", |name| name.text("text").map(str::to_owned))?,
        })
    }
}

impl IntoRecord for Tokens {
    fn into_record(self) -> FfiRecord<'static> {
        let spans = self.spans.iter().flat_map(|span| [wide(span.start), wide(span.end)]);
        FfiRecord::new("tokens")
            .with_tensor(ids_to("ids", &self.ids))
            .with_tensor(FfiTensor::integers("spans", 2, spans))
    }
}

impl FromRecord for Tokens {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        let ids = ids_from(&mut record, "ids")?;
        let spans = record.take_integers::<2, usize>("spans")?;
        let spans: Vec<Range<usize>> = spans.into_iter().map(|[start, end]| start..end).collect();
        if ids.len() == spans.len() {
            Ok(Self { ids, spans })
        } else {
            Err(record.wrong("has a span for not every id"))
        }
    }
}

/// Tokens to decode.
impl ToRecord for [u32] {
    fn to_record(&self) -> FfiRecord<'_> {
        FfiRecord::new("ids").with_tensor(ids_to("ids", self))
    }
}

impl FromRecord for Vec<u32> {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        ids_from(&mut record, "ids")
    }
}

impl IntoRecord for Tensor {
    fn into_record(self) -> FfiRecord<'static> {
        FfiRecord::new("tensor").with_tensor(FfiTensor::given("value", self))
    }
}

impl FromRecord for Tensor {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        record.take_tensor("value")
    }
}

impl ToRecord for RunRequest {
    fn to_record(&self) -> FfiRecord<'_> {
        let tap = |tap: &Tap| {
            let record = FfiRecord::new("tap").with_text("site", &tap.site.to_string());
            match &tap.places {
                Some(places) => record.with_tensor(places_to("places", places)),
                None => record,
            }
        };
        let record = FfiRecord::new("run")
            .with_child(rows_to(&self.rows))
            .with_list("taps", self.taps.iter().map(tap))
            .with_tensor(places_to("logits", &self.logits))
            .with_child(under_to(&self.under));
        let record = ends_to(record, &self.prompt_ends);
        pokes_to(pokes_to(record, "overwrites", &self.overwrites), "adds", &self.adds)
    }
}

impl FromRecord for RunRequest {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(Self {
            rows: rows_from(&mut record)?,
            prompt_ends: ends_from(&mut record)?,
            taps: record.take_list("taps", |mut tap| {
                let everywhere = tap.tensors.is_empty();
                let places = if everywhere { None } else { Some(places_from(&mut tap, "places")?) };
                Ok(Tap { site: tap.parsed("site")?, places })
            })?,
            overwrites: pokes_from(&mut record, "overwrites")?,
            adds: pokes_from(&mut record, "adds")?,
            logits: places_from(&mut record, "logits")?,
            under: under_from(&mut record)?,
        })
    }
}

impl IntoRecord for RunReply {
    fn into_record(self) -> FfiRecord<'static> {
        FfiRecord::new("ran")
            .with_child(tensors_to("taps", self.taps))
            .with_tensor(FfiTensor::given("logits", self.logits))
    }
}

impl FromRecord for RunReply {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(Self { taps: tensors_from(record.take_child("taps")?)?, logits: record.take_tensor("logits")? })
    }
}

impl ToRecord for Term {
    fn to_record(&self) -> FfiRecord<'_> {
        let (record, place, weight) = match self {
            Self::Nll { place, token, weight } => {
                (FfiRecord::new("nll").with_integer("token", (*token).into()), place, weight)
            }
            Self::Kl { place, reference, direction, weight } => {
                let direction = match direction {
                    KlDirection::FromCurrent => "from-current",
                    KlDirection::FromReference => "from-reference",
                };
                let record = FfiRecord::new("kl").with_text("direction", direction);
                (record.with_tensor(FfiTensor::floats("reference", reference)), place, weight)
            }
            Self::Seed { site, place, vector, weight } => {
                let record = FfiRecord::new("seed").with_text("site", &site.to_string());
                (record.with_tensor(FfiTensor::floats("vector", vector)), place, weight)
            }
        };
        record.with_index("row", place.row).with_index("pos", place.pos).with_number("weight", (*weight).into())
    }
}

impl FromRecord for Term {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        let place = place_from(&record)?;
        let weight = record.number("weight")? as f32;
        Ok(match record.kind.as_str() {
            "nll" => Self::Nll { place, token: record.token("token")?, weight },
            "kl" => {
                let direction = match record.text("direction")? {
                    "from-current" => KlDirection::FromCurrent,
                    "from-reference" => KlDirection::FromReference,
                    other => return Err(record.wrong(format_args!("has the unknown direction `{other}`"))),
                };
                Self::Kl { place, reference: record.take_floats("reference")?, direction, weight }
            }
            "seed" => Self::Seed { site: record.parsed("site")?, place, vector: record.take_floats("vector")?, weight },
            _ => return Err(record.wrong("is not a term of a loss that is known here")),
        })
    }
}

impl ToRecord for Wrt {
    fn to_record(&self) -> FfiRecord<'_> {
        match self {
            Self::Add(index) => FfiRecord::new("add").with_index("index", *index),
            Self::Weight(weight) => FfiRecord::new("weight").with_text("weight", &weight.to_string()),
            Self::Pairs(weight) => FfiRecord::new("pairs").with_text("weight", &weight.to_string()),
            Self::Trial(index) => FfiRecord::new("trial").with_index("index", *index),
        }
    }
}

impl FromRecord for Wrt {
    fn from_record(record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(match record.kind.as_str() {
            "add" => Self::Add(record.index("index")?),
            "weight" => Self::Weight(record.parsed("weight")?),
            "pairs" => Self::Pairs(record.parsed("weight")?),
            "trial" => Self::Trial(record.index("index")?),
            _ => return Err(record.wrong("is not a variable that is known here")),
        })
    }
}

impl ToRecord for GradientRequest {
    fn to_record(&self) -> FfiRecord<'_> {
        let record = FfiRecord::new("gradient")
            .with_child(rows_to(&self.rows))
            .with_child(under_to(&self.under))
            .with_list("terms", self.terms.iter().map(ToRecord::to_record))
            .with_list("wrt", self.wrt.iter().map(ToRecord::to_record));
        let record = ends_to(record, &self.prompt_ends);
        pokes_to(pokes_to(record, "overwrites", &self.overwrites), "adds", &self.adds)
    }
}

impl FromRecord for GradientRequest {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(Self {
            rows: rows_from(&mut record)?,
            prompt_ends: ends_from(&mut record)?,
            overwrites: pokes_from(&mut record, "overwrites")?,
            adds: pokes_from(&mut record, "adds")?,
            under: under_from(&mut record)?,
            terms: record.take_list("terms", Term::from_record)?,
            wrt: record.take_list("wrt", Wrt::from_record)?,
        })
    }
}

impl IntoRecord for GradientReply {
    fn into_record(self) -> FfiRecord<'static> {
        FfiRecord::new("differentiated")
            .with_number("loss", self.loss.into())
            .with_tensor(FfiTensor::floats("terms", &self.terms).into_owned())
            .with_list("gradients", self.gradients.into_iter().map(|tensors| tensors_to("variable", tensors)))
    }
}

impl FromRecord for GradientReply {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(Self {
            loss: record.number("loss")? as f32,
            terms: record.take_floats("terms")?,
            gradients: record.take_list("gradients", tensors_from)?,
        })
    }
}

impl ToRecord for GenerateRequest {
    fn to_record(&self) -> FfiRecord<'_> {
        let decoding = match self.decoding {
            Decoding::Greedy => FfiRecord::new("greedy"),
            Decoding::Sample(Sampling { temperature, top_k, top_p, seed }) => {
                let mut record = FfiRecord::new("sample");
                if let Some(k) = top_k {
                    record = record.with_index("top-k", k);
                }
                if let Some(p) = top_p {
                    record = record.with_number("top-p", p.into());
                }
                record.with_number("temperature", temperature.into()).with_bits("seed", seed)
            }
        };
        let text = |text: &String| FfiRecord::new("text").with_text("text", text);
        FfiRecord::new("generate")
            .with_child(rows_to(&self.rows))
            .with_index("max-new", self.max_new)
            .with_child(FfiRecord::new("decoding").with_child(decoding))
            .with_tensor(ids_to("stop", &self.stop))
            .with_list("stop-texts", self.stop_texts.iter().map(text))
            .with_child(under_to(&self.under))
    }
}

impl FromRecord for GenerateRequest {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        let decoding = record.take_child("decoding")?.take_only()?;
        let decoding = match decoding.kind.as_str() {
            "greedy" => Decoding::Greedy,
            "sample" => Decoding::Sample(Sampling {
                temperature: decoding.number("temperature")? as f32,
                top_k: decoding.has("top-k").then(|| decoding.index("top-k")).transpose()?,
                top_p: decoding.has("top-p").then(|| decoding.number("top-p")).transpose()?.map(|p| p as f32),
                seed: decoding.bits("seed")?,
            }),
            _ => return Err(decoding.wrong("is not a decoding that is known here")),
        };
        Ok(Self {
            rows: rows_from(&mut record)?,
            max_new: record.index("max-new")?,
            decoding,
            stop: ids_from(&mut record, "stop")?,
            stop_texts: record.take_list("stop-texts", |text| text.text("text").map(str::to_owned))?,
            under: under_from(&mut record)?,
        })
    }
}

/// Rows of generated tokens.
impl IntoRecord for Vec<Vec<u32>> {
    fn into_record(self) -> FfiRecord<'static> {
        FfiRecord::new("generated").with_child(rows_to(&self))
    }
}

impl FromRecord for Vec<Vec<u32>> {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        rows_from(&mut record)
    }
}

impl IntoRecord for SecondMoment {
    fn into_record(self) -> FfiRecord<'static> {
        FfiRecord::new("moment").with_bits("tokens", self.tokens).with_tensor(FfiTensor::given("matrix", self.matrix))
    }
}

impl FromRecord for SecondMoment {
    fn from_record(mut record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(Self { matrix: record.take_tensor("matrix")?, tokens: record.bits("tokens")? })
    }
}

impl ToRecord for Level {
    fn to_record(&self) -> FfiRecord<'_> {
        let level = match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
        };
        FfiRecord::new("log").with_text("level", level)
    }
}

impl FromRecord for Level {
    /// A level that this side does not know is shown: as information.
    fn from_record(record: FfiRecord<'_>) -> Result<Self, MethodError> {
        Ok(match record.text("level")? {
            "debug" => Self::Debug,
            "warn" => Self::Warn,
            _ => Self::Info,
        })
    }
}
