//! When two activations mean the same: the cosine of `y(x) = z + z·L·R` with `z = (x − mean) ⊙ scale ⊙ (1 + gain)`,
//! stretched and shifted to a logit. Without learning it is the cosine of standardised activations.

use engraft_plugin_api::{MethodError, Tensor};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use crate::train::Store;

/// A metric of activations of one width.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// `[d]`, of the training's prompts.
    pub(super) mean: Array1<f32>,
    /// `[d]`, one over the standard deviation of the training's prompts.
    pub(super) scale: Array1<f32>,
    /// `[d]`
    pub(super) gain: Array1<f32>,
    /// L, `[d, rank]`
    pub(super) left: Array2<f32>,
    /// R, `[rank, d]`
    pub(super) right: Array2<f32>,
    /// What cosines are multiplied by.
    pub(super) stretch: f64,
    /// What is added then.
    pub(super) shift: f64,
}

impl Metric {
    /// The width of the activations.
    pub fn width(&self) -> usize {
        self.mean.len()
    }

    /// `(x − mean) ⊙ scale`: what the learnt part reads.
    pub(super) fn standard(&self, x: &[f32]) -> Vec<f32> {
        x.iter().zip(&self.mean).zip(&self.scale).map(|((x, mean), scale)| (x - mean) * scale).collect()
    }

    /// The unit vector of an activation.
    pub fn embed(&self, x: &[f32]) -> Vec<f32> {
        let z: Array1<f32> = self.standard(x).into_iter().zip(&self.gain).map(|(z, gain)| z * (1.0 + gain)).collect();
        let y = &z + &z.dot(&self.left).dot(&self.right);
        let norm = (y.dot(&y) + super::network::EPSILON).sqrt();
        y.iter().map(|v| v / norm).collect()
    }

    /// The logit of two unit vectors.
    pub fn score(&self, one: &[f32], other: &[f32]) -> f64 {
        let cosine = ArrayView1::from(one).dot(&ArrayView1::from(other));
        self.stretch * f64::from(cosine) + self.shift
    }

    pub(super) fn save(&self, store: &mut Store) {
        let vector = |v: &Array1<f32>| Tensor::from_array(v);
        store.set("mean", vector(&self.mean));
        store.set("scale", vector(&self.scale));
        store.set("gain", vector(&self.gain));
        store.set("left", Tensor::from_array(&self.left));
        store.set("right", Tensor::from_array(&self.right));
        store.set_number("stretch", self.stretch);
        store.set_number("shift", self.shift);
    }

    pub(super) fn load(store: &Store) -> Result<Self, MethodError> {
        let d = store.tensor("mean")?.len();
        let rank = store.tensor("left")?.len() / d.max(1);
        let vector = |name: &str| store.floats(name, d).map(Array1::from_vec);
        let matrix = |name: &str, shape: (usize, usize)| -> Result<Array2<f32>, MethodError> {
            let values = store.floats(name, shape.0 * shape.1)?;
            ArrayView2::from_shape(shape, &values)
                .map(|view| view.to_owned())
                .map_err(|e| MethodError::new("store-damaged", e.to_string()))
        };
        Ok(Self {
            mean: vector("mean")?,
            scale: vector("scale")?,
            gain: vector("gain")?,
            left: matrix("left", (d, rank))?,
            right: matrix("right", (rank, d))?,
            stretch: store.number("stretch")?,
            shift: store.number("shift")?,
        })
    }
}
