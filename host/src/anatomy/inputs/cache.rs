//! Cached keys and values: inputs that are joined with new ones along the positions, and the outputs that give the
//! joined ones back. Found by what the graph does with them; their names mean nothing.

use std::collections::{HashMap, HashSet};

use crate::anatomy::codes;
use crate::anatomy::look::view::View;
use crate::anatomy::parts::{CachePort, Cached};
use crate::base::{Error, Result};
use crate::graph::{DType, Dim, Node, Port};

/// The operators of attention that take cached keys and values beside new ones: where they are read, where the joined
/// ones are made, and whether these are keys.
const SLOTS: [(usize, usize, Cached); 2] = [(4, 1, Cached::Key), (5, 2, Cached::Value)];

/// Where an input is joined with new keys or values.
struct Join<'g> {
    node: &'g Node,
    /// The edge of the joined ones.
    joined: &'g str,
    /// The edge of the new ones, where it can stand for the joined ones if nothing is cached.
    fresh: Option<&'g str>,
    axis: usize,
    kind: Option<Cached>,
}

/// The ports of the cache, and the names of the inputs among `others` that belong to it.
///
/// # Errors
/// `anatomy-cache` if the cached keys and values are not whole: one for every block, with an input and an output each.
pub(super) fn read(view: &View<'_>, layers: usize, others: &[Port]) -> Result<Vec<CachePort>> {
    let mut found = Vec::new();
    for input in others.iter().filter(|p| p.dtype.is_float()) {
        if let Some(join) = view.edge(&input.name).and_then(|edge| join(view, edge)) {
            found.push((input, join));
        }
    }
    if found.is_empty() {
        return without_past(view).map(|()| Vec::new());
    }
    found.sort_by_key(|(_, join)| view.index.producer_id(join.joined));
    let given_back = outputs(view);
    let mut ports: Vec<CachePort> = Vec::new();
    for (input, join) in found {
        let Some(present) = given_back.get(join.joined) else {
            let text = format!(
                "the cached input `{}` is joined with new ones by {}: expected the result as an output of the graph, \
                 found none that holds it",
                input.name,
                join.node.label()
            );
            return Err(incomplete(text).help("export the decoder with an output for each of its cached inputs; a cache that drops old positions is not read"));
        };
        let (given, back) = (input.dtype, view.dtype(present).unwrap_or(input.dtype));
        if given != back || !(given == DType::F32 || given == DType::F16) {
            let text = format!(
                "the cached input `{}` is {} and `{present}` {}: expected both in float32 or both in float16",
                input.name,
                given.name(),
                back.name()
            );
            return Err(incomplete(text));
        }
        let Some(kind) = join.kind else {
            let text = format!("the cached input `{}` meets no attention weights that are read", input.name);
            return Err(Error::new(&codes::INPUT_UNREAD, text).help("export the decoder without a cache"));
        };
        let [heads, d_head] = extents(view, input, &join)?;
        let layer = ports.iter().filter(|p| p.kind == kind).count();
        ports.push(CachePort {
            layer,
            kind,
            past: input.name.clone(),
            present: (*present).to_owned(),
            joined: join.joined.to_owned(),
            fresh: join.fresh.map(str::to_owned),
            axis: join.axis,
            heads,
            d_head,
            dtype: input.dtype,
        });
    }
    whole(&ports, layers)?;
    Ok(ports)
}

/// What joins an input of the graph with new keys or values.
fn join<'g>(view: &View<'g>, input: &'g str) -> Option<Join<'g>> {
    let mut past = input;
    let (node, slot) = loop {
        let [(node, slot)] = view.readers(past)[..] else { return None };
        match view.relayed(node) {
            Some(before) if before == past => past = node.output(0),
            _ => break (node, slot),
        }
    };
    if let Some((fresh, axis)) = view.past(node).map(|(_, fresh, axis)| (fresh, axis)) {
        let joined = node.output(0);
        return Some(Join { node, joined, fresh: Some(fresh), axis, kind: use_of(view, joined) });
    }
    let &(_, output, kind) = SLOTS.iter().find(|(s, _, _)| *s == slot && node.is("Attention"))?;
    let joined = node.output(output);
    Some(Join { node, joined, fresh: None, axis: 2, kind: Some(kind) })
}

/// By the edge that holds joined keys or values: the output of the graph that gives them back.
fn outputs<'g>(view: &View<'g>) -> HashMap<&'g str, &'g str> {
    let mut found = HashMap::new();
    for output in view.graph.outputs() {
        let Some(name) = view.edge(&output.name) else { continue };
        let mut at = name;
        loop {
            found.entry(at).or_insert(name);
            match view.producer(at).filter(|n| n.is("Identity") || n.is("Cast")).and_then(|n| n.input(0)) {
                Some(before) => at = before,
                None => break,
            }
        }
    }
    found
}

/// Heads and their width.
fn extents(view: &View<'_>, input: &Port, join: &Join<'_>) -> Result<[usize; 2]> {
    let stated = input.dims.clone().unwrap_or_default();
    let inside = join.fresh.or(Some(join.joined)).and_then(|e| view.dims(e)).unwrap_or_default();
    let heads = 3 - join.axis.clamp(1, 2);
    let extent = |axis: usize| {
        let known = |dims: &[Dim]| dims.get(axis).and_then(Dim::known);
        known(&stated).or_else(|| known(&inside))
    };
    match (extent(heads), extent(3)) {
        (Some(heads), Some(width)) if stated.len() == 4 => Ok([heads, width]),
        _ => {
            let dims: Vec<String> = stated.iter().map(ToString::to_string).collect();
            let text = format!(
                "the cached input `{}` is [{}]: expected [batch, head, pos, d_head] or [batch, pos, head, d_head] with \
                 fixed heads and widths",
                input.name,
                dims.join(", ")
            );
            Err(incomplete(text))
        }
    }
}

/// Keys are the right factor of a product before a softmax, values that of one behind it.
fn use_of<'g>(view: &View<'g>, joined: &'g str) -> Option<Cached> {
    let (product, slot) = onward(view, joined)?;
    match (product.op(), slot) {
        ("Attention", 1) => Some(Cached::Key),
        ("Attention", 2) => Some(Cached::Value),
        ("MatMul", 1) => match onward(view, product.output(0)) {
            Some((next, _)) if next.is("Softmax") => Some(Cached::Key),
            _ => Some(Cached::Value),
        },
        _ => None,
    }
}

/// The first product or softmax that is computed from an edge's values, and the slot where they enter.
fn onward<'g>(view: &View<'g>, edge: &'g str) -> Option<(&'g Node, usize)> {
    let mut seen = HashSet::new();
    let mut front = vec![edge];
    while !front.is_empty() {
        let mut next = Vec::new();
        for edge in front {
            for (node, slot) in view.readers(edge) {
                if ["MatMul", "Gemm", "Einsum", "Softmax", "Attention"].iter().any(|op| node.is(op)) {
                    return Some((node, slot));
                }
                next.extend(node.outputs().iter().map(String::as_str).filter(|&o| !o.is_empty() && seen.insert(o)));
            }
        }
        front = next;
    }
    None
}

/// Keys or values that are given back although none can be given in.
fn without_past(view: &View<'_>) -> Result<()> {
    let kept = |name: &String| {
        let chain = view.edge(name).filter(|e| view.rank(e) == Some(4)).map(|e| view.chain(e)).unwrap_or_default();
        chain.into_iter().any(|e| use_of(view, e).is_some())
    };
    let names: Vec<String> = view.graph.outputs().into_iter().map(|p| p.name).filter(kept).collect();
    if names.is_empty() {
        return Ok(());
    }
    let text = format!(
        "the graph gives back keys and values ({}): expected an input for each of them, found none",
        names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
    );
    Err(incomplete(text).help("export the decoder with cached keys and values as inputs and outputs, or with neither"))
}

/// Checks that every block has its keys and its values, all of one kind.
fn whole(ports: &[CachePort], layers: usize) -> Result<()> {
    let of = |kind| ports.iter().filter(|p| p.kind == kind).collect::<Vec<_>>();
    let (keys, values) = (of(Cached::Key), of(Cached::Value));
    let blocks = if layers == 0 { keys.len().max(values.len()) } else { layers };
    if keys.len() != blocks || values.len() != blocks {
        let names: Vec<String> = ports.iter().map(|p| format!("`{}`", p.past)).collect();
        let text = format!(
            "the cache is not whole: expected cached keys and values for each of {blocks} blocks, found {} and {} ({})",
            keys.len(),
            values.len(),
            names.join(", ")
        );
        return Err(incomplete(text));
    }
    let alike = |p: &CachePort| (p.axis, p.dtype);
    match ports.iter().find(|p| alike(p) != alike(&ports[0])) {
        None => Ok(()),
        Some(other) => {
            let one = |p: &CachePort| format!("`{}` is {} with positions at axis {}", p.past, p.dtype.name(), p.axis);
            Err(incomplete(format!("the cached inputs differ: {}, {}", one(&ports[0]), one(other))))
        }
    }
}

fn incomplete(text: String) -> Error {
    Error::new(&codes::CACHE, text)
}
