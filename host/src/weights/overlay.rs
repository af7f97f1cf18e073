//! The sum of active patches: for each weight low-rank factors side by side, and one dense sum; for each MLP slots side
//! by side; for each splice its tables, folded.
//!
//! An overlay is a function of the list of patches, never of history: it is summed anew, in order, whenever the list
//! changes, so that a rollback leaves exactly what would be there had the patch never been made.

use std::collections::{BTreeMap, BTreeSet};

use engraft_plugin_api::{Change, Delta, Fold, Tensor, WeightRef};

use super::slots::{Neurons, SlotKey, slot_key};
use super::splices::{Folded, SpliceKey};
use crate::base::{Hash, Hasher};

/// Low-rank factors `left · right` of several deltas side by side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Factors {
    /// The columns of `left`, one after the other, `in` values each.
    pub columns: Vec<Vec<f32>>,
    /// The rows of `right`, `out` values each.
    pub rows: Vec<Vec<f32>>,
    /// Which change each column belongs to: (source, change), sources counted in the order given to [`Overlay::of`].
    pub owners: Vec<(usize, usize)>,
}

impl Factors {
    /// The number of columns.
    pub fn rank(&self) -> usize {
        self.columns.len()
    }
}

/// Something of an overlay that is a sum of parts, which no gate can take apart again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Summed {
    /// The dense sum of a weight.
    Dense(WeightRef),
    /// The tables of a splice that are sums.
    Tables(SpliceKey),
}

/// What is added to a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay {
    /// Low-rank sums.
    pub low_rank: BTreeMap<WeightRef, Factors>,
    /// Dense sums, `[in, out]` row-major.
    pub dense: BTreeMap<WeightRef, Vec<f32>>,
    /// Slots, by the branch that they share.
    pub slots: BTreeMap<SlotKey, Neurons>,
    /// Splices, those that are one folded.
    pub splices: BTreeMap<SpliceKey, Folded>,
    /// The sums, each with the sources that have a part in it.
    pub summed: BTreeMap<Summed, BTreeSet<usize>>,
}

impl Overlay {
    /// Sums changes in order. `shape` gives `[in, out]` of a weight; deltas of vectors and dense ones are summed
    /// densely, all others ride as factors. Tables of splices that are one must fit each other.
    pub fn of<'a>(
        sources: impl IntoIterator<Item = &'a [Change]>,
        shape: impl Fn(WeightRef) -> Option<[usize; 2]>,
    ) -> Self {
        let mut out = Self::default();
        for (source, changes) in sources.into_iter().enumerate() {
            for (number, change) in changes.iter().enumerate() {
                let owner = (source, number);
                match change {
                    Change::Weight { weight, delta } => {
                        if let Some(shape) = shape(*weight) {
                            out.add(*weight, shape, delta, owner);
                        }
                    }
                    Change::Slots(slots) => out.slots.entry(slot_key(slots)).or_default().add(slots, owner),
                    Change::Splice(splice) => {
                        let key = match out.splices.iter_mut().find(|(_, all)| all.first.joins(splice)) {
                            Some((key, all)) => {
                                all.add(splice, owner);
                                *key
                            }
                            None => {
                                let key = Folded::key(splice);
                                out.splices.insert(key, Folded::of(splice, owner));
                                key
                            }
                        };
                        if splice.tables.iter().any(|table| table.fold == Fold::Sum) {
                            out.sums(Summed::Tables(key), source);
                        }
                    }
                    _ => {}
                }
            }
        }
        out
    }

    fn add(&mut self, weight: WeightRef, [inputs, outputs]: [usize; 2], delta: &Delta, owner: (usize, usize)) {
        let values = |t: &Tensor| t.as_f32().map(<[f32]>::to_vec).unwrap_or_default();
        match delta {
            Delta::LowRank { left, right } if inputs > 1 => {
                let (rank, left, right) = (right.shape()[0], values(left), values(right));
                let factors = self.low_rank.entry(weight).or_default();
                for r in 0..rank {
                    factors.columns.push((0..inputs).map(|i| left[i * rank + r]).collect());
                    factors.rows.push(right[r * outputs..(r + 1) * outputs].to_vec());
                    factors.owners.push(owner);
                }
            }
            Delta::LowRank { .. } | Delta::Dense(_) => {
                self.sums(Summed::Dense(weight), owner.0);
                add_dense(self.dense.entry(weight).or_insert_with(|| vec![0.0; inputs * outputs]), delta);
            }
            Delta::Rows { rows, values: tensor } => {
                let new = values(tensor);
                let factors = self.low_rank.entry(weight).or_default();
                for (r, &row) in rows.iter().enumerate() {
                    let mut column = vec![0.0; inputs];
                    column[row] = 1.0;
                    factors.columns.push(column);
                    factors.rows.push(new[r * outputs..(r + 1) * outputs].to_vec());
                    factors.owners.push(owner);
                }
            }
        }
    }

    fn sums(&mut self, what: Summed, source: usize) {
        self.summed.entry(what).or_default().insert(source);
    }

    /// The sources that have a part in a sum.
    pub fn in_sums(&self) -> BTreeSet<usize> {
        self.summed.values().flatten().copied().collect()
    }

    /// The dense sum of a weight, `[in, out]` row-major, over changes in their order; as [`Overlay::of`] makes it of them
    /// alone.
    pub fn dense_of<'a>(
        weight: WeightRef,
        shape: [usize; 2],
        changes: impl IntoIterator<Item = &'a Change>,
    ) -> Vec<f32> {
        let mut deltas = dense_deltas(weight, shape, changes).peekable();
        // The first is copied: adding it to zeros would go over the memory twice.
        let first = deltas.next_if(|delta| matches!(delta, Delta::Dense(_)));
        let mut sum = match first {
            Some(Delta::Dense(dense)) => dense.as_f32().unwrap_or_default().to_vec(),
            _ => vec![0.0; shape[0] * shape[1]],
        };
        deltas.for_each(|delta| add_dense(&mut sum, delta));
        sum
    }

    /// True if nothing is added.
    pub fn is_empty(&self) -> bool {
        self.low_rank.is_empty() && self.dense.is_empty() && self.slots.is_empty() && self.splices.is_empty()
    }

    /// How many slots each block has that has any.
    pub fn slot_counts(&self) -> BTreeMap<usize, usize> {
        let mut counts = BTreeMap::new();
        for ((layer, ..), neurons) in &self.slots {
            *counts.entry(*layer).or_default() += neurons.count();
        }
        counts
    }

    /// The whole sum of one weight as a dense matrix `[in, out]`, accumulated in float64.
    pub fn dense_sum(&self, weight: WeightRef, [inputs, outputs]: [usize; 2]) -> Option<Vec<f32>> {
        if !self.low_rank.contains_key(&weight) && !self.dense.contains_key(&weight) {
            return None;
        }
        let mut sum = vec![0.0f64; inputs * outputs];
        if let Some(dense) = self.dense.get(&weight) {
            for (s, &v) in sum.iter_mut().zip(dense) {
                *s += f64::from(v);
            }
        }
        if let Some(factors) = self.low_rank.get(&weight) {
            for (column, row) in factors.columns.iter().zip(&factors.rows) {
                for (i, &l) in column.iter().enumerate().filter(|(_, l)| **l != 0.0) {
                    for (s, &r) in sum[i * outputs..(i + 1) * outputs].iter_mut().zip(row) {
                        *s += f64::from(l) * f64::from(r);
                    }
                }
            }
        }
        Some(sum.into_iter().map(|v| v as f32).collect())
    }

    /// The hash of everything that is added, to the bit.
    pub fn hash(&self) -> Hash {
        let mut hasher = Hasher::new();
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        for (weight, factors) in &self.low_rank {
            hasher.part(weight.to_string());
            for (column, row) in factors.columns.iter().zip(&factors.rows) {
                hasher.part(bytes(column)).part(bytes(row));
            }
        }
        for (weight, dense) in &self.dense {
            hasher.part(weight.to_string()).part(bytes(dense));
        }
        for ((layer, activation, gated), neurons) in &self.slots {
            hasher.part(format!("slots {layer} {activation:?} {gated}"));
            neurons.hash(&mut hasher);
        }
        for (key, splice) in &self.splices {
            hasher.part(format!("splice {} {}", key.writes, key.order)).part(key.id.bytes());
            splice.hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// The deltas of a weight among changes that are summed densely.
pub fn dense_deltas<'a>(
    weight: WeightRef,
    [inputs, _]: [usize; 2],
    changes: impl IntoIterator<Item = &'a Change>,
) -> impl Iterator<Item = &'a Delta> {
    changes.into_iter().filter_map(move |change| match change {
        Change::Weight { weight: of, delta } if *of == weight => {
            let dense = matches!(delta, Delta::Dense(_)) || inputs == 1 && matches!(delta, Delta::LowRank { .. });
            dense.then_some(delta)
        }
        _ => None,
    })
}

/// Adds a delta to a dense sum: a dense one, or a low-rank one of a vector.
fn add_dense(sum: &mut [f32], delta: &Delta) {
    match delta {
        Delta::LowRank { left, right } => {
            let rows = right.as_f32().unwrap_or_default().chunks_exact(sum.len().max(1));
            for (left, row) in left.as_f32().unwrap_or_default().iter().zip(rows) {
                sum.iter_mut().zip(row).for_each(|(s, v)| *s += left * v);
            }
        }
        Delta::Dense(dense) => {
            let own = dense.as_f32().unwrap_or_default();
            sum.iter_mut().zip(own).for_each(|(s, v)| *s += v);
        }
        Delta::Rows { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use engraft_plugin_api::Role;

    use super::*;

    const W: WeightRef = WeightRef::Block(0, Role::MlpOut);

    fn change(delta: Delta) -> Change {
        Change::Weight { weight: W, delta }
    }

    #[test]
    fn kinds_of_deltas_sum_to_one_matrix() {
        let t = |shape: [usize; 2], values: &[f32]| Tensor::f32(shape, values.to_vec()).unwrap();
        let changes = [
            change(Delta::LowRank { left: t([2, 1], &[1.0, 2.0]), right: t([1, 2], &[3.0, 4.0]) }),
            change(Delta::Dense(t([2, 2], &[0.5, 0.0, 0.0, 0.5]))),
            change(Delta::Rows { rows: vec![1], values: t([1, 2], &[10.0, 20.0]) }),
        ];
        let overlay = Overlay::of([&changes[..]], |_| Some([2, 2]));
        assert_eq!(overlay.dense_sum(W, [2, 2]), Some(vec![3.5, 4.0, 16.0, 28.5]));
        assert_eq!(overlay.low_rank[&W].owners, [(0, 0), (0, 2)]);
    }

    #[test]
    fn taking_a_source_away_leaves_what_was_never_there() {
        let t = |v: f32| change(Delta::Dense(Tensor::f32([1, 1], vec![v]).unwrap()));
        let (a, b, c) = ([t(0.1)], [t(0.7)], [t(1e-9)]);
        let without = Overlay::of([&a[..], &c[..]], |_| Some([1, 1]));
        let with = Overlay::of([&a[..], &b[..], &c[..]], |_| Some([1, 1]));
        assert_ne!(with.hash(), without.hash());
        assert_eq!(Overlay::of([&a[..], &c[..]], |_| Some([1, 1])).hash(), without.hash());
        let slots = |layer, gated, seed| [Change::Slots(crate::weights::waves(layer, 2, 3, gated, seed))];
        let hash = |list: &[[Change; 1]]| Overlay::of(list.iter().map(|c| &c[..]), |_| None).hash();
        let (a, b, c) = (slots(0, false, 1.0), slots(0, false, 2.0), slots(0, false, 3.0));
        assert_eq!(hash(&[a.clone(), c.clone()]), hash(&[a.clone(), c.clone()]));
        let others = [vec![a.clone(), b.clone(), c], vec![a.clone()], vec![b, a], vec![slots(1, false, 1.0)]];
        let all: Vec<_> = others.iter().map(|list| hash(list)).chain([hash(&[slots(0, true, 1.0)])]).collect();
        assert!((0..all.len()).all(|i| !all[..i].contains(&all[i])));
    }
}
