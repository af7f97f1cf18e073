//! A gradient as programs: the rigged graph with a loss and its backward nodes, split where the constant part ends.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engraft_plugin_api::{Site, WeightRef};

use crate::autodiff::{self, Seed};
use crate::base::{Error, Result};
use crate::graph::{DType, Graph, Patch, Shapes, Slice, downstream, upstream};
use crate::hooks::{Branch, Graft, Name, Rig, Rigged, SlotBranch, SlotPart, cast};
use crate::model::codes;
use crate::model::open::Model;
use crate::runtime::{Program, operator};

/// The structure of a gradient request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::model) struct GradientPlan {
    pub(super) rig: Rig,
    pub(super) nll: bool,
    pub(super) kl: [bool; 2],
    pub(super) seeds: Vec<Site>,
    pub(super) variables: Vec<Variable>,
    /// Only a window of each row is computed where the graph lets it.
    pub(super) window: bool,
}

/// A variable by structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Variable {
    Add(usize),
    Weight(WeightRef),
    Pairs(WeightRef),
    Branch(WeightRef, Branch),
    Slots(SlotBranch),
    /// The splice that writes a site, of an order.
    Splice(Site, i32),
}

impl GradientPlan {
    /// The inputs of a splice's tables of floats, those that are read.
    fn tables(&self, site: Site, order: i32) -> Vec<Option<Name>> {
        let of = |graft: &&Arc<Graft>| (graft.splice().writes, graft.splice().order) == (site, order);
        let graft = self.rig.splices.iter().find(of);
        graft.map(|graft| graft.variables().into_iter().map(|(_, name)| name).collect()).unwrap_or_default()
    }
}

/// A compiled gradient.
pub(in crate::model) struct CompiledGradient {
    /// Tells its prefixes from those of other gradients.
    pub(super) id: u64,
    /// Computes `fed` from the rows; none where everything depends on the variables.
    pub(super) prefix: Option<Program>,
    pub(super) fed: Vec<String>,
    pub(super) step: Program,
    /// The unweighted terms: likelihood, divergences, seeds, those that there are.
    pub(super) terms: Vec<String>,
    /// The gradients, one edge for each tensor of each variable.
    pub(super) gradients: Vec<Vec<Option<String>>>,
}

/// How many gradients were compiled.
static COMPILED: AtomicU64 = AtomicU64::new(0);

/// That no method is called on the way from the variables to the loss.
fn called_between(graph: &Graph, variables: &[&str], seeds: &[Seed]) -> Result<()> {
    if !graph.nodes().iter().any(|node| node.domain() == operator::DOMAIN) {
        return Ok(());
    }
    let index = graph.index();
    let below = downstream(&index, variables.iter().copied());
    let above = upstream(&index, seeds.iter().map(|seed| seed.edge.as_str()), &HashSet::new());
    let mut between = graph.nodes().iter().enumerate().filter(|(id, _)| below.contains(id) && above.contains(id));
    match between.find(|(_, node)| node.domain() == operator::DOMAIN) {
        Some((_, node)) => {
            let site = node.string(operator::PLACE).unwrap_or_default();
            let text = format!("a method is called at `{site}`, which the gradient leads through");
            Err(Error::new(&codes::INTERCEPT_GRADIENT, text))
        }
        None => Ok(()),
    }
}

impl Model {
    pub(super) fn compile_gradient(&self, plan: &GradientPlan) -> Result<CompiledGradient> {
        let rigged = match plan.window.then(|| self.windowed(&plan.rig)).transpose()?.flatten() {
            Some(windowed) => windowed,
            None => plan.rig.attach(self.graph(), self.anatomy())?,
        };
        let shapes = Shapes::infer(&rigged.graph)?;
        let rigged = Rigged { graph: rigged.graph.with_gelu(&shapes), ..rigged };
        let mut patch = Patch::new(&rigged.graph);
        patch.drop_outputs();
        let mut built = Vec::new();
        let seeds = self.loss(plan, &rigged, &shapes, &mut patch, &mut built)?;
        let mut wrt: Vec<String> = Vec::new();
        for variable in &plan.variables {
            match *variable {
                Variable::Add(i) => wrt.push(Name::Add(i, plan.rig.adds[i]).to_string()),
                Variable::Weight(weight) => wrt.push(rigged.variables.get(&weight).cloned().unwrap_or_default()),
                Variable::Pairs(weight) => {
                    wrt.push(self.anatomy().weight(weight)?.output.clone().unwrap_or_default());
                }
                Variable::Branch(weight, Branch::Dense) => wrt.push(Name::Dense(weight).to_string()),
                Variable::Branch(weight, Branch::LowRank) => {
                    wrt.extend([Name::Left(weight).to_string(), Name::Right(weight).to_string()]);
                }
                Variable::Slots(branch) => {
                    wrt.extend(SlotPart::all(branch.2).iter().map(|&part| Name::Slot(branch, part).to_string()));
                }
                Variable::Splice(site, order) => {
                    wrt.extend(plan.tables(site, order).into_iter().flatten().map(|name| name.to_string()));
                }
            }
        }
        let names: Vec<&str> = wrt.iter().map(String::as_str).collect();
        called_between(&rigged.graph, &names, &seeds)?;
        let found = autodiff::gradients(&mut patch, &shapes, &seeds, &names)?;
        let mut wide = Vec::with_capacity(found.len());
        for (of, gradient) in names.iter().zip(found) {
            wide.push(gradient.map(|edge| widened(&mut patch, &shapes, of, &edge)).transpose()?);
        }
        let mut found = wide.into_iter();
        let mut gradients = Vec::new();
        for variable in &plan.variables {
            if let Variable::Splice(site, order) = *variable {
                // A table that the graph does not read has no gradient.
                let of = |name: Option<Name>| name.and_then(|_| found.next().flatten());
                gradients.push(plan.tables(site, order).into_iter().map(of).collect());
                continue;
            }
            let own = found.next().flatten();
            gradients.push(match *variable {
                Variable::Pairs(weight) => {
                    let input = self.anatomy().weight(weight)?.input.clone().unwrap_or_default();
                    let read = self.read(&rigged, input);
                    vec![Some(widened(&mut patch, &shapes, &read, &read)?), own]
                }
                Variable::Branch(_, Branch::LowRank) => vec![own, found.next().flatten()],
                Variable::Slots(branch) => {
                    let rest = SlotPart::all(branch.2).len() - 1;
                    std::iter::once(own).chain(found.by_ref().take(rest)).collect()
                }
                _ => vec![own],
            });
        }
        let mut outputs: Vec<&str> = built.iter().map(String::as_str).collect();
        outputs.extend(gradients.iter().flatten().flatten().map(String::as_str));
        let outputs: Vec<String> =
            outputs.into_iter().map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect();
        for edge in &outputs {
            patch.tap(edge, DType::F32)?;
        }
        let whole = patch.apply()?.untransposed()?.lean(&names)?;
        let (prefix, fed, step) = self.split(&whole, &names, &outputs)?;
        Ok(CompiledGradient {
            id: COMPILED.fetch_add(1, Ordering::Relaxed),
            prefix: prefix.map(|graph| self.programs.compile(graph)).transpose()?,
            fed,
            step: self.programs.compile(step)?,
            terms: built,
            gradients,
        })
    }

    /// What readers of an edge of the base graph read, pokes included.
    fn read(&self, rigged: &Rigged, edge: String) -> String {
        let site = self.anatomy().sites.iter().find(|(_, s)| s.edge == edge).map(|(site, _)| *site);
        site.and_then(|site| rigged.sites.get(&site).cloned()).unwrap_or(edge)
    }

    /// Splits a whole gradient graph where the constant part ends: (prefix, the edges it gives, step).
    fn split(
        &self,
        whole: &Graph,
        variables: &[&str],
        outputs: &[String],
    ) -> Result<(Option<Graph>, Vec<String>, Graph)> {
        let shapes = Shapes::infer(whole)?;
        let index = whole.index();
        let dependent = downstream(&index, variables.iter().copied());
        let mut sources: BTreeSet<String> = self.graph().inputs().into_iter().map(|p| p.name).collect();
        sources.extend(whole.inputs().into_iter().map(|p| p.name).filter(|n| {
            [
                "engraft.overwrite",
                "engraft.add",
                "engraft.gate",
                "engraft.window",
                "engraft.positions",
                "engraft.mask",
                "engraft.prompt-end",
            ]
            .iter()
            .any(|p| n.starts_with(p))
        }));
        let from_rows = downstream(&index, sources.iter().map(String::as_str).filter(|s| !variables.contains(s)));
        let kept = upstream(&index, outputs.iter().map(String::as_str), &HashSet::new());
        let constant = |edge: &str| {
            let producer = index.producer_id(edge);
            producer.is_some_and(|p| !dependent.contains(&p) && from_rows.contains(&p))
        };
        let mut cuts: BTreeSet<&str> = BTreeSet::new();
        for (id, node) in whole.nodes().iter().enumerate() {
            if kept.contains(&id) && (dependent.contains(&id) || !from_rows.contains(&id)) {
                cuts.extend(node.inputs().iter().map(String::as_str).filter(|e| !e.is_empty() && constant(e)));
            }
        }
        cuts.extend(outputs.iter().map(String::as_str).filter(|e| constant(e)));
        let cuts: Vec<&str> = cuts.into_iter().collect();
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let step = Slice::between(whole, &shapes, &cuts, &outputs)?;
        if cuts.is_empty() {
            return Ok((None, Vec::new(), step.graph));
        }
        let prefix = Slice::between(whole, &shapes, &[], &cuts)?;
        let fed = cuts.into_iter().map(str::to_owned).collect();
        Ok((Some(prefix.graph), fed, step.graph))
    }
}

/// An edge that has the element type of `of`, in float32.
pub(super) fn widened(patch: &mut Patch<'_>, shapes: &Shapes, of: &str, edge: &str) -> Result<String> {
    let from = shapes.dtype(of).filter(|d| d.is_float()).unwrap_or(DType::F32);
    cast(patch, edge, from, DType::F32)
}
