//! Prompts of records as pairs of queries and edits, and how pairs are judged.

use engraft_plugin_api::{MethodError, ModelAccess, TrainData, TrainRecord};
use ndarray::{Array1, Array2, Axis};

use super::learn::START;
use super::metric::Metric;
use super::read;
use crate::check_cancelled;
use crate::random::Random;

/// How many of the texts take part, each with one of its prefixes.
const TEXTS: usize = 256;

/// Prompts of records: edits, and queries that are or are not in their scopes.
pub(super) struct Pairs {
    /// Standardised, `[edits, d]`.
    pub edits: Array2<f32>,
    /// Standardised, `[queries, d]`.
    pub queries: Array2<f32>,
    /// The edits in whose scope each query is, ascending.
    within: Vec<Vec<usize>>,
    /// The edit that each query was given with; none of texts.
    own: Vec<Option<usize>>,
}

/// How queries were judged.
pub(super) struct Judged {
    pub loss: f64,
    /// With respect to the logits, `[queries, edits]`.
    pub gradient: Array2<f64>,
    /// Of the queries that came with an edit, how many are judged rightly by its logit: those within its scope, those
    /// without.
    pub shares: [f64; 2],
}

/// A beginning of each of the first texts, as tokens.
pub(super) fn prefixes(access: &dyn ModelAccess, data: &TrainData) -> Result<Vec<Vec<u32>>, MethodError> {
    let mut random = Random::new(access.random("texts"));
    let mut rows = Vec::new();
    for text in data.texts.iter().take(TEXTS) {
        let mut ids = access.tokenize(text)?.ids;
        if !ids.is_empty() {
            ids.truncate(1 + (random.bits() % ids.len().min(64) as u64) as usize);
            rows.push(ids);
        }
    }
    Ok(rows)
}

/// The prompts of records as rows of tokens: the edits', then the queries'.
pub(super) struct Prompts {
    edits: usize,
    rows: Vec<Vec<u32>>,
    within: Vec<Vec<usize>>,
    own: Vec<Option<usize>>,
    seen: Option<Array2<f32>>,
}

impl Prompts {
    pub(super) fn of(
        access: &dyn ModelAccess,
        records: &[TrainRecord],
        context: usize,
        texts: Vec<Vec<u32>>,
    ) -> Result<Self, MethodError> {
        let tokens = |text: &str| -> Result<Vec<u32>, MethodError> {
            let ids = access.tokenize(text)?.ids;
            if ids.is_empty() || ids.len() > context {
                let text = format!("the prompt `{text}` takes {} tokens, expected 1 to {context}", ids.len());
                return Err(MethodError::new("scope-prompt", text));
            }
            Ok(ids)
        };
        let mut edits = Vec::new();
        for record in records {
            edits.push(tokens(&record.request.filled()?)?);
        }
        let mut queries: Vec<Vec<u32>> = edits.clone();
        let mut own: Vec<Option<usize>> = (0..records.len()).map(Some).collect();
        let mut inside: Vec<Vec<&Vec<u32>>> = Vec::new();
        let mut scopes: Vec<Vec<Vec<u32>>> = Vec::new();
        for (i, record) in records.iter().enumerate() {
            check_cancelled(access)?;
            let mut scope = vec![edits[i].clone()];
            for example in &record.in_scope {
                let ids = tokens(&example.prompt)?;
                queries.push(ids.clone());
                own.push(Some(i));
                scope.push(ids);
            }
            for example in &record.out_of_scope {
                queries.push(tokens(&example.prompt)?);
                own.push(Some(i));
            }
            scopes.push(scope);
        }
        own.resize(queries.len() + texts.len(), None);
        queries.extend(texts);
        // A prompt is in the scope of every edit that it is listed with, also where it came from another record.
        inside.extend(scopes.iter().map(|scope| scope.iter().collect()));
        inside.iter_mut().for_each(|scope| scope.sort_unstable());
        let of = |row: &Vec<u32>| (0..inside.len()).filter(|&e| inside[e].binary_search(&row).is_ok()).collect();
        let within = queries.iter().map(of).collect();
        let count = edits.len();
        Ok(Self { edits: count, rows: edits.into_iter().chain(queries).collect(), within, own, seen: None })
    }

    /// The activations of all rows, read once.
    pub(super) fn read(&mut self, access: &dyn ModelAccess, layer: usize) -> Result<Array2<f32>, MethodError> {
        if self.seen.is_none() {
            self.seen = Some(read(access, layer, &self.rows)?);
        }
        Ok(self.seen.clone().unwrap_or_default())
    }

    pub(super) fn pairs(
        &mut self,
        access: &dyn ModelAccess,
        layer: usize,
        metric: &Metric,
    ) -> Result<Pairs, MethodError> {
        let mut values = self.read(access, layer)?;
        for mut row in values.outer_iter_mut() {
            let standard = metric.standard(&row.to_vec());
            row.assign(&Array1::from_vec(standard));
        }
        let (edits, queries) = values.view().split_at(Axis(0), self.edits);
        let (edits, queries) = (edits.to_owned(), queries.to_owned());
        Ok(Pairs { edits, queries, within: self.within.clone(), own: self.own.clone() })
    }
}

/// The metric before the first step: the cosine of standardised activations.
pub(super) fn metric(read: &Array2<f32>, rank: usize, seed: u64) -> Metric {
    let d = read.ncols();
    let mean = read.mean_axis(Axis(0)).unwrap_or_else(|| Array1::zeros(d));
    // A channel that never moves says nothing: the floor keeps it from being blown up.
    let spread = read.std_axis(Axis(0), 0.0);
    let floor = 1e-3 * spread.mean().unwrap_or(1.0).max(f32::MIN_POSITIVE);
    let mut random = Random::new(seed);
    let size = 0.5 / (d as f32).sqrt();
    Metric {
        scale: spread.mapv(|s| 1.0 / (s + floor)),
        mean,
        gain: Array1::zeros(d),
        left: Array2::from_shape_simple_fn((d, rank), || (2.0 * random.uniform() - 1.0) * size),
        right: Array2::zeros((rank, d)),
        stretch: f64::from(START[0]),
        shift: f64::from(START[1]),
    }
}

impl Pairs {
    /// Some of the edits with their queries and as many texts; all where there are no more.
    pub(super) fn drawn(&self, batch: usize, seed: u64) -> Pairs {
        let all = self.edits.nrows();
        if all <= batch {
            return self.of(&(0..all).collect::<Vec<_>>(), |_| true);
        }
        let mut random = Random::new(seed);
        let mut edits: Vec<usize> = (0..all).collect();
        for i in 0..batch {
            let j = i + (random.bits() % (all - i) as u64) as usize;
            edits.swap(i, j);
        }
        edits.truncate(batch);
        edits.sort_unstable();
        self.of(&edits, |text| text % all.div_ceil(batch) == (seed % all.div_ceil(batch) as u64) as usize)
    }

    fn of(&self, edits: &[usize], text: impl Fn(usize) -> bool) -> Pairs {
        let taken = |q: &usize| match self.own[*q] {
            Some(own) => edits.binary_search(&own).is_ok(),
            None => text(*q),
        };
        let queries: Vec<usize> = (0..self.own.len()).filter(taken).collect();
        let place = |edit: &usize| edits.binary_search(edit).ok();
        Pairs {
            edits: self.edits.select(Axis(0), edits),
            queries: self.queries.select(Axis(0), &queries),
            within: queries.iter().map(|&q| self.within[q].iter().filter_map(place).collect()).collect(),
            own: queries.iter().map(|&q| self.own[q].as_ref().and_then(place)).collect(),
        }
    }

    /// Judges the queries by their cosines with the edits.
    pub(super) fn judged(&self, cosines: &Array2<f32>, stretch: f64, shift: f64) -> Judged {
        let logits = cosines.mapv(|c| stretch * f64::from(c) + shift);
        let mut gradient = Array2::zeros(logits.raw_dim());
        let inside = |q: usize| self.own[q].is_some_and(|own| self.within[q].contains(&own));
        let insiders = (0..self.own.len()).filter(|&q| inside(q)).count();
        let outsiders = self.own.len() - insiders;
        let (mut loss, mut right, mut judged) = (0.0, [0usize; 2], [0usize; 2]);
        for (q, row) in logits.outer_iter().enumerate() {
            if let (true, Some(own)) = (inside(q), self.own[q]) {
                let s = row[own];
                loss += softplus(-s) / insiders as f64;
                gradient[[q, own]] -= sigmoid(-s) / insiders as f64;
            }
            if let Some(own) = self.own[q] {
                let side = usize::from(!inside(q));
                judged[side] += 1;
                right[side] += usize::from((row[own] > 0.0) == inside(q));
            }
            let weight = 0.5 / if inside(q) { insiders } else { outsiders } as f64;
            let others = || (0..row.len()).filter(|e| !self.within[q].contains(e));
            // log(1 + Σ e^S), with the largest exponent taken out.
            let top = others().map(|e| row[e]).fold(0.0, f64::max);
            let sum = (-top).exp() + others().map(|e| (row[e] - top).exp()).sum::<f64>();
            loss += weight * (top + sum.ln());
            others().for_each(|e| gradient[[q, e]] += weight * (row[e] - top).exp() / sum);
        }
        let share = |side: usize| right[side] as f64 / judged[side].max(1) as f64;
        Judged { loss, gradient, shares: [share(0), share(1)] }
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
