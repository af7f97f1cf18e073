//! Networks that have a say while rows are continued. Each reads rows of its own, over what is cached where it is a
//! decoder that caches.

use std::collections::BTreeMap;

use super::Row;
use super::pass::Passes;
use crate::base::{Cancel, Result};
use crate::model::open::Model;
use crate::model::route::{Voice, Voices};
use crate::model::run::Seen;
use crate::model::run::visible::Visible;

/// The networks of a request.
pub(super) struct Chorus<'m> {
    voices: Voices<'m>,
    /// Of each that is a decoder: itself, without patches.
    seen: Vec<Option<Seen<'static>>>,
    visible: Visible,
}

impl<'m> Chorus<'m> {
    pub(super) fn of(model: &'m Model, rows: &[Row]) -> Result<Self> {
        let voices = Voices::of(model, rows.iter().map(|row| &row.way))?;
        let seen = |voice: &Voice<'_>| voice.decoder.as_ref().map(|decoder| decoder.seen_on_base(&[])).transpose();
        let seen = voices.0.iter().map(seen).collect::<Result<_>>()?;
        Ok(Self { voices, seen, visible: Visible::all(rows.len()) })
    }

    /// What the networks read, by the numbers of the rows; nothing where none has a say.
    ///
    /// # Errors
    /// `row-too-long` if that leaves no room for an answer of at most `max_new` tokens; `route-vocab`.
    pub(super) fn heard(&self, rows: &[Row], max_new: usize) -> Result<Vec<Row>> {
        let heard = |row: &Row| {
            let ids = row.way.delegate().map(|delegate| delegate.tokens.clone()).unwrap_or_default();
            if let Some(voice) = self.voices.find(&row.way).filter(|_| max_new > 0) {
                voice.check_vocab()?;
                voice.check_room(ids.len())?;
            }
            Ok(Row::reading(ids))
        };
        rows.iter().map(heard).collect()
    }

    /// True if the network that has a say in a row can hear no more.
    pub(super) fn is_full(&self, row: &Row, heard: &Row) -> bool {
        self.voices.find(&row.way).is_some_and(|voice| voice.is_full(heard.ids.len()))
    }

    /// Those that have a say in some of the rows.
    pub(super) fn speakers(&self, rows: &[Row], heard: &[Row], some: &[usize]) -> Result<Vec<Speaker<'_>>> {
        let mut speakers = Vec::new();
        for (number, voice) in self.voices.0.iter().enumerate() {
            let is_its = |&&r: &&usize| rows[r].way.delegate().and_then(|d| self.voices.number(d)) == Some(number);
            let own: Vec<usize> = some.iter().filter(is_its).copied().collect();
            if own.is_empty() {
                continue;
            }
            match (&voice.decoder, &self.seen[number]) {
                (Some(decoder), Some(seen)) => {
                    for rows in decoder.together(heard, &own) {
                        let passes = Some(Passes::new(decoder, seen, &self.visible)?);
                        speakers.push(Speaker { voice, rows, passes });
                    }
                }
                _ => speakers.push(Speaker { voice, rows: own, passes: None }),
            }
        }
        Ok(speakers)
    }
}

/// A network with rows that it has a say in.
pub(super) struct Speaker<'c> {
    voice: &'c Voice<'c>,
    rows: Vec<usize>,
    /// None where whole rows go through it.
    passes: Option<Passes<'c>>,
}

impl Speaker<'_> {
    /// Adds the logits of what follows each of its running rows, by the number of the row.
    ///
    /// # Errors
    /// `route-vocab`; what the network meets.
    pub(super) fn next(
        &mut self,
        heard: &[Row],
        running: &[usize],
        cancel: Option<&Cancel>,
        said: &mut BTreeMap<usize, Vec<f32>>,
    ) -> Result<()> {
        let own: Vec<usize> = running.iter().filter(|r| self.rows.contains(r)).copied().collect();
        match &mut self.passes {
            _ if own.is_empty() => {}
            Some(passes) => {
                said.extend(own.iter().copied().zip(self.voice.checked(&passes.next(heard, &own, cancel)?)?))
            }
            None => {
                for r in own {
                    let ids = &heard[r].ids;
                    said.extend(self.voice.lines(ids, ids.len() - 1, cancel)?.pop().map(|line| (r, line)));
                }
            }
        }
        Ok(())
    }
}
