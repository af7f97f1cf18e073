//! The shapes of operators that do a block's work in one: norms, Attention (23+), RotaryEmbedding (23+), Einsum, TopK.

use super::Fact;
use super::extent::Extent;
use super::rules::{at, unknown};
use crate::graph::Dim;
use crate::graph::node::{DType, Node};

/// LayerNormalization: the output and its two statistics.
pub(super) fn layer_norm(node: &Node, x: &Fact) -> Vec<Fact> {
    let axis = at(node.int("axis").unwrap_or(-1), x.rank().unwrap_or(0));
    let reduced = x.dims.clone().map(|mut dims| {
        dims.iter_mut().skip(axis).for_each(|d| *d = Dim::Known(1));
        dims
    });
    let stash = node.int("stash_type").and_then(|s| i32::try_from(s).ok()).map_or(DType::F32, DType);
    let statistic = Fact::new(Some(stash), reduced);
    vec![Fact::new(x.dtype, x.dims.clone()), statistic.clone(), statistic]
}

/// A tensor of Attention as `[batch, heads, positions, width of a head]`.
struct Heads([Dim; 4]);

impl Heads {
    fn of(fact: &Fact, heads: Option<i64>) -> Option<Self> {
        match fact.dims.as_deref()? {
            [b, h, s, d] => Some(Self([b.clone(), h.clone(), s.clone(), d.clone()])),
            [b, s, width] => {
                let heads = Extent::number(heads.filter(|&n| n > 0)?);
                let each = Extent::of(width).over(&heads)?.dim();
                Some(Self([b.clone(), heads.dim(), s.clone(), each]))
            }
            _ => None,
        }
    }
}

/// Attention: the output, the keys and values with those of the past, the scores.
pub(super) fn attention(node: &Node, inputs: &[Fact]) -> Vec<Fact> {
    let none = Fact::default();
    let input = |i: usize| inputs.get(i).unwrap_or(&none);
    let dtype = input(0).dtype;
    let q = Heads::of(input(0), node.int("q_num_heads"));
    let k = Heads::of(input(1), node.int("kv_num_heads"));
    let v = Heads::of(input(2), node.int("kv_num_heads"));
    let with_past = |now: &Heads, past: usize| -> Option<[Dim; 4]> {
        let mut dims = now.0.clone();
        if node.input(past).is_some() {
            let before = input(past).dims.as_ref().and_then(|d| d.get(2));
            let whole = before.and_then(|d| Extent::of(d).plus(&Extent::of(&dims[2])));
            dims[2] = whole?.dim();
        }
        Some(dims)
    };
    let keys = k.as_ref().and_then(|k| with_past(k, 4));
    let values = v.as_ref().and_then(|v| with_past(v, 5));
    let flat = input(0).rank() == Some(3);
    let out = q.as_ref().zip(v.as_ref()).and_then(|(Heads([b, h, s, _]), Heads([.., d]))| {
        if !flat {
            return Some(vec![b.clone(), h.clone(), s.clone(), d.clone()]);
        }
        let width = Extent::of(h).times(&Extent::of(d))?.dim();
        Some(vec![b.clone(), s.clone(), width])
    });
    let scores = q
        .as_ref()
        .zip(keys.as_ref())
        .map(|(Heads([b, h, s, _]), k)| vec![b.clone(), h.clone(), s.clone(), k[2].clone()]);
    vec![
        Fact::new(dtype, out),
        Fact::new(input(1).dtype, keys.map(Vec::from)),
        Fact::new(input(2).dtype, values.map(Vec::from)),
        Fact::new(dtype, scores),
    ]
}

/// What an Einsum's equation says, with `...` left out: the letters of each operand and of the output.
///
/// `None` for an equation that does not parse, or that broadcasts over `...`.
pub(crate) fn equation(text: &str, operands: usize) -> Option<(Vec<Vec<char>>, Vec<char>)> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match text.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (text.as_str(), None),
    };
    let letters = |part: &str| -> Option<Vec<char>> {
        part.chars().all(|c| c.is_ascii_alphabetic()).then(|| part.chars().collect())
    };
    let inputs: Vec<Vec<char>> = left.split(',').map(letters).collect::<Option<_>>()?;
    if inputs.len() != operands {
        return None;
    }
    let output = match right {
        Some(right) => letters(right)?,
        None => {
            // Without an arrow: the letters that occur once, in the order of the alphabet.
            let mut all: Vec<char> = inputs.concat();
            all.sort_unstable();
            let once = |c: &char| all.iter().filter(|x| *x == c).count() == 1;
            all.iter().filter(|c| once(c)).copied().collect()
        }
    };
    Some((inputs, output))
}

pub(super) fn einsum(node: &Node, inputs: &[Fact]) -> Option<Vec<Dim>> {
    let (letters, output) = equation(node.string("equation")?, inputs.len())?;
    let extent = |letter: char| {
        let mut found: Option<Dim> = None;
        for (fact, own) in inputs.iter().zip(&letters) {
            let dims = fact.dims.as_ref().filter(|d| d.len() == own.len());
            let Some(d) = dims.and_then(|d| d.get(own.iter().position(|&c| c == letter)?)) else { continue };
            // A number says more than a name, and 1 may stand for any extent.
            if found
                .as_ref()
                .is_none_or(|f| *f == Dim::Known(1) || (f.known().is_none() && d.known().is_some_and(|n| n > 1)))
            {
                found = Some(d.clone());
            }
        }
        found
    };
    output.iter().enumerate().map(|(i, &c)| Some(extent(c).unwrap_or_else(|| unknown(node, i)))).collect()
}

/// TopK: the values and their places.
pub(super) fn top_k(node: &Node, x: &Fact, k: &Fact) -> Vec<Fact> {
    let count = k.value.as_ref().and_then(|v| v.first().cloned().flatten());
    let dims = x.dims.clone().map(|mut dims| {
        let axis = at(node.int("axis").unwrap_or(-1), dims.len());
        if let Some(d) = dims.get_mut(axis) {
            *d = count.map_or_else(|| unknown(node, axis), |n| n.dim());
        }
        dims
    });
    vec![Fact::new(x.dtype, dims.clone()), Fact::new(Some(DType::I64), dims)]
}
