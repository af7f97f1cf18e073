//! Every method keeps the laws, each in several settings; so does a plugin that the environment names.

use std::sync::Arc;

use engraft::base::Cancel;
use engraft::laws::{self, Trial};
use engraft::model::Proposal;
use engraft::plugins::{Access, Attachment, Library};
use engraft_plugin_api::{Place, RunRequest};
use engraft_tests::{atlas, library, library_at, method, open, relative, requests, root};

const ROME: &str = "layer = 0\ncovariance = 'second_moment'\nprefixes = 'fixed'";
const FT: &str = "layers = [0]";
const GRACE: &str = "layer = 5\nreplace = 'answer'\nepsilon = 7.0\nn_iter = 30";
const IKE: &str = "layer = 1\ntemplate = 'New fact: {fact}. {prompt}'";
const MINIMAL: &str = "layer = 0";

fn keeps_the_laws(library: &Arc<Library>, settings: &[&str], teaches: bool) {
    let model = open(&atlas().join("model"));
    for params in settings {
        let given = params.parse().expect("parameters are TOML");
        let mut trial = Trial::new(&model, library.clone(), given, requests(2)).expect("parameters fit");
        trial.teaches = teaches;
        let kept = laws::check(&trial);
        let kept = kept.unwrap_or_else(|broken| panic!("{library:?} with {params}: {broken}"));
        assert!(kept >= 10, "{library:?} with {params}: only {kept} laws say something of it");
    }
}

#[test]
fn rome_keeps_the_laws() {
    let r_rome = "layer = 0\ncovariance = 'none'\nkey_policy = 'r_rome'\nprefix_count = 2\nprefixes = 'generated'";
    keeps_the_laws(&library("engraft_rome"), &[ROME, r_rome], true);
}

#[test]
fn ft_keeps_the_laws() {
    let constrained = "layers = [1, 0]\nobjective = 'prompt_last'\nnorm_constraint = 5e-3";
    keeps_the_laws(&library("engraft_ft"), &[FT, "layers = [0]\nobjective = 'target_new'", constrained], true);
}

#[test]
fn grace_keeps_the_laws() {
    let last = "layer = 4\nn_iter = 30\nepsilon = 2.0";
    keeps_the_laws(&library("engraft_grace"), &[GRACE, last], true);
}

#[test]
fn the_scope_classifier_keeps_the_laws() {
    // Few steps, with checkpoints to go on from.
    let short = "layer = 2\nrank = 2\nsteps = 6\nevery = 2\nbatch = 3";
    keeps_the_laws(&library("engraft_scope_classifier"), &[short], false);
}

#[test]
fn ike_keeps_the_laws() {
    let shown = "layer = 2\nroom = 8\ndemonstrations = 2\ntemplate = 'New fact: {fact}. {prompt}'";
    let learned =
        format!("{IKE}\nscope = 'learned'\nscope_rank = 2\nscope_steps = 6\nscope_every = 2\nscope_batch = 3");
    keeps_the_laws(&library("engraft_ike"), &[IKE, shown, &learned], true);
}

#[test]
fn the_minimal_plugin_keeps_the_laws() {
    // It makes a layer quieter, whatever it is asked, and promises nothing of the target.
    keeps_the_laws(&library("engraft_minimal_plugin"), &[MINIMAL], false);
}

#[test]
fn the_intercepting_example_keeps_the_laws() {
    keeps_the_laws(&library("engraft_intercept_plugin"), &["layer = 2"], true);
}

#[test]
fn the_splicing_example_keeps_the_laws() {
    keeps_the_laws(&library("engraft_splice_plugin"), &["layer = 2"], true);
}

/// One says in a graph what the other says in Rust.
#[test]
fn the_splicing_and_the_intercepting_example_make_the_same_of_a_model() {
    let model = open(&atlas().join("model"));
    let logits = |name: &str, layer: usize| {
        let method = Arc::new(method(&library(name), &format!("layer = {layer}")));
        Attachment::attach(&method, &model);
        let mut ids = Vec::new();
        for request in requests(2) {
            let requests = vec![request];
            let changes = method.edit(&Access::new(&model, Cancel::new(), 0), &requests).expect("edits");
            let (method, version, params) = (name.to_owned(), "1".into(), method.params().clone());
            // Patches are known by the method that is attached.
            let method = method.trim_start_matches("engraft_").replace('_', "-");
            ids.push(
                model.commit(Proposal { method, version, params, artefact: None, requests, changes }).expect("commits"),
            );
        }
        let text = requests(2).iter().map(|r| r.filled().expect("fits")).collect::<Vec<_>>().join(". ");
        let row = model.tokenizer().and_then(|t| t.encode(&text)).expect("encodes").ids;
        let places = (0..row.len()).map(|pos| Place { row: 0, pos }).collect();
        let seen = model.run(&RunRequest { rows: vec![row], logits: places, ..RunRequest::default() }).expect("runs");
        ids.iter().for_each(|id| model.rollback(id).expect("rolls back"));
        seen.logits.into_f32().expect("floats")
    };
    for layer in [0, 2] {
        let (splice, call) = (logits("engraft_splice_plugin", layer), logits("engraft_intercept_plugin", layer));
        assert!(relative(&splice, &call) < 1e-5, "layer {layer}: {}", relative(&splice, &call));
    }
}

#[test]
fn examples_are_short() {
    for name in ["minimal", "splice", "intercept"] {
        let file = root().join(format!("examples/{name}-plugin/src/lib.rs"));
        let lines = std::fs::read_to_string(&file).expect("is there").lines().count();
        assert!(lines < 80, "{} has {lines} lines", file.display());
    }
}

/// A plugin of one's own, or one that was built in another way (`tests/abi/randomize-layout.sh`): the file that
/// `ENGRAFT_TEST_PLUGIN` names, with the TOML in `ENGRAFT_TEST_PARAMS` where it is not one of ours.
#[test]
fn a_plugin_of_the_environment_keeps_the_laws() {
    let Some(path) = std::env::var_os("ENGRAFT_TEST_PLUGIN") else { return };
    let library = library_at(path.as_ref());
    let given = std::env::var("ENGRAFT_TEST_PARAMS").ok();
    let (params, teaches) = match library.descriptor().name.as_str() {
        "rome" => (ROME, true),
        "ft" => (FT, true),
        "grace" => (GRACE, true),
        "ike" => (IKE, true),
        "minimal-plugin" => (MINIMAL, false),
        _ => ("", true),
    };
    keeps_the_laws(&library, &[given.as_deref().unwrap_or(params)], teaches);
}
