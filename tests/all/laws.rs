//! Every shipped method keeps the laws, and what misbehaves leaves the model as it was.

use engraft::base::Cancel;
use engraft::data::{self, DataKind};
use engraft::model::Proposal;
use engraft::plugins::Access;
use engraft_plugin_api::EditRequest;
use engraft_tests::{atlas, laws, library, library_at, method, open};

fn request() -> EditRequest {
    let data =
        data::load(DataKind::CounterFact, &atlas().join("counterfact_train.json"), Some(1)).expect("the data loads");
    data.records[0].request.clone()
}

#[test]
fn rome_and_ft_keep_the_laws() {
    let model = open(&atlas().join("model"));
    let shipped = [
        ("engraft_rome", "layer = 0\nprefixes = 'fixed'"),
        (
            "engraft_rome",
            "layer = 0\ncovariance = 'none'\nkey_policy = 'r_rome'\nprefix_count = 2\nprefixes = 'generated'",
        ),
        ("engraft_ft", "layers = [0]\nobjective = 'target_new'"),
        ("engraft_ft", "layers = [1, 0]\nobjective = 'prompt_last'\nnorm_constraint = 5e-3"),
    ];
    for (name, params) in shipped {
        let method = method(&library(name), params);
        laws::all(&model, &method, &request()).unwrap_or_else(|e| panic!("{name} with {params}: {e}"));
    }
}

/// A plugin that was built in another way, e.g. by `tests/abi/randomize-layout.sh`.
#[test]
fn a_plugin_named_by_the_environment_keeps_the_laws() {
    let Some(path) = std::env::var_os("ENGRAFT_TEST_ROME") else { return };
    let method = method(&library_at(path.as_ref()), "layer = 0\nprefixes = 'fixed'");
    laws::all(&open(&atlas().join("model")), &method, &request()).unwrap();
}

#[test]
fn what_misbehaves_is_refused_and_the_model_stays_as_it_was() {
    let model = open(&atlas().join("model"));
    let stress = library("engraft_stress");
    let state = (model.state_hash(), model.history().len());
    for (fault, code) in [
        ("nan", "delta-not-finite"),
        ("wrong-shape", "delta-shape"),
        ("unknown-weight", "delta-weight"),
        ("panic-edit", "plugin-panicked"),
    ] {
        let method = method(&stress, &format!("fault = '{fault}'"));
        let access = Access::new(&model, Cancel::new(), 0);
        let found = method.edit(&access, &[request()]).and_then(|changes| {
            let (name, version) = ("stress".into(), "0".into());
            let params = method.params().clone();
            model.commit(Proposal { method: name, version, params, requests: vec![request()], changes })
        });
        assert_eq!(found.unwrap_err().code().id, code, "{fault}");
        assert_eq!(state, (model.state_hash(), model.history().len()), "{fault}");
    }
}
