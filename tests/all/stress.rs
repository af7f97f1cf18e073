//! Faults of plugins against a real model: each has its code, and the model stays as it was, to the bit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engraft::base::{Cancel, Error};
use engraft::laws::{self, Trial, logit_bits};
use engraft::model::{Attached, Continuation, Model};
use engraft::plugins::{Access, Attachment, Library, Method};
use engraft_plugin_api::{
    ActivePatch, BlockSite, InterceptCall, InterceptRow, Place, Poke, RouteQuery, RunRequest, Site, Tensor, TrainData,
    TrainRecord, ndarray,
};
use engraft_tests::{a_request, atlas, deps, difference, library_at, method, open, requests};

fn stress() -> Arc<Library> {
    let path = std::env::var_os("ENGRAFT_TEST_STRESS").map(PathBuf::from);
    library_at(&path.unwrap_or_else(|| deps().join("libengraft_stress.so")))
}

/// What becomes of an edit and its commit.
fn attempt(model: &Model, method: &Method) -> Result<(), Error> {
    let access = Access::new(model, Cancel::new(), 0).of(&method.library().descriptor().name);
    let changes = method.edit(&access, &[a_request()])?;
    model.commit(method.proposal(vec![a_request()], changes)).map(drop)
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

fn data() -> TrainData {
    let record = TrainRecord { request: a_request(), in_scope: vec![], out_of_scope: vec![] };
    TrainData { hash: "data".into(), train: vec![record], ..TrainData::default() }
}

#[test]
fn the_other_calls_keep_their_laws_and_the_laws_see_what_breaks_them() {
    let (model, stress) = (open(&atlas().join("model")), stress());
    let broken = |fault: &str| {
        let given = format!("extends = true\nfault = '{fault}'").parse().unwrap();
        laws::check(&Trial::new(&model, stress.clone(), given, vec![a_request()]).unwrap())
    };
    broken("none").unwrap();
    let faults = [
        ("unsteady-route", "the same query has the same route"),
        ("outside-route", "what a route says can be done"),
        ("unsteady-train", "the same seed gives the same artefact"),
        ("forgetful-train", "ends as if it had not been"),
        ("deaf-train", "a cancelled training stops"),
        ("unbound-artefact", "artefact-unbound"),
        ("trespassing-intercept", "leaves alone what it does not own: `blocks.0.resid_post` changed at row 1"),
    ];
    for (fault, law) in faults {
        let found = broken(fault).expect_err(fault);
        assert!(found.contains(law), "{fault}: {found}");
    }
    // What edits leave for later ones.
    let check = |law: &str, fault: &str| {
        let given = format!("extends = true\nfault = '{fault}'").parse().unwrap();
        let trial = Trial::new(&model, stress.clone(), given, requests(2)).unwrap();
        laws::ALL.iter().find(|l| l.id == law).expect("there is such a law").check(&trial)
    };
    for (law, fault, words) in [
        ("memory-in-patches", "remembering-edit", "proposes other changes than one that made none"),
        ("statistics-fold", "unfit-edit", "[statistic-part]"),
    ] {
        assert_eq!(check(law, "none"), Ok(laws::Held::Kept), "{law}");
        let found = check(law, fault).expect_err(fault);
        assert!(found.contains(words), "{fault}: {found}");
    }
    assert!(model.patches().is_empty());
}

#[test]
fn every_fault_of_the_other_calls_has_its_code() {
    let (model, stress) = (open(&atlas().join("model")), stress());
    let access = Access::new(&model, Cancel::new(), 0);
    let (activation, positions) = (Tensor::zeros([1, 2, 3]), ndarray::array![[0i64, 1]]);
    let call = |method: &Method, name: &str| {
        let patches = vec![ActivePatch { id: "a", state: b"" }];
        match name {
            "train" => method.train(&access, &data()).map(drop),
            "route" => method.route(&access, &RouteQuery { tokens: vec![1], patches }).map(drop),
            _ => method
                .intercept(&InterceptCall {
                    site: Site::Embed,
                    activation: activation.view().unwrap(),
                    positions: positions.view(),
                    rows: vec![InterceptRow { prompt_end: 1, patches: vec![0] }],
                    patches,
                })
                .map(drop),
        }
    };
    let faults = [
        ("train", "panic-train", "plugin-panicked"),
        ("train", "error-train", "plugin-failed"),
        // Nobody keeps the checkpoints of this access.
        ("train", "none", "plugin-call"),
        ("route", "panic-route", "plugin-panicked"),
        ("route", "error-route", "plugin-failed"),
        ("route", "wrong-route", "plugin-failed"),
        ("intercept", "panic-intercept", "plugin-panicked"),
        ("intercept", "error-intercept", "plugin-failed"),
        ("intercept", "nan-intercept", "plugin-failed"),
        ("intercept", "wrong-intercept", "plugin-failed"),
    ];
    for (name, fault, code) in faults {
        let method = method(&stress, &format!("fault = '{fault}'"));
        let error = call(&method, name).expect_err(fault);
        assert_eq!(error.code().id, code, "{fault}: {error:?}");
        if code == "plugin-panicked" {
            let again = method.edit(&access, &[a_request()]).expect_err("is not trusted");
            assert_eq!(again.code().id, "plugin-poisoned", "{fault}");
        }
    }
    for name in ["route", "intercept"] {
        call(&method(&stress, ""), name).unwrap();
    }
    // Changes that need their method are refused where it is not attached.
    let changes = method(&stress, "extends = true").edit(&access, &[a_request()]).unwrap();
    assert_eq!(changes.len(), 3);
    let error = attempt(&model, &method(&stress, "extends = true")).expect_err("is refused");
    assert_eq!(error.code().id, "intercept-method");
}

#[test]
fn a_plugin_that_fails_in_the_middle_of_a_pass_fails_that_request_alone() {
    let (model, stress) = (open(&atlas().join("model")), stress());
    let row = model.tokenizer().unwrap().encode(&a_request().filled().unwrap()).unwrap().ids;
    let logits = || {
        let logits = vec![Place { row: 0, pos: row.len() - 1 }];
        let request = RunRequest { rows: vec![row.clone()], logits, ..RunRequest::default() };
        model.run(&request).map(|reply| reply.logits.into_f32().unwrap())
    };
    let with =
        |fault: &str| Arc::new(method(&stress, &format!("extends = true\nmilliseconds = 2000\nfault = '{fault}'")));
    let good = with("none");
    let access = Access::new(&model, Cancel::new(), 0);
    let changes = good.edit(&access, &[a_request()]).unwrap();
    let proposal = || good.proposal(vec![a_request()], changes.clone());
    let base = logits().unwrap();
    assert_eq!(model.commit(proposal()).unwrap_err().code().id, "intercept-method");
    Attachment::attach(&good, &model);
    let id = model.commit(proposal()).unwrap();
    let seen = logits().unwrap();

    // It adds 1 to the first number at the last token of the prompt.
    let (site, places) = (Site::Block(0, BlockSite::ResidPost), vec![Place { row: 0, pos: row.len() - 1 }]);
    let mut one = vec![0.0; model.anatomy().d_model];
    one[0] = 1.0;
    let values = Tensor::f32([1, one.len()], one).unwrap();
    let adds = vec![Poke { site, places: places.clone(), values }];
    model.rollback(&id).unwrap();
    let poked = RunRequest { rows: vec![row.clone()], logits: places, adds, ..RunRequest::default() };
    let poked = model.run(&poked).unwrap().logits.into_f32().unwrap();
    assert!(difference(&seen, &poked) < 1e-4 && difference(&seen, &base) > 1e-2);
    model.commit(proposal()).unwrap();

    let faults = [
        ("panic-intercept", "plugin-panicked"),
        ("error-intercept", "plugin-failed"),
        ("nan-intercept", "plugin-failed"),
        ("wrong-intercept", "plugin-failed"),
        ("block-intercept", "plugin-hangs"),
    ];
    for (fault, code) in faults {
        let patience = Some(Duration::from_millis(if code == "plugin-hangs" { 50 } else { 60_000 }));
        let faulty: Arc<dyn Attached> = Arc::new(Attachment::new(with(fault)).patience(patience));
        model.attach("stress", good.params(), faulty);
        let error = logits().expect_err(fault);
        assert_eq!(error.code().id, code, "{fault}: {error:?}");
        assert!(error.message().contains("stress"), "{error}");
        if matches!(code, "plugin-panicked" | "plugin-hangs") {
            // It is not asked again.
            let again = if code == "plugin-hangs" { code } else { "plugin-poisoned" };
            assert_eq!(logits().expect_err(fault).code().id, again);
        }
        let direct: Arc<dyn Attached> = Arc::new(Attachment::new(good.clone()).patience(None));
        model.attach("stress", good.params(), direct);
        assert_eq!(logits().unwrap(), seen, "{fault}");
    }

    // A route shows the patch to requests that name its subject.
    let scored = |prompt: &str| {
        let ids = |text: &str| model.tokenizer().unwrap().encode(text).unwrap().ids;
        let continuation = Continuation { prompt: ids(prompt), tokens: ids(" a") };
        model.score(&[continuation]).map(|mut scored| scored.remove(0).log_probs[0])
    };
    let named = a_request().filled().unwrap();
    let shown = scored(&named).unwrap();
    for (fault, code) in [
        ("panic-route", "plugin-panicked"),
        ("error-route", "plugin-failed"),
        ("wrong-route", "plugin-failed"),
        ("block-route", "plugin-hangs"),
    ] {
        let patience = Some(Duration::from_millis(if code == "plugin-hangs" { 50 } else { 60_000 }));
        model.attach("stress", good.params(), Arc::new(Attachment::new(with(fault)).patience(patience)));
        let error = scored(&named).expect_err(fault);
        assert_eq!(error.code().id, code, "{fault}: {error:?}");
        assert!(error.message().contains("stress"), "{error}");
        for patience in [None, Some(Duration::from_secs(60))] {
            model.attach("stress", good.params(), Arc::new(Attachment::new(good.clone()).patience(patience)));
            assert_eq!(scored(&named).unwrap(), shown, "{fault}");
        }
    }
    let other = scored("The weather of today is").unwrap();
    model.rollback(&id).unwrap();
    assert_eq!(scored("The weather of today is").unwrap(), other);
    assert!((scored(&named).unwrap() - shown).abs() > 1e-3);
    assert_eq!(model.commit(proposal()).unwrap(), id);

    // The patch goes by file, and is refused where its method is not.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("patch");
    model.patches()[0].1.save(&path).unwrap();
    model.rollback(&id).unwrap();
    assert_eq!(logits().unwrap(), base);
    let patch = engraft::weights::Patch::load(&path).unwrap();
    let other = open(&atlas().join("model"));
    assert_eq!(other.apply(patch.clone()).unwrap_err().code().id, "intercept-method");
    assert_eq!(model.apply(patch).unwrap(), id);
    assert_eq!(logits().unwrap(), seen);
}
