//! What a metric may see of a model.

use crate::base::Result;

/// A continuation to score.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Query {
    /// The prompt.
    pub prompt: String,
    /// What follows it, verbatim: a word begins with its space. Its tokens are those of this text alone, appended to
    /// the prompt's.
    pub continuation: String,
}

/// The score of a continuation under teacher forcing: at each of its tokens, the earlier ones are given.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The tokens of the continuation; at least one.
    pub tokens: Vec<u32>,
    /// The log-probability of each token, in nats.
    pub log_probs: Vec<f32>,
    /// The most probable token at each position.
    pub predicted: Vec<u32>,
}

impl Scored {
    /// The mean negative log-probability of a token, in nats.
    pub fn nll(&self) -> f64 {
        -self.log_probs.iter().map(|p| f64::from(*p)).sum::<f64>() / self.log_probs.len() as f64
    }

    /// The share of tokens that are the most probable ones.
    pub fn hits(&self) -> f64 {
        agreement(&self.tokens, &self.predicted)
    }

    /// 1 if every token is the most probable one, else 0.
    pub fn exact(&self) -> f64 {
        f64::from(u8::from(self.tokens == self.predicted))
    }
}

/// The share of positions at which two rows of tokens of one length agree.
pub(super) fn agreement(a: &[u32], b: &[u32]) -> f64 {
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
}

/// A model as a metric sees it: unedited or edited, whichever is asked.
pub trait Scorer {
    /// Scores continuations, in order, all in one go.
    ///
    /// # Errors
    /// If a text cannot be encoded or is longer than the context, or the runtime fails.
    fn score(&self, queries: &[Query]) -> Result<Vec<Scored>>;

    /// Continues each prompt greedily by at most `max_new` tokens and returns only what was added.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    fn generate(&self, prompts: &[String], max_new: usize) -> Result<Vec<String>>;
}
