//! Rows as matrices. A model keeps activations as `[batch, pos, width]` and its products want `[batch · pos, width]`;
//! what lies between two products (norms, activation functions, sums) works on each row by itself, and does the same
//! to a matrix.
//!
//! Edges that such nodes connect are a *component*. It is computed on matrices where that leaves fewer reshapes: those
//! that turn matrices into its edges and back are dropped, others may be needed where something else reads an edge as
//! it was.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{integers, reshapes, width, written};
use crate::base::Result;
use crate::graph::container::Dim;
use crate::graph::node::{Attr, Node};
use crate::graph::patch::Patch;
use crate::graph::pointwise::is_pointwise;
use crate::graph::shapes::Shapes;

/// Computes components on matrices where that saves reshapes.
pub(super) fn flatten(patch: &mut Patch<'_>, shapes: &Shapes, kept: &HashSet<String>) -> Result<()> {
    let look = Look { shapes, kept };
    let chosen = look.choose(patch);
    let mut rows =
        Rows { patch, look, chosen, matrices: HashMap::new(), targets: HashMap::new(), seen: HashMap::new() };
    for node in rows.patch.graph().nodes() {
        rows.visit(node)?;
    }
    Ok(())
}

/// How a node reads its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Each row by itself.
    Rows,
    /// It makes rows of a matrix, or a matrix of rows, or other leading axes.
    Same,
    /// In another way.
    Other,
}

struct Look<'s> {
    shapes: &'s Shapes,
    kept: &'s HashSet<String>,
}

impl<'s> Look<'s> {
    fn dims(&self, edge: &str) -> Option<&'s [Dim]> {
        self.shapes.dims(edge)
    }

    fn rank(&self, edge: &str) -> usize {
        self.dims(edge).map_or(0, <[_]>::len)
    }

    /// True for an edge that a matrix could stand for.
    fn wide(&self, edge: &str) -> bool {
        self.dims(edge).is_some_and(|d| d.len() > 2 && width(d).is_some())
    }

    fn kind(&self, patch: &Patch<'_>, node: &Node) -> Kind {
        if reshapes(node) {
            let (x, y) = (node.input(0).unwrap_or_default(), node.output(0));
            let widths = self.dims(x).and_then(width).zip(self.dims(y).and_then(width));
            let same = widths.is_some_and(|(a, b)| a == b) && self.rank(x) >= 2 && self.rank(y) >= 2;
            return if same && !self.kept.contains(y) { Kind::Same } else { Kind::Other };
        }
        match self.operands(patch, node) {
            Some(_) => Kind::Rows,
            None => Kind::Other,
        }
    }

    /// The inputs of a row-wise node that have rows.
    fn operands(&self, patch: &Patch<'_>, node: &Node) -> Option<Vec<usize>> {
        let y = self.dims(node.output(0)).filter(|_| self.wide(node.output(0)))?;
        if node.outputs().iter().any(|e| self.kept.contains(e)) || !node.domain().is_empty() {
            return None;
        }
        let rank = y.len();
        let last = |axis: i64| axis == -1 || axis == rank as i64 - 1;
        let lead = |edge: &str| self.dims(edge).is_some_and(|d| d.len() == rank && d[..rank - 1] == y[..rank - 1]);
        // What broadcasts against the last axis alone.
        let plain = |edge: &str| match self.dims(edge) {
            Some([] | [_]) => true,
            Some([first, _]) => *first == Dim::Known(1),
            _ => false,
        };
        let rest_plain = || (1..node.inputs().len()).filter_map(|i| node.input(i)).all(plain);
        let first = node.input(0).filter(|e| lead(e) && self.wide(e));
        match node.op() {
            "CastLike" | "Dropout" => None,
            _ if is_pointwise(node) && node.outputs().len() == 1 => {
                let inputs = || (0..node.inputs().len()).filter_map(|i| Some((i, node.input(i)?)));
                let rows = |e: &str| lead(e) && self.wide(e);
                if !inputs().all(|(_, e)| rows(e) || plain(e)) {
                    return None;
                }
                Some(inputs().filter(|(_, e)| rows(e)).map(|(i, _)| i).collect())
            }
            _ if first.is_none() => None,
            "LayerNormalization" | "RMSNormalization" => {
                (last(node.int("axis").unwrap_or(-1)) && rest_plain()).then(|| vec![0])
            }
            "Softmax" | "LogSoftmax" => last(node.int("axis").unwrap_or(-1)).then(|| vec![0]),
            "ReduceMean" | "ReduceSum" => {
                let axes = match node.input(1) {
                    Some(edge) => integers(patch, edge)?,
                    None => node.ints("axes")?.to_vec(),
                };
                (axes == [-1] && node.int("keepdims").unwrap_or(1) == 1).then(|| vec![0])
            }
            "MatMul" => (self.rank(node.input(1)?) == 2).then(|| vec![0]),
            _ => None,
        }
    }

    /// The target of a reshape if it says the same whatever is reshaped: it has no zero that stands for "as it is".
    fn target(&self, patch: &Patch<'_>, node: &Node) -> Option<Target> {
        let edge = node.input(1).filter(|_| node.is("Reshape"))?;
        let zeros = node.int("allowzero") == Some(1);
        let fits = zeros || integers(patch, edge).is_some_and(|v| !v.contains(&0));
        fits.then(|| Target { edge: edge.to_owned(), zeros })
    }

    /// True for a reshape that could as well read its elements under another shape.
    fn passes(&self, patch: &Patch<'_>, node: &Node) -> bool {
        let y = node.output(0);
        let known = || self.dims(y).and_then(written).is_some() || self.target(patch, node).is_some();
        reshapes(node) && !self.kept.contains(y) && known()
    }

    /// The edges of the components that are computed on matrices.
    fn choose(&self, patch: &Patch<'_>) -> HashSet<String> {
        let mut sets = Sets::default();
        let graph = patch.graph();
        let kinds: Vec<Kind> = graph.nodes().iter().map(|n| self.kind(patch, n)).collect();
        let mut entering: BTreeSet<&str> = BTreeSet::new();
        for (node, kind) in graph.nodes().iter().zip(&kinds) {
            match kind {
                Kind::Rows => {
                    let read: Vec<&str> =
                        self.operands(patch, node).into_iter().flatten().filter_map(|i| node.input(i)).collect();
                    let made = node.outputs().iter().map(String::as_str).filter(|e| self.wide(e));
                    read.iter().copied().chain(made).for_each(|e| sets.join(node.output(0), e));
                    entering.extend(read);
                }
                Kind::Same => {
                    let (x, y) = (node.input(0).unwrap_or_default(), node.output(0));
                    if self.wide(x) && self.wide(y) {
                        sets.join(x, y);
                    }
                }
                Kind::Other => {}
            }
        }
        // How many reshapes fewer there are.
        let mut saved: HashMap<String, i64> = HashMap::new();
        let mut count = |sets: &mut Sets, edge: &str, by: i64| *saved.entry(sets.root(edge)).or_default() += by;
        // True if something reads an edge as it is.
        let behind = |edge: &str| {
            patch.index().consumer_ids(edge).iter().any(|&(reader, slot)| {
                let other = &graph.nodes()[reader];
                match kinds[reader] {
                    Kind::Same => false,
                    Kind::Rows => !self.operands(patch, other).is_some_and(|o| o.contains(&slot)),
                    Kind::Other => slot != 0 || !self.passes(patch, other),
                }
            })
        };
        for (node, kind) in graph.nodes().iter().zip(&kinds) {
            let x = node.input(0).unwrap_or_default();
            match kind {
                Kind::Same if self.rank(x) == 2 && !behind(node.output(0)) => count(&mut sets, node.output(0), 1),
                Kind::Same if self.rank(x) > 2 && self.rank(node.output(0)) == 2 => count(&mut sets, x, 1),
                _ => {}
            }
            if *kind == Kind::Rows {
                for edge in node.outputs().iter().filter(|e| self.wide(e) && behind(e)) {
                    count(&mut sets, edge, -1);
                }
            }
        }
        for edge in entering {
            let id = patch.index().producer_id(edge);
            let free = id.is_some_and(|id| kinds[id] != Kind::Other || reshapes(&graph.nodes()[id]));
            if !free {
                count(&mut sets, edge, -1);
            }
        }
        let edges: Vec<String> = sets.parents.keys().cloned().collect();
        edges.into_iter().filter(|e| saved.get(&sets.root(e)).is_some_and(|&s| s > 0)).collect()
    }
}

/// Sets of edges.
#[derive(Default)]
struct Sets {
    parents: HashMap<String, String>,
}

impl Sets {
    fn root(&mut self, edge: &str) -> String {
        let mut at = edge.to_owned();
        while let Some(parent) = self.parents.get(&at).filter(|p| **p != at) {
            at.clone_from(parent);
        }
        self.parents.insert(edge.to_owned(), at.clone());
        at
    }

    fn join(&mut self, a: &str, b: &str) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents.insert(b, a);
    }
}

/// The second operand of a reshape.
#[derive(Clone)]
struct Target {
    edge: String,
    zeros: bool,
}

struct Rows<'p, 'g, 's> {
    patch: &'p mut Patch<'g>,
    look: Look<'s>,
    chosen: HashSet<String>,
    /// The matrix that holds the elements of an edge.
    matrices: HashMap<String, String>,
    /// Targets met so far, by the extents that they make.
    targets: HashMap<Vec<Dim>, Target>,
    /// An edge of those extents that is computed as it was.
    seen: HashMap<Vec<Dim>, String>,
}

impl Rows<'_, '_, '_> {
    fn visit(&mut self, node: &Node) -> Result<()> {
        let kind = self.look.kind(self.patch, node);
        let chosen = node.outputs().iter().chain(node.inputs()).any(|e| self.chosen.contains(e));
        match kind {
            Kind::Same if chosen => self.same(node)?,
            Kind::Rows if chosen => return self.row_wise(node),
            _ if reshapes(node) => self.onward(node)?,
            _ => {}
        }
        for edge in node.outputs() {
            let Some(dims) = self.look.dims(edge).map(<[_]>::to_vec) else { continue };
            if let Some(target) = self.look.target(self.patch, node) {
                self.targets.entry(dims.clone()).or_insert(target);
            }
            if !self.matrices.contains_key(edge) {
                self.seen.entry(dims).or_insert_with(|| edge.clone());
            }
        }
        Ok(())
    }

    /// A reshape that keeps the last extent.
    fn same(&mut self, node: &Node) -> Result<()> {
        let (x, y) = (node.input(0).unwrap_or_default(), node.output(0));
        match (self.look.rank(x), self.look.rank(y)) {
            (2, 2) => {}
            (2, _) => {
                let matrix = self.patch.current(x);
                self.matrices.insert(y.to_owned(), matrix);
            }
            (_, 2) => match self.matrices.get(x).cloned() {
                Some(matrix) => self.patch.shunt(y, &matrix)?,
                None => {
                    self.onward(node)?;
                    let matrix = self.patch.current(y);
                    self.matrices.insert(x.to_owned(), matrix);
                }
            },
            _ => {
                if let Some(matrix) = self.matrices.get(x).cloned() {
                    self.matrices.insert(y.to_owned(), matrix);
                }
            }
        }
        Ok(())
    }

    /// A reshape of something reshaped, or of rows that are a matrix: reads what was there before.
    fn onward(&mut self, node: &Node) -> Result<()> {
        let (x, y) = (node.input(0).unwrap_or_default(), node.output(0));
        let Some(source) = self.before(x).filter(|_| !self.look.kept.contains(y)) else { return Ok(()) };
        let target = match (self.look.dims(y).and_then(written), self.look.target(self.patch, node)) {
            (Some(dims), _) => Target { edge: self.patch.i64(&[dims.len()], &dims), zeros: false },
            (None, Some(target)) => target,
            (None, None) => return Ok(()),
        };
        let made = self.reshaped(&source, &target)?;
        self.patch.shunt(y, &made)
    }

    /// What holds the elements of an edge under another shape, if something does.
    fn before(&self, edge: &str) -> Option<String> {
        if let Some(matrix) = self.matrices.get(edge) {
            return Some(matrix.clone());
        }
        let reshape = self.patch.index().producer(edge).filter(|n| reshapes(n) && !self.look.kept.contains(edge))?;
        let source = reshape.input(0)?;
        Some(self.matrices.get(source).cloned().unwrap_or_else(|| self.patch.current(source)))
    }

    fn reshaped(&mut self, edge: &str, target: &Target) -> Result<String> {
        let zeros: &[_] = if target.zeros { &[("allowzero", Attr::Int(1))] } else { &[] };
        self.patch.op("Reshape", &[edge, &target.edge], zeros)
    }

    /// The matrix of an edge.
    fn matrix(&mut self, edge: &str) -> Result<String> {
        if let Some(made) = self.matrices.get(edge) {
            return Ok(made.clone());
        }
        let made = match (self.before(edge), self.look.dims(edge).and_then(width)) {
            (Some(source), Some(width)) => {
                let target = Target { edge: self.patch.i64(&[2], &[-1, width as i64]), zeros: false };
                self.reshaped(&source, &target)?
            }
            _ => self.patch.op("Flatten", &[&self.patch.current(edge)], &[("axis", Attr::Int(-1))])?,
        };
        self.matrices.insert(edge.to_owned(), made.clone());
        Ok(made)
    }

    fn row_wise(&mut self, node: &Node) -> Result<()> {
        let operands = self.look.operands(self.patch, node).unwrap_or_default();
        let mut inputs: Vec<String> = node.inputs().iter().map(|e| self.patch.current(e)).collect();
        for slot in operands {
            inputs[slot] = self.matrix(&node.inputs()[slot])?;
        }
        let last = ["LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax"].iter().any(|op| node.is(op));
        let made = match last {
            true => self.patch.copy(&node.clone().with("axis", Attr::Int(-1)), &inputs)?,
            false => self.patch.copy(node, &inputs)?,
        };
        for (edge, matrix) in node.outputs().iter().zip(made).filter(|(e, _)| !e.is_empty()) {
            self.matrices.insert(edge.clone(), matrix.clone());
            // For whoever reads it as it was; if nobody does, this goes with the dead nodes.
            if let Some(target) = self.whole(edge)? {
                let whole = self.reshaped(&matrix, &target)?;
                self.patch.shunt(edge, &whole)?;
            }
        }
        Ok(())
    }

    /// A target that makes the extents of an edge, from what was met before it.
    fn whole(&mut self, edge: &str) -> Result<Option<Target>> {
        let Some(dims) = self.look.dims(edge) else { return Ok(None) };
        if let Some(written) = written(dims) {
            return Ok(Some(Target { edge: self.patch.i64(&[written.len()], &written), zeros: false }));
        }
        if let Some(target) = self.targets.get(dims) {
            return Ok(Some(target.clone()));
        }
        let Some(like) = self.seen.get(dims).filter(|_| self.patch.graph().opset() >= 14) else { return Ok(None) };
        let shape = self.patch.op("Shape", &[&self.patch.current(like)], &[])?;
        let target = Target { edge: shape, zeros: true };
        self.targets.insert(dims.to_vec(), target.clone());
        Ok(Some(target))
    }
}
