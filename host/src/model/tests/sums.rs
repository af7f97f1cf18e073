//! Sums of chosen patches: what a request sees is the same whether its sum was at hand, was made for it, or was prepared,
//! and a prepared one is never made by a request.

use std::path::Path;

use engraft_plugin_api::{Change, Place, Role, RunRequest, Tensor, WeightRef};

use super::{dense, difference, low_rank, proposal};
use crate::graph::testing::rows as zoo_rows;
use crate::model::{Active, Model, OpenOptions};
use crate::runtime;
use crate::weights::PatchId;

/// Weights stored as methods see them, transposed, packed with others, and in float16.
const EXPORTS: [&str; 4] = ["gpt2-dynamo-mask", "llama-dynamo-cache", "gptneox-torchscript", "gpt2-dynamo-f16"];

fn open(folder: &Path) -> Model {
    Model::open(folder, &runtime::for_tests(), &OpenOptions::default()).unwrap()
}

fn ask(model: &Model, active: &Active) -> Tensor {
    let rows = vec![vec![5, 9, 11, 2, 3], vec![1, 2, 7]];
    let logits = rows.iter().enumerate().map(|(row, r): (usize, &Vec<u32>)| Place { row, pos: r.len() - 1 }).collect();
    let request = RunRequest { rows, logits, ..RunRequest::default() };
    model.run_seeing(&request, std::slice::from_ref(active), None).unwrap().logits
}

/// Dense deltas of one weight that is packed in some exports, of another, and of a vector.
fn changes(model: &Model) -> Vec<Vec<Change>> {
    let norm = model.anatomy().weights.keys().copied().find(|w| model.anatomy().weights[w].shape[0] == 1).unwrap();
    let at = |role, scale| dense(&low_rank(model, WeightRef::Block(1, role), scale));
    vec![
        vec![at(Role::Value, 0.2), at(Role::MlpOut, 0.05)],
        vec![at(Role::Value, -0.15), low_rank(model, norm, 0.3)],
        vec![at(Role::Value, 0.1), low_rank(model, norm, -0.2)],
    ]
}

#[test]
fn a_prepared_set_is_served_without_a_sum_and_as_any_other() {
    for row in zoo_rows().into_iter().filter(|row| EXPORTS.contains(&row.name.as_str())) {
        let (name, model) = (&row.name, open(&row.folder));
        let changes = changes(&model);
        let commit = |model: &Model, of: &[usize]| -> Vec<PatchId> {
            of.iter().map(|&i| model.commit(proposal(changes[i].clone())).unwrap()).collect()
        };
        let ids = commit(&model, &[0, 1, 2]);
        let set = |of: &[usize]| Active::Only(of.iter().map(|&i| ids[i].clone()).collect());
        let sets = [set(&[0, 1]), set(&[0, 2]), set(&[1]), set(&[]), set(&[0, 1, 2])];
        let all = ask(&model, &Active::All);
        assert_eq!((&ask(&model, &sets[4]), model.sums_made()), (&all, 0), "{name}");
        let first: Vec<Tensor> = sets.iter().map(|set| ask(&model, set)).collect();
        let made = model.sums_made();
        assert!(made >= 3, "{name}: {made}");
        for (found, of) in first.iter().zip([&[0, 1][..], &[0, 2], &[1]]) {
            let alone = open(&row.folder);
            commit(&alone, of);
            let apart = difference(found.as_f32().unwrap(), ask(&alone, &Active::All).as_f32().unwrap());
            let close = if name.ends_with("f16") { 6e-2 } else { 2e-4 };
            assert!(apart < close, "{name} {of:?}: {apart}");
        }
        assert!((0..5).all(|i| (0..i).all(|j| first[i] != first[j])), "{name}");

        // Again, by a model that was told before anyone asked.
        let model = open(&row.folder);
        commit(&model, &[0, 1, 2]);
        model.prepare(&sets).unwrap();
        let unknown = Active::Only(vec!["0123456789abcdef".parse().unwrap()]);
        assert_eq!(model.prepare(&[sets[0].clone(), unknown]).unwrap_err().code().id, "patch-unknown");
        for (set, first) in sets.iter().zip(&first) {
            assert_eq!((&ask(&model, set), model.sums_made()), (first, 0), "{name} {set:?}");
        }
        // Another patch with a part in the sums makes one of them of what was all, and a rollback leaves the others.
        let [another] = &commit_of(&model, vec![dense(&low_rank(&model, WeightRef::Block(1, Role::Value), 0.4))])[..]
        else {
            panic!("one patch");
        };
        for (set, first) in sets.iter().zip(&first) {
            assert_eq!((&ask(&model, set), model.sums_made()), (first, 0), "{name} {set:?}");
        }
        model.rollback(&ids[1]).unwrap();
        assert_eq!((&ask(&model, &sets[1]), model.sums_made()), (&first[1], 0), "{name}");
        model.rollback(another).unwrap();
        // What is back is not prepared, and its place is after the others.
        commit(&model, &[1]);
        ask(&model, &sets[0]);
        assert!(model.sums_made() > 0, "{name}");
        assert_eq!(ask(&model, &sets[1]), first[1], "{name}");
        let made = model.sums_made();
        model.prepare(&[]).unwrap();
        assert_eq!(ask(&model, &sets[1]), first[1], "{name}");
        assert!(model.sums_made() > made, "{name}");
    }
}

fn commit_of(model: &Model, changes: Vec<Change>) -> Vec<PatchId> {
    vec![model.commit(proposal(changes)).unwrap()]
}
