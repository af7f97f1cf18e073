//! Symbolic shapes and element types of every edge.

use std::collections::HashMap;

use super::container::{Dim, Graph};
use super::node::DType;
use crate::base::Result;

/// What is known of each edge.
#[derive(Debug, Default)]
pub struct Shapes {
    facts: HashMap<String, Fact>,
}

/// What is known of one edge.
#[derive(Clone, Debug)]
struct Fact {
    dtype: DType,
    dims: Option<Vec<Dim>>,
}

impl Shapes {
    /// Infers the facts of every edge it can.
    ///
    /// # Errors
    /// If the graph contradicts itself.
    pub fn infer(graph: &Graph) -> Result<Self> {
        let mut facts = HashMap::new();
        for port in graph.stated().into_iter().chain(graph.inputs()) {
            facts.insert(port.name, Fact { dtype: port.dtype, dims: port.dims });
        }
        Ok(Self { facts })
    }

    /// The element type of an edge.
    pub fn dtype(&self, edge: &str) -> Option<DType> {
        self.facts.get(edge).map(|f| f.dtype)
    }

    /// The extents of an edge, where its rank is known. Equal symbols are equal extents.
    pub fn dims(&self, edge: &str) -> Option<&[Dim]> {
        self.facts.get(edge).and_then(|f| f.dims.as_deref())
    }
}
