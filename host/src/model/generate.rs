//! Continuing rows, greedily or drawn from the most probable tokens with a seed.

use engraft_plugin_api::{Decoding, GenerateRequest, Place, RunRequest};
use rand::RngExt;

use super::codes;
use super::open::Model;
use crate::base::{Cancel, Error, Result, random};

impl Model {
    /// Continues each row by at most `max_new` tokens and returns only the new ones; a stop token ends its row and is
    /// not returned. A row ends at the end of the context.
    ///
    /// # Errors
    /// As [`Model::run`]; `row-empty`; `row-too-long` if a row fills the context already.
    pub fn generate(&self, request: &GenerateRequest) -> Result<Vec<Vec<u32>>> {
        self.generate_until(request, None)
    }

    /// As [`Model::generate`], stopping soon when cancelled.
    ///
    /// # Errors
    /// As [`Model::generate`], and `interrupted`.
    pub fn generate_until(&self, request: &GenerateRequest, cancel: Option<&Cancel>) -> Result<Vec<Vec<u32>>> {
        if request.rows.iter().any(Vec::is_empty) {
            return Err(Error::new(&codes::ROW_EMPTY, "a prompt to continue holds no token"));
        }
        let context = self.anatomy().context.unwrap_or(usize::MAX);
        if let Some(full) = request.rows.iter().find(|r| r.len() >= context && request.max_new > 0) {
            let text = format!("a row of {} tokens leaves no room to continue in a context of {context}", full.len());
            return Err(Error::new(&codes::ROW_TOO_LONG, text));
        }
        let mut rows = request.rows.clone();
        let mut running: Vec<usize> = (0..rows.len()).collect();
        for step in 0..request.max_new {
            if running.is_empty() {
                break;
            }
            let batch: Vec<Vec<u32>> = running.iter().map(|&r| rows[r].clone()).collect();
            let logits = batch.iter().enumerate().map(|(row, t)| Place { row, pos: t.len() - 1 }).collect();
            let under = request.under.clone();
            let reply = self.run_until(&RunRequest { rows: batch, logits, under, ..RunRequest::default() }, cancel)?;
            let logits = reply.logits.matrix()?;
            let mut still = Vec::new();
            for (row, logits) in running.iter().zip(logits.rows()) {
                let token = choose(logits.as_slice().unwrap_or(&[]), request.decoding, *row, step);
                if request.stop.contains(&token) {
                    continue;
                }
                rows[*row].push(token);
                if rows[*row].len() < context {
                    still.push(*row);
                }
            }
            running = still;
        }
        Ok(rows.into_iter().zip(&request.rows).map(|(row, prompt)| row[prompt.len()..].to_vec()).collect())
    }
}

/// The next token of one row. A draw depends on the seed, the row and the step alone.
fn choose(logits: &[f32], decoding: Decoding, row: usize, step: usize) -> u32 {
    match decoding {
        Decoding::Greedy => argmax(logits),
        Decoding::TopK { k, temperature, seed } => {
            let mut order: Vec<u32> = (0..logits.len() as u32).collect();
            let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
            let k = k.clamp(1, order.len());
            order.select_nth_unstable_by(k - 1, by_logit);
            order.truncate(k);
            order.sort_unstable_by(by_logit);
            let top = logits[order[0] as usize];
            let weight = |t: u32| f64::from((logits[t as usize] - top) / temperature.max(f32::MIN_POSITIVE)).exp();
            let total: f64 = order.iter().map(|&t| weight(t)).sum();
            let stream = random::seed(seed, &["generate", &row.to_string(), &step.to_string()]);
            let mut left = random::rng(stream).random::<f64>() * total;
            for &token in &order {
                left -= weight(token);
                if left < 0.0 {
                    return token;
                }
            }
            order[k - 1]
        }
    }
}

/// The index of the greatest value; the first of several.
pub(super) fn argmax(values: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_repeated_by_their_seed_and_stay_in_the_top() {
        let logits = [0.0, 3.0, 2.5, -1.0, 2.9];
        let draw = |seed, step| choose(&logits, Decoding::TopK { k: 3, temperature: 1.0, seed }, 0, step);
        let drawn: Vec<u32> = (0..64).map(|step| draw(7, step)).collect();
        assert_eq!(drawn, (0..64).map(|step| draw(7, step)).collect::<Vec<_>>());
        assert!(drawn.iter().all(|t| [1, 2, 4].contains(t)));
        assert!([1, 2, 4].iter().all(|t| drawn.contains(t)));
        assert_eq!(choose(&logits, Decoding::TopK { k: 1, temperature: 1.0, seed: 1 }, 0, 0), 1);
        assert_eq!(choose(&logits, Decoding::Greedy, 0, 0), 1);
    }
}
