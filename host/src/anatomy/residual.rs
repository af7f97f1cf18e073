//! The residual stream: the chain of additions from what enters the first block to the last norm, and the blocks.

use super::codes;
use super::view::View;
use crate::base::{Error, Result};

/// One addition to the stream.
#[derive(Clone, Copy)]
pub(super) struct Step<'g> {
    /// The stream before it.
    pub before: &'g str,
    /// What is added.
    pub branch: &'g str,
    /// The stream after it.
    pub after: &'g str,
}

/// The stream, first addition first.
pub(super) struct Stream<'g> {
    /// What enters the first block.
    pub start: &'g str,
    pub steps: Vec<Step<'g>>,
}

/// A block: attention, then an MLP.
pub(super) struct Block<'g> {
    pub attention: Step<'g>,
    pub mlp: Step<'g>,
}

/// Walks back from the end of the stream. Of an addition's two operands the branch is the one that is computed from
/// the other; where neither is, the stream begins.
pub(super) fn walk<'g>(view: &View<'g>, end: &'g str) -> Stream<'g> {
    let mut steps = Vec::new();
    let mut at = view.root(end);
    while let Some(node) = view.producer(at).filter(|n| n.is("Add")) {
        let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { break };
        let (root_a, root_b) = (view.root(a), view.root(b));
        let (before, branch) = if view.derives(a, root_b) {
            (root_b, a)
        } else if view.derives(b, root_a) {
            (root_a, b)
        } else {
            break;
        };
        steps.push(Step { before, branch, after: at });
        at = before;
    }
    steps.reverse();
    Stream { start: at, steps }
}

/// True if a branch holds attention: a `Softmax`, or one operator that fuses it.
pub(super) fn attends(view: &View<'_>, step: Step<'_>) -> bool {
    let mut found = false;
    view.upstream(step.branch, |edge| {
        let outside = edge == step.before;
        let node = view.producer(edge).filter(|_| !outside);
        found |= node.is_some_and(|n| n.is("Softmax") || n.op().contains("Attention"));
        outside || found
    });
    found
}

/// Pairs the additions into blocks.
pub(super) fn blocks<'g>(view: &View<'g>, stream: &Stream<'g>) -> Result<Vec<Block<'g>>> {
    let kinds: Vec<bool> = stream.steps.iter().map(|&s| attends(view, s)).collect();
    let pairs = stream.steps.chunks(2).zip(kinds.chunks(2));
    let blocks: Option<Vec<Block<'g>>> = pairs
        .map(|(steps, kinds)| match (steps, kinds) {
            (&[attention, mlp], [true, false]) => Some(Block { attention, mlp }),
            _ => None,
        })
        .collect();
    match blocks {
        Some(blocks) if !blocks.is_empty() => Ok(blocks),
        _ => {
            let word = |&attends: &bool| if attends { "attention" } else { "something without attention" };
            let list: Vec<&str> = kinds.iter().map(word).collect();
            let text = if list.is_empty() {
                format!(
                    "there is no residual stream: the last norm's input is made by {}, not by an Add of a value and \
                     something computed from it",
                    view.maker(stream.start)
                )
            } else {
                format!(
                    "{} additions to the residual stream, expected attention and an MLP in turns, found {}; before \
                     the first of them stands {}",
                    list.len(),
                    list.join(", "),
                    view.maker(stream.start)
                )
            };
            Err(Error::new(&codes::NO_TRANSFORMER, text))
        }
    }
}
