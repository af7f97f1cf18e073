//! A forward pass: rows, taps, pokes, logits at places, under committed and trial changes.
//!
//! `batch` pads rows, `feed` turns the sum of patches into inputs, `visible` tells which patches each row of a request
//! sees, `sums` holds what cannot be gated, and `split` runs rows apart that cannot share a batch.

pub(in crate::model) mod batch;
pub(in crate::model) mod feed;
mod split;
pub(in crate::model) mod sums;
pub(in crate::model) mod visible;

use std::collections::BTreeSet;
use std::sync::Arc;

use engraft_plugin_api::{BlockSite, Change, Place, Poke, RunReply, RunRequest, Site, Tensor};

use self::split::{Joined, part};
use self::sums::Sums;
use self::visible::{Active, Visible};
use super::codes;
use super::edit::splice::set_ends;
use super::intercept::{Intercepts, ends, intercepts};
use super::open::{Model, State};
use super::route::routes;
use crate::base::{Cancel, Error, Result};
use crate::hooks::{Graft, Name, Rig, Values};
use crate::runtime::Value;
use crate::weights::{Overlay, Patch, PatchId, check_count};

/// The changes that a request could see: one look at the patches, which it keeps to its end, and its own.
pub(in crate::model) struct Seen<'r> {
    pub(in crate::model) state: Arc<State>,
    under: &'r [Change],
    pub(in crate::model) overlay: Arc<Overlay>,
    /// Its inputs, without gates.
    pub(in crate::model) values: Values,
    /// Sums of chosen sources with the request's own trial changes in them.
    trial_sums: Sums,
    /// The number of the source that the request's own trial changes are, in [`Overlay::of`].
    pub(in crate::model) trial: usize,
    pub(in crate::model) intercepts: Arc<Intercepts>,
    pub(in crate::model) grafts: Vec<Arc<Graft>>,
}

impl<'r> Seen<'r> {
    /// What is committed, and nothing else.
    fn of(state: Arc<State>, under: &'r [Change]) -> Self {
        let mut values = Values::default();
        values.copy(&state.values);
        Self {
            under,
            overlay: state.overlay.clone(),
            values,
            trial_sums: Sums::default(),
            trial: state.patches.len(),
            intercepts: state.intercepts.clone(),
            grafts: state.grafts.clone(),
            state,
        }
    }

    /// The changes of a source: a patch, or what the request tries.
    fn source(&self, number: usize) -> &[Change] {
        self.state.patches.get(number).map_or(self.under, |(_, patch)| patch.changes.as_slice())
    }
}

impl Model {
    /// Runs rows of tokens and reads what is asked for.
    ///
    /// # Shapes
    /// See [`RunRequest`] and [`RunReply`].
    ///
    /// # Errors
    /// If rows, places, sites or shapes do not fit the model, or the runtime fails.
    pub fn run(&self, request: &RunRequest) -> Result<RunReply> {
        self.run_until(request, None)
    }

    /// As [`Model::run`], stopping soon when cancelled.
    ///
    /// # Errors
    /// As [`Model::run`], and `interrupted`.
    pub fn run_until(&self, request: &RunRequest, cancel: Option<&Cancel>) -> Result<RunReply> {
        self.run_seeing(request, &[], cancel)
    }

    /// As [`Model::run_until`], with patches chosen for the rows. Rows that see different patches share a batch, but
    /// where patches have dense deltas: rows that see different ones of those are run one group after the other. Of the
    /// patches that are said to be active, empty for all of them, one for all rows alike or else one for each row, rows
    /// see also those that route requests: a pass is not routed.
    ///
    /// # Errors
    /// As [`Model::run_until`]; `patch-unknown` if a patch is not active, `active-rows`.
    pub fn run_seeing(&self, request: &RunRequest, active: &[Active], cancel: Option<&Cancel>) -> Result<RunReply> {
        let seen = self.seen(&request.under)?;
        let visible = seen.visible(active, request.rows.len())?;
        self.run_seen(request, &seen, &visible, cancel)
    }

    /// As [`Model::run_until`] on the base model, whatever patches are active.
    ///
    /// # Errors
    /// As [`Model::run_until`].
    pub fn run_base(&self, request: &RunRequest, cancel: Option<&Cancel>) -> Result<RunReply> {
        let seen = self.seen_on_base(&request.under)?;
        self.run_seen(request, &seen, &Visible::all(request.rows.len()), cancel)
    }

    /// A pass under what its rows see.
    pub(in crate::model) fn run_seen(
        &self,
        request: &RunRequest,
        seen: &Seen<'_>,
        visible: &Visible,
        cancel: Option<&Cancel>,
    ) -> Result<RunReply> {
        let all: Vec<usize> = (0..request.rows.len()).collect();
        let groups = visible.groups(&all, &seen.overlay.in_sums());
        if groups.len() < 2 {
            return self.run_batch(request, seen, visible, cancel);
        }
        let mut values = Values::default();
        self.pokes(&request.overwrites, &request.adds, &request.rows, &mut values)?;
        self.logits_at(&request.logits, &request.rows, &mut values)?;
        for places in request.taps.iter().filter_map(|tap| tap.places.as_ref()) {
            values.places(Name::LogitsAt, places, &request.rows)?;
        }
        let ends = ends(&request.rows, &request.prompt_ends)?;
        let mut joined = Joined::new(request);
        for group in &groups {
            let part = part(request, &ends, group)?;
            let reply = self.run_batch(&part, seen, &visible.pick(group), cancel)?;
            joined.take(group, reply)?;
        }
        Ok(joined.reply())
    }

    fn run_batch(
        &self,
        request: &RunRequest,
        seen: &Seen<'_>,
        visible: &Visible,
        cancel: Option<&Cancel>,
    ) -> Result<RunReply> {
        let rows = &request.rows;
        let mut values = self.batch(rows)?;
        let mut rig = Rig {
            overwrites: request.overwrites.iter().map(|p| p.site).collect(),
            adds: request.adds.iter().map(|p| p.site).collect(),
            taps: request.taps.iter().map(|t| (t.site, t.places.is_some())).collect(),
            branches: feed::branches(&seen.overlay),
            slots: feed::slots(&seen.overlay),
            variables: Default::default(),
            logits: !request.logits.is_empty(),
            cache: false,
            seeds: Vec::new(),
            intercepts: seen.intercepts.sites(),
            splices: seen.grafts.clone(),
        };
        // Where a program answers requests, it is the one that continues texts as well: each holds packed weights.
        rig.cache = rig.serves() && !self.anatomy().inputs.cache.is_empty();
        if rig.taps.is_empty() && !rig.logits {
            return Ok(RunReply { taps: Vec::new(), logits: Tensor::zeros([0, self.anatomy().vocab]) });
        }
        let ends = ends(rows, &request.prompt_ends)?;
        set_ends(&ends, &mut values)?;
        let called = self.called(&seen.intercepts, ends, visible)?;
        let compiled = self.programs.run(&rig, || rig.attach(self.graph(), self.anatomy()))?;
        self.pokes(&request.overwrites, &request.adds, rows, &mut values)?;
        for (i, tap) in request.taps.iter().enumerate() {
            if let Some(places) = &tap.places {
                values.places(Name::TapAt(i, tap.site), places, rows)?;
            }
        }
        self.logits_at(&request.logits, rows, &mut values)?;
        self.feed(seen, visible, &mut values)?;
        let rigged = &compiled.rigged;
        // Two sites can be one edge.
        let fetch: BTreeSet<&str> = rigged.taps.iter().chain(&rigged.logits).map(String::as_str).collect();
        let fetch: Vec<&str> = fetch.into_iter().collect();
        let feeds = values.feeds(compiled.program.inputs().iter().map(|p| p.name.as_str()));
        let outputs = compiled.program.run_calling(&feeds, &fetch, cancel, called.as_ref())?;
        let output = |edge: &String| outputs[fetch.binary_search(&edge.as_str()).unwrap_or(0)].to_tensor();
        let logits = rigged.logits.as_ref().map(output).transpose()?;
        let mut taps = Vec::with_capacity(request.taps.len());
        for (tap, edge) in request.taps.iter().zip(&rigged.taps) {
            let tensor = output(edge)?;
            let padded = tap.places.is_none() && !matches!(tap.site, Site::Block(_, BlockSite::Pattern));
            taps.push(if padded { without_padding(tensor, rows)? } else { tensor });
        }
        Ok(RunReply { taps, logits: logits.unwrap_or_else(|| Tensor::zeros([0, self.anatomy().vocab])) })
    }

    /// The committed changes and the trial ones on top.
    pub(in crate::model) fn seen<'r>(&self, under: &'r [Change]) -> Result<Seen<'r>> {
        self.seen_on(self.state(), under)
    }

    /// Trial changes on top of the base model.
    pub(in crate::model) fn seen_on_base<'r>(&self, under: &'r [Change]) -> Result<Seen<'r>> {
        self.seen_on(Arc::new(State::base()), under)
    }

    /// Trial changes on top of a sum of patches.
    pub(in crate::model) fn seen_on<'r>(&self, state: Arc<State>, under: &'r [Change]) -> Result<Seen<'r>> {
        if under.is_empty() {
            return Ok(Seen::of(state, under));
        }
        self.check_shapes(under)?;
        if intercepts(under) {
            return Err(Error::new(&codes::INTERCEPT_TRIAL, "a trial change intercepts: expected a committed patch"));
        }
        if routes(under) {
            return Err(Error::new(&codes::ROUTE_TRIAL, "a trial change routes requests: expected a committed patch"));
        }
        let overlay = self.overlay(&state.patches, Some(under))?;
        let values = feed::overlay_values(&overlay, self.graph(), self.anatomy())?;
        let grafts = self.grafts(&overlay)?;
        Ok(Seen { overlay: Arc::new(overlay), values, grafts, ..Seen::of(state, under) })
    }

    /// Sums the changes of patches of this model, and trial changes on top.
    ///
    /// # Errors
    /// `slots-too-many`; `splice-conflict` or `splice-table` if splices cannot stand together.
    pub(in crate::model) fn overlay(
        &self,
        patches: &[(PatchId, Arc<Patch>)],
        trial: Option<&[Change]>,
    ) -> Result<Overlay> {
        self.check_together(patches, trial)?;
        let sources = patches.iter().map(|(_, patch)| patch.changes.as_slice()).chain(trial);
        let overlay = Overlay::of(sources, |w| self.anatomy().weights.get(&w).map(|p| p.shape));
        for (layer, count) in overlay.slot_counts() {
            check_count(layer, count)?;
        }
        Ok(overlay)
    }

    /// The values that are put in at sites.
    pub(in crate::model) fn pokes(
        &self,
        overwrites: &[Poke],
        adds: &[Poke],
        rows: &[Vec<u32>],
        values: &mut Values,
    ) -> Result<()> {
        let anatomy = self.anatomy();
        for (i, poke) in overwrites.iter().enumerate() {
            values.poke(poke, Name::OverwriteAt(i, poke.site), Name::Overwrite(i, poke.site), anatomy, rows)?;
        }
        for (i, poke) in adds.iter().enumerate() {
            values.poke(poke, Name::AddAt(i, poke.site), Name::Add(i, poke.site), anatomy, rows)?;
        }
        Ok(())
    }

    /// The places at which logits are formed.
    pub(in crate::model) fn logits_at(&self, places: &[Place], rows: &[Vec<u32>], values: &mut Values) -> Result<()> {
        values.places(Name::LogitsAt, places, rows)?;
        let of_rows = places.iter().map(|p| p.row as i64).collect();
        values.set(Name::LogitsRow, Value::i64(&[places.len()], of_rows)?);
        Ok(())
    }
}

/// A tap of every position `[rows, longest, ...]` with zeros where there is no token. The attention pattern
/// `[rows, head, query, key]` keeps its padding.
fn without_padding(tensor: Tensor, rows: &[Vec<u32>]) -> Result<Tensor> {
    let shape = tensor.shape().to_vec();
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    let padded = rows.iter().any(|row| row.len() < longest);
    if !padded || shape.len() < 2 || shape[0] != rows.len() || shape[1] != longest {
        return Ok(tensor);
    }
    let width: usize = shape[2..].iter().product();
    let mut values = tensor.into_f32()?;
    for (r, row) in rows.iter().enumerate() {
        values[(r * longest + row.len()) * width..(r + 1) * longest * width].fill(0.0);
    }
    Ok(Tensor::f32(shape, values)?)
}
