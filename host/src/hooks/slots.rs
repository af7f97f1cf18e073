//! Slots: neurons beside those of an MLP, in a branch of their own from what the MLP reads to `mlp.out`. Their
//! extents are symbols: how many there are is no part of a program. The model's own activation function is the nodes
//! between `mlp.pre` and what bends it, copied.

use std::collections::{BTreeSet, HashMap, HashSet};

use engraft_plugin_api::{Activation, BlockSite, Role, Site, WeightRef};

use super::codes;
use super::names::Name;
use super::types::{Types, cast};
use crate::anatomy::Anatomy;
use crate::base::{Error, Result};
use crate::graph::{DType, Dim, Graph, Index, Initializer, Node, Patch, downstream, is_pointwise, upstream};

/// A branch of slots: the block, the activation function, and true for gated ones.
pub type SlotBranch = (usize, Activation, bool);

/// A tensor of a branch of slots, in the order of [`Slots::tensors`](engraft_plugin_api::Slots::tensors).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SlotPart {
    /// `[d_model, n]`
    Keys,
    /// `[n]`
    Bias,
    /// `[n, d_model]`
    Values,
    /// `[d_model, n]`
    GateKeys,
    /// `[n]`
    GateBias,
}

impl SlotPart {
    /// The tensors of a branch.
    pub(crate) fn all(gated: bool) -> &'static [Self] {
        const ALL: [SlotPart; 5] =
            [SlotPart::Keys, SlotPart::Bias, SlotPart::Values, SlotPart::GateKeys, SlotPart::GateBias];
        if gated { &ALL } else { &ALL[..3] }
    }

    /// The shape for `n` slots.
    pub(crate) fn shape<D>(self, d_model: D, n: D) -> Vec<D> {
        match self {
            Self::Keys | Self::GateKeys => vec![d_model, n],
            Self::Bias | Self::GateBias => vec![n],
            Self::Values => vec![n, d_model],
        }
    }

    /// The axis that counts slots.
    pub(crate) fn slot_axis(self) -> usize {
        usize::from(matches!(self, Self::Keys | Self::GateKeys))
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Bias => "bias",
            Self::Values => "values",
            Self::GateKeys => "gate-keys",
            Self::GateBias => "gate-bias",
        }
    }
}

/// The tensors of a branch as edges.
struct Tensors {
    /// Those of [`SlotPart::all`].
    parts: Vec<String>,
    /// The row gate `[rows, 1, n]`, where rows see different slots.
    rows: Option<String>,
}

/// A branch that can be attached to a graph.
pub(super) struct Prepared {
    pub(super) branch: SlotBranch,
    /// The model's activation function, where it is asked for.
    bend: Option<Bend>,
}

impl Prepared {
    /// What a branch needs of the base graph.
    ///
    /// # Errors
    /// `slots-place` or `slots-activation`
    pub(super) fn of(graph: &Graph, anatomy: &Anatomy, branch: SlotBranch) -> Result<Self> {
        check_place(anatomy, branch.0)?;
        let bend = (branch.1 == Activation::Model).then(|| Bend::of(graph, anatomy, branch.0)).transpose()?;
        Ok(Self { branch, bend })
    }

    /// Adds the branch with tensors that are fed.
    pub(super) fn attach(&self, patch: &mut Patch<'_>, anatomy: &Anatomy, types: &Types) -> Result<()> {
        let n = || Dim::symbol(&format!("{}.n", Name::SlotGate(self.branch)));
        let mut parts = Vec::new();
        for &part in SlotPart::all(self.branch.2) {
            let dims = part.shape(Dim::Known(anatomy.d_model), n());
            parts.push(patch.input(&Name::Slot(self.branch, part).to_string(), DType::F32, dims)?);
        }
        let rows = vec![Dim::symbol("rows"), Dim::Known(1), n()];
        let rows = Some(patch.input(&Name::SlotGate(self.branch).to_string(), DType::F32, rows)?);
        self.put(patch, anatomy, types, &Tensors { parts, rows })
    }

    /// Adds the branch with tensors of its own, those of [`SlotPart::all`], for all rows; returns them.
    pub(super) fn bake(
        &self,
        patch: &mut Patch<'_>,
        anatomy: &Anatomy,
        types: &Types,
        values: &[Vec<f32>],
    ) -> Result<Vec<Initializer>> {
        let (mut parts, mut made) = (Vec::new(), Vec::new());
        let n = values.get(1).map_or(0, Vec::len);
        for (&part, values) in SlotPart::all(self.branch.2).iter().zip(values) {
            let name = patch.fresh(&Name::Slot(self.branch, part).to_string());
            let initializer = Initializer::f32(&name, &part.shape(anatomy.d_model, n), values);
            made.push(initializer.clone());
            parts.push(patch.constant(initializer));
        }
        self.put(patch, anatomy, types, &Tensors { parts, rows: None })?;
        Ok(made)
    }

    /// `y + (act(x · keys + bias) ⊙ rows) · values`; gated: `act(x · gate keys + gate bias) ⊙ (x · keys + bias)` within
    /// the brackets. In float32, rounded once where `y` is narrower.
    fn put(&self, patch: &mut Patch<'_>, anatomy: &Anatomy, types: &Types, tensors: &Tensors) -> Result<()> {
        let layer = self.branch.0;
        let place = anatomy.weight(WeightRef::Block(layer, Role::MlpIn))?;
        let input = place.input.as_deref().unwrap_or_default();
        let x = patch.current(input);
        let x = cast(patch, &x, types.edge(input), DType::F32)?;
        let part = |part: SlotPart| tensors.parts[part as usize].as_str();
        let affine = |patch: &mut Patch<'_>, keys: SlotPart, bias: SlotPart| {
            let product = patch.op("MatMul", &[&x, part(keys)], &[])?;
            patch.op("Add", &[&product, part(bias)], &[])
        };
        let linear = affine(patch, SlotPart::Keys, SlotPart::Bias)?;
        let mut hidden = if self.branch.2 {
            let gate = affine(patch, SlotPart::GateKeys, SlotPart::GateBias)?;
            let bent = self.bent(patch, types, &gate)?;
            patch.op("Mul", &[&bent, &linear], &[])?
        } else {
            self.bent(patch, types, &linear)?
        };
        if let Some(rows) = &tensors.rows {
            hidden = patch.op("Mul", &[&hidden, rows], &[])?;
        }
        let sum = patch.op("MatMul", &[&hidden, part(SlotPart::Values)], &[])?;
        let output = anatomy.site(Site::Block(layer, BlockSite::MlpProj))?;
        let (now, dtype) = (patch.current(output), types.edge(output));
        let now = cast(patch, &now, dtype, DType::F32)?;
        let out = patch.op("Add", &[&now, &sum], &[])?;
        let out = cast(patch, &out, DType::F32, dtype)?;
        patch.shunt(output, &out)
    }

    fn bent(&self, patch: &mut Patch<'_>, types: &Types, edge: &str) -> Result<String> {
        match &self.bend {
            Some(bend) => bend.copy(patch, types, edge),
            None => patch.op("Relu", &[edge], &[]),
        }
    }
}

/// The sites and weights that a branch touches.
pub(super) fn touched(branch: SlotBranch) -> (Site, WeightRef) {
    (Site::Block(branch.0, BlockSite::MlpProj), WeightRef::Block(branch.0, Role::MlpIn))
}

/// Checks that a block has what slots read and write.
///
/// # Errors
/// `slots-place`
pub fn check_place(anatomy: &Anatomy, layer: usize) -> Result<()> {
    let (site, weight) = touched((layer, Activation::Relu, false));
    let absent = |e: Error| {
        let text = format!("slots cannot be put into block {layer}: where its MLP begins or ends is not known");
        Error::new(&codes::SLOTS_PLACE, text).because(e)
    };
    anatomy.site(site).map_err(absent)?;
    let reads = anatomy.weight(weight).map_err(absent)?;
    if reads.input.is_none() || reads.shape[0] != anatomy.d_model {
        let [inputs, _] = reads.shape;
        let text = format!("`{weight}` reads {inputs} channels, slots read {}", anatomy.d_model);
        return Err(Error::new(&codes::SLOTS_PLACE, text));
    }
    Ok(())
}

/// Checks that a branch can be attached to a graph.
///
/// # Errors
/// `slots-place`; `slots-activation` if the model's own activation function is asked for and cannot be copied.
pub fn check_slot_branch(graph: &Graph, anatomy: &Anatomy, branch: SlotBranch) -> Result<()> {
    Prepared::of(graph, anatomy, branch).map(drop)
}

/// Operators that arrange the same numbers in other axes, in the same order.
const LAYOUT: [&str; 5] = ["Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"];

/// An activation function: nodes that lead from one edge to another, element by element.
struct Bend {
    nodes: Vec<Node>,
    /// What they read, of the base graph.
    from: String,
    /// What they make.
    to: String,
}

impl Bend {
    /// The nodes from `mlp.pre` on that read nothing else but single numbers.
    fn of(graph: &Graph, anatomy: &Anatomy, layer: usize) -> Result<Self> {
        let refused = |why: String| {
            let text = format!("the activation function of block {layer} cannot be copied for slots: {why}");
            Error::new(&codes::SLOTS_ACTIVATION, text).help("give the slots the activation function `relu`")
        };
        let site = |site| {
            let found = anatomy.site(Site::Block(layer, site));
            found.map_err(|e| refused("one of its ends is not known".into()).because(e))
        };
        let (from, post) = (site(BlockSite::MlpPre)?, site(BlockSite::MlpPost)?);
        let index = graph.index();
        let inputs: Vec<String> = graph.inputs().into_iter().map(|p| p.name).collect();
        let from_inputs = downstream(&index, inputs.iter().map(String::as_str));
        let varies = |edge: &str| {
            inputs.iter().any(|i| i == edge) || index.producer_id(edge).is_some_and(|p| from_inputs.contains(&p))
        };
        let before_post = upstream(&index, [post], &HashSet::from([from]));
        // What an edge is called in the copy, for those that are made of `from` alone.
        let mut known: HashMap<&str, &str> = HashMap::from([(from, from)]);
        let mut nodes = Vec::new();
        let mut ends: BTreeSet<&str> = known.get(post).copied().into_iter().collect();
        let mut beyond: HashSet<&str> = HashSet::new();
        for &id in &before_post.into_iter().collect::<BTreeSet<_>>() {
            let node = &graph.nodes()[id];
            let read: Vec<&str> = node.inputs().iter().map(String::as_str).filter(|e| !e.is_empty()).collect();
            if node.is("Shape") || !read.iter().any(|e| known.contains_key(e) || beyond.contains(e)) {
                continue;
            }
            let first = read.first().copied().unwrap_or_default();
            if LAYOUT.iter().any(|op| node.is(op)) && known.contains_key(first) {
                known.insert(node.output(0), known[first]);
            } else if is_pointwise(node) && read.iter().all(|e| known.contains_key(e) || single(graph, &index, e)) {
                let mut own = node.clone();
                for (slot, edge) in node.inputs().iter().enumerate() {
                    if let Some(name) = known.get(edge.as_str()) {
                        own.set_input(slot, name);
                    }
                }
                nodes.push(own);
                known.insert(node.output(0), node.output(0));
            } else {
                let other = read.iter().filter(|e| !known.contains_key(*e) && !beyond.contains(*e));
                let product = node.is("Mul") && other.clone().count() == 1 && other.clone().all(|e| varies(e));
                let arranged = LAYOUT.iter().any(|op| node.is(op)) && beyond.contains(first);
                if !product && !arranged {
                    return Err(refused(format!("{} is a part of it", node.label())));
                }
                ends.extend(read.iter().filter_map(|e| known.get(e)));
                beyond.insert(node.output(0));
            }
            if node.output(0) == post {
                ends.extend(known.get(post));
            }
        }
        match ends.into_iter().collect::<Vec<_>>()[..] {
            [to] => Ok(Self { nodes, from: from.to_owned(), to: to.to_owned() }),
            ref ends => Err(refused(format!("it has {} results", ends.len()))),
        }
    }

    /// The same of another edge, which is of float32.
    fn copy(&self, patch: &mut Patch<'_>, types: &Types, edge: &str) -> Result<String> {
        let start = cast(patch, edge, DType::F32, types.edge(&self.from))?;
        let mut made: HashMap<&str, String> = HashMap::from([(self.from.as_str(), start)]);
        for node in &self.nodes {
            let read = |e: &String| made.get(e.as_str()).unwrap_or(e).clone();
            let inputs: Vec<String> = node.inputs().iter().map(read).collect();
            let outputs = patch.copy(node, &inputs)?;
            made.extend(node.outputs().iter().map(String::as_str).zip(outputs));
        }
        let end = made.get(self.to.as_str()).cloned().unwrap_or_default();
        cast(patch, &end, types.edge(&self.to), DType::F32)
    }
}

/// True for one number that is fixed in the graph, or computed of such.
fn single(graph: &Graph, index: &Index<'_>, edge: &str) -> bool {
    if graph.constant(index, edge, 1).is_some() {
        return true;
    }
    let computed = |node: &&Node| is_pointwise(node) && !node.inputs().is_empty();
    let Some(node) = index.producer(edge).filter(computed) else { return false };
    node.inputs().iter().filter(|e| !e.is_empty()).all(|e| single(graph, index, e))
}
