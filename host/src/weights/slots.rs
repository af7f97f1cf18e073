//! Slots of several patches as data: checked one by one, and laid side by side for each branch of an MLP.

use engraft_plugin_api::{Activation, Slots, Tensor};

use super::check::Checked;
use super::codes;
use crate::base::{Error, Hasher, Result};

/// How many slots an MLP may have, of all patches together.
pub const SLOTS_AT_MOST: usize = 10_000;

/// Slots with one block, one activation function and one form share a branch; the form is true for gated ones.
pub type SlotKey = (usize, Activation, bool);

/// The branch that slots are part of.
pub fn slot_key(slots: &Slots) -> SlotKey {
    (slots.layer, slots.activation, slots.gate.is_some())
}

/// The neurons of one branch, side by side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Neurons {
    /// A key of each neuron, `d_model` values each.
    pub keys: Vec<Vec<f32>>,
    /// A number of each neuron.
    pub bias: Vec<f32>,
    /// A value of each neuron, `d_model` values each.
    pub values: Vec<Vec<f32>>,
    /// A key of the gate of each neuron; empty where they have no gates.
    pub gate_keys: Vec<Vec<f32>>,
    /// A number of the gate of each neuron; empty where they have no gates.
    pub gate_bias: Vec<f32>,
    /// Which change each neuron belongs to, as in [`Factors`](super::Factors).
    pub owners: Vec<(usize, usize)>,
}

impl Neurons {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.bias.len()
    }

    pub(super) fn add(&mut self, slots: &Slots, owner: (usize, usize)) {
        let n = slots.count();
        let flat = |t: &Tensor| t.as_f32().map(<[f32]>::to_vec).unwrap_or_default();
        let columns = |t: &Tensor| {
            let values = flat(t);
            (0..n).map(move |i| values.iter().skip(i).step_by(n).copied().collect()).collect::<Vec<Vec<f32>>>()
        };
        self.keys.extend(columns(&slots.keys));
        self.bias.extend(flat(&slots.bias));
        let values = flat(&slots.values);
        self.values.extend(values.chunks((values.len() / n.max(1)).max(1)).map(<[f32]>::to_vec));
        if let Some(gate) = &slots.gate {
            self.gate_keys.extend(columns(&gate.keys));
            self.gate_bias.extend(flat(&gate.bias));
        }
        self.owners.extend(std::iter::repeat_n(owner, n));
    }

    /// Everything but the owners, which say nothing of the model.
    pub(super) fn hash(&self, hasher: &mut Hasher) {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        for vectors in [&self.keys, &self.values, &self.gate_keys] {
            hasher.part(vectors.len().to_string());
            vectors.iter().for_each(|vector| {
                hasher.part(bytes(vector));
            });
        }
        hasher.part(bytes(&self.bias)).part(bytes(&self.gate_bias));
    }
}

/// Checks slots for a residual stream of width `d_model`. The norm is that of the values.
///
/// # Errors
/// `slots-shape`, also for slots without any neuron; `slots-not-finite`; `slots-too-many`.
pub fn check_slots(slots: &Slots, d_model: usize) -> Result<Checked> {
    if slots.count() == 0 {
        let text = format!("the slots for block {} hold no neuron", slots.layer);
        return Err(Error::new(&codes::SLOTS_SHAPE, text));
    }
    slots.check(d_model).map_err(|error| {
        let code =
            if error.code == codes::SLOTS_NOT_FINITE.id { &codes::SLOTS_NOT_FINITE } else { &codes::SLOTS_SHAPE };
        Error::new(code, format!("slots for block {}: {}", slots.layer, error.message))
    })?;
    check_count(slots.layer, slots.count())?;
    let square = slots.values.as_f32()?.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    Ok(Checked { norm: square.sqrt(), ratio: 0.0 })
}

/// Checks how many slots an MLP has.
///
/// # Errors
/// `slots-too-many`
pub fn check_count(layer: usize, count: usize) -> Result<()> {
    if count <= SLOTS_AT_MOST {
        return Ok(());
    }
    let text = format!("block {layer} would have {count} slots, the limit is {SLOTS_AT_MOST}");
    Err(Error::new(&codes::SLOTS_TOO_MANY, text).help("roll back patches that are no longer needed"))
}

#[cfg(test)]
pub(crate) mod tests {
    use engraft_plugin_api::SlotGate;

    use super::*;

    /// Slots whose tensors are waves.
    pub(crate) fn slots(layer: usize, d_model: usize, n: usize, gated: bool, seed: f32) -> Slots {
        let wave = |shape: &[usize], size: f32, f: f32| {
            let values = (0..shape.iter().product()).map(|k| size * (f * seed * (k as f32 + 1.0)).sin()).collect();
            Tensor::f32(shape, values).unwrap()
        };
        Slots {
            layer,
            keys: wave(&[d_model, n], 0.5, 0.7),
            bias: wave(&[n], 0.3, 1.9),
            values: wave(&[n, d_model], 0.5, 1.3),
            gate: gated.then(|| SlotGate { keys: wave(&[d_model, n], 0.5, 2.3), bias: wave(&[n], 0.3, 0.4) }),
            activation: Activation::Model,
        }
    }

    #[test]
    fn neurons_lie_side_by_side() {
        let (a, b) = (slots(1, 3, 2, true, 1.0), slots(1, 3, 1, true, 2.0));
        let mut sum = Neurons::default();
        sum.add(&a, (0, 4));
        sum.add(&b, (2, 0));
        assert_eq!((sum.count(), &sum.owners[..]), (3, &[(0, 4), (0, 4), (2, 0)][..]));
        let key = |s: &Slots, i: usize| s.keys.matrix().unwrap().column(i).to_vec();
        assert_eq!(sum.keys, [key(&a, 0), key(&a, 1), key(&b, 0)]);
        assert_eq!(sum.values[1], a.values.matrix().unwrap().row(1).to_vec());
        assert_eq!(sum.gate_bias[2], b.gate.unwrap().bias.as_f32().unwrap()[0]);
    }

    #[test]
    fn each_defect_is_refused() {
        let code = |slots: &Slots, width| check_slots(slots, width).err().map(|e| e.code().id);
        let good = slots(0, 4, 2, true, 1.0);
        assert_eq!((code(&good, 4), code(&good, 5)), (None, Some("slots-shape")));
        let gate = SlotGate { keys: Tensor::zeros([4, 3]), bias: Tensor::zeros([3]) };
        assert_eq!(code(&Slots { gate: Some(gate), ..good.clone() }, 4), Some("slots-shape"));
        let bias = Tensor::f32([2], vec![0.0, f32::INFINITY]).unwrap();
        assert_eq!(code(&Slots { bias, ..good.clone() }, 4), Some("slots-not-finite"));
        let bias = Tensor::i64([2], vec![0, 0]).unwrap();
        assert_eq!(code(&Slots { bias, ..good }, 4), Some("slots-shape"));
        assert_eq!(code(&slots(0, 4, 0, false, 1.0), 4), Some("slots-shape"));
        assert_eq!(code(&slots(0, 1, SLOTS_AT_MOST + 1, false, 1.0), 1), Some("slots-too-many"));
    }
}
