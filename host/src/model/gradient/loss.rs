//! The loss of a request: its terms sorted into the groups that the graph computes, as numbers and as nodes.

use engraft_plugin_api::{GradientRequest, KlDirection, Place, Site, Term};

use super::compile::{CompiledGradient, GradientPlan, widened};
use crate::autodiff::{self, Seed};
use crate::base::{Error, Result};
use crate::graph::{Attr, DType, Dim, Patch, Shapes};
use crate::hooks::{Name, Rigged, Values, site_width};
use crate::model::codes;
use crate::model::open::Model;
use crate::runtime::Value;

/// The terms of a loss, sorted into the groups that the graph computes, each with its place in the request.
#[derive(Default)]
pub(super) struct Loss<'a> {
    pub(super) nll: Vec<(usize, Place, u32, f32)>,
    pub(super) kl: [Vec<VectorTerm<'a>>; 2],
    pub(super) seeds: Vec<(Site, Vec<VectorTerm<'a>>)>,
}

/// The number of a term in the request, its place, its vector and its weight.
pub(super) type VectorTerm<'a> = (usize, Place, &'a [f32], f32);

impl<'a> Loss<'a> {
    pub(super) fn of(terms: &'a [Term]) -> Self {
        let mut out = Self::default();
        for (i, term) in terms.iter().enumerate() {
            match term {
                Term::Nll { place, token, weight } => out.nll.push((i, *place, *token, *weight)),
                Term::Kl { place, reference, direction, weight } => {
                    out.kl[usize::from(*direction == KlDirection::FromReference)].push((i, *place, reference, *weight));
                }
                Term::Seed { site, place, vector, weight } => {
                    let term = (i, *place, vector.as_slice(), *weight);
                    match out.seeds.iter_mut().find(|(s, _)| s == site) {
                        Some((_, of_site)) => of_site.push(term),
                        None => out.seeds.push((*site, vec![term])),
                    }
                }
            }
        }
        out
    }

    /// The places at which logits are formed, in the order of the groups.
    pub(super) fn places(&self) -> Vec<Place> {
        let nll = self.nll.iter().map(|t| t.1);
        nll.chain(self.kl.iter().flatten().map(|t| t.1)).collect()
    }

    /// The numbers of the loss as inputs.
    pub(super) fn values(&self, model: &Model, rows: &[Vec<u32>]) -> Result<Values> {
        let mut out = Values::default();
        let vocab = model.anatomy().vocab;
        model.logits_at(&self.places(), rows, &mut out)?;
        if let Some(bad) = self.nll.iter().find(|t| t.2 as usize >= vocab) {
            return Err(Error::new(&codes::TOKEN_OUTSIDE, format!("the target token {} is not below {vocab}", bad.2)));
        }
        let n = self.nll.len();
        out.set(Name::Targets, Value::i64(&[n], self.nll.iter().map(|t| i64::from(t.2)).collect())?);
        out.set(Name::NllWeights, Value::f32(&[n], self.nll.iter().map(|t| t.3).collect())?);
        let mut split = vec![n as i64];
        for (from_reference, terms) in [false, true].into_iter().zip(&self.kl) {
            if let Some(bad) = terms.iter().find(|t| t.2.len() != vocab) {
                let text = format!("a recorded distribution has {} values, the vocabulary {vocab}", bad.2.len());
                return Err(Error::new(&codes::REFERENCE_SHAPE, text));
            }
            let n = terms.len();
            let reference = terms.iter().flat_map(|t| t.2).copied().collect();
            out.set(Name::Reference(from_reference), Value::f32(&[n, vocab], reference)?);
            out.set(Name::KlWeights(from_reference), Value::f32(&[n], terms.iter().map(|t| t.3).collect())?);
            split.push(n as i64);
        }
        let split: Vec<i64> = split.into_iter().filter(|&n| n > 0).collect();
        out.set(Name::Split, Value::i64(&[split.len()], split)?);
        for (i, (site, terms)) in self.seeds.iter().enumerate() {
            let places: Vec<Place> = terms.iter().map(|t| t.1).collect();
            out.places(Name::SeedAt(i, *site), &places, rows)?;
            let dims = site_width(model.anatomy(), *site);
            let width: usize = dims.iter().product();
            if let Some(bad) = terms.iter().find(|t| t.2.len() != width) {
                let text = format!("a seed vector has {} values, `{site}` has {width}", bad.2.len());
                return Err(Error::new(&crate::hooks::codes::POKE_SHAPE, text));
            }
            let n = terms.len();
            let shape: Vec<usize> = std::iter::once(n).chain(dims.iter().copied()).collect();
            out.set(Name::Seed(i, *site), Value::f32(&shape, terms.iter().flat_map(|t| t.2).copied().collect())?);
            let ones: Vec<usize> = std::iter::once(n).chain(dims.iter().map(|_| 1)).collect();
            out.set(Name::SeedWeights(i, *site), Value::f32(&ones, terms.iter().map(|t| t.3).collect())?);
        }
        Ok(out)
    }
}

impl Model {
    /// Adds the loss; its unweighted terms go to `built`.
    pub(super) fn loss(
        &self,
        plan: &GradientPlan,
        rigged: &Rigged,
        shapes: &Shapes,
        patch: &mut Patch<'_>,
        built: &mut Vec<String>,
    ) -> Result<Vec<Seed>> {
        let vocab = Dim::Known(self.anatomy().vocab);
        let mut seeds = Vec::new();
        if let Some(logits) = &rigged.logits {
            let groups = usize::from(plan.nll) + plan.kl.iter().filter(|k| **k).count();
            let parts = if groups == 1 {
                vec![logits.clone()]
            } else {
                let split = patch.input(&Name::Split.to_string(), DType::I64, vec![Dim::Known(groups)])?;
                patch.op_many("Split", &[logits, &split], &[("axis", Attr::Int(0))], groups)?
            };
            let mut parts = parts.into_iter();
            let mut cotangents = Vec::new();
            if let Some(part) = if plan.nll { parts.next() } else { None } {
                let targets = patch.input(&Name::Targets.to_string(), DType::I64, vec![Dim::symbol("nll")])?;
                let weights = patch.input(&Name::NllWeights.to_string(), DType::F32, vec![Dim::symbol("nll")])?;
                let nodes = autodiff::nll(patch, &part, &targets, &weights)?;
                built.push(nodes.terms);
                cotangents.push(nodes.cotangent);
            }
            for (from_reference, _) in [false, true].into_iter().zip(plan.kl).filter(|(_, there)| *there) {
                let Some(part) = parts.next() else { continue };
                let n = || Dim::symbol(&format!("kl.{from_reference}"));
                let name = Name::Reference(from_reference).to_string();
                let reference = patch.input(&name, DType::F32, vec![n(), vocab.clone()])?;
                let weights = patch.input(&Name::KlWeights(from_reference).to_string(), DType::F32, vec![n()])?;
                let direction = if from_reference { KlDirection::FromReference } else { KlDirection::FromCurrent };
                let nodes = autodiff::kl(patch, &part, &reference, &weights, direction)?;
                built.push(nodes.terms);
                cotangents.push(nodes.cotangent);
            }
            let cotangent = match cotangents.as_slice() {
                [one] => one.clone(),
                several => {
                    let several: Vec<&str> = several.iter().map(String::as_str).collect();
                    patch.op("Concat", &several, &[("axis", Attr::Int(0))])?
                }
            };
            seeds.push(Seed { edge: logits.clone(), cotangent });
        }
        for (i, &site) in plan.seeds.iter().enumerate() {
            let edge = rigged.sites.get(&site).cloned().unwrap_or_default();
            self.anatomy().site(site)?;
            let n = || Dim::symbol(&format!("seed.{i}"));
            let at = patch.input(&Name::SeedAt(i, site).to_string(), DType::I64, vec![n(), Dim::Known(2)])?;
            let widths = site_width(self.anatomy(), site);
            let dims = |extents: Vec<usize>| std::iter::once(n()).chain(extents.into_iter().map(Dim::Known)).collect();
            let ones = vec![1; widths.len()];
            let axes: Vec<i64> = (1..=widths.len() as i64).collect();
            let vectors = patch.input(&Name::Seed(i, site).to_string(), DType::F32, dims(widths))?;
            let weights = patch.input(&Name::SeedWeights(i, site).to_string(), DType::F32, dims(ones))?;
            let there = patch.op("GatherND", &[&edge, &at], &[])?;
            let there = widened(patch, shapes, &edge, &there)?;
            let products = patch.op("Mul", &[&there, &vectors], &[])?;
            let axes = patch.i64(&[axes.len()], &axes);
            built.push(patch.op("ReduceSum", &[&products, &axes], &[("keepdims", Attr::Int(0))])?);
            let weighted = patch.op("Mul", &[&vectors, &weights], &[])?;
            let shape = patch.op("Shape", &[&edge], &[])?;
            let zeros = patch.op("ConstantOfShape", &[&shape], &[])?;
            let cotangent = patch.op("ScatterND", &[&zeros, &at, &weighted], &[])?;
            seeds.push(Seed { edge, cotangent });
        }
        Ok(seeds)
    }

    /// The unweighted terms, in the order of the request.
    pub(super) fn terms<'v>(
        &self,
        request: &GradientRequest,
        loss: &Loss<'_>,
        plan: &GradientPlan,
        compiled: &CompiledGradient,
        output: &dyn Fn(&str) -> Option<&'v Value>,
    ) -> Result<Vec<f32>> {
        let mut terms = vec![0.0; request.terms.len()];
        let mut groups: Vec<Vec<usize>> = Vec::new();
        if plan.nll {
            groups.push(loss.nll.iter().map(|t| t.0).collect());
        }
        groups.extend(loss.kl.iter().filter(|k| !k.is_empty()).map(|k| k.iter().map(|t| t.0).collect()));
        groups.extend(loss.seeds.iter().map(|(_, s)| s.iter().map(|t| t.0).collect()));
        for (edge, group) in compiled.terms.iter().zip(groups) {
            let Some(value) = output(edge) else { continue };
            for (i, v) in group.into_iter().zip(value.as_f32()?) {
                terms[i] = *v;
            }
        }
        Ok(terms)
    }
}
