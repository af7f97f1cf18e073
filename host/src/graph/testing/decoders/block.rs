//! The parts of a block: attention, the MLP, and how they are joined to the stream.

use engraft_plugin_api::{BlockSite, Role, WeightRef};

use super::{D, Gate, HEADS, MLP, Maker, POSITIONS, Packed, Parallel, Place, Positions, Run, WIDTH};
use crate::graph::Attr;

const LAST: [(&str, Attr); 1] = [("axis", Attr::Int(-1))];

impl Maker<'_> {
    /// Cosine and sine of the angles of each place, `[batch, pos, count]`.
    fn angles(&mut self, count: usize) -> [String; 2] {
        let speeds: Vec<f32> = (0..count).map(|i| 10f32.powf(-(i as f32) / count as f32)).collect();
        let (speeds, last) = (self.patch.f32(&[count], &speeds), self.patch.i64(&[1], &[-1]));
        let places = self.with("Cast", &[POSITIONS], &[("to", Attr::Int(1))]);
        let places = self.op("Unsqueeze", &[&places, &last]);
        let angles = self.op("Mul", &[&places, &speeds]);
        [self.op("Cos", &[&angles]), self.op("Sin", &[&angles])]
    }

    /// Queries or keys `[batch, head, pos, d_head]` turned by their positions.
    fn rotate(&mut self, x: &str) -> String {
        let kind = self.style.positions;
        let turned = match kind {
            Positions::Rotary => WIDTH,
            Positions::Partial | Positions::Pairs => 4,
            _ => return x.to_owned(),
        };
        let half = turned / 2;
        let [cos, sin] = self.angles(half);
        let pairs = kind == Positions::Pairs;
        if self.style.fused {
            let mut attributes = vec![("interleaved", Attr::Int(i64::from(pairs)))];
            if turned < WIDTH {
                attributes.push(("rotary_embedding_dim", Attr::Int(turned as i64)));
                attributes.push(("num_heads", Attr::Int(HEADS as i64)));
            }
            return self.with("RotaryEmbedding", &[x, &cos, &sin], &attributes);
        }
        let heads = self.patch.i64(&[1], &[1]);
        let [cos, sin] = [cos, sin].map(|angles| self.op("Unsqueeze", &[&angles, &heads]));
        let end = turned as i64;
        if pairs {
            let (a, b) = (self.cut(x, 0, end, 2), self.cut(x, 1, end, 2));
            let mut product = |a: &str, b: &str| self.op("Mul", &[a, b]);
            let (ac, bs, bc, sa) = (product(&a, &cos), product(&b, &sin), product(&b, &cos), product(&sin, &a));
            let (real, imaginary) = (self.op("Sub", &[&ac, &bs]), self.op("Add", &[&bc, &sa]));
            let last = self.patch.i64(&[1], &[-1]);
            let [real, imaginary] = [real, imaginary].map(|part| self.op("Unsqueeze", &[&part, &last]));
            let joined = self.with("Concat", &[&real, &imaginary], &LAST);
            let flat = self.view(&joined, &[0, 0, 0, -1]);
            let rest = self.cut(x, turned, i64::MAX, 1);
            return self.with("Concat", &[&flat, &rest], &LAST);
        }
        let part = if turned == WIDTH { x.to_owned() } else { self.cut(x, 0, end, 1) };
        let [cos, sin] = [cos, sin].map(|half| self.with("Concat", &[&half, &half], &LAST));
        let (a, b) = (self.cut(&part, 0, half as i64, 1), self.cut(&part, half, end, 1));
        let minus = self.op("Neg", &[&b]);
        let crossed = self.with("Concat", &[&minus, &a], &LAST);
        let (x1, x2) = (self.op("Mul", &[&part, &cos]), self.op("Mul", &[&crossed, &sin]));
        let sum = self.op("Add", &[&x1, &x2]);
        if turned == WIDTH {
            return sum;
        }
        let rest = self.cut(x, turned, i64::MAX, 1);
        self.with("Concat", &[&sum, &rest], &LAST)
    }

    /// Queries, keys and values as `[batch, pos, head, d_head]`.
    fn projections(&mut self, layer: usize, x: &str) -> [String; 3] {
        let roles = [[Role::Query, Role::QueryBias], [Role::Key, Role::KeyBias], [Role::Value, Role::ValueBias]];
        let kv = self.style.kv;
        let counts = [HEADS, kv, kv];
        let widths = counts.map(|n| n * WIDTH);
        let total = widths.iter().sum::<usize>();
        match self.style.packed {
            Packed::Apart => [0, 1, 2].map(|i| {
                let (y, stored) = self.linear(x, D, widths[i]);
                self.note(layer, roles[i], &stored, None);
                self.view(&y, &[0, 0, counts[i] as i64, WIDTH as i64])
            }),
            Packed::Blocks => {
                let (y, stored) = self.linear(x, D, total);
                let sizes = self.patch.i64(&[3], &widths.map(|n| n as i64));
                let parts = self.patch.op_many("Split", &[&y, &sizes], &LAST, 3).unwrap();
                [0, 1, 2].map(|i| {
                    let run = Run::block(widths[..i].iter().sum(), widths[i]);
                    self.note(layer, roles[i], &stored, Some(run));
                    self.view(&parts[i], &[0, 0, counts[i] as i64, WIDTH as i64])
                })
            }
            Packed::Groups => {
                let (y, stored) = self.linear(x, D, total);
                let group = HEADS / kv;
                let stride = (group + 2) * WIDTH;
                let y = self.view(&y, &[0, 0, kv as i64, stride as i64]);
                let sizes = [group * WIDTH, WIDTH, WIDTH];
                let given = self.patch.i64(&[3], &sizes.map(|n| n as i64));
                let parts = self.patch.op_many("Split", &[&y, &given], &LAST, 3).unwrap();
                [0, 1, 2].map(|i| {
                    let first = sizes[..i].iter().sum();
                    let run = Run { first, width: sizes[i], runs: kv, stride };
                    self.note(layer, roles[i], &stored, Some(if kv == 1 { Run::block(first, sizes[i]) } else { run }));
                    match i {
                        0 if group > 1 => self.view(&parts[i], &[0, 0, HEADS as i64, WIDTH as i64]),
                        _ => parts[i].clone(),
                    }
                })
            }
        }
    }

    fn attention(&mut self, layer: usize, x: &str) -> String {
        let style = self.style;
        let [q, k, v] = self.projections(layer, x);
        for (site, edge) in [(BlockSite::Q, &q), (BlockSite::K, &k), (BlockSite::V, &v)] {
            self.site(layer, site, edge);
        }
        let [q, k] = [(q, Role::QueryNorm), (k, Role::KeyNorm)].map(|(edge, role)| {
            let edge = match style.head_norms {
                true => self.norm(&edge, WIDTH, WeightRef::Block(layer, role), None),
                false => edge,
            };
            let first = self.turn(&edge, &[0, 2, 1, 3]);
            self.rotate(&first)
        });
        let v = self.turn(&v, &[0, 2, 1, 3]);
        let mask = self.mask.clone();
        let mixed = if style.fused {
            let mut attributes = vec![("scale", Attr::Float(0.4))];
            if style.capped {
                attributes.push(("softcap", Attr::Float(2.5)));
            }
            if style.masks_itself() {
                attributes.push(("is_causal", Attr::Int(1)));
                self.with("Attention", &[&q, &k, &v], &attributes)
            } else {
                self.with("Attention", &[&q, &k, &v, &mask], &attributes)
            }
        } else {
            let [k, v] = [k, v].map(|heads| self.repeat(&heads));
            let k = self.turn(&k, &[0, 1, 3, 2]);
            let scores = self.op("MatMul", &[&q, &k]);
            let root = self.number(2.5);
            let mut scores = self.op("Div", &[&scores, &root]);
            if style.capped {
                scores = self.cap(&scores, 2.5);
            }
            let masked = self.op("Add", &[&scores, &mask]);
            let pattern = self.with("Softmax", &[&masked], &LAST);
            self.site(layer, BlockSite::Pattern, &pattern);
            self.op("MatMul", &[&pattern, &v])
        };
        let z = self.turn(&mixed, &[0, 2, 1, 3]);
        self.site(layer, BlockSite::Z, &z);
        let flat = self.view(&z, &[0, 0, (HEADS * WIDTH) as i64]);
        let (out, stored) = self.linear(&flat, HEADS * WIDTH, D);
        self.note(layer, [Role::Output, Role::OutputBias], &stored, None);
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
        let several = self.op(if self.style.biased { "Tile" } else { "Expand" }, &[&apart, &counts]);
        self.view(&several, &[0, HEADS as i64, -1, WIDTH as i64])
    }

    /// A matrix into the MLP.
    fn entering(&mut self, layer: usize, x: &str, roles: [Role; 2]) -> String {
        let (y, stored) = self.linear(x, D, MLP);
        self.note(layer, roles, &stored, None);
        y
    }

    fn mlp(&mut self, layer: usize, x: &str) -> String {
        let (gate, into) = ([Role::MlpGate, Role::MlpGateBias], [Role::MlpIn, Role::MlpInBias]);
        let (pre, linear) = match self.style.gate {
            Gate::None => (self.entering(layer, x, into), None),
            Gate::Apart => {
                let linear = self.entering(layer, x, into);
                (self.entering(layer, x, gate), Some(linear))
            }
            packed => {
                let (y, stored) = self.linear(x, D, 2 * MLP);
                let (runs, second, end, step) = match packed {
                    Gate::Blocks => ([0, MLP].map(|first| Run::block(first, MLP)), MLP, MLP as i64, 1),
                    _ => ([0, 1].map(|first| Run { first, width: 1, runs: MLP, stride: 2 }), 1, i64::MAX, 2),
                };
                self.note(layer, gate, &stored, Some(runs[0]));
                self.note(layer, into, &stored, Some(runs[1]));
                (self.cut(&y, 0, end, step), Some(self.cut(&y, second, i64::MAX, step)))
            }
        };
        self.site(layer, BlockSite::MlpPre, &pre);
        let mut post = self.activate(&pre);
        if let Some(linear) = linear {
            self.site(layer, BlockSite::MlpPreLinear, &linear);
            let [a, b] = if self.style.swapped == 0 { [&post, &linear] } else { [&linear, &post] };
            post = self.op("Mul", &[a, b]);
        }
        self.site(layer, BlockSite::MlpPost, &post);
        let (out, stored) = self.linear(&post, MLP, D);
        self.note(layer, [Role::MlpOut, Role::MlpOutBias], &stored, None);
        self.site(layer, BlockSite::MlpProj, &out);
        out
    }

    /// What a part reads.
    fn before(&mut self, layer: usize, x: &str, site: BlockSite, [scale, shift]: [Role; 2]) -> String {
        if self.style.place == Place::Behind {
            return x.to_owned();
        }
        let y = self.norm(x, D, WeightRef::Block(layer, scale), Some(WeightRef::Block(layer, shift)));
        self.site(layer, site, &y);
        y
    }

    /// What is added of what a part's projection gives.
    fn behind(&mut self, layer: usize, out: String, site: BlockSite, scale: Role) -> String {
        let mut out = out;
        if self.style.place != Place::Before {
            out = self.norm(&out, D, WeightRef::Block(layer, scale), None);
        }
        if self.style.scaled {
            let factor = self.number(0.7);
            out = self.op("Mul", &[&out, &factor]);
        }
        self.site(layer, site, &out);
        out
    }

    pub(super) fn block(&mut self, layer: usize, x: &str) -> String {
        let (swapped, parallel) = (self.style.swapped, self.style.parallel);
        let second = [Role::Ln2Scale, Role::Ln2Shift];
        self.site(layer, BlockSite::ResidPre, x);
        let read = self.before(layer, x, BlockSite::Ln1Out, [Role::Ln1Scale, Role::Ln1Shift]);
        let attention = self.attention(layer, &read);
        let attention = self.behind(layer, attention, BlockSite::AttnOut, Role::Ln1Post);
        if parallel == Parallel::No {
            let [a, b] = if swapped == 0 { [x, &attention] } else { [&attention, x] };
            let mid = self.op("Add", &[a, b]);
            self.site(layer, BlockSite::ResidMid, &mid);
            let read = self.before(layer, &mid, BlockSite::Ln2Out, second);
            let mlp = self.mlp(layer, &read);
            let mlp = self.behind(layer, mlp, BlockSite::MlpOut, Role::Ln2Post);
            let post = self.op("Add", &[&mid, &mlp]);
            self.site(layer, BlockSite::ResidPost, &post);
            return post;
        }
        let read = match parallel {
            Parallel::OneNorm => read,
            _ => self.before(layer, x, BlockSite::Ln2Out, second),
        };
        let mlp = self.mlp(layer, &read);
        let mlp = self.behind(layer, mlp, BlockSite::MlpOut, Role::Ln2Post);
        let [a, b, c] = match swapped {
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
