//! The passes of a continuation. Without a cache every pass runs the whole rows. Where a graph takes cached keys and
//! values and gives them back joined with the new ones, the prompts are run in one pass, then each pass runs one token a
//! row, and the runtime's outputs are fed back as they are.
//!
//! Prompts are padded on the right, since a query that sees nothing is not a number in some exports; before the second
//! pass what is cached is moved so that every row ends at the last slot: a gap would widen sliding windows. A graph that
//! counts positions itself gets rows of one length at a time. All other passes (`run`, `gradient`, scores) read the new
//! keys and values alone: their rigs leave the join out.

use std::sync::Arc;

use engraft_plugin_api::{Place, Tensor};

use super::Row;
use crate::anatomy::CachePort;
use crate::base::{Cancel, Error, Result};
use crate::hooks::{Name, Rig, Values};
use crate::model::codes;
use crate::model::compile::CompiledRun;
use crate::model::edit::splice::{set_ends, whole_rows};
use crate::model::open::Model;
use crate::model::run::Seen;
use crate::model::run::feed;
use crate::model::run::visible::Visible;
use crate::runtime::{DType, Value};

/// The passes of rows that share batches.
pub(super) struct Passes<'m> {
    model: &'m Model,
    seen: &'m Seen<'m>,
    visible: &'m Visible,
    compiled: Arc<CompiledRun>,
    kept: Option<Kept>,
}

/// What is cached.
struct Kept {
    /// The rows, by number; some may have ended.
    rows: Vec<usize>,
    /// How many tokens of each row are cached, in the last slots.
    lengths: Vec<usize>,
    /// The extent of the cache along the positions.
    slots: usize,
    /// Keys and values, in the order of the anatomy's ports.
    values: Vec<Value>,
}

impl<'m> Passes<'m> {
    pub(super) fn new(model: &'m Model, seen: &'m Seen<'m>, visible: &'m Visible) -> Result<Self> {
        let cache =
            !model.anatomy().inputs.cache.is_empty() && !seen.intercepts.whole_rows && !whole_rows(&seen.grafts);
        let rig = Rig {
            branches: feed::branches(&seen.overlay),
            slots: feed::slots(&seen.overlay),
            logits: true,
            cache,
            intercepts: seen.intercepts.sites(),
            splices: seen.grafts.clone(),
            ..Rig::default()
        };
        let compiled = model.programs.run(&rig, || rig.attach(model.graph(), model.anatomy()))?;
        Ok(Self { model, seen, visible, compiled, kept: None })
    }

    /// The logits `[running, vocab]` of what follows the last token of each running row.
    pub(super) fn next(&mut self, rows: &[Row], running: &[usize], cancel: Option<&Cancel>) -> Result<Tensor> {
        let ports = &self.model.anatomy().inputs.cache;
        let (batch, places, mut values) = match &mut self.kept {
            None => self.whole(rows, running)?,
            Some(kept) => {
                // Rows that have ended go once they are half of all, or once their length would not leave room.
                let full = self.model.anatomy().context.is_some_and(|context| kept.slots >= context);
                if running.len() * 2 <= kept.rows.len() || full {
                    kept.retain(running, ports)?;
                }
                kept.step(self.model, rows, running)?
            }
        };
        let order = self.kept.as_ref().map_or(running, |kept| &kept.rows);
        let ends: Vec<usize> = order.iter().map(|&r| rows[r].prompt - 1).collect();
        let visible = self.visible.pick(order);
        set_ends(&ends, &mut values)?;
        let called = self.model.called(&self.seen.intercepts, ends, &visible)?;
        self.model.logits_at(&places, &batch, &mut values)?;
        self.model.feed(self.seen, &visible, &mut values)?;
        let rigged = &self.compiled.rigged;
        let fetch: Vec<&str> = rigged.logits.iter().chain(&rigged.presents).map(String::as_str).collect();
        let program = &self.compiled.program;
        let feeds = values.feeds(program.inputs().iter().map(|p| p.name.as_str()));
        let mut outputs = program.run_calling(&feeds, &fetch, cancel, called.as_ref())?.into_iter();
        let logits = outputs.next().map(|v| v.to_tensor()).transpose()?;
        let logits = logits.unwrap_or_else(|| Tensor::zeros([0, self.model.anatomy().vocab]));
        if !rigged.presents.is_empty() {
            self.keep(rows, running, outputs.collect())?;
        }
        Ok(logits)
    }

    /// The whole rows as a batch, and the last place of each.
    fn whole(&self, rows: &[Row], running: &[usize]) -> Result<(Vec<Vec<u32>>, Vec<Place>, Values)> {
        let batch: Vec<Vec<u32>> = running.iter().map(|&r| rows[r].ids.clone()).collect();
        let places = batch.iter().enumerate().map(|(row, ids)| Place { row, pos: ids.len() - 1 }).collect();
        let values = self.model.batch(&batch)?;
        Ok((batch, places, values))
    }

    /// Takes up what a pass gave back.
    fn keep(&mut self, rows: &[Row], running: &[usize], values: Vec<Value>) -> Result<()> {
        let ports = &self.model.anatomy().inputs.cache;
        let first = self.kept.is_none();
        let kept = self.kept.get_or_insert_with(|| Kept {
            rows: running.to_vec(),
            lengths: vec![0; running.len()],
            slots: 0,
            values: Vec::new(),
        });
        let longest = if first { running.iter().map(|&r| rows[r].ids.len()).max().unwrap_or(0) } else { 1 };
        kept.slots += longest;
        for (row, length) in kept.rows.iter().zip(&mut kept.lengths) {
            *length += if first { rows[*row].ids.len() } else { 1 };
        }
        for (port, value) in ports.iter().zip(&values) {
            let expected = port.shape(kept.rows.len(), kept.slots);
            if value.shape() != expected {
                let text = format!("`{}` is {:?} after a pass: expected {expected:?}", port.present, value.shape());
                return Err(Error::new(&codes::CACHE_SHAPE, text));
            }
        }
        kept.values = values;
        if first && kept.lengths.iter().any(|&n| n != kept.slots) {
            let spans: Vec<Span> =
                kept.lengths.iter().enumerate().map(|(row, &length)| Span { row, begin: 0, length }).collect();
            kept.realign(&spans, ports)?;
        }
        Ok(())
    }
}

/// Slots of a row that move to the end.
struct Span {
    row: usize,
    begin: usize,
    length: usize,
}

impl Kept {
    /// One token of each row as a batch: the mask says which slots are tokens, and positions go on from those cached.
    fn step(&self, model: &Model, rows: &[Row], running: &[usize]) -> Result<(Vec<Vec<u32>>, Vec<Place>, Values)> {
        let inputs = &model.anatomy().inputs;
        let last = |&r: &usize| rows[r].ids.last().map_or_else(Vec::new, |&id| vec![id]);
        let batch: Vec<Vec<u32>> = self.rows.iter().map(last).collect();
        let mut places = Vec::with_capacity(running.len());
        for (row, r) in self.rows.iter().enumerate() {
            if running.contains(r) {
                places.push(Place { row, pos: 0 });
            }
        }
        let mut values = model.batch(&batch)?;
        let n = self.rows.len();
        if let Some(mask) = &inputs.mask {
            let slots = self.slots + 1;
            let of_row = |&length: &usize| (0..slots).map(move |slot| i64::from(slot + length + 1 >= slots));
            let flat = self.lengths.iter().flat_map(of_row).collect();
            values.set(mask, model.integers(mask, &[n, slots], flat)?);
        }
        if let Some(positions) = &inputs.positions {
            let of_row = |&r: &usize| rows[r].ids.len() as i64 - 1;
            values.set(positions, model.integers(positions, &[n, 1], self.rows.iter().map(of_row).collect())?);
        }
        let of_row = |r: &usize| if running.contains(r) { rows[*r].ids.len() as i64 - 1 } else { -1 };
        values.set(Name::Positions, Value::i64(&[n, 1], self.rows.iter().map(of_row).collect())?);
        let of_row = |r: &usize| if running.contains(r) { 1.0 } else { 0.0 };
        values.set(Name::Mask, Value::f32(&[n, 1], self.rows.iter().map(of_row).collect())?);
        for (port, value) in inputs.cache.iter().zip(&self.values) {
            values.set(&port.past, value.clone());
        }
        Ok((batch, places, values))
    }

    /// Leaves only some of the rows.
    fn retain(&mut self, running: &[usize], ports: &[CachePort]) -> Result<()> {
        let kept: Vec<usize> = (0..self.rows.len()).filter(|&i| running.contains(&self.rows[i])).collect();
        let span = |&row: &usize| {
            let length = self.lengths[row];
            Span { row, begin: self.slots - length, length }
        };
        let spans: Vec<Span> = kept.iter().map(span).collect();
        self.rows = kept.iter().map(|&i| self.rows[i]).collect();
        self.lengths = kept.iter().map(|&i| self.lengths[i]).collect();
        self.realign(&spans, ports)
    }

    /// Moves what is cached of some rows to the last slots, in the order given.
    fn realign(&mut self, spans: &[Span], ports: &[CachePort]) -> Result<()> {
        let slots = spans.iter().map(|s| s.length).max().unwrap_or(0);
        for (port, value) in ports.iter().zip(&mut self.values) {
            let shape = port.shape(spans.len(), slots);
            let (outer, width) = if port.axis == 1 { (1, port.heads * port.d_head) } else { (port.heads, port.d_head) };
            let layout = Layout { outer, width, before: self.slots, after: slots };
            *value = match value.dtype() {
                DType::F16 => Value::f16(&shape, layout.moved(value.as_f16()?, spans))?,
                _ => Value::f32(&shape, layout.moved(value.as_f32()?, spans))?,
            };
        }
        self.slots = slots;
        Ok(())
    }
}

/// Cached values as `[row, outer, slot, width]`.
struct Layout {
    outer: usize,
    width: usize,
    before: usize,
    after: usize,
}

impl Layout {
    fn moved<T: Copy + Default>(&self, old: &[T], spans: &[Span]) -> Vec<T> {
        let mut new = vec![T::default(); spans.len() * self.outer * self.after * self.width];
        for (row, span) in spans.iter().enumerate() {
            for o in 0..self.outer {
                let from = ((span.row * self.outer + o) * self.before + span.begin) * self.width;
                let to = ((row * self.outer + o) * self.after + self.after - span.length) * self.width;
                let n = span.length * self.width;
                new[to..to + n].copy_from_slice(&old[from..from + n]);
            }
        }
        new
    }
}
