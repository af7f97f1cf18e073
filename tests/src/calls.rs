//! The laws of the calls that a method may have besides `edit`: training, routing, interception.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use engraft::base::{Cancel, Class};
use engraft::plugins::{Access, Listener, Method};
use engraft_plugin_api::ndarray::{Array2, ArrayViewD, Axis};
use engraft_plugin_api::{
    ActivePatch, Artefact, Change, Checkpoint, EditRequest, InterceptCall, InterceptRow, Level, MethodError, Route,
    RouteQuery, RunRequest, Site, Tap, Tensor, TrainData,
};

use crate::laws::{Case, Verdict, hold};

/// A law: its name, and the function that checks it.
pub type Law = (&'static str, fn(&Trial) -> Verdict);

/// A method with parameters, what it is tried on, and what it may learn from.
pub struct Trial<'a> {
    /// The method, its parameters and the model.
    pub case: Case<'a>,
    /// Little, and enough for a method to come to an end with; without a checkpoint.
    pub data: TrainData,
}

/// Every law. Those of calls that the method does not announce hold for themselves.
pub fn all() -> [Law; 10] {
    [
        ("what is not announced is not called", the_unannounced_is_refused),
        ("an edit asks for announced calls only", edits_ask_for_announced_calls),
        ("the same query has the same route", routes_are_steady),
        ("nothing to show, nothing to route", no_patches_no_route),
        ("the same seed gives the same artefact", same_seed_same_artefact),
        ("a training that was cut off ends as if it had not been", resuming_is_exact),
        ("a cancelled training stops", cancelled_trainings_stop),
        ("an artefact of another model is refused", artefacts_are_bound),
        ("a damaged artefact is no panic", damaged_artefacts_are_survived),
        ("an interception leaves alone what it does not own", interceptions_are_confined),
    ]
}

/// Checks every law.
///
/// # Errors
/// The first law that does not hold.
pub fn check(trial: &Trial) -> Verdict {
    all().into_iter().try_for_each(|(name, law)| law(trial).map_err(|found| format!("law broken: {name}: {found}")))
}

/// Keeps checkpoints, and cancels after so many.
struct Keeper {
    kept: Mutex<Vec<Checkpoint>>,
    until: AtomicUsize,
    cancel: Cancel,
}

impl Keeper {
    fn new(until: usize) -> Self {
        Self { kept: Mutex::default(), until: AtomicUsize::new(until), cancel: Cancel::new() }
    }

    fn kept(&self) -> Vec<Checkpoint> {
        self.kept.lock().expect("no panic").clone()
    }
}

impl Listener for Keeper {
    fn log(&self, _: Level, _: &str) {}

    fn progress(&self, _: u64, _: u64, _: &str) {}

    fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), MethodError> {
        let mut kept = self.kept.lock().expect("no panic");
        kept.push(checkpoint.clone());
        if kept.len() >= self.until.load(Ordering::SeqCst) {
            self.cancel.cancel();
        }
        Ok(())
    }
}

/// A patch of the method, as its own changes make it.
struct Own {
    id: String,
    state: Vec<u8>,
    sites: Vec<Site>,
    routed: bool,
}

impl Trial<'_> {
    fn access<'k>(&'k self, keeper: &'k Keeper) -> Access<'k> {
        Access { listener: keeper, ..Access::new(self.case.model, keeper.cancel.clone(), 7) }
    }

    fn untrained(&self) -> Result<Method, String> {
        self.case.method()
    }

    fn train(&self, resume: Option<Checkpoint>, keeper: &Keeper) -> Result<Artefact, engraft::base::Error> {
        let method = self.untrained().expect("the method is created");
        method.train(&self.access(keeper), &TrainData { resume, ..self.data.clone() })
    }

    fn trained_from(&self, artefact: &Artefact) -> Result<Method, engraft::base::Error> {
        let params = self.untrained().expect("the method is created").params().clone();
        self.case.library.create_trained(params, artefact)
    }

    /// The method as it is used.
    fn method(&self) -> Result<Method, String> {
        if !self.case.library.calls().needs_artefact {
            return self.untrained();
        }
        let artefact = self.train(None, &Keeper::new(usize::MAX)).map_err(|e| format!("`train` fails: {e:?}"))?;
        self.trained_from(&artefact).map_err(|e| format!("its artefact is refused: {e:?}"))
    }

    fn edit(&self, requests: &[EditRequest]) -> Result<Vec<Change>, String> {
        let keeper = Keeper::new(usize::MAX);
        self.method()?.edit(&self.access(&keeper), requests).map_err(|e| format!("`edit` fails: {e:?}"))
    }

    fn own(&self) -> Result<Own, String> {
        let changes = self.edit(std::slice::from_ref(&self.case.request))?;
        let mut own = Own { id: "a".into(), state: Vec::new(), sites: Vec::new(), routed: false };
        for change in changes {
            match change {
                Change::State(state) => own.state = state,
                Change::Intercept { sites, .. } => own.sites = sites,
                Change::Route => own.routed = true,
                _ => {}
            }
        }
        Ok(own)
    }

    fn prompt(&self) -> Result<Vec<u32>, String> {
        self.case.prompt()
    }
}

/// Calls that the method does not announce have a code of their own and reach nothing.
///
/// # Errors
/// What became of the call.
pub fn the_unannounced_is_refused(trial: &Trial) -> Verdict {
    let (method, calls, keeper) = (trial.untrained()?, trial.case.library.calls(), Keeper::new(usize::MAX));
    let refused = |call: &str, error: Option<engraft::base::Error>| match error {
        Some(error) => hold(error.code().id == "plugin-call", || format!("`{call}` ended with {error:?}")),
        None => Err(format!("`{call}` was answered")),
    };
    if !calls.train {
        refused("train", method.train(&trial.access(&keeper), &trial.data).err())?;
    }
    if !calls.route {
        let query = RouteQuery { tokens: trial.prompt()?, patches: vec![] };
        refused("route", method.route(&trial.access(&keeper), &query).err())?;
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
    Ok(())
}

/// An edit marks its patch for announced calls, with at most one state, and its slots and splices fit themselves.
///
/// # Errors
/// The change that does not.
pub fn edits_ask_for_announced_calls(trial: &Trial) -> Verdict {
    let calls = trial.case.library.calls();
    let facts = trial.case.model.facts().map_err(|e| format!("{e:?}"))?;
    let changes = trial.edit(std::slice::from_ref(&trial.case.request))?;
    for change in &changes {
        match change {
            Change::Route => hold(calls.route, || "it asks for `route`, which it does not announce".into())?,
            Change::Intercept { sites, .. } => {
                hold(calls.intercept, || "it asks for `intercept`, which it does not announce".into())?;
                hold(sites.iter().all(|s| facts.sites.contains(s)), || format!("a site of {sites:?} is not there"))?;
            }
            Change::Slots(slots) => slots.check(facts.d_model).map_err(|e| e.to_string())?,
            Change::Splice(splice) => splice.check().map_err(|e| e.to_string())?,
            _ => {}
        }
    }
    let states = changes.iter().filter(|change| matches!(change, Change::State(_))).count();
    hold(states <= 1, || format!("its patch has {states} states"))
}

/// The same query has the same route: again, after other queries, and from several threads at once.
///
/// # Errors
/// The routes.
pub fn routes_are_steady(trial: &Trial) -> Verdict {
    let own = trial.own()?;
    if !own.routed {
        return Ok(());
    }
    let (method, tokens) = (trial.method()?, trial.prompt()?);
    let patches = vec![ActivePatch { id: &own.id, state: &own.state }];
    let ask = |tokens: &[u32]| {
        let keeper = Keeper::new(usize::MAX);
        let query = RouteQuery { tokens: tokens.to_vec(), patches: patches.clone() };
        method.route(&trial.access(&keeper), &query).map_err(|e| format!("`route` fails: {e:?}"))
    };
    let first = ask(&tokens)?;
    ask(&tokens[..1])?;
    let again = ask(&tokens)?;
    hold(again == first, || format!("{first:?}, then {again:?}"))?;
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| ask(&tokens))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for route in together {
        let route = route?;
        hold(route == first, || format!("{first:?}, and {route:?} from another thread"))?;
    }
    Ok(())
}

/// A request that sees no patch goes to the model as it is.
///
/// # Errors
/// Where it goes.
pub fn no_patches_no_route(trial: &Trial) -> Verdict {
    if !trial.case.library.calls().route {
        return Ok(());
    }
    let (keeper, query) = (Keeper::new(usize::MAX), RouteQuery { tokens: trial.prompt()?, patches: vec![] });
    let route = trial.method()?.route(&trial.access(&keeper), &query).map_err(|e| format!("`route` fails: {e:?}"))?;
    hold(matches!(&route, Route::Base) || route == Route::Changes(vec![]), || format!("{route:?}"))
}

/// Two trainings of the same data under the same seed give the same artefact, to the byte.
///
/// # Errors
/// That they do not.
pub fn same_seed_same_artefact(trial: &Trial) -> Verdict {
    if !trial.case.library.calls().train {
        return Ok(());
    }
    let train = || trial.train(None, &Keeper::new(usize::MAX)).map_err(|e| format!("`train` fails: {e:?}"));
    let (one, two) = (train()?, train()?);
    hold(one == two, || format!("{} and {} bytes, which differ", one.bytes.len(), two.bytes.len()))
}

/// A training that goes on from its first or its last checkpoint gives the artefact of one that ran through.
///
/// # Errors
/// From which step it does not.
pub fn resuming_is_exact(trial: &Trial) -> Verdict {
    if !trial.case.library.calls().train {
        return Ok(());
    }
    let keeper = Keeper::new(usize::MAX);
    let through = trial.train(None, &keeper).map_err(|e| format!("`train` fails: {e:?}"))?;
    let kept = keeper.kept();
    for checkpoint in kept.first().into_iter().chain(kept.last()) {
        let step = checkpoint.step;
        let resumed = trial
            .train(Some(checkpoint.clone()), &Keeper::new(usize::MAX))
            .map_err(|e| format!("`train` fails from step {step}: {e:?}"))?;
        hold(resumed == through, || format!("resumed from step {step}, it ends with another artefact"))?;
    }
    Ok(())
}

/// A training that is cancelled before it begins, or at its first checkpoint with work left, ends as an interruption.
///
/// # Errors
/// How it ended instead.
pub fn cancelled_trainings_stop(trial: &Trial) -> Verdict {
    if !trial.case.library.calls().train {
        return Ok(());
    }
    let stops = |keeper: &Keeper| match trial.train(None, keeper) {
        Err(error) => hold(error.code().class == Class::Interrupted, || format!("it ended with {error:?}")),
        Ok(_) => Err("it went on to its end".into()),
    };
    let keeper = Keeper::new(usize::MAX);
    keeper.cancel.cancel();
    stops(&keeper)?;
    let keeper = Keeper::new(usize::MAX);
    trial.train(None, &keeper).map_err(|e| format!("`train` fails: {e:?}"))?;
    if keeper.kept().len() < 2 { Ok(()) } else { stops(&Keeper::new(1)) }
}

/// A method with an artefact of another model neither edits nor routes, and says why.
///
/// # Errors
/// What it did.
pub fn artefacts_are_bound(trial: &Trial) -> Verdict {
    if !trial.case.library.calls().train {
        return Ok(());
    }
    let keeper = Keeper::new(usize::MAX);
    let artefact = trial.train(None, &keeper).map_err(|e| format!("`train` fails: {e:?}"))?;
    let facts = trial.case.model.facts().map_err(|e| format!("{e:?}"))?;
    let bound = (artefact.base == facts.hash, artefact.data == trial.data.hash);
    hold(bound == (true, true), || format!("it is bound to {} and {}", artefact.base, artefact.data))?;
    let other = Artefact { base: "of another model".into(), ..artefact };
    let method = trial.trained_from(&other).map_err(|e| format!("the model is looked at too early: {e:?}"))?;
    match method.edit(&trial.access(&keeper), std::slice::from_ref(&trial.case.request)) {
        Err(error) => hold(error.code().id == "artefact-base", || format!("`edit` ended with {error:?}")),
        Ok(changes) => Err(format!("it proposed {} changes", changes.len())),
    }
}

/// An artefact that was cut off, or is empty, is refused with a code, or does no harm: it is no panic.
///
/// # Errors
/// The panic.
pub fn damaged_artefacts_are_survived(trial: &Trial) -> Verdict {
    if !trial.case.library.calls().train {
        return Ok(());
    }
    let keeper = Keeper::new(usize::MAX);
    let artefact = trial.train(None, &keeper).map_err(|e| format!("`train` fails: {e:?}"))?;
    for cut in [0, artefact.bytes.len() / 2, artefact.bytes.len().saturating_sub(1)] {
        let damaged = Artefact { bytes: artefact.bytes[..cut].to_vec(), ..artefact.clone() };
        let outcome = trial.trained_from(&damaged).and_then(|method| {
            method.edit(&trial.access(&keeper), std::slice::from_ref(&trial.case.request)).map(drop)
        });
        if let Err(error) = outcome {
            hold(error.code().id != "plugin-panicked", || format!("cut to {cut} bytes: {error:?}"))?;
        }
    }
    Ok(())
}

/// Rows that see no patch and the padding keep their values, to the bit, and several threads see the same.
///
/// # Errors
/// The row that changed.
pub fn interceptions_are_confined(trial: &Trial) -> Verdict {
    let own = trial.own()?;
    let (method, prompt) = (trial.method()?, trial.prompt()?);
    let rows = vec![prompt.clone(), prompt.clone(), prompt[..1].to_vec()];
    let columns = prompt.len();
    let position = |(row, column): (usize, usize)| if column < rows[row].len() { column as i64 } else { -1 };
    let positions = Array2::from_shape_fn((rows.len(), columns), position);
    for &site in &own.sites {
        let taps = vec![Tap { site, places: None }];
        let run = trial.case.model.run(&RunRequest { rows: rows.clone(), taps, ..RunRequest::default() });
        let activation = run.map_err(|e| format!("the model does not run: {e:?}"))?.taps.remove(0);
        let old = activation.view().map_err(|e| e.to_string())?;
        let sees = |row: usize| row != 1;
        let call = InterceptCall {
            site,
            activation: old.view(),
            positions: positions.view(),
            rows: (0..rows.len())
                .map(|row| InterceptRow {
                    prompt_end: rows[row].len() - 1,
                    patches: if sees(row) { vec![0] } else { vec![] },
                })
                .collect(),
            patches: vec![ActivePatch { id: &own.id, state: &own.state }],
        };
        let ask = || method.intercept(&call).map_err(|e| format!("`intercept` fails: {e:?}"));
        let first = ask()?;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().try_for_each(|thread| {
                let other = thread.join().expect("no panic")?;
                hold(other == first, || format!("`{site}` has another value in another thread"))
            })
        })?;
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
    Ok(())
}
