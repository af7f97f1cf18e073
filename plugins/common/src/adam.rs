//! Adam (Kingma & Ba 2015), in the arithmetic of `torch.optim.Adam`: the bias corrections are taken in double
//! precision, the moments in single.

use engraft_plugin_api::{MethodError, Tensor};

use crate::train::{Optimizer, Store};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f32 = 1e-8;

/// The state of the optimizer for one flat vector of variables.
#[derive(Clone, Debug)]
pub struct Adam {
    lr: f64,
    steps: i32,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Adam {
    /// The state before the first step of `len` variables, with β = (0.9, 0.999) and ε = 1e-8.
    pub fn new(len: usize, lr: f64) -> Self {
        Self { lr, steps: 0, first: vec![0.0; len], second: vec![0.0; len] }
    }

    /// One descent step: `variables` move against `gradient`. Both have the length given to [`new`](Self::new).
    pub fn step(&mut self, variables: &mut [f32], gradient: &[f32]) {
        debug_assert_eq!((variables.len(), gradient.len()), (self.first.len(), self.first.len()));
        self.steps += 1;
        // Complements are taken in double precision: in single, 1 − 0.999 is off by 5e-5.
        let (rest1, beta2, rest2) = ((1.0 - BETA1) as f32, BETA2 as f32, (1.0 - BETA2) as f32);
        let step = (self.lr / (1.0 - BETA1.powi(self.steps))) as f32; // α / (1 − β1^t)
        let root = (1.0 - BETA2.powi(self.steps)).sqrt() as f32; // √(1 − β2^t)
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((x, g), (m, v)) in variables.iter_mut().zip(gradient).zip(moments) {
            *m += rest1 * (g - *m); // m ← β1 m + (1 − β1) g
            *v = beta2 * *v + rest2 * g * g; // v ← β2 v + (1 − β2) g²
            *x -= step * *m / (v.sqrt() / root + EPS); // x ← x − α m̂ / (√v̂ + ε)
        }
    }
}

impl Optimizer for Adam {
    fn step(&mut self, lr: f64, variables: &mut [f32], gradient: &[f32]) {
        self.lr = lr;
        Adam::step(self, variables, gradient);
    }

    fn save(&self, name: &str, store: &mut Store) {
        let vector = |values: &[f32]| Tensor::from_array(&ndarray::ArrayView1::from(values));
        store.set_number(&format!("{name}.steps"), self.steps.into());
        store.set(&format!("{name}.first"), vector(&self.first));
        store.set(&format!("{name}.second"), vector(&self.second));
    }

    fn load(&mut self, name: &str, store: &Store) -> Result<(), MethodError> {
        self.steps = store.number(&format!("{name}.steps"))? as i32;
        self.first = store.floats(&format!("{name}.first"), self.first.len())?;
        self.second = store.floats(&format!("{name}.second"), self.second.len())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_gradient_moves_by_the_learning_rate() {
        let (mut adam, mut x) = (Adam::new(3, 0.5), [0.0, 1.0, 2.0]);
        for _ in 0..3 {
            adam.step(&mut x, &[4.0, -0.25, 0.0]);
        }
        for (found, expected) in x.iter().zip([-1.5, 2.5, 2.0]) {
            assert!((found - expected).abs() < 1e-5, "{x:?}");
        }
    }

    #[test]
    fn the_published_recurrence_holds() {
        let (mut adam, mut x) = (Adam::new(1, 0.1), [1.0f32]);
        let (mut m, mut v, mut y) = (0.0f64, 0.0f64, 1.0f64);
        for t in 1..=20 {
            let gradient = [2.0 * x[0]];
            adam.step(&mut x, &gradient);
            let g = 2.0 * y;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            y -= 0.1 * (m / (1.0 - 0.9f64.powi(t))) / ((v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8);
            assert!((f64::from(x[0]) - y).abs() < 1e-5, "step {t}: {} and {y}", x[0]);
        }
    }
}
