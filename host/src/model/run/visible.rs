//! Which of the committed patches each row of a request sees, and what that makes of the inputs.
//!
//! Columns of low-rank factors, slots and entries of stacked tables have an owner each, and a gate for each row. What is
//! summed into one tensor cannot be gated: rows that see different patches with a part in such sums are run in batches
//! of their own, each with its own sums (`sums`). Programs are those of all patches, whatever the rows see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Seen;
use super::feed;
use crate::base::{Error, Result};
use crate::hooks::Values;
use crate::model::codes;
use crate::model::open::{Model, State};
use crate::weights::{PatchId, codes as weight_codes};

/// Which of the committed patches a row sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Active {
    /// All of them.
    #[default]
    All,
    /// These; none for the base model.
    Only(Vec<PatchId>),
}

/// How the rows of a request see the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Which patches they may see: empty for all of them, one for all rows alike, else one for each row.
    pub active: Vec<Active>,
    /// True if the methods of those patches are asked what becomes of each row. Where they are not, the rows see the
    /// patches that route as they see all others.
    pub routed: bool,
}

impl Default for View {
    fn default() -> Self {
        Self { active: Vec::new(), routed: true }
    }
}

impl View {
    /// Every row may see these patches and no others; none for the base model.
    pub fn only(ids: impl IntoIterator<Item = PatchId>) -> Self {
        Self { active: vec![Active::Only(ids.into_iter().collect())], ..Self::default() }
    }

    /// Every row sees all patches, and no method is asked.
    pub fn unrouted() -> Self {
        Self { routed: false, ..Self::default() }
    }
}

/// What a row may see.
pub(in crate::model) fn active_of(active: &[Active], row: usize) -> &Active {
    match active {
        [] => &Active::All,
        [all] => all,
        each => &each[row],
    }
}

/// # Errors
/// `active-rows` unless something is said of every row.
pub(in crate::model) fn check_active(active: &[Active], rows: usize) -> Result<()> {
    let n = active.len();
    if n < 2 || n == rows {
        return Ok(());
    }
    Err(Error::new(&codes::ACTIVE_ROWS, format!("patches are chosen for {n} rows, and the request has {rows}")))
}

/// What the rows of a request see of its sources: the patches in the order of their commits, then its own trial changes.
#[derive(Clone, Debug)]
pub(in crate::model) struct Visible {
    /// Of each row: what it sees of the patches; `None` for all.
    rows: Vec<Option<Arc<[bool]>>>,
}

impl Visible {
    /// Every row sees everything.
    pub(in crate::model) fn all(rows: usize) -> Self {
        Self { rows: vec![None; rows] }
    }

    /// Everything but sources that are false, of each row.
    pub(in crate::model) fn of(rows: impl IntoIterator<Item = Option<Vec<bool>>>) -> Self {
        Self { rows: rows.into_iter().map(|row| row.filter(|row| row.contains(&false)).map(Arc::from)).collect() }
    }

    pub(in crate::model) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// True if a row sees a source. Trial changes are seen by all rows of their request.
    pub(in crate::model) fn sees(&self, row: usize, source: usize) -> bool {
        self.rows[row].as_ref().is_none_or(|seen| seen.get(source).copied().unwrap_or(true))
    }

    /// The gate of things with owners, `[rows, owners]`: 1 where a row sees the owner, else 0.
    pub(in crate::model) fn gate(&self, owners: &[(usize, usize)]) -> Vec<f32> {
        let of_row = |row: usize| owners.iter().map(move |&(source, _)| if self.sees(row, source) { 1.0 } else { 0.0 });
        (0..self.rows.len()).flat_map(of_row).collect()
    }

    /// The gate of something that several own together, `[rows]`: 1 where a row sees one of them, else 0.
    pub(in crate::model) fn gate_of_any(&self, owners: &[(usize, usize)]) -> Vec<f32> {
        let any = |row: usize| owners.iter().any(|&(source, _)| self.sees(row, source));
        (0..self.rows.len()).map(|row| if any(row) { 1.0 } else { 0.0 }).collect()
    }

    /// Some of the rows, in the order given.
    pub(in crate::model) fn pick(&self, rows: &[usize]) -> Self {
        Self { rows: rows.iter().map(|&row| self.rows[row].clone()).collect() }
    }

    /// Of the rows, those that see the same of some sources together, each group and the groups in order.
    pub(in crate::model) fn groups(&self, rows: &[usize], sources: &BTreeSet<usize>) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<Vec<bool>, Vec<usize>> = BTreeMap::new();
        for &row in rows {
            groups.entry(self.mask(row, sources)).or_default().push(row);
        }
        let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
        groups.sort_by_key(|group| group[0]);
        groups
    }

    fn mask(&self, row: usize, sources: &BTreeSet<usize>) -> Vec<bool> {
        sources.iter().map(|&source| self.sees(row, source)).collect()
    }
}

impl State {
    /// What a row sees of the patches; `None` for all.
    ///
    /// # Errors
    /// `patch-unknown`
    pub(in crate::model) fn seen_by(&self, active: &Active) -> Result<Option<Vec<bool>>> {
        let Active::Only(ids) = active else { return Ok(None) };
        let mut seen = vec![false; self.patches.len()];
        for id in ids {
            let at = self.patches.iter().position(|(of, _)| of == id).ok_or_else(|| {
                let text = format!("a request asked for the patch {id}, which is not active");
                Error::new(&weight_codes::PATCH_UNKNOWN, text)
                    .help("`Model::patches` lists the active ones; a patch that was rolled back is no longer there")
            })?;
            seen[at] = true;
        }
        Ok(Some(seen))
    }
}

impl Seen<'_> {
    /// What rows see of the patches that were committed when the request began.
    ///
    /// # Errors
    /// `patch-unknown` or `active-rows`
    pub(in crate::model) fn visible(&self, active: &[Active], rows: usize) -> Result<Visible> {
        check_active(active, rows)?;
        (0..rows).map(|row| self.state.seen_by(active_of(active, row))).collect::<Result<Vec<_>>>().map(Visible::of)
    }
}

impl Model {
    /// The inputs that hold the changes for the rows of a batch, all of which see the same of what is summed.
    pub(in crate::model) fn feed(&self, seen: &Seen<'_>, visible: &Visible, values: &mut Values) -> Result<()> {
        values.copy(&seen.values);
        for (&what, sources) in seen.overlay.summed.iter().filter(|_| visible.rows() > 0) {
            let own: Vec<usize> = sources.iter().copied().filter(|&source| visible.sees(0, source)).collect();
            if own.len() < sources.len() {
                self.feed_sum(seen, what, &own, values)?;
            }
        }
        feed::gates(&seen.overlay, visible, values)
    }
}
