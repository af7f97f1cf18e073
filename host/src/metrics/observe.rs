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

/// What the model writes after a prompt, at most `max_new` tokens.
///
/// # Errors
/// Those of the scorer, and `scores-shape`.
pub fn write(scorer: &dyn Scorer, prompt: &str, max_new: usize) -> Result<String> {
    let mut texts = scorer.generate(&[prompt.to_owned()], max_new)?;
    match (texts.pop(), texts.is_empty()) {
        (Some(text), true) => Ok(text),
        _ => Err(Error::new(&codes::SCORES_SHAPE, format!("expected one text after `{prompt}`, found another number"))),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Probes;
    use engraft_plugin_api::{EditRequest, Target};
    use std::cell::RefCell;

    /// Remembers what it was asked, and answers each query with its number.
    struct Counting {
        asked: RefCell<Vec<Query>>,
        first: f32,
        missing: usize,
    }

    impl Scorer for Counting {
        fn score(&self, queries: &[Query]) -> Result<Vec<Scored>> {
            self.asked.borrow_mut().extend_from_slice(queries);
            let one = |i| Scored { tokens: vec![i], log_probs: vec![self.first - i as f32], predicted: vec![0] };
            Ok((0..(queries.len() - self.missing) as u32).map(one).collect())
        }

        fn generate(&self, _: &[String], _: usize) -> Result<Vec<String>> {
            Ok(vec![String::new(); 2])
        }
    }

    fn look(first: f32, missing: usize) -> (Result<Observation>, Vec<Query>) {
        let probe = |prompt: &str, rival: Option<&str>| Probe {
            prompt: prompt.into(),
            expected: "yes".into(),
            rival: rival.map(str::to_owned),
        };
        let target = Target { new: "Kelm".into(), old: Some("Orvia".into()) };
        let record = Record {
            id: "1".into(),
            request: EditRequest { id: "1".into(), prompt: "{} is".into(), subject: Some("P".into()), target },
            prompt: "P is".into(),
            relation: None,
            probes: Probes {
                paraphrases: vec![probe("a", None)],
                neighbours: vec![probe("b", Some("no")), probe("c", None)],
                ..Probes::default()
            },
        };
        let scorer = Counting { asked: RefCell::default(), first, missing };
        (observe(&scorer, &record), scorer.asked.take())
    }

    #[test]
    fn every_probe_gets_its_own_scores() {
        let (observation, asked) = look(0.0, 0);
        let asked: Vec<_> = asked.iter().map(|q| (q.prompt.as_str(), q.continuation.as_str())).collect();
        assert_eq!(
            asked,
            [("P is", " Kelm"), ("P is", " Orvia"), ("a", " yes"), ("b", " yes"), ("b", " no"), ("c", " yes")]
        );
        let observation = observation.unwrap();
        let ids = |pair: &Pair| (pair.expected.tokens[0], pair.rival.as_ref().map(|r| r.tokens[0]));
        assert_eq!(ids(&observation.rewrite), (0, Some(1)));
        assert_eq!(observation.paraphrases.iter().map(ids).collect::<Vec<_>>(), [(2, None)]);
        assert_eq!(observation.neighbours.iter().map(ids).collect::<Vec<_>>(), [(3, Some(4)), (5, None)]);
    }

    #[test]
    fn a_broken_model_or_scorer_is_not_measured() {
        let code = |(result, _): (Result<Observation>, _)| result.map_err(|e| e.code().id).err();
        assert_eq!(code(look(f32::NAN, 0)), Some("scores-nan"));
        assert_eq!(code(look(0.0, 1)), Some("scores-shape"));
        let scorer = Counting { asked: RefCell::default(), first: 0.0, missing: 0 };
        assert_eq!(write(&scorer, "P is", 1).map_err(|e| e.code().id), Err("scores-shape"));
    }
}
