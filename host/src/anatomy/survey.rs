//! Finding an anatomy: the detectors in turn, from the logits back to the token ids.

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::absences;
use super::blocks::{attention, mlp, residual};
use super::codes;
use super::draft::Draft;
use super::look::view::View;
use super::parts::Anatomy;
use super::parts::Axes;
use super::pieces::linear::{Linears, Projection};
use super::pieces::norms::Norms;
use super::table::words;
use super::{ends, foreign, inputs, training};
use crate::base::{Error, Result};
use crate::graph::{Dim, Graph, Shapes};

impl Anatomy {
    /// Finds the parts of a decoder in a graph, from structure alone.
    ///
    /// # Errors
    /// `anatomy-not-found` with what was found and what was missing, `anatomy-ambiguous` with the candidates,
    /// `anatomy-input-unread` with the inputs that are not understood.
    pub fn of(graph: &Graph, shapes: &Shapes) -> Result<Self> {
        let (anatomy, problems) = Self::survey(graph, shapes);
        let Some(first) = problems.into_iter().next() else { return Ok(anatomy) };
        let text = format!("{}; {}", first.message(), found(&anatomy));
        let error = Error::new(first.code(), text);
        Err(match first.advice() {
            Some(advice) => error.help(advice),
            None => error,
        })
    }

    /// Finds as much as it can; the problems are what keeps [`Anatomy::of`] from returning it.
    pub fn survey(graph: &Graph, shapes: &Shapes) -> (Self, Vec<Error>) {
        let mut draft = Draft::default();
        let view = View::new(graph, shapes);
        draft.problems.extend(foreign::problem(graph));
        draft.problems.extend(training::problem(&view));
        if let Err(problem) = read(&view, &mut draft) {
            draft.problems.push(problem);
        }
        if draft.problems.iter().any(|p| p.code().id == codes::NO_TRANSFORMER.id) {
            draft.problems.splice(0..0, foreign::quantised(&view));
        }
        verify(&view, &mut draft);
        runnable(&view, &mut draft);
        absences::fill(&mut draft);
        (draft.anatomy, draft.problems)
    }
}

/// Takes back the sites whose edges do not have exactly the site's shape.
fn verify(view: &View<'_>, draft: &mut Draft) {
    let outputs = view.graph.outputs();
    // One position for each token.
    let tokens = view.dims(&draft.anatomy.inputs.ids).and_then(|d| d.get(1).cloned());
    for (site, mut found) in std::mem::take(&mut draft.anatomy.sites) {
        let stated = || outputs.iter().find(|o| o.name == found.edge).and_then(|o| o.dims.clone());
        let dims = view.dims(&found.edge).or_else(stated);
        let mut wanted = draft.anatomy.site_dims(site);
        // Only reshaping leads from three axes to two, and it keeps the order of rows.
        if found.axes == Axes::Named && wanted.len() == 3 && dims.as_ref().is_some_and(|d| d.len() == 2) {
            found.axes = Axes::PositionsMerged;
        }
        match found.axes {
            Axes::Named => {}
            Axes::PositionsMerged => {
                wanted.drain(..2);
                wanted.insert(0, Dim::symbol("batch pos"));
            }
            Axes::HeadsFirst => wanted.swap(1, 2),
            Axes::HeadsApart => wanted.insert(3, Dim::Known(1)),
            Axes::HeadsMerged => {
                let width = wanted.drain(2..).filter_map(|d| d.known()).product();
                wanted.push(Dim::Known(width));
            }
        }
        let fits = |(a, b): (&Dim, &Dim)| match (b, &tokens) {
            (Dim::Symbol(name), Some(tokens)) if matches!(&**name, "pos" | "query") => !Shapes::unequal(a, tokens),
            _ => a.known().zip(b.known()).is_none_or(|(a, b)| a == b),
        };
        let reason = match dims {
            Some(dims) if dims.len() == wanted.len() && dims.iter().zip(&wanted).all(fits) => {
                draft.anatomy.sites.insert(site, found);
                continue;
            }
            Some(dims) => format!("the edge that holds it has the shape {}", words(&dims)),
            None => "the shape of the edge that holds it is not known".to_owned(),
        };
        draft.absent(site, format!("{reason}, expected {}", words(&wanted)));
    }
}

/// Takes back the weights that no branch could be run beside: what they multiply or make has other axes.
fn runnable(view: &View<'_>, draft: &mut Draft) {
    let mut unfit = Vec::new();
    for (weight, place) in &draft.anatomy.weights {
        let table = view.producer(&place.reader.0).is_some_and(|n| n.is("Gather"));
        let mixed = |edge: &String| match weight {
            WeightRef::Block(layer, Role::Output) => draft.is_site(Site::Block(*layer, BlockSite::Z), edge),
            _ => false,
        };
        let ends = [&place.input, &place.output].into_iter().zip(place.merged);
        let bad = ends.filter_map(|(edge, merged)| Some((edge.as_ref()?, merged))).find(|(edge, merged)| {
            let rank = view.rank(edge);
            !table && !mixed(edge) && rank.is_some_and(|rank| rank != if *merged { 2 } else { 3 })
        });
        if let Some((edge, _)) = bad {
            let dims = view.dims(edge).unwrap_or_default();
            let reason =
                format!("the edge `{edge}` beside it has the shape {}, expected [batch, pos, width]", words(&dims));
            unfit.push((*weight, reason));
        }
    }
    for (weight, reason) in unfit {
        draft.anatomy.weights.remove(&weight);
        draft.absent(weight, reason);
    }
}

/// What was found, in words.
fn found(anatomy: &Anatomy) -> String {
    let mut parts = Vec::new();
    if let Some(logits) = anatomy.sites.get(&Site::Logits) {
        parts.push(format!("the logits `{}` of a width of {}", logits.edge, anatomy.d_model));
    }
    if let Some(table) = anatomy.weights.get(&WeightRef::Embedding) {
        parts.push(format!("the token embedding `{}`", table.initializer));
    }
    parts.push(format!("{} blocks", anatomy.layers));
    format!("found: {}", parts.join(", "))
}

fn read(view: &View<'_>, draft: &mut Draft) -> Result<()> {
    let (linears, norms) = (Linears::find(view), Norms::find(view));
    let unembedding = ends::logits::unembedding(view, &linears, &norms)?;
    let linear = unembedding.linear;
    draft.anatomy.d_model = linear.width_in;
    draft.anatomy.shaping = unembedding.shaping;
    let shaped = if draft.anatomy.shaping.is_empty() { "" } else { ", scaled or capped" };
    match unembedding.selects {
        None => draft.site(Site::Logits, unembedding.logits, format!("the output that a {} makes{shaped}", linear.op)),
        Some((node, what)) => draft.absent(Site::Logits, format!("{} {what}", node.label())),
    }
    let norm = unembedding.norm;
    // Where nothing but copies lies between, the norm's own output is the input.
    let input = norm.map(|n| n.output).filter(|e| view.chain(linear.input).contains(e)).unwrap_or(linear.input);
    let whole = Projection { linear, columns: None, bias: None };
    draft.linear(&whole, WeightRef::Unembedding, WeightRef::UnembeddingBias, input);
    match norm {
        Some(norm) => {
            draft.site(Site::LnFinal, norm.output, format!("{}, read by the unembedding", norm.words()));
            draft.norm(norm, Site::LnFinal, WeightRef::LnFinalScale, WeightRef::LnFinalShift);
        }
        None => draft.absent(Site::LnFinal, "the unembedding does not read a norm"),
    }

    let stream = residual::walk(view, &linears, unembedding.end);
    match residual::blocks(view, &stream) {
        Ok(blocks) => {
            draft.anatomy.layers = blocks.len();
            let maker = view.maker(stream.start);
            draft.site(Site::Embed, stream.start, format!("the begin of the residual stream, made by {maker}"));
            for (layer, block) in blocks.iter().enumerate() {
                let site = |s| Site::Block(layer, s);
                let beside = if block.middle.is_some() {
                    "what the block's first Add adds to"
                } else {
                    "what attention and MLP both read"
                };
                draft.site(site(BlockSite::ResidPre), block.before, beside);
                attention::read(view, &linears, &norms, layer, block, draft);
                match block.middle {
                    Some(middle) => draft.site(site(BlockSite::ResidMid), middle, "the first Add of the block"),
                    None => {
                        draft.anatomy.parallel.insert(layer);
                        draft.absent(site(BlockSite::ResidMid), "attention and the MLP of this block are parallel");
                    }
                }
                mlp::read(view, &linears, &norms, layer, block, draft);
                let sum = if block.middle.is_some() {
                    "the second Add of the block"
                } else {
                    "the sum of the stream, attention and the MLP"
                };
                draft.site(site(BlockSite::ResidPost), block.after, sum);
            }
        }
        Err(problem) => draft.problems.push(problem),
    }

    let embedding = ends::embedding::embedding(view, stream.start, linear.width_out)?;
    let tokens = &embedding.tokens;
    draft.problems.extend(ends::embedding::beside(view, stream.start, tokens));
    draft.anatomy.vocab = tokens.rows;
    draft.anatomy.embedding = embedding.facts;
    draft
        .weight(WeightRef::Embedding, tokens.weight("the table of which a Gather takes rows by an input of the graph"));
    if tokens.width != linear.width_in {
        let (table, stream) = (tokens.width, linear.width_in);
        let text = format!("the token embedding is {table} wide and the residual stream {stream}, expected the same");
        draft.problems.push(Error::new(&codes::NO_TRANSFORMER, text));
    }
    if let Some(table) = &embedding.positions {
        let shift = usize::try_from(embedding.facts.offset).unwrap_or(0);
        draft.anatomy.context = Some(table.rows.saturating_sub(shift));
        let evidence = "the other table of which a Gather takes rows that enter the first block";
        draft.weight(WeightRef::Positions, table.weight(evidence));
    }
    draft.anatomy.inputs = inputs::read(view, &linears, &embedding, draft.anatomy.layers)?;
    if let Some(extent) = draft.anatomy.inputs.positions_of_rows() {
        draft.anatomy.context = Some(draft.anatomy.context.map_or(extent, |context| context.min(extent)));
    }
    Ok(())
}

impl Draft {
    /// Notes the number and width of a block's heads.
    pub fn heads(&mut self, layer: usize, heads: usize, d_head: usize) {
        let before = (self.anatomy.heads, self.anatomy.d_head);
        self.equal(layer, "heads and their width", before == (0, 0), before, (heads, d_head));
        (self.anatomy.heads, self.anatomy.d_head) = (heads, d_head);
    }

    /// Notes the number of a block's key and value heads.
    pub fn kv_heads(&mut self, layer: usize, heads: usize) {
        let before = self.anatomy.kv_heads;
        self.equal(layer, "key and value heads", before == 0, before, heads);
        self.anatomy.kv_heads = heads;
    }

    /// Notes the width of a block's MLP.
    pub fn d_mlp(&mut self, layer: usize, width: usize) {
        let before = self.anatomy.d_mlp;
        self.equal(layer, "MLP width", before == 0, before, width);
        self.anatomy.d_mlp = width;
    }

    fn equal<T: PartialEq + std::fmt::Debug>(&mut self, layer: usize, what: &str, new: bool, before: T, now: T) {
        if !new && before != now {
            let text = format!("blocks differ in their {what}: block {layer} has {now:?}, those before {before:?}");
            self.problems.push(Error::new(&codes::NO_TRANSFORMER, text));
        }
    }
}
