//! Which fact is nearest to a request: facts and requests are compared by the cosine of the activation at the last token
//! of their prompts. The authors compare sentence vectors of another model; here the edited model's own are taken.

use engraft_method_common::{FactToken, PromptRow, check_cancelled, prompt_row, read};
use engraft_plugin_api::{BlockSite, EditRequest, MethodError, ModelAccess, Site};

/// Requests that are read in one pass.
const AT_ONCE: usize = 64;

/// Where facts and requests are compared.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    site: Site,
}

impl Keys {
    /// After a block.
    pub fn after(layer: usize) -> Self {
        Self { site: Site::Block(layer, BlockSite::ResidPost) }
    }

    /// The unit vectors of facts.
    ///
    /// # Errors
    /// What is wrong with a request, and errors of the host.
    pub fn of_facts(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Vec<f32>>, MethodError> {
        let context = access.facts().context;
        let row = |request: &EditRequest| prompt_row(access, request, "{}", FactToken::Last, context);
        self.of_rows(access, &requests.iter().map(row).collect::<Result<Vec<_>, _>>()?)
    }

    /// The unit vector of a request; it holds one token at least.
    ///
    /// # Errors
    /// Errors of the host.
    pub fn of_tokens(&self, access: &dyn ModelAccess, tokens: &[u32]) -> Result<Vec<f32>, MethodError> {
        let row = PromptRow { ids: tokens.to_vec(), fact: tokens.len().saturating_sub(1) };
        Ok(self.of_rows(access, &[row])?.concat())
    }

    fn of_rows(&self, access: &dyn ModelAccess, rows: &[PromptRow]) -> Result<Vec<Vec<f32>>, MethodError> {
        let mut keys = Vec::with_capacity(rows.len());
        for batch in rows.chunks(AT_ONCE) {
            check_cancelled(access)?;
            let reading = read(access, batch, &[self.site], None)?;
            keys.extend(reading.sites[0].outer_iter().map(|key| unit(key.iter().copied())));
        }
        Ok(keys)
    }
}

/// The cosine of two unit vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unit(vector: impl Iterator<Item = f32> + Clone) -> Vec<f32> {
    let norm = vector.clone().map(|v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    if norm > 0.0 { vector.map(|v| (f64::from(v) / norm) as f32).collect() } else { vector.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_compared() {
        let [a, b] = [[3.0, 4.0], [0.0, 2.0]].map(|v| unit(v.into_iter()));
        assert!((cosine(&a, &b) - 0.8).abs() < 1e-6 && (cosine(&a, &a) - 1.0).abs() < 1e-6);
        assert_eq!(unit([0.0, 0.0].into_iter()), [0.0, 0.0]);
    }
}
