//! How a branch ends: what is added to the stream, back over a norm or a factor to the linear map of its projection.

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::residual::Branch;
use crate::anatomy::draft::Draft;
use crate::anatomy::look::view::{View, operator};
use crate::anatomy::pieces::linear::{Linear, Linears, Projection};
use crate::anatomy::pieces::norms::{Norm, Norms};
use crate::graph::Node;

/// The end of a branch.
pub(super) struct Ending<'l, 'g> {
    /// What is added, in three axes.
    pub added: &'g str,
    /// The projection.
    pub out: &'l Linear<'g>,
    /// What stands between the two, in words; empty if nothing does.
    pub between: String,
    /// The norm between the two.
    pub post: Option<&'l Norm<'g>>,
}

/// The names of a branch's ending.
pub(super) struct Names {
    pub added: BlockSite,
    pub projected: BlockSite,
    pub weight: Role,
    pub bias: Role,
    pub post: Role,
    /// In words.
    pub addition: &'static str,
}

/// Finds the projection that a branch ends in.
///
/// # Errors
/// The operator that is not read.
pub(super) fn ending<'l, 'g>(
    view: &View<'g>,
    linears: &'l Linears<'g>,
    norms: &'l Norms<'g>,
    branch: &Branch<'g>,
) -> Result<Ending<'l, 'g>, String> {
    let added = view.root_of_rank(branch.edge, 3).unwrap_or(branch.edge);
    let mut at = branch.edge;
    let (mut between, mut post) = (Vec::new(), None);
    loop {
        if let Some(out) = linears.making(at) {
            // The first of a chain of copies is the projection's own.
            let added = if between.is_empty() { out.output } else { added };
            return Ok(Ending { added, out, between: between.join(" and "), post });
        }
        if let Some(norm) = norms.making(at) {
            between.push(match norm.centred {
                true => "a layer norm",
                false => "an RMS norm",
            });
            (at, post) = (norm.input, Some(norm));
            continue;
        }
        let Some(node) = view.producer(at) else { return Err("an input of the graph".to_owned()) };
        at = match view.relayed(node) {
            Some(before) => before,
            None => match factor(view, node) {
                Some(before) => {
                    between.push("a factor");
                    before
                }
                None => return Err(operator(node)),
            },
        };
    }
}

/// The activation that a node multiplies with a number or with a vector of the file.
pub(super) fn factor<'g>(view: &View<'g>, node: &'g Node) -> Option<&'g str> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    let fixed = |e: &'g str, slot| view.is_scalar(e) || view.parameter(node, slot).is_some();
    match node.op() {
        "Mul" | "Div" if fixed(b, 1) => Some(a),
        "Mul" if fixed(a, 0) => Some(b),
        _ => None,
    }
}

/// Notes the sites and the weights of an ending.
pub(super) fn note(ending: &Ending<'_, '_>, layer: usize, names: &Names, input: &str, draft: &mut Draft) {
    let site = |s| Site::Block(layer, s);
    let Names { added, projected, weight, bias, post, addition } = *names;
    let out = ending.out;
    let mut evidence = format!("the output of the {} before {addition}", out.op);
    draft.site(site(projected), out.output, evidence.clone());
    if !ending.between.is_empty() {
        evidence = format!("what {addition} adds, after {}", ending.between);
    }
    draft.site(site(added), ending.added, evidence);
    let whole = Projection { linear: out, columns: None, bias: None };
    draft.linear(&whole, WeightRef::Block(layer, weight), WeightRef::Block(layer, bias), input);
    match ending.post {
        Some(norm) => draft.scale(norm, WeightRef::Block(layer, post)),
        None => {
            draft.absent(WeightRef::Block(layer, post), format!("no norm stands between the projection and {addition}"))
        }
    }
}
