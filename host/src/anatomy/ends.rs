//! The ends of a decoder: the linear map that makes the logits, and the tables that make what enters the first block.

use super::codes;
use super::linear::{Linear, Linears, place};
use super::parts::{Storage, WeightEdge};
use super::view::{Stored, View};
use crate::base::{Error, Result};

/// The output of the graph that is the logits, and what makes it.
pub(super) struct Unembedding<'l, 'g> {
    pub logits: &'g str,
    pub linear: &'l Linear<'g>,
}

/// A table of the file of which a `Gather` takes rows.
pub(super) struct Table<'g> {
    pub stored: Stored<'g>,
    /// The row numbers that the `Gather` reads.
    pub index: &'g str,
    /// What the row numbers derive from unchanged: an input of the graph, or the edge of the node that makes them.
    pub origin: &'g str,
    pub output: &'g str,
    pub rows: usize,
    pub width: usize,
}

/// The tables behind what enters the first block.
pub(super) struct Embedding<'g> {
    pub tokens: Table<'g>,
    pub positions: Option<Table<'g>>,
}

/// Finds the output that a linear map makes of an activation of three axes.
pub(super) fn unembedding<'l, 'g>(view: &View<'g>, linears: &'l Linears<'g>) -> Result<Unembedding<'l, 'g>> {
    let mut found = Vec::new();
    for output in view.graph.outputs() {
        let Some(edge) = view.edge(&output.name) else { continue };
        let rank = view.rank(edge).or(output.dims.as_ref().map(Vec::len));
        if rank == Some(3)
            && let Some(linear) = linears.behind(view, edge)
        {
            found.push(Unembedding { logits: edge, linear });
        }
    }
    if found.len() > 1 {
        let names: Vec<String> = found.iter().map(|f| format!("`{}`", f.logits)).collect();
        let text = format!("{} outputs could be the logits: {}", found.len(), names.join(" and "));
        return Err(Error::new(&codes::AMBIGUOUS, text).help("export the model with its logits as the only output"));
    }
    found.pop().ok_or_else(|| {
        let outputs: Vec<String> = view
            .graph
            .outputs()
            .iter()
            .map(|o| {
                format!("`{}` (rank {:?}, made by {})", o.name, o.dims.as_ref().map(Vec::len), view.maker(&o.name))
            })
            .collect();
        let list = outputs.join(", ");
        let text =
            format!("no output is [batch, pos, vocab] made by a Gemm or MatMul with a matrix of the file: {list}");
        Error::new(&codes::NO_TRANSFORMER, text)
    })
}

/// Finds the token and position tables upstream of what enters the first block.
pub(super) fn embedding<'g>(view: &View<'g>, embed: &'g str, vocab: usize) -> Result<Embedding<'g>> {
    let inputs = view.graph.inputs();
    let from_input = |t: &Table<'_>| inputs.iter().any(|i| i.name == t.origin);
    let mut tables = tables(view, embed);
    let described = |tables: &[Table<'_>], chosen: &[usize]| {
        let one = |&i: &usize| {
            let t = &tables[i];
            format!("`{}` [{}, {}] by `{}`", t.stored.initializer.name(), t.rows, t.width, t.origin)
        };
        chosen.iter().map(one).collect::<Vec<_>>().join(" and ")
    };
    let mut tokens: Vec<usize> = (0..tables.len()).filter(|&i| from_input(&tables[i])).collect();
    if tokens.len() > 1 {
        // A padded embedding has more rows than the logits have columns, never fewer.
        let sized = |fits: &dyn Fn(usize) -> bool| tokens.iter().copied().filter(|&i| fits(tables[i].rows)).collect();
        let (equal, wider): (Vec<usize>, Vec<usize>) = (sized(&|rows| rows == vocab), sized(&|rows| rows > vocab));
        tokens = [equal, wider].into_iter().find(|found| !found.is_empty()).unwrap_or(tokens);
    }
    let token = match tokens[..] {
        [token] => token,
        [] => {
            let text =
                "no Gather takes rows of a table of the file by an input of the graph: there is no token embedding";
            return Err(Error::new(&codes::NO_TRANSFORMER, text));
        }
        _ => {
            let list = described(&tables, &tokens);
            return Err(Error::new(&codes::AMBIGUOUS, format!("several tables could be the token embedding: {list}")));
        }
    };
    let tokens = tables.swap_remove(token);
    let others: Vec<usize> = (0..tables.len()).collect();
    if others.len() > 1 {
        let list = described(&tables, &others);
        let text = format!("besides the token embedding, several tables could be the position embedding: {list}");
        return Err(Error::new(&codes::AMBIGUOUS, text));
    }
    Ok(Embedding { tokens, positions: tables.pop() })
}

/// The tables whose rows reach an edge.
fn tables<'g>(view: &View<'g>, edge: &'g str) -> Vec<Table<'g>> {
    let mut found: Vec<Table<'g>> = Vec::new();
    view.upstream(edge, |e| {
        let Some(table) = table(view, e) else { return false };
        found.push(table);
        true
    });
    found
}

fn table<'g>(view: &View<'g>, edge: &'g str) -> Option<Table<'g>> {
    let node = view.producer(edge).filter(|n| n.is("Gather") && n.int("axis").unwrap_or(0) == 0)?;
    let stored = view.stored(node, 0, 2).filter(|s| !s.transposed)?;
    let (index, dims) = (node.input(1)?, stored.initializer.dims());
    Some(Table { stored, index, origin: view.root(index), output: node.output(0), rows: dims[0], width: dims[1] })
}

impl Table<'_> {
    /// The table as a weight: its rows are its inputs.
    pub fn weight(&self, evidence: &str) -> WeightEdge {
        let mut edge = place(&self.stored, Storage::InOut, [self.rows, self.width], evidence.to_owned());
        edge.input = Some(self.index.to_owned());
        edge.output = Some(self.output.to_owned());
        edge
    }
}
