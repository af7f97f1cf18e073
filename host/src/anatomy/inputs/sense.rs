//! What a mask says: whether the scores of a key are far below others where the mask is 0, or where it is 1. Followed
//! from the input to every softmax for one row of one token, which sees itself: every edge on the way holds one number
//! there, or one of a range, once for each of the two values of the mask. Nothing is run.

use std::collections::{HashMap, HashSet};

use crate::anatomy::look::view::View;
use crate::graph::{DType, Node};

/// What a mask does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sense {
    /// 0 hides a key.
    Keeps,
    /// 1 hides a key, at the node so called.
    Hides(String),
    /// Neither does, at the node so called.
    Nothing(String),
    /// It could not be followed.
    Unclear,
}

/// So far below others, scores have no weight.
const FAR: f64 = 500.0;

/// The operators that are followed.
#[rustfmt::skip]
const FOLLOWED: [&str; 44] = [
    "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Transpose", "Slice", "Split", "Gather",
    "GatherND", "GatherElements", "Dropout", "CastLike", "Cast", "Not", "Neg", "Log", "Exp", "Trilu", "Concat",
    "ScatterND", "ScatterElements", "ReduceMin", "ReduceMax", "ReduceMean", "Where", "Add", "Sub", "Mul", "Div", "Min",
    "Max", "And", "Or", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Clip",
    "Range", "CumSum",
];

/// The least and the greatest number that an edge holds for a key.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    low: f64,
    high: f64,
}

/// An edge where the mask is 0 and where it is 1.
#[derive(Clone, Copy, Debug)]
struct Cases {
    at: [Range; 2],
    /// False if something before is not followed.
    followed: bool,
}

impl Range {
    const TRUTH: Self = Self { low: 0.0, high: 1.0 };

    fn of(value: f64) -> Self {
        Self { low: value, high: value }
    }

    fn over(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        values.into_iter().map(Self::of).reduce(Self::hull)
    }

    fn hull(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// The range of a function of two numbers that is monotone in each.
    fn with(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        let ends = [(self.low, other.low), (self.low, other.high), (self.high, other.low), (self.high, other.high)];
        // Nothing times without end: what a mask of 1 leaves.
        let all = ends.map(|(a, b)| Some(f(a, b)).filter(|v| !v.is_nan()).unwrap_or(0.0));
        Self::over(all).unwrap_or(self)
    }

    /// The range of a monotone function.
    fn by(self, f: impl Fn(f64) -> f64) -> Self {
        self.with(self, |a, _| f(a))
    }

    /// Whether all numbers are nonzero (true), all are zero (false), or neither.
    fn truth(self) -> Option<bool> {
        match self {
            Self { low: 0.0, high: 0.0 } => Some(false),
            Self { low, high } if low > 0.0 || high < 0.0 => Some(true),
            _ => None,
        }
    }

    fn from_truth(truth: Option<bool>) -> Self {
        truth.map_or(Self::TRUTH, |t| Self::of(f64::from(u8::from(t))))
    }

    /// Whether all numbers are below all others (true), none is (false), or neither.
    fn below(self, other: Self) -> Option<bool> {
        if self.high < other.low { Some(true) } else { (self.low >= other.high).then_some(false) }
    }
}

/// Follows a mask, an input of the graph, to every softmax that it reaches.
pub(super) fn sense<'g>(view: &View<'g>, mask: &'g str) -> Sense {
    let mut walk = Walk { view, mask, reached: HashSet::new(), known: HashMap::new() };
    let mut found = Vec::new();
    for (node, slot) in walk.reach() {
        let Some(scores) = node.input(slot) else { continue };
        let Cases { at: [zero, one], followed } = walk.cases(scores);
        // Truth values say what is kept, numbers are added.
        let far = if view.dtype(scores) == Some(DType::BOOL) { 1.0 } else { FAR };
        let label = node.label();
        found.push(if zero.high <= one.high - far {
            Sense::Keeps
        } else if one.high <= zero.high - far {
            Sense::Hides(label)
        } else if followed && zero != one {
            Sense::Nothing(label)
        } else {
            Sense::Unclear
        });
    }
    let first = |is: fn(&Sense) -> bool| found.iter().find(|s| is(s)).cloned();
    first(|s| matches!(s, Sense::Hides(_)))
        .or_else(|| first(|s| *s == Sense::Keeps))
        .or_else(|| first(|s| matches!(s, Sense::Nothing(_))))
        .unwrap_or(Sense::Unclear)
}

struct Walk<'v, 'g> {
    view: &'v View<'g>,
    mask: &'g str,
    /// The edges that are computed from the mask.
    reached: HashSet<&'g str>,
    known: HashMap<&'g str, Cases>,
}

impl<'g> Walk<'_, 'g> {
    /// Notes what is computed from the mask, up to every softmax; returns those with the slot of their scores.
    fn reach(&mut self) -> Vec<(&'g Node, usize)> {
        let mut ends: Vec<(&Node, usize)> = Vec::new();
        let mut stack = vec![self.mask];
        self.reached.insert(self.mask);
        while let Some(edge) = stack.pop() {
            for (node, slot) in self.view.readers(edge) {
                if node.is("Softmax") || node.is("Attention") && slot == 3 {
                    ends.push((node, slot));
                } else {
                    let made = node.outputs().iter().map(String::as_str).filter(|o| !o.is_empty());
                    stack.extend(made.filter(|o| self.reached.insert(o)));
                }
            }
        }
        ends.sort_by_key(|(node, _)| self.view.index.producer_id(node.output(0)));
        ends
    }

    /// What an edge holds of which nothing more is known.
    fn unknown(&self, edge: &str) -> Range {
        let input = || self.view.producer(edge).is_none() && self.view.graph.initializer(edge).is_none();
        match self.view.dtype(edge) {
            // Token ids and positions.
            Some(DType::I64 | DType::I32) if input() => Range::of(0.0),
            Some(DType::BOOL) => Range::TRUTH,
            // Scores, and extents and positions.
            Some(dtype) if dtype.is_float() => Range { low: -100.0, high: 100.0 },
            _ => Range { low: -1e9, high: 1e9 },
        }
    }

    fn cases(&mut self, edge: &'g str) -> Cases {
        if edge == self.mask {
            return Cases { at: [Range::of(0.0), Range::of(1.0)], followed: true };
        }
        if let Some(known) = self.known.get(edge) {
            return *known;
        }
        let found = self.computed(edge).unwrap_or_else(|| {
            let fixed = self.fixed(edge);
            let followed = fixed.is_some() || !self.reached.contains(edge) && self.is_bounded(edge);
            Cases { at: [fixed.unwrap_or_else(|| self.unknown(edge)); 2], followed }
        });
        self.known.insert(edge, found);
        found
    }

    /// True for what [`Walk::unknown`] is sure to hold: scores, truth values, positions.
    fn is_bounded(&self, edge: &str) -> bool {
        let product = |n: &Node| n.is("MatMul") || n.is("Einsum");
        self.view.dtype(edge).is_some_and(|d| !d.is_float()) || self.view.producer(edge).is_some_and(product)
    }

    /// Of a table in queries and keys the element of the first of both.
    fn fixed(&self, edge: &str) -> Option<Range> {
        self.view.graph.first(&self.view.index, edge).map(Range::of)
    }

    /// None for a node that is not followed.
    fn computed(&mut self, edge: &'g str) -> Option<Cases> {
        let node = self.view.producer(edge).filter(|n| n.domain().is_empty() && FOLLOWED.contains(&n.op()))?;
        // Rows that the mask itself chooses.
        if node.op().starts_with("Gather") && node.input(1).is_some_and(|e| self.reached.contains(e)) {
            return None;
        }
        let mut followed = true;
        let mut read = |slot: usize| {
            let cases = self.cases(node.input(slot)?);
            followed &= cases.followed;
            Some(cases.at)
        };
        let one = |x: [Range; 2], f: &dyn Fn(Range) -> Range| Some(x.map(f));
        let two = |x: [Range; 2], y: [Range; 2], f: &dyn Fn(Range, Range) -> Range| Some([0, 1].map(|i| f(x[i], y[i])));
        let truth = |x: [Range; 2], y: [Range; 2], f: &dyn Fn(Range, Range) -> Option<bool>| {
            two(x, y, &|a, b| Range::from_truth(f(a, b)))
        };
        let (zero, a) = (Range::of(0.0), read(0)?);
        let at = match node.op() {
            "Identity" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Expand" | "Tile" | "Transpose"
            | "Slice" | "Split" | "Gather" | "GatherND" | "GatherElements" | "Dropout" | "CastLike" => Some(a),
            "Cast" if node.int("to") == Some(i64::from(DType::BOOL.0)) => one(a, &|x| Range::from_truth(x.truth())),
            "Cast" => Some(a),
            "Not" => one(a, &|x| Range::from_truth(x.truth().map(|t| !t))),
            "Neg" => one(a, &|x| x.by(|v| -v)),
            "Log" => one(a, &|x| x.by(|v| v.max(0.0).ln())),
            "Exp" => one(a, &|x| x.by(f64::exp)),
            "CumSum" => Some(a),
            // The first place; where it depends on what is cached, nothing is.
            "Range" => one(a, &|x| if x.low == x.high { x } else { zero }),
            // On and beside the diagonal; what is cut away is 0.
            "Trilu" => {
                let beside = node.input(1).map_or(Some(0), |e| self.view.ints(e)?.first().copied())?;
                let kept = if node.int("upper") == Some(0) { beside >= 0 } else { beside <= 0 };
                one(a, &|x| if kept { x } else { zero })
            }
            "Concat" => (1..node.inputs().len()).try_fold(a, |all, slot| two(all, read(slot)?, &Range::hull)),
            "Clip" => {
                let mut bound = |slot: usize, none: f64| match node.input(slot) {
                    Some(_) => read(slot),
                    None => Some([Range::of(none); 2]),
                };
                let (low, high) = (bound(1, f64::NEG_INFINITY)?, bound(2, f64::INFINITY)?);
                Some([0, 1].map(|i| a[i].with(low[i], f64::max).with(high[i], f64::min)))
            }
            "ScatterND" | "ScatterElements" => read(2),
            // Other keys may be kept or hidden.
            "ReduceMin" | "ReduceMax" | "ReduceMean" => Some([a[0].hull(a[1]); 2]),
            "Where" => {
                let (yes, no) = (read(1)?, read(2)?);
                Some([0, 1].map(|i| match a[i].truth() {
                    Some(true) => yes[i],
                    Some(false) => no[i],
                    None => yes[i].hull(no[i]),
                }))
            }
            "Add" => two(a, read(1)?, &|x, y| x.with(y, |a, b| a + b)),
            "Sub" => two(a, read(1)?, &|x, y| x.with(y, |a, b| a - b)),
            "Mul" => two(a, read(1)?, &|x, y| x.with(y, |a, b| a * b)),
            "Div" => match read(1)? {
                by if by.iter().all(|r| r.truth() == Some(true)) => two(a, by, &|x, y| x.with(y, |a, b| a / b)),
                _ => None,
            },
            "Min" | "Max" => (1..node.inputs().len()).try_fold(a, |all, slot| {
                let less = node.is("Min");
                two(all, read(slot)?, &|x, y| x.with(y, |a, b| if less { a.min(b) } else { a.max(b) }))
            }),
            "And" => truth(a, read(1)?, &|x, y| match (x.truth(), y.truth()) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            }),
            "Or" => truth(a, read(1)?, &|x, y| match (x.truth(), y.truth()) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            }),
            "Equal" => truth(a, read(1)?, &|x, y| match x.low == x.high && x == y {
                true => Some(true),
                false => (x.below(y) == Some(true) || y.below(x) == Some(true)).then_some(false),
            }),
            "Less" => truth(a, read(1)?, &|x, y| x.below(y)),
            "Greater" => truth(a, read(1)?, &|x, y| y.below(x)),
            "LessOrEqual" => truth(a, read(1)?, &|x, y| y.below(x).map(|t| !t)),
            "GreaterOrEqual" => truth(a, read(1)?, &|x, y| x.below(y).map(|t| !t)),
            _ => None,
        }?;
        Some(Cases { at, followed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anatomy::Anatomy;
    use crate::graph::testing::rows;
    use crate::graph::{Graph, Patch, Shapes};

    fn of(graph: &Graph, mask: &str) -> Sense {
        let shapes = Shapes::infer(graph).unwrap();
        let view = View::new(graph, &shapes);
        sense(&view, view.edge(mask).unwrap())
    }

    #[test]
    fn every_mask_of_the_zoo_keeps_what_it_is_1_for_and_hides_it_when_turned_around() {
        let mut wrong = Vec::new();
        for row in rows() {
            let graph = Graph::load(&row.folder).unwrap();
            let found = Anatomy::of(&graph, &Shapes::infer(&graph).unwrap()).unwrap();
            let Some(mask) = found.inputs.mask else { continue };
            let mut patch = Patch::new(&graph);
            let one = patch.i64(&[], &[1]);
            let turned = patch.op("Sub", &[&one, &mask], &[]).unwrap();
            patch.shunt(&mask, &turned).unwrap();
            let senses = [of(&graph, &mask), of(&patch.apply().unwrap(), &mask)];
            if !matches!(senses, [Sense::Keeps, Sense::Hides(_)]) {
                wrong.push(format!("{}: {senses:?}", row.name));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
