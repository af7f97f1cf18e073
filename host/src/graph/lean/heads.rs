//! Queries, keys and values are often computed in one product, split, and then each is given an axis of heads: one
//! reshape before the split does for all of them. Their gradients are joined again: there one reshape behind does.

use std::collections::HashSet;

use super::{integers, reshapes, width};
use crate::base::Result;
use crate::graph::container::Dim;
use crate::graph::node::{Attr, Node};
use crate::graph::patch::Patch;
use crate::graph::shapes::Shapes;

/// Moves reshapes of parts to the side of the whole.
pub(super) fn move_out(patch: &mut Patch<'_>, shapes: &Shapes, kept: &HashSet<String>) -> Result<()> {
    for node in patch.graph().nodes() {
        if node.is("Split") {
            split(patch, shapes, kept, node)?;
        } else if node.is("Concat") {
            concat(patch, shapes, kept, node)?;
        }
    }
    Ok(())
}

/// `[.., n · b]` as `[.., n, b]`: n and b, if that is how the shapes differ.
fn heads(joined: &[Dim], apart: &[Dim]) -> Option<(usize, usize)> {
    let (lead, whole) = (joined.len().checked_sub(1)?, width(joined)?);
    let (n, b) = (apart.get(lead)?.known()?, width(apart)?);
    (apart.len() == lead + 2 && apart[..lead] == joined[..lead] && n * b == whole).then_some((n, b))
}

/// True if an axis, which may count from the end, is the last of `rank`.
fn last(axis: i64, rank: usize) -> bool {
    axis == -1 || axis == rank as i64 - 1
}

/// Split(x) and a reshape of each part: Split(Reshape(x)).
fn split(patch: &mut Patch<'_>, shapes: &Shapes, kept: &HashSet<String>, node: &Node) -> Result<()> {
    let x = node.input(0).unwrap_or_default();
    let Some(rank) = shapes.dims(x).map(<[_]>::len) else { return Ok(()) };
    if !last(node.int("axis").unwrap_or(0), rank) {
        return Ok(());
    }
    let mut sizes = Vec::new();
    let mut readers: Vec<(usize, &Node)> = Vec::new();
    let mut width = None;
    for (part, edge) in node.outputs().iter().enumerate() {
        let found: Vec<(&Node, usize)> = patch.index().consumers(edge).collect();
        for &(reader, slot) in &found {
            let shape = shapes.dims(edge).zip(shapes.dims(reader.output(0)));
            let Some((n, b)) = shape.and_then(|(joined, apart)| heads(joined, apart)) else { return Ok(()) };
            let known = kept.contains(edge) || kept.contains(reader.output(0));
            if known || slot != 0 || !reader.is("Reshape") || width.is_some_and(|w| w != b) {
                return Ok(());
            }
            width = Some(b);
            if sizes.len() == part {
                sizes.push(n);
            }
            readers.push((part, reader));
        }
        if found.is_empty() {
            return Ok(());
        }
    }
    let (Some(b), Some(&(_, reader))) = (width, readers.first()) else { return Ok(()) };
    if readers.len() < 2 {
        return Ok(());
    }
    // The target of one part with another number of heads. A zero in it, where it stands for "as it is", does so too.
    let target = reader.input(1).unwrap_or_default().to_owned();
    let all = [sizes.iter().sum::<usize>() as i64, b as i64];
    let lead = rank - 1;
    let target = match integers(patch, &target) {
        Some(mut values) => {
            values.splice(lead.., all);
            patch.i64(&[values.len()], &values)
        }
        None => {
            let (from, to, end) = (patch.i64(&[1], &[0]), patch.i64(&[1], &[lead as i64]), patch.i64(&[2], &all));
            let front = patch.op("Slice", &[&target, &from, &to], &[])?;
            patch.op("Concat", &[&front, &end], &[("axis", Attr::Int(0))])?
        }
    };
    let zeros: Vec<(&str, Attr)> = reader.int("allowzero").map(|z| ("allowzero", Attr::Int(z))).into_iter().collect();
    let whole = patch.op("Reshape", &[&patch.current(x), &target], &zeros)?;
    let counts: Vec<i64> = sizes.iter().map(|&n| n as i64).collect();
    let counts = patch.i64(&[counts.len()], &counts);
    let parts = patch.op_many("Split", &[&whole, &counts], &[("axis", Attr::Int(lead as i64))], sizes.len())?;
    for (part, reader) in readers {
        patch.shunt(reader.output(0), &parts[part])?;
    }
    Ok(())
}

/// Concat of reshaped parts: Reshape(Concat).
fn concat(patch: &mut Patch<'_>, shapes: &Shapes, kept: &HashSet<String>, node: &Node) -> Result<()> {
    let Some(rank) = shapes.dims(node.output(0)).map(<[_]>::len) else { return Ok(()) };
    if kept.contains(node.output(0)) || node.inputs().len() < 2 || !last(node.int("axis").unwrap_or(0), rank) {
        return Ok(());
    }
    let (mut total, mut width) = (0, None);
    let mut sources = Vec::new();
    for edge in node.inputs() {
        let reshape = patch.index().producer(edge).filter(|n| reshapes(n) && !kept.contains(edge));
        let source = reshape.and_then(|n| n.input(0));
        let shape = shapes.dims(edge).zip(source.and_then(|e| shapes.dims(e)));
        let found = shape.and_then(|(joined, apart)| heads(joined, apart));
        let (Some((n, b)), Some(source)) = (found, source) else { return Ok(()) };
        if width.is_some_and(|w| w != b) {
            return Ok(());
        }
        (total, width) = (total + n, Some(b));
        sources.push(patch.current(source));
    }
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let whole = patch.op("Concat", &sources, &[("axis", Attr::Int(rank as i64 - 1))])?;
    // The first extents as they are.
    let mut target = vec![0; rank];
    target[rank - 1] = (total * width.unwrap_or(1)) as i64;
    let target = patch.i64(&[rank], &target);
    let joined = patch.op("Reshape", &[&whole, &target], &[])?;
    patch.shunt(node.output(0), &joined)
}
