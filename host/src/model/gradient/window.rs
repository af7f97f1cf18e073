//! Gradients over a window of each row: where only additions at late positions are variables, all before them is
//! constant, if the model is causal. That it is, is measured once.

use std::collections::{BTreeMap, HashSet};

use engraft_plugin_api::{BlockSite, GradientRequest, Place, RunRequest, Site};

use super::compile::{GradientPlan, Variable};
use super::loss::Loss;
use crate::autodiff::{self, Window};
use crate::base::{Error, Result};
use crate::graph::{DType, Dim, Patch, Shapes};
use crate::hooks::{Name, Rig, Rigged, Values};
use crate::model::open::Model;
use crate::runtime::Value;

/// The positions that are computed: as many in each row, from the first that can change or is read on.
pub(super) struct Span {
    starts: Vec<usize>,
    width: usize,
}

impl Span {
    pub(super) fn set(&self, values: &mut Values) -> Result<()> {
        let rows = self.starts.len();
        let starts = self.starts.iter().flat_map(|&s| [0, s as i64]).collect();
        let places =
            |(row, &start): (usize, &usize)| (start..start + self.width).flat_map(move |p| [row as i64, p as i64]);
        let at = self.starts.iter().enumerate().flat_map(places).collect();
        values.set(Name::WindowStarts, Value::i64(&[rows, 2], starts)?);
        values.set(Name::WindowAt, Value::i64(&[rows, self.width, 2], at)?);
        Ok(())
    }
}

impl Model {
    /// The window of a request, if one saves at least a quarter of the positions.
    pub(super) fn span(&self, request: &GradientRequest, plan: &GradientPlan, loss: &Loss<'_>) -> Result<Option<Span>> {
        let additions = plan.variables.iter().all(|v| matches!(v, Variable::Add(_)));
        if !additions || plan.variables.is_empty() || !plan.seeds.is_empty() || !plan.rig.logits {
            return Ok(None);
        }
        // A method sees an activation of whole rows, and so does a splice.
        if !plan.rig.intercepts.is_empty() || !plan.rig.splices.is_empty() {
            return Ok(None);
        }
        let rows = &request.rows;
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut starts: Vec<usize> = rows.iter().map(Vec::len).collect();
        let pokes = request.overwrites.iter().chain(&request.adds).flat_map(|p| &p.places);
        for place in pokes.chain(&loss.places()) {
            if let Some(start) = starts.get_mut(place.row) {
                *start = place.pos.min(*start);
            }
        }
        let width = rows.iter().zip(&starts).map(|(row, start)| row.len() - start).max().unwrap_or(0).max(1);
        if width * 4 > longest * 3 || !self.causal()? {
            return Ok(None);
        }
        for start in &mut starts {
            *start = (*start).min(longest - width);
        }
        Ok(Some(Span { starts, width }))
    }

    /// True if the logits at a position do not depend on later tokens: measured on first use.
    fn causal(&self) -> Result<bool> {
        if let Some(known) = self.causal.get() {
            return Ok(*known);
        }
        // Rows of a fixed shape are kept whole.
        if self.anatomy().inputs.fixed.iter().any(Option::is_some) {
            return Ok(*self.causal.get_or_init(|| false));
        }
        let token = |i: usize| (i % self.anatomy().vocab) as u32;
        let rows = vec![vec![token(1), token(2), token(3)], vec![token(1), token(2), token(4)]];
        let logits = (0..2).flat_map(|pos| (0..2).map(move |row| Place { row, pos })).collect();
        let reply = self.run_base(&RunRequest { rows, logits, ..RunRequest::default() }, None)?;
        let vocab = self.anatomy().vocab;
        let near = (4.0 * self.roundoff()).max(1e-4);
        let equal = reply.logits.as_f32()?.chunks_exact(2 * vocab).all(|pair| {
            let (a, b) = pair.split_at(vocab);
            a.iter().zip(b).all(|(a, b)| (a - b).abs() <= near * a.abs().max(1.0))
        });
        Ok(*self.causal.get_or_init(|| equal))
    }

    /// A rigged graph in which the additions and what follows them are computed for the window only; none if an
    /// operator does not let it.
    pub(super) fn windowed(&self, rig: &Rig) -> Result<Option<Rigged>> {
        match self.over_window(rig) {
            Ok(rigged) => Ok(Some(rigged)),
            Err(error) if error.code().id == autodiff::codes::GRADIENT_WINDOW.id => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Model::windowed`]; what does not let it is an error.
    fn over_window(&self, rig: &Rig) -> Result<Rigged> {
        let whole = Rig { adds: Vec::new(), ..rig.clone() };
        let rigged = whole.attach(self.graph(), self.anatomy())?;
        let goal = rigged.logits.clone().unwrap_or_default();
        let shapes = Shapes::infer(&rigged.graph)?;
        let mut patch = Patch::new(&rigged.graph);
        patch.drop_outputs();
        let anatomy = self.anatomy();
        let ids = &anatomy.inputs.ids;
        let rows = || shapes.dims(ids).and_then(|d| d.first().cloned()).unwrap_or(Dim::symbol("rows"));
        let window = vec![rows(), Dim::symbol("window"), Dim::Known(2)];
        let at = patch.input(&Name::WindowAt.to_string(), DType::I64, window)?;
        let starts = patch.input(&Name::WindowStarts.to_string(), DType::I64, vec![rows(), Dim::Known(2)])?;
        let mut adds: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for (site, places, values) in rig.add_inputs(&mut patch, anatomy)? {
            let Some(edge) = rigged.sites.get(&site).cloned() else {
                let text = format!("`{site}` has other axes in the graph than those of its name");
                return Err(Error::new(&autodiff::codes::GRADIENT_WINDOW, text));
            };
            adds.entry(edge).or_default().push((places, values));
        }
        let current = |layer: usize, site: BlockSite| rigged.edges.get(&Site::Block(layer, site)).cloned();
        let kept = (0..anatomy.layers).flat_map(|l| [current(l, BlockSite::K), current(l, BlockSite::V)]);
        let spec = Window {
            ids,
            at: &at,
            starts: &starts,
            adds: &adds,
            whole: &kept.flatten().collect::<HashSet<String>>(),
            last: &current(anatomy.layers - 1, BlockSite::Z).unwrap_or_default(),
            places: &Name::LogitsAt.to_string(),
            goal: &goal,
        };
        let logits = autodiff::window(&mut patch, &shapes, &spec)?;
        patch.tap(&logits, DType::F32)?;
        Ok(Rigged { graph: patch.apply()?, logits: Some(logits), ..rigged })
    }
}

#[cfg(test)]
impl Model {
    /// What keeps an addition in the first block from being computed for a window, if something does.
    pub(in crate::model) fn window_refusal(&self) -> Option<String> {
        let rig = Rig { adds: vec![Site::Block(0, BlockSite::MlpProj)], logits: true, ..Rig::default() };
        self.over_window(&rig).err().map(|error| error.to_string())
    }
}
