//! Editing: validate what a method proposes, prove that it takes effect, commit it as a patch, roll it back.
//!
//! `splice` reads and tries graphs that patches bring along, `statistic` tells a method what its active patches hold,
//! `narrow` what rounding takes from deltas, and `export` writes the edited model as a plain one.

mod export;
pub(in crate::model) mod narrow;
pub(in crate::model) mod splice;
pub(in crate::model) mod statistic;

use std::path::Path;
use std::sync::Arc;

use engraft_plugin_api::{Change, EditRequest, Params, Place, RunRequest, SlotGate, Slots, Tensor};

use self::splice::splices;
use super::codes;
use super::intercept::{Intercepts, intercepts};
use super::open::{Model, State};
use super::route::Routes;
use super::run::feed;
use super::run::visible::Visible;
use crate::base::{Error, Hash, Result};
use crate::hooks::{check_place, check_slot_branch};
use crate::weights::{
    Checked, Entry, Patch, PatchId, check_delta, check_part, check_slots, codes as weight_codes, slot_key,
};

/// What a method proposed, with where it came from.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The method's name.
    pub method: String,
    /// The version of the method's plugin.
    pub version: String,
    /// The parameters it ran with.
    pub params: Params,
    /// The hash of the artefact that it was created with, where it learnt something before.
    pub artefact: Option<Hash>,
    /// What was asked for.
    pub requests: Vec<EditRequest>,
    /// What it proposes.
    pub changes: Vec<Change>,
}

/// What is refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The norm of a delta over the norm of its weight.
    pub norm_ratio: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { norm_ratio: 100.0 }
    }
}

impl Model {
    /// Checks changes without applying them: shape, finiteness, known weights, and size against the weights.
    ///
    /// # Errors
    /// `delta-weight`, `delta-shape`, `delta-not-finite` or `delta-too-large`; `slots-place`, `slots-shape`,
    /// `slots-not-finite`, `slots-too-many` or `slots-activation`; what [`Graft::of`](crate::hooks::Graft::of) finds wrong with a splice;
    /// `patch-state-twice`, `statistic-part`, or `change-unsupported` for kinds of changes that are not carried out.
    pub fn validate(&self, changes: &[Change], limits: Limits) -> Result<Vec<Checked>> {
        for change in changes {
            if let Change::Slots(slots) = change {
                check_slot_branch(self.graph(), self.anatomy(), slot_key(slots))?;
            }
        }
        self.check(changes, |weight| {
            let base = self.base_weight(weight)?;
            Ok((base.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt(), limits.norm_ratio))
        })
    }

    /// As [`Model::validate`] without the size, which needs no weight to be read.
    pub(in crate::model) fn check_shapes(&self, changes: &[Change]) -> Result<()> {
        self.check(changes, |_| Ok((1.0, f64::INFINITY))).map(drop)
    }

    fn check(
        &self,
        changes: &[Change],
        size: impl Fn(engraft_plugin_api::WeightRef) -> Result<(f64, f64)>,
    ) -> Result<Vec<Checked>> {
        let mut checked = Vec::new();
        let mut states = 0;
        for change in changes {
            let (weight, delta) = match change {
                Change::Weight { weight, delta } => (weight, delta),
                Change::Intercept { sites, .. } => {
                    self.check_intercept(sites)?;
                    checked.push(Checked::default());
                    continue;
                }
                Change::Slots(slots) => {
                    check_place(self.anatomy(), slots.layer)?;
                    checked.push(check_slots(slots, self.anatomy().d_model)?);
                    continue;
                }
                Change::Splice(splice) => {
                    checked.push(self.check_splice(splice)?);
                    continue;
                }
                Change::Route => {
                    checked.push(Checked::default());
                    continue;
                }
                Change::State(_) if states == 0 => {
                    states += 1;
                    checked.push(Checked::default());
                    continue;
                }
                Change::State(_) => {
                    return Err(Error::new(&weight_codes::STATE_TWICE, "a patch with more than one state"));
                }
                Change::Statistic(part) => {
                    check_part(part)?;
                    checked.push(Checked::default());
                    continue;
                }
                _ => {
                    let text = "a change of a kind that is not known is not carried out by this host";
                    return Err(Error::new(&weight_codes::CHANGE_UNSUPPORTED, text));
                }
            };
            let place = self.anatomy().weight(*weight).map_err(|e| {
                let text = format!("a method proposed to change `{weight}`, which this model does not have");
                Error::new(&weight_codes::DELTA_WEIGHT, text).because(e)
            })?;
            let (norm, limit) = size(*weight)?;
            checked.push(check_delta(*weight, place.shape, norm, delta, limit)?);
        }
        Ok(checked)
    }

    /// Makes a proposal part of the model, as one patch.
    ///
    /// Every change is checked, and the sum with the patch is proven by probe logits, which must be numbers and differ
    /// from those before, while requests go on with the sum before; then the journal is written, and the sum swapped in
    /// one step. What fails on the way leaves no trace. A proposal without
    /// changes to weights, slots, splices or interceptions has no effect on a pass. Slots may be silent at the probe:
    /// such are proven by probe logits with all of the patch's slots held open. Splices and interceptions may be silent
    /// there; splices must make finite numbers of it, which is tried before anything is written. What a method makes of
    /// requests by routing is not proven: it depends on the request. What weights in fewer bits than float32 would lose of it in an export is
    /// noted in the journal: [`Model::rounding`].
    ///
    /// # Errors
    /// As [`Model::validate`]; `patch-applied`; `edit-no-effect`; `edit-not-finite`; `intercept-method` or `route-method`; `splice-conflict` or
    /// `splice-table` if a splice cannot stand beside those of active patches; `splice-not-finite`; what the journal or
    /// the runtime meets.
    pub fn commit(&self, proposal: Proposal) -> Result<PatchId> {
        self.validate(&proposal.changes, Limits::default())?;
        let Proposal { method, version, params, artefact, requests, changes } = proposal;
        self.apply(Patch { base: self.hash()?, method, version, params, artefact, requests, changes })
    }

    /// Makes a patch part of the model, e.g. one read from a file.
    ///
    /// # Errors
    /// `patch-base` if it was made for another base model; else as [`Model::commit`].
    pub fn apply(&self, patch: Patch) -> Result<PatchId> {
        let base = self.hash()?;
        if patch.base != base {
            let text = format!("the patch {} was made for the base model {}, this is {base}", patch.id(), patch.base);
            return Err(Error::new(&weight_codes::PATCH_BASE, text).help("open the model that the patch was made on"));
        }
        self.validate(&patch.changes, Limits::default())?;
        self.check_attached(&patch)?;
        self.check_routing(&patch)?;
        let rounding = self.rounding_of(&patch.changes)?;
        let patch = Arc::new(patch);
        let mut journal = self.journal.lock().unwrap_or_else(|e| e.into_inner());
        journal.check_new(&patch)?;
        let mut patches = journal.active().to_vec();
        patches.push((patch.id(), patch.clone()));
        self.check_parts(&patches)?;
        let previous = self.state();
        let next = Arc::new(self.with_sums(self.sum(patches)?, &previous.prepared, &previous)?);
        self.try_splices(&patch)?;
        let acts = patch.changes.iter().any(|c| {
            matches!(c, Change::Weight { .. } | Change::Slots(_) | Change::Intercept { .. } | Change::Splice(_))
        });
        // What a method or a splice makes of an activation may depend on the text.
        let may_be_silent = intercepts(&patch.changes) || splices(&patch.changes).next().is_some();
        if acts && !self.shows(&patch, &next)? && !may_be_silent {
            let text = format!("the patch {} of `{}` leaves the probe logits as they were", patch.id(), patch.method);
            return Err(Error::new(&codes::NO_EFFECT, text));
        }
        let id = journal.commit(patch, next.hash, rounding)?;
        self.set_state(next);
        Ok(id)
    }

    /// Takes any active patch out of the model, and verifies that the rest is as if it had never been there.
    ///
    /// # Errors
    /// `patch-unknown`; `rollback-differs` if the sum does not have the hash it must have. Nothing is changed then.
    pub fn rollback(&self, id: &PatchId) -> Result<()> {
        self.rollback_all(std::slice::from_ref(id))
    }

    /// As [`Model::rollback`] for several patches, all or none of them: each is verified before anything is written, and
    /// a request sees the model with all of them or without any.
    ///
    /// # Errors
    /// As [`Model::rollback`]; `patch-unknown` also for a patch that is named twice.
    pub fn rollback_all(&self, ids: &[PatchId]) -> Result<()> {
        let mut journal = self.journal.lock().unwrap_or_else(|e| e.into_inner());
        let recorded = journal.history().states_without(ids)?;
        let (previous, mut patches) = (self.state(), journal.active().to_vec());
        let (mut done, mut last) = (Vec::with_capacity(ids.len()), None);
        for (id, recorded) in ids.iter().zip(recorded) {
            patches.retain(|(other, _)| other != id);
            let next = self.sum(patches.clone())?;
            if let Some(recorded) = recorded.filter(|r| *r != next.hash) {
                let text = format!("without {id} the model has the state {}, the journal says {recorded}", next.hash);
                return Err(Error::new(&codes::ROLLBACK_DIFFERS, text));
            }
            done.push((id.clone(), next.hash));
            last = Some(next);
        }
        let Some(next) = last else { return Ok(()) };
        let next = self.with_sums(next, &previous.prepared, &previous)?;
        journal.rollback(&done)?;
        self.set_state(next);
        Ok(())
    }

    /// The active patches, in the order of their commits.
    pub fn patches(&self) -> Vec<(PatchId, Arc<Patch>)> {
        self.state().patches.clone()
    }

    /// Everything that was committed and rolled back, oldest first.
    pub fn history(&self) -> Vec<Entry> {
        self.journal.lock().unwrap_or_else(|e| e.into_inner()).history().entries().to_vec()
    }

    /// The active patch whose identifier begins so.
    ///
    /// # Errors
    /// `patch-unknown`, also if it was rolled back; `patch-ambiguous` if there are several.
    pub fn find_patch(&self, prefix: &str) -> Result<PatchId> {
        self.journal.lock().unwrap_or_else(|e| e.into_inner()).history().find_active(prefix)
    }

    /// The hash of the sum of the active patches, to the bit. Equal hashes on one base model are equal models.
    pub fn state_hash(&self) -> Hash {
        self.state().hash
    }

    /// Takes up the patches that the journal says are active.
    pub(in crate::model) fn restore(&self) -> Result<()> {
        let journal = self.journal.lock().unwrap_or_else(|e| e.into_inner());
        let (Some(of), Some(state)) = (journal.history().base(), journal.history().state()) else { return Ok(()) };
        let folder = journal.folder().unwrap_or(Path::new("."));
        let base = self.hash()?;
        if of != base {
            let text = format!("the journal in `{}` is of the base model {of}, this is {base}", folder.display());
            let help = "open the model that the journal was begun with, or begin another journal";
            return Err(Error::new(&weight_codes::PATCH_BASE, text).help(help));
        }
        for (_, patch) in journal.active() {
            self.check_shapes(&patch.changes)?;
        }
        let previous = self.state();
        let sum = self.with_sums(self.sum(journal.active().to_vec())?, &[], &previous)?;
        if sum.hash != state {
            let at = folder.display();
            let text = format!("the patches of the journal in `{at}` sum to the state {}, it says {state}", sum.hash);
            return Err(Error::new(&weight_codes::JOURNAL_STATE, text));
        }
        self.set_state(sum);
        Ok(())
    }

    fn sum(&self, patches: Vec<(PatchId, Arc<Patch>)>) -> Result<State> {
        let overlay = self.overlay(&patches, None)?;
        let values = feed::overlay_values(&overlay, self.graph(), self.anatomy())?;
        let grafts = self.grafts(&overlay)?;
        let intercepts = Arc::new(Intercepts::of(&patches));
        let routes = Routes::of(&patches);
        let hash = routes.hash(intercepts.hash(overlay.hash()));
        let overlay = Arc::new(overlay);
        let (sums, prepared) = (Arc::default(), Arc::default());
        Ok(State { hash, patches, overlay, values, intercepts, grafts, routes, sums, prepared })
    }

    /// True if a patch shows in the probe logits of the sum with it, `next`, which no request sees yet.
    ///
    /// # Errors
    /// `edit-not-finite` if they are no numbers with it and are without it.
    fn shows(&self, patch: &Patch, next: &Arc<State>) -> Result<bool> {
        let (before, after) = (self.probe(patch, self.state(), &[])?, self.probe(patch, next.clone(), &[])?);
        let bad = |logits: &[f32]| logits.iter().filter(|v| v.is_nan() || **v == f32::INFINITY).count();
        if bad(&after) > 0 && bad(&before) == 0 {
            let text = format!("with the patch {} of `{}` {} of", patch.id(), patch.method, bad(&after));
            let text = format!("{text} the {} probe logits are NaN or infinite", after.len());
            return Err(Error::new(&codes::EDIT_NOT_FINITE, text));
        }
        let bits = |logits: &[f32]| logits.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        if bits(&after) != bits(&before) {
            return Ok(true);
        }
        let open: Vec<Change> = patch.changes.iter().filter_map(opened).collect();
        Ok(!open.is_empty() && bits(&self.probe(patch, next.clone(), &open)?) != bits(&after))
    }

    /// Logits after every token of the first request's prompt and target, of a sum of patches under trial changes;
    /// where there is no text, of a row over the vocabulary.
    fn probe(&self, patch: &Patch, state: Arc<State>, under: &[Change]) -> Result<Vec<f32>> {
        let request = self.probe_of(patch)?;
        let logits = (0..request.rows[0].len()).map(|pos| Place { row: 0, pos }).collect();
        let seen = self.seen_on(state, under)?;
        let reply = self.run_seen(&RunRequest { logits, ..request }, &seen, &Visible::all(1), None)?;
        Ok(reply.logits.into_f32()?)
    }

    /// The row that a patch is proven on, with the end of its prompt.
    pub(in crate::model) fn probe_of(&self, patch: &Patch) -> Result<RunRequest> {
        let a = self.anatomy();
        let context = a.context.unwrap_or(usize::MAX);
        let text = patch.requests.first().and_then(|r| r.filled().ok().map(|p| (p, &r.target.new)));
        let (mut row, prompt) = match (text, self.tokenizer()) {
            (Some((prompt, target)), Ok(tokenizer)) => {
                let row = tokenizer.encode(&format!("{prompt} {target}"))?.ids;
                (row, tokenizer.encode(&prompt)?.ids.len())
            }
            _ => {
                let n = context.min(16).min(a.vocab);
                ((0..n).map(|i| (i * a.vocab / n) as u32).collect(), n)
            }
        };
        row.truncate(context);
        let end = prompt.clamp(1, row.len().max(1)) - 1;
        // What a file fixes is filled up behind the text, where no position before it is changed, and with equal rows.
        row.resize(a.inputs.positions_of_rows().unwrap_or(row.len()), 0);
        let rows = a.inputs.rows().unwrap_or(1);
        Ok(RunRequest { rows: vec![row; rows], prompt_ends: vec![end; rows], ..RunRequest::default() })
    }
}

/// Slots that answer to everything, no two alike: their keys are zero and their biases lie between 1 and 2.
fn opened(change: &Change) -> Option<Change> {
    let Change::Slots(slots) = change else { return None };
    let open = |t: &Tensor| {
        let n = t.len();
        Tensor::f32([n], (0..n).map(|i| 1.0 + i as f32 / n as f32).collect()).ok()
    };
    let silent = |t: &Tensor| Tensor::zeros(t.shape());
    let gate = match &slots.gate {
        Some(gate) => Some(SlotGate { keys: silent(&gate.keys), bias: open(&gate.bias)? }),
        None => None,
    };
    Some(Change::Slots(Slots { keys: silent(&slots.keys), bias: open(&slots.bias)?, gate, ..slots.clone() }))
}
