//! The laws of `edit`, of what becomes of its changes, and of parameters.

use std::sync::atomic::{AtomicBool, Ordering};

use engraft_plugin_api::{Change, Level, ParamKind, Site};
use toml::{Table, Value};

use super::trial::Trial;
use super::{Held, Verdict, hold};
use crate::base::{Cancel, Class, Error};
use crate::model::Limits;
use crate::plugins::{Deaf, Listener};

/// Why a law that commits says nothing.
const UNSUPPORTED: Held = Held::NotApplicable("this host does not carry out one of its changes");

pub(super) fn creating_succeeds(trial: &Trial) -> Verdict {
    trial.untrained().map_err(|e| format!("{e:?}"))?;
    Ok(Held::Kept)
}

pub(super) fn dropping_is_quiet(trial: &Trial) -> Verdict {
    trial.method()?.close().map_err(|e| format!("{e:?}"))?;
    Ok(Held::Kept)
}

pub(super) fn edit_touches_nothing(trial: &Trial) -> Verdict {
    let before = (trial.model.state_hash(), trial.model.history().len(), trial.bits()?);
    trial.edit(trial.request())?;
    hold(trial.model.state_hash() == before.0, || "the state is another".into())?;
    hold(trial.model.history().len() == before.1, || "the journal grew".into())?;
    hold(trial.bits()? == before.2, || "the logits are others".into())?;
    Ok(Held::Kept)
}

/// True for what takes part in every pass.
fn always_acts(change: &Change) -> bool {
    matches!(change, Change::Weight { .. } | Change::Slots(_) | Change::Splice(_))
}

pub(super) fn rollback_restores(trial: &Trial) -> Verdict {
    if trial.unsupported()? {
        return Ok(UNSUPPORTED);
    }
    let acts = trial.changes()?.iter().any(always_acts);
    let before = (trial.model.state_hash(), trial.bits()?);
    let during = trial.undone(|| {
        trial.commit(&trial.requests[0], trial.changes()?)?;
        Ok((trial.model.state_hash(), trial.bits()?))
    })?;
    if acts {
        hold(during.0 != before.0, || "the commit left the state as it was".into())?;
        hold(during.1 != before.1, || "the commit left the logits as they were".into())?;
    }
    hold(trial.model.state_hash() == before.0, || "the rollback left another state".into())?;
    hold(trial.bits()? == before.1, || "the rollback left other logits".into())?;
    Ok(Held::Kept)
}

pub(super) fn any_patch_can_go(trial: &Trial) -> Verdict {
    if !trial.library.descriptor().capabilities.sequential {
        return Ok(Held::NotApplicable("the method does not announce edits on top of earlier edits"));
    }
    let [one, two, ..] = trial.requests.as_slice() else {
        return Ok(Held::NotApplicable("there is one request only"));
    };
    if trial.unsupported()? {
        return Ok(UNSUPPORTED);
    }
    trial.undone(|| {
        let failed = |e: Error| format!("{e:?}");
        let first = trial.commit(one, trial.changes()?)?;
        let second = trial.commit(two, &trial.edit(std::slice::from_ref(two))?)?;
        let patches = trial.model.patches();
        let patch = patches.iter().find(|(id, _)| *id == second).ok_or("the second patch is not there")?.1.clone();
        trial.model.rollback(&first).map_err(failed)?;
        let left = (trial.model.state_hash(), trial.bits()?);
        trial.model.rollback(&second).map_err(failed)?;
        trial.model.apply((*patch).clone()).map_err(failed)?;
        hold(trial.model.state_hash() == left.0, || {
            "what is left is another state than the second patch alone".into()
        })?;
        hold(trial.bits()? == left.1, || "what is left has other logits than the second patch alone".into())
    })?;
    Ok(Held::Kept)
}

pub(super) fn several_requests_are_one_edit(trial: &Trial) -> Verdict {
    if !trial.library.descriptor().capabilities.batch {
        return Ok(Held::NotApplicable("the method does not announce several requests at once"));
    }
    if trial.requests.len() < 2 {
        return Ok(Held::NotApplicable("there is one request only"));
    }
    accepted(trial, &trial.edit(&trial.requests)?)
}

pub(super) fn same_seed_same_changes(trial: &Trial) -> Verdict {
    let (one, two) = (trial.changes()?, trial.edit(trial.request())?);
    hold(one == two, || format!("{} and {} changes, which differ", one.len(), two.len()))?;
    Ok(Held::Kept)
}

pub(super) fn no_requests_no_changes(trial: &Trial) -> Verdict {
    let changes = trial.edit(&[])?;
    hold(changes.is_empty(), || format!("{} changes", changes.len()))?;
    Ok(Held::Kept)
}

pub(super) fn only_parts_of_the_model(trial: &Trial) -> Verdict {
    let changes = trial.changes()?;
    let facts = trial.model.facts().map_err(|e| format!("{e:?}"))?;
    hold(!changes.is_empty(), || "a request that the model does not fulfil gave no changes".into())?;
    let sites = |sites: &[Site]| match sites.iter().find(|site| !facts.sites.contains(site)) {
        Some(site) => Err(format!("there is no `{site}`")),
        None => Ok(()),
    };
    for change in changes {
        match change {
            Change::Weight { weight, .. } => {
                hold(facts.weights.contains(weight), || format!("there is no `{weight}`"))?;
            }
            Change::Slots(slots) => hold(slots.layer < facts.layers, || format!("there is no layer {}", slots.layer))?,
            Change::Splice(splice) => {
                sites(&splice.reads)?;
                sites(&[splice.writes])?;
            }
            Change::Intercept { sites: intercepted, .. } => sites(intercepted)?,
            Change::Route | Change::State(_) | Change::Statistic(_) => {}
            other => return Err(format!("an unknown kind of change: {other:?}")),
        }
    }
    if trial.unsupported()? { Ok(UNSUPPORTED) } else { accepted(trial, changes) }
}

fn accepted(trial: &Trial, changes: &[Change]) -> Verdict {
    trial.model.validate(changes, Limits::default()).map_err(|e| format!("the changes are refused: {e:?}"))?;
    Ok(Held::Kept)
}

pub(super) fn bad_parameters_are_refused(trial: &Trial) -> Verdict {
    let refused = |table: &Table, key: &str, code: &str| match trial.library.configure(table) {
        Err(error) => hold(error.code().id == code, || format!("`{key}`: expected [{code}], found {error:?}")),
        Ok(_) => Err(format!("`{key}`: expected [{code}], but {table} was accepted")),
    };
    let with = |key: &str, value: Value| {
        let mut table = trial.given.clone();
        table.insert(key.to_owned(), value);
        table
    };
    refused(&with("no-such-parameter", Value::Integer(1)), "no-such-parameter", "param-unknown")?;
    for spec in &trial.library.descriptor().params {
        let key = spec.name.as_str();
        if spec.default.is_none() {
            let mut table = trial.given.clone();
            table.remove(key);
            refused(&table, key, "param-missing")?;
        }
        let other_type = match spec.kind {
            ParamKind::Flag => Value::Integer(1),
            _ => Value::Boolean(true),
        };
        refused(&with(key, other_type), key, "param-type")?;
        let outside = match &spec.kind {
            ParamKind::Integer { min, max } => max.checked_add(1).or(min.checked_sub(1)).map(Value::Integer),
            ParamKind::Number { .. } => Some(Value::Float(f64::NAN)),
            ParamKind::Layer => Some(Value::Integer(-1)),
            ParamKind::Choice(_) => Some(Value::String("no-such-choice".into())),
            _ => None,
        };
        if let Some(outside) = outside {
            refused(&with(key, outside), key, "param-range")?;
        }
    }
    Ok(Held::Kept)
}

pub(super) fn absent_layers_are_refused(trial: &Trial) -> Verdict {
    let layers = trial.model.anatomy().layers;
    let absent = Value::Integer(layers as i64);
    let mut held = Held::NotApplicable("no parameter is a layer");
    for spec in &trial.library.descriptor().params {
        let value = match &spec.kind {
            ParamKind::Layer => absent.clone(),
            ParamKind::List(element) if matches!(**element, ParamKind::Layer) => Value::Array(vec![absent.clone()]),
            _ => continue,
        };
        held = Held::Kept;
        let mut table = trial.given.clone();
        table.insert(spec.name.clone(), value);
        let made = match trial.library.configure(&table) {
            Ok(params) => trial.made(params)?,
            Err(error) => Err(error),
        };
        let outcome = made.and_then(|method| {
            let changes = method.edit(&trial.access(&Deaf, &Cancel::new()), trial.request())?;
            trial.model.validate(&changes, Limits::default())
        });
        match outcome {
            Ok(_) => return Err(format!("`{}` = {layers} was accepted", spec.name)),
            Err(e) => hold(!e.code().id.ends_with("panicked"), || format!("`{}`: {e:?}", spec.name))?,
        }
    }
    Ok(held)
}

/// That a call ended as an interruption.
pub(super) fn interrupted<T>(outcome: Result<T, Error>) -> Verdict {
    match outcome {
        Err(error) if error.code().class == Class::Interrupted => Ok(Held::Kept),
        Err(error) => Err(format!("it ended with {error:?}")),
        Ok(_) => Err("it went on to its end".into()),
    }
}

pub(super) fn cancelling_is_honoured(trial: &Trial) -> Verdict {
    let method = trial.method()?;
    let cancel = Cancel::new();
    cancel.cancel();
    interrupted(method.edit(&trial.access(&Deaf, &cancel), trial.request()))
}

pub(super) fn cancelling_on_the_way_is_honoured(trial: &Trial) -> Verdict {
    let method = trial.method()?;
    let stopper = Stopper { cancel: Cancel::new(), stopped: AtomicBool::new(false) };
    let outcome = method.edit(&trial.access(&stopper, &stopper.cancel), trial.request());
    if stopper.stopped.load(Ordering::SeqCst) {
        return interrupted(outcome);
    }
    outcome.map_err(|e| format!("`edit` fails: {e:?}"))?;
    Ok(Held::NotApplicable("an edit never says that something is left to do"))
}

/// Cancels at the first progress that is not the last.
struct Stopper {
    cancel: Cancel,
    stopped: AtomicBool,
}

impl Listener for Stopper {
    fn log(&self, _: Level, _: &str) {}

    fn progress(&self, done: u64, total: u64, _: &str) {
        if done < total {
            self.stopped.store(true, Ordering::SeqCst);
            self.cancel.cancel();
        }
    }
}

pub(super) fn commit_moves_the_target(trial: &Trial) -> Verdict {
    if !trial.teaches {
        return Ok(Held::NotApplicable("the method is not said to teach"));
    }
    let routes = |change: &Change| matches!(change, Change::Route | Change::State(_));
    if trial.untaught && trial.changes()?.iter().all(routes) {
        return Ok(Held::NotApplicable(
            "its edits act by routes alone, and a model with random weights takes up no prompt",
        ));
    }
    if trial.unsupported()? {
        return Ok(UNSUPPORTED);
    }
    let before = trial.target()?;
    let during = trial.undone(|| {
        trial.commit(&trial.requests[0], trial.changes()?)?;
        trial.target()
    })?;
    let after = trial.target()?;
    hold(during > before, || format!("its log-probability went from {before} to {during}"))?;
    hold(after.to_bits() == before.to_bits(), || {
        format!("it was {before} before the commit, {after} after its rollback")
    })?;
    Ok(Held::Kept)
}
