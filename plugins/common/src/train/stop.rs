//! Early stopping: the training ends when what is measured has not improved for so many steps.

use engraft_plugin_api::MethodError;

use super::Store;

/// Watches a figure that should fall.
#[derive(Clone, Debug, PartialEq)]
pub struct EarlyStop {
    patience: u64,
    best: f64,
    at: u64,
}

impl EarlyStop {
    /// Gives up `patience` steps after the best measurement.
    pub fn new(patience: u64) -> Self {
        Self { patience, best: f64::INFINITY, at: 0 }
    }

    /// Takes a measurement after a step; true if it is the best so far, whose state is worth keeping.
    pub fn measured(&mut self, step: u64, value: f64) -> bool {
        let better = value < self.best;
        if better {
            (self.best, self.at) = (value, step);
        }
        better
    }

    /// True once it is time to stop.
    pub fn done(&self, step: u64) -> bool {
        step.saturating_sub(self.at) >= self.patience
    }

    /// The best measurement and the step that it was taken after.
    pub fn best(&self) -> (f64, u64) {
        (self.best, self.at)
    }

    /// Puts the state into a store, under a name.
    pub fn save(&self, name: &str, store: &mut Store) {
        store.set_number(&format!("{name}.best"), self.best);
        store.set_number(&format!("{name}.at"), self.at as f64);
    }

    /// Takes over the state that was saved under a name.
    ///
    /// # Errors
    /// `store-damaged` if it is missing.
    pub fn load(&mut self, name: &str, store: &Store) -> Result<(), MethodError> {
        (self.best, self.at) = (store.number(&format!("{name}.best"))?, store.number(&format!("{name}.at"))? as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_when_patience_is_over_and_resumes() {
        let mut stop = EarlyStop::new(10);
        assert!(stop.measured(5, 2.0) && !stop.measured(10, 2.5) && !stop.measured(12, f64::NAN));
        assert!(!stop.done(14) && stop.done(15));
        let mut store = Store::default();
        stop.save("stop", &mut store);
        let mut other = EarlyStop::new(10);
        other.load("stop", &store).expect("loads");
        assert_eq!((&other, other.best()), (&stop, (2.0, 5)));
        EarlyStop::new(1).save("stop", &mut store);
        other.load("stop", &store).expect("infinity is a number");
    }
}
