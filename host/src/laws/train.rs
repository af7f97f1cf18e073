//! The laws of training, and of what is left of it.

use std::sync::Mutex;

use engraft_plugin_api::{Artefact, Checkpoint, Level, MethodError};

use super::edit::interrupted;
use super::trial::Trial;
use super::{Held, Verdict, hold};
use crate::base::Cancel;
use crate::plugins::Listener;

/// Why these laws say nothing of a method.
const LEARNS_NOTHING: Held = Held::NotApplicable("the method does not learn");

/// Keeps checkpoints, and cancels at the first one if it is told to.
#[derive(Default)]
pub(super) struct Keeper {
    kept: Mutex<Vec<Checkpoint>>,
    cancel: Option<Cancel>,
}

impl Keeper {
    fn kept(&self) -> Vec<Checkpoint> {
        self.kept.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

impl Listener for Keeper {
    fn log(&self, _: Level, _: &str) {}

    fn progress(&self, _: u64, _: u64, _: &str) {}

    fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), MethodError> {
        self.kept.lock().unwrap_or_else(|e| e.into_inner()).push(checkpoint.clone());
        self.cancel.iter().for_each(Cancel::cancel);
        Ok(())
    }
}

fn learns(trial: &Trial) -> bool {
    trial.library.calls().train
}

pub(super) fn same_seed_same_artefact(trial: &Trial) -> Verdict {
    if !learns(trial) {
        return Ok(LEARNS_NOTHING);
    }
    let one = trial.artefact()?;
    let two = trial.train(None, &Keeper::default(), &Cancel::new()).map_err(|e| format!("`train` fails: {e:?}"))?;
    hold(*one == two, || format!("{} and {} bytes, which differ", one.bytes.len(), two.bytes.len()))?;
    Ok(Held::Kept)
}

pub(super) fn resuming_is_exact(trial: &Trial) -> Verdict {
    if !learns(trial) {
        return Ok(LEARNS_NOTHING);
    }
    let keeper = Keeper::default();
    let through = trial.train(None, &keeper, &Cancel::new()).map_err(|e| format!("`train` fails: {e:?}"))?;
    let kept = keeper.kept();
    if kept.is_empty() {
        return Ok(Held::NotApplicable("a training keeps no checkpoint"));
    }
    for checkpoint in kept.first().into_iter().chain(kept.last()) {
        let step = checkpoint.step;
        let resumed = trial
            .train(Some(checkpoint.clone()), &Keeper::default(), &Cancel::new())
            .map_err(|e| format!("`train` fails from step {step}: {e:?}"))?;
        hold(resumed == through, || format!("resumed from step {step}, it ends with another artefact"))?;
    }
    Ok(Held::Kept)
}

/// Before it begins, and at its first checkpoint if work is left then.
pub(super) fn cancelled_trainings_stop(trial: &Trial) -> Verdict {
    if !learns(trial) {
        return Ok(LEARNS_NOTHING);
    }
    let cancel = Cancel::new();
    cancel.cancel();
    interrupted(trial.train(None, &Keeper::default(), &cancel)).map_err(|found| format!("before it began: {found}"))?;
    let keeper = Keeper::default();
    trial.train(None, &keeper, &Cancel::new()).map_err(|e| format!("`train` fails: {e:?}"))?;
    if keeper.kept().len() < 2 {
        return Ok(Held::Kept);
    }
    let cancel = Cancel::new();
    let keeper = Keeper { cancel: Some(cancel.clone()), ..Keeper::default() };
    interrupted(trial.train(None, &keeper, &cancel)).map_err(|found| format!("after its first checkpoint: {found}"))
}

pub(super) fn artefacts_are_bound(trial: &Trial) -> Verdict {
    if !learns(trial) {
        return Ok(LEARNS_NOTHING);
    }
    // A training whose artefact is bound to something else fails.
    let artefact = trial.artefact()?;
    let other = Artefact { base: "of another model".into(), ..artefact.clone() };
    let method = trial.trained_from(&other).map_err(|e| format!("the model is looked at too early: {e:?}"))?;
    match method.edit(&trial.access(&Keeper::default(), &Cancel::new()), trial.request()) {
        Err(error) => hold(error.code().id == "artefact-base", || format!("`edit` ended with {error:?}"))?,
        Ok(changes) => return Err(format!("it proposed {} changes", changes.len())),
    }
    Ok(Held::Kept)
}

pub(super) fn damaged_artefacts_are_survived(trial: &Trial) -> Verdict {
    if !learns(trial) {
        return Ok(LEARNS_NOTHING);
    }
    let artefact = trial.artefact()?;
    for cut in [0, artefact.bytes.len() / 2, artefact.bytes.len().saturating_sub(1)] {
        let damaged = Artefact { bytes: artefact.bytes[..cut].to_vec(), ..artefact.clone() };
        let outcome = trial.trained_from(&damaged).and_then(|method| {
            method.edit(&trial.access(&Keeper::default(), &Cancel::new()), trial.request()).map(drop)
        });
        if let Err(error) = outcome {
            hold(error.code().id != "plugin-panicked", || format!("cut to {cut} bytes: {error:?}"))?;
        }
    }
    Ok(Held::Kept)
}
