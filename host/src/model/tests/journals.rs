//! Journals in folders: a model is opened as it was left, to the hash, or not at all.

use std::fs;
use std::path::Path;

use engraft_plugin_api::{Role, WeightRef};

use super::{Records, logits, low_rank, proposal, zoo};
use crate::base::{Hash, Result};
use crate::model::{Model, OpenOptions};
use crate::runtime;
use crate::weights::{PatchId, patch_path};

fn open(export: &str, journal: &Path) -> Result<Model> {
    let options = OpenOptions { journal: Some(journal.to_path_buf()), ..OpenOptions::default() };
    Model::open(&zoo(export), &runtime::for_tests(), &options)
}

/// Commits patches of one weight, of different sizes.
fn commit(model: &Model, count: usize) -> Vec<PatchId> {
    let change = |i: usize| low_rank(model, WeightRef::Block(1, Role::MlpOut), 0.05 * (i + 1) as f32);
    (0..count).map(|i| model.commit(proposal(vec![change(i)])).unwrap()).collect()
}

/// The journal with a text in place of another, which stands there.
fn forge(journal: &Path, from: &str, to: &str) {
    let file = journal.join("journal.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

#[test]
fn several_patches_are_taken_out_at_once_or_none_is() {
    let (folder, rows) = (tempfile::tempdir().unwrap(), Records::open().rows());
    let model = open("dynamo-mask", folder.path()).unwrap();
    let base = (model.state_hash(), logits(&model, &rows, Vec::new()));
    let ids = commit(&model, 3);
    let all = (model.state_hash(), logits(&model, &rows, Vec::new()));
    let strange: PatchId = "0123456789abcdef".parse().unwrap();
    for wrong in [[&ids[0], &strange], [&ids[1], &ids[1]]] {
        let error = model.rollback_all(&wrong.map(Clone::clone)).unwrap_err();
        assert_eq!((error.code().id, model.history().len(), model.patches().len()), ("patch-unknown", 3, 3));
    }
    assert_eq!((model.state_hash(), logits(&model, &rows, Vec::new())), all);
    model.rollback_all(&[ids[1].clone(), ids[0].clone(), ids[2].clone()]).unwrap();
    assert_eq!((model.state_hash(), logits(&model, &rows, Vec::new())), base);
    let states: Vec<Hash> = model.history()[3..].iter().map(|entry| entry.state).collect();
    assert!(states[0] != states[1] && states[2] == base.0);
    model.rollback_all(&[]).unwrap();
    drop(model);
    assert_eq!(open("dynamo-mask", folder.path()).unwrap().state_hash(), base.0);
}

#[test]
fn a_journal_of_another_model_or_with_another_sum_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let code = |export: &str| open(export, folder.path()).map(drop).unwrap_err();
    let (ids, states) = {
        let model = open("dynamo-mask", folder.path()).unwrap();
        let ids = commit(&model, 2);
        (ids, model.history().iter().map(|entry| entry.state.to_string()).collect::<Vec<_>>())
    };
    let error = code("dynamo-nomask");
    assert_eq!(error.code().id, "patch-base");
    assert!(error.message().contains(&folder.path().display().to_string()), "{error}");

    let other = Hash::of(b"other").to_string();
    forge(folder.path(), &states[1], &other);
    let error = code("dynamo-mask");
    assert_eq!(error.code().id, "journal-state");
    assert!(error.message().contains(&states[1]) && error.message().contains(&other), "{error}");
    forge(folder.path(), &other, &states[1]);

    // What was recorded for the first patch alone is not what is left without the second: nothing is written.
    forge(folder.path(), &states[0], &other);
    let model = open("dynamo-mask", folder.path()).unwrap();
    let error = model.rollback(&ids[1]).unwrap_err();
    assert_eq!((error.code().id, model.history().len(), model.patches().len()), ("rollback-differs", 2, 2));
    drop(model);
    forge(folder.path(), &other, &states[0]);

    // A journal without an active patch is still that of its model; files of patches that are out are not needed.
    let model = open("dynamo-mask", folder.path()).unwrap();
    model.rollback_all(&ids).unwrap();
    drop(model);
    ids.iter().for_each(|id| fs::remove_file(patch_path(folder.path(), id)).unwrap());
    assert_eq!(code("dynamo-nomask").code().id, "patch-base");
    assert!(open("dynamo-mask", folder.path()).unwrap().patches().is_empty());
}
