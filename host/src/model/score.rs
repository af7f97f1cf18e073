//! Scoring continuations under teacher forcing.

use engraft_plugin_api::{Place, RunRequest};

use super::codes;
use super::generate::argmax;
use super::open::Model;
use super::route::{Voices, Way, mixed};
use super::run::Seen;
use super::run::visible::{View, Visible};
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
    /// As [`Model::run`]; `row-empty` if a prompt or continuation is empty; `logits-not-finite`.
    pub fn score(&self, continuations: &[Continuation]) -> Result<Vec<ScoredContinuation>> {
        self.score_seeing(continuations, &View::default(), None)
    }

    /// As [`Model::score`], with patches chosen for the continuations, stopping soon when cancelled. All are scored by
    /// the model as it is when the call begins.
    ///
    /// Where `view` says so, as it does by default, methods whose patches route are asked first, once a continuation,
    /// about its prompt: it may see fewer patches, its tokens may be scored after another prompt than its own, or with
    /// the probabilities of another network, alone or mixed with those of the model.
    ///
    /// # Errors
    /// As [`Model::score`]; `patch-unknown` if a patch is not active, `active-rows`; `route-method`, and what a method
    /// that routes meets; `route-vocab`; `interrupted`.
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
        let prompts: Vec<&[u32]> = continuations.iter().map(|c| c.prompt.as_slice()).collect();
        let (visible, ways) = self.routed(&seen, view, &prompts, cancel)?;
        let voices = Voices::of(self, &ways)?;
        for (continuation, way) in continuations.iter().zip(&ways) {
            if let Some((voice, delegate)) = voices.find(way).zip(way.delegate()) {
                voice.check_length(delegate.tokens.len() + continuation.tokens.len() - 1)?;
            }
        }
        let mut scored: Vec<Option<ScoredContinuation>> = vec![None; continuations.len()];
        let (away, own): (Vec<usize>, Vec<usize>) = (0..ways.len()).partition(|&row| ways[row].is_away());
        let mut rest = &own[..];
        while !rest.is_empty() {
            let mut places = 0;
            let fits = |row: &&usize| {
                places += continuations[**row].tokens.len();
                places * self.anatomy().vocab <= LOGITS_AT_ONCE
            };
            let n = rest.iter().take_while(fits).count().clamp(1, 256).min(rest.len());
            let batch = Batch { continuations, ways: &ways, voices: &voices, rows: &rest[..n] };
            self.score_batch(&batch, &seen, &visible, cancel, &mut scored)?;
            rest = &rest[n..];
        }
        for row in away {
            scored[row] = Some(score_line(&continuations[row], (&ways[row], &voices), None, cancel)?);
        }
        Ok(scored.into_iter().flatten().collect())
    }

    fn score_batch(
        &self,
        batch: &Batch<'_>,
        seen: &Seen<'_>,
        visible: &Visible,
        cancel: Option<&Cancel>,
        scored: &mut [Option<ScoredContinuation>],
    ) -> Result<()> {
        let Batch { continuations, ways, voices, rows: numbers } = *batch;
        let prompt = |number: usize| ways[number].prompt(&continuations[number].prompt);
        // The last token of a row is only read as a target.
        let row = |&number: &usize| {
            let tokens = &continuations[number].tokens;
            [prompt(number), &tokens[..tokens.len() - 1]].concat()
        };
        let rows: Vec<Vec<u32>> = numbers.iter().map(row).collect();
        self.check_prompts(batch, &rows)?;
        let places = |(row, &number): (usize, &usize)| {
            let first = prompt(number).len() - 1;
            (first..first + continuations[number].tokens.len()).map(move |pos| Place { row, pos })
        };
        let prompt_ends = numbers.iter().map(|&number| prompt(number).len() - 1).collect();
        let logits = numbers.iter().enumerate().flat_map(places).collect();
        let request = RunRequest { rows, prompt_ends, logits, ..RunRequest::default() };
        let reply = self.run_seen(&request, seen, &visible.pick(numbers), cancel)?;
        let mut lines = reply.logits.as_f32()?.chunks(self.anatomy().vocab);
        for &number in numbers {
            let continuation = &continuations[number];
            let own: Vec<&[f32]> = lines.by_ref().take(continuation.tokens.len()).collect();
            scored[number] = Some(score_line(continuation, (&ways[number], voices), Some(&own), cancel)?);
        }
        Ok(())
    }

    /// Refuses rows that a method made too long, by its name.
    fn check_prompts(&self, batch: &Batch<'_>, rows: &[Vec<u32>]) -> Result<()> {
        let context = self.anatomy().context.unwrap_or(usize::MAX);
        let made = batch.rows.iter().zip(rows).filter_map(|(&number, row)| Some((batch.ways[number].method()?, row)));
        match made.into_iter().find(|(_, row)| row.len() > context) {
            Some((method, row)) => {
                let text = format!("a row of {} tokens that `{method}` made is longer than", row.len());
                Err(Error::new(&codes::ROW_TOO_LONG, format!("{text} the model's context of {context}")))
            }
            None => Ok(()),
        }
    }
}

/// The score of one continuation by the model's logits, those of a network that has a say, or both.
fn score_line(
    continuation: &Continuation,
    (way, voices): (&Way, &Voices<'_>),
    own: Option<&[&[f32]]>,
    cancel: Option<&Cancel>,
) -> Result<ScoredContinuation> {
    let tokens = &continuation.tokens;
    let others = match voices.find(way).zip(way.delegate()) {
        Some((voice, delegate)) => {
            let row = [&delegate.tokens, &tokens[..tokens.len() - 1]].concat();
            Some((voice.lines(&row, delegate.tokens.len() - 1, cancel)?, delegate.mix))
        }
        None => None,
    };
    let mut out = ScoredContinuation { log_probs: Vec::new(), predicted: Vec::new() };
    for (number, &token) in tokens.iter().enumerate() {
        let line = own.map(|own| own[number]);
        let mixed = others.as_ref().map(|(others, mix)| mixed(line, &others[number], *mix));
        let line = mixed.as_deref().or(line).unwrap_or_default();
        let top = argmax(line, || format!("the target token {number} of a continuation"))?;
        let max = f64::from(line[top as usize]);
        let sum: f64 = line.iter().map(|&v| (f64::from(v) - max).exp()).sum();
        let at = line.get(token as usize).ok_or_else(|| {
            Error::new(&codes::TOKEN_OUTSIDE, format!("the target token {token} is not below {}", line.len()))
        })?;
        out.log_probs.push((f64::from(*at) - max - sum.ln()) as f32);
        out.predicted.push(top);
    }
    Ok(out)
}

/// Continuations that are scored in one pass, by their numbers.
struct Batch<'b> {
    continuations: &'b [Continuation],
    ways: &'b [Way],
    voices: &'b Voices<'b>,
    rows: &'b [usize],
}
