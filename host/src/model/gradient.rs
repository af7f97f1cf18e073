//! A loss and its gradients: only what depends on the variables is differentiated, and what comes before them is
//! computed once and fed.
//!
//! A request is split into its structure (the [`GradientPlan`], compiled once) and its values. The compiled pair is a
//! *prefix*, which computes every edge that crosses from the constant part into the dependent part, and a *step*,
//! which reads those edges, the variables and the loss's numbers. The results of the last few prefixes are kept by
//! content, so that the steps of an optimisation run the step alone.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use engraft_plugin_api::{
    Change, Delta, GradientReply, GradientRequest, KlDirection, Place, Site, Tensor, Term, WeightRef, Wrt,
};

use super::codes;
use super::feed;
use super::open::Model;
use super::run::Seen;
use crate::anatomy::WeightEdge;
use crate::autodiff::{self, Seed};
use crate::base::{Cancel, Error, Hash, Result};
use crate::graph::{Attr, DType, Dim, Graph, Patch, Shapes, Slice, downstream, upstream};
use crate::hooks::{Branch, Name, Rig, Rigged, Values, site_width};
use crate::runtime::{Program, Value};

/// The structure of a gradient request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct GradientPlan {
    rig: Rig,
    nll: bool,
    kl: [bool; 2],
    seeds: Vec<Site>,
    variables: Vec<Variable>,
}

/// A variable by structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Variable {
    Add(usize),
    Weight(WeightRef),
    Pairs(WeightRef),
    Branch(WeightRef, Branch),
}

/// A compiled gradient.
pub(super) struct CompiledGradient {
    /// Tells its prefixes from those of other gradients.
    id: u64,
    /// Computes `fed` from the rows; none where everything depends on the variables.
    prefix: Option<Program>,
    fed: Vec<String>,
    step: Program,
    /// The unweighted terms: likelihood, divergences, seeds, those that there are.
    terms: Vec<String>,
    /// The gradients, one or two edges for each variable.
    gradients: Vec<Vec<Option<String>>>,
}

/// How many gradients were compiled.
static COMPILED: AtomicU64 = AtomicU64::new(0);

/// The results of the last prefixes, by content.
#[derive(Default)]
pub(super) struct Prefixes(Mutex<VecDeque<(Hash, Arc<Vec<Value>>)>>);

/// How many prefixes are kept.
const KEPT: usize = 2;

impl Prefixes {
    fn get(&self, key: Hash, compute: impl FnOnce() -> Result<Vec<Value>>) -> Result<Arc<Vec<Value>>> {
        let guard = || self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, found)) = guard().iter().find(|(k, _)| *k == key) {
            return Ok(found.clone());
        }
        let computed = Arc::new(compute()?);
        let mut kept = guard();
        kept.truncate(KEPT - 1);
        kept.push_front((key, computed.clone()));
        Ok(computed)
    }
}

/// The terms of a loss, sorted into the groups that the graph computes, each with its place in the request.
#[derive(Default)]
struct Loss<'a> {
    nll: Vec<(usize, Place, u32, f32)>,
    kl: [Vec<VectorTerm<'a>>; 2],
    seeds: Vec<(Site, Vec<VectorTerm<'a>>)>,
}

/// The number of a term in the request, its place, its vector and its weight.
type VectorTerm<'a> = (usize, Place, &'a [f32], f32);

impl<'a> Loss<'a> {
    fn of(terms: &'a [Term]) -> Self {
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
    fn places(&self) -> Vec<Place> {
        let nll = self.nll.iter().map(|t| t.1);
        nll.chain(self.kl.iter().flatten().map(|t| t.1)).collect()
    }

    /// The numbers of the loss as inputs.
    fn values(&self, model: &Model, rows: &[Vec<u32>]) -> Result<Values> {
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
    /// The loss and its gradients.
    ///
    /// # Shapes
    /// See [`GradientRequest`] and [`GradientReply`].
    ///
    /// # Errors
    /// As [`Model::run`], and `gradient-missing` if an operator on the way has no rule.
    pub fn gradient(&self, request: &GradientRequest) -> Result<GradientReply> {
        self.gradient_until(request, None)
    }

    /// As [`Model::gradient`], stopping soon when cancelled.
    ///
    /// # Errors
    /// As [`Model::gradient`], and `interrupted`.
    pub fn gradient_until(&self, request: &GradientRequest, cancel: Option<&Cancel>) -> Result<GradientReply> {
        let rows = &request.rows;
        let mut values = self.batch(rows)?;
        let seen = self.seen(&request.under, rows.len())?;
        let loss = Loss::of(&request.terms);
        let variables = self.variables(request)?;
        let plan = GradientPlan {
            rig: Rig {
                overwrites: request.overwrites.iter().map(|p| p.site).collect(),
                adds: request.adds.iter().map(|p| p.site).collect(),
                taps: Vec::new(),
                branches: feed::branches(&seen.overlay),
                variables: variables
                    .iter()
                    .filter_map(|v| if let Variable::Weight(w) = v { Some(*w) } else { None })
                    .collect(),
                logits: !loss.nll.is_empty() || loss.kl.iter().any(|k| !k.is_empty()),
                cache: false,
                seeds: loss.seeds.iter().map(|(site, _)| *site).collect(),
            },
            nll: !loss.nll.is_empty(),
            kl: [!loss.kl[0].is_empty(), !loss.kl[1].is_empty()],
            seeds: loss.seeds.iter().map(|(site, _)| *site).collect(),
            variables,
        };
        let compiled = self.programs.gradient(&plan, || self.compile_gradient(&plan))?;
        self.pokes(&request.overwrites, &request.adds, rows, &mut values)?;
        values.extend(loss.values(self, rows)?);
        values.copy(&seen.values);
        if let Some(prefix) = &compiled.prefix {
            let names = || prefix.inputs().iter().map(|p| p.name.as_str());
            let key = Hash::of_parts([values.hash(names())?.bytes().as_slice(), &compiled.id.to_le_bytes()]);
            let fed = self.programs.prefixes.get(key, || {
                let fetch: Vec<&str> = compiled.fed.iter().map(String::as_str).collect();
                prefix.run_until(&values.feeds(names()), &fetch, cancel)
            })?;
            for (name, value) in compiled.fed.iter().zip(fed.iter()) {
                values.set(name, value.clone());
            }
        }
        let fetch: Vec<&str> = {
            let flat = compiled.gradients.iter().flatten().flatten();
            compiled.terms.iter().chain(flat).map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect()
        };
        let feeds = values.feeds(compiled.step.inputs().iter().map(|p| p.name.as_str()));
        let outputs = compiled.step.run_until(&feeds, &fetch, cancel)?;
        let output = |name: &str| fetch.iter().position(|f| *f == name).map(|i| &outputs[i]);

        let terms = self.terms(request, &loss, &plan, &compiled, &output)?;
        let total = request.terms.iter().zip(&terms).map(|(term, value)| term.weight() * value).sum();
        let mut gradients = Vec::with_capacity(request.wrt.len());
        for (wrt, edges) in request.wrt.iter().zip(&compiled.gradients) {
            let found = edges.iter().map(|e| e.as_deref().and_then(output)).collect::<Vec<_>>();
            gradients.push(self.answer(wrt, request, &seen, &found)?);
        }
        Ok(GradientReply { loss: total, terms, gradients })
    }

    fn variables(&self, request: &GradientRequest) -> Result<Vec<Variable>> {
        let outside = |what: &str, i: usize, n: usize| {
            Error::new(&codes::TRIAL_UNKNOWN, format!("a gradient with respect to {what} {i}, of which there are {n}"))
        };
        let variable = |wrt: &Wrt| match *wrt {
            Wrt::Add(i) if i < request.adds.len() => Ok(Variable::Add(i)),
            Wrt::Add(i) => Err(outside("addition", i, request.adds.len())),
            Wrt::Weight(weight) => self.anatomy().weight(weight).map(|_| Variable::Weight(weight)),
            Wrt::Pairs(weight) => {
                let place = self.anatomy().weight(weight)?;
                match (&place.input, &place.output) {
                    (Some(_), Some(_)) => Ok(Variable::Pairs(weight)),
                    _ => Err(Error::new(&codes::TRIAL_UNKNOWN, format!("`{weight}` is not a linear map"))),
                }
            }
            Wrt::Trial(i) => match request.under.get(i) {
                Some(Change::Weight { weight, delta }) => {
                    let vector = self.anatomy().weight(*weight)?.shape[0] == 1;
                    let dense = vector || matches!(delta, Delta::Dense(_));
                    Ok(Variable::Branch(*weight, if dense { Branch::Dense } else { Branch::LowRank }))
                }
                _ => Err(outside("trial change", i, request.under.len())),
            },
        };
        request.wrt.iter().map(variable).collect()
    }

    fn compile_gradient(&self, plan: &GradientPlan) -> Result<CompiledGradient> {
        let rigged = plan.rig.attach(self.graph(), self.anatomy())?;
        let shapes = Shapes::infer(&rigged.graph)?;
        let mut patch = Patch::new(&rigged.graph);
        patch.drop_outputs();
        let mut built = Vec::new();
        let seeds = self.loss(plan, &rigged, &mut patch, &mut built)?;
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
            }
        }
        let names: Vec<&str> = wrt.iter().map(String::as_str).collect();
        let mut found = autodiff::gradients(&mut patch, &shapes, &seeds, &names)?.into_iter();
        let mut gradients = Vec::new();
        for variable in &plan.variables {
            let own = found.next().flatten();
            gradients.push(match *variable {
                Variable::Pairs(weight) => {
                    let input = self.anatomy().weight(weight)?.input.clone().unwrap_or_default();
                    vec![Some(self.read(&rigged, input)), own]
                }
                Variable::Branch(_, Branch::LowRank) => vec![own, found.next().flatten()],
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
        let whole = patch.apply()?;
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

    /// Adds the loss; its unweighted terms go to `built`.
    fn loss(
        &self,
        plan: &GradientPlan,
        rigged: &Rigged,
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
            n.starts_with("engraft.overwrite") || n.starts_with("engraft.add") || n.starts_with("engraft.gate")
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

    /// The unweighted terms, in the order of the request.
    fn terms<'v>(
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

    /// The gradients of one variable in the shapes that methods see.
    fn answer(
        &self,
        wrt: &Wrt,
        request: &GradientRequest,
        seen: &Seen,
        found: &[Option<&Value>],
    ) -> Result<Vec<Tensor>> {
        let flat = |i: usize| found.get(i).copied().flatten().map(|v| v.as_f32().map(<[f32]>::to_vec)).transpose();
        match wrt {
            Wrt::Add(i) => {
                let poke = &request.adds[*i];
                let width: usize = site_width(self.anatomy(), poke.site).iter().product();
                let n = poke.places.len();
                Ok(vec![Tensor::f32([n, width], flat(0)?.unwrap_or_else(|| vec![0.0; n * width]))?])
            }
            Wrt::Weight(weight) => {
                let place = self.anatomy().weight(*weight)?;
                Ok(vec![self.stored_gradient(place, flat(0)?)?])
            }
            Wrt::Pairs(weight) => {
                let place = self.anatomy().weight(*weight)?;
                let longest = request.rows.iter().map(Vec::len).max().unwrap_or(0);
                let [inputs, outputs] = place.shape;
                let (columns, total) = feed::packed(place, self.graph());
                let shape = |width: usize| [request.rows.len(), longest, width];
                let x = flat(0)?.unwrap_or_else(|| vec![0.0; request.rows.len() * longest * inputs]);
                let all = flat(1)?.unwrap_or_else(|| vec![0.0; request.rows.len() * longest * total]);
                let own = all.chunks_exact(total).flat_map(|row| columns.all().map(|c| row[c])).collect();
                Ok(vec![Tensor::f32(shape(inputs), x)?, Tensor::f32(shape(outputs), own)?])
            }
            Wrt::Trial(i) => {
                let Some(Change::Weight { weight, delta }) = request.under.get(*i) else { return Ok(Vec::new()) };
                let place = self.anatomy().weight(*weight)?;
                self.trial_gradient(*i, place, *weight, delta, seen, &flat)
            }
        }
    }

    fn stored_gradient(&self, place: &WeightEdge, stored: Option<Vec<f32>>) -> Result<Tensor> {
        let values = match stored {
            Some(stored) => feed::from_stored(&stored, place, self.graph()),
            None => vec![0.0; place.shape[0] * place.shape[1]],
        };
        Ok(Tensor::f32(place.shape, values)?)
    }

    fn trial_gradient(
        &self,
        number: usize,
        place: &WeightEdge,
        weight: WeightRef,
        delta: &Delta,
        seen: &Seen,
        flat: &dyn Fn(usize) -> Result<Option<Vec<f32>>>,
    ) -> Result<Vec<Tensor>> {
        let [inputs, outputs] = place.shape;
        if inputs == 1 || matches!(delta, Delta::Dense(_)) {
            let dense = self.stored_gradient(place, flat(0)?)?;
            let Delta::LowRank { left, right } = delta else { return Ok(vec![dense]) };
            // The product of a vector's factors is summed densely: d(l·r) = dl·r + l·dr.
            let (d, l, r) = (dense.matrix()?, left.matrix()?, right.matrix()?);
            return Ok(vec![Tensor::from_array(&d.dot(&r.t())), Tensor::from_array(&l.t().dot(&d))]);
        }
        let owned = seen.overlay.low_rank.get(&weight).map_or(&[][..], |f| &f.owners);
        let rank = owned.len();
        let own: Vec<usize> = (0..rank).filter(|&r| owned[r] == (seen.trial, number)).collect();
        let (columns, total) = feed::packed(place, self.graph());
        let left = flat(0)?.unwrap_or_else(|| vec![0.0; inputs * rank]);
        let right = flat(1)?.unwrap_or_else(|| vec![0.0; rank * total]);
        let right = own.iter().flat_map(|&r| columns.all().map(move |c| r * total + c)).map(|at| right[at]).collect();
        let right = Tensor::f32([own.len(), outputs], right)?;
        if matches!(delta, Delta::Rows { .. }) {
            return Ok(vec![right]);
        }
        let left = (0..inputs).flat_map(|i| own.iter().map(move |&r| i * rank + r)).map(|at| left[at]).collect();
        Ok(vec![Tensor::f32([inputs, own.len()], left)?, right])
    }
}
