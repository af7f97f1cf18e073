//! Decoders that are built here, each a choice of what models differ in; the builder knows which edge is which part.

use std::collections::BTreeMap;

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::anatomy;
use crate::anatomy::Columns;
use crate::graph::{Attr, DType, Dim, Graph, Patch};

const D: usize = 8;
const HEADS: usize = 4;
const WIDTH: usize = 6;
const MLP: usize = 20;
const VOCAB: usize = 30;
const LAYERS: usize = 2;

/// No activation function at all.
const NONE: u64 = 9;

/// What models differ in, drawn from a number.
struct Choice(u64);

impl Choice {
    /// One of `n`.
    fn of(&mut self, n: u64) -> u64 {
        // The step of Knuth's MMIX generator; its upper bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn yes(&mut self) -> bool {
        self.of(2) == 1
    }
}

/// What is the same in all blocks of a decoder.
struct Style {
    norm: u64,
    offset: bool,
    place: u64,
    parallel: u64,
    swapped: u64,
    packed: u64,
    kv: usize,
    biased: bool,
    rotary: u64,
    qk_norm: bool,
    mlp: u64,
    activation: u64,
    transposed: bool,
    scaled: bool,
    capped: bool,
}

struct Builder<'g> {
    patch: Patch<'g>,
    style: Style,
    positions: String,
    mask: String,
    sites: BTreeMap<Site, String>,
    weights: BTreeMap<WeightRef, (String, Option<Columns>)>,
    made: usize,
}

impl Builder<'_> {
    fn op(&mut self, op: &str, inputs: &[&str]) -> String {
        self.patch.op(op, inputs, &[]).unwrap()
    }

    fn with(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attr)]) -> String {
        self.patch.op(op, inputs, attributes).unwrap()
    }

    fn turn(&mut self, x: &str, perm: &[i64]) -> String {
        self.with("Transpose", &[x], &[("perm", Attr::Ints(perm.to_vec()))])
    }

    fn view(&mut self, x: &str, dims: &[i64]) -> String {
        let dims = self.patch.i64(&[dims.len()], dims);
        self.op("Reshape", &[x, &dims])
    }

    fn number(&mut self, value: f32) -> String {
        self.patch.f32(&[], &[value])
    }

    /// A tensor that no other equals.
    fn tensor(&mut self, dims: &[usize]) -> String {
        self.made += 1;
        let n = dims.iter().product::<usize>();
        let values: Vec<f32> = (0..n).map(|i| (i + 7 * self.made) as f32 * 0.01).collect();
        self.patch.f32(dims, &values)
    }

    /// y and the names of weight and bias.
    fn linear(&mut self, x: &str, from: usize, to: usize) -> (String, String, Option<String>) {
        let (matrix, operand) = if self.style.transposed {
            let stored = self.tensor(&[to, from]);
            let turned = self.turn(&stored, &[1, 0]);
            (stored, turned)
        } else {
            let stored = self.tensor(&[from, to]);
            (stored.clone(), stored)
        };
        let y = self.op("MatMul", &[x, &operand]);
        if !self.style.biased {
            return (y, matrix, None);
        }
        let bias = self.tensor(&[to]);
        (self.op("Add", &[&bias, &y]), matrix, Some(bias))
    }

    fn note(&mut self, layer: usize, roles: [Role; 2], matrix: &str, bias: Option<&String>, columns: Option<Columns>) {
        self.weights.insert(WeightRef::Block(layer, roles[0]), (matrix.to_owned(), columns));
        if let Some(bias) = bias {
            self.weights.insert(WeightRef::Block(layer, roles[1]), (bias.clone(), columns));
        }
    }

    fn site(&mut self, layer: usize, site: BlockSite, edge: &str) {
        self.sites.insert(Site::Block(layer, site), edge.to_owned());
    }

    /// y and the name of the scale.
    fn norm(&mut self, x: &str, width: usize) -> (String, String) {
        let stored = self.tensor(&[width]);
        let mut scale = stored.clone();
        let one = self.number(1.0);
        if self.style.offset {
            scale = self.op("Add", &[&one, &stored]);
        }
        let last = self.patch.i64(&[1], &[-1]);
        let epsilon = self.number(1e-5);
        let y = match self.style.norm {
            0 => self.with("LayerNormalization", &[x, &scale], &[("axis", Attr::Int(-1))]),
            1 => self.with("RMSNormalization", &[x, &scale], &[("axis", Attr::Int(-1))]),
            kind => {
                let mut x = x.to_owned();
                if kind == 2 {
                    let mean = self.op("ReduceMean", &[&x, &last]);
                    x = self.op("Sub", &[&x, &mean]);
                }
                let square = self.op("Mul", &[&x, &x]);
                let mean = self.op("ReduceMean", &[&square, &last]);
                let sum = self.op("Add", &[&epsilon, &mean]);
                let (half, root) = (self.number(-0.5), self.op("Sqrt", &[&sum]));
                let plain = match kind {
                    2 => self.op("Div", &[&x, &root]),
                    3 => {
                        let inverse = self.op("Pow", &[&sum, &half]);
                        self.op("Mul", &[&inverse, &x])
                    }
                    _ => {
                        let inverse = self.op("Div", &[&one, &root]);
                        self.op("Mul", &[&x, &inverse])
                    }
                };
                self.op("Mul", &[&scale, &plain])
            }
        };
        (y, stored)
    }

    /// Turns the first places of `[batch, head, pos, d_head]` by their positions.
    fn rotate(&mut self, x: &str) -> String {
        if self.style.rotary == 0 {
            return x.to_owned();
        }
        let turned = if self.style.rotary == 1 { WIDTH } else { 4 };
        let angles = {
            let float = self.with("Cast", &[&self.positions.clone()], &[("to", Attr::Int(1))]);
            let axes = self.patch.i64(&[2], &[1, 3]);
            let column = self.op("Unsqueeze", &[&float, &axes]);
            let speeds = self.tensor(&[turned]);
            self.op("Mul", &[&column, &speeds])
        };
        let (cos, sin) = (self.op("Cos", &[&angles]), self.op("Sin", &[&angles]));
        let (half, rotary) = (turned as i64 / 2, self.style.rotary);
        let mut slice = |from: i64, to: i64, step: i64, x: &str| {
            let [from, to, axis, step] = [from, to, 3, step].map(|n| self.patch.i64(&[1], &[n]));
            self.op("Slice", &[x, &from, &to, &axis, &step])
        };
        let (part, rest) = (slice(0, turned as i64, 1, x), slice(turned as i64, i64::MAX, 1, x));
        let whole = if turned == WIDTH { x.to_owned() } else { part };
        let end = turned as i64;
        let (a, b) = match rotary {
            2 => (slice(0, end, 2, &whole), slice(1, end, 2, &whole)),
            _ => (slice(0, half, 1, &whole), slice(half, end, 1, &whole)),
        };
        let minus = self.op("Neg", &[&b]);
        let crossed = self.with("Concat", &[&minus, &a], &[("axis", Attr::Int(-1))]);
        let (x1, x2) = (self.op("Mul", &[&whole, &cos]), self.op("Mul", &[&crossed, &sin]));
        let sum = self.op("Add", &[&x1, &x2]);
        if turned == WIDTH {
            return sum;
        }
        self.with("Concat", &[&sum, &rest], &[("axis", Attr::Int(-1))])
    }

    /// Queries, keys and values as `[batch, pos, head, d_head]`.
    fn projections(&mut self, layer: usize, x: &str) -> [String; 3] {
        let roles = [[Role::Query, Role::QueryBias], [Role::Key, Role::KeyBias], [Role::Value, Role::ValueBias]];
        let counts = [HEADS, self.style.kv, self.style.kv];
        let widths = counts.map(|n| n * WIDTH);
        let total = widths.iter().sum::<usize>();
        match self.style.packed {
            0 => [0, 1, 2].map(|i| {
                let (y, w, b) = self.linear(x, D, widths[i]);
                self.note(layer, roles[i], &w, b.as_ref(), None);
                self.view(&y, &[0, 0, counts[i] as i64, WIDTH as i64])
            }),
            1 => {
                let (y, w, b) = self.linear(x, D, total);
                let sizes = self.patch.i64(&[3], &widths.map(|n| n as i64));
                let parts = self.patch.op_many("Split", &[&y, &sizes], &[("axis", Attr::Int(-1))], 3).unwrap();
                [0, 1, 2].map(|i| {
                    let columns = Columns::block(widths[..i].iter().sum(), widths[i]);
                    self.note(layer, roles[i], &w, b.as_ref(), Some(columns));
                    self.view(&parts[i], &[0, 0, counts[i] as i64, WIDTH as i64])
                })
            }
            // For every group of queries its key and its value.
            _ => {
                let (y, w, b) = self.linear(x, D, total);
                let group = HEADS / self.style.kv;
                let stride = (group + 2) * WIDTH;
                let y = self.view(&y, &[0, 0, self.style.kv as i64, stride as i64]);
                let sizes = [group * WIDTH, WIDTH, WIDTH];
                let given = self.patch.i64(&[3], &sizes.map(|n| n as i64));
                let parts = self.patch.op_many("Split", &[&y, &given], &[("axis", Attr::Int(3))], 3).unwrap();
                [0, 1, 2].map(|i| {
                    let first = sizes[..i].iter().sum();
                    let columns = Columns { first, width: sizes[i], runs: self.style.kv, stride };
                    let columns = if self.style.kv == 1 { Columns::block(first, sizes[i]) } else { columns };
                    self.note(layer, roles[i], &w, b.as_ref(), Some(columns));
                    match i {
                        0 if group > 1 => self.view(&parts[i], &[0, 0, HEADS as i64, WIDTH as i64]),
                        _ => parts[i].clone(),
                    }
                })
            }
        }
    }

    fn attention(&mut self, layer: usize, x: &str) -> String {
        let [q, k, v] = self.projections(layer, x);
        for (site, edge) in [(BlockSite::Q, &q), (BlockSite::K, &k), (BlockSite::V, &v)] {
            self.site(layer, site, edge);
        }
        let mut factors = Vec::new();
        for (edge, role) in [(q, Role::QueryNorm), (k, Role::KeyNorm)] {
            let mut edge = edge;
            if self.style.qk_norm {
                let (normed, scale) = self.norm(&edge, WIDTH);
                self.weights.insert(WeightRef::Block(layer, role), (scale, None));
                edge = normed;
            }
            let first = self.turn(&edge, &[0, 2, 1, 3]);
            factors.push(self.rotate(&first));
        }
        let v = self.turn(&v, &[0, 2, 1, 3]);
        let (k, v) = (self.repeat(&factors[1]), self.repeat(&v));
        let k = self.turn(&k, &[0, 1, 3, 2]);
        let scores = self.op("MatMul", &[&factors[0], &k]);
        let root = self.number(2.5);
        let mut scores = self.op("Div", &[&scores, &root]);
        if self.style.capped {
            scores = self.op("Tanh", &[&scores]);
            scores = self.op("Mul", &[&root, &scores]);
        }
        let masked = self.op("Add", &[&scores, &self.mask.clone()]);
        let pattern = self.with("Softmax", &[&masked], &[("axis", Attr::Int(-1))]);
        self.site(layer, BlockSite::Pattern, &pattern);
        let mixed = self.op("MatMul", &[&pattern, &v]);
        let z = self.turn(&mixed, &[0, 2, 1, 3]);
        self.site(layer, BlockSite::Z, &z);
        let flat = self.view(&z, &[0, 0, (HEADS * WIDTH) as i64]);
        let (out, w, b) = self.linear(&flat, HEADS * WIDTH, D);
        self.note(layer, [Role::Output, Role::OutputBias], &w, b.as_ref(), None);
        self.site(layer, BlockSite::AttnProj, &out);
        out
    }

    /// Every key or value head for its group of queries.
    fn repeat(&mut self, x: &str) -> String {
        let group = HEADS / self.style.kv;
        if group == 1 {
            return x.to_owned();
        }
        let axis = self.patch.i64(&[1], &[2]);
        let apart = self.op("Unsqueeze", &[x, &axis]);
        let counts = self.patch.i64(&[5], &[1, 1, group as i64, 1, 1]);
        let several = self.op("Tile", &[&apart, &counts]);
        self.view(&several, &[0, HEADS as i64, -1, WIDTH as i64])
    }

    fn activate(&mut self, x: &str) -> String {
        match self.style.activation {
            0 => self.op("Relu", &[x]),
            1 => self.op("Gelu", &[x]),
            NONE => x.to_owned(),
            2 => {
                let gate = self.op("Sigmoid", &[x]);
                self.op("Mul", &[&gate, x])
            }
            _ => {
                let bent = self.op("Relu", &[x]);
                self.op("Mul", &[&bent, &bent])
            }
        }
    }

    fn mlp(&mut self, layer: usize, x: &str) -> String {
        let (gate, into) = ([Role::MlpGate, Role::MlpGateBias], [Role::MlpIn, Role::MlpInBias]);
        let post = match self.style.mlp {
            0 => {
                let (pre, w, b) = self.linear(x, D, MLP);
                self.note(layer, into, &w, b.as_ref(), None);
                self.site(layer, BlockSite::MlpPre, &pre);
                self.activate(&pre)
            }
            kind => {
                let (pre, linear) = if kind == 1 {
                    let (linear, w, b) = self.linear(x, D, MLP);
                    self.note(layer, into, &w, b.as_ref(), None);
                    let (pre, w, b) = self.linear(x, D, MLP);
                    self.note(layer, gate, &w, b.as_ref(), None);
                    (pre, linear)
                } else {
                    let (y, w, b) = self.linear(x, D, 2 * MLP);
                    let (step, second) = if kind == 2 { (1, MLP) } else { (2, 1) };
                    let columns = [0, second].map(|first| match step {
                        1 => Columns::block(first, MLP),
                        _ => Columns { first, width: 1, runs: MLP, stride: 2 },
                    });
                    self.note(layer, gate, &w, b.as_ref(), Some(columns[0]));
                    self.note(layer, into, &w, b.as_ref(), Some(columns[1]));
                    let mut slice = |from: usize, to: i64| {
                        let numbers = [from as i64, to, 2, step].map(|n| self.patch.i64(&[1], &[n]));
                        let [from, to, axis, step] = &numbers;
                        self.op("Slice", &[&y, from, to, axis, step])
                    };
                    let end = if step == 1 { MLP as i64 } else { i64::MAX };
                    (slice(0, end), slice(second, i64::MAX))
                };
                self.site(layer, BlockSite::MlpPre, &pre);
                self.site(layer, BlockSite::MlpPreLinear, &linear);
                let bent = self.activate(&pre);
                match self.style.swapped {
                    0 => self.op("Mul", &[&bent, &linear]),
                    _ => self.op("Mul", &[&linear, &bent]),
                }
            }
        };
        self.site(layer, BlockSite::MlpPost, &post);
        let (out, w, b) = self.linear(&post, MLP, D);
        self.note(layer, [Role::MlpOut, Role::MlpOutBias], &w, b.as_ref(), None);
        self.site(layer, BlockSite::MlpProj, &out);
        out
    }

    /// What a branch reads, and the name of the norm's scale.
    fn before(&mut self, layer: usize, x: &str, site: BlockSite, role: Role) -> String {
        if self.style.place == 2 {
            return x.to_owned();
        }
        let (y, scale) = self.norm(x, D);
        self.site(layer, site, &y);
        self.weights.insert(WeightRef::Block(layer, role), (scale, None));
        y
    }

    /// What is added of what a branch's projection gives.
    fn after(&mut self, layer: usize, out: String, site: BlockSite, role: Role) -> String {
        let mut out = out;
        if self.style.place > 0 {
            let (y, scale) = self.norm(&out, D);
            self.weights.insert(WeightRef::Block(layer, role), (scale, None));
            out = y;
        }
        if self.style.scaled {
            let factor = self.number(0.25);
            out = self.op("Mul", &[&out, &factor]);
        }
        self.site(layer, site, &out);
        out
    }

    fn block(&mut self, layer: usize, x: &str) -> String {
        self.site(layer, BlockSite::ResidPre, x);
        let read = self.before(layer, x, BlockSite::Ln1Out, Role::Ln1Scale);
        let attention = self.attention(layer, &read);
        let attention = self.after(layer, attention, BlockSite::AttnOut, Role::Ln1Post);
        if self.style.parallel == 0 {
            let mid = match self.style.swapped {
                0 => self.op("Add", &[x, &attention]),
                _ => self.op("Add", &[&attention, x]),
            };
            self.site(layer, BlockSite::ResidMid, &mid);
            let read = self.before(layer, &mid, BlockSite::Ln2Out, Role::Ln2Scale);
            let mlp = self.mlp(layer, &read);
            let mlp = self.after(layer, mlp, BlockSite::MlpOut, Role::Ln2Post);
            let post = self.op("Add", &[&mid, &mlp]);
            self.site(layer, BlockSite::ResidPost, &post);
            return post;
        }
        let second = match self.style.parallel {
            1 => read,
            _ => self.before(layer, x, BlockSite::Ln2Out, Role::Ln2Scale),
        };
        let mlp = self.mlp(layer, &second);
        let mlp = self.after(layer, mlp, BlockSite::MlpOut, Role::Ln2Post);
        let [a, b, c] = match self.style.swapped {
            0 => [x, &attention, &mlp],
            1 => [&attention, &mlp, x],
            _ => [&mlp, x, &attention],
        };
        let inner = self.op("Add", &[a, b]);
        let post = if self.style.biased { self.op("Add", &[&inner, c]) } else { self.op("Add", &[c, &inner]) };
        self.site(layer, BlockSite::ResidPost, &post);
        post
    }
}

/// The graph and what is where in it.
type Built = (Graph, BTreeMap<Site, String>, BTreeMap<WeightRef, (String, Option<Columns>)>);

fn build(seed: u64) -> Built {
    build_with(seed, |_| {})
}

fn build_with(seed: u64, change: impl Fn(&mut Style)) -> Built {
    let mut choice = Choice(seed);
    for _ in 0..3 {
        choice.of(2);
    }
    let mut style = Style {
        norm: choice.of(5),
        offset: choice.yes(),
        place: choice.of(3),
        parallel: choice.of(3),
        swapped: choice.of(3),
        packed: choice.of(3),
        kv: [1, 2, 4][choice.of(3) as usize],
        biased: choice.yes(),
        rotary: choice.of(4),
        qk_norm: choice.yes(),
        mlp: choice.of(4),
        activation: choice.of(4),
        transposed: choice.yes(),
        scaled: choice.yes(),
        capped: choice.yes(),
    };
    change(&mut style);
    let empty = Graph::empty(23);
    let mut patch = Patch::new(&empty);
    let rows = || vec![Dim::symbol("batch"), Dim::symbol("pos")];
    let ids = patch.input("text", DType::I64, rows()).unwrap();
    let padding = patch.input("kept", DType::I64, rows()).unwrap();
    let positions = match style.rotary {
        0 => String::new(),
        _ => patch.input("places", DType::I64, rows()).unwrap(),
    };
    let mask = {
        let float = patch.op("Cast", &[&padding], &[("to", Attr::Int(1))]).unwrap();
        let (one, low) = (patch.f32(&[], &[1.0]), patch.f32(&[], &[-1e9]));
        let none = patch.op("Sub", &[&one, &float], &[]).unwrap();
        let far = patch.op("Mul", &[&none, &low], &[]).unwrap();
        let axes = patch.i64(&[2], &[1, 2]);
        let wide = patch.op("Unsqueeze", &[&far, &axes], &[]).unwrap();
        let (from, to) = (patch.i64(&[1], &[1]), patch.i64(&[1], &[2]));
        let length = patch.op("Shape", &[&ids], &[]).unwrap();
        let length = patch.op("Slice", &[&length, &from, &to], &[]).unwrap();
        let square = patch.op("Concat", &[&length, &length], &[("axis", Attr::Int(0))]).unwrap();
        let later = patch.op("Expand", &[&low, &square], &[]).unwrap();
        let diagonal = patch.i64(&[], &[1]);
        let later = patch.op("Trilu", &[&later, &diagonal], &[("upper", Attr::Int(1))]).unwrap();
        patch.op("Add", &[&wide, &later], &[]).unwrap()
    };
    let (sites, weights) = (BTreeMap::new(), BTreeMap::new());
    let mut builder = Builder { patch, style, positions, mask, sites, weights, made: 0 };
    let b = &mut builder;
    let table = b.tensor(&[VOCAB, D]);
    b.weights.insert(WeightRef::Embedding, (table.clone(), None));
    let mut x = b.op("Gather", &[&table, &ids]);
    if b.style.scaled {
        let factor = b.number(3.0);
        x = b.op("Mul", &[&x, &factor]);
    }
    b.sites.insert(Site::Embed, x.clone());
    for layer in 0..LAYERS {
        x = b.block(layer, &x);
    }
    let (last, scale) = b.norm(&x, D);
    b.sites.insert(Site::LnFinal, last.clone());
    b.weights.insert(WeightRef::LnFinalScale, (scale, None));
    let head = match b.style.packed {
        0 => table,
        _ => b.tensor(&[VOCAB, D]),
    };
    let turned = b.turn(&head, &[1, 0]);
    b.weights.insert(WeightRef::Unembedding, (head, None));
    let mut logits = b.op("MatMul", &[&last, &turned]);
    if b.style.capped {
        let cap = b.number(30.0);
        logits = b.op("Div", &[&logits, &cap]);
        logits = b.op("Tanh", &[&logits]);
        logits = b.op("Mul", &[&logits, &cap]);
    }
    b.sites.insert(Site::Logits, logits.clone());
    builder.patch.tap(&logits, DType::F32).unwrap();
    (builder.patch.apply().unwrap(), builder.sites, builder.weights)
}

#[test]
fn built_decoders_are_read_as_they_were_built() {
    for seed in 0..150 {
        let (graph, sites, weights) = build(seed);
        let found = anatomy(&graph).unwrap_or_else(|e| panic!("{seed}: {e:?}"));
        let edges = found.sites.iter().map(|(site, at)| (*site, at.edge.clone())).collect();
        let differ = |name: String, a: Option<&String>, b: Option<&String>| {
            let reason = found.absent.get(&name);
            panic!("{seed}: `{name}` is {b:?} ({reason:?}), expected {a:?}")
        };
        if sites != edges {
            let all: std::collections::BTreeSet<_> = sites.keys().chain(edges.keys()).collect();
            let wrong = all.into_iter().find(|s| sites.get(s) != edges.get(s)).unwrap();
            differ(wrong.to_string(), sites.get(wrong), edges.get(wrong));
        }
        let stored = found.weights.iter().map(|(w, at)| (*w, (at.initializer.clone(), at.columns)));
        let stored: BTreeMap<_, _> = stored.collect();
        if weights != stored {
            let all: std::collections::BTreeSet<_> = weights.keys().chain(stored.keys()).collect();
            let wrong = all.into_iter().find(|w| weights.get(w) != stored.get(w)).unwrap();
            let text = |w: Option<&(String, Option<Columns>)>| w.map(|w| format!("{w:?}"));
            differ(wrong.to_string(), text(weights.get(wrong)).as_ref(), text(stored.get(wrong)).as_ref());
        }
        assert_eq!(found.inputs.mask.as_deref(), Some("kept"), "{seed}");
        assert_eq!((found.heads, found.d_head, found.layers), (HEADS, WIDTH, LAYERS), "{seed}");
    }
}

#[test]
fn a_gate_that_nothing_bends_is_ambiguous() {
    let (graph, sites, _) = build_with(3, |style| (style.mlp, style.activation) = (1, NONE));
    let error = anatomy(&graph).unwrap_err();
    assert_eq!(error.code().id, "anatomy-ambiguous");
    let named = |site| error.message().contains(&format!("`{}`", sites[&Site::Block(0, site)]));
    assert!(named(BlockSite::MlpPre) && named(BlockSite::MlpPreLinear), "{error}");
}
