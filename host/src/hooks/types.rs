//! Element types of a graph's edges, and the casts around what is put in: everything that a rig computes, feeds and
//! gives is float32, and is cast where it meets an edge of another type. A graph of float32 alone gets no cast.

use crate::base::Result;
use crate::graph::{Attr, DType, Graph, Patch, Shapes};

/// The element types of the floating-point edges of a graph.
pub(super) struct Types(Option<Shapes>);

impl Types {
    /// The types of a graph. One that holds nothing but float32 is not looked at closer.
    ///
    /// # Errors
    /// What [`Shapes::infer`] finds wrong with the graph.
    pub(super) fn of(graph: &Graph) -> Result<Self> {
        let other = |dtype: DType| dtype.is_float() && dtype != DType::F32;
        let cast = |to: i64| i32::try_from(to).is_ok_and(|to| other(DType(to)));
        let mixed = graph.initializers().any(|i| other(i.dtype()))
            || graph.inputs().iter().any(|p| other(p.dtype))
            || graph.nodes().iter().any(|n| n.is("Cast") && n.int("to").is_some_and(cast));
        Ok(Self(if mixed { Some(Shapes::infer(graph)?) } else { None }))
    }

    /// The type of an edge.
    pub(super) fn edge(&self, edge: &str) -> DType {
        let known = self.0.as_ref().and_then(|shapes| shapes.dtype(edge));
        known.filter(|dtype| dtype.is_float()).unwrap_or(DType::F32)
    }
}

/// An edge of type `from` as one of type `to`.
///
/// # Errors
/// `graph-patch-invalid` if it is not an edge.
pub(crate) fn cast(patch: &mut Patch<'_>, edge: &str, from: DType, to: DType) -> Result<String> {
    if from == to {
        return Ok(edge.to_owned());
    }
    patch.op("Cast", &[edge], &[("to", Attr::Int(i64::from(to.0)))])
}
