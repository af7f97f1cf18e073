//! Operands that cannot fit together, whatever the sizes of the inputs: found here with the node's name, where a
//! runtime would only say that a kernel failed.

use super::Fact;
use super::extent::Extent;
use super::rules::at;
use crate::base::{Error, Result};
use crate::graph::codes;
use crate::graph::container::Dim;
use crate::graph::node::Node;

/// Refuses operands whose known extents contradict each other.
///
/// # Errors
/// `graph-invalid`, naming the node and its operands.
pub(super) fn check(node: &Node, inputs: &[Fact]) -> Result<()> {
    if !node.domain().is_empty() {
        return Ok(());
    }
    let dims = |i: usize| inputs.get(i).and_then(|f| f.dims.as_deref());
    let why = match node.op() {
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Max" | "Min" | "And" | "Or" | "Xor" | "Equal" | "Less"
        | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "Where" => {
            let known: Vec<&[Dim]> = inputs.iter().filter_map(|f| f.dims.as_deref()).collect();
            broadcast(&known)
        }
        "MatMul" => dims(0).zip(dims(1)).and_then(|(a, b)| matmul(a, b)),
        "Gemm" => dims(0).zip(dims(1)).and_then(|(a, b)| gemm(node, a, b)),
        "Concat" => concat(node, inputs),
        "Reshape" => dims(0).zip(inputs.get(1)).and_then(|(data, shape)| reshape(node, data, shape)),
        _ => None,
    };
    let Some(why) = why else { return Ok(()) };
    let operand = |(edge, fact): (&String, &Fact)| match &fact.dims {
        Some(dims) => format!("`{edge}` [{}]", dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        None => format!("`{edge}`"),
    };
    let operands: Vec<String> = node.inputs().iter().zip(inputs).map(operand).collect();
    let text = format!("the operands of {} do not fit: {why}; they are {}", node.label(), operands.join(" and "));
    Err(Error::new(&codes::GRAPH_INVALID, text))
}

/// Two extents that are numbers and differ.
fn differ(a: &Dim, b: &Dim) -> bool {
    a.known().zip(b.known()).is_some_and(|(a, b)| a != b)
}

fn broadcast(shapes: &[&[Dim]]) -> Option<String> {
    let rank = shapes.iter().map(|s| s.len()).max()?;
    (1..=rank).find_map(|back| {
        let mut wide = shapes
            .iter()
            .filter_map(|s| s.len().checked_sub(back).map(|i| &s[i]))
            .filter(|d| d.known().is_some_and(|n| n != 1));
        let first = wide.next()?;
        let other = wide.find(|d| differ(first, d))?;
        Some(format!("{first} and {other} along axis -{back}"))
    })
}

fn matmul(a: &[Dim], b: &[Dim]) -> Option<String> {
    let inner = b.get(b.len().saturating_sub(2))?;
    let last = a.last()?;
    if differ(last, inner) {
        return Some(format!("{last} columns and {inner} rows"));
    }
    broadcast(&[&a[..a.len().saturating_sub(2)], &b[..b.len().saturating_sub(2)]])
}

fn gemm(node: &Node, a: &[Dim], b: &[Dim]) -> Option<String> {
    if a.len() != 2 || b.len() != 2 {
        return Some("both must be matrices".into());
    }
    let transposed = |name: &str| node.int(name) == Some(1);
    let (columns, rows) = (&a[usize::from(!transposed("transA"))], &b[usize::from(transposed("transB"))]);
    differ(columns, rows).then(|| format!("{columns} columns and {rows} rows"))
}

fn concat(node: &Node, inputs: &[Fact]) -> Option<String> {
    let shapes: Vec<&[Dim]> = inputs.iter().filter_map(|f| f.dims.as_deref()).collect();
    let first = shapes.first()?;
    let axis = at(node.int("axis").unwrap_or(0), first.len());
    if shapes.iter().any(|s| s.len() != first.len()) {
        return Some("their ranks differ".into());
    }
    let clash = |i: usize| {
        let mut known = shapes.iter().map(|s| &s[i]).filter(|d| d.known().is_some());
        let first = known.next()?;
        let other = known.find(|d| differ(first, d))?;
        Some(format!("{first} and {other} along axis {i}"))
    };
    (0..first.len()).filter(|&i| i != axis).find_map(clash)
}

fn reshape(node: &Node, data: &[Dim], shape: &Fact) -> Option<String> {
    let copies = node.int("allowzero").unwrap_or(0) == 0;
    let mut product = Extent::number(1);
    let mut open = false;
    for (i, element) in shape.value.as_ref()?.iter().enumerate() {
        let element = element.as_ref()?;
        match element.known() {
            Some(-1) => open = true,
            Some(0) if copies => product = product.times(&Extent::of(data.get(i)?))?,
            _ => product = product.times(element)?,
        }
    }
    let total = Extent::elements(data)?;
    let fits = match (total.known(), product.known(), open) {
        (Some(total), Some(product), true) => product != 0 && total % product == 0,
        (_, _, true) => true,
        // A quotient that is a number other than one, either way round.
        (_, _, false) => {
            [total.over(&product), product.over(&total)].into_iter().flatten().all(|q| q.known().is_none_or(|n| n == 1))
        }
    };
    (!fits).then(|| format!("{} elements cannot become {}", total.dim(), product.dim()))
}
