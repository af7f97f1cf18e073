//! What becomes of each operator in the copy: which axes of its result hold the window, and what its constants turn to.

use super::axes::Holds;
use super::{Copy, Extent, Made, dims, unfit};
use crate::base::Result;
use crate::graph::{Dim, Node, is_pointwise};

/// Copies a node; returns what stands for each of its outputs.
pub(super) fn copy(copy: &mut Copy<'_, '_, '_>, node: &Node) -> Result<Vec<(String, Made)>> {
    if !node.domain().is_empty() {
        return Err(unfit(format!("{} has no rule for a window", node.label())));
    }
    let mut call = Call { copy, node };
    match node.op() {
        // Of its second input it reads the type alone.
        "CastLike" => match call.made(0) {
            Some(data) => call.with(&[(0, data.edge)], data.extent),
            None => Ok(Vec::new()),
        },
        _ if is_pointwise(node) => call.pointwise(),
        "MatMul" => call.matmul(),
        "Attention" => call.attention(),
        "RotaryEmbedding" => call.rotary(),
        "Gemm" => call.gemm(),
        "LayerNormalization" | "RMSNormalization" => {
            let axis = node.int("axis").unwrap_or(-1);
            call.along(axis, true)
        }
        "Softmax" | "LogSoftmax" => call.along(node.int("axis").unwrap_or(-1), false),
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceSumSquare" | "ReduceL2" => call.reduce(),
        "Transpose" => call.transpose(),
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => call.regroup(),
        "Expand" => call.expand(),
        "Split" | "Slice" | "Concat" => call.pieces(),
        "SplitToSequence" if node.int("keepdims") != Some(0) => call.along(node.int("axis").unwrap_or(0), false),
        "SequenceAt" => {
            let data = call.data()?;
            call.with(&[(0, data.edge)], data.extent)
        }
        "Gather" => call.gather(),
        "GatherND" => call.gather_places(),
        "ScatterND" => call.scatter(),
        _ => Err(call.no(" has no rule for a window")),
    }
}

type Outputs = Vec<(String, Made)>;

struct Call<'c, 'p, 'g, 's, 'n> {
    copy: &'c mut Copy<'p, 'g, 's>,
    node: &'n Node,
}

impl<'s> Call<'_, '_, '_, 's, '_> {
    fn no(&self, why: &str) -> crate::base::Error {
        unfit(format!("{}{why}", self.node.label()))
    }

    /// What stands for an input, if it depends on what was added.
    fn made(&self, slot: usize) -> Option<Made> {
        self.node.input(slot).and_then(|e| self.copy.edges.get(e)).cloned()
    }

    fn data(&self) -> Result<Made> {
        self.made(0).ok_or_else(|| self.no(" reads the window in another input than its first"))
    }

    fn dims(&self, edge: &str) -> Result<&'s [Dim]> {
        dims(self.copy.operands.shapes, edge)
    }

    fn input_dims(&self, slot: usize) -> Result<&'s [Dim]> {
        self.dims(self.node.input(slot).unwrap_or_default())
    }

    fn positioned(&self, dim: &Dim) -> bool {
        self.copy.operands.sequence.positioned(dim)
    }

    /// True for an axis behind those with rows and positions.
    fn behind(&self, dims: &[Dim], axis: usize) -> bool {
        self.copy.operands.sequence.axes(dims).last().is_some_and(|&last| axis > last)
    }

    /// True for an input that is there, does not depend on what was added and holds no positions.
    fn plain(&self, slot: usize) -> bool {
        let Some(edge) = self.node.input(slot) else { return true };
        let dims = self.copy.operands.shapes.dims(edge);
        self.made(slot).is_none() && dims.is_some_and(|d| !d.iter().any(|d| self.positioned(d)))
    }

    /// The copy with those inputs in place of the node's own.
    fn with(&mut self, replaced: &[(usize, String)], extent: Extent) -> Result<Outputs> {
        let mut inputs = self.node.inputs().to_vec();
        for (slot, edge) in replaced {
            inputs[*slot].clone_from(edge);
        }
        let made = self.copy.operands.patch.copy(self.node, &inputs)?;
        let pairs = self.node.outputs().iter().cloned().zip(made).filter(|(e, _)| !e.is_empty());
        Ok(pairs.map(|(edge, made)| (edge, Made { edge: made, extent: extent.clone() })).collect())
    }

    /// Operands that broadcast against each other.
    fn pointwise(&mut self) -> Result<Outputs> {
        let wanted = self.dims(self.node.output(0))?;
        let slots = 0..self.node.inputs().len();
        let mut made: Vec<(usize, Made)> = slots.clone().filter_map(|i| self.made(i).map(|m| (i, m))).collect();
        if made.iter().any(|(_, m)| m.extent == Extent::Places) {
            for (_, operand) in &mut made {
                *operand = self.copy.operands.narrow(operand)?;
            }
        }
        let extent = self.joined(wanted.len(), &made)?;
        let mut replaced: Vec<(usize, String)> = made.into_iter().map(|(slot, m)| (slot, m.edge)).collect();
        for slot in slots.filter(|&i| self.node.input(i).is_some()) {
            if !replaced.iter().any(|(s, _)| *s == slot) {
                let edge = self.node.input(slot).unwrap_or_default();
                replaced.push((slot, self.copy.operands.fit(edge, wanted.len(), wanted.first(), &extent)?));
            }
        }
        self.with(&replaced, extent)
    }

    /// The extent of a result of `rank` axes that several operands broadcast to.
    fn joined(&self, rank: usize, made: &[(usize, Made)]) -> Result<Extent> {
        let mut flags: Vec<Option<bool>> = vec![None; rank];
        for (slot, operand) in made {
            let dims = self.input_dims(*slot)?;
            match &operand.extent {
                Extent::Places if dims.len() == rank => return Ok(Extent::Places),
                Extent::Places => return Err(self.no(" gives the places other axes")),
                Extent::Window(own) => {
                    let shift = rank - own.len();
                    for (axis, &windowed) in own.iter().enumerate().filter(|(a, _)| self.positioned(&dims[*a])) {
                        if *flags[axis + shift].get_or_insert(windowed) != windowed {
                            return Err(self.no(" combines the window with whole rows"));
                        }
                    }
                }
            }
        }
        Ok(Extent::Window(flags.into_iter().map(|f| f.unwrap_or(false)).collect()))
    }

    fn matmul(&mut self) -> Result<Outputs> {
        let (a, b) = (self.input_dims(0)?, self.input_dims(1)?);
        match (self.made(0), self.made(1)) {
            (Some(left), None) if self.plain(1) && b.len() == 2 => {
                let extent = match &left.extent {
                    Extent::Window(flags) if flags.last() == Some(&false) => left.extent.clone(),
                    Extent::Places if self.behind(a, a.len() - 1) => Extent::Places,
                    _ => return Err(self.no(" sums over positions")),
                };
                self.with(&[(0, left.edge)], extent)
            }
            (left, right) if a.len() == b.len() => {
                // A constant on the left is cut to the window; one on the right is what attention reads as a whole.
                let n = a.len();
                let mut cut = vec![false; n];
                cut[n - 2] = self.positioned(&a[n - 2]);
                let left = left.map_or_else(|| self.constant(0, cut), Ok)?;
                let right = right.map_or_else(|| self.constant(1, vec![false; n]), Ok)?;
                let (Extent::Window(l), Extent::Window(r)) = (&left.extent, &right.extent) else {
                    return Err(self.no(" multiplies places with places"));
                };
                if n < 3 || l[..n - 2].contains(&true) || r[..n - 2].contains(&true) {
                    return Err(self.no(" multiplies with positions in its outer axes"));
                }
                if l[n - 1] || r[n - 2] {
                    return Err(self.no(" sums over the positions of the window"));
                }
                let mut flags = l.clone();
                flags[n - 1] = r[n - 1];
                self.with(&[(0, left.edge), (1, right.edge)], Extent::Window(flags))
            }
            _ => Err(self.no(" multiplies a constant with the window")),
        }
    }

    /// A constant operand, cut to the window along the axes that say so.
    fn constant(&mut self, slot: usize, flags: Vec<bool>) -> Result<Made> {
        let first = self.dims(self.node.output(0))?.first();
        let (edge, extent, rank) =
            (self.node.input(slot).unwrap_or_default(), Extent::Window(flags), self.input_dims(slot)?.len());
        let edge = self.copy.operands.fit(edge, rank, first, &extent)?;
        Ok(Made { edge, extent })
    }

    /// Queries of the window, keys and values of whole rows, and a mask that says what each query sees.
    fn attention(&mut self) -> Result<Outputs> {
        let causal = self.node.int("is_causal").unwrap_or(0) != 0;
        let cached = (4..6).any(|slot| self.node.input(slot).is_some());
        let one = self.node.outputs().iter().skip(1).all(String::is_empty);
        if causal || cached || !one {
            return Err(self.no(" masks, caches or tells its scores itself"));
        }
        let rank = self.input_dims(0)?.len();
        // `[batch, head, pos, d_head]` or `[batch, pos, head · d_head]`.
        let mut cut = vec![false; rank];
        cut[rank - 2] = true;
        let query = self.made(0).map_or_else(|| self.constant(0, cut.clone()), Ok)?;
        let mut replaced = vec![(0, query.edge)];
        for slot in [1, 2] {
            let whole = self.made(slot).map_or_else(|| self.constant(slot, vec![false; rank]), Ok)?;
            if !matches!(&whole.extent, Extent::Window(flags) if !flags.contains(&true)) {
                return Err(self.no(" reads keys or values of the window alone"));
            }
            replaced.push((slot, whole.edge));
        }
        if query.extent != Extent::Window(cut.clone()) {
            return Err(self.no(" has queries in an unread way"));
        }
        if let Some(mask) = self.node.input(3) {
            let rows = Extent::Window(vec![false, false, true, false]);
            if self.made(3).is_some() {
                return Err(self.no(" reads a mask of the window"));
            }
            let first = self.input_dims(0)?.first();
            replaced.push((3, self.copy.operands.fit(mask, 4, first, &rows)?));
        }
        self.with(&replaced, Extent::Window(cut))
    }

    /// Heads turned by angles: those of their places, or picked from a table by their positions.
    fn rotary(&mut self) -> Result<Outputs> {
        let data = self.data()?;
        let dims = self.input_dims(0)?;
        // `[batch, head, pos, d_head]` or `[batch, pos, head · d_head]`.
        let axis = dims.len() - 2;
        let Extent::Window(flags) = &data.extent else { return Err(self.no(" turns places")) };
        if (1..4).any(|slot| self.made(slot).is_some()) {
            return Err(self.no(" turns by angles of the window"));
        }
        if !flags.contains(&true) {
            return self.with(&[(0, data.edge)], data.extent);
        }
        if (0..flags.len()).any(|a| flags[a] != (a == axis)) {
            return Err(self.no(" turns the window in an unread way"));
        }
        let mut replaced = vec![(0, data.edge)];
        let picked = self.node.input(3).is_some();
        let cut = |rank: usize| Extent::Window((0..rank).map(|a| a == 1).collect());
        let slots = if picked { 3..4 } else { 1..3 };
        for slot in slots {
            let rank = self.input_dims(slot)?.len();
            let edge = self.node.input(slot).unwrap_or_default();
            replaced.push((slot, self.copy.operands.fit(edge, rank, dims.first(), &cut(rank))?));
        }
        self.with(&replaced, data.extent)
    }

    fn gemm(&mut self) -> Result<Outputs> {
        let data = self.data()?;
        let straight = self.node.int("transA").unwrap_or(0) == 0 && self.plain(1) && self.plain(2);
        let flat = match &data.extent {
            Extent::Window(flags) => !flags[1],
            Extent::Places => true,
        };
        if !straight || !flat {
            return Err(self.no(" multiplies in an unread way"));
        }
        self.with(&[(0, data.edge)], data.extent)
    }

    /// An operator that mixes what lies along an axis (`from` it on), which must not be the window's.
    fn along(&mut self, axis: i64, from: bool) -> Result<Outputs> {
        let data = self.data()?;
        let rank = self.input_dims(0)?.len();
        let axis = if axis < 0 { axis + rank as i64 } else { axis } as usize;
        let mixed = if from { axis..rank } else { axis..axis + 1 };
        let fits = match &data.extent {
            Extent::Window(flags) => mixed.end <= rank && !flags[mixed].contains(&true),
            Extent::Places => self.behind(self.input_dims(0)?, axis),
        };
        if !fits || !(1..self.node.inputs().len()).all(|slot| self.plain(slot)) {
            return Err(self.no(" mixes the positions of the window"));
        }
        self.with(&[(0, data.edge)], data.extent)
    }

    fn reduce(&mut self) -> Result<Outputs> {
        let data = self.data()?;
        let (before, after) = (self.input_dims(0)?, self.dims(self.node.output(0))?);
        let same = before.len() == after.len() && self.node.int("keepdims").unwrap_or(1) == 1;
        if !same {
            return Err(self.no(" drops axes"));
        }
        // Where an extent with positions stays, the axis was not reduced.
        let stays = |axis: usize| before[axis] == after[axis];
        let fits = match &data.extent {
            Extent::Window(flags) => (0..before.len()).all(|a| !flags[a] || stays(a)),
            Extent::Places => (0..before.len()).all(|a| self.behind(before, a) || stays(a)),
        };
        if !fits {
            return Err(self.no(" mixes the positions of the window"));
        }
        self.with(&[(0, data.edge)], data.extent)
    }

    fn transpose(&mut self) -> Result<Outputs> {
        let data = self.data()?;
        let rank = self.input_dims(0)?.len();
        let perm: Vec<usize> = match self.node.ints("perm") {
            Some(perm) => perm.iter().map(|&p| p as usize).collect(),
            None => (0..rank).rev().collect(),
        };
        let extent = match &data.extent {
            Extent::Window(flags) => Extent::Window(perm.iter().map(|&p| flags[p]).collect()),
            Extent::Places if perm.starts_with(&[0, 1]) => Extent::Places,
            Extent::Places => return Err(self.no(" turns the places around")),
        };
        self.with(&[(0, data.edge)], extent)
    }

    /// An operator that keeps the order of its elements: axes with positions stay in their order.
    fn regroup(&mut self) -> Result<Outputs> {
        let data = self.data()?;
        let (before, after) = (self.input_dims(0)?, self.dims(self.node.output(0))?);
        let sequence = &self.copy.operands.sequence;
        let (from, to) = (sequence.axes(before), sequence.axes(after));
        let extent = match &data.extent {
            Extent::Window(flags) if from.len() == to.len() => {
                let mut out = vec![false; after.len()];
                for (&f, &t) in from.iter().zip(&to) {
                    out[t] = flags[f];
                }
                Extent::Window(out)
            }
            // `[n, 1, ...]` or flat `[n, ...]`: the target says which.
            Extent::Places if from.len() == 1 && to.len() == 1 => Extent::Places,
            _ => return Err(self.no(" regroups positions in an unread way")),
        };
        let whole = matches!(&extent, Extent::Window(flags) if !flags.contains(&true));
        let mut replaced = vec![(0, data.edge)];
        if !whole {
            if self.node.is("Flatten") {
                return Err(self.no(" has no rule for a window"));
            }
            if self.node.is("Reshape") {
                replaced.push((1, self.copy.operands.target(after, &extent)?));
            } else if extent == Extent::Places {
                return Err(self.no(" changes the axes of the places"));
            }
        }
        self.with(&replaced, extent)
    }

    fn expand(&mut self) -> Result<Outputs> {
        let data = self.data()?;
        let (before, after) = (self.input_dims(0)?, self.dims(self.node.output(0))?);
        let Extent::Window(own) = &data.extent else { return Err(self.no(" expands places")) };
        let shift = after.len() - own.len();
        let mut flags = vec![false; after.len()];
        for (axis, &windowed) in own.iter().enumerate() {
            let grows = self.positioned(&after[axis + shift]) && !self.positioned(&before[axis]);
            if grows && own.contains(&true) {
                return Err(self.no(" expands to positions"));
            }
            flags[axis + shift] = windowed;
        }
        let mut replaced = vec![(0, data.edge)];
        if flags.contains(&true) {
            replaced.push((1, self.copy.operands.target(after, &Extent::Window(flags.clone()))?));
        }
        self.with(&replaced, Extent::Window(flags))
    }

    /// Cutting and joining along axes without the window.
    fn pieces(&mut self) -> Result<Outputs> {
        let out = self.dims(self.node.output(0))?;
        let joins = self.node.is("Concat");
        let slots = if joins { 0..self.node.inputs().len() } else { 0..1 };
        let made: Vec<(usize, Made)> = slots.clone().filter_map(|i| self.made(i).map(|m| (i, m))).collect();
        let Some((first, _)) = made.first() else { return Err(self.no(" cuts by the window")) };
        let extent = self.joined(out.len(), &made)?;
        let before = self.input_dims(*first)?;
        let untouched = |axis: usize| before[axis] == out[axis];
        let fits = match &extent {
            Extent::Window(flags) => (0..out.len()).all(|a| !flags[a] || untouched(a)),
            Extent::Places => (0..out.len()).all(|a| self.behind(before, a) || untouched(a)),
        };
        if !fits {
            return Err(self.no(" cuts or joins along the positions of the window"));
        }
        let mut replaced: Vec<(usize, String)> = made.into_iter().map(|(slot, m)| (slot, m.edge)).collect();
        for slot in slots {
            if !replaced.iter().any(|(s, _)| *s == slot) {
                let edge = self.node.input(slot).unwrap_or_default();
                replaced.push((slot, self.copy.operands.fit(edge, out.len(), out.first(), &extent)?));
            }
        }
        self.with(&replaced, extent)
    }

    fn gather(&mut self) -> Result<Outputs> {
        let data = self.data()?;
        let rank = self.input_dims(0)?.len();
        let axis = self.node.int("axis").unwrap_or(0);
        let axis = if axis < 0 { axis + rank as i64 } else { axis } as usize;
        let picked = self.input_dims(1)?.len();
        let extent = match &data.extent {
            Extent::Window(flags) if !flags[axis] => {
                let mut out = flags.clone();
                out.splice(axis..=axis, vec![false; picked]);
                Extent::Window(out)
            }
            Extent::Places if self.behind(self.input_dims(0)?, axis) => Extent::Places,
            _ => return Err(self.no(" picks positions of the window")),
        };
        if !self.plain(1) {
            return Err(self.no(" picks by positions"));
        }
        self.with(&[(0, data.edge)], extent)
    }

    /// `[batch, pos, ...]` at places `[n, 2]`.
    fn gather_places(&mut self) -> Result<Outputs> {
        let data = self.data()?;
        let places = self.node.input(1).unwrap_or_default().to_owned();
        let depth = match self.input_dims(1)?.last() {
            Some(Dim::Known(depth)) if self.plain(1) => *depth,
            _ => return Err(self.no(" gathers by positions")),
        };
        if self.node.int("batch_dims").unwrap_or(0) != 0 {
            return Err(self.no(" gathers in an unread way"));
        }
        let rank = self.dims(self.node.output(0))?.len();
        match &data.extent {
            Extent::Places if places == self.copy.operands.spec.places => {
                let patch = &mut *self.copy.operands.patch;
                let one = patch.i64(&[1], &[1]);
                let edge = patch.op("Squeeze", &[&data.edge, &one], &[])?;
                let extent = Extent::Window(vec![false; rank]);
                Ok(vec![(self.node.output(0).to_owned(), Made { edge, extent })])
            }
            Extent::Window(flags) if self.picks_places(1) && !flags[0] && flags[1] && !flags[2..].contains(&true) => {
                let places = self.copy.operands.translate(&places)?;
                self.with(&[(0, data.edge), (1, places)], Extent::Window(vec![false; rank]))
            }
            Extent::Window(flags) if !flags.contains(&true) => {
                self.with(&[(0, data.edge)], Extent::Window(vec![false; rank]))
            }
            // What is picked along the first axes, wherever it stands in the window.
            Extent::Window(flags) if flags[..depth].iter().all(|w| !w) => {
                let mut out = vec![false; rank - (flags.len() - depth)];
                out.extend(&flags[depth..]);
                self.with(&[(0, data.edge)], Extent::Window(out))
            }
            _ => Err(self.no(" gathers other places than the loss reads")),
        }
    }

    /// `[batch, pos, ...]` with values at places `[n, 2]`.
    fn scatter(&mut self) -> Result<Outputs> {
        let data = self.data()?;
        let places = self.node.input(1).unwrap_or_default().to_owned();
        match &data.extent {
            Extent::Window(flags) if !flags[0] && flags[1] && self.picks_places(1) && self.plain(2) => {
                let places = self.copy.operands.translate(&places)?;
                self.with(&[(0, data.edge), (1, places)], data.extent)
            }
            _ => Err(self.no(" scatters in an unread way")),
        }
    }

    /// True if an input is a list of places that does not depend on the window.
    fn picks_places(&self, slot: usize) -> bool {
        let two = |d: &[Dim]| d.len() == 2 && self.copy.operands.sequence.holds(&d[1]) == Holds::Number(2);
        self.plain(slot) && self.input_dims(slot).is_ok_and(two)
    }
}
