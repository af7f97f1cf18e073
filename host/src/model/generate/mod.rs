//! Continuing rows: one pass over the prompts, then one token a row, until every row has ended.
//!
//! `pass` runs the passes, over what is cached where the export caches keys and values; `choose` picks the next token;
//! `answer` does the same for texts, with a chat template where one is asked for.

mod answer;
mod choose;
mod pass;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use engraft_plugin_api::GenerateRequest;
use serde::Serialize;

use super::codes;
use super::open::Model;
use super::visible::View;
use crate::base::{Cancel, Error, Result};
use crate::runtime::Tokenizer;
pub use answer::{Answer, Answers, Question};
pub(super) use choose::argmax;
use pass::Passes;

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It has as many new tokens as were asked for.
    MaxNew,
    /// A stop token came.
    StopToken,
    /// A stop text was completed.
    StopText,
    /// The context is full.
    Context,
}

/// A row while it is continued.
struct Row {
    /// The prompt and what was appended.
    ids: Vec<u32>,
    /// How many of them are the prompt.
    prompt: usize,
    end: End,
}

impl Row {
    fn new_tokens(&self) -> &[u32] {
        &self.ids[self.prompt..]
    }
}

impl Model {
    /// Continues each row by at most `max_new` tokens and returns only the new ones; a stop token ends its row and is
    /// not returned, the token that completes a stop text is the last that is. A row ends at the end of the context.
    ///
    /// Where the export caches keys and values, the prompt is run once and then one token a pass; else every pass
    /// runs the whole row. Both say the same, but for rounding.
    ///
    /// # Errors
    /// As [`Model::run`]; `row-empty`; `row-too-long` if a row fills the context already; `decoding-invalid`;
    /// `tokenizer-missing` if there are stop texts and the model has no tokenizer.
    pub fn generate(&self, request: &GenerateRequest) -> Result<Vec<Vec<u32>>> {
        self.generate_until(request, None)
    }

    /// As [`Model::generate`], stopping soon when cancelled.
    ///
    /// # Errors
    /// As [`Model::generate`], and `interrupted`.
    pub fn generate_until(&self, request: &GenerateRequest, cancel: Option<&Cancel>) -> Result<Vec<Vec<u32>>> {
        self.generate_seeing(request, &View::default(), cancel)
    }

    /// As [`Model::generate_until`], with patches chosen for the rows.
    ///
    /// # Errors
    /// As [`Model::generate_until`]; `patch-unknown` if a patch is not active, `active-rows`.
    pub fn generate_seeing(
        &self,
        request: &GenerateRequest,
        view: &View,
        cancel: Option<&Cancel>,
    ) -> Result<Vec<Vec<u32>>> {
        Ok(self.continued(request, view, cancel)?.iter().map(|row| row.new_tokens().to_vec()).collect())
    }

    fn continued(&self, request: &GenerateRequest, view: &View, cancel: Option<&Cancel>) -> Result<Vec<Row>> {
        if request.rows.iter().any(Vec::is_empty) {
            return Err(Error::new(&codes::ROW_EMPTY, "a prompt to continue holds no token"));
        }
        choose::check(&request.decoding)?;
        let context = self.anatomy().context.unwrap_or(usize::MAX);
        if let Some(full) = request.rows.iter().find(|r| r.len() >= context && request.max_new > 0) {
            let text = format!("a row of {} tokens leaves no room to continue in a context of {context}", full.len());
            return Err(Error::new(&codes::ROW_TOO_LONG, text));
        }
        let stops = Stops::of(self, &request.stop_texts)?;
        let row = |ids: &Vec<u32>| Row { ids: ids.clone(), prompt: ids.len(), end: End::MaxNew };
        let mut rows: Vec<Row> = request.rows.iter().map(row).collect();
        let seen = self.seen(&request.under)?;
        let visible = seen.visible(view, rows.len())?;
        let batches = self.together(&rows);
        for mut running in batches.iter().flat_map(|rows| visible.groups(rows, &seen.overlay.summed)) {
            let mut passes = Passes::new(self, &seen, &visible)?;
            for step in 0..request.max_new {
                if running.is_empty() {
                    break;
                }
                let logits = passes.next(&rows, &running, cancel)?;
                let mut still = Vec::with_capacity(running.len());
                for (&r, logits) in running.iter().zip(logits.matrix()?.rows()) {
                    let token = choose::choose(logits.as_slice().unwrap_or(&[]), &request.decoding, r, step);
                    let row = &mut rows[r];
                    if request.stop.contains(&token) {
                        row.end = End::StopToken;
                        continue;
                    }
                    row.ids.push(token);
                    if stops.completed(row)? {
                        row.end = End::StopText;
                    } else if row.ids.len() >= context && step + 1 < request.max_new {
                        row.end = End::Context;
                    } else {
                        still.push(r);
                    }
                }
                running = still;
            }
        }
        Ok(rows)
    }

    /// The rows that share batches. Where keys and values are cached, rows of different lengths need a mask that is
    /// read and positions for each row; a graph that counts positions itself gets rows of one length at a time.
    fn together(&self, rows: &[Row]) -> Vec<Vec<usize>> {
        let inputs = &self.anatomy().inputs;
        let read = |mask: &str| {
            let index = self.graph().index();
            index.consumers(mask).any(|(node, _)| !node.is("Shape") && !node.is("Size"))
        };
        let each = || inputs.positions.is_some() && inputs.mask.as_deref().is_some_and(read);
        if inputs.cache.is_empty() || each() {
            return vec![(0..rows.len()).collect()];
        }
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (r, row) in rows.iter().enumerate() {
            by_length.entry(row.ids.len()).or_default().push(r);
        }
        by_length.into_values().collect()
    }
}

/// The texts that end a row.
struct Stops<'m> {
    texts: &'m [String],
    /// None where there is nothing to look for.
    tokenizer: Option<&'m Tokenizer>,
    /// A token says at least one byte: a text that was just completed lies in that many last tokens.
    window: usize,
}

impl<'m> Stops<'m> {
    fn of(model: &'m Model, texts: &'m [String]) -> Result<Self> {
        if texts.iter().any(String::is_empty) {
            return Err(Error::new(&codes::DECODING, "a stop text is empty: expected at least one character"));
        }
        let tokenizer = if texts.is_empty() { None } else { Some(model.tokenizer()?) };
        Ok(Self { texts, tokenizer, window: texts.iter().map(String::len).max().unwrap_or(0) })
    }

    fn completed(&self, row: &Row) -> Result<bool> {
        let Some(tokenizer) = self.tokenizer else { return Ok(false) };
        let from = row.prompt.max(row.ids.len().saturating_sub(self.window));
        let text = said(tokenizer, &row.ids[from - 1..from], &row.ids[from..])?;
        Ok(self.texts.iter().any(|stop| text.contains(stop.as_str())))
    }
}

/// What tokens say after others: a decoder may drop the space that begins a text, and only there.
fn said(tokenizer: &Tokenizer, before: &[u32], new: &[u32]) -> Result<String> {
    let (whole, head) = (tokenizer.decode(&[before, new].concat())?, tokenizer.decode(before)?);
    match whole.strip_prefix(&head) {
        Some(tail) => Ok(tail.to_owned()),
        None => tokenizer.decode(new),
    }
}
