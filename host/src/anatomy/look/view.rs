//! A graph as the detectors look at it: who makes an edge, what it holds, and which edges hold the same values.

use crate::graph::{DType, Dim, Graph, Index, Initializer, Node, Shapes};

/// One graph with its look-ups. Edges are borrowed from the graph.
pub(in crate::anatomy) struct View<'g> {
    pub graph: &'g Graph,
    pub index: Index<'g>,
    shapes: &'g Shapes,
}

/// A tensor of the file that a node reads, followed through `Identity`, `Transpose` and `Cast`.
#[derive(Clone, Copy)]
pub(in crate::anatomy) struct Stored<'g> {
    pub initializer: &'g Initializer,
    /// True if the reading node sees the transpose of what the file holds.
    pub transposed: bool,
    /// The input that reads the values as the file holds them: the first output of the node, and the slot.
    pub reader: (&'g str, usize),
    /// How many node inputs read the tensor.
    pub uses: usize,
    /// False if a transposed or cast copy is itself read by several nodes, so that no single use can be rerouted.
    pub separable: bool,
}

impl<'g> View<'g> {
    pub fn new(graph: &'g Graph, shapes: &'g Shapes) -> Self {
        Self { graph, index: graph.index(), shapes }
    }

    /// The extents, where the rank is known.
    pub fn dims(&self, edge: &str) -> Option<Vec<Dim>> {
        match self.graph.initializer(edge) {
            Some(initializer) => Some(initializer.dims().into_iter().map(Dim::Known).collect()),
            None => self.shapes.dims(edge).map(<[_]>::to_vec),
        }
    }

    pub fn rank(&self, edge: &str) -> Option<usize> {
        self.dims(edge).map(|d| d.len())
    }

    /// The last extent, if it is a number.
    pub fn width(&self, edge: &str) -> Option<usize> {
        self.dims(edge)?.last()?.known()
    }

    pub fn dtype(&self, edge: &str) -> Option<DType> {
        let stated = self.shapes.dtype(edge).filter(|&d| d != DType(0));
        stated.or_else(|| self.graph.initializer(edge).map(Initializer::dtype))
    }

    pub fn producer(&self, edge: &str) -> Option<&'g Node> {
        self.index.producer(edge)
    }

    /// The operator that makes an edge, in words.
    pub fn maker(&self, edge: &str) -> &'g str {
        self.producer(edge).map_or("nothing inside the graph", Node::op)
    }

    /// An edge by name, borrowed from the graph.
    pub fn edge(&self, name: &str) -> Option<&'g str> {
        if let Some(node) = self.producer(name) {
            return node.outputs().iter().map(String::as_str).find(|&o| o == name);
        }
        self.index.consumers(name).next().and_then(|(node, slot)| node.input(slot))
    }

    /// The nodes that read an edge's values; `Shape` and `Size` read its extents only.
    pub fn readers(&self, edge: &str) -> Vec<(&'g Node, usize)> {
        self.index.consumers(edge).filter(|(n, _)| !reads_extents(n)).collect()
    }

    /// The input whose values a node hands on unchanged, in the same order.
    pub fn relayed(&self, node: &'g Node) -> Option<&'g str> {
        let input = node.input(0)?;
        let hands_on = match node.op() {
            _ if !node.domain().is_empty() => false,
            "Identity" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => true,
            "Dropout" => self.keeps(node),
            "CastLike" => node
                .input(1)
                .and_then(|e| self.dtype(e))
                .zip(self.dtype(input))
                .is_some_and(|(to, from)| kind(to) == kind(from)),
            "Cast" => {
                let to = DType(i32::try_from(node.int("to").unwrap_or(0)).unwrap_or(0));
                self.dtype(input).is_none_or(|from| kind(from) == kind(to))
            }
            "Slice" => self.whole(node),
            // Where nothing is cached, what is joined with it is all there is.
            "Concat" if node.inputs().len() == 1 => true,
            "Concat" => return self.past(node).map(|(_, fresh, _)| fresh),
            _ => false,
        };
        hands_on.then_some(input)
    }

    /// True for a `Dropout` that is not in training mode, or drops nothing.
    pub fn keeps(&self, node: &Node) -> bool {
        let nothing = || node.input(1).and_then(|e| self.number(e)) == Some(0.0);
        match node.input(2) {
            Some(mode) => self.ints(mode).is_some_and(|on| on == [0]) || nothing(),
            // Before operator set 7 it is told by an attribute.
            None => self.graph.opset() >= 7 || node.int("is_test") == Some(1),
        }
    }

    /// For a `Concat` of cached keys or values, an input of the graph, with new ones: both, and the axis, 1 or 2 of 4.
    pub fn past(&self, node: &'g Node) -> Option<(&'g str, &'g str, usize)> {
        let [past, fresh] = node.inputs() else { return None };
        let axis = node.int("axis").filter(|_| node.is("Concat"))?;
        let axis = usize::try_from(if axis < 0 { axis + 4 } else { axis }).ok().filter(|a| (1..=2).contains(a))?;
        let past = self.root(past);
        let given = self.producer(past).is_none() && self.graph.initializer(past).is_none();
        let four = self.rank(past) == Some(4) && self.dtype(past).is_some_and(DType::is_float);
        (given && four).then_some((past, fresh, axis))
    }

    /// True for a `Slice` that leaves nothing out.
    fn whole(&self, node: &Node) -> bool {
        let forward = match node.input(4) {
            Some(steps) => self.ints(steps).is_some_and(|s| s.iter().all(|&step| step == 1)),
            None => true,
        };
        let same = match (node.input(0).and_then(|e| self.dims(e)), self.dims(node.output(0))) {
            (Some(before), Some(after)) => before == after,
            _ => false,
        };
        forward && same
    }

    /// The edge and those upstream that hold the same values, the nearest first.
    pub fn chain(&self, edge: &'g str) -> Vec<&'g str> {
        let mut chain = vec![edge];
        let mut at = edge;
        while let Some(before) = self.producer(at).and_then(|n| self.relayed(n)) {
            chain.push(before);
            at = before;
        }
        chain
    }

    /// The edge that all of its copies derive from.
    pub fn root(&self, edge: &'g str) -> &'g str {
        self.chain(edge).last().copied().unwrap_or(edge)
    }

    /// Of the edges that hold the values of `edge` in `rank` axes and the same element type, the one that all others
    /// derive from.
    pub fn root_of_rank(&self, edge: &'g str, rank: usize) -> Option<&'g str> {
        let dtype = self.dtype(edge);
        let fits = |e: &&&str| self.rank(e) == Some(rank) && (dtype.is_none() || self.dtype(e) == dtype);
        self.chain(edge).iter().rev().find(fits).copied()
    }

    /// True if an edge holds one number.
    pub fn is_scalar(&self, edge: &str) -> bool {
        self.dims(edge).is_some_and(|dims| dims.iter().all(|d| d.known() == Some(1)))
            || self.graph.constant(&self.index, edge, 1).is_some()
    }

    /// True if an edge's values do not depend on any input of the graph; extents may.
    pub fn is_fixed(&self, edge: &'g str) -> bool {
        let mut fixed = true;
        self.upstream(edge, |e| {
            fixed &= self.producer(e).is_some() || self.graph.initializer(e).is_some();
            !fixed
        });
        fixed
    }

    /// True for a tensor of the file, perhaps turned, cast or made of integers first.
    pub fn is_filed(&self, edge: &'g str) -> bool {
        const HANDED: [&str; 4] = ["Identity", "Cast", "Transpose", "DequantizeLinear"];
        let mut at = edge;
        loop {
            let Some(node) = self.producer(at) else { return self.graph.initializer(at).is_some() };
            match node.input(0).filter(|_| HANDED.iter().any(|op| node.is(op))) {
                Some(before) => at = before,
                None => return node.is("Constant"),
            }
        }
    }

    /// True for a product, or a choice of rows, of a tensor that the file holds in whole numbers.
    pub fn is_quantised(&self, node: &'g Node) -> bool {
        const WHOLE: [&str; 2] = ["MatMulInteger", "QLinearMatMul"];
        const READS: [&str; 4] = ["MatMul", "Gemm", "Gather", "Einsum"];
        let stored = |edge: &'g str| self.is_filed(edge) && self.is_scaled(edge);
        WHOLE.iter().any(|op| node.is(op))
            || READS.iter().any(|op| node.is(op)) && (0..2).filter_map(|slot| node.input(slot)).any(stored)
    }

    /// True if one of the nodes that hand an edge on makes numbers of integers.
    fn is_scaled(&self, edge: &'g str) -> bool {
        let Some(node) = self.producer(edge) else { return false };
        node.is("DequantizeLinear") || node.input(0).is_some_and(|before| self.is_scaled(before))
    }

    /// Fixed integers, stated or computed from extents.
    pub fn ints(&self, edge: &str) -> Option<Vec<i64>> {
        let root = self.root(self.edge(edge)?);
        let stated = self.graph.constant(&self.index, root, 4096).and_then(|c| c.ints().map(<[_]>::to_vec));
        stated.or_else(|| self.shapes.ints(edge))
    }

    /// A fixed number, through the nodes that hand it on.
    pub fn number(&self, edge: &str) -> Option<f32> {
        let root = self.root(self.edge(edge)?);
        self.graph.constant(&self.index, root, 1)?.scalar()
    }

    /// The tensor of the file that `slot` of `node` reads, if it has `rank` axes.
    pub fn stored(&self, node: &'g Node, slot: usize, rank: usize) -> Option<Stored<'g>> {
        let mut edge = node.input(slot)?;
        let mut found = (node.output(0), slot);
        let (mut transposed, mut separable) = (false, true);
        let initializer = loop {
            if let Some(initializer) = self.graph.initializer(edge) {
                break initializer;
            }
            let maker = self.producer(edge)?;
            let before = maker.input(0)?;
            if maker.is("Transpose") && rank == 2 {
                transposed ^= maker.ints("perm").is_none_or(|p| p == [1, 0]);
            } else if !maker.is("Cast") && !maker.is("Identity") {
                return None;
            }
            if !maker.is("Identity") {
                found = (maker.output(0), 0);
                separable &= self.readers(edge).len() == 1;
            }
            edge = before;
        };
        let dims = initializer.dims();
        // A vector may be stored with axes of one before its own.
        let shaped =
            dims.len() == rank || rank == 1 && dims.split_last().is_some_and(|(_, d)| d.iter().all(|&d| d == 1));
        let fits = shaped && initializer.dtype().is_float();
        let uses = self.uses(initializer.name());
        fits.then_some(Stored { initializer, transposed, reader: found, uses, separable })
    }

    /// The vector of the file that `slot` of `node` reads, and a number that the graph adds to it first.
    pub fn parameter(&self, node: &'g Node, slot: usize) -> Option<(Stored<'g>, f32)> {
        if let Some(stored) = self.stored(node, slot, 1) {
            return Some((stored, 0.0));
        }
        let sum = self.producer(self.root(node.input(slot)?)).filter(|n| n.is("Add"))?;
        let with = |a: usize, b: usize| Some((self.stored(sum, a, 1)?, self.number(sum.input(b)?)?));
        with(0, 1).or_else(|| with(1, 0))
    }

    /// The other operand of a node of two, and what `read` makes of one of them, in either order.
    pub fn either<T>(&self, node: &'g Node, read: impl Fn(&'g str) -> Option<T>) -> Option<(&'g str, T)> {
        let (a, b) = (node.input(0)?, node.input(1)?);
        read(b).map(|value| (a, value)).or_else(|| read(a).map(|value| (b, value)))
    }

    /// The extents of the pieces that a `Split` or `SplitToSequence` makes of an axis.
    pub fn pieces(&self, node: &Node, total: usize) -> Option<Vec<usize>> {
        if let Some(given) = node.ints("split") {
            return counts(given, total);
        }
        let Some(given) = node.input(1) else {
            return (node.is("Split")).then(|| even(total, total.div_ceil(node.outputs().len())));
        };
        let sizes = self.ints(given)?;
        match sizes[..] {
            [one] if node.is("SplitToSequence") && self.rank(given) != Some(1) => {
                Some(even(total, usize::try_from(one).ok().filter(|&n| n > 0)?))
            }
            _ => counts(&sizes, total),
        }
    }

    fn uses(&self, edge: &str) -> usize {
        let through = |node: &Node| match node.is("Identity") {
            true => self.uses(node.output(0)),
            false => 1,
        };
        self.index.consumers(edge).map(|(node, _)| through(node)).sum()
    }

    /// Walks upstream along values from `from`, not beyond edges for which `stop` says so, and visits every edge.
    /// Edges that are read for their extents only are no values.
    pub fn upstream(&self, from: &'g str, mut stop: impl FnMut(&'g str) -> bool) {
        let mut seen = std::collections::HashSet::new();
        let mut stack = vec![from];
        while let Some(edge) = stack.pop() {
            if !seen.insert(edge) || stop(edge) {
                continue;
            }
            if let Some(node) = self.producer(edge).filter(|n| !reads_extents(n)) {
                stack.extend(node.inputs().iter().rev().map(String::as_str).filter(|e| !e.is_empty()));
            }
        }
    }

    /// True if `edge` is computed from the values of `origin`.
    pub fn derives(&self, edge: &'g str, origin: &str) -> bool {
        let first = self.index.producer_id(origin);
        if first.is_none() && self.graph.initializer(origin).is_some() {
            return false;
        }
        let mut found = false;
        self.upstream(edge, |e| {
            found |= e == origin;
            // Nodes are in order: nothing made before the origin can derive from it.
            found || self.index.producer_id(e).is_none_or(|id| first.is_some_and(|first| id <= first))
        });
        found
    }
}

/// An operator in words, with its domain where that is not the standard one.
pub(in crate::anatomy) fn operator(node: &Node) -> String {
    match node.domain() {
        "" => node.op().to_owned(),
        domain => format!("{} of the domain {domain}", node.op()),
    }
}

fn counts(values: &[i64], total: usize) -> Option<Vec<usize>> {
    let sizes: Vec<usize> = values.iter().map(|&v| usize::try_from(v).ok()).collect::<Option<_>>()?;
    (sizes.iter().sum::<usize>() == total).then_some(sizes)
}

/// Pieces of one width, the last one perhaps narrower.
fn even(total: usize, width: usize) -> Vec<usize> {
    let width = width.max(1);
    (0..total).step_by(width).map(|first| width.min(total - first)).collect()
}

fn reads_extents(node: &Node) -> bool {
    node.is("Shape") || node.is("Size")
}

/// Element types between which a cast keeps values up to rounding.
fn kind(dtype: DType) -> u8 {
    match dtype {
        d if d.is_float() => 0,
        DType::I64 | DType::I32 => 1,
        _ => 2,
    }
}
