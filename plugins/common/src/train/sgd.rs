//! Stochastic gradient descent with momentum, in the form of `torch.optim.SGD`: b ← μ b + g, x ← x − α b.

use engraft_plugin_api::{MethodError, Tensor};

use super::{Optimizer, Store};

/// The state for one flat vector of variables.
#[derive(Clone, Debug)]
pub struct Sgd {
    momentum: f32,
    buffer: Vec<f32>,
}

impl Sgd {
    /// The state before the first step of `len` variables; a momentum of 0 is plain descent.
    pub fn new(len: usize, momentum: f32) -> Self {
        Self { momentum, buffer: vec![0.0; len] }
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, lr: f64, variables: &mut [f32], gradient: &[f32]) {
        for ((x, g), b) in variables.iter_mut().zip(gradient).zip(&mut self.buffer) {
            *b = self.momentum * *b + g;
            *x -= lr as f32 * *b;
        }
    }

    fn save(&self, name: &str, store: &mut Store) {
        store.set(&format!("{name}.momentum"), Tensor::from_array(&ndarray::ArrayView1::from(&self.buffer)));
    }

    fn load(&mut self, name: &str, store: &Store) -> Result<(), MethodError> {
        self.buffer = store.floats(&format!("{name}.momentum"), self.buffer.len())?;
        Ok(())
    }
}
