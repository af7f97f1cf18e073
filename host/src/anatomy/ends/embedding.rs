//! What enters the first block: rows of a token table and perhaps of a position table, summed, scaled or normed.

use crate::anatomy::codes;
use crate::anatomy::look::region::{Region, mixes};
use crate::anatomy::look::view::{Stored, View};
use crate::anatomy::parts::{self, Storage, WeightEdge};
use crate::anatomy::pieces::linear::place;
use crate::anatomy::table::words;
use crate::base::{Error, Result};
use crate::graph::{Dim, Node, Shapes};

const EXPORT: &str = "export the decoder with its token embedding, so that it takes token ids";

/// A table of the file of which a `Gather` takes rows.
pub(in crate::anatomy) struct Table<'g> {
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
pub(in crate::anatomy) struct Embedding<'g> {
    pub tokens: Table<'g>,
    pub positions: Option<Table<'g>>,
    /// What lies between them and the first block.
    pub facts: parts::Embedding,
}

/// Finds the token and position tables upstream of what enters the first block.
pub(in crate::anatomy) fn embedding<'g>(view: &View<'g>, embed: &'g str, vocab: usize) -> Result<Embedding<'g>> {
    let inputs = view.graph.inputs();
    let from_input = |t: &Table<'_>| inputs.iter().any(|i| i.name == t.origin);
    let mut tables = tables(view, embed)?;
    if let Some(error) = embedded(view, embed) {
        return Err(error);
    }
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
    // Logits of a small part of the tokens are classes or values.
    if let Some(&table) = tokens.first().filter(|_| tokens.iter().all(|&i| vocab < tables[i].rows / 2)) {
        let text = format!(
            "the output that should be logits is {vocab} wide and the token embedding {}: expected one logit for each token",
            described(&tables, &[table])
        );
        let advice = "export the causal language model with its language-modelling head, not one of classes or values";
        return Err(Error::new(&codes::NO_TRANSFORMER, text).help(advice));
    }
    // A table with fewer rows than there are logits is no choice where another one has enough.
    let enough = |&i: &usize| tables[i].rows >= vocab;
    if !tokens.iter().any(enough) && (0..tables.len()).any(|i| enough(&i)) {
        tokens.clear();
    }
    let token = match tokens[..] {
        [token] => token,
        [] => return Err(without_tokens(view, &tables, vocab)),
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
    let mut positions = tables.pop();
    let mut facts = parts::Embedding::default();
    if let Some(table) = &mut positions {
        (table.origin, facts.offset) = shifted(view, table.index);
    }
    let mut terms = Vec::new();
    let summed = summands(view, embed, 1.0, &mut terms);
    let scale = |table: &Table<'_>| terms.iter().find(|(edge, _)| *edge == table.output).map(|(_, scale)| *scale);
    facts.scale = scale(&tokens).unwrap_or(1.0);
    let others = positions.as_ref().map_or(Some(1.0), scale);
    facts.plain = summed && others == Some(1.0) && terms.len() == 1 + usize::from(positions.is_some());
    Ok(Embedding { tokens, positions, facts })
}

/// What is wrong with a graph that takes rows of the stream in place of token ids.
fn embedded<'g>(view: &View<'g>, embed: &'g str) -> Option<Error> {
    let inputs = view.graph.inputs();
    let of_rows =
        |edge: &str| inputs.iter().position(|i| i.name == edge && i.dtype.is_float() && view.rank(edge) == Some(3));
    let mut given = None;
    view.upstream(embed, |edge| {
        given = given.or_else(|| of_rows(edge));
        given.is_some()
    });
    let input = &inputs[given?];
    let text = format!(
        "the residual stream is made of the input `{}` ({} {}): the graph takes embedded tokens, expected token ids \
         [batch, pos] in whole numbers",
        input.name,
        input.dtype.name(),
        words(&view.dims(&input.name).unwrap_or_default())
    );
    Some(Error::new(&codes::NO_TRANSFORMER, text).help(EXPORT))
}

/// Why no table gives the rows of token ids.
fn without_tokens<'g>(view: &View<'g>, tables: &[Table<'g>], vocab: usize) -> Error {
    let inputs = view.graph.inputs();
    let of_ids = |table: &Table<'g>| {
        let mut input = None;
        view.upstream(table.index, |edge| {
            input = input.or_else(|| inputs.iter().find(|i| i.name == edge));
            input.is_some()
        });
        Some((view.producer(table.origin)?, input?))
    };
    let mut large = tables.iter().filter(|t| t.rows >= vocab);
    if let Some((table, (node, input))) = large.find_map(|t| Some((t, of_ids(t)?))) {
        let text = format!(
            "the rows of the table `{}` are chosen by what {} makes of `{}`: expected by the token ids themselves",
            table.stored.initializer.name(),
            node.label(),
            input.name
        );
        let advice = "export the decoder so that it looks token ids up as they are given";
        return Error::new(&codes::NO_TRANSFORMER, text).help(advice);
    }
    let text = "no Gather takes rows of a table of the file by an input of the graph: there is no token embedding";
    Error::new(&codes::NO_TRANSFORMER, text).help(EXPORT)
}

/// What is wrong with a stream that has other positions than the tokens: a prefix that is put before them moves all.
pub(in crate::anatomy) fn beside<'g>(view: &View<'g>, embed: &'g str, tokens: &Table<'g>) -> Option<Error> {
    let extent = |edge: &str, rank: usize| view.dims(edge).filter(|d| d.len() == rank).map(|d| d[1].clone());
    let (stream, ids) = (extent(embed, 3), extent(tokens.origin, 2));
    let differs = stream.as_ref().zip(ids.as_ref()).is_some_and(|(a, b)| Shapes::unequal(a, b));
    // Parts of a row may be joined along the last axis.
    let along = |node: &Node| {
        let rank = view.rank(node.output(0)).and_then(|rank| i64::try_from(rank).ok());
        node.int("axis").is_some_and(|axis| axis != -1 && Some(axis + 1) != rank)
    };
    let region = Region::between(view, tokens.output, embed);
    let joins = region.nodes(view).find(|n| n.is("Concat") && n.inputs().len() > 1 && along(n) || n.is("Pad"));
    if !differs && joins.is_none() {
        return None;
    }
    let words = |dim: Option<Dim>| dim.map_or("an unknown number of".to_owned(), |d| d.to_string());
    let how = joins.map_or(String::new(), |node| format!(", and {} joins others to those of the tokens", node.label()));
    let text = format!(
        "the residual stream begins at `{embed}` with {} positions, expected one for each token of `{}`, which has {}{how}",
        words(stream),
        tokens.origin,
        words(ids)
    );
    let advice = "export the decoder without what stands before or behind its tokens, such as the rows of a soft \
                  prompt: every position would be another one";
    Some(Error::new(&codes::NO_TRANSFORMER, text).help(advice))
}

/// The tables' rows that sum up to an edge, with their factors; false if the edge is anything else but such a sum.
fn summands<'g>(view: &View<'g>, edge: &'g str, scale: f32, out: &mut Vec<(&'g str, f32)>) -> bool {
    let Some(node) = view.producer(edge) else { return false };
    if table(view, edge).is_some() {
        out.push((edge, scale));
        return true;
    }
    if let Some(before) = view.relayed(node) {
        return summands(view, before, scale, out);
    }
    let factor = view.either(node, |e| view.number(e));
    match (node.op(), node.input(0), node.input(1), factor) {
        ("Mul", _, _, Some((before, factor))) => summands(view, before, scale * factor, out),
        ("Add", Some(a), Some(b), _) => summands(view, a, scale, out) && summands(view, b, scale, out),
        _ => false,
    }
}

/// What row numbers are computed from by adding fixed numbers, and the sum of those; counted tokens begin at 1.
fn shifted<'g>(view: &View<'g>, index: &'g str) -> (&'g str, i64) {
    let (mut at, mut offset) = (index, 0);
    loop {
        at = view.root(at);
        let Some(node) = view.producer(at) else { return (at, offset) };
        let number = |e: &'g str| view.ints(e).filter(|v| v.len() == 1).map(|v| v[0]);
        let counted = |e: &'g str| view.producer(view.root(e)).is_some_and(|n| n.is("CumSum")).then_some(());
        let next = match node.op() {
            "Add" => view.either(node, number),
            "Sub" => node.input(0).zip(node.input(1).and_then(number)).map(|(e, n)| (e, -n)),
            // Padding is masked out of the count.
            "Mul" => view
                .either(node, counted)
                .and_then(|(other, ())| node.inputs().iter().map(String::as_str).find(|e| *e != other).map(|e| (e, 0))),
            _ => None,
        };
        match next {
            Some((before, number)) => (at, offset) = (before, offset + number),
            None => return (at, offset + i64::from(node.is("CumSum"))),
        }
    }
}

/// The tables whose rows reach an edge.
///
/// # Errors
/// `anatomy-not-found` if attention stands between them and the edge.
fn tables<'g>(view: &View<'g>, edge: &'g str) -> Result<Vec<Table<'g>>> {
    let mut found: Vec<Table<'g>> = Vec::new();
    let mut inside = None;
    view.upstream(edge, |e| {
        inside = inside.or(view.producer(e).filter(|n| mixes(view, n)));
        let Some(table) = table(view, e) else { return false };
        found.push(table);
        true
    });
    let Some(node) = inside else { return Ok(found) };
    let text = format!(
        "the residual stream could be followed back to `{edge}`, made by {}, only, and {} stands before it",
        view.maker(edge),
        node.label()
    );
    Err(Error::new(&codes::NO_TRANSFORMER, text))
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
