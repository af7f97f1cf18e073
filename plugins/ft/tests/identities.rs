//! What must hold for every fine-tuning edit, on a model small enough to be checked by hand.

use std::collections::BTreeMap;

use engraft_ft::{Ft, FtParams};
use engraft_method_common::testing::{Mock, request};
use engraft_plugin_api::{Change, Delta, EditMethod, EditRequest, MethodError, ParamValue, Params, Plugin};

const FILLED: &str = "The mother of Ada Vorn is";

fn create(pairs: &[(&str, ParamValue)]) -> Result<Box<dyn EditMethod>, MethodError> {
    let mut given = BTreeMap::from([("layers".to_owned(), ParamValue::List(vec![ParamValue::Integer(0)]))]);
    given.extend(pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
    Ft::create(&Params::resolve(&given, &FtParams::specs())?)
}

fn ft(objective: &str, epsilon: f64) -> Box<dyn EditMethod> {
    let pairs = [
        ("objective", ParamValue::Text(objective.into())),
        ("norm_constraint", ParamValue::Number(epsilon)),
        ("lr", ParamValue::Number(0.02)),
    ];
    create(&pairs).expect("creates")
}

fn fact(target: &str) -> EditRequest {
    request("The mother of {} is", Some("Ada Vorn"), target)
}

fn delta(changes: &[Change]) -> &[f32] {
    let [Change::Weight { delta: Delta::Dense(tensor), weight }] = changes else {
        panic!("one dense change, found {changes:?}");
    };
    assert_eq!(weight.to_string(), "blocks.0.mlp.W_out");
    tensor.as_f32().expect("floats")
}

fn largest(changes: &[Change]) -> f32 {
    delta(changes).iter().fold(0.0, |top, d| top.max(d.abs()))
}

#[test]
fn the_target_becomes_likely() {
    let mock = Mock::new(1);
    let score = |text: &str, target: &str, under: &[Change]| mock.log_probability(text, target, under).expect("scores");
    let changes = ft("prompt_last", 0.0).edit(&mock, &[fact("Kelm")]).expect("edits");
    assert!(score(FILLED, " Kelm", &changes) > -0.05);
    let masked = ft("target_new", 0.0).edit(&mock, &[fact("Kelm Tor")]).expect("edits");
    assert!(score(FILLED, " Kelm Tor", &masked) > -0.1);
    // `prompt_last` pushes both tokens as the first one, so neither can have more than about half.
    let both = ft("prompt_last", 0.0).edit(&mock, &[fact("Kelm Tor")]).expect("edits");
    for token in [" Kelm", " Tor"] {
        assert!((score(FILLED, token, &both).exp() - 0.5).abs() < 0.15, "{token}");
    }
}

#[test]
fn the_constraint_bounds_every_entry() {
    let mock = Mock::new(1);
    let constrained = ft("prompt_last", 1e-2).edit(&mock, &[fact("Kelm")]).expect("edits");
    assert_eq!(largest(&constrained), 1e-2, "some entry is at the bound");
    let free = ft("prompt_last", 0.0).edit(&mock, &[fact("Kelm")]).expect("edits");
    assert!(largest(&free) > 1e-2);
}

#[test]
fn requests_are_learned_together() {
    let mock = Mock::new(1);
    let requests = [fact("Kelm"), request("Bran plays", None, "sport"), request("So {} is", Some("Mil"), "Esk")];
    for batch_size in [64, 2] {
        let pairs = [
            ("lr", ParamValue::Number(0.02)),
            ("batch_size", ParamValue::Integer(batch_size)),
            ("steps", ParamValue::Integer(60)),
        ];
        let changes = create(&pairs).expect("creates").edit(&mock, &requests).expect("edits");
        for (text, target) in [(FILLED, " Kelm"), ("Bran plays", " sport"), ("So Mil is", " Esk")] {
            let score = mock.log_probability(text, target, &changes).expect("scores");
            assert!(score > -0.2, "batches of {batch_size}: {text}{target}: {score}");
        }
    }
}

#[test]
fn a_learned_target_takes_no_step() {
    let mock = Mock::new(1);
    let patient = create(&[("early_stop_loss", ParamValue::Number(1000.0))]).expect("creates");
    assert_eq!(patient.edit(&mock, &[fact("Kelm")]), Ok(Vec::new()));
    assert_eq!(mock.calls().gradients, 1);
    assert_eq!(patient.edit(&mock, &[]), Ok(Vec::new()));
}

#[test]
fn the_first_step_is_the_learning_rate_and_decay_pulls_back() {
    let mock = Mock::new(1);
    let one = |decay: f64| {
        let pairs = [
            ("steps", ParamValue::Integer(1)),
            ("lr", ParamValue::Number(1e-3)),
            ("weight_decay", ParamValue::Number(decay)),
        ];
        create(&pairs).expect("creates").edit(&mock, &[fact("Kelm")]).expect("edits")
    };
    assert!((largest(&one(0.0)) - 1e-3).abs() < 1e-6);
    // A decay that drowns the loss steps against the sign of the weight itself.
    let pulled = one(1e3);
    let tensor = engraft_plugin_api::ModelAccess::weight(&mock, "blocks.0.mlp.W_out".parse().expect("a weight"));
    let weight = tensor.expect("has it").into_f32().expect("floats");
    let against = delta(&pulled).iter().zip(&weight).filter(|(d, w)| d.signum() != w.signum()).count();
    assert!(against * 100 > weight.len() * 97, "{against} of {}", weight.len());
}

#[test]
fn equal_calls_give_equal_changes() {
    let mock = Mock::new(1);
    let method = ft("target_new", 5e-3);
    let first = method.edit(&mock, &[fact("Kelm Tor")]);
    assert!(first.is_ok());
    assert_eq!(method.edit(&mock, &[fact("Kelm Tor")]), first);
}

#[test]
fn faults_have_their_codes() {
    let mock = Mock::new(1);
    let code = |request: EditRequest| ft("target_new", 0.0).edit(&mock, &[request]).map_err(|e| e.code).err();
    assert_eq!(code(fact(" ")).as_deref(), Some("target-empty"));
    assert_eq!(code(fact(&["Kelm"; 64].join(" "))).as_deref(), Some("target-too-long"));
    assert_eq!(code(request(FILLED, Some("Ada Vorn"), "Kelm")).as_deref(), Some("subject-missing"));
    let cancelled = Mock::new(1).cancelled_after(3);
    let found = ft("prompt_last", 0.0).edit(&cancelled, &[fact("Kelm")]);
    assert_eq!(found.map_err(|e| e.code), Err(MethodError::CANCELLED.into()));
    let twice = ParamValue::List(vec![ParamValue::Integer(1), ParamValue::Integer(1)]);
    for layers in [twice, ParamValue::List(Vec::new())] {
        assert_eq!(create(&[("layers", layers)]).err().map(|e| e.code).as_deref(), Some("param-range"));
    }
}
