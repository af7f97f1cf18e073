//! The elements of small integer tensors, as extents.

use super::extent::Extent;
use super::{FOLLOWED, Fact};
use crate::graph::node::{DType, Node};

type Elements = Vec<Option<Extent>>;

/// The elements of a node's first output, where they can be followed.
pub(super) fn value(node: &Node, inputs: &[Fact], output: &Fact) -> Option<Elements> {
    if !node.domain().is_empty() {
        return None;
    }
    let of = |i: usize| inputs.get(i).and_then(|f| f.value.clone());
    match node.op() {
        "Shape" => {
            let dims = inputs.first()?.dims.as_ref()?;
            let all: Elements = dims.iter().map(|d| Some(Extent::of(d))).collect();
            let at = |v: i64| if v < 0 { v + all.len() as i64 } else { v }.clamp(0, all.len() as i64) as usize;
            let (from, to) = (at(node.int("start").unwrap_or(0)), at(node.int("end").unwrap_or(i64::MAX)));
            Some(all.get(from..to.max(from))?.to_vec())
        }
        "Size" => {
            let dims = inputs.first()?.dims.as_ref()?;
            Some(vec![Extent::elements(dims)])
        }
        "Cast" | "CastLike" if output.dtype == Some(DType::BOOL) => {
            let truth = |e: Option<Extent>| e?.known().map(|n| Extent::number(i64::from(n != 0)));
            Some(of(0)?.into_iter().map(truth).collect())
        }
        "Identity" | "Cast" | "CastLike" | "Squeeze" | "Unsqueeze" | "Reshape" => of(0),
        "Neg" => Some(of(0)?.iter().map(|e| e.as_ref()?.negated()).collect()),
        "Gather" => {
            let (data, indices) = (of(0)?, of(1)?);
            if inputs[0].rank()? != 1 {
                return None;
            }
            let pick = |i: &Option<Extent>| {
                let i = i.as_ref()?.known()?;
                data.get(usize::try_from(if i < 0 { i + data.len() as i64 } else { i }).ok()?)?.clone()
            };
            Some(indices.iter().map(pick).collect())
        }
        "Slice" => {
            let data = of(0)?;
            let one = |i: usize| of(i)?.first()?.as_ref()?.known();
            if inputs[0].rank()? != 1 || (inputs.len() > 4 && one(4)? != 1) {
                return None;
            }
            let at = |v: i64| if v < 0 { v.saturating_add(data.len() as i64) } else { v }.clamp(0, data.len() as i64);
            let (from, to) = (at(one(1)?) as usize, at(one(2)?) as usize);
            Some(data.get(from..to.max(from))?.to_vec())
        }
        "Concat" => {
            let mut all = Vec::new();
            for fact in inputs {
                let length = fact.dims.as_ref().and_then(|d| d.first()?.known());
                match (&fact.value, length) {
                    (Some(value), _) => all.extend(value.iter().cloned()),
                    (None, Some(length)) if length <= FOLLOWED => all.extend(std::iter::repeat_n(None, length)),
                    _ => return None,
                }
            }
            (all.len() <= FOLLOWED).then_some(all)
        }
        "Mul" => pairwise(of(0)?, of(1)?, Extent::times),
        "Add" => pairwise(of(0)?, of(1)?, Extent::plus),
        "Sub" => pairwise(of(0)?, of(1)?, Extent::minus),
        "Div" => pairwise(of(0)?, of(1)?, |a, b| match (a.known(), b.known()) {
            (Some(a), Some(b)) if !output.dtype.is_some_and(DType::is_float) => a.checked_div(b).map(Extent::number),
            _ => a.over(b),
        }),
        "Max" | "Min" if inputs.len() == 2 => pairwise(of(0)?, of(1)?, |a, b| match (a.known(), b.known()) {
            (Some(a), Some(b)) => Some(Extent::number(if node.op() == "Max" { a.max(b) } else { a.min(b) })),
            _ => (a == b).then(|| a.clone()),
        }),
        "Equal" => pairwise(of(0)?, of(1)?, |a, b| a.equals(b).map(|same| Extent::number(i64::from(same)))),
        "Not" => Some(of(0)?.iter().map(|e| e.as_ref()?.known().map(|n| Extent::number(i64::from(n == 0)))).collect()),
        "Where" => {
            let (condition, yes, no) = (of(0)?, of(1)?, of(2)?);
            let n = condition.len().max(yes.len()).max(no.len());
            let at = |v: &Elements, i: usize| v.get(if v.len() == 1 { 0 } else { i }).cloned().flatten();
            let choose = |i: usize| match at(&condition, i)?.known()? {
                0 => at(&no, i),
                _ => at(&yes, i),
            };
            Some((0..n).map(choose).collect())
        }
        "ConstantOfShape" | "Expand" => {
            let n = output.dims.as_ref()?.iter().try_fold(1usize, |n, d| Some(n * d.known()?))?;
            if n > FOLLOWED {
                return None;
            }
            let fill = if node.op() == "Expand" {
                match of(0)?.as_slice() {
                    [one] => one.clone(),
                    _ => return None,
                }
            } else {
                let tensor = node.tensor("value");
                let number = tensor.map_or(Some(0), |t| match t.data_type {
                    7 => Some(i64::from_le_bytes(t.raw_data.get(..8)?.try_into().ok()?)),
                    _ => None,
                });
                Some(Extent::number(number?))
            };
            Some(vec![fill; n])
        }
        _ => None,
    }
}

fn pairwise(a: Elements, b: Elements, f: impl Fn(&Extent, &Extent) -> Option<Extent>) -> Option<Elements> {
    let n = a.len().max(b.len());
    if (a.len() != n && a.len() != 1) || (b.len() != n && b.len() != 1) {
        return None;
    }
    let at = |v: &Elements, i: usize| v[if v.len() == 1 { 0 } else { i }].clone();
    Some((0..n).map(|i| f(&at(&a, i)?, &at(&b, i)?)).collect())
}
