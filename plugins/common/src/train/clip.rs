//! Clipping of gradients by their common norm.

/// Scales all gradients together so that their joint Euclidean norm is at most `limit`, and returns the norm before.
/// Norms are summed in double precision.
pub fn clip_norm<'a>(gradients: impl IntoIterator<Item = &'a mut [f32]>, limit: f64) -> f64 {
    let gradients: Vec<&mut [f32]> = gradients.into_iter().collect();
    let square = gradients.iter().flat_map(|g| g.iter()).map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    let norm = square.sqrt();
    if norm > limit {
        let scale = (limit / norm) as f32;
        gradients.into_iter().flatten().for_each(|v| *v *= scale);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_joint_norm_is_limited() {
        let (mut a, mut b) = ([3.0f32], [0.0, 4.0]);
        assert_eq!(clip_norm([&mut a[..], &mut b[..]], 10.0), 5.0);
        assert_eq!((a, b), ([3.0], [0.0, 4.0]));
        assert_eq!(clip_norm([&mut a[..], &mut b[..]], 2.5), 5.0);
        assert_eq!((a, b), ([1.5], [0.0, 2.0]));
    }
}
