//! What must hold for every ROME edit, on a model small enough to be checked by hand.

use std::collections::BTreeMap;

use engraft_method_common::solve::{dot, norm};
use engraft_method_common::testing::{Mock, request};
use engraft_plugin_api::{
    BlockSite, Change, Delta, EditMethod, MethodError, ModelAccess, ParamValue, Params, Place, Plugin, RunRequest,
    Site, Tap,
};
use engraft_rome::{Rome, RomeParams};

const PROMPT: &str = "The mother of {} is";
const FILLED: &str = "The mother of Ada Vorn is";

fn rome(pairs: &[(&str, &str)]) -> Box<dyn EditMethod> {
    let mut given = BTreeMap::from([("layer".to_owned(), ParamValue::Integer(0))]);
    for (key, value) in pairs {
        let value = match value.parse::<f64>() {
            Ok(number) if number.fract() == 0.0 => ParamValue::Integer(number as i64),
            Ok(number) => ParamValue::Number(number),
            Err(_) => ParamValue::Text((*value).to_owned()),
        };
        given.insert((*key).to_owned(), value);
    }
    Rome::create(&Params::resolve(&given, &RomeParams::specs()).expect("resolves")).expect("creates")
}

fn edit(mock: &Mock, pairs: &[(&str, &str)]) -> Result<Vec<Change>, MethodError> {
    rome(pairs).edit(mock, &[request(PROMPT, Some("Ada Vorn"), "Kelm")])
}

fn factors(changes: &[Change]) -> (Vec<f32>, Vec<f32>) {
    let [Change::Weight { delta: Delta::LowRank { left, right }, weight }] = changes else {
        panic!("one low-rank change, found {changes:?}");
    };
    assert_eq!(weight.to_string(), "blocks.0.mlp.W_out");
    assert_eq!((left.shape()[1], right.shape()[0]), (1, 1), "rank one");
    (left.as_f32().expect("floats").to_vec(), right.as_f32().expect("floats").to_vec())
}

/// `site` at the last token of the subject, after each template.
fn at_subject(mock: &Mock, site: BlockSite, templates: &[String], under: &[Change]) -> Vec<Vec<f32>> {
    let rows: Vec<Vec<u32>> = templates
        .iter()
        .map(|t| mock.tokenize(&t.replace("{}", "The mother of Ada Vorn")).expect("known words").ids)
        .collect();
    let places = rows.iter().enumerate().map(|(row, ids)| Place { row, pos: ids.len() - 1 }).collect();
    let taps = vec![Tap { site: Site::Block(0, site), places: Some(places) }];
    let reply = mock.run(&RunRequest { rows, taps, under: under.to_vec(), ..RunRequest::default() }).expect("runs");
    reply.taps[0].matrix().expect("matrix").outer_iter().map(|r| r.to_vec()).collect()
}

fn mean(rows: &[Vec<f32>]) -> Vec<f32> {
    (0..rows[0].len()).map(|i| rows.iter().map(|r| r[i]).sum::<f32>() / rows.len() as f32).collect()
}

fn templates(mock: &Mock) -> Vec<String> {
    std::iter::once("{}".to_owned()).chain(mock.facts().prefixes).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    norm(&a.iter().zip(b).map(|(x, y)| x - y).collect::<Vec<_>>()) / norm(b)
}

/// δ of an edit with the bare key: what the layer's output gains at the subject.
fn gained(mock: &Mock, changes: &[Change]) -> (Vec<f32>, Vec<f32>) {
    let bare = ["{}".to_owned()];
    let before = at_subject(mock, BlockSite::MlpProj, &bare, &[]).remove(0);
    let after = at_subject(mock, BlockSite::MlpProj, &bare, changes).remove(0);
    (after.iter().zip(&before).map(|(a, b)| a - b).collect(), before)
}

#[test]
fn the_target_becomes_likely_under_every_policy() {
    let mock = Mock::new(1);
    let before = mock.log_probability(FILLED, " Kelm", &[]).expect("scores");
    for policy in ["rome", "r_rome", "r_rome_prompt"] {
        for covariance in ["none", "second_moment"] {
            let pairs =
                [("key_policy", policy), ("covariance", covariance), ("prefixes", "fixed"), ("v_weight_decay", "0.01")];
            let changes = edit(&mock, &pairs).expect("edits");
            let after = mock.log_probability(FILLED, " Kelm", &changes).expect("scores");
            assert!(after > before + 1.0, "{policy} {covariance}: {before} to {after}");
        }
    }
}

#[test]
fn the_layer_gives_the_target_value_at_the_key() {
    // The search does not depend on policy or covariance, so every edit has the same v* = v0 + delta.
    let mock = Mock::new(1);
    let pairs = |policy, covariance| [("key_policy", policy), ("covariance", covariance), ("prefixes", "fixed")];
    let reference = edit(&mock, &pairs("rome", "none")).expect("edits");
    let (delta, start) = gained(&mock, &reference);
    let value: Vec<f32> = start.iter().zip(&delta).map(|(v, d)| v + d).collect();
    for (policy, covariance) in
        [("rome", "second_moment"), ("r_rome_prompt", "none"), ("r_rome_prompt", "second_moment")]
    {
        let changes = edit(&mock, &pairs(policy, covariance)).expect("edits");
        let after = at_subject(&mock, BlockSite::MlpProj, &["{}".to_owned()], &changes).remove(0);
        assert!(distance(&after, &value) < 1e-5, "{policy} {covariance}");
    }
    for covariance in ["none", "second_moment"] {
        // R-ROME: at the mean key; the layer is linear, so the mean of its outputs is the output at the mean key.
        let changes = edit(&mock, &pairs("r_rome", covariance)).expect("edits");
        let after = mean(&at_subject(&mock, BlockSite::MlpProj, &templates(&mock), &changes));
        assert!(distance(&after, &value) < 1e-5, "r_rome {covariance}");
    }
}

#[test]
fn the_direction_is_the_solved_key() {
    let mock = Mock::new(1);
    let key = mean(&at_subject(&mock, BlockSite::MlpPost, &templates(&mock), &[]));
    let (left, _) = factors(&edit(&mock, &[("covariance", "none"), ("prefixes", "fixed")]).expect("edits"));
    assert!((dot(&left, &key) / (norm(&left) * norm(&key)) - 1.0).abs() < 1e-6, "C = I: along k*");
    let (left, _) = factors(&edit(&mock, &[("prefixes", "fixed")]).expect("edits"));
    let moment = mock.second_moment(Site::Block(0, BlockSite::MlpPost)).expect("has one").matrix;
    let back: Vec<f32> =
        moment.matrix().expect("matrix").outer_iter().map(|r| dot(&r.to_vec(), &left) as f32).collect();
    assert!((dot(&back, &key) / (norm(&back) * norm(&key)) - 1.0).abs() < 1e-6, "C u along k*");
}

#[test]
fn delta_stays_within_the_clamp() {
    let mock = Mock::new(1);
    let pairs = [("clamp_norm_factor", "0.25"), ("prefixes", "none"), ("covariance", "none")];
    let (delta, start) = gained(&mock, &edit(&mock, &pairs).expect("edits"));
    let share = norm(&delta) / norm(&start);
    assert!((0.2..=0.25 + 1e-5).contains(&share), "{share}");
}

#[test]
fn the_policies_agree_on_the_bare_prompt() {
    let mock = Mock::new(1);
    let edits = ["rome", "r_rome", "r_rome_prompt"]
        .map(|policy| edit(&mock, &[("key_policy", policy), ("prefixes", "none")]).expect("edits"));
    assert_eq!(edits[0], edits[1]);
    assert_eq!(edits[0], edits[2]);
}

#[test]
fn the_same_seed_gives_the_same_changes() {
    let method = rome(&[("prefix_count", "2")]);
    let with = |seed| method.edit(&Mock::new(1).seeded(seed), &[request(PROMPT, Some("Ada Vorn"), "Kelm")]);
    let first = with(5).expect("edits");
    assert_eq!(with(5), Ok(first.clone()));
    assert_ne!(with(6).expect("edits"), first, "the prefixes are sampled");
}

#[test]
fn one_edit_is_two_passes_and_one_gradient_a_step() {
    let mock = Mock::new(1);
    let method = rome(&[("prefixes", "fixed"), ("early_stop_loss", "0")]);
    for _ in 0..2 {
        method.edit(&mock, &[request(PROMPT, Some("Ada Vorn"), "Kelm")]).expect("edits");
    }
    // A pass reads keys and values, another the distribution that the divergence keeps to.
    let calls = mock.calls();
    assert_eq!((calls.runs, calls.gradients, calls.moments), (4, 40, 1));
}

#[test]
fn faults_have_their_codes() {
    let mock = Mock::new(1);
    let code = |prompt: &str, subject: Option<&str>, target: &str| {
        let found = rome(&[("prefixes", "fixed")]).edit(&mock, &[request(prompt, subject, target)]);
        found.map_err(|e| e.code).expect_err("is refused")
    };
    assert_eq!(code(FILLED, Some("Ada Vorn"), "Kelm"), "subject-missing");
    assert_eq!(code(FILLED, None, "Kelm"), "subject-missing");
    assert_eq!(code(PROMPT, Some("Ada Vorn"), ""), "target-empty");
    assert_eq!(code(PROMPT, Some("Ada Vorn"), &["Kelm"; 64].join(" ")), "target-too-long");
    let cancelled = Mock::new(1).cancelled_after(3);
    assert_eq!(edit(&cancelled, &[]).map_err(|e| e.code), Err(MethodError::CANCELLED.into()));
    let two = vec![request(PROMPT, Some("Ada Vorn"), "Kelm"); 2];
    assert_eq!(rome(&[]).edit(&mock, &two).map_err(|e| e.code), Err("batch-unsupported".into()));
    assert_eq!(rome(&[]).edit(&mock, &[]), Ok(Vec::new()));
}

#[test]
fn nothing_to_change_gives_no_change() {
    let pairs = [("early_stop_loss", "1000"), ("prefixes", "none"), ("covariance", "none")];
    assert_eq!(edit(&Mock::new(1), &pairs), Ok(Vec::new()));
}
