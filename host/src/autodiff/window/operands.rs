//! The operands of the copy: constants of the whole pass cut to the window or the places, and shapes written anew.

use std::collections::HashMap;

use super::axes::{Holds, Sequence};
use super::{Extent, Made, Window, dims, translated, unfit};
use crate::base::Result;
use crate::graph::{Attr, DType, Dim, Patch, Shapes};

/// Makes operands, each once.
pub(super) struct Operands<'p, 'g, 's> {
    pub(super) patch: &'p mut Patch<'g>,
    pub(super) shapes: &'s Shapes,
    pub(super) spec: &'s Window<'s>,
    pub(super) sequence: Sequence,
    made: HashMap<String, String>,
}

impl<'p, 'g, 's> Operands<'p, 'g, 's> {
    pub(super) fn new(patch: &'p mut Patch<'g>, shapes: &'s Shapes, spec: &'s Window<'s>, sequence: Sequence) -> Self {
        Self { patch, shapes, spec, sequence, made: HashMap::new() }
    }

    /// The operand of that description, made by `make` on first use.
    fn once(&mut self, key: String, make: impl FnOnce(&mut Self) -> Result<String>) -> Result<String> {
        if let Some(found) = self.made.get(&key) {
            return Ok(found.clone());
        }
        let edge = make(self)?;
        self.made.insert(key, edge.clone());
        Ok(edge)
    }

    fn gather(&mut self, data: &str, indices: &str, axis: i64) -> Result<String> {
        self.patch.op("Gather", &[data, indices], &[("axis", Attr::Int(axis))])
    }

    fn transpose(&mut self, edge: &str, perm: &[usize]) -> Result<String> {
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return Ok(edge.to_owned());
        }
        let perm = perm.iter().map(|&p| p as i64).collect();
        self.patch.op("Transpose", &[edge], &[("perm", Attr::Ints(perm))])
    }

    fn unsqueeze(&mut self, edge: &str, axes: &[i64]) -> Result<String> {
        let axes = self.patch.i64(&[axes.len()], axes);
        self.patch.op("Unsqueeze", &[edge, &axes], &[])
    }

    /// The positions of the window, `[batch, width]`.
    fn positions(&mut self) -> Result<String> {
        self.once("positions".into(), |o| {
            let one = o.patch.i64(&[], &[1]);
            o.gather(o.spec.at, &one, 2)
        })
    }

    /// The row of each place, `[n]`.
    fn rows(&mut self) -> Result<String> {
        self.once("rows".into(), |o| {
            let zero = o.patch.i64(&[], &[0]);
            o.gather(o.spec.places, &zero, 1)
        })
    }

    /// Places of whole rows as places of the window.
    pub(super) fn translate(&mut self, places: &str) -> Result<String> {
        self.once(format!("translated {places}"), |o| translated(o.patch, places, o.spec.starts))
    }

    /// The window of an edge that does not depend on what is added.
    pub(super) fn begin(&mut self, edge: &str) -> Result<Made> {
        let extents = dims(self.shapes, edge)?;
        let flags: Vec<bool> = extents.iter().map(|d| self.sequence.positioned(d)).collect();
        let edge = self.fit(edge, extents.len(), extents.first(), &Extent::Window(flags.clone()))?;
        Ok(Made { edge, extent: Extent::Window(flags) })
    }

    /// `made`, which stands for `edge`, with values added at places `[n, 2]` of its window: in float32, rounded once
    /// where the edge is narrower.
    pub(super) fn add(&mut self, edge: &str, made: &Made, places: &str, values: &str) -> Result<String> {
        let Extent::Window(flags) = &made.extent else {
            return Err(unfit("something is added behind the last attention".into()));
        };
        if flags.len() < 2 || flags[0] || !flags[1] {
            return Err(unfit(format!("`{}` is not `[batch, pos, ...]`", made.edge)));
        }
        let at = self.translate(places)?;
        let to = |dtype: DType| [("to", Attr::Int(i64::from(dtype.0)))];
        match self.shapes.dtype(edge) {
            Some(dtype) if dtype != DType::F32 => {
                let wide = self.patch.op("Cast", &[&made.edge], &to(DType::F32))?;
                let sum = self.patch.add_at(&wide, &at, values)?;
                self.patch.op("Cast", &[&sum], &to(dtype))
            }
            _ => self.patch.add_at(&made.edge, &at, values),
        }
    }

    /// What the whole pass has at an edge, with the window's values in their places.
    pub(super) fn widen(&mut self, edge: &str, made: &Made) -> Result<Made> {
        let Extent::Window(flags) = &made.extent else { return Ok(made.clone()) };
        let windowed: Vec<usize> = (0..flags.len()).filter(|&axis| flags[axis]).collect();
        let &[axis] = windowed.as_slice() else {
            return Err(unfit(format!("keys or values `{edge}` hold the window in {} axes", windowed.len())));
        };
        if axis == 0 {
            return Err(unfit(format!("keys or values `{edge}` have rows and positions in one axis")));
        }
        // Positions stand before the values of one place, as attention reads them, so that what is transposed for it is
        // transposed once, before the scatter, and the window's part alone at every step.
        let extents = dims(self.shapes, edge)?;
        let of_place = (1..flags.len()).rev().find(|&a| a != axis);
        let between: Vec<usize> = (1..flags.len()).filter(|&a| a != axis && Some(a) != of_place).collect();
        let counts = between.iter().map(|&a| extents.get(a).and_then(Dim::known)).collect::<Option<Vec<_>>>();
        let (perm, at) = match counts {
            Some(counts) => {
                let perm = [&[0], &between[..], &[axis], of_place.as_slice()].concat();
                (perm, self.places_between(&counts)?)
            }
            None => {
                let mut perm: Vec<usize> = (0..flags.len()).filter(|&a| a != axis).collect();
                perm.insert(1, axis);
                (perm, self.spec.at.to_owned())
            }
        };
        let mut back = vec![0; perm.len()];
        for (to, &from) in perm.iter().enumerate() {
            back[from] = to;
        }
        let (whole, part) = (self.transpose(edge, &perm)?, self.transpose(&made.edge, &perm)?);
        let joined = self.patch.op("ScatterND", &[&whole, &at, &part], &[])?;
        let extent = Extent::Window(vec![false; flags.len()]);
        Ok(Made { edge: self.transpose(&joined, &back)?, extent })
    }

    /// Every place of the window for axes of `counts` between rows and positions, `[batch, counts.., width, axes]`.
    fn places_between(&mut self, counts: &[usize]) -> Result<String> {
        if counts.is_empty() {
            return Ok(self.spec.at.to_owned());
        }
        self.once(format!("places between {counts:?}"), |o| {
            let axes = counts.len();
            let (rows, width) = (o.size_of(o.spec.ids, 0)?, o.size_of(o.spec.at, 1)?);
            let mut shape = vec![rows];
            shape.extend(counts.iter().map(|&n| o.patch.i64(&[1], &[n as i64])));
            shape.extend([width, o.patch.i64(&[1], &[1])]);
            let shape: Vec<&str> = shape.iter().map(String::as_str).collect();
            let shape = o.patch.op("Concat", &shape, &[("axis", Attr::Int(0))])?;
            let new_axes: Vec<i64> = (1..=axes as i64).collect();
            let mut parts = Vec::with_capacity(axes + 2);
            for part in 0..axes + 2 {
                let narrow = match part.checked_sub(1).and_then(|i| counts.get(i)) {
                    Some(&count) => {
                        let mut extents = vec![1; axes + 3];
                        extents[part] = count;
                        o.patch.i64(&extents, &(0..count as i64).collect::<Vec<_>>())
                    }
                    None => {
                        let of_place = o.patch.i64(&[1], &[i64::from(part > 0)]);
                        let here = o.gather(o.spec.at, &of_place, 2)?;
                        o.unsqueeze(&here, &new_axes)?
                    }
                };
                parts.push(o.patch.op("Expand", &[&narrow, &shape], &[])?);
            }
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            o.patch.op("Concat", &parts, &[("axis", Attr::Int(-1))])
        })
    }

    /// The places of an edge of the window, `[n, 1, ...]`.
    pub(super) fn narrow(&mut self, made: &Made) -> Result<Made> {
        let Extent::Window(flags) = &made.extent else { return Ok(made.clone()) };
        if flags.len() < 2 || flags[0] || !flags[1] || flags[2..].contains(&true) {
            return Err(unfit(format!("`{}` is not `[batch, pos, ...]`", made.edge)));
        }
        let edge = self.once(format!("narrow {}", made.edge), |o| {
            let at = o.translate(o.spec.places)?;
            let rows = o.patch.op("GatherND", &[&made.edge, &at], &[])?;
            o.unsqueeze(&rows, &[1])
        })?;
        Ok(Made { edge, extent: Extent::Places })
    }

    /// A constant edge as it broadcasts against `rank` axes of `extent`, the first of which is `first` in the base graph.
    pub(super) fn fit(&mut self, edge: &str, rank: usize, first: Option<&Dim>, extent: &Extent) -> Result<String> {
        let extents = dims(self.shapes, edge)?;
        if extents.len() > rank {
            return Err(unfit(format!("`{edge}` has more axes than what it is combined with")));
        }
        let shift = rank - extents.len();
        match extent {
            Extent::Places => self.fit_places(edge, extents, shift),
            Extent::Window(flags) => {
                let mut found = None;
                for (axis, dim) in extents.iter().enumerate().filter(|(a, _)| flags[a + shift]) {
                    match self.sequence.holds(dim) {
                        Holds::Number(1) => {}
                        Holds::Positions if found.is_none() && axis + shift > 0 => found = Some(axis),
                        _ => return Err(unfit(format!("the positions of `{edge}` cannot be cut to a window"))),
                    }
                }
                let Some(axis) = found else { return Ok(edge.to_owned()) };
                // Every row has a window of its own: they are found by row, which heads in the same axis hide.
                let holds = |dim: Option<&Dim>, what: Holds| dim.is_some_and(|d| self.sequence.holds(d) == what);
                let own = if shift == 0 { extents.first() } else { first };
                let fits = holds(own, Holds::Rows) || holds(own, Holds::Number(1));
                if !holds(first, Holds::Rows) || !fits {
                    return Err(unfit(format!("`{edge}` is combined with something whose first axis is not the rows")));
                }
                self.once(format!("window {edge} {axis} {shift}"), |o| o.cut(edge, extents, axis, shift))
            }
        }
    }

    fn fit_places(&mut self, edge: &str, extents: &[Dim], shift: usize) -> Result<String> {
        let positioned = self.sequence.axes(extents);
        let first = if shift == 0 { extents.first().map(|d| self.sequence.holds(d)) } else { None };
        let batched = !matches!(first, None | Some(Holds::Number(1)));
        match (positioned.as_slice(), batched) {
            ([], false) => Ok(edge.to_owned()),
            ([], true) if !matches!(first, Some(Holds::Number(_))) => self.once(format!("rows of {edge}"), |o| {
                let rows = o.rows()?;
                o.gather(edge, &rows, 0)
            }),
            ([1], true) if matches!(self.sequence.holds(&extents[1]), Holds::Positions) => {
                self.once(format!("places of {edge}"), |o| {
                    let there = o.patch.op("GatherND", &[edge, o.spec.places], &[])?;
                    o.unsqueeze(&there, &[1])
                })
            }
            _ => Err(unfit(format!("`{edge}` cannot be cut to the places that the loss reads"))),
        }
    }

    /// The window's positions along `axis` of a constant edge; where it has no rows of its own it gets them.
    fn cut(&mut self, edge: &str, extents: &[Dim], axis: usize, shift: usize) -> Result<String> {
        let rank = extents.len();
        let alone = shift > 0 || self.sequence.holds(&extents[0]) == Holds::Number(1);
        if !alone {
            // `[batch, ..., pos, ...]`: positions to the second place, gathered with their rows, and back.
            let mut perm: Vec<usize> = (0..rank).filter(|&a| a != axis).collect();
            perm.insert(1, axis);
            let turned = self.transpose(edge, &perm)?;
            let taken = self.patch.op("GatherND", &[&turned, self.spec.at], &[])?;
            let mut back: Vec<usize> = (0..rank).filter(|&a| a != 1).collect();
            back.insert(axis, 1);
            return self.transpose(&taken, &back);
        }
        let (mut edge, mut axis, mut rank, mut shift) = (edge.to_owned(), axis, rank, shift);
        if shift == 0 {
            let first = self.patch.i64(&[1], &[0]);
            edge = self.patch.op("Squeeze", &[&edge, &first], &[])?;
            (axis, rank, shift) = (axis - 1, rank - 1, 1);
        }
        // `[..., pos, ...]` becomes `[..., batch, width, ...]`, then the rows go to the front.
        let positions = self.positions()?;
        let taken = self.gather(&edge, &positions, axis as i64)?;
        let mut perm: Vec<usize> = (0..=rank).filter(|&a| a != axis).collect();
        perm.insert(0, axis);
        let front = self.transpose(&taken, &perm)?;
        let missing: Vec<i64> = (1..shift as i64).collect();
        if missing.is_empty() { Ok(front) } else { self.unsqueeze(&front, &missing) }
    }

    /// The target of a `Reshape` or `Expand` whose result has the extents `wanted` in the base graph.
    pub(super) fn target(&mut self, wanted: &[Dim], extent: &Extent) -> Result<String> {
        let key = format!("target {wanted:?} {extent:?}");
        self.once(key, |o| {
            let mut parts = Vec::with_capacity(wanted.len());
            let mut open = 0;
            for (axis, dim) in wanted.iter().enumerate() {
                let windowed = matches!(extent, Extent::Window(flags) if flags[axis]);
                parts.push(match (o.sequence.holds(dim), extent) {
                    (Holds::Number(n), _) => o.patch.i64(&[1], &[n as i64]),
                    (Holds::Rows, Extent::Places) => o.size_of(o.spec.places, 0)?,
                    (Holds::Rows, _) => o.size_of(o.spec.ids, 0)?,
                    (Holds::Positions, Extent::Places) => o.patch.i64(&[1], &[1]),
                    (Holds::Positions, _) if windowed => o.size_of(o.spec.at, 1)?,
                    (Holds::Positions, _) => o.size_of(o.spec.ids, 1)?,
                    _ => {
                        open += 1;
                        o.patch.i64(&[1], &[-1])
                    }
                });
            }
            if open > 1 {
                return Err(unfit(format!("a shape with the extents {wanted:?} cannot be written for a window")));
            }
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            o.patch.op("Concat", &parts, &[("axis", Attr::Int(0))])
        })
    }

    /// The extent of an axis of an edge, `[1]`.
    fn size_of(&mut self, edge: &str, axis: i64) -> Result<String> {
        self.once(format!("size {edge} {axis}"), |o| {
            let shape = o.patch.op("Shape", &[edge], &[])?;
            let axis = o.patch.i64(&[1], &[axis]);
            o.gather(&shape, &axis, 0)
        })
    }
}
