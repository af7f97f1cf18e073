//! The laws that every editing method keeps: what a host relies on and an author can check.
//!
//! A [`Trial`] is a method with parameters on a model; a [`Law`] checks one promise on it, with real calls through the
//! border, and leaves the model with the patches that it had. [`Tiny`] is a small model that comes with this library,
//! for authors who have no other at hand; `engraft plugins check` tries a plugin on it in a process of its own.
//!
//! One file a subject: `edit`, `patches` (what earlier edits leave for later ones; `watch` is the access that keeps what
//! it told), `train`, `calls` (what is announced, routing, interception).

mod calls;
mod edit;
mod patches;
mod tiny;
mod train;
mod trial;
mod watch;

pub use tiny::{Tiny, data, requests};
pub use trial::{Trial, logit_bits};

/// A promise of methods, with the function that checks it.
pub struct Law {
    /// A stable name, in kebab case.
    pub id: &'static str,
    /// The law in a few words.
    pub says: &'static str,
    /// What has to be found.
    pub expects: &'static str,
    check: fn(&Trial) -> Verdict,
}

/// What was found where nothing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The law was tried and holds.
    Kept,
    /// The law says nothing of this method, for the reason given.
    NotApplicable(&'static str),
}

/// What became of a law; if it is broken, what was found in place of what it expects.
pub type Verdict = Result<Held, String>;

/// The law without which the later ones say nothing.
pub const CREATED: &str = "created";

/// Every law, in the order in which they are tried.
pub static ALL: &[Law] = &[
    law(
        "params-refused",
        "bad parameters have coded errors",
        "`param-unknown`, `param-missing`, `param-type` and `param-range`, each where it belongs",
        edit::bad_parameters_are_refused,
    ),
    law(
        CREATED,
        "a method is created with the parameters that were given",
        "neither an error nor a panic",
        edit::creating_succeeds,
    ),
    law("drop-quiet", "a method is dropped", "no panic", edit::dropping_is_quiet),
    law(
        "edit-pure",
        "`edit` touches nothing",
        "the state, the journal and the logits as they were, to the bit",
        edit::edit_touches_nothing,
    ),
    law("no-requests", "no requests give no changes", "an empty list", edit::no_requests_no_changes),
    law(
        "parts-known",
        "only parts of the model are changed",
        "at least one change, each of a weight, a block or a site that the model has, and accepted by it",
        edit::only_parts_of_the_model,
    ),
    law(
        "edit-steady",
        "the same seed gives the same changes",
        "two methods that were created alike propose the same, to the bit",
        edit::same_seed_same_changes,
    ),
    law(
        "rollback-exact",
        "a rollback restores the model",
        "another model while the patch is active, and the one before after its rollback, to the bit",
        edit::rollback_restores,
    ),
    law(
        "rollback-any",
        "any patch can be rolled back",
        "of two patches the first goes as if it had never been, to the bit",
        edit::any_patch_can_go,
    ),
    law(
        "statistics-fold",
        "what edits leave for later ones is folded over the active patches",
        "parts that fit each other, and an edit that is told of the active patches of its method, in the order of their \
         commits, and of nothing that was rolled back",
        patches::statistics_are_folded,
    ),
    law(
        "memory-in-patches",
        "what a method knows of earlier edits lies in their patches",
        "the same changes from a method that made patches which are rolled back and from one that did not",
        patches::memory_lies_in_patches,
    ),
    law(
        "batch",
        "several requests are one edit",
        "changes that the model accepts",
        edit::several_requests_are_one_edit,
    ),
    law(
        "layers-refused",
        "layers that the model lacks have coded errors",
        "an error with a code, from the method or from the check of its changes, and no panic",
        edit::absent_layers_are_refused,
    ),
    law(
        "cancel-before",
        "a cancelled edit does not begin",
        "the end as an interruption (`MethodError::cancelled`)",
        edit::cancelling_is_honoured,
    ),
    law(
        "cancel-midway",
        "an edit that is cancelled on its way stops",
        "the end as an interruption (`MethodError::cancelled`)",
        edit::cancelling_on_the_way_is_honoured,
    ),
    law(
        "target-moves",
        "a commit makes the target more probable",
        "a higher log-probability while the patch is active, and the one before after its rollback, to the bit",
        edit::commit_moves_the_target,
    ),
    law(
        "calls-announced",
        "what is not announced is not called",
        "`plugin-call` for every call that the plugin does not announce",
        calls::the_unannounced_is_refused,
    ),
    law(
        "edit-announced",
        "an edit asks for announced calls only",
        "`Route` and `Intercept` of methods that announce them, at most one `State`, slots and splices that fit themselves",
        calls::edits_ask_for_announced_calls,
    ),
    law(
        "route-steady",
        "the same query has the same route",
        "the same answer again, after other queries, and from several threads at once",
        calls::routes_are_steady,
    ),
    law(
        "route-carried",
        "what a route says can be done",
        "prompts within the context and the vocabulary, delegates of the model's vocabulary that give numbers",
        calls::routes_are_carried_out,
    ),
    law(
        "route-none",
        "nothing to show, nothing to route",
        "`Base` where no patch is active",
        calls::no_patches_no_route,
    ),
    law(
        "intercept-confined",
        "an interception leaves alone what it does not own",
        "rows that see no patch, and the padding, as they were, to the bit, and the same from several threads",
        calls::interceptions_are_confined,
    ),
    law(
        "train-steady",
        "the same seed gives the same artefact",
        "two trainings end with the same bytes",
        train::same_seed_same_artefact,
    ),
    law(
        "train-resumes",
        "a training that was cut off ends as if it had not been",
        "the same artefact from the first checkpoint, from the last, and from the beginning",
        train::resuming_is_exact,
    ),
    law(
        "train-cancel",
        "a cancelled training stops",
        "the end as an interruption (`MethodError::cancelled`)",
        train::cancelled_trainings_stop,
    ),
    law(
        "artefact-bound",
        "an artefact of another model is refused",
        "an artefact bound to the model and the data of its training, and `artefact-base` where it is used on another",
        train::artefacts_are_bound,
    ),
    law(
        "artefact-damaged",
        "a damaged artefact is no panic",
        "an error with a code, or no harm",
        train::damaged_artefacts_are_survived,
    ),
];

const fn law(id: &'static str, says: &'static str, expects: &'static str, check: fn(&Trial) -> Verdict) -> Law {
    Law { id, says, expects, check }
}

impl Law {
    /// Tries the law.
    ///
    /// # Errors
    /// What was found in place of what the law expects.
    pub fn check(&self, trial: &Trial) -> Verdict {
        let early = ALL.iter().take_while(|law| law.id != CREATED).any(|law| law.id == self.id);
        if !early && self.id != CREATED && !trial.creates() {
            return Ok(Held::NotApplicable("the method cannot be created"));
        }
        (self.check)(trial)
    }
}

/// Tries every law, and returns how many were applicable.
///
/// # Errors
/// The first law that does not hold, with what was found.
pub fn check(trial: &Trial) -> Result<usize, String> {
    let mut kept = 0;
    for law in ALL {
        let held = law.check(trial).map_err(|found| format!("law broken: {}: {found}", law.says))?;
        kept += usize::from(held == Held::Kept);
    }
    Ok(kept)
}

fn hold(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
