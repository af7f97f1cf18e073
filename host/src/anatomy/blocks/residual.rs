//! The residual stream: the chain of additions from what enters the first block to the last norm, and the blocks.

use crate::anatomy::codes;
use crate::anatomy::look::region::Region;
use crate::anatomy::look::view::View;
use crate::anatomy::pieces::linear::Linears;
use crate::base::{Error, Result};

/// One step of the stream.
pub(in crate::anatomy) struct Step<'g> {
    /// The stream before it.
    pub before: &'g str,
    /// What is added, computed from the stream before.
    pub branches: Vec<Branch<'g>>,
    /// The stream after it.
    pub after: &'g str,
}

/// Something that is added to the stream.
pub(in crate::anatomy) struct Branch<'g> {
    /// What is added.
    pub edge: &'g str,
    /// The stream that it reads.
    pub before: &'g str,
    /// What computes it from the stream.
    pub region: Region<'g>,
    /// True if it mixes positions.
    pub attends: bool,
}

/// The stream, first addition first.
pub(in crate::anatomy) struct Stream<'g> {
    /// What enters the first block.
    pub start: &'g str,
    pub steps: Vec<Step<'g>>,
}

/// A block: attention, then an MLP; or both at once.
pub(in crate::anatomy) struct Block<'s, 'g> {
    pub before: &'g str,
    pub attention: &'s Branch<'g>,
    /// The stream between the two, where they are not parallel.
    pub middle: Option<&'g str>,
    pub mlp: &'s Branch<'g>,
    pub after: &'g str,
}

/// Walks back from the end of the stream. Of the operands of an addition the stream is the one from which all others
/// are computed; where none is, an operand that is itself a sum is taken apart, and where that does not help, the
/// stream begins.
pub(in crate::anatomy) fn walk<'g>(view: &View<'g>, linears: &Linears<'g>, end: &'g str) -> Stream<'g> {
    let mut steps = Vec::new();
    let mut at = view.root(end);
    while let Some((before, terms)) = origin(view, linears, at) {
        let mut edges = Vec::new();
        for term in terms {
            apart(view, linears, before, term, &mut edges);
        }
        let branch = |edge| {
            let region = Region::between(view, before, edge);
            let attends = region.attends(view);
            Branch { edge, before, region, attends }
        };
        steps.push(Step { before, branches: edges.into_iter().map(branch).collect(), after: at });
        at = before;
    }
    steps.reverse();
    Stream { start: at, steps }
}

/// The operands of an addition of two activations.
fn operands<'g>(view: &View<'g>, linears: &Linears<'g>, edge: &'g str) -> Option<[&'g str; 2]> {
    let edge = view.root(edge);
    let node = view.producer(edge).filter(|n| n.is("Add") && linears.making(edge).is_none())?;
    Some([node.input(0)?, node.input(1)?])
}

/// The term of a sum from which all others are computed, and the others.
fn origin<'g>(view: &View<'g>, linears: &Linears<'g>, edge: &'g str) -> Option<(&'g str, Vec<&'g str>)> {
    let [a, b] = operands(view, linears, edge)?;
    let (inside_a, inside_b) = (operands(view, linears, a), operands(view, linears, b));
    let mut sums = vec![vec![a, b]];
    sums.extend(inside_a.map(|[x, y]| vec![x, y, b]));
    sums.extend(inside_b.map(|[x, y]| vec![a, x, y]));
    sums.into_iter().find_map(|terms| {
        let from_all = |&i: &usize| {
            let root = view.root(terms[i]);
            terms.iter().enumerate().all(|(j, t)| i == j || view.root(t) != root && view.derives(t, root))
        };
        let i = (0..terms.len()).find(from_all)?;
        let others = terms.iter().enumerate().filter(|&(j, _)| j != i).map(|(_, t)| *t).collect();
        Some((view.root(terms[i]), others))
    })
}

/// Takes a sum of attention and something else apart.
fn apart<'g>(view: &View<'g>, linears: &Linears<'g>, before: &'g str, term: &'g str, out: &mut Vec<&'g str>) {
    let attends = |edge: &'g str| Region::between(view, before, edge).attends(view);
    match operands(view, linears, term).filter(|[a, b]| attends(a) != attends(b)) {
        Some(operands) if operands.iter().all(|e| view.derives(e, before)) => out.extend(operands),
        _ => out.push(term),
    }
}

/// Pairs the additions into blocks.
pub(in crate::anatomy) fn blocks<'s, 'g>(view: &View<'g>, stream: &'s Stream<'g>) -> Result<Vec<Block<'s, 'g>>> {
    let mut found = Vec::new();
    let mut rest = &stream.steps[..];
    while let Some((first, later)) = rest.split_first() {
        let Step { before, after, .. } = *first;
        match (&first.branches[..], later.split_first()) {
            ([a, b], _) if a.attends != b.attends => {
                let (attention, mlp) = if a.attends { (a, b) } else { (b, a) };
                found.push(Block { before, attention, middle: None, mlp, after });
                rest = later;
            }
            ([attention], Some((second, later))) if attention.attends => {
                let [mlp] = &second.branches[..] else { break };
                if mlp.attends {
                    break;
                }
                found.push(Block { before, attention, middle: Some(after), mlp, after: second.after });
                rest = later;
            }
            _ => break,
        }
    }
    if rest.is_empty() && !found.is_empty() {
        return Ok(found);
    }
    let kind = |b: &Branch<'_>| if b.attends { "attention" } else { "something without attention" };
    let words = |s: &Step<'_>| s.branches.iter().map(kind).collect::<Vec<_>>().join(" beside ");
    let list: Vec<String> = stream.steps.iter().map(words).collect();
    let text = if list.is_empty() {
        let maker = view.maker(stream.start);
        format!(
            "there is no residual stream: the last norm's input is made by {maker}, not by an Add of a value and \
             something computed from it"
        )
    } else {
        format!(
            "{} additions to the residual stream, expected attention and an MLP in turns, found {}; before the first \
             of them stands {}",
            list.len(),
            list.join(", "),
            view.maker(stream.start)
        )
    };
    Err(Error::new(&codes::NO_TRANSFORMER, text).help(
        "engraft reads decoders whose blocks add to one residual stream, with norms before or behind what is added; \
         encoders and norms inside the stream are not read",
    ))
}
