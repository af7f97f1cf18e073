//! Linear maps: a `Gemm`, or a `MatMul` with an `Add`, of an activation and a matrix of the file, with the layout
//! nodes that exporters put around it.

use std::collections::HashMap;

use crate::anatomy::columns::Columns;
use crate::anatomy::look::view::{Stored, View};
use crate::anatomy::parts::{Storage, WeightEdge};
use crate::graph::Node;

/// y = xW + b as the graph computes it.
pub(in crate::anatomy) struct Linear<'g> {
    /// `Gemm` or `MatMul`.
    pub op: &'g str,
    pub weight: Stored<'g>,
    pub bias: Option<Stored<'g>>,
    pub width_in: usize,
    pub width_out: usize,
    /// What the node itself multiplies; often two axes.
    pub operand: &'g str,
    /// x `[batch, pos, in]`; where no edge has that shape, the operand.
    pub input: &'g str,
    /// y `[batch, pos, out]`, after the bias; where no edge has that shape, the last edge that holds the values.
    pub output: &'g str,
    /// True if no edge holds x in three axes.
    pub flat: bool,
    /// True where operand and output have batch and positions in one axis.
    pub merged: [bool; 2],
    /// What keeps its weights from being edited as they are.
    pub obstacle: Option<String>,
}

/// Every linear map of a graph.
pub(in crate::anatomy) struct Linears<'g> {
    pub all: Vec<Linear<'g>>,
    by_output: HashMap<&'g str, usize>,
}

/// Some of the outputs of a linear map.
pub(in crate::anatomy) struct Projection<'l, 'g> {
    pub linear: &'l Linear<'g>,
    /// Which, where not all.
    pub columns: Option<Columns>,
    /// What is added to them alone, where the map itself has no bias.
    pub bias: Option<Stored<'g>>,
}

impl Projection<'_, '_> {
    /// The vector that is added to its outputs.
    pub fn bias(&self, evidence: String) -> Option<WeightEdge> {
        match &self.bias {
            Some(stored) => Some(place(stored, Storage::Vector, [1, self.width()], evidence)),
            None => self.linear.bias(self.columns, evidence),
        }
    }

    pub fn width(&self) -> usize {
        self.columns.map_or(self.linear.width_out, |c| c.count())
    }
}

impl<'g> Linears<'g> {
    pub fn find(view: &View<'g>) -> Self {
        let all: Vec<_> = view.graph.nodes().iter().filter_map(|node| read(view, node)).collect();
        let by_output = all.iter().enumerate().map(|(i, linear)| (linear.output, i)).collect();
        Self { all, by_output }
    }

    /// The linear map whose output is exactly `edge`.
    pub fn making(&self, edge: &str) -> Option<&Linear<'g>> {
        self.by_output.get(edge).map(|&i| &self.all[i])
    }
}

fn read<'g>(view: &View<'g>, node: &'g Node) -> Option<Linear<'g>> {
    let gemm = node.is("Gemm");
    if !gemm && !node.is("MatMul") || node.int("transA").unwrap_or(0) != 0 {
        return None;
    }
    let operand = node.input(0)?;
    let mut weight = view.stored(node, 1, 2)?;
    weight.transposed ^= node.int("transB").unwrap_or(0) != 0;
    let dims = weight.initializer.dims();
    let (width_in, width_out) = if weight.transposed { (dims[1], dims[0]) } else { (dims[0], dims[1]) };
    let mut bias = if gemm { view.stored(node, 2, 1).filter(|b| b.initializer.len() == width_out) } else { None };
    let other_bias = gemm && bias.is_none() && node.input(2).is_some();

    let mut output = node.output(0);
    if bias.is_none() && !other_bias {
        // Copies and casts may stand between the product and its bias.
        let added = sum(view, output, width_out);
        (bias, output) = added.map_or((None, output), |(stored, edge)| (Some(stored), edge));
    }
    // What batch and positions are set apart in; heads may be set apart at once, then the two stay in one axis.
    let mut at = output;
    while view.rank(at) != Some(3) {
        let [(reader, 0)] = view.readers(at)[..] else { break };
        if view.relayed(reader).is_none() {
            break;
        }
        at = reader.output(0);
    }
    if view.rank(at) == Some(3) || view.rank(output) != Some(2) {
        output = at;
    }
    let deep = view.root_of_rank(operand, 3).filter(|x| view.width(x).is_none_or(|w| w == width_in));
    let (alpha, beta) = (node.float("alpha").unwrap_or(1.0), node.float("beta").unwrap_or(1.0));
    let obstacle = if gemm && (alpha != 1.0 || beta != 1.0 && node.input(2).is_some()) {
        Some(format!("its Gemm scales by alpha {alpha} and beta {beta}, which is not read"))
    } else if other_bias {
        Some("its Gemm adds something that is not one bias per output".to_owned())
    } else if !weight.separable {
        Some("a transposed or cast copy of the tensor is read by several nodes".to_owned())
    } else if view.rank(output).is_some_and(|rank| rank != 3 && rank != 2) {
        Some("no edge holds its outputs as [batch, pos, out]".to_owned())
    } else {
        None
    };
    Some(Linear {
        op: node.op(),
        weight,
        bias,
        width_in,
        width_out,
        operand,
        input: deep.unwrap_or(operand),
        output,
        flat: deep.is_none(),
        merged: [deep.is_none() && view.rank(operand) == Some(2), view.rank(output) == Some(2)],
        obstacle,
    })
}

/// The vector of the file that is added to a product, and the sum.
fn sum<'g>(view: &View<'g>, product: &'g str, width: usize) -> Option<(Stored<'g>, &'g str)> {
    let mut at = product;
    loop {
        let [(reader, slot)] = view.readers(at)[..] else { return None };
        if reader.is("Add") {
            // A vector lies along the last axis.
            let along = view.width(at).is_none_or(|last| last == width);
            let stored = view.stored(reader, 1 - slot, 1).filter(|b| along && b.initializer.len() == width)?;
            return Some((stored, reader.output(0)));
        }
        view.relayed(reader).filter(|_| slot == 0)?;
        at = reader.output(0);
    }
}

impl<'g> Linear<'g> {
    /// The weight, or some of its outputs.
    pub fn weight(&self, columns: Option<Columns>, input: &str, evidence: String) -> WeightEdge {
        let storage = if self.weight.transposed { Storage::OutIn } else { Storage::InOut };
        let shape = [self.width_in, columns.map_or(self.width_out, |c| c.count())];
        let mut edge = place(&self.weight, storage, shape, evidence);
        edge.columns = columns;
        edge.input = Some(input.to_owned());
        edge.output = Some(self.output.to_owned());
        edge.merged = [self.merged[0] && input == self.operand, self.merged[1]];
        edge
    }

    /// The bias, or some of it.
    fn bias(&self, columns: Option<Columns>, evidence: String) -> Option<WeightEdge> {
        let shape = [1, columns.map_or(self.width_out, |c| c.count())];
        let mut edge = place(self.bias.as_ref()?, Storage::Vector, shape, evidence);
        edge.columns = columns;
        Some(edge)
    }
}

/// A tensor of the file as a weight that packs nothing and is nobody's input or output.
pub(in crate::anatomy) fn place(
    stored: &Stored<'_>,
    storage: Storage,
    shape: [usize; 2],
    evidence: String,
) -> WeightEdge {
    WeightEdge {
        initializer: stored.initializer.name().to_owned(),
        storage,
        dtype: stored.initializer.dtype(),
        shape,
        columns: None,
        reader: (stored.reader.0.to_owned(), stored.reader.1),
        uses: stored.uses,
        input: None,
        output: None,
        merged: [false; 2],
        evidence,
    }
}
