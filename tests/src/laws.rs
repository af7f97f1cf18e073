//! The laws that every editing method keeps, on a real model.

use engraft::base::{Cancel, Class};
use engraft::model::{Continuation, Model, Proposal};
use engraft::plugins::{Access, Method};
use engraft_plugin_api::{Change, EditRequest, Place, RunRequest};

/// A law that does not hold, in words.
pub type Verdict = Result<(), String>;

/// Checks every law. The model has no patches before and after.
///
/// # Errors
/// The first law that does not hold.
pub fn all(model: &Model, method: &Method, request: &EditRequest) -> Verdict {
    edit_touches_nothing(model, method, request)?;
    same_seed_same_changes(model, method, request)?;
    no_requests_no_changes(model, method)?;
    only_weights_of_the_model(model, method, request)?;
    cancelling_is_honoured(model, method, request)?;
    unknown_parameters_are_refused(method)?;
    commit_moves_the_target_and_rollback_restores(model, method, request)
}

fn edit(model: &Model, method: &Method, requests: &[EditRequest]) -> Result<Vec<Change>, String> {
    method.edit(&Access::new(model, Cancel::new(), 7), requests).map_err(|e| format!("edit fails: {e:?}"))
}

fn prompt(model: &Model, request: &EditRequest) -> Vec<u32> {
    let text = request.filled().expect("the prompt fills");
    model.tokenizer().expect("has one").encode(&text).expect("encodes").ids
}

/// Logits after every token of the prompt, as bits.
fn bits(model: &Model, request: &EditRequest) -> Vec<u32> {
    let row = prompt(model, request);
    let logits = (0..row.len()).map(|pos| Place { row: 0, pos }).collect();
    let reply = model.run(&RunRequest { rows: vec![row], logits, ..RunRequest::default() }).expect("runs");
    reply.logits.as_f32().expect("floats").iter().map(|v| v.to_bits()).collect()
}

/// The log-probability of the target.
fn target(model: &Model, request: &EditRequest) -> f32 {
    let tokens = model.tokenizer().expect("has one").encode(&format!(" {}", request.target.new)).expect("encodes").ids;
    let scored = model.score(&[Continuation { prompt: prompt(model, request), tokens }]).expect("scores");
    scored[0].log_probs.iter().sum()
}

fn law(holds: bool, text: &str) -> Verdict {
    if holds { Ok(()) } else { Err(text.to_owned()) }
}

/// `edit` leaves the logits bit-equal.
pub fn edit_touches_nothing(model: &Model, method: &Method, request: &EditRequest) -> Verdict {
    let before = bits(model, request);
    edit(model, method, std::slice::from_ref(request))?;
    law(bits(model, request) == before, "`edit` changed the model")
}

/// The same seed gives the same changes.
pub fn same_seed_same_changes(model: &Model, method: &Method, request: &EditRequest) -> Verdict {
    let one = edit(model, method, std::slice::from_ref(request))?;
    let two = edit(model, method, std::slice::from_ref(request))?;
    law(one == two, "the same seed gave other changes")
}

/// No requests give no changes.
pub fn no_requests_no_changes(model: &Model, method: &Method) -> Verdict {
    law(edit(model, method, &[])?.is_empty(), "changes without a request")
}

/// Only weights that the model has are changed.
pub fn only_weights_of_the_model(model: &Model, method: &Method, request: &EditRequest) -> Verdict {
    let changes = edit(model, method, std::slice::from_ref(request))?;
    model.validate(&changes, Default::default()).map(drop).map_err(|e| format!("the changes are refused: {e:?}"))
}

/// A cancelled edit stops with the class of an interruption.
pub fn cancelling_is_honoured(model: &Model, method: &Method, request: &EditRequest) -> Verdict {
    let cancel = Cancel::new();
    cancel.cancel();
    match method.edit(&Access::new(model, cancel, 7), std::slice::from_ref(request)) {
        Err(error) => law(error.code().class == Class::Interrupted, &format!("cancelling gave {error:?}")),
        Ok(_) => Err("a cancelled edit went on to its end".into()),
    }
}

/// A parameter that is not declared has a coded error.
pub fn unknown_parameters_are_refused(method: &Method) -> Verdict {
    let table = "no-such-parameter = 1".parse().expect("is TOML");
    match method.library().configure(&table) {
        Err(error) => law(error.code().id == "param-unknown", &format!("an unknown parameter gave {error:?}")),
        Ok(_) => Err("an unknown parameter was accepted".into()),
    }
}

/// A commit makes the target more probable; its rollback restores state and logits to the bit.
pub fn commit_moves_the_target_and_rollback_restores(model: &Model, method: &Method, request: &EditRequest) -> Verdict {
    let before = (model.state_hash(), bits(model, request), target(model, request));
    let descriptor = method.library().descriptor();
    let changes = edit(model, method, std::slice::from_ref(request))?;
    let id = model
        .commit(Proposal {
            method: descriptor.name.clone(),
            version: descriptor.version.clone(),
            params: method.params().clone(),
            requests: vec![request.clone()],
            changes,
        })
        .map_err(|e| format!("the commit is refused: {e:?}"))?;
    let moved = target(model, request);
    model.rollback(&id).map_err(|e| format!("the rollback fails: {e:?}"))?;
    law(moved > before.2, &format!("the target's log-probability went from {} to {moved}", before.2))?;
    law(model.state_hash() == before.0, "a rollback left another state")?;
    law(bits(model, request) == before.1, "a rollback left other logits")
}
