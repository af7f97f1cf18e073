//! One look at a record: its queries, scored in one call.
//!
//! A record is always observed in the same batch, so that the observations before and after an edit that does not
//! touch a row are bit-equal.

use super::codes;
use super::scorer::{Query, Scored, Scorer};
use crate::base::{Error, Result};
use crate::data::{Probe, Record};

/// How a probe was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The continuation that should follow.
    pub expected: Scored,
    /// The one that should lose against it.
    pub rival: Option<Scored>,
}

impl Pair {
    /// 1 if the expected continuation has the lower mean negative log-probability of a token (the comparison behind
    /// ES, PS and NS of Meng et al. 2022), else 0.
    pub fn preferred(&self) -> Option<f64> {
        self.rival.as_ref().map(|rival| f64::from(u8::from(self.expected.nll() < rival.nll())))
    }
}

/// How the model answered a record at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The prompt of the edit itself.
    pub rewrite: Pair,
    /// Its paraphrases.
    pub paraphrases: Vec<Pair>,
    /// Its neighbours.
    pub neighbours: Vec<Pair>,
}

/// Observes a record with one call of the scorer.
///
/// # Errors
/// Those of the scorer, `scores-nan` and `scores-shape`.
pub fn observe(scorer: &dyn Scorer, record: &Record) -> Result<Observation> {
    let rewrite = Probe {
        prompt: record.prompt.clone(),
        expected: record.request.target.new.clone(),
        rival: record.request.target.old.clone(),
    };
    let probes = || std::iter::once(&rewrite).chain(&record.probes.paraphrases).chain(&record.probes.neighbours);
    let queries: Vec<Query> =
        probes().flat_map(|p| std::iter::once(&p.expected).chain(&p.rival).map(|c| query(&p.prompt, c))).collect();
    let scores = scorer.score(&queries)?;
    check(&queries, &scores)?;

    let mut scores = scores.into_iter();
    let mut pairs = probes().map_while(|p| {
        let expected = scores.next()?;
        Some(Pair { expected, rival: p.rival.as_ref().and_then(|_| scores.next()) })
    });
    let rewrite_pair = pairs.next().ok_or_else(|| Error::new(&codes::SCORES_SHAPE, "a record without scores"))?;
    let paraphrases = pairs.by_ref().take(record.probes.paraphrases.len()).collect();
    Ok(Observation { rewrite: rewrite_pair, paraphrases, neighbours: pairs.collect() })
}

fn query(prompt: &str, continuation: &str) -> Query {
    Query { prompt: prompt.to_owned(), continuation: format!(" {continuation}") }
}

fn check(queries: &[Query], scores: &[Scored]) -> Result<()> {
    if scores.len() != queries.len() {
        let message = format!("{} queries were scored, but {} scores came back", queries.len(), scores.len());
        return Err(Error::new(&codes::SCORES_SHAPE, message));
    }
    for (query, score) in queries.iter().zip(scores) {
        let n = score.tokens.len();
        if n == 0 || score.log_probs.len() != n || score.predicted.len() != n {
            return Err(Error::new(
                &codes::SCORES_SHAPE,
                format!(
                    "the continuation `{}` has {n} tokens, {} probabilities and {} predictions",
                    query.continuation,
                    score.log_probs.len(),
                    score.predicted.len()
                ),
            ));
        }
        if score.log_probs.iter().any(|p| p.is_nan()) {
            return Err(Error::new(
                &codes::SCORES_NAN,
                format!("the probability of `{}` after `{}` is not a number", query.continuation, query.prompt),
            ));
        }
    }
    Ok(())
}
