//! The gradients of a step in the shapes that methods see.

use engraft_plugin_api::{Change, Delta, Fold, GradientRequest, Slots, Splice, Tensor, WeightRef, Wrt};
use ndarray::Axis;

use crate::anatomy::WeightEdge;
use crate::base::Result;
use crate::hooks::{SlotPart, site_width};
use crate::model::open::Model;
use crate::model::run::Seen;
use crate::model::run::feed;
use crate::runtime::Value;
use crate::weights::{Folded, slot_key};

impl Model {
    /// The gradients of one variable in the shapes that methods see.
    pub(super) fn answer(
        &self,
        wrt: &Wrt,
        request: &GradientRequest,
        seen: &Seen<'_>,
        found: &[Option<&Value>],
    ) -> Result<Vec<Tensor>> {
        let flat = |i: usize| found.get(i).copied().flatten().map(|v| v.as_f32().map(<[f32]>::to_vec)).transpose();
        match wrt {
            Wrt::Add(i) => {
                let poke = &request.adds[*i];
                let width: usize = site_width(self.anatomy(), poke.site).iter().product();
                let n = poke.places.len();
                Ok(vec![Tensor::f32([n, width], flat(0)?.unwrap_or_else(|| vec![0.0; n * width]))?])
            }
            Wrt::Weight(weight) => {
                let place = self.anatomy().weight(*weight)?;
                Ok(vec![self.stored_gradient(place, flat(0)?)?])
            }
            Wrt::Pairs(weight) => {
                let place = self.anatomy().weight(*weight)?;
                let longest = request.rows.iter().map(Vec::len).max().unwrap_or(0);
                let [inputs, outputs] = place.shape;
                let (columns, total) = feed::packed(place, self.graph());
                let shape = |width: usize| [request.rows.len(), longest, width];
                let x = flat(0)?.unwrap_or_else(|| vec![0.0; request.rows.len() * longest * inputs]);
                let all = flat(1)?.unwrap_or_else(|| vec![0.0; request.rows.len() * longest * total]);
                let own = all.chunks_exact(total).flat_map(|row| columns.all().map(|c| row[c])).collect();
                Ok(vec![Tensor::f32(shape(inputs), x)?, Tensor::f32(shape(outputs), own)?])
            }
            Wrt::Trial(i) => match request.under.get(*i) {
                Some(Change::Weight { weight, delta }) => {
                    let place = self.anatomy().weight(*weight)?;
                    self.trial_gradient(*i, place, *weight, delta, seen, &flat)
                }
                Some(Change::Slots(slots)) => self.slots_gradient(*i, slots, seen, &flat),
                Some(Change::Splice(splice)) => splice_gradient(*i, splice, seen, &flat),
                _ => Ok(Vec::new()),
            },
        }
    }

    fn stored_gradient(&self, place: &WeightEdge, stored: Option<Vec<f32>>) -> Result<Tensor> {
        let values = match stored {
            Some(stored) => feed::from_stored(&stored, place, self.graph()),
            None => vec![0.0; place.shape[0] * place.shape[1]],
        };
        Ok(Tensor::f32(place.shape, values)?)
    }

    /// Of the neurons of a branch, those that one trial change holds.
    fn slots_gradient(
        &self,
        number: usize,
        slots: &Slots,
        seen: &Seen<'_>,
        flat: &dyn Fn(usize) -> Result<Option<Vec<f32>>>,
    ) -> Result<Vec<Tensor>> {
        let key = slot_key(slots);
        let owned = seen.overlay.slots.get(&key).map_or(&[][..], |n| &n.owners);
        let (n, width) = (owned.len(), self.anatomy().d_model);
        let own: Vec<usize> = (0..n).filter(|&i| owned[i] == (seen.trial, number)).collect();
        let mut out = Vec::new();
        for (i, part) in SlotPart::all(key.2).iter().enumerate() {
            let whole = part.shape(width, n);
            let all = flat(i)?.unwrap_or_else(|| vec![0.0; whole.iter().product()]);
            let all = Tensor::f32(whole, all)?;
            out.push(Tensor::from_array(&all.view()?.select(Axis(part.slot_axis()), &own)));
        }
        Ok(out)
    }

    fn trial_gradient(
        &self,
        number: usize,
        place: &WeightEdge,
        weight: WeightRef,
        delta: &Delta,
        seen: &Seen<'_>,
        flat: &dyn Fn(usize) -> Result<Option<Vec<f32>>>,
    ) -> Result<Vec<Tensor>> {
        let [inputs, outputs] = place.shape;
        if inputs == 1 || matches!(delta, Delta::Dense(_)) {
            let dense = self.stored_gradient(place, flat(0)?)?;
            let Delta::LowRank { left, right } = delta else { return Ok(vec![dense]) };
            // The product of a vector's factors is summed densely: d(l·r) = dl·r + l·dr.
            let (d, l, r) = (dense.matrix()?, left.matrix()?, right.matrix()?);
            return Ok(vec![Tensor::from_array(&d.dot(&r.t())), Tensor::from_array(&l.t().dot(&d))]);
        }
        let owned = seen.overlay.low_rank.get(&weight).map_or(&[][..], |f| &f.owners);
        let rank = owned.len();
        let own: Vec<usize> = (0..rank).filter(|&r| owned[r] == (seen.trial, number)).collect();
        let (columns, total) = feed::packed(place, self.graph());
        let left = flat(0)?.unwrap_or_else(|| vec![0.0; inputs * rank]);
        let right = flat(1)?.unwrap_or_else(|| vec![0.0; rank * total]);
        let right = own.iter().flat_map(|&r| columns.all().map(move |c| r * total + c)).map(|at| right[at]).collect();
        let right = Tensor::f32([own.len(), outputs], right)?;
        if matches!(delta, Delta::Rows { .. }) {
            return Ok(vec![right]);
        }
        let left = (0..inputs).flat_map(|i| own.iter().map(move |&r| i * rank + r)).map(|at| left[at]).collect();
        Ok(vec![Tensor::f32([inputs, own.len()], left)?, right])
    }
}

/// Of the tables of a splice, the parts that one trial change holds: its entries of stacked ones, and all of summed ones.
fn splice_gradient(
    number: usize,
    splice: &Splice,
    seen: &Seen,
    flat: &dyn Fn(usize) -> Result<Option<Vec<f32>>>,
) -> Result<Vec<Tensor>> {
    let Some(folded) = seen.overlay.splices.get(&Folded::key(splice)) else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    let floats = splice.tables.iter().zip(&folded.tables).filter(|(own, _)| own.value.as_f32().is_ok());
    for (i, (own, table)) in floats.enumerate() {
        let all = flat(i)?.unwrap_or_else(|| vec![0.0; table.shape.iter().product()]);
        let all = Tensor::f32(table.shape.clone(), all)?;
        out.push(match own.fold {
            Fold::Sum => all,
            Fold::Stack => {
                let owned: Vec<usize> =
                    (0..table.owners.len()).filter(|&i| table.owners[i] == (seen.trial, number)).collect();
                Tensor::from_array(&all.view()?.select(Axis(0), &owned))
            }
        });
    }
    Ok(out)
}
