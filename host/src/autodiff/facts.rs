//! What is known of the graph that is differentiated: shapes, element types and small constants of its edges.

use crate::graph::{Constant, DType, Dim, Graph, Index, Shapes};

/// Constants of more elements are not read.
const LIMIT: usize = 1024;

/// A look-up over the graph.
pub(super) struct Facts<'g, 's> {
    pub(super) graph: &'g Graph,
    pub(super) index: Index<'g>,
    shapes: &'s Shapes,
}

impl<'g, 's> Facts<'g, 's> {
    pub(super) fn new(graph: &'g Graph, shapes: &'s Shapes) -> Self {
        Self { graph, index: graph.index(), shapes }
    }

    /// The extents of an edge, where its rank is known.
    pub(super) fn dims(&self, edge: &str) -> Option<Vec<Dim>> {
        let known = |dims: Vec<usize>| dims.into_iter().map(Dim::Known).collect();
        if let Some(initializer) = self.graph.initializer(edge) {
            return Some(known(initializer.dims()));
        }
        match self.shapes.dims(edge) {
            Some(dims) => Some(dims.to_vec()),
            None => self.constant(edge).map(|c| known(c.dims)),
        }
    }

    pub(super) fn rank(&self, edge: &str) -> Option<usize> {
        self.dims(edge).map(|d| d.len())
    }

    /// One extent of an edge, where it is known.
    pub(super) fn extent(&self, edge: &str, axis: i64) -> Option<usize> {
        let dims = self.dims(edge)?;
        dims.get(front(axis, dims.len()))?.known()
    }

    /// The element type of an edge, where it is known.
    pub(super) fn dtype(&self, edge: &str) -> Option<DType> {
        let found = self.graph.initializer(edge).map(|i| i.dtype()).or_else(|| self.shapes.dtype(edge));
        found.filter(|d| d.0 != 0)
    }

    /// True unless the edge is known to hold something else than floats.
    pub(super) fn may_be_float(&self, edge: &str) -> bool {
        self.dtype(edge).is_none_or(DType::is_float)
    }

    pub(super) fn constant(&self, edge: &str) -> Option<Constant> {
        self.graph.constant(&self.index, edge, LIMIT)
    }

    /// The float that an edge always holds, in every element.
    pub(super) fn scalar(&self, edge: &str) -> Option<f32> {
        if let Some(constant) = self.constant(edge) {
            return constant.scalar();
        }
        let node = self.index.producer(edge)?;
        let relays = ["Identity", "Expand", "Reshape", "Squeeze", "Unsqueeze"].iter().any(|op| node.is(op))
            || node.is("Cast") && self.may_be_float(edge);
        if relays { self.scalar(node.input(0)?) } else { None }
    }

    /// The integers that an edge always holds, in row-major order; small computations on constants are followed.
    pub(super) fn ints(&self, edge: &str) -> Option<Vec<i64>> {
        if let Some(constant) = self.constant(edge) {
            return constant.ints().map(<[i64]>::to_vec);
        }
        let node = self.index.producer(edge)?;
        if node.is("Concat") {
            return node.inputs().iter().map(|e| self.ints(e)).collect::<Option<Vec<_>>>().map(|all| all.concat());
        }
        let relays = ["Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze"].iter().any(|op| node.is(op));
        if relays { self.ints(node.input(0)?) } else { None }
    }

    /// True if both shapes are known and equal.
    pub(super) fn same_shape(&self, a: &str, b: &str) -> bool {
        a == b || matches!((self.dims(a), self.dims(b)), (Some(a), Some(b)) if a == b)
    }

    /// True if the edge is known to have one element and no more axes than `than`.
    pub(super) fn is_scalar_beside(&self, edge: &str, than: &str) -> bool {
        self.dims(edge).is_some_and(|dims| {
            dims.iter().all(|d| *d == Dim::Known(1))
                && (dims.is_empty() || self.rank(than).is_some_and(|r| dims.len() <= r))
        })
    }
}

/// Counts an axis from the front.
pub(super) fn front(axis: i64, rank: usize) -> usize {
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).unwrap_or(0)
}
