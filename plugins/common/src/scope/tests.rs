//! A scope on its own: vectors, borders and files.

use ndarray::{Array1, Array2};

use super::*;

fn scope() -> Scope {
    let metric = Metric {
        mean: Array1::from_vec(vec![1.0, 0.0]),
        scale: Array1::from_vec(vec![2.0, 1.0]),
        gain: Array1::from_vec(vec![0.0, 1.0]),
        left: Array2::from_shape_vec((2, 1), vec![1.0, 0.0]).expect("fits"),
        right: Array2::from_shape_vec((1, 2), vec![0.0, 1.0]).expect("fits"),
        stretch: 10.0,
        shift: -8.0,
    };
    Scope { layer: 3, metric }
}

#[test]
fn a_vector_is_the_formula_and_the_surest_edit_is_found() {
    let scope = scope();
    // z = ((2.5 − 1)·2, 0·1·2) = (3, 0); y = z + (z·L)·R = (3, 3).
    let vector = scope.metric.embed(&[2.5, 0.0]);
    assert!(vector.iter().all(|v| (v - 0.5f32.sqrt()).abs() < 1e-5), "{vector:?}");
    let (one, two) = (vec![1.0, 0.0], vec![0.0, 1.0]);
    assert_eq!(scope.score(&one, &one), 2.0);
    assert_eq!(scope.nearest(&one, [two.as_slice(), &one, &one]), Some((1, 2.0)));
    assert_eq!(scope.nearest(&vector, [two.as_slice(), &one]), None, "a cosine of 0.7 is below the border of 0.8");
    assert_eq!(scope.nearest(&one, []), None);
}

#[test]
fn a_scope_and_a_state_come_back_and_damage_is_noticed() {
    let bytes = scope().to_bytes().expect("writes");
    assert_eq!(Scope::from_bytes(&bytes), Ok(scope()));
    assert_eq!(Scope::from_bytes(&bytes[..bytes.len() - 1]).map_err(|e| e.code), Err("store-damaged".into()));
    let vector = vec![0.25, -1.5];
    assert_eq!(vector_of_bytes(&vector_to_bytes(&vector)), Ok(vector));
    for wrong in [&[][..], &[1, 2, 3]] {
        assert_eq!(vector_of_bytes(wrong).map_err(|e| e.code), Err("scope-state".into()));
    }
}
