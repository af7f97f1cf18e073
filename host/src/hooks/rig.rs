//! The structure of a program: what is attached to the base graph, as a value, and the attaching.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engraft_plugin_api::{BlockSite, Site, WeightRef};

use super::arrange::arrange;
use super::codes;
use super::names::Name;
use super::slots::{Prepared, SlotBranch, touched};
use super::splice::{Graft, Shared};
use super::types::{Types, cast};
use crate::anatomy::{Anatomy, Axes, Storage};
use crate::base::{Error, Result};
use crate::graph::{Attr, DType, Dim, Graph, Patch, Port};
use crate::runtime::operator;

/// How the sum of patches reaches a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Branch {
    /// `+ ((x · left) ⊙ gate) · right` beside the linear map.
    LowRank,
    /// `W + sum` in place of the tensor.
    Dense,
}

/// What is attached to a base graph.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rig {
    /// Sites whose values are replaced, one for each poke.
    pub overwrites: Vec<Site>,
    /// Sites that vectors are added to, one for each poke.
    pub adds: Vec<Site>,
    /// Sites that are read; true for given places, false for all.
    pub taps: Vec<(Site, bool)>,
    /// Weights that patches reach.
    pub branches: BTreeSet<(WeightRef, Branch)>,
    /// Slots beside MLPs.
    pub slots: BTreeSet<SlotBranch>,
    /// Weights whose use is made an edge of its own, so that it can be differentiated.
    pub variables: BTreeSet<WeightRef>,
    /// Logits are formed at given places.
    pub logits: bool,
    /// Cached keys and values are read and given back; without it nothing is cached.
    pub cache: bool,
    /// Sites that gradients are put in at.
    pub seeds: Vec<Site>,
    /// Sites at which methods are called.
    pub intercepts: BTreeSet<Site>,
    /// Splices between sites and their readers, in ascending order.
    pub splices: Vec<Arc<Graft>>,
}

/// A graph with a rig attached.
#[derive(Clone, Debug)]
pub struct Rigged {
    /// The graph; its outputs are the taps, in order, then the logits, then the cache.
    pub graph: Graph,
    /// The edges of the taps, in order.
    pub taps: Vec<String>,
    /// The edge of the logits at places, `[m, vocab]`.
    pub logits: Option<String>,
    /// The edges of old and new keys and values, in the order of [`Inputs::cache`](crate::anatomy::Inputs).
    pub presents: Vec<String>,
    /// The edge of every weight in [`Rig::variables`], as it is stored.
    pub variables: BTreeMap<WeightRef, String>,
    /// The edge that a site's readers read, for sites whose edge has the site's own axes.
    pub sites: BTreeMap<Site, String>,
    /// The same of every site, in the axes that the anatomy says.
    pub edges: BTreeMap<Site, String>,
}

impl Rig {
    /// True for the pass that answers requests: logits, under patches or without.
    pub fn serves(&self) -> bool {
        let Self {
            overwrites,
            adds,
            taps,
            branches: _,
            slots: _,
            variables,
            logits,
            seeds: _,
            cache: _,
            intercepts: _,
            splices: _,
        } = self;
        *logits && overwrites.is_empty() && adds.is_empty() && taps.is_empty() && variables.is_empty()
    }

    /// Attaches everything to a graph.
    ///
    /// The outputs of the base graph are dropped. At one edge the side branch comes first, then slots, then splices,
    /// then the methods that are called there, then overwrites, then additions; a tap reads what is left after them.
    ///
    /// # Errors
    /// `site-absent` or `weight-absent` with the reason; `site-not-pokable`; `slots-place` or `slots-activation`.
    pub fn attach(&self, graph: &Graph, anatomy: &Anatomy) -> Result<Rigged> {
        let taps = self.taps.iter().map(|(site, _)| site);
        let used = taps.chain(&self.overwrites).chain(&self.adds).chain(&self.seeds).chain(&self.intercepts).copied();
        let slots = self.slots.iter().map(|branch| Prepared::of(graph, anatomy, *branch));
        let slots = slots.collect::<Result<Vec<_>>>()?;
        let used = used.chain(self.slots.iter().map(|branch| touched(*branch).0));
        let used = used.chain(self.splices.iter().flat_map(|graft| graft.touched()));
        let branched = self.branches.iter().filter(|(_, b)| *b == Branch::LowRank).map(|(weight, _)| *weight);
        let branched = branched.chain(self.slots.iter().map(|branch| touched(*branch).1));
        // Logits are gathered by row and position, and so is what the unembedding reads.
        let used = used.chain(self.logits.then_some([Site::Logits, Site::LnFinal]).into_iter().flatten());
        let branched = branched.chain(self.logits.then_some(WeightRef::Unembedding));
        match arrange(graph, anatomy, used, branched)? {
            Some((graph, anatomy)) => self.put(&graph, &anatomy, &slots),
            None => self.put(graph, anatomy, &slots),
        }
    }

    fn put(&self, graph: &Graph, anatomy: &Anatomy, slots: &[Prepared]) -> Result<Rigged> {
        let types = Types::of(graph)?;
        let mut patch = Patch::new(graph);
        patch.drop_outputs();
        let mut variables = BTreeMap::new();
        for &(weight, _) in self.branches.iter().filter(|(_, b)| *b == Branch::Dense) {
            let place = anatomy.weight(weight)?;
            let dims = graph.initializer(&place.initializer).map(|i| i.dims()).unwrap_or_default();
            let dims = dims.into_iter().map(Dim::Known).collect();
            let sum = patch.input(&Name::Dense(weight).to_string(), DType::F32, dims)?;
            let edge = current_input(&patch, &place.reader)?;
            // Summed in float32 and rounded once, as an export is.
            let wide = cast(&mut patch, &edge, place.dtype, DType::F32)?;
            let edited = patch.op("Add", &[&wide, &sum], &[])?;
            let edited = cast(&mut patch, &edited, DType::F32, place.dtype)?;
            patch.reroute(&place.reader.0, place.reader.1, &edited)?;
        }
        for &weight in &self.variables {
            let place = anatomy.weight(weight)?;
            let edge = current_input(&patch, &place.reader)?;
            if place.dtype == DType::F32 {
                let own = patch.op("Identity", &[&edge], &[])?;
                patch.reroute(&place.reader.0, place.reader.1, &own)?;
                variables.insert(weight, own);
                continue;
            }
            // There and back loses nothing, and the gradient of what lies between is of float32.
            let own = cast(&mut patch, &edge, place.dtype, DType::F32)?;
            let back = cast(&mut patch, &own, DType::F32, place.dtype)?;
            patch.reroute(&place.reader.0, place.reader.1, &back)?;
            variables.insert(weight, own);
        }
        for step in self.steps(&patch, anatomy, slots)? {
            step.attach(&mut patch, anatomy, &types)?;
        }
        let mut taps = Vec::new();
        for (i, &(site, at_places)) in self.taps.iter().enumerate() {
            let found = anatomy.site(site)?;
            let mut edge = patch.current(found);
            if at_places {
                edge = gather_places(&mut patch, &edge, Name::TapAt(i, site))?;
            }
            let edge = cast(&mut patch, &edge, types.edge(found), DType::F32)?;
            patch.tap(&edge, DType::F32)?;
            taps.push(edge);
        }
        let logits = if self.logits { Some(self.logits_at(&mut patch, anatomy, &types)?) } else { None };
        let presents = if self.cache { presents(&mut patch, anatomy)? } else { forget(&mut patch, anatomy)? };
        let named = anatomy.sites.iter().filter(|(_, found)| found.axes == Axes::Named);
        let sites = named.map(|(site, found)| (*site, patch.current(&found.edge))).collect();
        let edges = anatomy.sites.iter().map(|(site, found)| (*site, patch.current(&found.edge))).collect();
        Ok(Rigged { graph: patch.apply()?, taps, logits, presents, variables, sites, edges })
    }

    /// The inputs of the additions, added to a patch: the site, places and values of each.
    ///
    /// # Errors
    /// `site-not-pokable`
    pub fn add_inputs(&self, patch: &mut Patch<'_>, anatomy: &Anatomy) -> Result<Vec<(Site, String, String)>> {
        let one = |(i, &site): (usize, &Site)| {
            let at = places(patch, Name::AddAt(i, pokable(site)?))?;
            Ok((site, at, site_input(patch, anatomy, Name::Add(i, site), site)?))
        };
        self.adds.iter().enumerate().map(one).collect()
    }

    /// Everything that is put into activations, in the order of the computation.
    fn steps<'s>(&'s self, patch: &Patch<'_>, anatomy: &Anatomy, slots: &'s [Prepared]) -> Result<Vec<Step<'s>>> {
        let mut steps = Vec::new();
        let mut push = |edge: &str, order: usize, step: Step<'s>| {
            steps.push((patch.index().producer_id(edge).map_or(0, |i| i + 1), order, step));
        };
        for &(weight, _) in self.branches.iter().filter(|(_, b)| *b == Branch::LowRank) {
            let place = anatomy.weight(weight)?;
            let Some(output) = &place.output else { continue };
            push(output, 0, Step::Branch(weight));
        }
        for prepared in slots {
            push(anatomy.site(touched(prepared.branch).0)?, 1, Step::Slots(prepared));
        }
        for graft in &self.splices {
            push(anatomy.site(graft.splice().writes)?, 2, Step::Splice(graft));
        }
        for &site in &self.intercepts {
            push(anatomy.site(site)?, 3, Step::Intercept(pokable(site)?));
        }
        for (i, &site) in self.overwrites.iter().enumerate() {
            push(anatomy.site(site)?, 4, Step::Overwrite(i, pokable(site)?));
        }
        for (i, &site) in self.adds.iter().enumerate() {
            push(anatomy.site(site)?, 5, Step::Add(i, pokable(site)?));
        }
        steps.sort_by_key(|(position, order, _)| (*position, *order));
        Ok(steps.into_iter().map(|(_, _, step)| step).collect())
    }

    /// The logits at places, in float32: the last norm's output gathered, then the unembedding.
    fn logits_at(&self, patch: &mut Patch<'_>, anatomy: &Anatomy, types: &Types) -> Result<String> {
        let logits = anatomy.site(Site::Logits)?.to_owned();
        let head = anatomy.weights.get(&WeightRef::Unembedding);
        let head = head.filter(|w| {
            w.columns.is_none()
                && w.output.as_deref() == Some(&logits)
                && patch.current(&logits) == logits_after(patch, w)
        });
        let Some(head) = head.cloned() else {
            let edge = patch.current(&logits);
            let out = gather_places(patch, &edge, Name::LogitsAt)?;
            let out = cast(patch, &out, types.edge(&logits), DType::F32)?;
            patch.tap(&out, DType::F32)?;
            return Ok(out);
        };
        let input = head.input.as_deref().unwrap_or(anatomy.site(Site::LnFinal)?);
        let (edge, dtype) = (patch.current(input), types.edge(input));
        let hidden = gather_places(patch, &edge, Name::LogitsAt)?;
        let matrix = current_input(patch, &head.reader)?;
        let matrix = cast(patch, &matrix, head.dtype, dtype)?;
        let transposed = Attr::Int(i64::from(head.storage == Storage::OutIn));
        let mut out = patch.op("Gemm", &[&hidden, &matrix], &[("transB", transposed)])?;
        out = cast(patch, &out, dtype, DType::F32)?;
        if let Some(place) = anatomy.weights.get(&WeightRef::UnembeddingBias) {
            let bias = current_input(patch, &place.reader)?;
            let bias = cast(patch, &bias, place.dtype, DType::F32)?;
            out = patch.op("Add", &[&out, &bias], &[])?;
        }
        if self.branches.contains(&(WeightRef::Unembedding, Branch::LowRank)) {
            let rows = patch.input(&Name::LogitsRow.to_string(), DType::I64, vec![Dim::symbol("places")])?;
            let factors = Factors::of(patch, WeightRef::Unembedding)?;
            let gate = patch.op("Gather", &[&factors.gate, &rows], &[("axis", Attr::Int(0))])?;
            let axes = patch.i64(&[1], &[1]);
            let gate = patch.op("Squeeze", &[&gate, &axes], &[])?;
            let hidden = cast(patch, &hidden, dtype, DType::F32)?;
            let mixed = patch.op("MatMul", &[&hidden, &factors.left], &[])?;
            let gated = patch.op("Mul", &[&mixed, &gate], &[])?;
            let sum = patch.op("MatMul", &[&gated, &factors.right], &[])?;
            out = patch.op("Add", &[&out, &sum], &[])?;
        }
        patch.tap(&out, DType::F32)?;
        Ok(out)
    }
}

/// Makes the cached keys and values outputs.
fn presents(patch: &mut Patch<'_>, anatomy: &Anatomy) -> Result<Vec<String>> {
    let ports = anatomy.inputs.cache.iter();
    ports.map(|port| patch.tap(&port.present, port.dtype).map(|()| port.present.clone())).collect()
}

/// Where nothing is cached, the new keys and values are all there are: they are not joined with nothing.
fn forget(patch: &mut Patch<'_>, anatomy: &Anatomy) -> Result<Vec<String>> {
    for port in &anatomy.inputs.cache {
        if let Some(fresh) = port.fresh.as_ref().filter(|_| patch.current(&port.joined) == port.joined) {
            let fresh = patch.current(fresh);
            patch.shunt(&port.joined, &fresh)?;
        }
    }
    Ok(Vec::new())
}

/// The edge that the logits' readers read if nothing but the unembedding's own side branch changes the logits.
fn logits_after(patch: &Patch<'_>, head: &crate::anatomy::WeightEdge) -> String {
    let edge = head.output.clone().unwrap_or_default();
    let now = patch.current(&edge);
    let branched = now != edge && patch.is_input(&Name::Left(WeightRef::Unembedding).to_string());
    if branched { now } else { edge }
}

/// The site, if it has a vector for each row and position.
///
/// # Errors
/// `site-not-pokable`
pub(crate) fn pokable(site: Site) -> Result<Site> {
    match site {
        Site::Block(_, BlockSite::Pattern) => {
            Err(Error::new(&codes::SITE_NOT_POKABLE, format!("values cannot be put in at `{site}`")))
        }
        site => Ok(site),
    }
}

fn current_input(patch: &Patch<'_>, reader: &(String, usize)) -> Result<String> {
    patch.current_input(&reader.0, reader.1).ok_or_else(|| {
        let text = format!("the maker of `{}` has no input {}", reader.0, reader.1);
        Error::new(&crate::graph::codes::PATCH_INVALID, text)
    })
}

fn gather_places(patch: &mut Patch<'_>, edge: &str, name: Name) -> Result<String> {
    let at = places(patch, name)?;
    patch.op("GatherND", &[edge, &at], &[])
}

fn places(patch: &mut Patch<'_>, name: Name) -> Result<String> {
    let name = name.to_string();
    patch.input(&name, DType::I64, vec![Dim::symbol(&format!("{name}.n")), Dim::Known(2)])
}

/// One thing that is put into an activation.
enum Step<'s> {
    Branch(WeightRef),
    Slots(&'s Prepared),
    Splice(&'s Graft),
    Intercept(Site),
    Overwrite(usize, Site),
    Add(usize, Site),
}

impl Step<'_> {
    fn attach(&self, patch: &mut Patch<'_>, anatomy: &Anatomy, types: &Types) -> Result<()> {
        match *self {
            Self::Branch(weight) => branch(patch, anatomy, types, weight),
            Self::Slots(prepared) => prepared.attach(patch, anatomy, types),
            Self::Splice(graft) => graft.attach(patch, anatomy, types),
            Self::Intercept(site) => intercept(patch, anatomy, types, site),
            Self::Overwrite(i, site) => {
                let edge = anatomy.site(site)?;
                let at = places(patch, Name::OverwriteAt(i, site))?;
                let values = site_input(patch, anatomy, Name::Overwrite(i, site), site)?;
                let values = cast(patch, &values, DType::F32, types.edge(edge))?;
                let now = patch.current(edge);
                let out = patch.op("ScatterND", &[&now, &at, &values], &[])?;
                patch.shunt(edge, &out)
            }
            Self::Add(i, site) => {
                let edge = anatomy.site(site)?;
                let at = places(patch, Name::AddAt(i, site))?;
                let values = site_input(patch, anatomy, Name::Add(i, site), site)?;
                let (now, dtype) = (patch.current(edge), types.edge(edge));
                let now = cast(patch, &now, dtype, DType::F32)?;
                let out = patch.add_at(&now, &at, &values)?;
                let out = cast(patch, &out, DType::F32, dtype)?;
                patch.shunt(edge, &out)
            }
        }
    }
}

/// A call of methods at a site. Positions and the number of the run are inputs that all calls share.
fn intercept(patch: &mut Patch<'_>, anatomy: &Anatomy, types: &Types, site: Site) -> Result<()> {
    let positions = Shared::of(patch, anatomy).positions(patch)?;
    if !patch.is_input(operator::RUN_INPUT) {
        patch.input(operator::RUN_INPUT, DType::I64, Vec::new())?;
    }
    let edge = anatomy.site(site)?;
    let (now, dtype) = (patch.current(edge), types.edge(edge));
    let now = cast(patch, &now, dtype, DType::F32)?;
    let place = [(operator::PLACE, Attr::Str(site.to_string()))];
    let inputs = [&now, &positions, operator::RUN_INPUT];
    let out = patch.op_of(operator::DOMAIN, operator::INTERCEPT, &inputs, &place)?;
    let ids = patch.graph().inputs().into_iter().find(|port| port.name == anatomy.inputs.ids);
    if let Some(mut dims) = ids.and_then(|port| port.dims).filter(|dims| dims.len() == 2) {
        dims.extend(site_width(anatomy, site).into_iter().map(Dim::Known));
        patch.state(Port::new(&out, DType::F32, dims));
    }
    let out = cast(patch, &out, DType::F32, dtype)?;
    patch.shunt(edge, &out)
}

fn site_input(patch: &mut Patch<'_>, anatomy: &Anatomy, name: Name, site: Site) -> Result<String> {
    let mut dims = vec![Dim::symbol(&format!("{name}.n"))];
    dims.extend(site_width(anatomy, site).into_iter().map(Dim::Known));
    patch.input(&name.to_string(), DType::F32, dims)
}

/// The extents of a site after row and position.
pub(crate) fn site_width(anatomy: &Anatomy, site: Site) -> Vec<usize> {
    match site {
        Site::Logits => vec![anatomy.vocab],
        Site::Block(_, BlockSite::Q | BlockSite::Z) => vec![anatomy.heads, anatomy.d_head],
        Site::Block(_, BlockSite::K | BlockSite::V) => vec![anatomy.kv_heads, anatomy.d_head],
        Site::Block(_, BlockSite::MlpPre | BlockSite::MlpPreLinear | BlockSite::MlpPost) => vec![anatomy.d_mlp],
        Site::Embed | Site::LnFinal | Site::Block(..) => vec![anatomy.d_model],
    }
}

/// The inputs of a side branch.
struct Factors {
    left: String,
    right: String,
    gate: String,
}

impl Factors {
    /// The inputs, added on first use.
    fn of(patch: &mut Patch<'_>, weight: WeightRef) -> Result<Self> {
        let names = [Name::Left(weight), Name::Right(weight), Name::Gate(weight)].map(|n| n.to_string());
        let [left, right, gate] = names;
        if !patch.is_input(&left) {
            let rank = || Dim::symbol(&format!("rank:{weight}"));
            patch.input(&left, DType::F32, vec![Dim::symbol(&format!("in:{weight}")), rank()])?;
            patch.input(&right, DType::F32, vec![rank(), Dim::symbol(&format!("out:{weight}"))])?;
            patch.input(&gate, DType::F32, vec![Dim::symbol("rows"), Dim::Known(1), rank()])?;
        }
        Ok(Self { left, right, gate })
    }
}

/// `y + ((x · left) ⊙ gate) · right`, in float32 and rounded once where `y` is narrower; for a table, `x · left` is the
/// rows of `left` that are looked up.
fn branch(patch: &mut Patch<'_>, anatomy: &Anatomy, types: &Types, weight: WeightRef) -> Result<()> {
    let place = anatomy.weight(weight)?.clone();
    let Some(output) = &place.output else { return Ok(()) };
    let factors = Factors::of(patch, weight)?;
    let reader = patch.index().producer(&place.reader.0).filter(|n| n.is("Gather"));
    let mixed = match reader.and_then(|n| n.input(1)).map(str::to_owned) {
        Some(indices) => patch.op("Gather", &[&factors.left, &indices], &[("axis", Attr::Int(0))])?,
        None => {
            let edge = place.input.as_deref().unwrap_or_default();
            let mut input = patch.current(edge);
            if anatomy.sites.iter().any(|(site, s)| s.edge == edge && matches!(site, Site::Block(_, BlockSite::Z))) {
                // The heads side by side: `[batch, pos, head, d_head]` as `[batch, pos, in]`.
                let flat = patch.i64(&[3], &[0, 0, -1]);
                input = patch.op("Reshape", &[&input, &flat], &[])?;
            }
            let input = cast(patch, &input, types.edge(edge), DType::F32)?;
            patch.op("MatMul", &[&input, &factors.left], &[])?
        }
    };
    let gated = patch.op("Mul", &[&mixed, &factors.gate], &[])?;
    let sum = patch.op("MatMul", &[&gated, &factors.right], &[])?;
    let (now, dtype) = (patch.current(output), types.edge(output));
    let now = cast(patch, &now, dtype, DType::F32)?;
    let out = patch.op("Add", &[&now, &sum], &[])?;
    let out = cast(patch, &out, DType::F32, dtype)?;
    patch.shunt(output, &out)
}
