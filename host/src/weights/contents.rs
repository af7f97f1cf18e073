//! What a patch holds, for people: each change in words, and its tensors with their shapes.

use engraft_plugin_api::{Change, Data, Delta, Increment, Site, Tensor};
use serde::Serialize;

use super::patch::Patch;

/// A tensor of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is: `left`, `keys`, the name of a table.
    pub name: String,
    /// `float32`, `int64` or `bytes`.
    pub dtype: &'static str,
    /// Its extents.
    pub shape: Vec<usize>,
}

impl Part {
    fn of(name: &str, tensor: &Tensor) -> Self {
        let dtype = match tensor.data() {
            Data::F32(_) => "float32",
            Data::I64(_) => "int64",
        };
        Self { name: name.to_owned(), dtype, shape: tensor.shape().to_vec() }
    }

    fn bytes(name: &str, bytes: &[u8]) -> Self {
        Self { name: name.to_owned(), dtype: "bytes", shape: vec![bytes.len()] }
    }
}

impl Patch {
    /// What it changes, in words, one phrase for each change.
    pub fn contents(&self) -> Vec<String> {
        self.changes.iter().map(words).collect()
    }

    /// What each change is made of, in the order of the changes.
    pub fn parts(&self) -> Vec<Vec<Part>> {
        self.changes.iter().map(parts).collect()
    }
}

fn parts(change: &Change) -> Vec<Part> {
    match change {
        Change::Weight { delta: Delta::LowRank { left, right }, .. } => {
            vec![Part::of("left", left), Part::of("right", right)]
        }
        Change::Weight { delta: Delta::Dense(delta), .. } => vec![Part::of("delta", delta)],
        Change::Weight { delta: Delta::Rows { values, .. }, .. } => vec![Part::of("rows", values)],
        Change::Slots(slots) => {
            let mut all = [("keys", &slots.keys), ("bias", &slots.bias), ("values", &slots.values)].to_vec();
            all.extend(slots.gate.iter().flat_map(|gate| [("gate.keys", &gate.keys), ("gate.bias", &gate.bias)]));
            all.into_iter().map(|(name, tensor)| Part::of(name, tensor)).collect()
        }
        Change::Splice(splice) => {
            let tables = splice.tables.iter().map(|table| Part::of(&table.name, &table.value));
            [Part::bytes("graph", &splice.graph)].into_iter().chain(tables).collect()
        }
        Change::State(bytes) => vec![Part::bytes("state", bytes)],
        Change::Statistic(part) => vec![Part::of(&part.name, &part.value)],
        _ => Vec::new(),
    }
}

fn words(change: &Change) -> String {
    let extents = |tensor: &Tensor| tensor.shape().iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
    let sites = |sites: &[Site]| sites.iter().map(|site| format!("`{site}`")).collect::<Vec<_>>().join(", ");
    match change {
        Change::Weight { weight, delta: Delta::LowRank { right, .. } } => {
            format!("a delta of rank {} to `{weight}`", right.shape().first().copied().unwrap_or(0))
        }
        Change::Weight { weight, delta: Delta::Dense(_) } => format!("a dense delta to `{weight}`"),
        Change::Weight { weight, delta: Delta::Rows { rows, .. } } => format!("{} rows of `{weight}`", rows.len()),
        Change::Slots(slots) => format!("{} slots beside the MLP of block {}", slots.count(), slots.layer),
        Change::Splice(splice) => {
            let table = |table: &Increment| format!("`{}` {}", table.name, extents(&table.value));
            let tables: Vec<String> = splice.tables.iter().map(table).collect();
            let tables = if tables.is_empty() { String::new() } else { format!(" with {}", tables.join(", ")) };
            format!("a splice at `{}`, order {}{tables}", splice.writes, splice.order)
        }
        Change::Intercept { sites: at, .. } => format!("an interception at {}", sites(at)),
        Change::Route => "routing".to_owned(),
        Change::State(bytes) => format!("a state of {} bytes", bytes.len()),
        Change::Statistic(part) => format!("a part of the statistic `{}`, {}", part.name, extents(&part.value)),
        _ => "a change of a kind that is not known".to_owned(),
    }
}
