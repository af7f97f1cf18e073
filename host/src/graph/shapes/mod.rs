//! Symbolic shapes and element types of every edge, with small integer tensors followed as symbols: so that the
//! `Shape` → `Gather` → `Concat` → `Reshape` chains of exporters give `[batch, sequence, width]` and not "unknown".
//!
//! `extent` is the arithmetic of extents; `rules` has the shapes of operators, with `broadcast`, `pieces` and `fused` for
//! the families that need more than a line; `integers` follows the values of small integer tensors; `clashes` finds
//! contradictions between operands. What the file states is used where inference has nothing to say.

mod broadcast;
mod clashes;
mod extent;
mod fused;
mod integers;
mod pieces;
mod rules;

use std::collections::{HashMap, HashSet};

use super::codes;
use super::constant::{Constant, Values};
use super::container::{Dim, Graph, Port};
use super::index::Index;
use super::node::{DType, Node};
use crate::base::{Error, Result};
use extent::Extent;
pub(crate) use fused::equation;

/// Integer tensors up to this many elements are followed.
const FOLLOWED: usize = 64;

/// A float as an extent, if it is a whole number that a 32-bit float holds exactly.
fn whole(x: f32) -> Option<Extent> {
    (x == x.trunc() && x.abs() <= 16_777_216.0).then(|| Extent::number(x as i64))
}

/// What is known of each edge.
#[derive(Debug, Default)]
pub struct Shapes {
    facts: HashMap<String, Fact>,
}

/// What is known of one edge.
#[derive(Clone, Debug, Default)]
struct Fact {
    dtype: Option<DType>,
    dims: Option<Vec<Dim>>,
    /// The elements of a small tensor of whole numbers; `None` for an element that is not known or not whole.
    value: Option<Vec<Option<Extent>>>,
    /// The tensors of a sequence.
    items: Vec<Fact>,
}

impl Fact {
    fn new(dtype: Option<DType>, dims: Option<Vec<Dim>>) -> Self {
        Self { dtype, dims, value: None, items: Vec::new() }
    }

    fn of_constant(dtype: DType, constant: &Constant) -> Self {
        let dims = constant.dims.iter().map(|&d| Dim::Known(d)).collect();
        let value = match &constant.values {
            Values::Ints(v) => v.iter().map(|&n| Some(Extent::number(n))).collect(),
            // A number that is whole may be cast to an integer later.
            Values::Floats(v) => v.iter().map(|&x| whole(x)).collect(),
        };
        Self { value: Some(value), ..Self::new(Some(dtype), Some(dims)) }
    }

    fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len)
    }
}

impl Shapes {
    /// Infers the facts of every edge it can.
    ///
    /// # Errors
    /// `graph-invalid` if operands do not fit together, or an inferred extent contradicts the one that the file
    /// states.
    pub fn infer(graph: &Graph) -> Result<Self> {
        Self::infer_beside(graph, &HashSet::new())
    }

    /// As [`Shapes::infer`], without what the file states of some edges.
    ///
    /// # Errors
    /// As [`Shapes::infer`].
    pub(super) fn infer_beside(graph: &Graph, unstated: &HashSet<String>) -> Result<Self> {
        let index = graph.index();
        let stated = graph.stated().into_iter().filter(|p| !unstated.contains(&p.name));
        let stated: HashMap<String, Port> = stated.map(|p| (p.name.clone(), p)).collect();
        let mut out = Self::default();
        for port in graph.inputs() {
            out.facts.insert(port.name, Fact::new(Some(port.dtype), port.dims));
        }
        for initializer in graph.initializers() {
            let dims = initializer.dims().into_iter().map(Dim::Known).collect();
            let mut fact = Fact::new(Some(initializer.dtype()), Some(dims));
            if let Some(constant) = graph.constant(&index, initializer.name(), FOLLOWED) {
                fact = Fact::of_constant(initializer.dtype(), &constant);
            }
            out.facts.insert(initializer.name().to_owned(), fact);
        }
        for node in graph.nodes() {
            let made = out.node(graph, &index, node)?;
            for (edge, fact) in node.outputs().iter().zip(made).filter(|(e, _)| !e.is_empty()) {
                let fact = match stated.get(edge) {
                    Some(port) => agree(edge, fact, port)?,
                    None => fact,
                };
                out.facts.insert(edge.clone(), fact);
            }
        }
        Ok(out)
    }

    /// The element type of an edge.
    pub fn dtype(&self, edge: &str) -> Option<DType> {
        self.facts.get(edge).and_then(|f| f.dtype)
    }

    /// The extents of an edge, where its rank is known. Equal symbols are equal extents.
    pub fn dims(&self, edge: &str) -> Option<&[Dim]> {
        self.facts.get(edge).and_then(|f| f.dims.as_deref())
    }

    /// The elements of a small tensor of whole numbers, where every one is known.
    pub fn ints(&self, edge: &str) -> Option<Vec<i64>> {
        self.facts.get(edge)?.value.as_ref()?.iter().map(|e| e.as_ref()?.known()).collect()
    }

    /// True if an edge is known to have other extents than these.
    pub(super) fn contradict(&self, edge: &str, dims: &[Dim]) -> bool {
        let Some(found) = self.dims(edge) else { return false };
        let differ = |(a, b): (&Dim, &Dim)| match a {
            Dim::Symbol(name) if extent::is_unnamed(name) => false,
            _ => Extent::of(a) != Extent::of(b),
        };
        found.len() != dims.len() || found.iter().zip(dims).any(differ)
    }

    /// True if two extents are unequal whatever the sizes of the inputs.
    pub fn unequal(a: &Dim, b: &Dim) -> bool {
        Extent::of(a).equals(&Extent::of(b)) == Some(false)
    }

    fn fact(&self, node: &Node, i: usize) -> Fact {
        node.input(i).and_then(|edge| self.facts.get(edge)).cloned().unwrap_or_default()
    }

    /// The facts of a node's outputs.
    fn node(&self, graph: &Graph, index: &Index<'_>, node: &Node) -> Result<Vec<Fact>> {
        let inputs: Vec<Fact> = (0..node.inputs().len()).map(|i| self.fact(node, i)).collect();
        if node.is("Constant") {
            let dtype = node.tensor("value").map(|t| DType(t.data_type)).or_else(|| {
                let float = node.attributes().iter().any(|a| a.starts_with("value_float"));
                Some(if float { DType::F32 } else { DType::I64 })
            });
            let fact = match (dtype, graph.constant(index, node.output(0), FOLLOWED)) {
                (Some(dtype), Some(constant)) => Fact::of_constant(dtype, &constant),
                (dtype, _) => {
                    let dims =
                        node.tensor("value").map(|t| t.dims.iter().map(|&d| Dim::Known(d.max(0) as usize)).collect());
                    Fact::new(dtype, dims)
                }
            };
            return Ok(vec![fact]);
        }
        clashes::check(node, &inputs)?;
        let mut facts = rules::shapes(node, &inputs);
        facts.resize_with(node.outputs().len().max(1), Fact::default);
        if let Some(value) = integers::value(node, &inputs, &facts[0]) {
            facts[0].value = Some(value);
        }
        Ok(facts)
    }
}

/// Inference and the file's statement together.
fn agree(edge: &str, mut fact: Fact, stated: &Port) -> Result<Fact> {
    if fact.dtype.is_none() && stated.dtype != DType(0) {
        fact.dtype = Some(stated.dtype);
    }
    let (Some(found), Some(said)) = (&mut fact.dims, &stated.dims) else {
        fact.dims = fact.dims.or_else(|| stated.dims.clone());
        return Ok(fact);
    };
    let contradiction = |found: &[Dim]| {
        let text = |dims: &[Dim]| dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("the file says that `{edge}` is [{}], it is [{}]", text(said), text(found));
        Error::new(&codes::GRAPH_INVALID, message)
    };
    if found.len() != said.len() {
        return Err(contradiction(found));
    }
    for i in 0..found.len() {
        match (&found[i], &said[i]) {
            (Dim::Known(a), Dim::Known(b)) if a != b => return Err(contradiction(found)),
            (Dim::Symbol(_), Dim::Known(n)) => found[i] = Dim::Known(*n),
            (Dim::Symbol(name), Dim::Symbol(better)) if extent::is_unnamed(name) => {
                found[i] = Extent::of(&Dim::Symbol(better.clone())).dim();
            }
            _ => {}
        }
    }
    Ok(fact)
}
