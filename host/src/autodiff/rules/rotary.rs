//! RotaryEmbedding (23+), whole or partial, interleaved or in halves: a rotation of pairs, so dx is g rotated back, by the
//! same angles with the sign of the sine turned. What is not rotated passes through.

use super::super::facts::Facts;
use super::super::plan::Visit;
use super::super::tape::{Grad, Tape};
use super::{Check, Gradients};
use crate::base::Result;
use crate::graph::Attr;

pub(super) fn check(_: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    if visit.wants(1) || visit.wants(2) { Err("its angles depend on the variable".into()) } else { Ok(()) }
}

pub(super) fn backward(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let node = visit.node;
    let g = tape.shaped(&visit.grad(), visit.output())?;
    let sine = tape.op("Neg", &[visit.input(2)], &[])?;
    let mut inputs = vec![g.edge.as_str(), visit.input(1), &sine];
    inputs.extend(node.input(3));
    let names = ["interleaved", "num_heads", "rotary_embedding_dim"];
    let attributes: Vec<(&str, Attr)> =
        names.iter().filter_map(|name| Some((*name, Attr::Int(node.int(name)?)))).collect();
    let edge = tape.op("RotaryEmbedding", &inputs, &attributes)?;
    Ok(vec![(0, Grad { edge, ..g })])
}
