//! Which linear maps, or which outputs of a packed one, an edge is computed from: the nearest ones upstream.

use std::collections::{HashSet, VecDeque};

use crate::anatomy::columns::Columns;
use crate::anatomy::look::layout::Layout;
use crate::anatomy::look::region::Region;
use crate::anatomy::look::view::{Stored, View};
use crate::anatomy::pieces::linear::{Linear, Linears, Projection};
use crate::graph::{Node, is_pointwise};

/// Operators that leave a part of their input out.
const PICKS: [&str; 6] = ["Slice", "Split", "Gather", "GatherND", "GatherElements", "SplitToSequence"];

/// Outputs of a linear map that are used together.
pub(super) struct Source<'l, 'g> {
    pub linear: &'l Linear<'g>,
    /// The outputs, sorted.
    outputs: Vec<usize>,
    /// False if some are picked in a way that could not be followed.
    followed: bool,
    /// The edges that hold them or some of them in some axes, the nearest to the map first.
    edges: Vec<(&'g str, Layout)>,
    /// The edges at which they are used in any other way than to arrange them.
    pub uses: Vec<&'g str>,
    /// The first node that changes the values of packed outputs before they are taken apart.
    pub altered: Option<&'g Node>,
    /// The vector that is added to them alone.
    bias: Option<Stored<'g>>,
}

impl<'l, 'g> Source<'l, 'g> {
    /// As a part of the linear map; None if the outputs have no pattern.
    pub fn projection(&self) -> Option<Projection<'l, 'g>> {
        self.followed.then_some(())?;
        let whole = self.outputs.len() == self.linear.width_out;
        let columns = if whole { None } else { Some(Columns::of(&self.outputs)?) };
        Some(Projection { linear: self.linear, columns, bias: self.bias })
    }

    /// The nearest edge that holds exactly these outputs in axes that `read` accepts.
    pub fn edge<T>(&self, read: impl Fn(&Layout) -> Option<T>) -> Option<(&'g str, T)> {
        let holds = |layout: &Layout| layout.outputs() == self.outputs;
        self.followed.then_some(())?;
        self.edges.iter().find_map(|(edge, layout)| read(layout).filter(|_| holds(layout)).map(|found| (*edge, found)))
    }
}

/// The linear maps nearest upstream of `target` inside a region.
pub(super) fn nearest<'l, 'g>(
    view: &View<'g>,
    linears: &'l Linears<'g>,
    region: &Region<'g>,
    target: &'g str,
) -> Vec<&'l Linear<'g>> {
    let mut found: Vec<&Linear<'g>> = Vec::new();
    view.upstream(target, |edge| match linears.making(edge) {
        _ if !region.has(edge) => true,
        Some(linear) => {
            found.push(linear);
            true
        }
        None => region.starts_at(edge),
    });
    found.sort_by_key(|l| view.index.producer_id(l.output));
    found
}

/// The outputs of linear maps from which `target` is computed; those of one map that are used at different places
/// are one source if `join` says so, else each its own.
pub(super) fn find<'l, 'g>(
    view: &View<'g>,
    linears: &'l Linears<'g>,
    region: &Region<'g>,
    target: &'g str,
    join: bool,
) -> Vec<Source<'l, 'g>> {
    let part = region.upstream_of(view, target);
    let maps = nearest(view, linears, region, target);
    maps.into_iter().flat_map(|linear| of(view, &part, linear, target, join)).collect()
}

fn of<'l, 'g>(
    view: &View<'g>,
    part: &Region<'g>,
    linear: &'l Linear<'g>,
    target: &'g str,
    join: bool,
) -> Vec<Source<'l, 'g>> {
    let Some(whole) = Layout::whole(view, linear.output, linear.width_out) else {
        let outputs = (0..linear.width_out).collect();
        let uses = vec![linear.output];
        return vec![Source { linear, outputs, followed: false, edges: Vec::new(), uses, altered: None, bias: None }];
    };
    let (mut altered, mut biases) = (None, Vec::new());
    let mut edges = Vec::new();
    let mut uses: Vec<(&'g str, Vec<bool>)> = Vec::new();
    let mut open: Vec<(&'g str, Vec<bool>)> = Vec::new();
    let mut seen = HashSet::from([linear.output]);
    let mut queue = VecDeque::from([(linear.output, whole, None)]);
    while let Some((edge, layout, changed)) = queue.pop_front() {
        let own = (changed.is_none() && linear.bias.is_none()).then(|| bias(view, edge, &layout)).flatten();
        if let Some((stored, sum)) = own.filter(|(_, sum)| edge != target && part.has(sum)) {
            biases.push((layout.outputs(), stored));
            queue.push_back((sum, layout, changed));
            continue;
        }
        let (mut used, mut picked) = (edge == target, false);
        for (node, slot) in view.readers(edge) {
            if !part.holds_node(node) {
                continue;
            }
            let outs: Vec<usize> = match node.is("SplitToSequence") {
                true => Vec::new(),
                false => (0..node.outputs().len()).filter(|&i| part.has(node.output(i))).collect(),
            };
            if node.is("SplitToSequence") {
                for (item, _) in view.readers(node.output(0)) {
                    let out = item.outputs().first().map(String::as_str).filter(|o| part.has(o));
                    match (out, layout.through(view, item, 0)) {
                        (Some(out), Some(next)) if seen.insert(out) => queue.push_back((out, next, changed)),
                        (Some(_), None) => picked = true,
                        _ => {}
                    }
                }
            }
            for out in outs {
                match layout.through(view, node, out).filter(|_| slot == 0) {
                    Some(next) if seen.insert(node.output(out)) => {
                        if next.outputs().len() < layout.outputs().len() {
                            altered = altered.or(changed);
                        }
                        queue.push_back((node.output(out), next, changed));
                    }
                    Some(_) => {}
                    None if PICKS.iter().any(|op| node.is(op)) => picked = true,
                    // A clip of packed outputs leaves each where it is.
                    None if join && in_place(view, part, node, slot) => {
                        if seen.insert(node.output(out)) {
                            queue.push_back((node.output(out), layout.clone(), changed.or(Some(node))));
                        }
                    }
                    None => used = true,
                }
            }
        }
        if used || picked {
            let mut holds = vec![false; linear.width_out];
            layout.outputs().into_iter().for_each(|o| holds[o] = true);
            let list = if used { &mut uses } else { &mut open };
            list.push((edge, holds));
        }
        if changed.is_none() {
            edges.push((edge, layout));
        }
    }
    let mut groups: Vec<(Vec<bool>, Vec<&'g str>)> = Vec::new();
    for (edge, holds) in uses {
        let meets = |other: &[bool]| join || other.iter().zip(&holds).any(|(a, b)| *a && *b);
        match groups.iter_mut().find(|(other, _)| meets(other)) {
            Some((other, edges)) => {
                other.iter_mut().zip(&holds).for_each(|(a, b)| *a |= *b);
                edges.push(edge);
            }
            None => groups.push((holds, vec![edge])),
        }
    }
    // What is picked in a way that could not be followed does no harm where all of it is used besides.
    let mut followed = true;
    for (edge, holds) in open {
        let within = |other: &[bool]| other.iter().zip(&holds).all(|(a, b)| *a || !*b);
        match groups.iter_mut().find(|(other, _)| within(other)) {
            Some((_, edges)) => edges.push(edge),
            None => {
                followed = false;
                groups.push((holds, vec![edge]));
            }
        }
    }
    let source = |(holds, uses): (Vec<bool>, Vec<&'g str>)| {
        let outputs: Vec<usize> = (0..linear.width_out).filter(|&o| holds[o]).collect();
        let mut added = biases.iter().filter(|(of, _)| of.iter().any(|&o| holds[o]));
        let bias = added.clone().find(|(of, _)| *of == outputs).map(|(_, stored)| *stored);
        // A bias of a part of the outputs is no bias that is read.
        let followed = followed && added.all(|(of, _)| *of == outputs);
        Source { linear, outputs, followed, edges: edges.clone(), uses, altered, bias }
    };
    groups.into_iter().map(source).collect()
}

/// The vector of the file that is added to packed outputs once they are taken apart, and the sum.
fn bias<'g>(view: &View<'g>, edge: &'g str, layout: &Layout) -> Option<(Stored<'g>, &'g str)> {
    let [(node, slot)] = view.readers(edge)[..] else { return None };
    let stored = view.stored(node, 1 - slot.min(1), 1).filter(|_| node.is("Add") && layout.is_flat())?;
    (stored.initializer.len() == layout.outputs().len()).then_some((stored, node.output(0)))
}

/// True if a node changes each element of its input `slot` by itself, by nothing else that the part computes, and
/// leaves it where it is.
fn in_place(view: &View<'_>, part: &Region<'_>, node: &Node, slot: usize) -> bool {
    let mut others = node.inputs().iter().enumerate().filter(|&(i, _)| i != slot);
    let dims = |edge: &str| view.dims(edge);
    is_pointwise(node)
        && others.all(|(_, e)| !part.has(e))
        && node.input(slot).and_then(dims).is_some_and(|before| dims(node.output(0)) == Some(before))
}
