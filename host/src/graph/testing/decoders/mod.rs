//! Random small decoders, built in code: every one a choice of what models differ in, in small operators or in fused ones.
//! The builder knows which edge is which site and which initializer holds which weight. The same seed gives the same
//! decoder. [`Style`] says what there is to choose, `pieces` holds what every part is made of, `block` the parts.

mod block;
mod pieces;

use std::collections::BTreeMap;

use engraft_plugin_api::{Site, WeightRef};

use crate::graph::{Attr, DType, Dim, Graph, Patch};

/// Width of the residual stream, heads and their width, width of the MLP, vocabulary and blocks of every decoder.
pub(crate) const D: usize = 8;
pub(crate) const HEADS: usize = 4;
pub(crate) const WIDTH: usize = 6;
pub(crate) const MLP: usize = 20;
pub(crate) const VOCAB: usize = 30;
pub(crate) const LAYERS: usize = 2;
const LONGEST: usize = 16;

/// The inputs of every decoder that has them, `[batch, pos]`: token ids, 1 where a token is, absolute positions.
pub(crate) const IDS: &str = "text";
pub(crate) const MASK: &str = "kept";
pub(crate) const POSITIONS: &str = "spots";

/// How a norm is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Norm {
    /// LayerNormalization.
    Layer,
    /// Its small operators.
    LayerParts,
    /// RMSNormalization.
    Rms,
    /// x · (mean + ε)^-½
    RmsPower,
    /// x · (1 / √(mean + ε))
    RmsInverse,
}

/// Where the norms of a block stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Before,
    /// Before and behind each part.
    Around,
    Behind,
}

/// Whether attention and MLP read one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parallel {
    No,
    /// They share a norm.
    OneNorm,
    TwoNorms,
}

/// How queries, keys and values are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packed {
    Apart,
    /// One behind the other.
    Blocks,
    /// For every group of queries its key and its value.
    Groups,
}

/// How a decoder knows positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Positions {
    /// From the causal mask alone.
    None,
    Learned,
    /// Scores fall with the distance.
    Slopes,
    /// Heads are turned: x · cos + turned(x) · sin.
    Rotary,
    /// The first places of each head are turned, in halves.
    Partial,
    /// The first places of each head are turned, in pairs that lie beside each other.
    Pairs,
}

/// The MLP's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    None,
    Apart,
    /// Gate and line one behind the other in one matrix.
    Blocks,
    /// Their columns in turn.
    Columns,
}

/// The function between the MLP's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// None at all: then nothing tells a gate from the line.
    Missing,
    Relu,
    Squared,
    Gelu,
    GeluParts,
    TanhParts,
    Silu,
    Quick,
}

/// What models differ in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) norm: Norm,
    /// Norms scale by 1 + w.
    pub(crate) from_one: bool,
    pub(crate) place: Place,
    pub(crate) parallel: Parallel,
    /// In which order sums and products name their operands.
    pub(crate) swapped: usize,
    pub(crate) packed: Packed,
    pub(crate) kv: usize,
    pub(crate) biased: bool,
    pub(crate) positions: Positions,
    /// Queries and keys are normalised in each head.
    pub(crate) head_norms: bool,
    pub(crate) gate: Gate,
    pub(crate) activation: Activation,
    /// Matrices are stored `[out, in]`.
    pub(crate) transposed: bool,
    /// The embedding and what blocks add are scaled.
    pub(crate) scaled: bool,
    /// Scores and logits are capped.
    pub(crate) capped: bool,
    pub(crate) tied: bool,
    /// How far back attention sees, if not to the begin.
    pub(crate) window: Option<usize>,
    /// In Attention and RotaryEmbedding.
    pub(crate) fused: bool,
    pub(crate) seed: u64,
}

/// Which columns of its initializer a weight is, as `anatomy::Columns` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: usize,
    pub(crate) width: usize,
    pub(crate) runs: usize,
    pub(crate) stride: usize,
}

impl Run {
    fn block(first: usize, width: usize) -> Self {
        Self { first, width, runs: 1, stride: width }
    }
}

/// A decoder and what is where in it. All initializers that are weights are in `weights`.
pub(crate) struct Decoder {
    pub(crate) graph: Graph,
    pub(crate) sites: BTreeMap<Site, String>,
    pub(crate) weights: BTreeMap<WeightRef, (String, Option<Run>)>,
}

/// A stream of numbers.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // The step of Knuth's MMIX generator; its upper bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.next() % all.len() as u64) as usize]
    }

    fn yes(&mut self) -> bool {
        self.of(&[false, true])
    }

    /// About `around`, give or take `spread`.
    fn values(&mut self, count: usize, around: f32, spread: f32) -> Vec<f32> {
        let unit = |n: u64| (n & 0xff_ffff) as f32 / (1u64 << 23) as f32 - 1.0;
        (0..count).map(|_| around + spread * unit(self.next())).collect()
    }
}

impl Style {
    /// The choices of a seed.
    pub(crate) fn random(seed: u64) -> Self {
        use {Activation as A, Norm as N, Positions as P};
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        dice.next();
        Self {
            norm: dice.of(&[N::Layer, N::LayerParts, N::Rms, N::RmsPower, N::RmsInverse]),
            from_one: dice.yes(),
            place: dice.of(&[Place::Before, Place::Around, Place::Behind]),
            parallel: dice.of(&[Parallel::No, Parallel::OneNorm, Parallel::TwoNorms]),
            swapped: dice.of(&[0, 1, 2]),
            packed: dice.of(&[Packed::Apart, Packed::Blocks, Packed::Groups]),
            kv: dice.of(&[1, 2, 4]),
            biased: dice.yes(),
            positions: dice.of(&[P::None, P::Learned, P::Slopes, P::Rotary, P::Partial, P::Pairs]),
            head_norms: dice.yes(),
            gate: dice.of(&[Gate::None, Gate::Apart, Gate::Blocks, Gate::Columns]),
            activation: dice.of(&[A::Relu, A::Squared, A::Gelu, A::GeluParts, A::TanhParts, A::Silu, A::Quick]),
            transposed: dice.yes(),
            scaled: dice.yes(),
            capped: dice.yes(),
            tied: dice.yes(),
            window: dice.of(&[None, None, Some(3)]),
            fused: dice.yes(),
            seed,
        }
    }

    /// True if attention itself hides later tokens, without a mask.
    pub(crate) fn masks_itself(&self) -> bool {
        self.fused && self.window.is_none() && self.positions != Positions::Slopes && self.swapped == 0
    }

    /// True if the graph asks for positions.
    fn has_positions(&self) -> bool {
        !matches!(self.positions, Positions::None | Positions::Slopes)
    }

    /// The decoder of these choices, from tokens `[batch, pos]` to logits `[batch, pos, vocab]`.
    pub(crate) fn build(&self) -> Decoder {
        let empty = Graph::empty(if self.fused || self.norm == Norm::Rms { 23 } else { 20 });
        let mut maker = Maker {
            patch: Patch::new(&empty),
            style: self,
            mask: String::new(),
            sites: BTreeMap::new(),
            weights: BTreeMap::new(),
            dice: Dice(self.seed.wrapping_mul(0xD1B5_4A32_D192_ED03) | 1),
        };
        let logits = maker.decoder();
        maker.patch.tap(&logits, DType::F32).unwrap();
        let Maker { patch, sites, weights, .. } = maker;
        Decoder { graph: patch.apply().unwrap(), sites, weights }
    }
}

struct Maker<'m> {
    patch: Patch<'m>,
    style: &'m Style,
    /// What is added to scores, if something is.
    mask: String,
    sites: BTreeMap<Site, String>,
    weights: BTreeMap<WeightRef, (String, Option<Run>)>,
    dice: Dice,
}

impl Maker<'_> {
    fn decoder(&mut self) -> String {
        let style = self.style;
        let rows = || vec![Dim::symbol("batch"), Dim::symbol("pos")];
        self.patch.input(IDS, DType::I64, rows()).unwrap();
        if !style.masks_itself() {
            self.patch.input(MASK, DType::I64, rows()).unwrap();
            self.mask = self.seen();
        }
        if style.has_positions() {
            self.patch.input(POSITIONS, DType::I64, rows()).unwrap();
        }
        let table = self.tensor(&[VOCAB, D], 0.0, 1.0);
        self.weights.insert(WeightRef::Embedding, (table.clone(), None));
        let mut x = self.op("Gather", &[&table, IDS]);
        if style.scaled {
            let factor = self.number(1.5);
            x = self.op("Mul", &[&x, &factor]);
        }
        if style.positions == Positions::Learned {
            let table = self.tensor(&[LONGEST, D], 0.0, 0.5);
            self.weights.insert(WeightRef::Positions, (table.clone(), None));
            let places = self.op("Gather", &[&table, POSITIONS]);
            x = self.op("Add", &[&x, &places]);
        }
        self.sites.insert(Site::Embed, x.clone());
        for layer in 0..LAYERS {
            x = self.block(layer, &x);
        }
        let last = self.norm(&x, D, WeightRef::LnFinalScale, Some(WeightRef::LnFinalShift));
        self.sites.insert(Site::LnFinal, last.clone());
        let head = if style.tied { table } else { self.tensor(&[VOCAB, D], 0.0, 0.6) };
        let turned = self.turn(&head, &[1, 0]);
        self.weights.insert(WeightRef::Unembedding, (head, None));
        let mut logits = self.op("MatMul", &[&last, &turned]);
        if style.capped {
            logits = self.cap(&logits, 5.0);
        }
        self.sites.insert(Site::Logits, logits.clone());
        logits
    }

    /// `[batch, head or 1, query, key]`: 0 where a token may be seen, less the slopes, else far below.
    fn seen(&mut self) -> String {
        let (one, low, zero) = (self.number(1.0), self.number(-1e9), self.number(0.0));
        let float = self.with("Cast", &[MASK], &[("to", Attr::Int(1))]);
        let none = self.op("Sub", &[&one, &float]);
        let far = self.op("Mul", &[&none, &low]);
        let axes = self.patch.i64(&[2], &[1, 2]);
        let wide = self.op("Unsqueeze", &[&far, &axes]);
        let (shape, second) = (self.op("Shape", &[IDS]), self.patch.i64(&[], &[1]));
        let (begin, column) = (self.patch.i64(&[], &[0]), self.patch.i64(&[1], &[1]));
        let length = self.op("Gather", &[&shape, &second]);
        let places = self.op("Range", &[&begin, &length, &second]);
        let queries = self.op("Unsqueeze", &[&places, &column]);
        let mut open = self.op("LessOrEqual", &[&places, &queries]);
        let back = self.op("Sub", &[&queries, &places]);
        if let Some(window) = self.style.window {
            let window = self.patch.i64(&[], &[window as i64]);
            let near = self.op("Less", &[&back, &window]);
            open = self.op("And", &[&open, &near]);
        }
        let later = self.op("Where", &[&open, &zero, &low]);
        let mask = self.op("Add", &[&wide, &later]);
        if self.style.positions != Positions::Slopes {
            return mask;
        }
        let slopes: Vec<f32> = (1..=HEADS).map(|head| 0.5f32.powi(head as i32)).collect();
        let slopes = self.patch.f32(&[HEADS, 1, 1], &slopes);
        let back = self.with("Cast", &[&back], &[("to", Attr::Int(1))]);
        let less = self.op("Mul", &[&slopes, &back]);
        self.op("Sub", &[&mask, &less])
    }
}
