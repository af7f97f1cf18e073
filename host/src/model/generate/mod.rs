//! Continuing rows: one pass over the prompts, then one token a row, until every row has ended.
//!
//! `pass` runs the passes, over what is cached where the export caches keys and values; `choose` picks the next token;
//! `voices` asks the networks that have a say; `answer` does the same for texts, with a chat template where one is asked
//! for.

mod answer;
mod choose;
mod pass;
#[cfg(test)]
mod tests;
mod voices;

use std::collections::BTreeMap;

use engraft_plugin_api::{GenerateRequest, Tensor};
use serde::Serialize;

use super::codes;
use super::open::Model;
use super::route::{Way, mixed};
use super::run::Seen;
use super::run::batch::unfit;
use super::run::visible::{View, Visible};
use crate::base::{Cancel, Error, Result};
use crate::runtime::Tokenizer;
pub use answer::{Answer, Answers, Question};
pub(super) use choose::argmax;
use pass::Passes;
use voices::Chorus;

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
    /// The context is full: that of the model, or of a network that has a say.
    Context,
}

/// A row while it is continued.
struct Row {
    /// The prompt, or what stands in its place, and what was appended.
    ids: Vec<u32>,
    /// How many of them are the prompt.
    prompt: usize,
    end: End,
    /// What became of the request before the first pass.
    way: Way,
}

impl Row {
    /// A row that is read as it is.
    fn reading(ids: Vec<u32>) -> Self {
        Self { prompt: ids.len(), ids, end: End::MaxNew, way: Way::Own }
    }

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
    /// `logits-not-finite`;
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

    /// As [`Model::generate_until`], with patches chosen for the rows. All rows are continued by the model as it is when
    /// the call begins.
    ///
    /// Where `view` says so, as it does by default, methods whose patches route are asked first, once a row, and the
    /// answer holds to its end: a row may see fewer patches, go on from another prompt than its own, or be continued by
    /// another network, alone or with a share in every token's probabilities. What is returned are the new tokens.
    ///
    /// # Errors
    /// As [`Model::generate_until`]; `patch-unknown` if a patch is not active, `active-rows`; `route-method`, and what a
    /// method that routes meets; `row-too-long` if its prompt leaves no room, `route-vocab`.
    pub fn generate_seeing(
        &self,
        request: &GenerateRequest,
        view: &View,
        cancel: Option<&Cancel>,
    ) -> Result<Vec<Vec<u32>>> {
        Ok(self.continued(request, view, cancel)?.iter().map(|row| row.new_tokens().to_vec()).collect())
    }

    /// As [`Model::generate_until`] on the base model, whatever patches are active; nothing is routed.
    ///
    /// # Errors
    /// As [`Model::generate_until`].
    pub fn generate_base(&self, request: &GenerateRequest, cancel: Option<&Cancel>) -> Result<Vec<Vec<u32>>> {
        self.check_rows(request)?;
        let (seen, visible) = (self.seen_on_base(&request.under)?, Visible::all(request.rows.len()));
        let rows = self.continue_rows(request, &seen, &visible, vec![Way::Own; request.rows.len()], cancel)?;
        Ok(rows.iter().map(|row| row.new_tokens().to_vec()).collect())
    }

    fn continued(&self, request: &GenerateRequest, view: &View, cancel: Option<&Cancel>) -> Result<Vec<Row>> {
        self.check_rows(request)?;
        let seen = self.seen(&request.under)?;
        let prompts: Vec<&[u32]> = request.rows.iter().map(Vec::as_slice).collect();
        let (visible, ways) = self.routed(&seen, view, &prompts, cancel)?;
        self.continue_rows(request, &seen, &visible, ways, cancel)
    }

    fn check_rows(&self, request: &GenerateRequest) -> Result<()> {
        if request.rows.iter().any(Vec::is_empty) {
            return Err(Error::new(&codes::ROW_EMPTY, "a prompt to continue holds no token"));
        }
        choose::check(&request.decoding)
    }

    fn continue_rows(
        &self,
        request: &GenerateRequest,
        seen: &Seen<'_>,
        visible: &Visible,
        ways: Vec<Way>,
        cancel: Option<&Cancel>,
    ) -> Result<Vec<Row>> {
        let stops = Stops::of(self, &request.stop_texts)?;
        let row = |(ids, way): (&Vec<u32>, Way)| Row { way: way.clone(), ..Row::reading(way.prompt(ids).to_vec()) };
        let mut rows: Vec<Row> = request.rows.iter().zip(ways).map(row).collect();
        let context = self.anatomy().context.unwrap_or(usize::MAX);
        let own = request.max_new > 0 && rows.iter().any(|row| !row.way.is_away());
        if let Some(fixed) = self.anatomy().inputs.fixed[1].as_ref().filter(|_| own) {
            return Err(unfit(fixed, "tokens a row", "so that a text cannot be continued"));
        }
        let full = |row: &&Row| row.ids.len() >= context && request.max_new > 0 && !row.way.is_away();
        if let Some(full) = rows.iter().find(full) {
            let whose = full.way.method().map_or_else(String::new, |method| format!(" that `{method}` made"));
            let text = format!("a row of {} tokens{whose} leaves no room", full.ids.len());
            return Err(Error::new(&codes::ROW_TOO_LONG, format!("{text} to continue in a context of {context}")));
        }
        let chorus = Chorus::of(self, &rows)?;
        let mut heard = chorus.heard(&rows, request.max_new)?;
        let (away, own): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|&r| rows[r].way.is_away());
        let batches = self.together(&rows, &own);
        let summed = seen.overlay.in_sums();
        let batches = batches.iter().flat_map(|rows| visible.groups(rows, &summed));
        for (mut running, is_own) in batches.map(|batch| (batch, true)).chain([(away, false)]) {
            let mut passes = if is_own { Some(Passes::new(self, seen, visible)?) } else { None };
            let mut speakers = chorus.speakers(&rows, &heard, &running)?;
            for step in 0..request.max_new {
                if running.is_empty() {
                    break;
                }
                let logits = passes.as_mut().map(|passes| passes.next(&rows, &running, cancel)).transpose()?;
                let mut said = BTreeMap::new();
                speakers.iter_mut().try_for_each(|one| one.next(&heard, &running, cancel, &mut said))?;
                let mut still = Vec::with_capacity(running.len());
                for (number, &r) in running.iter().enumerate() {
                    let vocab = self.anatomy().vocab;
                    let line = logits.as_ref().map(|logits| line_of(logits, number, vocab)).transpose()?;
                    let row = &mut rows[r];
                    let both = row.way.delegate().zip(said.get(&r)).map(|(d, other)| mixed(line, other, d.mix));
                    let token = choose::choose(both.as_deref().or(line).unwrap_or(&[]), &request.decoding, r, step)?;
                    if request.stop.contains(&token) {
                        row.end = End::StopToken;
                        continue;
                    }
                    row.ids.push(token);
                    heard[r].ids.push(token);
                    let full = is_own && row.ids.len() >= context || chorus.is_full(row, &heard[r]);
                    if stops.completed(row)? {
                        row.end = End::StopText;
                    } else if full && step + 1 < request.max_new {
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
    fn together(&self, rows: &[Row], own: &[usize]) -> Vec<Vec<usize>> {
        let inputs = &self.anatomy().inputs;
        let read = |mask: &str| {
            let index = self.graph().index();
            index.consumers(mask).any(|(node, _)| !node.is("Shape") && !node.is("Size"))
        };
        let each = || inputs.positions.is_some() && inputs.mask.as_deref().is_some_and(read);
        if inputs.cache.is_empty() || each() {
            return vec![own.to_vec()];
        }
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &r in own {
            by_length.entry(rows[r].ids.len()).or_default().push(r);
        }
        by_length.into_values().collect()
    }
}

/// The logits of one row.
///
/// # Errors
/// `logits-shape`
fn line_of(logits: &Tensor, number: usize, vocab: usize) -> Result<&[f32]> {
    logits.as_f32()?.get(number * vocab..(number + 1) * vocab).ok_or_else(|| {
        let text = format!("the logits are {:?}, expected a row of {vocab} for each text", logits.shape());
        Error::new(&codes::LOGITS_SHAPE, text)
    })
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
