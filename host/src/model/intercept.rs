//! Interception: methods that are called at sites in the middle of a pass, for the patches that ask for it.
//!
//! The methods are those that were attached ([`Model::attach`]). What is called in a pass is found out when the pass
//! begins: rolling a patch back takes the call out of the programs that later requests run.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use engraft_plugin_api::{ActivePatch, Change, InterceptCall, InterceptRow, Site, Tensor};
use ndarray::{ArrayView2, ArrayViewD, Axis};

use super::attached::Attached;
use super::codes;
use super::edit::statistic::state_of;
use super::open::Model;
use super::run::visible::Visible;
use crate::base::{Error, Hash, Hasher, Result};
use crate::hooks::{codes as hook_codes, pokable};
use crate::runtime::codes as runtime_codes;
use crate::runtime::operator::Called;
use crate::weights::{Patch, PatchId};

/// The interceptions of the active patches, by method in the order of their first commits.
#[derive(Default)]
pub(super) struct Intercepts {
    methods: Vec<Of>,
    /// True if a patch wants to see whole rows in every pass.
    pub(super) whole_rows: bool,
}

/// The patches of one method that intercept.
struct Of {
    method: String,
    patches: Vec<Own>,
}

impl Of {
    /// True if this method made a patch.
    fn made(&self, patch: &Patch) -> bool {
        self.patches.first().is_some_and(|own| own.patch.is_of_the_maker_of(patch))
    }
}

struct Own {
    /// The number of its patch among those that are active.
    source: usize,
    id: String,
    sites: BTreeSet<Site>,
    patch: Arc<Patch>,
}

impl Own {
    fn state(&self) -> &[u8] {
        state_of(&self.patch)
    }
}

/// The sites of a patch's interceptions, and whether one of them wants whole rows.
fn asked(changes: &[Change]) -> (BTreeSet<Site>, bool) {
    let (mut all, mut whole) = (BTreeSet::new(), false);
    for change in changes {
        if let Change::Intercept { sites, whole_rows } = change {
            all.extend(sites);
            whole |= whole_rows;
        }
    }
    (all, whole)
}

/// True if some of the changes intercept.
pub(super) fn intercepts(changes: &[Change]) -> bool {
    !asked(changes).0.is_empty()
}

impl Intercepts {
    pub(super) fn of(patches: &[(PatchId, Arc<Patch>)]) -> Self {
        let mut out = Self::default();
        for (source, (id, patch)) in patches.iter().enumerate() {
            let (sites, whole_rows) = asked(&patch.changes);
            if sites.is_empty() {
                continue;
            }
            out.whole_rows |= whole_rows;
            let own = Own { source, id: id.to_string(), sites, patch: patch.clone() };
            match out.methods.iter_mut().find(|of| of.made(patch)) {
                Some(of) => of.patches.push(own),
                None => out.methods.push(Of { method: patch.method.clone(), patches: vec![own] }),
            }
        }
        out
    }

    pub(super) fn is_empty(&self) -> bool {
        self.methods.is_empty()
    }

    /// Where methods are called.
    pub(super) fn sites(&self) -> BTreeSet<Site> {
        self.methods.iter().flat_map(|of| &of.patches).flat_map(|own| own.sites.iter().copied()).collect()
    }

    /// The hash of what the patches do to weights, with that of the interceptions where there are some.
    pub(super) fn hash(&self, weights: Hash) -> Hash {
        if self.is_empty() {
            return weights;
        }
        let mut hasher = Hasher::new();
        hasher.part(weights.bytes());
        for own in self.methods.iter().flat_map(|of| &of.patches) {
            hasher.part(&own.id);
        }
        hasher.finish()
    }
}

impl Model {
    /// That the method which intercepts for a patch is attached.
    pub(super) fn check_attached(&self, patch: &Patch) -> Result<()> {
        if intercepts(&patch.changes) { self.attached.interceptor(patch).map(drop) } else { Ok(()) }
    }

    /// That the sites of an interception are sites of this model with a vector for each row and position, each named
    /// once.
    pub(super) fn check_intercept(&self, sites: &[Site]) -> Result<()> {
        let mut met = BTreeSet::new();
        for &site in sites {
            self.anatomy().site(pokable(site)?)?;
            if !met.insert(site) {
                let text = format!("a method asked to intercept twice at `{site}`");
                return Err(Error::new(&codes::INTERCEPT_TWICE, text).help("name each site once"));
            }
        }
        Ok(())
    }

    /// What is called in a pass over rows whose prompts end there; none where nothing is.
    pub(super) fn called(
        &self,
        intercepts: &Arc<Intercepts>,
        ends: Vec<usize>,
        visible: &Visible,
    ) -> Result<Option<Arc<dyn Called>>> {
        if intercepts.is_empty() {
            return Ok(None);
        }
        let sees = |own: &Own| (0..visible.rows()).any(|row| visible.sees(row, own.source));
        let of = |of: &Of| of.patches.iter().find(|own| sees(own)).map(|own| self.attached.interceptor(&own.patch));
        let found = intercepts.methods.iter().map(|method| of(method).transpose()).collect::<Result<_>>()?;
        Ok(Some(Arc::new(Pass { found, intercepts: intercepts.clone(), ends, visible: visible.clone() })))
    }
}

/// The ends of the prompts of a request: as it says, or the last token of every row.
///
/// # Errors
/// `place-outside` if there is not one for each row, inside of it.
pub(super) fn ends(rows: &[Vec<u32>], said: &[usize]) -> Result<Vec<usize>> {
    if said.is_empty() {
        return Ok(rows.iter().map(|row| row.len().saturating_sub(1)).collect());
    }
    if said.len() == rows.len() && rows.iter().zip(said).all(|(row, &end)| end < row.len()) {
        return Ok(said.to_vec());
    }
    let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
    let text = format!("prompts that end at {said:?}, in rows of {lengths:?} tokens");
    Err(Error::new(&hook_codes::PLACE_OUTSIDE, text))
}

/// The calls of one pass.
struct Pass {
    intercepts: Arc<Intercepts>,
    /// Of each method; none where no row sees one of its patches.
    found: Vec<Option<Arc<dyn Attached>>>,
    ends: Vec<usize>,
    visible: Visible,
}

impl Called for Pass {
    fn call(
        &self,
        place: &str,
        activation: ArrayViewD<'_, f32>,
        positions: ArrayView2<'_, i64>,
    ) -> Result<Option<Tensor>> {
        let site: Site = place.parse()?;
        let mut now: Option<Tensor> = None;
        for (of, attached) in self.intercepts.methods.iter().zip(&self.found) {
            let Some(attached) = attached else { continue };
            let own: Vec<&Own> = of.patches.iter().filter(|own| own.sites.contains(&site)).collect();
            let row = |(row, &prompt_end): (usize, &usize)| {
                let seen = own.iter().enumerate().filter(|(_, own)| self.visible.sees(row, own.source));
                InterceptRow { prompt_end, patches: seen.map(|(number, _)| number).collect() }
            };
            let rows: Vec<InterceptRow> = self.ends.iter().enumerate().map(row).collect();
            if rows.iter().all(|row| row.patches.is_empty()) {
                continue;
            }
            let patches = own.iter().map(|own| ActivePatch { id: &own.id, state: own.state() }).collect();
            let new = {
                let activation = match &now {
                    Some(now) => now.view()?,
                    None => activation.view(),
                };
                let call = InterceptCall { site, activation, positions, rows, patches };
                asked_of(&of.method, &**attached, &call)?
            };
            now = new.or(now);
        }
        Ok(now)
    }
}

/// The checked answer of a method.
fn asked_of(method: &str, attached: &dyn Attached, call: &InterceptCall<'_>) -> Result<Option<Tensor>> {
    // What a panic left half changed belongs to the method, which may refuse to be called again.
    let answer = catch_unwind(AssertUnwindSafe(|| attached.intercept(call)));
    let answer = answer.unwrap_or_else(|payload| {
        let text = format!("`{method}` panicked at `{}`: {}", call.site, words(&*payload));
        Err(Error::new(&runtime_codes::CALLED_PANICKED, text))
    })?;
    if let Some(new) = &answer {
        call.check(new).map_err(|found| {
            let finite = found.code == "intercept-not-finite";
            let code = if finite { &codes::INTERCEPT_NOT_FINITE } else { &runtime_codes::CALLED_SHAPE };
            Error::new(code, format!("`{method}` failed at `{}`: {}", call.site, found.message))
        })?;
    }
    answer.map(|new| kept(call, new)).transpose()
}

/// The new values, with the old ones where a row sees no patch of the method and in the padding.
fn kept(call: &InterceptCall<'_>, new: Tensor) -> Result<Tensor> {
    let columns = call.positions.ncols();
    let old = |row: usize, column: usize| call.rows[row].patches.is_empty() || call.positions[[row, column]] < 0;
    let places = (0..call.rows.len()).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let places: Vec<(usize, usize)> = places.filter(|&(row, column)| old(row, column)).collect();
    if places.is_empty() {
        return Ok(new);
    }
    let mut all = new.view()?.to_owned();
    for (row, column) in places {
        let old = call.activation.index_axis(Axis(0), row);
        all.index_axis_mut(Axis(0), row).index_axis_mut(Axis(0), column).assign(&old.index_axis(Axis(0), column));
    }
    Ok(Tensor::from_array(&all))
}

/// What a panic said.
pub(super) fn words(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("it did not say why")
}
