//! The laws of what earlier edits leave for later ones: statistics, patches, and nothing else.

use std::sync::Arc;

use engraft_plugin_api::{Change, Data, Fold, OwnPatch, Tensor};

use super::trial::Trial;
use super::watch::Told;
use super::{Held, Verdict, hold};
use crate::weights::{PatchId, increments};

/// Why these laws say nothing of a method, if they do not.
fn silent(trial: &Trial) -> Result<Option<Held>, String> {
    if !trial.library.descriptor().capabilities.sequential {
        return Ok(Some(Held::NotApplicable("the method does not announce edits on top of earlier edits")));
    }
    if trial.requests.len() < 2 {
        return Ok(Some(Held::NotApplicable("there is one request only")));
    }
    let changes = trial.changes()?;
    let leaves = |change: &Change| matches!(change, Change::State(_) | Change::Statistic(_));
    if trial.told()?.is_empty() && !changes.iter().any(leaves) && increments(changes).next().is_none() {
        return Ok(Some(Held::NotApplicable(
            "its edits leave nothing for later ones, and ask for nothing of earlier ones",
        )));
    }
    Ok(if trial.unsupported()? {
        Some(Held::NotApplicable("this host does not carry out one of its changes"))
    } else {
        None
    })
}

/// The parts that one edit leaves of each name have to fit those that the next one leaves, and what the method is told
/// of them has to be what is active.
pub(super) fn statistics_are_folded(trial: &Trial) -> Verdict {
    if let Some(held) = silent(trial)? {
        return Ok(held);
    }
    let (one, two) = (&trial.requests[..1], &trial.requests[1..2]);
    let method = Arc::new(trial.method()?);
    trial.undone(|| {
        let edit = |request, when: &str| {
            let (changes, told) = trial.edit_by(&method, request)?;
            told.iter().try_for_each(|told| is_so(trial, told, when))?;
            Ok::<_, String>(changes)
        };
        let first = edit(one, "without an earlier edit")?;
        let names = names(&first);
        let first = trial.commit(&one[0], &first)?;
        all_so(trial, &names, "after one edit")?;
        let second = edit(two, "after one edit")?;
        trial.commit(&two[0], &second)?;
        all_so(trial, &names, "after two edits")?;
        let patch = patch(trial, &first)?;
        trial.model.rollback(&first).map_err(|e| format!("{e:?}"))?;
        all_so(trial, &names, "after the rollback of the first of two")?;
        edit(one, "after the rollback of the first of two")?;
        // The first is now the later one.
        trial.model.apply(patch).map_err(|e| format!("the first patch does not go on top of the second: {e:?}"))?;
        all_so(trial, &names, "after the first of two was applied again")
    })?;
    Ok(Held::Kept)
}

/// A method may keep what is dear to compute, but no edit.
pub(super) fn memory_lies_in_patches(trial: &Trial) -> Verdict {
    if let Some(held) = silent(trial)? {
        return Ok(held);
    }
    let (one, two) = (&trial.requests[..1], &trial.requests[1..2]);
    let method = Arc::new(trial.method()?);
    let (fresh, _) = trial.edit_by(&method, two)?;
    trial.undone(|| {
        let (changes, _) = trial.edit_by(&method, one)?;
        let first = trial.commit(&one[0], &changes)?;
        let (changes, _) = trial.edit_by(&method, two)?;
        trial.commit(&two[0], &changes)?;
        trial.model.rollback(&first).map_err(|e| format!("{e:?}"))?;
        let (its, _) = trial.edit_by(&method, one)?;
        let others = trial.edit(one)?;
        hold(its == others, || {
            "after the rollback of the first of two edits, the method that made both proposes other changes than one \
             that made none"
                .into()
        })
    })?;
    let (again, _) = trial.edit_by(&method, two)?;
    hold(again == fresh, || "with all patches rolled back, an edit proposes other changes than before them".into())?;
    Ok(Held::Kept)
}

/// The names of the parts of some changes.
fn names(changes: &[Change]) -> Vec<String> {
    increments(changes).map(|part| part.name.clone()).collect()
}

fn patch(trial: &Trial, id: &PatchId) -> Result<crate::weights::Patch, String> {
    let patches = trial.model.patches();
    patches.iter().find(|(of, _)| of == id).map(|(_, patch)| (**patch).clone()).ok_or("a patch is not there".into())
}

/// That the statistics of the method are those of its active patches.
fn all_so(trial: &Trial, names: &[String], when: &str) -> Result<(), String> {
    let method = &trial.library.descriptor().name;
    names.iter().try_for_each(|name| {
        let fold = trial.model.statistic(method, name).map_err(|e| format!("{when}: {e:?}"))?;
        is_so(trial, &Told::Statistic(name.clone(), fold), when)
    })
}

/// That what was told is what the active patches of the method hold.
fn is_so(trial: &Trial, told: &Told, when: &str) -> Result<(), String> {
    let method = &trial.library.descriptor().name;
    let patches: Vec<_> = trial.model.patches().into_iter().filter(|(_, patch)| patch.method == *method).collect();
    match told {
        Told::Patches(found) => {
            let state = |changes: &[Change]| {
                changes.iter().find_map(|c| if let Change::State(bytes) = c { Some(bytes.clone()) } else { None })
            };
            let own = patches.iter().map(|(id, patch)| OwnPatch {
                id: id.to_string(),
                requests: patch.requests.clone(),
                state: state(&patch.changes).unwrap_or_default(),
            });
            hold(own.eq(found.iter().cloned()), || {
                format!(
                    "{when} the method is told of {} patches, which are not the {} active ones",
                    found.len(),
                    patches.len()
                )
            })
        }
        Told::Statistic(name, found) => {
            let mut fold: Option<Tensor> = None;
            for part in patches.iter().flat_map(|(_, patch)| increments(&patch.changes)).filter(|p| p.name == *name) {
                fold = Some(match fold {
                    None => part.value.clone(),
                    Some(before) => folded(&before, &part.value, part.fold)
                        .ok_or_else(|| format!("{when} `{name}` does not fold"))?,
                });
            }
            hold(fold == *found, || format!("{when} the statistic `{name}` is not the fold of the active patches"))
        }
    }
}

/// Two parts as one.
fn folded(a: &Tensor, b: &Tensor, fold: Fold) -> Option<Tensor> {
    let mut shape = a.shape().to_vec();
    if fold == Fold::Stack {
        *shape.first_mut()? += b.shape().first()?;
    }
    match (a.data(), b.data(), fold) {
        (Data::F32(a), Data::F32(b), Fold::Stack) => Tensor::f32(shape, [&a[..], &b[..]].concat()).ok(),
        (Data::F32(a), Data::F32(b), Fold::Sum) => {
            Tensor::f32(shape, a.iter().zip(b.iter()).map(|(a, b)| a + b).collect()).ok()
        }
        (Data::I64(a), Data::I64(b), Fold::Stack) => Tensor::i64(shape, [&a[..], &b[..]].concat()).ok(),
        (Data::I64(a), Data::I64(b), Fold::Sum) => {
            Tensor::i64(shape, a.iter().zip(b.iter()).map(|(a, b)| a.wrapping_add(*b)).collect()).ok()
        }
        _ => None,
    }
}
