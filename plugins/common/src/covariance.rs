//! C⁻¹k for the uncentred second moment C = E[k kᵀ] of a site (ROME, eq. 2). Each C is factored once and kept as long
//! as the method lives, so that a hundred edits of one layer factor once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use engraft_plugin_api::{Level, MethodError, ModelAccess, Site};

use crate::solve::SpdFactor;

/// Beyond this condition the small directions of a C that was kept in single precision are rounding.
const DOUBTFUL: f64 = 1e8;

/// The factored second moments of a method.
pub struct Covariances {
    damping: f64,
    factors: Mutex<BTreeMap<(String, Site), Arc<SpdFactor>>>,
}

impl Covariances {
    /// None yet. `damping · mean(diag(C)) · I` is added to every C before it is factored.
    pub fn new(damping: f64) -> Self {
        Self { damping, factors: Mutex::new(BTreeMap::new()) }
    }

    /// The factor for a site of the model whose hash is `model`. A second caller waits for the first.
    ///
    /// # Errors
    /// `covariance-singular` if C is not positive definite; errors of the host.
    pub fn factor(&self, access: &dyn ModelAccess, model: &str, site: Site) -> Result<Arc<SpdFactor>, MethodError> {
        let mut factors = self.factors.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (model.to_owned(), site);
        if let Some(factor) = factors.get(&key) {
            return Ok(Arc::clone(factor));
        }
        let moment = access.second_moment(site)?;
        let matrix = moment.matrix.matrix()?;
        let width = matrix.nrows();
        let factor = SpdFactor::new(matrix, self.damping).map_err(|error| {
            let message = format!(
                "the second moment of {site} ({width} x {width}, mean of {} positions) cannot be inverted",
                moment.tokens
            );
            let mut out = MethodError::new("covariance-singular", message).cause(&error).help(
                "use a corpus of several times as many tokens as the site is wide, set `covariance_damping` to 1e-6 \
                 or more, or `covariance = \"none\"`",
            );
            out.labels = error.labels;
            out
        })?;
        if factor.condition() > DOUBTFUL {
            let message = format!(
                "the second moment of {site} has a condition number of about {:.0e} or more ({} positions): edits may \
                 follow rounding errors; a larger corpus or `covariance_damping` helps",
                factor.condition(),
                moment.tokens
            );
            access.log(Level::Warn, &message);
        }
        let factor = Arc::new(factor);
        factors.insert(key, Arc::clone(&factor));
        Ok(factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Mock;
    use engraft_plugin_api::BlockSite;

    #[test]
    fn a_moment_is_factored_once() {
        let (mock, covariances) = (Mock::new(1), Covariances::new(0.0));
        let site = Site::Block(0, BlockSite::MlpPost);
        let first = covariances.factor(&mock, "model", site).expect("factors");
        let second = covariances.factor(&mock, "model", site).expect("factors");
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(mock.calls().moments, 1);
        covariances.factor(&mock, "another", site).expect("factors");
        assert_eq!(mock.calls().moments, 2);
    }

    #[test]
    fn too_few_positions_are_named() {
        let mock = Mock::new(1).with_moment_of(3);
        let site = Site::Block(0, BlockSite::MlpPost);
        let error = Covariances::new(0.0).factor(&mock, "model", site).err().expect("rank 3");
        assert_eq!(error.code, "covariance-singular");
        assert!(error.message.contains("blocks.0.mlp.post") && error.message.contains("mean of 3 positions"));
        assert!(Covariances::new(1e-3).factor(&mock, "model", site).is_ok());
    }
}
