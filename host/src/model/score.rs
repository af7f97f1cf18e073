//! Scoring continuations under teacher forcing.

use engraft_plugin_api::{Place, RunRequest};

use super::codes;
use super::generate::argmax;
use super::open::Model;
use super::run::Seen;
use super::visible::{View, Visible};
use crate::base::{Cancel, Error, Result};

/// A continuation to score, as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// The prompt; at least one token.
    pub prompt: Vec<u32>,
    /// What follows it; at least one token.
    pub tokens: Vec<u32>,
}

/// The score of a continuation: at each of its tokens, the earlier ones are given.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredContinuation {
    /// The log-probability of each token, in nats.
    pub log_probs: Vec<f32>,
    /// The most probable token at each position.
    pub predicted: Vec<u32>,
}

/// Logits of at most this many values are read at once.
const LOGITS_AT_ONCE: usize = 1 << 26;

impl Model {
    /// Scores continuations, in order. Rows share a batch; only the logits that are read are formed.
    ///
    /// # Errors
    /// As [`Model::run`]; `row-empty` if a prompt or continuation is empty.
    pub fn score(&self, continuations: &[Continuation]) -> Result<Vec<ScoredContinuation>> {
        self.score_seeing(continuations, &View::default(), None)
    }

    /// As [`Model::score`], with patches chosen for the continuations, stopping soon when cancelled. All are scored by
    /// the model as it is when the call begins.
    ///
    /// # Errors
    /// As [`Model::score`]; `patch-unknown` if a patch is not active, `active-rows`, `interrupted`.
    pub fn score_seeing(
        &self,
        continuations: &[Continuation],
        view: &View,
        cancel: Option<&Cancel>,
    ) -> Result<Vec<ScoredContinuation>> {
        if continuations.iter().any(|c| c.prompt.is_empty() || c.tokens.is_empty()) {
            return Err(Error::new(&codes::ROW_EMPTY, "a prompt or a continuation holds no token"));
        }
        let seen = self.seen(&[])?;
        let visible = seen.visible(view, continuations.len())?;
        let mut scored = Vec::with_capacity(continuations.len());
        while scored.len() < continuations.len() {
            let (from, rest) = (scored.len(), &continuations[scored.len()..]);
            let mut places = 0;
            let fits = |c: &Continuation| {
                places += c.tokens.len();
                places * self.anatomy().vocab <= LOGITS_AT_ONCE
            };
            let n = rest.iter().map(fits).take_while(|f| *f).count().clamp(1, 256).min(rest.len());
            let rows: Vec<usize> = (from..from + n).collect();
            self.score_batch(&rest[..n], &seen, &visible.pick(&rows), cancel, &mut scored)?;
        }
        Ok(scored)
    }

    fn score_batch(
        &self,
        batch: &[Continuation],
        seen: &Seen<'_>,
        visible: &Visible,
        cancel: Option<&Cancel>,
        scored: &mut Vec<ScoredContinuation>,
    ) -> Result<()> {
        // The last token of a row is only read as a target.
        let row = |c: &Continuation| [&c.prompt[..], &c.tokens[..c.tokens.len() - 1]].concat();
        let rows: Vec<Vec<u32>> = batch.iter().map(row).collect();
        let places = |(row, c): (usize, &Continuation)| {
            let first = c.prompt.len() - 1;
            (first..first + c.tokens.len()).map(move |pos| Place { row, pos })
        };
        let prompt_ends = batch.iter().map(|c| c.prompt.len() - 1).collect();
        let logits = batch.iter().enumerate().flat_map(places).collect();
        let request = RunRequest { rows, prompt_ends, logits, ..RunRequest::default() };
        let reply = self.run_seen(&request, seen, visible, cancel)?;
        let matrix = reply.logits.matrix()?;
        let mut lines = matrix.rows().into_iter();
        for continuation in batch {
            let mut out = ScoredContinuation { log_probs: Vec::new(), predicted: Vec::new() };
            for (&token, line) in continuation.tokens.iter().zip(&mut lines) {
                let line = line.to_vec();
                let top = argmax(&line);
                let max = f64::from(line[top as usize]);
                let sum: f64 = line.iter().map(|&v| (f64::from(v) - max).exp()).sum();
                let at = line.get(token as usize).ok_or_else(|| {
                    Error::new(&codes::TOKEN_OUTSIDE, format!("the target token {token} is not below {}", line.len()))
                })?;
                out.log_probs.push((f64::from(*at) - max - sum.ln()) as f32);
                out.predicted.push(top);
            }
            scored.push(out);
        }
        Ok(())
    }
}
