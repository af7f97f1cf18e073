//! Which outputs of a linear map an edge holds, and in which axes: followed from the map's output through the nodes
//! that reshape, turn, slice and split it, so that every packing of queries, keys, values and gates is one case.

use super::view::View;
use crate::graph::{Dim, Node};

/// What runs along an axis, or along a part of one.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::anatomy) enum Atom {
    Batch(Dim),
    Pos(Dim),
    /// Outputs of the linear map: how many, and how far apart.
    Outputs(usize, usize),
}

impl Atom {
    fn extent(&self) -> Dim {
        match self {
            Self::Batch(d) | Self::Pos(d) => d.clone(),
            Self::Outputs(n, _) => Dim::Known(*n),
        }
    }

    fn is_outputs(&self) -> bool {
        matches!(self, Self::Outputs(..))
    }
}

/// The axes of an edge; an axis without atoms has an extent of 1.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::anatomy) struct Layout {
    axes: Vec<Vec<Atom>>,
    offset: usize,
}

impl Layout {
    /// The layout of a linear map's own output, `[batch, pos, out]` or both first axes in one.
    pub fn whole(view: &View<'_>, output: &str, width: usize) -> Option<Self> {
        let dims = view.dims(output)?;
        let outputs = vec![Atom::Outputs(width, 1)];
        let axes = match &dims[..] {
            [b, p, _] => vec![vec![Atom::Batch(b.clone())], vec![Atom::Pos(p.clone())], outputs],
            [_, _] => {
                let (b, p) = (Dim::symbol("batch of rows"), Dim::symbol("positions of rows"));
                vec![vec![Atom::Batch(b), Atom::Pos(p)], outputs]
            }
            _ => return None,
        };
        Some(Self { axes, offset: 0 })
    }

    /// The layout of output `out` of a node that reads an edge of this layout in its first input; None where the
    /// node changes values or mixes them.
    pub fn through(&self, view: &View<'_>, node: &Node, out: usize) -> Option<Self> {
        if !node.domain().is_empty() {
            return None;
        }
        let rank = self.axes.len();
        let axis = |a: i64| usize::try_from(if a < 0 { a + rank as i64 } else { a }).ok().filter(|&a| a < rank);
        match node.op() {
            "Identity" | "Cast" | "Dropout" => Some(self.clone()),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.regroup(&view.dims(node.output(out))?),
            "Transpose" => {
                let reversed: Vec<i64> = (0..rank as i64).rev().collect();
                let perm = node.ints("perm").unwrap_or(&reversed);
                let axes = perm.iter().map(|&p| Some(self.axes[axis(p)?].clone())).collect::<Option<Vec<_>>>()?;
                Some(Self { axes, offset: self.offset })
            }
            "Split" => {
                let axis = axis(node.int("axis").unwrap_or(0))?;
                let sizes = view.pieces(node, self.extent(axis)?)?;
                self.cut(axis, sizes.iter().take(out).sum(), *sizes.get(out)?, 1)
            }
            "SequenceAt" => {
                let list = view.producer(node.input(0)?).filter(|n| n.is("SplitToSequence"))?;
                let axis = axis(list.int("axis").unwrap_or(0))?;
                let sizes = view.pieces(list, self.extent(axis)?)?;
                let place = *view.ints(node.input(1)?)?.first()?;
                let place = usize::try_from(if place < 0 { place + sizes.len() as i64 } else { place }).ok()?;
                self.cut(axis, sizes.iter().take(place).sum(), *sizes.get(place)?, 1)
            }
            "Slice" => self.slice(view, node),
            "Gather" | "GatherND" => {
                let index = node.input(1)?;
                let (axis, mut kept) = match node.is("Gather") {
                    true => (axis(node.int("axis").unwrap_or(0))?, view.rank(index)?),
                    // The last axis of the index holds the places on the leading axes of the data.
                    false => (0, view.rank(index)?.checked_sub(1)?),
                };
                if node.int("batch_dims").unwrap_or(0) != 0 {
                    return None;
                }
                let list = view.ints(index)?;
                let [place] = list[..] else { return None };
                let extent = i64::try_from(self.extent(axis)?).ok()?;
                let place = usize::try_from(if place < 0 { place + extent } else { place }).ok()?;
                let mut found = self.cut(axis, place, 1, 1)?;
                found.axes.remove(axis);
                while kept > 0 {
                    found.axes.insert(axis, Vec::new());
                    kept -= 1;
                }
                Some(found)
            }
            _ => None,
        }
    }

    fn extent(&self, axis: usize) -> Option<usize> {
        self.axes[axis].iter().try_fold(1, |all, atom| Some(all * atom.extent().known()?))
    }

    /// Every `step`th of `count * step` places of an axis, from `first` on.
    fn cut(&self, axis: usize, first: usize, count: usize, step: usize) -> Option<Self> {
        let mut found = self.clone();
        let [Atom::Outputs(extent, stride)] = found.axes[axis][..] else { return None };
        if count == 0 || step == 0 || first + (count - 1) * step >= extent {
            return None;
        }
        found.offset += first * stride;
        found.axes[axis] = vec![Atom::Outputs(count, stride * step)];
        Some(found)
    }

    fn slice(&self, view: &View<'_>, node: &Node) -> Option<Self> {
        let list = |slot: usize, name: &str| match node.ints(name) {
            Some(given) => Some(given.to_vec()),
            None => view.ints(node.input(slot)?),
        };
        let (starts, ends) = (list(1, "starts")?, list(2, "ends")?);
        let axes = match list(3, "axes") {
            Some(axes) => axes,
            None if node.input(3).is_some() => return None,
            None => (0..starts.len() as i64).collect(),
        };
        let steps = match node.input(4) {
            Some(steps) => view.ints(steps)?,
            None => vec![1; starts.len()],
        };
        let mut found = self.clone();
        for (((&start, &end), &axis), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
            let rank = self.axes.len() as i64;
            let axis =
                usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|&a| a < self.axes.len())?;
            let all = step == 1 && start == 0 && end >= i64::from(i32::MAX);
            if all {
                continue;
            }
            let extent = found.extent(axis)? as i64;
            let place = |p: i64| if p < 0 { (p + extent).max(0) } else { p.min(extent) };
            let (start, end, step) = (place(start), place(end), usize::try_from(step).ok().filter(|&s| s > 0)?);
            if (start, end, step) == (0, extent, 1) {
                continue;
            }
            let length = usize::try_from(end - start).ok()?;
            found = found.cut(axis, usize::try_from(start).ok()?, length.div_ceil(step), step)?;
        }
        Some(found)
    }

    /// The same elements in the same order in other axes.
    fn regroup(&self, dims: &[Dim]) -> Option<Self> {
        let mut atoms: std::collections::VecDeque<Atom> = self.axes.iter().flatten().cloned().collect();
        let mut axes = Vec::new();
        for (i, dim) in dims.iter().enumerate() {
            let mut axis = Vec::new();
            match dim {
                Dim::Known(wanted) => {
                    let mut missing = *wanted;
                    while missing > 1 || atoms.front().is_some_and(|a| a.extent() == Dim::Known(1)) {
                        let atom = atoms.pop_front()?;
                        let extent = atom.extent().known()?;
                        if extent > 0 && missing.is_multiple_of(extent) {
                            missing /= extent;
                            axis.push(atom);
                        } else if let (Atom::Outputs(n, stride), true) = (&atom, extent.is_multiple_of(missing)) {
                            let inner = n / missing;
                            axis.push(Atom::Outputs(missing, stride * inner));
                            atoms.push_front(Atom::Outputs(inner, *stride));
                            missing = 1;
                        } else {
                            return None;
                        }
                    }
                }
                Dim::Symbol(_) => {
                    let later = dims[i + 1..].iter().filter(|d| d.known().is_none()).count();
                    let atom = atoms.pop_front().filter(|a| !a.is_outputs())?;
                    let same = atom.extent() == *dim;
                    axis.push(atom);
                    let open = atoms.iter().filter(|a| !a.is_outputs()).count();
                    if !same && open > later {
                        axis.push(atoms.pop_front().filter(|a| !a.is_outputs())?);
                    }
                }
            }
            axes.push(axis);
        }
        atoms.is_empty().then_some(Self { axes, offset: self.offset })
    }

    /// The outputs that the edge holds, in the order of its elements.
    pub fn outputs(&self) -> Vec<usize> {
        let mut list = vec![self.offset];
        for atom in self.axes.iter().flatten() {
            if let Atom::Outputs(n, stride) = *atom {
                list = list.iter().flat_map(|at| (0..n).map(move |i| at + i * stride)).collect();
            }
        }
        list
    }

    /// True if the axes are what `kinds` says: `b` batch, `p` positions, `o` outputs.
    fn axes_are(&self, kinds: &str) -> bool {
        let fits = |(axis, kind): (&Vec<Atom>, char)| match kind {
            'b' => matches!(axis[..], [Atom::Batch(_)]),
            'p' => matches!(axis[..], [Atom::Pos(_)]),
            _ => axis.iter().all(Atom::is_outputs),
        };
        self.axes.len() == kinds.len() && self.axes.iter().zip(kinds.chars()).all(fits)
    }

    /// True for `[batch, pos, out]`.
    pub fn is_flat(&self) -> bool {
        self.axes_are("bpo")
    }

    /// (heads, their width) of `[batch, pos, head, d_head]`.
    pub fn heads(&self) -> Option<(usize, usize)> {
        self.axes_are("bpoo").then(|| Some((self.extent(2)?, self.extent(3)?)))?
    }

    /// (heads, their width) of `[batch, head, pos, d_head]`.
    pub fn heads_first(&self) -> Option<(usize, usize)> {
        self.axes_are("bopo").then(|| Some((self.extent(1)?, self.extent(3)?)))?
    }

    /// (heads, their width) of `[batch, pos, head, 1, d_head]`.
    pub fn heads_apart(&self) -> Option<(usize, usize)> {
        let apart = self.axes_are("bpooo") && self.extent(3) == Some(1);
        apart.then(|| Some((self.extent(2)?, self.extent(4)?)))?
    }
}
