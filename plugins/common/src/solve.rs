//! Solves with symmetric positive definite matrices, by Cholesky in double precision; never an explicit inverse.

use engraft_plugin_api::MethodError;
use faer::Mat;
use faer::linalg::solvers::{Llt, LltError, Solve};
use ndarray::{ArrayView2, Axis};

/// The Cholesky factor of A + ε·I.
pub struct SpdFactor {
    llt: Llt<f64>,
    condition: f64,
}

impl SpdFactor {
    /// Factors `matrix + damping · mean(diag(matrix)) · I`; `damping` has no unit and 0 leaves the matrix as it is.
    ///
    /// # Shapes
    /// `matrix` is `[n, n]`; its lower triangle is read.
    ///
    /// # Errors
    /// `matrix-shape` if the matrix is not square; `matrix-singular` if it is not positive definite, with the row
    /// at which the factorization broke down and the condition found up to there.
    pub fn new(matrix: ArrayView2<'_, f32>, damping: f64) -> Result<Self, MethodError> {
        let n = matrix.nrows();
        if n == 0 || matrix.ncols() != n {
            let message = format!("expected a square matrix, found {:?}", matrix.shape());
            return Err(MethodError::new("matrix-shape", message));
        }
        let mean = matrix.diag().iter().map(|&d| f64::from(d)).sum::<f64>() / n as f64;
        let full = |i: usize, j: usize| f64::from(matrix[[i, j]]) + if i == j { damping * mean } else { 0.0 };
        let a = Mat::from_fn(n, n, full);
        let llt = Llt::new(a.as_ref(), faer::Side::Lower).map_err(|LltError::NonPositivePivot { index }| {
            // The pivots before `index` are those of a leading block that is positive definite.
            let spread = Llt::new(a.as_ref().submatrix(0, 0, index, index), faer::Side::Lower)
                .map_or(f64::INFINITY, |leading| condition(&leading));
            MethodError::new("matrix-singular", format!("the {n} x {n} matrix is not positive definite"))
                .label("row", index)
                .label("condition before it", format!("{spread:.1e}"))
        })?;
        let condition = condition(&llt);
        if !condition.is_finite() {
            return Err(MethodError::new(
                "matrix-singular",
                format!("the {n} x {n} matrix holds values that are not finite"),
            ));
        }
        Ok(Self { llt, condition })
    }

    /// (max Lᵢᵢ / min Lᵢᵢ)², a lower bound of the condition number and of its order in practice.
    pub fn condition(&self) -> f64 {
        self.condition
    }

    /// A⁻¹·b.
    ///
    /// # Shapes
    /// `b` holds `n` values.
    pub fn solve(&self, b: &[f32]) -> Vec<f64> {
        let rhs = Mat::from_fn(b.len(), 1, |i, _| f64::from(b[i]));
        self.llt.solve(&rhs).col(0).iter().copied().collect()
    }
}

fn condition(llt: &Llt<f64>) -> f64 {
    let l = llt.L();
    let diagonal = || (0..l.nrows()).map(|i| l[(i, i)]);
    let (low, high) = diagonal().fold((f64::INFINITY, 0.0), |(low, high), d| (f64::min(low, d), f64::max(high, d)));
    let sum: f64 = diagonal().sum(); // NaN if any entry is, which min and max would hide
    if sum.is_finite() { (high / low).powi(2) } else { sum }
}

/// The arithmetic mean of the rows of a matrix.
pub fn mean_rows(matrix: ArrayView2<'_, f32>) -> Vec<f32> {
    matrix.mean_axis(Axis(0)).map_or_else(|| vec![0.0; matrix.ncols()], |mean| mean.to_vec())
}

/// The dot product of two vectors of one length, summed in double precision.
pub fn dot<A: Copy + Into<f64>, B: Copy + Into<f64>>(a: &[A], b: &[B]) -> f64 {
    debug_assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&x, &y)| x.into() * y.into()).sum()
}

/// The Euclidean norm, summed in double precision.
pub fn norm<A: Copy + Into<f64>>(a: &[A]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn solving_inverts_the_product() {
        let a = array![[4.0f32, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]];
        let factor = SpdFactor::new(a.view(), 0.0).expect("positive definite");
        let x = factor.solve(&[1.0, -2.0, 3.0]);
        for (i, b) in [1.0, -2.0, 3.0].into_iter().enumerate() {
            assert!((dot(&a.row(i).to_vec(), &x) - b).abs() < 1e-12);
        }
        assert!((1.0..10.0).contains(&factor.condition()));
    }

    #[test]
    fn a_singular_matrix_is_refused_until_it_is_damped() {
        let a = array![[1.0f32, 1.0], [1.0, 1.0]];
        let error = SpdFactor::new(a.view(), 0.0).err().expect("singular");
        assert_eq!((error.code.as_str(), error.labels[0].1.as_str()), ("matrix-singular", "1"));
        let x = SpdFactor::new(a.view(), 0.1).expect("damped").solve(&[2.1, 2.1]);
        assert!((x[0] - 1.0).abs() < 1e-6 && (x[1] - 1.0).abs() < 1e-6);
        assert!(SpdFactor::new(array![[f32::NAN]].view(), 0.0).is_err());
        assert!(SpdFactor::new(array![[1.0f32, 2.0]].view(), 0.0).is_err());
    }
}
