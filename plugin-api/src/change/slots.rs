//! Slots: extra key-value neurons of an MLP, in a branch of their own.

use crate::error::MethodError;
use crate::tensor::Tensor;

/// `n` neurons beside those of an MLP.
///
/// With `x` what the MLP's first matrix reads (`ln2.out`), they add to `mlp.out`
///
/// ```text
/// act(x · keys + bias) · values                                             where `gate` is `None`
/// (act(x · gate.keys + gate.bias) ⊙ (x · keys + bias)) · values             else, as a gated MLP's own neurons
/// ```
///
/// Both forms may be put beside plain and gated MLPs. `mlp.pre` and `mlp.post` are not widened; values of zero leave
/// the output as it was, to the bit.
#[derive(Clone, Debug, PartialEq)]
pub struct Slots {
    /// Which block's MLP.
    pub layer: usize,
    /// `[d_model, n]`
    pub keys: Tensor,
    /// `[n]`
    pub bias: Tensor,
    /// `[n, d_model]`
    pub values: Tensor,
    /// The gate of each neuron.
    pub gate: Option<SlotGate>,
    /// The activation function.
    pub activation: Activation,
}

/// The gate branch of slots.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotGate {
    /// `[d_model, n]`
    pub keys: Tensor,
    /// `[n]`
    pub bias: Tensor,
}

/// The activation function of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Activation {
    /// The one of the MLP itself.
    Model,
    /// max(0, x).
    Relu,
}

impl Slots {
    /// The number of neurons.
    pub fn count(&self) -> usize {
        self.bias.len()
    }

    /// The tensors in the order in which gradients with respect to them are returned: keys, bias, values, then the
    /// keys and the bias of the gate.
    pub fn tensors(&self) -> Vec<&Tensor> {
        let mut tensors = vec![&self.keys, &self.bias, &self.values];
        tensors.extend(self.gate.iter().flat_map(|gate| [&gate.keys, &gate.bias]));
        tensors
    }

    /// Checks shapes and values for a residual stream of width `d_model`.
    ///
    /// # Errors
    /// `slots-shape` if a tensor does not fit the others or the width; `slots-not-finite`.
    pub fn check(&self, d_model: usize) -> Result<(), MethodError> {
        let n = self.count();
        let gate = self
            .gate
            .iter()
            .flat_map(|gate| [("gate keys", &gate.keys, vec![d_model, n]), ("gate bias", &gate.bias, vec![n])]);
        let own = [
            ("keys", &self.keys, vec![d_model, n]),
            ("bias", &self.bias, vec![n]),
            ("values", &self.values, vec![n, d_model]),
        ];
        for (name, tensor, expected) in own.into_iter().chain(gate) {
            if tensor.shape() != expected {
                let text = format!("the {name} of {n} slots have shape {:?}, expected {expected:?}", tensor.shape());
                return Err(MethodError::new("slots-shape", text).label("layer", self.layer));
            }
            if tensor.as_f32()?.iter().any(|v| !v.is_finite()) {
                let text = format!("the {name} of the slots hold a value that is not finite");
                return Err(MethodError::new("slots-not-finite", text).label("layer", self.layer));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_fit_themselves_and_the_model() {
        let gate = SlotGate { keys: Tensor::zeros([4, 2]), bias: Tensor::zeros([2]) };
        let slots = Slots {
            layer: 1,
            keys: Tensor::zeros([4, 2]),
            bias: Tensor::zeros([2]),
            values: Tensor::zeros([2, 4]),
            gate: Some(gate),
            activation: Activation::Relu,
        };
        assert_eq!((slots.check(4), slots.tensors().len()), (Ok(()), 5));
        let code = |slots: &Slots, width| slots.check(width).map_err(|e| e.code);
        assert_eq!(code(&slots, 5), Err("slots-shape".into()));
        let nan = Slots { values: Tensor::f32([2, 4], vec![f32::NAN; 8]).expect("fits"), ..slots.clone() };
        assert_eq!(code(&nan, 4), Err("slots-not-finite".into()));
        let integers = Slots { bias: Tensor::i64([2], vec![0, 0]).expect("fits"), ..slots };
        assert_eq!(code(&integers, 4), Err("tensor-type".into()));
    }
}
