//! Interception: what a method sees of an activation on its way through the model, without a copy.

use ndarray::{ArrayView2, ArrayViewD};

use super::route::ActivePatch;
use crate::error::MethodError;
use crate::site::Site;
use crate::tensor::Tensor;

/// An activation on its way, lent for the duration of the call.
#[derive(Clone, Debug)]
pub struct InterceptCall<'a> {
    /// Which.
    pub site: Site,
    /// Its value, `[rows, columns, ...]` as [`Site`] says; zeros or leftovers in the padding.
    pub activation: ArrayViewD<'a, f32>,
    /// The absolute position of every column, `[rows, columns]`; -1 in the padding.
    pub positions: ArrayView2<'a, i64>,
    /// The rows.
    pub rows: Vec<InterceptRow>,
    /// The active patches with an [`Intercept`](crate::Change::Intercept) at this site, in the order of their commits.
    pub patches: Vec<ActivePatch<'a>>,
}

/// A row of an activation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterceptRow {
    /// The absolute position of the last token of the row's prompt; it stays what it is while the row grows.
    pub prompt_end: usize,
    /// The patches that the row sees, as ascending indices into [`InterceptCall::patches`].
    pub patches: Vec<usize>,
}

impl InterceptCall<'_> {
    /// The column that holds a position of a row, if this pass computes it.
    pub fn column(&self, row: usize, position: usize) -> Option<usize> {
        let wanted = i64::try_from(position).ok()?;
        self.positions.outer_iter().nth(row)?.iter().position(|&p| p == wanted)
    }

    /// Checks what a method made of the activation.
    ///
    /// # Errors
    /// `intercept-shape` for another shape; `intercept-not-finite`; `tensor-type` for integers.
    pub fn check(&self, values: &Tensor) -> Result<(), MethodError> {
        let (expected, site) = (self.activation.shape(), self.site);
        if values.shape() != expected {
            let text = format!("the new value of `{site}` has shape {:?}, expected {expected:?}", values.shape());
            return Err(MethodError::new("intercept-shape", text));
        }
        if values.as_f32()?.iter().any(|v| !v.is_finite()) {
            let text = format!("the new value of `{site}` holds a number that is not finite");
            return Err(MethodError::new("intercept-not-finite", text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, ArrayD, IxDyn};

    use super::*;

    #[test]
    fn a_column_is_found_by_its_position_and_values_are_checked() {
        let (activation, positions) = (ArrayD::zeros(IxDyn(&[2, 2, 3])), ndarray::array![[4, 5], [2, -1]]);
        let positions: Array2<i64> = positions;
        let call = InterceptCall {
            site: Site::Embed,
            activation: activation.view(),
            positions: positions.view(),
            rows: vec![InterceptRow::default(); 2],
            patches: vec![],
        };
        assert_eq!((call.column(0, 5), call.column(1, 2), call.column(1, 5)), (Some(1), Some(0), None));
        let code = |values: &Tensor| call.check(values).map_err(|e| e.code);
        assert_eq!(code(&Tensor::zeros([2, 2, 3])), Ok(()));
        assert_eq!(code(&Tensor::zeros([2, 6])), Err("intercept-shape".into()));
        let nan = Tensor::f32([2, 2, 3], vec![f32::INFINITY; 12]).expect("fits");
        assert_eq!(code(&nan), Err("intercept-not-finite".into()));
    }
}
