//! The rank-one update: the smallest change of W, in the metric C, that maps the key to the target value
//! (ROME, eq. 2: Ŵ = W + Λ (C⁻¹k*)ᵀ, Λ = (v* − W k*) / ((C⁻¹k*)ᵀ k*)).

use engraft_method_common::SpdFactor;
use engraft_method_common::solve::{dot, norm};
use engraft_plugin_api::{Delta, MethodError, Tensor};

/// What is to be associated, and what the layer computes now.
#[derive(Clone, Copy, Debug)]
pub struct Association<'a> {
    /// k*, the direction that is written to. `[d_mlp]`
    pub key: &'a [f32],
    /// The key at which the target value has to come out. `[d_mlp]`
    pub input: &'a [f32],
    /// The layer's present output at `input`, with its bias. `[d_model]`
    pub output: &'a [f32],
    /// v* `[d_model]`
    pub value: &'a [f32],
}

/// ΔW `[d_mlp, d_model]` of rank one such that `input · (W + ΔW) + b = value`; C is the identity without `covariance`.
///
/// The bias cancels: it is part of both `output` and `value`.
///
/// # Errors
/// `key-degenerate` if (C⁻¹k*)ᵀ · input is zero or not finite.
pub fn rank_one(association: &Association<'_>, covariance: Option<&SpdFactor>) -> Result<Delta, MethodError> {
    let Association { key, input, output, value } = *association;
    let solved = match covariance {
        Some(c) => c.solve(key),                             // C⁻¹ k*
        None => key.iter().map(|&k| f64::from(k)).collect(), // C = I
    };
    let length = norm(&solved);
    let u: Vec<f32> = solved.iter().map(|s| (s / length) as f32).collect(); // scale cancels below
    let denominator = dot(&u, input); // (C⁻¹k*)ᵀ k*
    if denominator == 0.0 || !denominator.is_finite() {
        let message = format!("the key and the direction of the update have a dot product of {denominator}");
        return Err(MethodError::new("key-degenerate", message)
            .help("another layer, `key_policy = \"r_rome\"` or `covariance = \"none\"` may help"));
    }
    let right = value.iter().zip(output).map(|(v, w)| ((f64::from(*v) - f64::from(*w)) / denominator) as f32); // Λ
    let right: Vec<f32> = right.collect();
    Ok(Delta::LowRank { left: Tensor::f32([u.len(), 1], u)?, right: Tensor::f32([1, right.len()], right)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_without_a_direction_is_refused() {
        let code = |key: &[f32], input: &[f32]| {
            let association = Association { key, input, output: &[0.0], value: &[1.0] };
            rank_one(&association, None).map_err(|e| e.code)
        };
        assert_eq!(code(&[0.0, 0.0], &[1.0, 0.0]), Err("key-degenerate".into()));
        assert_eq!(code(&[0.0, 1.0], &[1.0, 0.0]), Err("key-degenerate".into()));
        assert!(code(&[3.0, 4.0], &[1.0, 0.0]).is_ok());
    }
}
