//! Nodes of one version of the standard operators as those of another, where both say exactly the same.
//!
//! The table holds what changed from version 14 on in operators that [`Shapes`](super::super::Shapes) follows, but for
//! element types that were added: floats of 32 bits, integers of 64 and truth values were there before.

use std::sync::Arc;

use crate::base::{Error, Result};
use crate::graph::codes;
use crate::graph::container::Graph;
use crate::graph::index::Index;
use crate::graph::initializer::Initializer;
use crate::graph::node::{Attr, Node};

/// The newest version of the standard operators that the table tells of.
pub(super) const NEWEST: i64 = 25;

/// The oldest one.
const OLDEST: i64 = 13;

/// What a version changed in an operator.
enum Step {
    /// The operator came, or means something else than before.
    Other,
    /// The attribute came.
    Attribute(&'static str),
    /// These values of the attribute came.
    Word(&'static str, &'static [&'static str]),
    /// The input of that number came.
    Input(usize),
    /// Axes are an input, no longer an attribute.
    Axes,
    /// Equal parts are counted in an attribute.
    Parts,
}

/// The changes of an operator, with the version each came with.
fn steps(op: &str) -> &'static [(i64, Step)] {
    match op {
        "HardSwish" | "Trilu" => &[(14, Step::Other)],
        "Reshape" => &[(14, Step::Attribute("allowzero"))],
        "CastLike" => &[(15, Step::Other), (19, Step::Attribute("saturate")), (24, Step::Attribute("round_mode"))],
        "Shape" => &[(15, Step::Attribute("start")), (15, Step::Attribute("end"))],
        "ScatterND" | "ScatterElements" => {
            &[(16, Step::Attribute("reduction")), (18, Step::Word("reduction", &["max", "min"]))]
        }
        "LayerNormalization" => &[(17, Step::Other)],
        "Mish" | "BitwiseAnd" | "BitwiseNot" | "BitwiseOr" | "BitwiseXor" => &[(18, Step::Other)],
        "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin"
        | "ReduceProd" | "ReduceSumSquare" => &[(18, Step::Axes)],
        "Split" => &[(18, Step::Parts)],
        "Pad" => &[(18, Step::Input(3)), (19, Step::Word("mode", &["wrap"]))],
        "Cast" => &[(19, Step::Attribute("saturate")), (24, Step::Attribute("round_mode"))],
        "Gelu" => &[(20, Step::Other)],
        "RMSNormalization" | "RotaryEmbedding" => &[(23, Step::Other)],
        "Attention" => &[(23, Step::Other), (24, Step::Other)],
        "Swish" | "TensorScatter" => &[(24, Step::Other)],
        _ => &[],
    }
}

impl Graph {
    /// The same graph for another version of the standard operators.
    ///
    /// # Errors
    /// `graph-opset` if that is not exact, or a version is not known.
    pub fn for_opset(mut self, to: i64) -> Result<Self> {
        let from = self.opset();
        if from == to {
            return Ok(self);
        }
        let refused = |what: String| {
            let text = format!("it is written for version {from} of the standard operators, not {to}: {what}");
            Error::new(&codes::GRAPH_OPSET, text).help(format!("write the graph for version {to}"))
        };
        let known = OLDEST..=NEWEST;
        if let Some(other) = [from, to].into_iter().find(|version| !known.contains(version)) {
            let text = format!("what changed between them is known from {OLDEST} to {NEWEST}, not for {other}");
            return Err(refused(text));
        }
        let mut made = Vec::new();
        let nodes = {
            let index = self.index();
            let one = |node: &Node| {
                rewritten(&self, &index, node, to, &mut made).map_err(|why| refused(format!("{} {why}", node.label())))
            };
            self.nodes.iter().map(one).collect::<Result<Vec<_>>>()?
        };
        self.nodes = nodes;
        for initializer in made {
            self.set_initializer(initializer);
        }
        for set in &mut Arc::make_mut(&mut self.shell).opset_import {
            if set.domain.is_empty() || set.domain == "ai.onnx" {
                set.version = to;
            }
        }
        Ok(self)
    }
}

/// A node in another version, or why there is none.
fn rewritten(
    graph: &Graph,
    index: &Index<'_>,
    node: &Node,
    to: i64,
    made: &mut Vec<Initializer>,
) -> std::result::Result<Node, String> {
    let from = graph.opset();
    let crossed = |version: &i64| (from.min(to) < *version) && (*version <= from.max(to));
    let mut out = node.clone();
    for (version, step) in steps(node.op()).iter().filter(|(version, _)| crossed(version)) {
        let down = to < *version;
        match step {
            Step::Other => return Err(format!("is another operator, or none, before version {version}")),
            Step::Attribute(name) if down && node.attributes().contains(name) => {
                return Err(format!("has the attribute `{name}`, which version {version} changed"));
            }
            Step::Input(slot) if down && node.input(*slot).is_some() => {
                return Err(format!("reads an input {slot}, which came with version {version}"));
            }
            Step::Word(name, words) if down && node.string(name).is_some_and(|word| words.contains(&word)) => {
                return Err(format!("has a `{name}` that came with version {version}"));
            }
            Step::Attribute(_) | Step::Word(..) | Step::Input(_) => {}
            Step::Parts if down && node.int("num_outputs").is_some() => {
                return Err(format!("has the attribute `num_outputs`, which came with version {version}"));
            }
            Step::Parts if !down && node.input(1).is_none() => {
                out = out.with("num_outputs", Attr::Int(node.outputs().len() as i64));
            }
            Step::Parts => {}
            Step::Axes if down && node.int("noop_with_empty_axes").unwrap_or(0) != 0 => {
                return Err(format!("has the attribute `noop_with_empty_axes`, which came with version {version}"));
            }
            Step::Axes if down => {
                if let Some(edge) = node.input(1) {
                    let axes = graph.constant(index, edge, 64);
                    let axes = axes.as_ref().and_then(|c| c.ints());
                    let axes = axes.ok_or_else(|| format!("computes its axes, which only version {version} allows"))?;
                    out = out.with("axes", Attr::Ints(axes.to_vec()));
                }
                out = out.reading(1).without("noop_with_empty_axes");
            }
            Step::Axes => {
                if let Some(axes) = node.ints("axes") {
                    let name = format!("{}.axes", node.output(0));
                    made.push(Initializer::i64(&name, &[axes.len()], axes));
                    out = out.without("axes").and_reading(&name);
                }
            }
        }
    }
    Ok(out)
}
