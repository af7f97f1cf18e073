//! Random small decoders, built in code: what kind of norm stands where, gated or plain, shared heads of keys, parallel
//! or serial, positions, biases, packed or tied weights, capped logits, in small operators or in fused ones. The same
//! seed gives the same decoder.

use std::collections::BTreeMap;

use crate::graph::{Attr, DType, Dim, Graph, Initializer, Patch};

/// Width of the residual stream, heads and vocabulary of every decoder.
pub(crate) const WIDTH: usize = 16;
pub(crate) const HEADS: usize = 4;
pub(crate) const VOCAB: usize = 23;
const HEAD: usize = 4;
const HIDDEN: usize = 24;
const LONGEST: usize = 16;

/// How tokens are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Norm {
    Layer,
    Rms,
    /// With a scale of 1 + w.
    RmsFromOne,
}

/// Where the norms of a block stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Before,
    /// Before and after each part.
    Around,
    /// After each part only.
    After,
}

/// How a decoder knows positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Positions {
    Learned,
    Rotary,
    /// Only the first half of each head is rotated, in pairs that lie beside each other.
    PartialRotary,
    Slopes,
}

/// The function between the MLP's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Relu,
    Squared,
    Gelu,
    Tanh,
    Silu,
    Quick,
}

/// What a decoder is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoder {
    pub(crate) layers: usize,
    pub(crate) norm: Norm,
    pub(crate) place: Place,
    /// Attention and MLP both read the stream before the block.
    pub(crate) parallel: bool,
    pub(crate) gated: bool,
    pub(crate) activation: Activation,
    pub(crate) kv_heads: usize,
    pub(crate) positions: Positions,
    pub(crate) biases: bool,
    /// Queries, keys and values from one matrix.
    pub(crate) packed: bool,
    pub(crate) tied: bool,
    /// Queries and keys are normalised in each head.
    pub(crate) head_norms: bool,
    /// The embedding is scaled, and scores and logits are capped.
    pub(crate) capped: bool,
    /// How far back attention sees, if not to the begin.
    pub(crate) window: Option<usize>,
    /// In the operators of operator set 23.
    pub(crate) fused: bool,
    pub(crate) seed: u64,
}

/// A decoder as a graph, and which initializer is which weight: stored as `[in, out]`, `W_U` of a tied one missing.
pub(crate) struct Built {
    pub(crate) graph: Graph,
    pub(crate) weights: BTreeMap<String, String>,
}

/// A stream of numbers.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 1
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// About `around`, give or take `spread`.
    fn values(&mut self, count: usize, around: f32, spread: f32) -> Vec<f32> {
        let unit = |n: u64| (n & 0xff_ffff) as f32 / (1u64 << 23) as f32 - 1.0;
        (0..count).map(|_| around + spread * unit(self.next())).collect()
    }
}

impl Decoder {
    /// The decoder of a seed.
    pub(crate) fn random(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        dice.next();
        let parallel = dice.below(3) == 0;
        let activations = [
            Activation::Relu,
            Activation::Squared,
            Activation::Gelu,
            Activation::Tanh,
            Activation::Silu,
            Activation::Quick,
        ];
        let positions = [Positions::Learned, Positions::Rotary, Positions::PartialRotary, Positions::Slopes];
        Self {
            layers: 2,
            norm: dice.of(&[Norm::Layer, Norm::Rms, Norm::RmsFromOne]),
            place: if parallel { Place::Before } else { dice.of(&[Place::Before, Place::Around, Place::After]) },
            parallel,
            gated: dice.coin(),
            activation: dice.of(&activations),
            kv_heads: dice.of(&[1, 2, 4]),
            positions: dice.of(&positions),
            biases: dice.coin(),
            packed: dice.coin(),
            tied: dice.coin(),
            head_norms: dice.below(3) == 0,
            capped: dice.below(3) == 0,
            window: if dice.below(3) == 0 { Some(3) } else { None },
            fused: dice.coin(),
            seed,
        }
    }

    /// The graph: `input_ids` and `position_ids` `[batch, sequence]` to `logits` `[batch, sequence, vocab]`.
    pub(crate) fn build(&self) -> Built {
        let empty = Graph::empty(if self.fused { 23 } else { 18 });
        let mut maker = Maker {
            p: Patch::new(&empty),
            of: self,
            weights: BTreeMap::new(),
            dice: Dice(self.seed.wrapping_mul(0xD1B5_4A32_D192_ED03) | 1),
        };
        let logits = maker.decoder();
        maker.p.tap(&logits, DType::F32).unwrap();
        let Maker { p, weights, .. } = maker;
        Built { graph: p.apply().unwrap(), weights }
    }
}

struct Maker<'m> {
    p: Patch<'m>,
    of: &'m Decoder,
    weights: BTreeMap<String, String>,
    dice: Dice,
}

impl Maker<'_> {
    fn op(&mut self, op: &str, inputs: &[&str]) -> String {
        self.p.op(op, inputs, &[]).unwrap()
    }

    fn with(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attr)]) -> String {
        self.p.op(op, inputs, attributes).unwrap()
    }

    fn number(&mut self, value: f32) -> String {
        self.p.f32(&[], &[value])
    }

    fn weight(&mut self, role: &str, dims: &[usize], around: f32, spread: f32) -> String {
        let values = self.dice.values(dims.iter().product(), around, spread);
        let name = self.p.fresh(&format!("w.{}", self.weights.len()));
        self.weights.insert(role.to_owned(), name.clone());
        self.p.constant(Initializer::f32(&name, dims, &values))
    }

    fn reshape(&mut self, x: &str, target: &[i64]) -> String {
        let target = self.p.i64(&[target.len()], target);
        self.op("Reshape", &[x, &target])
    }

    fn turned(&mut self, x: &str, perm: &[i64]) -> String {
        self.with("Transpose", &[x], &[("perm", Attr::Ints(perm.to_vec()))])
    }

    /// x[.., from..to] along the last axis.
    fn cut(&mut self, x: &str, from: i64, to: i64, step: i64) -> String {
        let [from, to, axis, step] = [from, to, -1, step].map(|v| self.p.i64(&[1], &[v]));
        self.op("Slice", &[x, &from, &to, &axis, &step])
    }

    fn linear(&mut self, x: &str, role: &str, (inputs, outputs): (usize, usize)) -> String {
        let w = self.weight(&role.replace('*', "W"), &[inputs, outputs], 0.0, 1.2 / (inputs as f32).sqrt());
        let product = self.op("MatMul", &[x, &w]);
        if !self.of.biases {
            return product;
        }
        let b = self.weight(&role.replace('*', "b"), &[outputs], 0.0, 0.2);
        self.op("Add", &[&product, &b])
    }

    fn norm(&mut self, x: &str, role: &str, width: usize) -> String {
        let kind = self.of.norm;
        let around = if kind == Norm::RmsFromOne { 0.0 } else { 1.0 };
        let mut w = self.weight(&format!("{role}.w"), &[width], around, 0.3);
        let one = self.number(1.0);
        if kind == Norm::RmsFromOne {
            w = self.op("Add", &[&w, &one]);
        }
        if kind == Norm::Layer {
            let b = self.weight(&format!("{role}.b"), &[width], 0.0, 0.2);
            return self.with("LayerNormalization", &[x, &w, &b], &[("epsilon", Attr::Float(1e-5))]);
        }
        if self.of.fused {
            return self.with("RMSNormalization", &[x, &w], &[("epsilon", Attr::Float(1e-5))]);
        }
        let (two, epsilon, last) = (self.number(2.0), self.number(1e-5), self.p.i64(&[1], &[-1]));
        let square = self.op("Pow", &[x, &two]);
        let mean = self.op("ReduceMean", &[&square, &last]);
        let shifted = self.op("Add", &[&mean, &epsilon]);
        let root = self.op("Sqrt", &[&shifted]);
        let r = self.op("Div", &[&one, &root]);
        let unit = self.op("Mul", &[x, &r]);
        self.op("Mul", &[&w, &unit])
    }

    /// Cosine and sine of the angles of each place, `[batch, sequence, count]`.
    fn angles(&mut self, count: usize) -> (String, String) {
        let speeds: Vec<f32> = (0..count).map(|i| 10f32.powf(-(i as f32) / count as f32)).collect();
        let (speeds, last) = (self.p.f32(&[count], &speeds), self.p.i64(&[1], &[-1]));
        let places = self.with("Cast", &["position_ids"], &[("to", Attr::Int(1))]);
        let places = self.op("Unsqueeze", &[&places, &last]);
        let angles = self.op("Mul", &[&places, &speeds]);
        (self.op("Cos", &[&angles]), self.op("Sin", &[&angles]))
    }

    /// Queries or keys `[batch, heads, sequence, width]` turned by their places.
    fn rotated(&mut self, x: &str) -> String {
        let partial = self.of.positions == Positions::PartialRotary;
        let turned = if partial { HEAD / 2 } else { HEAD };
        let (cos, sin) = self.angles(turned / 2);
        if self.of.fused {
            let mut attributes = vec![("interleaved", Attr::Int(i64::from(partial)))];
            if partial {
                attributes.push(("rotary_embedding_dim", Attr::Int(turned as i64)));
                attributes.push(("num_heads", Attr::Int(HEADS as i64)));
            }
            return self.with("RotaryEmbedding", &[x, &cos, &sin], &attributes);
        }
        let heads = self.p.i64(&[1], &[1]);
        let (cos, sin) = (self.op("Unsqueeze", &[&cos, &heads]), self.op("Unsqueeze", &[&sin, &heads]));
        let axis = [("axis", Attr::Int(-1))];
        let half = turned as i64 / 2;
        let (a, b) = match partial {
            true => (self.cut(x, 0, 2 * half, 2), self.cut(x, 1, 2 * half, 2)),
            false => (self.cut(x, 0, half, 1), self.cut(x, half, 2 * half, 1)),
        };
        let product = |m: &mut Self, a: &str, b: &str| m.op("Mul", &[a, b]);
        let (ac, bs) = (product(self, &a, &cos), product(self, &b, &sin));
        let (bc, sa) = (product(self, &b, &cos), product(self, &a, &sin));
        let (real, imaginary) = (self.op("Sub", &[&ac, &bs]), self.op("Add", &[&bc, &sa]));
        if !partial {
            return self.with("Concat", &[&real, &imaginary], &axis);
        }
        let last = self.p.i64(&[1], &[-1]);
        let (real, imaginary) = (self.op("Unsqueeze", &[&real, &last]), self.op("Unsqueeze", &[&imaginary, &last]));
        let pairs = self.with("Concat", &[&real, &imaginary], &axis);
        let flat = self.reshape(&pairs, &[0, 0, 0, -1]);
        let rest = self.cut(x, 2 * half, i64::MAX, 1);
        self.with("Concat", &[&flat, &rest], &axis)
    }

    /// `[heads, sequence, sequence]` or `[sequence, sequence]`: 0 where a place may be seen, less the slopes, else far
    /// below.
    fn mask(&mut self) -> String {
        let (shape, one) = (self.op("Shape", &["input_ids"]), self.p.i64(&[], &[1]));
        let (zero, column) = (self.p.i64(&[], &[0]), self.p.i64(&[1], &[1]));
        let length = self.op("Gather", &[&shape, &one]);
        let places = self.op("Range", &[&zero, &length, &one]);
        let queries = self.op("Unsqueeze", &[&places, &column]);
        let mut open = self.op("LessOrEqual", &[&places, &queries]);
        let back = self.op("Sub", &[&queries, &places]);
        if let Some(window) = self.of.window {
            let window = self.p.i64(&[], &[window as i64]);
            let near = self.op("Less", &[&back, &window]);
            open = self.op("And", &[&open, &near]);
        }
        let (nothing, far) = (self.number(0.0), self.number(-1e9));
        let mask = self.op("Where", &[&open, &nothing, &far]);
        if self.of.positions != Positions::Slopes {
            return mask;
        }
        let slopes: Vec<f32> = (1..=HEADS).map(|h| 0.5f32.powi(h as i32)).collect();
        let slopes = self.p.f32(&[HEADS, 1, 1], &slopes);
        let back = self.with("Cast", &[&back], &[("to", Attr::Int(1))]);
        let less = self.op("Mul", &[&slopes, &back]);
        self.op("Sub", &[&mask, &less])
    }

    /// Heads of keys or values once for every head of queries.
    fn shared(&mut self, x: &str) -> String {
        let groups = HEADS / self.of.kv_heads;
        if groups == 1 {
            return x.to_owned();
        }
        let axis = self.p.i64(&[1], &[2]);
        let apart = self.op("Unsqueeze", &[x, &axis]);
        let repeats = self.p.i64(&[5], &[1, 1, groups as i64, 1, 1]);
        let wide =
            if self.of.biases { self.op("Tile", &[&apart, &repeats]) } else { self.op("Expand", &[&apart, &repeats]) };
        let shape = self.op("Shape", &[x]);
        let (first, last) = (self.p.i64(&[1], &[0]), self.p.i64(&[2], &[2, 3]));
        let (batch, rest) = (self.op("Gather", &[&shape, &first]), self.op("Gather", &[&shape, &last]));
        let heads = self.p.i64(&[1], &[HEADS as i64]);
        let target = self.with("Concat", &[&batch, &heads, &rest], &[("axis", Attr::Int(0))]);
        self.op("Reshape", &[&wide, &target])
    }

    fn attention(&mut self, x: &str, at: &str) -> String {
        let (of, kv) = (self.of, self.of.kv_heads * HEAD);
        let [q, k, v] = if of.packed {
            let whole = self.linear(x, &format!("{at}.attn.*_QKV"), (WIDTH, WIDTH + 2 * kv));
            let sizes = self.p.i64(&[3], &[WIDTH as i64, kv as i64, kv as i64]);
            let parts = self.p.op_many("Split", &[&whole, &sizes], &[("axis", Attr::Int(-1))], 3).unwrap();
            parts.try_into().unwrap()
        } else {
            [("Q", WIDTH), ("K", kv), ("V", kv)]
                .map(|(n, out)| self.linear(x, &format!("{at}.attn.*_{n}"), (WIDTH, out)))
        };
        let heads = |m: &mut Self, x: &str, count: usize| {
            let parts = m.reshape(x, &[0, 0, count as i64, HEAD as i64]);
            m.turned(&parts, &[0, 2, 1, 3])
        };
        let (mut q, mut k, v) = (heads(self, &q, HEADS), heads(self, &k, of.kv_heads), heads(self, &v, of.kv_heads));
        if of.head_norms {
            q = self.norm(&q, &format!("{at}.attn.q_norm"), HEAD);
            k = self.norm(&k, &format!("{at}.attn.k_norm"), HEAD);
        }
        if matches!(of.positions, Positions::Rotary | Positions::PartialRotary) {
            q = self.rotated(&q);
            k = self.rotated(&k);
        }
        let scale = (HEAD as f32).sqrt().recip();
        let z = if of.fused {
            let mut attributes = vec![("scale", Attr::Float(scale))];
            if of.capped {
                attributes.push(("softcap", Attr::Float(2.0)));
            }
            let simple = of.window.is_none() && of.positions != Positions::Slopes;
            if simple {
                attributes.push(("is_causal", Attr::Int(1)));
                self.with("Attention", &[&q, &k, &v], &attributes)
            } else {
                let mask = self.mask();
                self.with("Attention", &[&q, &k, &v, &mask], &attributes)
            }
        } else {
            let (k, v) = (self.shared(&k), self.shared(&v));
            let k = self.turned(&k, &[0, 1, 3, 2]);
            let scores = self.op("MatMul", &[&q, &k]);
            let scale = self.number(scale);
            let mut scores = self.op("Mul", &[&scores, &scale]);
            if of.capped {
                scores = self.cap(&scores, 2.0);
            }
            let mask = self.mask();
            let masked = self.op("Add", &[&scores, &mask]);
            let pattern = self.with("Softmax", &[&masked], &[("axis", Attr::Int(-1))]);
            self.op("MatMul", &[&pattern, &v])
        };
        let z = self.turned(&z, &[0, 2, 1, 3]);
        let z = self.reshape(&z, &[0, 0, WIDTH as i64]);
        self.linear(&z, &format!("{at}.attn.*_O"), (WIDTH, WIDTH))
    }

    fn cap(&mut self, x: &str, cap: f32) -> String {
        let cap = self.number(cap);
        let part = self.op("Div", &[x, &cap]);
        let bent = self.op("Tanh", &[&part]);
        self.op("Mul", &[&bent, &cap])
    }

    fn activation(&mut self, x: &str) -> String {
        match self.of.activation {
            Activation::Relu => self.op("Relu", &[x]),
            Activation::Squared => {
                let positive = self.op("Relu", &[x]);
                self.op("Mul", &[&positive, &positive])
            }
            kind @ (Activation::Gelu | Activation::Tanh) if self.of.fused => {
                let form = if kind == Activation::Tanh { "tanh" } else { "none" };
                self.with("Gelu", &[x], &[("approximate", Attr::Str(form.into()))])
            }
            Activation::Gelu => {
                let [root, one, half] = [std::f32::consts::SQRT_2, 1.0, 0.5].map(|v| self.number(v));
                let part = self.op("Div", &[x, &root]);
                let erf = self.op("Erf", &[&part]);
                let gate = self.op("Add", &[&erf, &one]);
                let product = self.op("Mul", &[x, &gate]);
                self.op("Mul", &[&product, &half])
            }
            Activation::Tanh => {
                let [three, a, root, one, half] = [3.0, 0.044715, 0.797_884_6, 1.0, 0.5].map(|v| self.number(v));
                let cube = self.op("Pow", &[x, &three]);
                let part = self.op("Mul", &[&cube, &a]);
                let sum = self.op("Add", &[x, &part]);
                let inner = self.op("Mul", &[&sum, &root]);
                let tanh = self.op("Tanh", &[&inner]);
                let gate = self.op("Add", &[&tanh, &one]);
                let left = self.op("Mul", &[x, &half]);
                self.op("Mul", &[&left, &gate])
            }
            Activation::Silu => {
                let gate = self.op("Sigmoid", &[x]);
                self.op("Mul", &[x, &gate])
            }
            Activation::Quick => {
                let factor = self.number(1.702);
                let part = self.op("Mul", &[x, &factor]);
                let gate = self.op("Sigmoid", &[&part]);
                self.op("Mul", &[x, &gate])
            }
        }
    }

    fn mlp(&mut self, x: &str, at: &str) -> String {
        let post = if self.of.gated {
            let gate = self.linear(x, &format!("{at}.mlp.*_gate"), (WIDTH, HIDDEN));
            let gate = self.activation(&gate);
            let line = self.linear(x, &format!("{at}.mlp.*_in"), (WIDTH, HIDDEN));
            self.op("Mul", &[&gate, &line])
        } else {
            let pre = self.linear(x, &format!("{at}.mlp.*_in"), (WIDTH, HIDDEN));
            self.activation(&pre)
        };
        self.linear(&post, &format!("{at}.mlp.*_out"), (HIDDEN, WIDTH))
    }

    /// A part of a block, between its norms: attention, or the MLP.
    fn part(&mut self, x: &str, at: &str, ln: &str, attention: bool) -> String {
        let place = self.of.place;
        let mut h = x.to_owned();
        if place != Place::After {
            h = self.norm(&h, &format!("{at}.{ln}"), WIDTH);
        }
        h = if attention { self.attention(&h, at) } else { self.mlp(&h, at) };
        if place != Place::Before {
            h = self.norm(&h, &format!("{at}.{ln}_post"), WIDTH);
        }
        h
    }

    fn decoder(&mut self) -> String {
        let dims = || vec![Dim::symbol("batch"), Dim::symbol("sequence")];
        self.p.input("input_ids", DType::I64, dims()).unwrap();
        self.p.input("position_ids", DType::I64, dims()).unwrap();
        let table = self.weight("W_E", &[VOCAB, WIDTH], 0.0, 1.0);
        let mut x = self.op("Gather", &[&table, "input_ids"]);
        if self.of.capped {
            let scale = self.number(1.5);
            x = self.op("Mul", &[&x, &scale]);
        }
        if self.of.positions == Positions::Learned {
            let places = self.weight("W_pos", &[LONGEST, WIDTH], 0.0, 0.5);
            let places = self.op("Gather", &[&places, "position_ids"]);
            x = self.op("Add", &[&x, &places]);
        }
        for layer in 0..self.of.layers {
            let at = format!("blocks.{layer}");
            let attention = self.part(&x, &at, "ln1", true);
            if self.of.parallel {
                let mlp = self.part(&x, &at, "ln2", false);
                let both = self.op("Add", &[&attention, &mlp]);
                x = self.op("Add", &[&both, &x]);
            } else {
                x = self.op("Add", &[&x, &attention]);
                let mlp = self.part(&x, &at, "ln2", false);
                x = self.op("Add", &[&x, &mlp]);
            }
        }
        let x = self.norm(&x, "ln_final", WIDTH);
        let head = match self.of.tied {
            true => self.turned(&table, &[1, 0]),
            false => self.weight("W_U", &[WIDTH, VOCAB], 0.0, 0.5),
        };
        let mut logits = self.op("MatMul", &[&x, &head]);
        if self.of.capped {
            logits = self.cap(&logits, 5.0);
        }
        self.op("Identity", &[&logits])
    }
}
