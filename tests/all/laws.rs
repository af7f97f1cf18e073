//! Every method keeps the laws, each in several settings; so does a plugin that the environment names.

use std::sync::Arc;

use engraft::laws::{self, Trial};
use engraft::plugins::Library;
use engraft_tests::{atlas, library, library_at, open, requests, root};

const ROME: &str = "layer = 0\ncovariance = 'second_moment'\nprefixes = 'fixed'";
const FT: &str = "layers = [0]";
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
fn the_minimal_plugin_keeps_the_laws() {
    // It makes a layer quieter, whatever it is asked, and promises nothing of the target.
    keeps_the_laws(&library("engraft_minimal_plugin"), &[MINIMAL], false);
}

#[test]
fn the_intercepting_example_keeps_the_laws() {
    keeps_the_laws(&library("engraft_intercept_plugin"), &["layer = 2"], true);
}

#[test]
fn examples_are_short() {
    for name in ["minimal", "intercept"] {
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
        "minimal-plugin" => (MINIMAL, false),
        _ => ("", true),
    };
    keeps_the_laws(&library, &[given.as_deref().unwrap_or(params)], teaches);
}
