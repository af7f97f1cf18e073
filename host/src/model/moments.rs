//! Second moments of a site of this model over a corpus.

use std::path::Path;

use engraft_plugin_api::{RunRequest, SecondMoment, Site, Tap};
use ndarray::ArrayView2;

use super::open::Model;
use crate::base::{Cancel, Result};
use crate::hooks::{Moment, SecondMoments, documents, site_width};
use crate::runtime::provision;

/// Tokens that are run at once.
const TOKENS_AT_ONCE: usize = 2048;

impl Model {
    /// The second moment E[x xᵀ] of a site over every token of a text file: each non-empty line is a document, cut at
    /// the context. It is of the base model, whatever patches are active, and kept in the cache folder by the hashes
    /// of model and corpus.
    ///
    /// `progress` hears how many documents are done, of how many.
    ///
    /// # Errors
    /// `corpus-unreadable`, `statistics-foreign`, `interrupted`, or as [`Model::run`].
    pub fn second_moment(
        &self,
        site: Site,
        corpus: &Path,
        cancel: Option<&Cancel>,
        progress: &dyn Fn(u64, u64),
    ) -> Result<SecondMoment> {
        self.anatomy().site(site)?;
        let (texts, corpus_hash) = documents(corpus)?;
        let model_hash = self.hash()?;
        let store = provision::cache().map(|folder| SecondMoments::new(folder.join("statistics")));
        if let Some(found) = store.as_ref().map(|s| s.read(&model_hash, site, &corpus_hash)).transpose()?.flatten() {
            return Ok(found);
        }
        let moment = self.gather(site, &texts, cancel, progress)?.finish();
        if let Some(store) = &store {
            store.write(&model_hash, site, &corpus_hash, &moment)?;
        }
        Ok(moment)
    }

    fn gather(
        &self,
        site: Site,
        texts: &[String],
        cancel: Option<&Cancel>,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Moment> {
        let width: usize = site_width(self.anatomy(), site).iter().product();
        let context = self.anatomy().context.unwrap_or(usize::MAX).min(TOKENS_AT_ONCE);
        let tokenizer = self.tokenizer()?;
        let mut rows = Vec::with_capacity(texts.len());
        for text in texts {
            let mut row = tokenizer.encode(text)?.ids;
            row.truncate(context);
            if !row.is_empty() {
                rows.push(row);
            }
        }
        // Rows of one length share a batch without padding.
        rows.sort_by_key(Vec::len);
        let total = rows.len() as u64;
        let mut moment = Moment::new(width);
        let mut done = 0;
        while !rows.is_empty() {
            let longest = rows.last().map_or(1, Vec::len);
            let batch = rows.split_off(rows.len().saturating_sub((TOKENS_AT_ONCE / longest).max(1)));
            done += batch.len() as u64;
            let lengths: Vec<usize> = batch.iter().map(Vec::len).collect();
            let tap = Tap { site, places: None };
            let request = RunRequest { rows: batch, taps: vec![tap], ..RunRequest::default() };
            let reply = self.run_base(&request, cancel)?;
            let values = reply.taps[0].as_f32()?;
            for (row, length) in lengths.iter().enumerate() {
                let begin = row * longest * width;
                let of_row = &values[begin..begin + length * width];
                if let Ok(x) = ArrayView2::from_shape((*length, width), of_row) {
                    moment.add(x);
                }
            }
            progress(done, total);
        }
        Ok(moment)
    }
}
