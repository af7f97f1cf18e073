//! Training: optimizers, schedules of the learning rate, clipping, early stopping, and the store that checkpoints and
//! artefacts are written in. All of it saves its state, so that a training that was cut off ends as if it had not been.

pub mod clip;
pub mod rmsprop;
pub mod schedule;
pub mod sgd;
pub mod stop;
pub mod store;

pub use clip::clip_norm;
pub use rmsprop::RmsProp;
pub use schedule::{Plateau, Schedule};
pub use sgd::Sgd;
pub use stop::EarlyStop;
pub use store::Store;

use engraft_plugin_api::MethodError;

/// An optimizer of one flat vector of variables.
pub trait Optimizer {
    /// One descent step at a learning rate. Variables and gradient have the length that the optimizer was made for.
    fn step(&mut self, lr: f64, variables: &mut [f32], gradient: &[f32]);

    /// Puts the state into a store, under a name.
    fn save(&self, name: &str, store: &mut Store);

    /// Takes over the state that was saved under a name.
    ///
    /// # Errors
    /// `store-damaged` if it is missing or of another length.
    fn load(&mut self, name: &str, store: &Store) -> Result<(), MethodError>;
}

/// How variables are drawn towards zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decay {
    /// Not at all.
    None,
    /// λ θ is added to the gradient (L2, as `weight_decay` of `torch.optim.Adam` and `SGD`).
    Coupled(f64),
    /// θ shrinks by lr · λ θ beside the step (Loshchilov & Hutter 2019, as `torch.optim.AdamW`).
    Decoupled(f64),
}

impl Decay {
    /// Makes a step of `optimizer` with the decay.
    pub fn step(self, optimizer: &mut impl Optimizer, lr: f64, variables: &mut [f32], gradient: &[f32]) {
        match self {
            Self::None => optimizer.step(lr, variables, gradient),
            Self::Coupled(lambda) => {
                let sum: Vec<f32> = variables.iter().zip(gradient).map(|(x, g)| g + lambda as f32 * x).collect();
                optimizer.step(lr, variables, &sum);
            }
            Self::Decoupled(lambda) => {
                let keep = (1.0 - lr * lambda) as f32;
                variables.iter_mut().for_each(|x| *x *= keep);
                optimizer.step(lr, variables, gradient);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adam::Adam;

    /// Steps on ½ x² from 1, cut off and resumed at every step.
    fn resumed(mut make: impl FnMut() -> Box<dyn Optimizer>, steps: usize) -> (f32, f32) {
        let (mut through, mut x) = (make(), [1.0f32, -2.0]);
        let mut y = x;
        let mut store = Store::default();
        for step in 0..steps {
            let gradient = x;
            through.step(0.1, &mut x, &gradient);
            let mut other = make();
            if step > 0 {
                other
                    .load("it", &Store::from_bytes(&store.to_bytes().expect("writes")).expect("reads"))
                    .expect("loads");
            }
            let gradient = y;
            other.step(0.1, &mut y, &gradient);
            other.save("it", &mut store);
        }
        assert_eq!(x, y);
        (x[0], x[1])
    }

    #[test]
    fn every_optimizer_descends_and_resumes_to_the_bit() {
        type Make = fn() -> Box<dyn Optimizer>;
        let makes: [Make; 4] = [
            || Box::new(Adam::new(2, 0.1)),
            || Box::new(Sgd::new(2, 0.0)),
            || Box::new(Sgd::new(2, 0.9)),
            || Box::new(RmsProp::new(2, true)),
        ];
        for make in makes {
            let (a, b) = resumed(make, 12);
            assert!(a < 0.9 && b > -1.9 && a.is_finite(), "{a} {b}");
        }
        let mut short = Adam::new(3, 0.1);
        let mut store = Store::default();
        Adam::new(2, 0.1).save("it", &mut store);
        assert_eq!(short.load("it", &store).map_err(|e| e.code), Err("store-damaged".into()));
        assert_eq!(short.load("other", &store).map_err(|e| e.code), Err("store-damaged".into()));
    }

    #[test]
    fn decays_draw_towards_zero_in_their_own_way() {
        let step = |decay: Decay| {
            let mut x = [2.0f32];
            decay.step(&mut Sgd::new(1, 0.0), 0.5, &mut x, &[1.0]);
            x[0]
        };
        assert_eq!(step(Decay::None), 1.5);
        assert_eq!(step(Decay::Coupled(0.25)), 1.25); // 2 − ½ (1 + ¼·2)
        assert_eq!(step(Decay::Decoupled(0.25)), 1.25); // the same for plain descent: 2 (1 − ⅛) − ½
        let mut x = [2.0f32];
        Decay::Decoupled(0.5).step(&mut Adam::new(1, 0.0), 0.5, &mut x, &[1.0]);
        assert!((x[0] - 1.0).abs() < 1e-6, "{}", x[0]); // 2 (1 − ¼) − ½: Adam's first step is the rate
    }
}
