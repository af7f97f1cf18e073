//! Faults of plugins against a real model: each has its code, and the model stays as it was, to the bit.

use std::path::PathBuf;
use std::sync::Arc;

use engraft::base::{Cancel, Error};
use engraft::model::{Model, Proposal};
use engraft::plugins::{Access, Library, Method};
use engraft_tests::laws::logit_bits;
use engraft_tests::{a_request, atlas, deps, library_at, method, open};

fn stress() -> Arc<Library> {
    let path = std::env::var_os("ENGRAFT_TEST_STRESS").map(PathBuf::from);
    library_at(&path.unwrap_or_else(|| deps().join("libengraft_stress.so")))
}

/// What becomes of an edit and its commit.
fn attempt(model: &Model, method: &Method) -> Result<(), Error> {
    let changes = method.edit(&Access::new(model, Cancel::new(), 0), &[a_request()])?;
    let descriptor = method.library().descriptor();
    let (name, version) = (descriptor.name.clone(), descriptor.version.clone());
    let params = method.params().clone();
    model.commit(Proposal { method: name, version, params, requests: vec![a_request()], changes }).map(drop)
}

#[test]
fn every_fault_has_its_code_and_the_model_stays_as_it_was() {
    let model = open(&atlas().join("model"));
    let row = model.tokenizer().unwrap().encode(&a_request().filled().unwrap()).unwrap().ids;
    let state = || (model.state_hash(), model.history().len(), logit_bits(&model, row.clone()).unwrap());
    let before = state();
    let stress = stress();
    let lying = library_at(&deps().with_file_name("examples").join("liblying_record.so"));
    let fault = |name: &str| method(&stress, &format!("fault = '{name}'"));
    let faults = [
        ("nan", fault("nan"), "delta-not-finite"),
        ("wrong-shape", fault("wrong-shape"), "delta-shape"),
        ("unknown-weight", fault("unknown-weight"), "delta-weight"),
        ("panic-edit", fault("panic-edit"), "plugin-panicked"),
        ("error-edit", fault("error-edit"), "plugin-failed"),
        ("lying-record", method(&lying, ""), "plugin-record"),
    ];
    for (name, method, code) in faults {
        let error = attempt(&model, &method).expect_err(name);
        assert_eq!(error.code().id, code, "{name}: {error:?}");
        assert!(state() == before, "{name} changed the model");
    }

    // The same plugin without a fault changes it, and so the comparison sees changes.
    attempt(&model, &fault("none")).unwrap();
    assert!(state().2 != before.2);
    model.rollback(&model.patches()[0].0).unwrap();
    assert!((state().0, state().2) == (before.0, before.2));
}
