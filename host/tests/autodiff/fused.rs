//! Operators that do a block's work in one, against finite differences of what the runtime's own kernels compute:
//! Attention with every attribute, rotary embeddings, RMS norms.

use engraft::graph::{Attr, Patch};
use engraft_plugin_api::Tensor;

use crate::kit::{Told, Trial, random};

/// Attention over `[2, heads, positions, 4]`, with some of its inputs and attributes.
struct Case<'a> {
    heads: [usize; 2],
    lengths: [usize; 2],
    /// With three axes: `[batch, positions, heads · width]`.
    flat: bool,
    past: usize,
    mask: Option<(Tensor, bool)>,
    attributes: &'a [(&'a str, Attr)],
    opset: i64,
}

const PLAIN: Case<'static> =
    Case { heads: [2, 2], lengths: [3, 3], flat: false, past: 0, mask: None, attributes: &[], opset: 23 };

impl Case<'_> {
    fn check(&self) {
        let ([q, kv], [rows, keys]) = (self.heads, self.lengths);
        let dims = |heads: usize, length: usize, width: usize| {
            if self.flat { vec![2, length, heads * width] } else { vec![2, heads, length, width] }
        };
        let mut inputs = vec![
            ("q", random(&dims(q, rows, 4), 1)),
            ("k", random(&dims(kv, keys, 4), 2)),
            ("v", random(&dims(kv, keys, 5), 3)),
        ];
        let mut wrt = vec!["q", "k", "v"];
        let mut attributes = self.attributes.to_vec();
        if self.flat {
            attributes.push(("q_num_heads", Attr::Int(q as i64)));
            attributes.push(("kv_num_heads", Attr::Int(kv as i64)));
        }
        if self.past > 0 {
            inputs.push(("past_k", random(&[2, kv, self.past, 4], 4)));
            inputs.push(("past_v", random(&[2, kv, self.past, 5], 5)));
            wrt.extend(["past_k", "past_v"]);
        }
        let truth = self.mask.as_ref().is_some_and(|(_, truth)| *truth);
        if let Some((mask, _)) = &self.mask {
            inputs.push(("mask", mask.clone()));
            if !truth {
                wrt.push("mask");
            }
        }
        let build = |p: &mut Patch<'_>| {
            let zero = p.f32(&[], &[0.0]);
            let mask = match &self.mask {
                None => String::new(),
                Some((_, false)) => "mask".into(),
                Some((_, true)) => p.op("Greater", &["mask", &zero], &[]).unwrap(),
            };
            let (past_k, past_v) = if self.past > 0 { ("past_k", "past_v") } else { ("", "") };
            if self.past == 0 {
                return p.op("Attention", &["q", "k", "v", &mask], &attributes).unwrap();
            }
            // The keys and values that are handed on count too.
            let made = p.op_many("Attention", &["q", "k", "v", &mask, past_k, past_v], &attributes, 3).unwrap();
            let squared = p.op("Mul", &[&made[1], &made[1]], &[]).unwrap();
            let sums: Vec<String> = [&made[0], &squared, &made[2]]
                .iter()
                .map(|e| p.op("ReduceSum", &[e], &[("keepdims", Attr::Int(0))]).unwrap())
                .collect();
            let half = p.op("Add", &[&sums[0], &sums[1]], &[]).unwrap();
            let rest = p.op("Mul", &[&sums[2], &sums[0]], &[]).unwrap();
            p.op("Add", &[&half, &rest], &[]).unwrap()
        };
        let trial = Trial { opset: self.opset, inputs: &inputs, wrt: &wrt, build: &build };
        trial.check(Told::Numbers);
        // With four axes the heads must be known.
        if self.flat {
            trial.check(Told::Names);
        }
    }
}

#[test]
fn attention_of_every_form() {
    for flat in [false, true] {
        for heads in [[2, 2], [4, 2], [3, 1]] {
            Case { heads, flat, ..PLAIN }.check();
            Case { heads, flat, attributes: &[("is_causal", Attr::Int(1))], ..PLAIN }.check();
        }
        let scaled = [("scale", Attr::Float(0.7)), ("softcap", Attr::Float(1.5))];
        Case { heads: [4, 2], lengths: [2, 5], flat, attributes: &scaled, ..PLAIN }.check();
    }
}

#[test]
fn attention_behind_masks_and_a_past() {
    for flat in [false, true] {
        for mask in [&[3, 3][..], &[2, 1, 3, 3], &[2, 4, 3, 3], &[1, 1, 3, 3]] {
            let bias = Some((random(mask, 6), false));
            Case { heads: [4, 2], flat, mask: bias, ..PLAIN }.check();
        }
        // Each row sees something: the first key always.
        let mut seen: Vec<f32> = [1.0, -1.0, 1.0, 1.0, 1.0, -1.0, 1.0, -1.0, -1.0].to_vec();
        let open = Some((Tensor::f32([1, 1, 3, 3], seen.clone()).unwrap(), true));
        Case { heads: [4, 2], flat, mask: open.clone(), ..PLAIN }.check();
        let causal = [("is_causal", Attr::Int(1)), ("softcap", Attr::Float(2.0))];
        Case { heads: [4, 2], flat, mask: open, attributes: &causal, ..PLAIN }.check();
        seen.extend([1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        let open = Some((Tensor::f32([1, 1, 3, 5], seen).unwrap(), true));
        Case { heads: [4, 2], flat, past: 2, mask: open.clone(), ..PLAIN }.check();
        // From operator set 24 on a mask may be shorter than the keys: it is lengthened, here by nothing.
        Case { heads: [4, 2], flat, past: 2, mask: open, opset: 24, ..PLAIN }.check();
        Case { heads: [2, 2], flat, past: 2, attributes: &[("is_causal", Attr::Int(1))], ..PLAIN }.check();
    }
}

/// Scores and probabilities as an output of their own, read beside the result.
#[test]
fn attention_that_gives_its_scores_away() {
    for (mode, heads) in [(0, [4, 2]), (3, [2, 2])] {
        let inputs = [
            ("q", random(&[2, heads[0], 3, 4], 1)),
            ("k", random(&[2, heads[1], 3, 4], 2)),
            ("v", random(&[2, heads[1], 3, 4], 3)),
        ];
        let build = |p: &mut Patch<'_>| {
            let attributes = [("is_causal", Attr::Int(1)), ("qk_matmul_output_mode", Attr::Int(mode))];
            let made = p.op_many("Attention", &["q", "k", "v", "", "", ""], &attributes, 4).unwrap();
            let sums = [&made[0], &made[3]].map(|e| p.op("ReduceSumSquare", &[e], &[]).unwrap());
            p.op("Add", &[&sums[0], &sums[1]], &[]).unwrap()
        };
        Trial { opset: 23, inputs: &inputs, wrt: &["q", "k", "v"], build: &build }.check(Told::Numbers);
    }
}

/// From operator set 24 on: a cache of fixed length whose valid tokens are counted.
#[test]
fn attention_over_a_cache_of_fixed_length() {
    for causal in [0, 1] {
        let inputs = [
            ("q", random(&[2, 2, 3, 4], 1)),
            ("k", random(&[2, 2, 6, 4], 2)),
            ("v", random(&[2, 2, 6, 4], 3)),
            ("n", Tensor::i64([2], vec![5, 4]).unwrap()),
            ("bias", random(&[3, 6], 4)),
        ];
        let build = |p: &mut Patch<'_>| {
            p.op("Attention", &["q", "k", "v", "bias", "", "", "n"], &[("is_causal", Attr::Int(causal))]).unwrap()
        };
        Trial { opset: 24, inputs: &inputs, wrt: &["q", "k", "v"], build: &build }.check(Told::Numbers);
    }
}

#[test]
fn rotary_embeddings() {
    let table = |rows: usize, width: usize, seed| random(&[rows, width], seed);
    let positions = || Tensor::i64([2, 3], vec![0, 1, 2, 4, 2, 0]).unwrap();
    for interleaved in [0, 1] {
        for (partial, width) in [(0, 2), (2, 1)] {
            let mut attributes = vec![("interleaved", Attr::Int(interleaved))];
            if partial > 0 {
                attributes.push(("rotary_embedding_dim", Attr::Int(partial)));
                attributes.push(("num_heads", Attr::Int(2)));
            }
            let inputs = [
                ("x", random(&[2, 2, 3, 4], 1)),
                ("cos", table(6, width, 2)),
                ("sin", table(6, width, 3)),
                ("p", positions()),
            ];
            let build = |p: &mut Patch<'_>| p.op("RotaryEmbedding", &["x", "cos", "sin", "p"], &attributes).unwrap();
            Trial { opset: 23, inputs: &inputs, wrt: &["x"], build: &build }.check_all();
        }
        // Three axes, and angles for each place.
        let inputs = [("x", random(&[2, 3, 8], 1)), ("cos", random(&[2, 3, 2], 2)), ("sin", random(&[2, 3, 2], 3))];
        let attributes = [("interleaved", Attr::Int(interleaved)), ("num_heads", Attr::Int(2))];
        let build = |p: &mut Patch<'_>| p.op("RotaryEmbedding", &["x", "cos", "sin"], &attributes).unwrap();
        Trial { opset: 23, inputs: &inputs, wrt: &["x"], build: &build }.check_all();
    }
}

#[test]
fn rms_norms() {
    for (axis, scale) in [(-1, &[6][..]), (-1, &[1]), (1, &[3, 6]), (-2, &[6])] {
        let inputs = [("x", random(&[2, 3, 6], 1)), ("s", random(scale, 2))];
        let attributes = [("axis", Attr::Int(axis)), ("epsilon", Attr::Float(1e-3))];
        let build = |p: &mut Patch<'_>| p.op("RMSNormalization", &["x", "s"], &attributes).unwrap();
        Trial { opset: 23, inputs: &inputs, wrt: &["x", "s"], build: &build }.check_all();
    }
    // Spelled out in the ways that exporters write it; a scale of 1 + w as some families have it.
    let inputs = [("x", random(&[2, 3, 6], 1)), ("s", random(&[6], 2))];
    for form in 0..4 {
        let build = |p: &mut Patch<'_>| {
            let last = p.i64(&[1], &[-1]);
            let (two, half, one) = (p.f32(&[], &[2.0]), p.f32(&[], &[-0.5]), p.f32(&[], &[1.0]));
            let epsilon = p.f32(&[], &[1e-5]);
            let square =
                if form == 1 { p.op("Mul", &["x", "x"], &[]) } else { p.op("Pow", &["x", &two], &[]) }.unwrap();
            let mean = p.op("ReduceMean", &[&square, &last], &[]).unwrap();
            let shifted = p.op("Add", &[&mean, &epsilon], &[]).unwrap();
            let root = p.op("Sqrt", &[&shifted], &[]).unwrap();
            let unit = match form {
                0 => p.op("Div", &["x", &root], &[]).unwrap(),
                3 => {
                    let r = p.op("Pow", &[&shifted, &half], &[]).unwrap();
                    p.op("Mul", &["x", &r], &[]).unwrap()
                }
                _ => {
                    let r =
                        if form == 1 { p.op("Reciprocal", &[&root], &[]) } else { p.op("Div", &[&one, &root], &[]) };
                    p.op("Mul", &["x", &r.unwrap()], &[]).unwrap()
                }
            };
            let scale = if form == 2 { p.op("Add", &["s", &one], &[]).unwrap() } else { "s".into() };
            p.op("Mul", &[&scale, &unit], &[]).unwrap()
        };
        Trial { opset: 18, inputs: &inputs, wrt: &["x", "s"], build: &build }.check_all();
    }
}
