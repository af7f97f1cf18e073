//! The norm constraint of FT-L: every entry of a matrix stays within ε of where it began (Zhu et al. 2020, L∞).

/// Brings a delta back into the cube: |ΔW_ij| ≤ `epsilon`. An `epsilon` of 0 constrains nothing (plain FT).
pub fn clamp(delta: &mut [f32], epsilon: f32) {
    if epsilon > 0.0 {
        delta.iter_mut().for_each(|d| *d = d.clamp(-epsilon, epsilon));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_constrains_nothing() {
        let mut delta = [0.3, -0.3, 0.05];
        clamp(&mut delta, 0.0);
        assert_eq!(delta, [0.3, -0.3, 0.05]);
        clamp(&mut delta, 0.1);
        assert_eq!(delta, [0.1, -0.1, 0.05]);
    }
}
