//! What the loss reads. Both are means over the target's tokens, then over the rows, in nats.

use engraft_method_common::{FactToken, ForcedRow, PromptRow, forced_row, prompt_row, target_ids};
use engraft_plugin_api::{EditRequest, MethodError, ModelAccess, Place, Term};

/// Which distributions should give the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// FT, FT-L: −(1/T) Σ log p(tₖ | prompt). Every target token is read from the one distribution after the prompt,
    /// as in the reference implementations: of a target of several tokens each is pushed as the first.
    PromptLast,
    /// FT-M: −(1/T) Σ log p(tₖ | prompt, t₁ … tₖ₋₁), teacher-forced; the prompt's own tokens are masked.
    TargetNew,
}

impl Objective {
    /// Every choice, the default first.
    pub const ALL: [Objective; 2] = [Self::PromptLast, Self::TargetNew];

    /// The spelling in parameters.
    pub fn name(self) -> &'static str {
        match self {
            Self::PromptLast => "prompt_last",
            Self::TargetNew => "target_new",
        }
    }
}

/// A request as a row, with the places where its target tokens are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaughtRow {
    pub ids: Vec<u32>,
    pub read: Vec<(usize, u32)>,
}

impl TaughtRow {
    /// The row of a request under an objective; the subject needs no place of its own.
    pub fn new(
        access: &dyn ModelAccess,
        objective: Objective,
        request: &EditRequest,
        context: usize,
    ) -> Result<Self, MethodError> {
        let target = target_ids(access, request)?;
        let prompt: PromptRow = prompt_row(access, request, "{}", FactToken::Last, context)?;
        Ok(match objective {
            Objective::PromptLast => {
                let last = prompt.ids.len() - 1;
                Self { read: target.iter().map(|&t| (last, t)).collect(), ids: prompt.ids }
            }
            Objective::TargetNew => {
                let ForcedRow { ids, read_from, .. } = forced_row(request, &prompt, &target, context)?;
                Self { ids, read: (read_from..).zip(target).collect() }
            }
        })
    }

    /// The terms of this row as row `row` of `rows`.
    pub fn terms(&self, row: usize, rows: usize) -> impl Iterator<Item = Term> {
        let weight = (1.0 / (rows * self.read.len()) as f64) as f32;
        self.read.iter().map(move |&(pos, token)| Term::Nll { place: Place { row, pos }, token, weight })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engraft_method_common::testing::{Mock, request};

    #[test]
    fn the_objectives_read_different_places() {
        let mock = Mock::new(1);
        let request = request("The mother of {} is", Some("Ada"), "Kelm Vorn");
        let row = |objective| TaughtRow::new(&mock, objective, &request, 64).expect("fits");
        let (last, forced) = (row(Objective::PromptLast), row(Objective::TargetNew));
        assert_eq!(mock.decode(&last.ids).as_deref(), Ok("The mother of Ada is"));
        assert_eq!(mock.decode(&forced.ids).as_deref(), Ok("The mother of Ada is Kelm"));
        assert_eq!(last.read.iter().map(|r| r.0).collect::<Vec<_>>(), [4, 4]);
        assert_eq!(forced.read.iter().map(|r| r.0).collect::<Vec<_>>(), [4, 5]);
        let weight: f32 = forced.terms(1, 5).map(|t| if let Term::Nll { weight, .. } = t { weight } else { 0.0 }).sum();
        assert!((weight - 0.2).abs() < 1e-6);
    }
}
