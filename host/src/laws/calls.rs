//! The laws of what a method announces, of routing and of interception.

use engraft_plugin_api::{
    ActivePatch, Change, GenerateRequest, InterceptCall, InterceptRow, Route, RouteQuery, RunRequest, Site, Tap,
    Tensor, TrainData,
};
use ndarray::{Array2, ArrayViewD, Axis};

use super::trial::Trial;
use super::{Held, Verdict, hold};
use crate::base::{Cancel, Error};
use crate::plugins::Deaf;

/// A patch of the method, as its own changes make it.
#[derive(Default)]
struct Own<'t> {
    state: &'t [u8],
    sites: &'t [Site],
    routed: bool,
}

impl<'t> Own<'t> {
    fn of(trial: &'t Trial) -> Result<Self, String> {
        let mut own = Self::default();
        for change in trial.changes()? {
            match change {
                Change::State(state) => own.state = state,
                Change::Intercept { sites, .. } => own.sites = sites,
                Change::Route => own.routed = true,
                _ => {}
            }
        }
        Ok(own)
    }

    fn patch(&self) -> ActivePatch<'_> {
        ActivePatch { id: "a", state: self.state }
    }
}

pub(super) fn the_unannounced_is_refused(trial: &Trial) -> Verdict {
    let method = trial.untrained().map_err(|e| format!("the method is not created: {e:?}"))?;
    let (calls, access) = (trial.library.calls(), trial.access(&Deaf, &Cancel::new()));
    if calls.train && calls.route && calls.intercept {
        return Ok(Held::NotApplicable("the method announces every call"));
    }
    let refused = |call: &str, error: Option<Error>| match error {
        Some(error) => hold(error.code().id == "plugin-call", || format!("`{call}` ended with {error:?}")),
        None => Err(format!("`{call}` was answered")),
    };
    if !calls.train {
        refused("train", method.train(&access, &TrainData::default()).err())?;
    }
    if !calls.route {
        let query = RouteQuery { tokens: trial.prompt(&trial.requests[0])?, patches: vec![] };
        refused("route", method.route(&access, &query).err())?;
    }
    if !calls.intercept {
        let (activation, positions) = (Tensor::zeros([1, 1, 1]), Array2::zeros((1, 1)));
        let call = InterceptCall {
            site: Site::Embed,
            activation: activation.view().map_err(|e| e.to_string())?,
            positions: positions.view(),
            rows: vec![InterceptRow::default()],
            patches: vec![],
        };
        refused("intercept", method.intercept(&call).err())?;
    }
    Ok(Held::Kept)
}

pub(super) fn edits_ask_for_announced_calls(trial: &Trial) -> Verdict {
    let calls = trial.library.calls();
    let facts = trial.model.facts().map_err(|e| format!("{e:?}"))?;
    let changes = trial.changes()?;
    for change in changes {
        match change {
            Change::Route => hold(calls.route, || "it asks for `route`, which it does not announce".into())?,
            Change::Intercept { .. } => {
                hold(calls.intercept, || "it asks for `intercept`, which it does not announce".into())?;
            }
            Change::Slots(slots) => slots.check(facts.d_model).map_err(|e| e.to_string())?,
            Change::Splice(splice) => splice.check().map_err(|e| e.to_string())?,
            _ => {}
        }
    }
    let states = changes.iter().filter(|change| matches!(change, Change::State(_))).count();
    hold(states <= 1, || format!("its patch has {states} states"))?;
    Ok(Held::Kept)
}

pub(super) fn routes_are_steady(trial: &Trial) -> Verdict {
    if !trial.library.calls().route {
        return Ok(Held::NotApplicable("the method does not route"));
    }
    let own = Own::of(trial)?;
    if !own.routed {
        return Ok(Held::NotApplicable("its edits do not ask for `route`"));
    }
    let (method, tokens) = (trial.method()?, trial.prompt(&trial.requests[0])?);
    let ask = |tokens: &[u32]| {
        let query = RouteQuery { tokens: tokens.to_vec(), patches: vec![own.patch()] };
        method.route(&trial.access(&Deaf, &Cancel::new()), &query).map_err(|e| format!("`route` fails: {e:?}"))
    };
    let first = ask(&tokens)?;
    ask(&tokens[..1])?;
    let again = ask(&tokens)?;
    hold(again == first, || format!("{first:?}, then {again:?}"))?;
    for route in at_once(|| ask(&tokens)) {
        let route = route?;
        hold(route == first, || format!("{first:?}, and {route:?} from another thread"))?;
    }
    Ok(Held::Kept)
}

pub(super) fn routes_are_carried_out(trial: &Trial) -> Verdict {
    if !trial.library.calls().route {
        return Ok(Held::NotApplicable("the method does not route"));
    }
    if !Own::of(trial)?.routed {
        return Ok(Held::NotApplicable("its edits do not ask for `route`"));
    }
    trial.undone(|| {
        trial.commit(&trial.requests[0], trial.changes()?)?;
        for request in &trial.requests {
            let question =
                GenerateRequest { rows: vec![trial.prompt(request)?], max_new: 2, ..GenerateRequest::default() };
            let answer = trial.model.generate(&question);
            answer.map_err(|e| format!("`{}` is not answered: {e:?}", request.prompt))?;
        }
        let target = trial.target()?;
        hold(!target.is_nan() && target <= 0.0, || format!("the target has the log-probability {target}"))?;
        Ok(Held::Kept)
    })
}

/// The answers of three threads.
fn at_once<T: Send>(ask: impl Fn() -> Result<T, String> + Sync) -> Vec<Result<T, String>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(&ask)).collect();
        let answer = |thread: std::thread::ScopedJoinHandle<'_, Result<T, String>>| {
            thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))
        };
        threads.into_iter().map(answer).collect()
    })
}

pub(super) fn no_patches_no_route(trial: &Trial) -> Verdict {
    if !trial.library.calls().route {
        return Ok(Held::NotApplicable("the method does not route"));
    }
    let query = RouteQuery { tokens: trial.prompt(&trial.requests[0])?, patches: vec![] };
    let route = trial.method()?.route(&trial.access(&Deaf, &Cancel::new()), &query);
    let route = route.map_err(|e| format!("`route` fails: {e:?}"))?;
    hold(matches!(&route, Route::Base) || route == Route::Changes(vec![]), || format!("{route:?}"))?;
    Ok(Held::Kept)
}

pub(super) fn interceptions_are_confined(trial: &Trial) -> Verdict {
    if !trial.library.calls().intercept {
        return Ok(Held::NotApplicable("the method does not intercept"));
    }
    let own = Own::of(trial)?;
    if own.sites.is_empty() {
        return Ok(Held::NotApplicable("its edits do not ask for `intercept`"));
    }
    let (method, prompt) = (trial.method()?, trial.prompt(&trial.requests[0])?);
    let rows = vec![prompt.clone(), prompt.clone(), prompt[..1].to_vec()];
    let columns = prompt.len();
    let position = |(row, column): (usize, usize)| if column < rows[row].len() { column as i64 } else { -1 };
    let positions = Array2::from_shape_fn((rows.len(), columns), position);
    let sees = |row: usize| row != 1;
    for &site in own.sites {
        let taps = vec![Tap { site, places: None }];
        let run = trial.model.run(&RunRequest { rows: rows.clone(), taps, ..RunRequest::default() });
        let activation = run.map_err(|e| format!("the model does not run: {e:?}"))?.taps.remove(0);
        let old = activation.view().map_err(|e| e.to_string())?;
        let row = |row: usize| InterceptRow {
            prompt_end: rows[row].len() - 1,
            patches: if sees(row) { vec![0] } else { vec![] },
        };
        let call = InterceptCall {
            site,
            activation: old.view(),
            positions: positions.view(),
            rows: (0..rows.len()).map(row).collect(),
            patches: vec![own.patch()],
        };
        let ask = || method.intercept(&call).map_err(|e| format!("`intercept` fails: {e:?}"));
        let first = ask()?;
        for other in at_once(ask) {
            hold(other? == first, || format!("`{site}` has another value in another thread"))?;
        }
        let Some(new) = first else { continue };
        let new = new.view().map_err(|e| e.to_string())?;
        for (row, tokens) in rows.iter().enumerate() {
            for column in (0..columns).filter(|&column| !sees(row) || column >= tokens.len()) {
                let bits = |view: &ArrayViewD<'_, f32>| -> Vec<u32> {
                    let row = view.index_axis(Axis(0), row);
                    let at = row.index_axis(Axis(0), column);
                    at.iter().map(|v| v.to_bits()).collect()
                };
                hold(bits(&new) == bits(&old), || format!("`{site}` changed at row {row}, column {column}"))?;
            }
        }
    }
    Ok(Held::Kept)
}
