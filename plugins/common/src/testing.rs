//! A language model of one block that answers as a host does, small enough to be differentiated by hand. Methods are
//! tested against it without a runtime.
//!
//! x(p) = E[tokₚ] + ½ mean E[tok before p], post = tanh(x·W_in), out = post·W_out + b + adds,
//! f(p) = h(p) + c Σ h(before p) with h = x + out, logits = f·W_U. Attention is replaced by the two fixed sums, so
//! that what is written at one token is read at later ones.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;

use engraft_plugin_api::{
    BlockSite, Change, Decoding, Delta, EditRequest, GenerateRequest, GradientReply, GradientRequest, KlDirection,
    Level, MethodError, ModelAccess, ModelFacts, Place, Poke, Role, RunReply, RunRequest, Sampling, SecondMoment, Site,
    Target, Tensor, Term, Tokens, WeightRef, Wrt,
};
use ndarray::{Array1, Array2, Axis, s};

use crate::random::Random;
use crate::reading::log_softmax;

const WIDTH: usize = 16;
const KEYS: usize = 24;
const CONTEXT: usize = 64;
const CARRY: f32 = 0.5;
/// Each word stands in the vocabulary with and without a leading space; id 0 begins texts.
const WORDS: &str = "The mother of Ada Vorn is Kelm a It rained . So Once city Bran Tor Mil Esk sport plays";
const POST: Site = Site::Block(0, BlockSite::MlpPost);
const OUT: Site = Site::Block(0, BlockSite::MlpProj);
const RESID: Site = Site::Block(0, BlockSite::ResidPost);
const W_OUT: WeightRef = WeightRef::Block(0, Role::MlpOut);

/// How often the model was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Forward passes.
    pub runs: usize,
    /// Gradients.
    pub gradients: usize,
    /// Second moments.
    pub moments: usize,
    /// Questions whether the user has asked to stop.
    pub cancel_checks: usize,
}

/// The model and its host.
pub struct Mock {
    vocabulary: Vec<String>,
    embedding: Array2<f32>,
    w_in: Array2<f32>,
    w_out: Array2<f32>,
    bias: Array1<f32>,
    unembedding: Array2<f32>,
    seed: u64,
    moment_rows: usize,
    cancel_after: Option<usize>,
    calls: Mutex<Calls>,
}

/// A request for the mock; every word of it must be in the mock's vocabulary.
pub fn request(prompt: &str, subject: Option<&str>, target: &str) -> EditRequest {
    EditRequest {
        id: "test".into(),
        prompt: prompt.into(),
        subject: subject.map(Into::into),
        target: Target { new: target.into(), old: None },
    }
}

/// One row's activations.
struct Pass {
    post: Array2<f32>,
    out: Array2<f32>,
    last: Array2<f32>,
}

impl Mock {
    /// A model with random weights drawn from `weights`.
    pub fn new(weights: u64) -> Self {
        let vocabulary: Vec<String> = std::iter::once("<start>".to_owned())
            .chain(WORDS.split(' ').flat_map(|w| [w.to_owned(), format!(" {w}")]))
            .collect();
        let mut random = Random::new(weights);
        let mut draw = |rows: usize, cols: usize, scale: f32| {
            Array2::from_shape_simple_fn((rows, cols), || scale * (random.uniform() * 2.0 - 1.0))
        };
        Self {
            embedding: draw(vocabulary.len(), WIDTH, 1.0),
            w_in: draw(WIDTH, KEYS, 0.5),
            w_out: draw(KEYS, WIDTH, 0.3),
            bias: draw(1, WIDTH, 0.2).remove_axis(Axis(0)),
            unembedding: draw(WIDTH, vocabulary.len(), 0.8),
            vocabulary,
            seed: 0,
            moment_rows: 400,
            cancel_after: None,
            calls: Mutex::default(),
        }
    }

    /// With another seed of the random streams.
    #[must_use]
    pub fn seeded(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// With a second moment that is the mean of so few positions.
    #[must_use]
    pub fn with_moment_of(self, positions: usize) -> Self {
        Self { moment_rows: positions, ..self }
    }

    /// Which the user cancels after so many questions.
    #[must_use]
    pub fn cancelled_after(self, questions: usize) -> Self {
        Self { cancel_after: Some(questions), ..self }
    }

    /// How often it was asked.
    pub fn calls(&self) -> Calls {
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Σ log p of `continuation` after `text`, in nats, under changes.
    ///
    /// # Errors
    /// As [`ModelAccess::run`].
    pub fn log_probability(&self, text: &str, continuation: &str, under: &[Change]) -> Result<f32, MethodError> {
        let prompt = self.tokenize(text)?.ids;
        let target = self.tokenize(continuation)?.ids;
        let logits = (0..target.len()).map(|j| Place { row: 0, pos: prompt.len() - 1 + j }).collect();
        let rows = vec![[&prompt[..], &target[..]].concat()];
        let reply = self.run(&RunRequest { rows, logits, under: under.to_vec(), ..RunRequest::default() })?;
        let table = reply.logits.matrix()?;
        Ok(target.iter().zip(table.outer_iter()).map(|(&t, row)| log_softmax(&row.to_vec())[t as usize]).sum())
    }

    fn count(&self, what: impl FnOnce(&mut Calls)) {
        what(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn pass(&self, row: usize, ids: &[u32], adds: &[Poke], w_out: &Array2<f32>) -> Result<Pass, MethodError> {
        if ids.is_empty() || ids.len() > CONTEXT {
            return Err(MethodError::new("host-row-length", format!("row {row} has {} tokens", ids.len())));
        }
        let mut x = Array2::zeros((ids.len(), WIDTH));
        let mut before = Array1::<f32>::zeros(WIDTH);
        for (p, &id) in ids.iter().enumerate() {
            let own = self.embedding.row(id as usize);
            x.row_mut(p).assign(&(&own + &(&before * (0.5 / p.max(1) as f32))));
            before += &own;
        }
        let post = x.dot(&self.w_in).mapv(f32::tanh);
        let mut out = post.dot(w_out) + &self.bias;
        for poke in adds {
            if poke.site != OUT {
                return Err(unsupported(&format!("an add at {}", poke.site)));
            }
            let values = poke.values.matrix()?;
            for (i, place) in poke.places.iter().enumerate().filter(|(_, p)| p.row == row) {
                let mut at = out.row_mut(place.pos);
                at += &values.row(if values.nrows() == 1 { 0 } else { i });
            }
        }
        let mut last = &x + &out;
        let mut carried = Array1::<f32>::zeros(WIDTH);
        for mut at in last.rows_mut() {
            let own = at.to_owned();
            at.scaled_add(CARRY, &carried);
            carried += &own;
        }
        Ok(Pass { post, out, last })
    }

    fn edited(&self, under: &[Change]) -> Result<Array2<f32>, MethodError> {
        let mut w = self.w_out.clone();
        for change in under {
            match change {
                Change::Weight { weight: W_OUT, delta: Delta::Dense(delta) } => w += &delta.matrix()?,
                Change::Weight { weight: W_OUT, delta: Delta::LowRank { left, right } } => {
                    w += &left.matrix()?.dot(&right.matrix()?);
                }
                other => return Err(unsupported(&format!("{other:?}"))),
            }
        }
        Ok(w)
    }

    fn passes(&self, rows: &[Vec<u32>], adds: &[Poke], under: &[Change]) -> Result<Vec<Pass>, MethodError> {
        let w = self.edited(under)?;
        rows.iter().enumerate().map(|(row, ids)| self.pass(row, ids, adds, &w)).collect()
    }

    /// The value of a term and its gradient with respect to the logits.
    fn term(&self, passes: &[Pass], term: &Term) -> Result<(Place, f32, f32, Array1<f32>), MethodError> {
        let logits = |place: &Place| passes[place.row].last.row(place.pos).dot(&self.unembedding).to_vec();
        match term {
            Term::Nll { place, token, weight } => {
                let logs = log_softmax(&logits(place));
                let mut gradient = Array1::from_iter(logs.iter().map(|l| l.exp()));
                gradient[*token as usize] -= 1.0;
                Ok((*place, -logs[*token as usize], *weight, gradient))
            }
            Term::Kl { place, reference, direction: KlDirection::FromCurrent, weight } => {
                let logs = log_softmax(&logits(place));
                let value: f32 = logs.iter().zip(reference).map(|(l, r)| l.exp() * (l - r)).sum();
                let gradient = logs.iter().zip(reference).map(|(l, r)| l.exp() * (l - r - value)).collect();
                Ok((*place, value, *weight, gradient))
            }
            other => Err(unsupported(&format!("{other:?}"))),
        }
    }
}

fn unsupported(what: &str) -> MethodError {
    MethodError::new("host-unsupported", format!("the mock has no {what}"))
}

impl ModelAccess for Mock {
    fn facts(&self) -> ModelFacts {
        ModelFacts {
            hash: "mock".into(),
            layers: 1,
            d_model: WIDTH,
            d_mlp: KEYS,
            heads: 1,
            vocab: self.vocabulary.len(),
            context: CONTEXT,
            start_token: Some(0),
            sites: vec![POST, OUT],
            weights: vec![W_OUT],
            prefixes: vec!["It rained. {}".into(), "So {}".into(), "Once a city is Tor. {}".into()],
        }
    }

    fn tokenize(&self, text: &str) -> Result<Tokens, MethodError> {
        let mut tokens = Tokens::default();
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let longest = self.vocabulary.iter().enumerate().filter(|(_, w)| rest.starts_with(w.as_str()));
            let (id, word) = longest.max_by_key(|(_, w)| w.len()).ok_or_else(|| {
                MethodError::new("host-tokenizer", format!("`{rest}` begins with no word of the vocabulary"))
            })?;
            tokens.ids.push(id as u32);
            tokens.spans.push(Range { start: at, end: at + word.len() });
            at += word.len();
        }
        Ok(tokens)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, MethodError> {
        let word = |id: &u32| self.vocabulary.get(*id as usize).map(String::as_str);
        ids.iter().map(word).collect::<Option<String>>().ok_or_else(|| unsupported("such token"))
    }

    fn weight(&self, weight: WeightRef) -> Result<Tensor, MethodError> {
        if weight == W_OUT { Ok(Tensor::from_array(&self.w_out)) } else { Err(unsupported(&weight.to_string())) }
    }

    fn run(&self, request: &RunRequest) -> Result<RunReply, MethodError> {
        self.count(|c| c.runs += 1);
        let passes = self.passes(&request.rows, &request.adds, &request.under)?;
        let mut taps = Vec::new();
        for tap in &request.taps {
            let of: fn(&Pass) -> &Array2<f32> = match tap.site {
                POST => |p| &p.post,
                OUT => |p| &p.out,
                RESID => |p| &p.last,
                other => return Err(unsupported(&other.to_string())),
            };
            let places = tap.places.as_ref().ok_or_else(|| unsupported("tap of every position"))?;
            let rows: Vec<_> = places.iter().map(|p| of(&passes[p.row]).slice(s![p.pos, ..])).collect();
            taps.push(Tensor::from_array(&stacked(&rows)?));
        }
        let vocab = self.vocabulary.len();
        let mut logits = Vec::with_capacity(request.logits.len() * vocab);
        for place in &request.logits {
            logits.extend(passes[place.row].last.row(place.pos).dot(&self.unembedding));
        }
        Ok(RunReply { taps, logits: Tensor::f32([request.logits.len(), vocab], logits)? })
    }

    fn gradient(&self, request: &GradientRequest) -> Result<GradientReply, MethodError> {
        self.count(|c| c.gradients += 1);
        let passes = self.passes(&request.rows, &request.adds, &request.under)?;
        let mut outs: Vec<Array2<f32>> = passes.iter().map(|p| Array2::zeros(p.out.raw_dim())).collect();
        let (mut loss, mut values) = (0.0, Vec::new());
        for term in &request.terms {
            let (place, value, weight, to_logits) = self.term(&passes, term)?;
            loss += weight * value;
            values.push(value);
            let to_last = self.unembedding.dot(&to_logits) * weight;
            for p in 0..=place.pos {
                let share = if p == place.pos { 1.0 } else { CARRY };
                outs[place.row].row_mut(p).scaled_add(share, &to_last);
            }
        }
        let mut gradients = Vec::new();
        for wrt in &request.wrt {
            gradients.push(vec![match wrt {
                Wrt::Add(i) => {
                    let places = &request.adds[*i].places;
                    let rows: Vec<_> = places.iter().map(|p| outs[p.row].slice(s![p.pos, ..])).collect();
                    Tensor::from_array(&stacked(&rows)?)
                }
                Wrt::Trial(i) => {
                    let Change::Weight { weight: W_OUT, delta: Delta::Dense(_) } = &request.under[*i] else {
                        return Err(unsupported("gradient of this trial"));
                    };
                    let mut sum = Array2::<f32>::zeros((KEYS, WIDTH));
                    for (pass, out) in passes.iter().zip(&outs) {
                        sum += &pass.post.t().dot(out);
                    }
                    Tensor::from_array(&sum)
                }
                other => return Err(unsupported(&format!("{other:?}"))),
            }]);
        }
        Ok(GradientReply { loss, terms: values, gradients })
    }

    fn generate(&self, request: &GenerateRequest) -> Result<Vec<Vec<u32>>, MethodError> {
        let Decoding::Sample(Sampling { top_k: Some(k), top_p: None, temperature, seed }) = request.decoding else {
            return Err(unsupported("decoding other than from the most probable tokens"));
        };
        let mut random = Random::new(seed);
        let w = self.edited(&request.under)?;
        let mut out = Vec::new();
        for row in &request.rows {
            let mut ids = row.clone();
            while ids.len() < row.len() + request.max_new {
                let pass = self.pass(0, &ids, &[], &w)?;
                let logits = pass.last.row(ids.len() - 1).dot(&self.unembedding);
                let mut best: Vec<(usize, f32)> = logits.iter().map(|l| l / temperature).enumerate().collect();
                best.sort_by(|a, b| b.1.total_cmp(&a.1));
                best.truncate(k);
                let logs = log_softmax(&best.iter().map(|b| b.1).collect::<Vec<_>>());
                let mut left = random.uniform();
                let drawn = logs.iter().position(|l| {
                    left -= l.exp();
                    left < 0.0
                });
                let id = best[drawn.unwrap_or(0)].0 as u32;
                if request.stop.contains(&id) {
                    break;
                }
                ids.push(id);
            }
            out.push(ids.split_off(row.len()));
        }
        Ok(out)
    }

    fn second_moment(&self, site: Site) -> Result<SecondMoment, MethodError> {
        self.count(|c| c.moments += 1);
        if site != POST {
            return Err(unsupported(&site.to_string()));
        }
        let mut random = Random::new(17);
        let mut sum = Array2::<f32>::zeros((KEYS, KEYS));
        for _ in 0..self.moment_rows {
            let ids: Vec<u32> = (0..6).map(|_| (random.bits() % self.vocabulary.len() as u64) as u32).collect();
            let key = self.pass(0, &ids, &[], &self.w_out)?.post.slice_move(s![5..6, ..]);
            sum += &key.t().dot(&key);
        }
        let matrix = Tensor::from_array(&(sum / self.moment_rows as f32));
        Ok(SecondMoment { matrix, tokens: self.moment_rows as u64 })
    }

    fn random(&self, stream: &str) -> u64 {
        let hash = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3); // FNV-1a
        stream.bytes().fold(0xcbf2_9ce4_8422_2325 ^ self.seed, hash)
    }

    fn cancelled(&self) -> bool {
        self.count(|c| c.cancel_checks += 1);
        self.cancel_after.is_some_and(|n| self.calls().cancel_checks > n)
    }

    fn progress(&self, _done: u64, _total: u64, _what: &str) {}

    fn log(&self, _level: Level, _message: &str) {}
}

fn stacked(rows: &[ndarray::ArrayView1<'_, f32>]) -> Result<Array2<f32>, MethodError> {
    ndarray::stack(Axis(0), rows).map_err(|e| MethodError::new("host-shape", e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradients_are_those_of_finite_differences() {
        let mock = Mock::new(3);
        let at = |value: f32, weight: f32| {
            let mut add = vec![0.1; WIDTH];
            add[3] += value;
            let mut delta = vec![0.0; KEYS * WIDTH];
            delta[5 * WIDTH + 2] = weight;
            GradientRequest {
                rows: vec![vec![1, 2, 3, 4], vec![5, 6]],
                adds: vec![Poke {
                    site: OUT,
                    places: vec![Place { row: 0, pos: 1 }, Place { row: 1, pos: 1 }],
                    values: Tensor::f32([1, WIDTH], add).expect("fits"),
                }],
                under: vec![Change::Weight {
                    weight: W_OUT,
                    delta: Delta::Dense(Tensor::f32([KEYS, WIDTH], delta).expect("fits")),
                }],
                terms: vec![
                    Term::Nll { place: Place { row: 0, pos: 3 }, token: 9, weight: 0.7 },
                    Term::Kl {
                        place: Place { row: 1, pos: 1 },
                        reference: vec![-(mock.vocabulary.len() as f32).ln(); mock.vocabulary.len()],
                        direction: KlDirection::FromCurrent,
                        weight: 0.4,
                    },
                ],
                wrt: vec![Wrt::Add(0), Wrt::Trial(0)],
                ..GradientRequest::default()
            }
        };
        let ask = |value, weight| mock.gradient(&at(value, weight)).expect("differentiates");
        let h = 1e-2;
        let slope = (ask(h, 0.0).loss - ask(-h, 0.0).loss) / (2.0 * h);
        let here = ask(0.0, 0.0);
        let add = here.gradients[0][0].matrix().expect("matrix").column(3).sum();
        assert!((slope - add).abs() < 1e-3, "{slope} {add}");
        let slope = (ask(0.0, h).loss - ask(0.0, -h).loss) / (2.0 * h);
        let trial = here.gradients[1][0].matrix().expect("matrix")[[5, 2]];
        assert!((slope - trial).abs() < 1e-3, "{slope} {trial}");
    }
}
