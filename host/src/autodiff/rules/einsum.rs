//! Einsum (12+), without `...`: the gradient of an operand is the Einsum of g with the other operands, from their letters
//! to its own; along a letter that only it has, it is the same everywhere.

use super::super::facts::Facts;
use super::super::plan::Visit;
use super::super::tape::{Grad, Tape};
use super::{Check, Gradients};
use crate::base::Result;
use crate::graph::{Attr, Dim, equation};

fn letters(visit: &Visit<'_>) -> Option<(Vec<Vec<char>>, Vec<char>)> {
    equation(visit.node.string("equation")?, visit.node.inputs().len())
}

pub(super) fn check(facts: &Facts<'_, '_>, visit: &Visit<'_>) -> Check {
    let (operands, output) = letters(visit).ok_or("its equation broadcasts or is not understood")?;
    for (own, edge) in operands.iter().zip(visit.node.inputs()) {
        if own.iter().enumerate().any(|(i, c)| own[..i].contains(c)) {
            return Err("its equation takes a diagonal".into());
        }
        let dims = facts.dims(edge).ok_or("the number of axes of its inputs is not known")?;
        let broadcasts = |(c, d): (&char, &Dim)| {
            let others = operands.iter().zip(visit.node.inputs());
            *d == Dim::Known(1)
                && others
                    .filter_map(|(o, e)| facts.dims(e)?.get(o.iter().position(|x| x == c)?).cloned())
                    .any(|o| o != *d)
        };
        if own.iter().zip(&dims).any(broadcasts) {
            return Err("it broadcasts an axis".into());
        }
    }
    if output.iter().enumerate().any(|(i, c)| output[..i].contains(c)) {
        return Err("its equation repeats an axis of the output".into());
    }
    Ok(())
}

pub(super) fn backward(tape: &mut Tape<'_, '_, '_>, visit: &Visit<'_>) -> Result<Gradients> {
    let Some((operands, output)) = letters(visit) else { return Ok(Vec::new()) };
    let g = tape.shaped(&visit.grad(), visit.output())?;
    let mut gradients = Vec::new();
    for &slot in &visit.wanted {
        let own = &operands[slot];
        let others: Vec<usize> = (0..operands.len()).filter(|&i| i != slot).collect();
        let elsewhere = |c: &char| output.contains(c) || others.iter().any(|&i| operands[i].contains(c));
        let found: String = own.iter().filter(|c| elsewhere(c)).collect();
        let text = |part: &[char]| part.iter().collect::<String>();
        let mut left = vec![text(&output)];
        left.extend(others.iter().map(|&i| text(&operands[i])));
        let inputs: Vec<&str> =
            std::iter::once(g.edge.as_str()).chain(others.iter().map(|&i| visit.input(i))).collect();
        let equation = format!("{}->{found}", left.join(","));
        let mut edge = tape.op("Einsum", &inputs, &[("equation", Attr::Str(equation))])?;
        let missing: Vec<i64> = (0..own.len()).filter(|&i| !elsewhere(&own[i])).map(|i| i as i64).collect();
        if !missing.is_empty() {
            let axes = tape.ints(&missing);
            edge = tape.op("Unsqueeze", &[&edge, &axes], &[])?;
            let shape = tape.shape_of(visit.input(slot))?;
            edge = tape.op("Expand", &[&edge, &shape], &[])?;
        }
        gradients.push((slot, Grad { edge, ..g.clone() }));
    }
    Ok(gradients)
}
