//! Sums of chosen patches. What is summed into one tensor has no gate: a request that sees some of the patches with a
//! part in a sum, and not all, is fed another tensor.
//!
//! Most of those are there already. The sum of all is the model's; the sum of none are zeros, which are made once for
//! each shape; the sum of one delta is that delta, read where the patch has it, if the file stores the weight that way.
//! Only others are made, by the first request that needs them, and the last few of each weight are kept. [`Model::prepare`]
//! makes them ahead.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use engraft_plugin_api::{Change, Delta, WeightRef};

use super::Seen;
use super::feed;
use super::visible::Active;
use crate::base::Result;
use crate::hooks::{Name, Values};
use crate::model::open::{Model, State};
use crate::runtime::Value;
use crate::weights::{Overlay, Patch, PatchId, Summed, TableValues, dense_deltas};

/// How many sums of chosen patches are kept for one weight, or for one splice, beside those that were prepared.
const KEPT: usize = 8;

/// The inputs that are a sum, by what is summed and the patches in it, in the order of their commits.
type Held = BTreeMap<(Summed, Vec<PatchId>), Arc<Values>>;

/// The sums that requests chose last, the last one first.
type Recent = BTreeMap<Summed, VecDeque<(Vec<PatchId>, Arc<Values>)>>;

/// Sums of chosen patches as inputs.
#[derive(Default)]
pub(in crate::model) struct Sums {
    /// Those of sets that were prepared.
    held: Held,
    recent: Mutex<Recent>,
    /// Sums of nothing, by their extents.
    zeros: BTreeMap<Vec<usize>, Value>,
}

impl Sums {
    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, what: Summed, ids: &[PatchId]) -> Option<Arc<Values>> {
        if let Some(held) = self.held.get(&(what, ids.to_vec())) {
            return Some(held.clone());
        }
        let mut recent = self.recent();
        let kept = recent.get_mut(&what)?;
        let at = kept.iter().position(|(of, _)| of == ids)?;
        let found = kept.remove(at)?;
        let values = found.1.clone();
        kept.push_front(found);
        Some(values)
    }

    fn keep(&self, what: Summed, ids: Vec<PatchId>, values: Arc<Values>) {
        let mut recent = self.recent();
        let kept = recent.entry(what).or_default();
        kept.truncate(KEPT - 1);
        kept.push_front((ids, values));
    }
}

/// A dense delta of a patch, where the patch has it.
struct OfPatch {
    patch: Arc<Patch>,
    weight: WeightRef,
    shape: [usize; 2],
}

impl OfPatch {
    /// The only dense delta of the weight, if it is one tensor.
    fn floats(&self) -> Option<&[f32]> {
        let mut deltas = dense_deltas(self.weight, self.shape, &self.patch.changes);
        match (deltas.next(), deltas.next()) {
            (Some(Delta::Dense(only)), None) => only.as_f32().ok(),
            _ => None,
        }
    }
}

impl AsRef<[f32]> for OfPatch {
    fn as_ref(&self) -> &[f32] {
        self.floats().unwrap_or_default()
    }
}

impl State {
    /// The patches of some sources, which are in order.
    fn ids(&self, sources: &[usize]) -> Vec<PatchId> {
        sources.iter().filter_map(|&source| self.patches.get(source)).map(|(id, _)| id.clone()).collect()
    }
}

impl Model {
    /// Says which sets of patches will be asked for, so that no request of one of them has to make a sum: they are made
    /// here, and kept while all patches of their set are active. Commits and rollbacks keep them up to date, which costs
    /// them the sums that change. The sets take the place of those that were said before; none of them forgets all.
    ///
    /// Only dense deltas, those of vectors, and summed tables of splices are sums; all other changes are chosen without
    /// any preparation. A request of a set that was not prepared makes the sums it needs, and the last 8 of each weight
    /// are kept.
    ///
    /// Costs, for each weight and each of its sums that is neither of all patches, nor of one, nor of none: memory of the
    /// size of the weight in float32, shared by sets that have it in common, and one pass over the deltas. The sum of
    /// one delta costs that too where the file stores the weight transposed or packed with others. May be called from
    /// any thread; commits and rollbacks wait for it, requests do not.
    ///
    /// # Errors
    /// `patch-unknown` if a patch is not active; nothing is changed then.
    pub fn prepare(&self, sets: &[Active]) -> Result<()> {
        let _journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state();
        let mut chosen = Vec::new();
        for active in sets {
            state.seen_by(active)?;
            if let Active::Only(ids) = active {
                chosen.push(ids.iter().cloned().collect());
            }
        }
        self.set_state(self.with_sums((*state).clone(), &chosen, &state)?);
        Ok(())
    }

    /// How many sums requests had to make since the model was opened: none where all sets were prepared.
    pub fn sums_made(&self) -> u64 {
        self.sums_made.load(Ordering::Relaxed)
    }

    /// A state with the sums that it starts with: those of chosen sets whose patches are all active in it, and what an
    /// earlier state has that still can be asked for.
    pub(in crate::model) fn with_sums(
        &self,
        state: State,
        chosen: &[BTreeSet<PatchId>],
        previous: &State,
    ) -> Result<State> {
        let active: BTreeSet<&PatchId> = state.patches.iter().map(|(id, _)| id).collect();
        let mut sums = Sums::default();
        for what in state.overlay.summed.keys() {
            let Summed::Dense(weight) = what else { continue };
            let dims = feed::stored_dims(self.anatomy().weight(*weight)?, self.graph());
            let known = sums.zeros.get(&dims).or_else(|| previous.sums.zeros.get(&dims)).cloned();
            let zeros = known.map_or_else(|| zeros(&dims), Ok)?;
            sums.zeros.insert(dims, zeros);
        }
        for (what, kept) in previous.sums.recent().iter() {
            let live = kept.iter().filter(|(ids, _)| ids.iter().all(|id| active.contains(id))).cloned().collect();
            sums.recent().insert(*what, live);
        }
        let prepared: Vec<BTreeSet<PatchId>> =
            chosen.iter().filter(|set| set.iter().all(|id| active.contains(id))).cloned().collect();
        for (set, (&what, sources)) in
            prepared.iter().flat_map(|set| state.overlay.summed.iter().map(move |s| (set, s)))
        {
            let own: Vec<usize> = sources.iter().copied().filter(|&s| set.contains(&state.patches[s].0)).collect();
            let ids = state.ids(&own);
            if own.len() == sources.len() || sums.held.contains_key(&(what, ids.clone())) {
                continue;
            }
            if self.at_hand(&state, &sums, what, &own)?.is_some() {
                continue;
            }
            let values = match previous.sums.find(what, &ids).or_else(|| whole(previous, what, &ids)) {
                Some(found) => found,
                None => Arc::new(self.sum_of(&state.overlay, what, |source| &state.patches[source].1.changes, &own)?),
            };
            sums.held.insert((what, ids), values);
        }
        Ok(State { prepared: Arc::new(prepared), sums: Arc::new(sums), ..state })
    }

    /// Puts in what a row sees of a sum, which is not all of it.
    pub(in crate::model) fn feed_sum(
        &self,
        seen: &Seen<'_>,
        what: Summed,
        own: &[usize],
        values: &mut Values,
    ) -> Result<()> {
        let state = &*seen.state;
        if let Some((name, value)) = self.at_hand(state, &state.sums, what, own)? {
            values.set(name, value);
            return Ok(());
        }
        // What a request tries is of no use to others.
        let tries = own.last().is_some_and(|&source| source >= state.patches.len());
        let (sums, ids) = (if tries { &seen.trial_sums } else { &*state.sums }, state.ids(own));
        let found = match sums.find(what, &ids) {
            Some(found) => found,
            None => {
                let made = Arc::new(self.sum_of(&seen.overlay, what, |source| seen.source(source), own)?);
                self.sums_made.fetch_add(1, Ordering::Relaxed);
                sums.keep(what, ids, made.clone());
                made
            }
        };
        values.copy(&found);
        Ok(())
    }

    /// A sum that needs no summing: of no delta, or of a single one that is stored as the file stores the weight.
    fn at_hand(&self, state: &State, sums: &Sums, what: Summed, own: &[usize]) -> Result<Option<(Name, Value)>> {
        let Summed::Dense(weight) = what else { return Ok(None) };
        let place = self.anatomy().weight(weight)?;
        let dims = || feed::stored_dims(place, self.graph());
        let value = match own {
            [] => {
                let dims = dims();
                sums.zeros.get(&dims).cloned().map_or_else(|| zeros(&dims), Ok)?
            }
            [one] if *one < state.patches.len() && feed::stored_as_it_is(place) => {
                let delta = OfPatch { patch: state.patches[*one].1.clone(), weight, shape: place.shape };
                if delta.floats().is_none() {
                    return Ok(None);
                }
                Value::lent(&dims(), Arc::new(delta))?
            }
            _ => return Ok(None),
        };
        Ok(Some((Name::Dense(weight), value)))
    }

    /// A sum over some of the sources of an overlay.
    fn sum_of<'s>(
        &self,
        overlay: &Overlay,
        what: Summed,
        source: impl Fn(usize) -> &'s [Change],
        own: &[usize],
    ) -> Result<Values> {
        let mut values = Values::default();
        let changes = own.iter().flat_map(|&number| source(number));
        match what {
            Summed::Dense(weight) => {
                let sum = Overlay::dense_of(weight, self.anatomy().weight(weight)?.shape, changes);
                values.set(Name::Dense(weight), feed::dense_value(weight, sum, self.graph(), self.anatomy())?);
            }
            Summed::Tables(key) => {
                for (i, table) in overlay.splices.get(&key).map(|all| all.sums_of(changes)).unwrap_or_default() {
                    let value = match table.values {
                        TableValues::F32(flat) => Value::f32(&table.shape, flat),
                        TableValues::I64(flat) => Value::i64(&table.shape, flat),
                    };
                    values.set(feed::table_name(&key, i), value?);
                }
            }
        }
        Ok(values)
    }
}

/// A sum that is the one of all patches of a state.
fn whole(state: &State, what: Summed, ids: &[PatchId]) -> Option<Arc<Values>> {
    let sources: Vec<usize> = state.overlay.summed.get(&what)?.iter().copied().collect();
    // The number of tables that are summed is not asked for here: a splice's other tables must not be taken along.
    let Summed::Dense(weight) = what else { return None };
    if state.ids(&sources) != ids {
        return None;
    }
    let name = Name::Dense(weight).to_string();
    let mut values = Values::default();
    let value = state.values.get(&name)?.clone();
    values.set(name, value);
    Some(Arc::new(values))
}

/// A sum of nothing. Its memory is read here, once: the first to read memory that was never written waits for it.
fn zeros(dims: &[usize]) -> Result<Value> {
    const PAGE: usize = 1024;
    let value = Value::f32(dims, vec![0.0; dims.iter().product()])?;
    for first in value.as_f32()?.iter().step_by(PAGE) {
        black_box(*first);
    }
    Ok(value)
}
