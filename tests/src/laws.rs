//! The laws that every editing method keeps, on a real model: one function a law, and the list of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engraft::base::{Cancel, Class, Error};
use engraft::model::{Continuation, Limits, Model, Proposal};
use engraft::plugins::{Access, Library, Listener, Method};
use engraft_plugin_api::{Change, EditRequest, Level, ParamKind, Place, RunRequest, Site};
use toml::{Table, Value};

/// Whether a law holds; if not, its name and what was found.
pub type Verdict = Result<(), String>;

/// A law: its name, and the function that checks it.
pub type Law = (&'static str, fn(&Case) -> Verdict);

/// A method with parameters, and what it is tried on.
pub struct Case<'a> {
    /// A model with a tokenizer. Every law leaves it with the patches that it had.
    pub model: &'a Model,
    /// The method's plugin.
    pub library: Arc<Library>,
    /// Parameters that fit the method and the model, in TOML.
    pub params: &'a str,
    /// What is asked for; the model does not say it yet.
    pub request: EditRequest,
    /// Whether the method promises that the target becomes more probable.
    pub teaches: bool,
}

/// Every law.
pub fn all() -> [Law; 10] {
    [
        ("`edit` touches nothing", edit_touches_nothing),
        ("a rollback restores the model to the bit", rollback_restores),
        ("the same seed gives the same changes", same_seed_same_changes),
        ("no requests give no changes", no_requests_no_changes),
        ("only parts of the model are changed", only_parts_of_the_model),
        ("bad parameters have coded errors", bad_parameters_are_refused),
        ("layers that the model lacks have coded errors", absent_layers_are_refused),
        ("a cancelled edit does not begin", cancelling_is_honoured),
        ("an edit that is cancelled on its way stops", cancelling_on_the_way_is_honoured),
        ("a commit makes the target more probable", commit_moves_the_target),
    ]
}

/// Checks every law.
///
/// # Errors
/// The first law that does not hold.
pub fn check(case: &Case) -> Verdict {
    all().into_iter().try_for_each(|(name, law)| law(case).map_err(|found| format!("law broken: {name}: {found}")))
}

impl Case<'_> {
    fn table(&self) -> Table {
        self.params.parse().expect("parameters are TOML")
    }

    /// A method that has done nothing yet.
    pub(crate) fn method(&self) -> Result<Method, String> {
        let made = self.library.configure(&self.table()).and_then(|params| self.library.create(params));
        made.map_err(|e| format!("the method is not created: {e:?}"))
    }

    fn requests(&self) -> &[EditRequest] {
        std::slice::from_ref(&self.request)
    }

    fn edit(&self, requests: &[EditRequest]) -> Result<Vec<Change>, String> {
        let access = Access::new(self.model, Cancel::new(), 7);
        self.method()?.edit(&access, requests).map_err(|e| format!("`edit` fails: {e:?}"))
    }

    /// Edits, commits, looks, and rolls back whatever was seen.
    fn committed<T>(&self, look: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let descriptor = self.library.descriptor();
        let proposal = Proposal {
            method: descriptor.name.clone(),
            version: descriptor.version.clone(),
            params: self.method()?.params().clone(),
            requests: self.requests().to_vec(),
            changes: self.edit(self.requests())?,
        };
        let id = self.model.commit(proposal).map_err(|e| format!("the commit is refused: {e:?}"))?;
        let seen = look();
        self.model.rollback(&id).map_err(|e| format!("the rollback fails: {e:?}"))?;
        seen
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let tokens = self.model.tokenizer().and_then(|t| t.encode(text));
        tokens.map(|t| t.ids).map_err(|e| format!("`{text}` is not encoded: {e:?}"))
    }

    pub(crate) fn prompt(&self) -> Result<Vec<u32>, String> {
        self.encode(&self.request.filled().map_err(|e| e.to_string())?)
    }

    /// Logits after every token of the prompt, as bits.
    fn bits(&self) -> Result<Vec<u32>, String> {
        logit_bits(self.model, self.prompt()?).map_err(|e| format!("the model does not run: {e:?}"))
    }

    /// The log-probability of the target, in nats.
    fn target(&self) -> Result<f32, String> {
        let tokens = self.encode(&format!(" {}", self.request.target.new))?;
        let scored = self.model.score(&[Continuation { prompt: self.prompt()?, tokens }]);
        Ok(scored.map_err(|e| format!("the target is not scored: {e:?}"))?[0].log_probs.iter().sum())
    }
}

/// Logits after every token of a row, as bits.
///
/// # Errors
/// As [`Model::run`].
pub fn logit_bits(model: &Model, row: Vec<u32>) -> Result<Vec<u32>, Error> {
    let logits = (0..row.len()).map(|pos| Place { row: 0, pos }).collect();
    let reply = model.run(&RunRequest { rows: vec![row], logits, ..RunRequest::default() })?;
    Ok(reply.logits.as_f32()?.iter().map(|v| v.to_bits()).collect())
}

pub(crate) fn hold(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// `edit` leaves the state, the journal and the logits as they were, to the bit.
///
/// # Errors
/// What changed.
pub fn edit_touches_nothing(case: &Case) -> Verdict {
    let before = (case.model.state_hash(), case.model.history().len(), case.bits()?);
    case.edit(case.requests())?;
    hold(case.model.state_hash() == before.0, || "the state is another".into())?;
    hold(case.model.history().len() == before.1, || "the journal grew".into())?;
    hold(case.bits()? == before.2, || "the logits are others".into())
}

/// A commit changes the state and the logits; its rollback brings both back, to the bit.
///
/// # Errors
/// What did not change, or did not come back.
pub fn rollback_restores(case: &Case) -> Verdict {
    let before = (case.model.state_hash(), case.bits()?);
    let during = case.committed(|| Ok((case.model.state_hash(), case.bits()?)))?;
    hold(during.0 != before.0, || "the commit left the state as it was".into())?;
    hold(during.1 != before.1, || "the commit left the logits as they were".into())?;
    hold(case.model.state_hash() == before.0, || "the rollback left another state".into())?;
    hold(case.bits()? == before.1, || "the rollback left other logits".into())
}

/// Two methods that were created alike propose the same changes, to the bit, under the same seed.
///
/// # Errors
/// That they do not.
pub fn same_seed_same_changes(case: &Case) -> Verdict {
    let (one, two) = (case.edit(case.requests())?, case.edit(case.requests())?);
    hold(one == two, || format!("{} and {} changes, which differ", one.len(), two.len()))
}

/// No requests give no changes.
///
/// # Errors
/// The changes that there are.
pub fn no_requests_no_changes(case: &Case) -> Verdict {
    let changes = case.edit(&[])?;
    hold(changes.is_empty(), || format!("{} changes", changes.len()))
}

/// There are changes, and each is of a weight, a block or a site that the model says it has, and fits it.
///
/// # Errors
/// The part that the model lacks, or why the model refuses the changes.
pub fn only_parts_of_the_model(case: &Case) -> Verdict {
    let changes = case.edit(case.requests())?;
    let facts = case.model.facts().map_err(|e| format!("{e:?}"))?;
    hold(!changes.is_empty(), || "a request that the model does not fulfil gave no changes".into())?;
    let sites = |sites: &[Site]| match sites.iter().find(|site| !facts.sites.contains(site)) {
        Some(site) => Err(format!("there is no `{site}`")),
        None => Ok(()),
    };
    for change in &changes {
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
    case.model.validate(&changes, Limits::default()).map(drop).map_err(|e| format!("the changes are refused: {e:?}"))
}

/// Parameters that are unknown, missing, of another type or out of range are refused, each with its code.
///
/// # Errors
/// The parameter and what became of it.
pub fn bad_parameters_are_refused(case: &Case) -> Verdict {
    let refused = |table: &Table, key: &str, code: &str| match case.library.configure(table) {
        Err(error) => hold(error.code().id == code, || format!("`{key}`: expected [{code}], found {error:?}")),
        Ok(_) => Err(format!("`{key}`: expected [{code}], but {table} was accepted")),
    };
    let with = |key: &str, value: Value| {
        let mut table = case.table();
        table.insert(key.to_owned(), value);
        table
    };
    refused(&with("no-such-parameter", Value::Integer(1)), "no-such-parameter", "param-unknown")?;
    for spec in &case.library.descriptor().params {
        let key = spec.name.as_str();
        if spec.default.is_none() {
            let mut table = case.table();
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
    Ok(())
}

/// A layer that the model lacks is refused with a code, at the latest when its changes are checked, without a panic.
///
/// # Errors
/// The parameter and what became of it.
pub fn absent_layers_are_refused(case: &Case) -> Verdict {
    let absent = Value::Integer(case.model.anatomy().layers as i64);
    for spec in &case.library.descriptor().params {
        let value = match &spec.kind {
            ParamKind::Layer => absent.clone(),
            ParamKind::List(element) if matches!(**element, ParamKind::Layer) => Value::Array(vec![absent.clone()]),
            _ => continue,
        };
        let mut table = case.table();
        table.insert(spec.name.clone(), value);
        let outcome = case.library.configure(&table).and_then(|params| case.library.create(params)).and_then(|m| {
            let changes = m.edit(&Access::new(case.model, Cancel::new(), 7), case.requests())?;
            case.model.validate(&changes, Limits::default())
        });
        match outcome {
            Ok(_) => return Err(format!("`{}` = {} was accepted", spec.name, case.model.anatomy().layers)),
            Err(e) => hold(!e.code().id.ends_with("panicked"), || format!("`{}`: {e:?}", spec.name))?,
        }
    }
    Ok(())
}

fn interrupted(outcome: Result<Vec<Change>, Error>) -> Verdict {
    match outcome {
        Err(error) => hold(error.code().class == Class::Interrupted, || format!("it ended with {error:?}")),
        Ok(_) => Err("it went on to its end".into()),
    }
}

/// An edit that was cancelled before it began ends as an interruption.
///
/// # Errors
/// How it ended instead.
pub fn cancelling_is_honoured(case: &Case) -> Verdict {
    let cancel = Cancel::new();
    cancel.cancel();
    interrupted(case.method()?.edit(&Access::new(case.model, cancel, 7), case.requests()))
}

/// An edit that is cancelled when it first says that something is left to do ends as an interruption. A method that
/// never says so is too short to be stopped.
///
/// # Errors
/// How it ended instead.
pub fn cancelling_on_the_way_is_honoured(case: &Case) -> Verdict {
    let stopper = Stopper { cancel: Cancel::new(), stopped: AtomicBool::new(false) };
    let access = Access { listener: &stopper, ..Access::new(case.model, stopper.cancel.clone(), 7) };
    let outcome = case.method()?.edit(&access, case.requests());
    if stopper.stopped.load(Ordering::SeqCst) {
        return interrupted(outcome);
    }
    outcome.map(drop).map_err(|e| format!("`edit` fails: {e:?}"))
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

/// While an edit is committed, the target is more probable than before; after the rollback it is as probable as
/// before. A method that promises nothing of the kind need only be scored.
///
/// # Errors
/// The log-probabilities.
pub fn commit_moves_the_target(case: &Case) -> Verdict {
    let before = case.target()?;
    let during = case.committed(|| case.target())?;
    let after = case.target()?;
    hold(during > before || !case.teaches, || format!("its log-probability went from {before} to {during}"))?;
    hold(after.to_bits() == before.to_bits(), || {
        format!("it was {before} before the commit, {after} after its rollback")
    })
}
