//! The losses: their terms against the definitions, their cotangents against finite differences.

use engraft::autodiff::check::{Evaluate, Question, compare};
use engraft::autodiff::{LossNodes, kl, nll};
use engraft::graph::{DType, Dim, Graph, Patch};
use engraft_plugin_api::{KlDirection, Tensor};

use crate::kit::{Compiled, floats, random};

const VOCAB: usize = 7;

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let top = row.iter().fold(f64::MIN, |m, &v| m.max(f64::from(v)));
    let sum: f64 = row.iter().map(|&v| (f64::from(v) - top).exp()).sum();
    row.iter().map(|&v| f64::from(v) - top - sum.ln()).collect()
}

/// Builds one loss over m rows, and checks its terms against `expected` and its cotangent.
fn check(add: impl Fn(&mut Patch<'_>) -> LossNodes, logits: &Tensor, reference: &Tensor, expected: &[f64]) {
    let m = logits.shape()[0];
    let weights = random(&[m], 5);
    let targets = Tensor::i64([m], (0..m as i64).collect()).unwrap();
    for opset in [14, 20] {
        let empty = Graph::empty(opset);
        let mut patch = Patch::new(&empty);
        let rows = Dim::symbol("m");
        patch.input("logits", DType::F32, vec![rows.clone(), Dim::Known(VOCAB)]).unwrap();
        patch.input("reference", DType::F32, vec![rows.clone(), Dim::Known(VOCAB)]).unwrap();
        patch.input("targets", DType::I64, vec![rows.clone()]).unwrap();
        patch.input("weights", DType::F32, vec![rows]).unwrap();
        let loss = add(&mut patch);
        let weighted = patch.op("Mul", &[&loss.terms, "weights"], &[]).unwrap();
        for edge in [&loss.terms, &loss.cotangent, &weighted] {
            patch.tap(edge, DType::F32).unwrap();
        }
        let compiled = Compiled::new(&patch.apply().unwrap(), true).unwrap();
        let feeds = [("logits", logits), ("reference", reference), ("targets", &targets), ("weights", &weights)];
        let out = compiled.run(&feeds, &[&loss.terms, &loss.cotangent]).unwrap();
        assert_eq!((out[0].shape(), out[1].shape()), (&[m][..], &[m, VOCAB][..]));
        for (got, want) in floats(&out[0]).iter().zip(expected) {
            assert!((f64::from(*got) - want).abs() < 1e-4 * want.abs().max(1.0), "{got} is not {want}");
        }
        assert!(floats(&out[1]).iter().all(|v| v.is_finite()));
        if m > 0 {
            let question = Question { variable: "logits", loss: &weighted, gradient: &loss.cotangent };
            for comparison in compare(&compiled, &feeds, question).unwrap() {
                assert!(comparison.error < 2e-3, "{comparison:?}");
            }
        }
    }
}

#[test]
fn terms_and_cotangents_follow_the_definitions() {
    for m in [0, 3] {
        let logits = random(&[m, VOCAB], 1);
        let rows: Vec<Vec<f64>> = floats(&logits).chunks(VOCAB).map(log_softmax).collect();
        let recorded: Vec<Vec<f64>> = floats(&random(&[m, VOCAB], 2)).chunks(VOCAB).map(log_softmax).collect();
        let reference = recorded.concat().iter().map(|&v| v as f32).collect();
        let reference = Tensor::f32([m, VOCAB], reference).unwrap();
        let divergence = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();

        let expected: Vec<f64> = rows.iter().enumerate().map(|(i, row)| -row[i]).collect();
        check(|p| nll(p, "logits", "targets", "weights").unwrap(), &logits, &reference, &expected);
        let expected: Vec<f64> = rows.iter().zip(&recorded).map(|(p, q)| divergence(p, q)).collect();
        let add = |p: &mut Patch<'_>| kl(p, "logits", "reference", "weights", KlDirection::FromCurrent).unwrap();
        check(add, &logits, &reference, &expected);
        let expected: Vec<f64> = rows.iter().zip(&recorded).map(|(p, q)| divergence(q, p)).collect();
        let add = |p: &mut Patch<'_>| kl(p, "logits", "reference", "weights", KlDirection::FromReference).unwrap();
        check(add, &logits, &reference, &expected);
    }
}

#[test]
fn logits_far_apart_do_not_overflow() {
    let mut values = vec![0.0; VOCAB];
    (values[0], values[1]) = (-300.0, 400.0);
    let logits = Tensor::f32([1, VOCAB], values).unwrap();
    check(|p| nll(p, "logits", "targets", "weights").unwrap(), &logits, &logits, &[700.0]);
}
