//! RMSprop (Hinton's lecture, in the form of `torch.optim.RMSprop` with its defaults α = 0.99, ε = 1e-8), plain or
//! centred: s ← α s + (1 − α) g², m ← α m + (1 − α) g, x ← x − lr g / (√(s − m²) + ε).

use engraft_plugin_api::{MethodError, Tensor};

use super::{Optimizer, Store};

const ALPHA: f32 = 0.99;
const EPS: f32 = 1e-8;

/// The state for one flat vector of variables.
#[derive(Clone, Debug)]
pub struct RmsProp {
    square: Vec<f32>,
    mean: Option<Vec<f32>>,
}

impl RmsProp {
    /// The state before the first step of `len` variables.
    pub fn new(len: usize, centred: bool) -> Self {
        Self { square: vec![0.0; len], mean: centred.then(|| vec![0.0; len]) }
    }
}

impl Optimizer for RmsProp {
    fn step(&mut self, lr: f64, variables: &mut [f32], gradient: &[f32]) {
        for (i, (x, g)) in variables.iter_mut().zip(gradient).enumerate() {
            let s = &mut self.square[i];
            *s = ALPHA * *s + (1.0 - ALPHA) * g * g;
            let centre = self.mean.as_mut().map_or(0.0, |mean| {
                mean[i] += (1.0 - ALPHA) * (g - mean[i]);
                mean[i] * mean[i]
            });
            // Rounding may take the variance below zero.
            *x -= lr as f32 * g / ((*s - centre).max(0.0).sqrt() + EPS);
        }
    }

    fn save(&self, name: &str, store: &mut Store) {
        let vector = |values: &[f32]| Tensor::from_array(&ndarray::ArrayView1::from(values));
        store.set(&format!("{name}.square"), vector(&self.square));
        if let Some(mean) = &self.mean {
            store.set(&format!("{name}.mean"), vector(mean));
        }
    }

    fn load(&mut self, name: &str, store: &Store) -> Result<(), MethodError> {
        self.square = store.floats(&format!("{name}.square"), self.square.len())?;
        if let Some(mean) = &mut self.mean {
            *mean = store.floats(&format!("{name}.mean"), mean.len())?;
        }
        Ok(())
    }
}
