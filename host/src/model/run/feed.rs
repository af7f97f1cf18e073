//! The sum of patches as inputs of a rigged graph: factors padded to packed tensors, dense sums in the orientation of
//! the file, slots side by side, tables of splices, a gate for every row.

use std::collections::BTreeSet;

use engraft_plugin_api::WeightRef;

use super::visible::Visible;
use crate::anatomy::{Anatomy, Columns, Storage, WeightEdge};
use crate::base::Result;
use crate::graph::Graph;
use crate::hooks::{Branch, Name, SlotBranch, SlotPart, SplicePart, Values};
use crate::runtime::Value;
use crate::weights::{Neurons, Overlay, SpliceKey, TableValues};

/// The branches that an overlay needs.
pub(in crate::model) fn branches(overlay: &Overlay) -> BTreeSet<(WeightRef, Branch)> {
    let low = overlay.low_rank.keys().map(|&w| (w, Branch::LowRank));
    low.chain(overlay.dense.keys().map(|&w| (w, Branch::Dense))).collect()
}

/// The branches of slots that an overlay needs.
pub(in crate::model) fn slots(overlay: &Overlay) -> BTreeSet<SlotBranch> {
    overlay.slots.keys().copied().collect()
}

/// The inputs that hold an overlay, without the gates.
///
/// # Errors
/// `weight-absent`
pub(in crate::model) fn overlay_values(overlay: &Overlay, graph: &Graph, anatomy: &Anatomy) -> Result<Values> {
    let mut values = Values::default();
    for (&weight, factors) in &overlay.low_rank {
        let place = anatomy.weight(weight)?;
        let [inputs, _] = place.shape;
        let rank = factors.rank();
        let mut left = vec![0.0; inputs * rank];
        for (r, column) in factors.columns.iter().enumerate() {
            for (i, &v) in column.iter().enumerate() {
                left[i * rank + r] = v;
            }
        }
        let (columns, total) = packed(place, graph);
        let mut right = vec![0.0; rank * total];
        for (r, row) in factors.rows.iter().enumerate() {
            row.iter().enumerate().for_each(|(o, &v)| right[r * total + columns.at(o)] = v);
        }
        values.set(Name::Left(weight), Value::f32(&[inputs, rank], left)?);
        values.set(Name::Right(weight), Value::f32(&[rank, total], right)?);
    }
    for (&weight, dense) in &overlay.dense {
        values.set(Name::Dense(weight), dense_value(weight, dense.clone(), graph, anatomy)?);
    }
    for (&branch, neurons) in &overlay.slots {
        for (&part, flat) in SlotPart::all(branch.2).iter().zip(slot_tensors(neurons, branch)) {
            let shape = part.shape(anatomy.d_model, neurons.count());
            values.set(Name::Slot(branch, part), Value::f32(&shape, flat)?);
        }
    }
    for (key, splice) in &overlay.splices {
        for (i, table) in splice.tables.iter().enumerate() {
            let value = match &table.values {
                TableValues::F32(flat) => Value::f32(&table.shape, flat.clone()),
                TableValues::I64(flat) => Value::i64(&table.shape, flat.clone()),
            };
            values.set(table_name(key, i), value?);
        }
    }
    Ok(values)
}

/// The input that is a table of a splice.
pub(in crate::model) fn table_name(key: &SpliceKey, table: usize) -> Name {
    Name::Splice(key.writes, key.order, SplicePart::Table(table))
}

/// A dense sum as its input.
///
/// # Errors
/// `weight-absent`
pub(in crate::model) fn dense_value(
    weight: WeightRef,
    sum: Vec<f32>,
    graph: &Graph,
    anatomy: &Anatomy,
) -> Result<Value> {
    let place = anatomy.weight(weight)?;
    Value::f32(&stored_dims(place, graph), to_stored(sum, place, graph))
}

/// The extents of the tensor that a weight is stored in.
pub(in crate::model) fn stored_dims(place: &WeightEdge, graph: &Graph) -> Vec<usize> {
    graph.initializer(&place.initializer).map(|i| i.dims()).unwrap_or_default()
}

/// True if a weight is stored as methods see it, and nothing with it.
pub(in crate::model) fn stored_as_it_is(place: &WeightEdge) -> bool {
    place.storage != Storage::OutIn && place.columns.is_none()
}

/// Gates that let every row of a batch see the patches that it sees.
pub(in crate::model) fn gates(overlay: &Overlay, visible: &Visible, values: &mut Values) -> Result<()> {
    let rows = visible.rows();
    for (&weight, factors) in &overlay.low_rank {
        let gate = visible.gate(&factors.owners);
        values.set(Name::Gate(weight), Value::f32(&[rows, 1, factors.rank()], gate)?);
    }
    for (&branch, neurons) in &overlay.slots {
        let gate = visible.gate(&neurons.owners);
        values.set(Name::SlotGate(branch), Value::f32(&[rows, 1, neurons.count()], gate)?);
    }
    for (key, splice) in &overlay.splices {
        let name = |part| Name::Splice(key.writes, key.order, part);
        values.set(name(SplicePart::Gate), Value::f32(&[rows], visible.gate_of_any(&splice.owners))?);
        for (i, table) in splice.tables.iter().enumerate() {
            let n = table.owners.len();
            values.set(name(SplicePart::TableGate(i)), Value::f32(&[rows, n], visible.gate(&table.owners))?);
        }
    }
    Ok(())
}

/// The tensors of a branch of slots, row-major, in the order of [`SlotPart::all`].
pub(in crate::model) fn slot_tensors(neurons: &Neurons, (.., gated): SlotBranch) -> Vec<Vec<f32>> {
    let columns = |vectors: &[Vec<f32>]| {
        let (n, width) = (vectors.len(), vectors.first().map_or(0, Vec::len));
        let mut flat = vec![0.0; n * width];
        for (i, vector) in vectors.iter().enumerate() {
            vector.iter().enumerate().for_each(|(c, &v)| flat[c * n + i] = v);
        }
        flat
    };
    let mut tensors = vec![columns(&neurons.keys), neurons.bias.clone(), neurons.values.concat()];
    if gated {
        tensors.extend([columns(&neurons.gate_keys), neurons.gate_bias.clone()]);
    }
    tensors
}

/// The columns of a weight in its stored tensor, and the number of columns of that tensor.
pub(in crate::model) fn packed(place: &WeightEdge, graph: &Graph) -> (Columns, usize) {
    let total = || {
        let dims = stored_dims(place, graph);
        let axis = if place.storage == Storage::OutIn { dims.first() } else { dims.last() };
        axis.copied().unwrap_or(place.shape[1])
    };
    let all = || (Columns::block(0, place.shape[1]), place.shape[1]);
    place.columns.map_or_else(all, |columns| (columns, total()))
}

/// `[in, out]` values of a weight in the layout of its stored tensor, zeros where other weights are packed.
pub(in crate::model) fn to_stored(values: Vec<f32>, place: &WeightEdge, graph: &Graph) -> Vec<f32> {
    /// Rows and columns that are moved together, so that a transposition stays in the cache.
    const TILE: usize = 32;
    if stored_as_it_is(place) {
        return values;
    }
    let [inputs, outputs] = place.shape;
    let (columns, total) = packed(place, graph);
    let mut stored = vec![0.0; inputs * total];
    for (i0, o0) in (0..inputs).step_by(TILE).flat_map(|i| (0..outputs).step_by(TILE).map(move |o| (i, o))) {
        for o in o0..outputs.min(o0 + TILE) {
            let column = columns.at(o);
            for i in i0..inputs.min(i0 + TILE) {
                let at = if place.storage == Storage::OutIn { column * inputs + i } else { i * total + column };
                stored[at] = values[i * outputs + o];
            }
        }
    }
    stored
}

/// The `[in, out]` values of a weight out of its stored tensor.
pub(in crate::model) fn from_stored(stored: &[f32], place: &WeightEdge, graph: &Graph) -> Vec<f32> {
    let [inputs, outputs] = place.shape;
    let (columns, total) = packed(place, graph);
    let mut values = Vec::with_capacity(inputs * outputs);
    for i in 0..inputs {
        for o in columns.all().take(outputs) {
            values.push(stored[if place.storage == Storage::OutIn { o * inputs + i } else { i * total + o }]);
        }
    }
    values
}
