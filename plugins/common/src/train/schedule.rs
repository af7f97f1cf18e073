//! Learning rates: functions of the step, and the one that looks at what is measured.

use engraft_plugin_api::MethodError;

use super::Store;

/// A learning rate as a function of the step, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// Rises linearly over `warmup` steps, then stays.
    Constant {
        /// Steps until the full rate.
        warmup: u64,
    },
    /// Rises linearly over `warmup` steps, then falls linearly to 0 at `total`.
    Linear {
        /// Steps until the full rate.
        warmup: u64,
        /// The step at which it is 0.
        total: u64,
    },
    /// Rises linearly over `warmup` steps, then falls along half a cosine to 0 at `total`.
    Cosine {
        /// Steps until the full rate.
        warmup: u64,
        /// The step at which it is 0.
        total: u64,
    },
    /// Is multiplied by `factor` every `every` steps.
    Steps {
        /// After how many steps.
        every: u64,
        /// By what.
        factor: f64,
    },
}

impl Schedule {
    /// The rate of a step; `lr` is the full one.
    pub fn rate(self, lr: f64, step: u64) -> f64 {
        let rising = |warmup: u64| if step < warmup { Some((step + 1) as f64 / warmup as f64) } else { None };
        // The share of the way from the end of the warm-up to the end.
        let gone =
            |warmup: u64, total: u64| ((step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64).min(1.0);
        lr * match self {
            Self::Constant { warmup } => rising(warmup).unwrap_or(1.0),
            Self::Linear { warmup, total } => rising(warmup).unwrap_or_else(|| 1.0 - gone(warmup, total)),
            Self::Cosine { warmup, total } => {
                rising(warmup).unwrap_or_else(|| 0.5 * (1.0 + (std::f64::consts::PI * gone(warmup, total)).cos()))
            }
            Self::Steps { every, factor } => factor.powi((step / every.max(1)).min(i32::MAX as u64) as i32),
        }
    }
}

/// A rate that falls when what is measured falls no longer, as `torch.optim.lr_scheduler.ReduceLROnPlateau` with its
/// relative threshold of 1e-4.
#[derive(Clone, Debug, PartialEq)]
pub struct Plateau {
    factor: f64,
    patience: u64,
    scale: f64,
    best: f64,
    bad: u64,
}

impl Plateau {
    /// Multiplies the rate by `factor` once more than `patience` measurements in a row were no better than the best.
    pub fn new(factor: f64, patience: u64) -> Self {
        Self { factor, patience, scale: 1.0, best: f64::INFINITY, bad: 0 }
    }

    /// Takes a measurement and returns what the full rate is multiplied by from now on.
    pub fn measured(&mut self, value: f64) -> f64 {
        if value < self.best * (1.0 - 1e-4 * self.best.signum()) {
            (self.best, self.bad) = (value, 0);
        } else {
            self.bad += 1;
        }
        if self.bad > self.patience {
            (self.scale, self.bad) = (self.scale * self.factor, 0);
        }
        self.scale
    }

    /// Puts the state into a store, under a name.
    pub fn save(&self, name: &str, store: &mut Store) {
        store.set_number(&format!("{name}.scale"), self.scale);
        store.set_number(&format!("{name}.best"), self.best);
        store.set_number(&format!("{name}.bad"), self.bad as f64);
    }

    /// Takes over the state that was saved under a name.
    ///
    /// # Errors
    /// `store-damaged` if it is missing.
    pub fn load(&mut self, name: &str, store: &Store) -> Result<(), MethodError> {
        self.scale = store.number(&format!("{name}.scale"))?;
        self.best = store.number(&format!("{name}.best"))?;
        self.bad = store.number(&format!("{name}.bad"))? as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_and_fall() {
        let rates = |schedule: Schedule| [0, 1, 3, 7, 11, 20].map(|step| schedule.rate(2.0, step));
        let near = |found: [f64; 6], expected: [f64; 6]| {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        };
        near(rates(Schedule::Constant { warmup: 4 }), [0.5, 1.0, 2.0, 2.0, 2.0, 2.0]);
        near(rates(Schedule::Linear { warmup: 3, total: 11 }), [2.0 / 3.0, 4.0 / 3.0, 2.0, 1.0, 0.0, 0.0]);
        near(rates(Schedule::Cosine { warmup: 3, total: 11 }), [2.0 / 3.0, 4.0 / 3.0, 2.0, 1.0, 0.0, 0.0]);
        near(rates(Schedule::Steps { every: 7, factor: 0.5 }), [2.0, 2.0, 2.0, 1.0, 1.0, 0.5]);
    }

    #[test]
    fn a_plateau_lowers_the_rate() {
        let mut plateau = Plateau::new(0.5, 1);
        let scales = [3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0].map(|value| plateau.measured(value));
        assert_eq!(scales, [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]);
    }
}
