//! Splices of a model: read and checked once for each structure, folded over patches, and tried before they are kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use engraft_plugin_api::{Change, Increment, RunReply, RunRequest, Splice, Tap};

use crate::base::{Error, Result};
use crate::hooks::{Graft, Name, Values, codes as hook_codes};
use crate::model::codes;
use crate::model::open::Model;
use crate::runtime::Value;
use crate::weights::{Checked, Folded, Overlay, Patch, PatchId, SpliceKey, codes as weight_codes, fits, increments};

/// The splices among changes.
pub(in crate::model) fn splices(changes: &[Change]) -> impl Iterator<Item = &Splice> {
    changes.iter().filter_map(|change| if let Change::Splice(splice) = change { Some(splice) } else { None })
}

/// The ends of the prompts as an input.
pub(in crate::model) fn set_ends(ends: &[usize], values: &mut Values) -> Result<()> {
    values.set(Name::PromptEnd, Value::i64(&[ends.len()], ends.iter().map(|&end| end as i64).collect())?);
    Ok(())
}

/// True if a splice wants to see whole rows in every pass.
pub(in crate::model) fn whole_rows(grafts: &[Arc<Graft>]) -> bool {
    grafts.iter().any(|graft| graft.splice().whole_rows)
}

impl Model {
    /// The graphs of an overlay's splices, in the order in which they run at one edge.
    pub(in crate::model) fn grafts(&self, overlay: &Overlay) -> Result<Vec<Arc<Graft>>> {
        let graft = |(key, folded): (&SpliceKey, &Folded)| {
            self.grafts.get(&key.id, || Graft::of(self.graph(), self.anatomy(), &folded.first, key.id))
        };
        let mut all = overlay.splices.iter().map(graft).collect::<Result<Vec<_>>>()?;
        all.sort();
        Ok(all)
    }

    /// Checks one splice against the model.
    pub(in crate::model) fn check_splice(&self, splice: &Splice) -> Result<Checked> {
        let key = Folded::key(splice);
        let graft = self.grafts.get(&key.id, || Graft::of(self.graph(), self.anatomy(), splice, key.id))?;
        graft.check_tables(splice)?;
        let floats = splice.tables.iter().filter_map(|table| table.value.as_f32().ok());
        let square = floats.flatten().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
        Ok(Checked { norm: square.sqrt(), ratio: 0.0 })
    }

    /// That the splices of patches, and of trial changes on top, can stand together: those that are one have tables
    /// that fit, and no others write one edge in the same order.
    ///
    /// # Errors
    /// `splice-table` or `splice-conflict`, naming both patches.
    pub(in crate::model) fn check_together(
        &self,
        patches: &[(PatchId, Arc<Patch>)],
        trial: Option<&[Change]>,
    ) -> Result<()> {
        let of = |changes, name: Option<&PatchId>| {
            let name = name.map_or_else(|| "a trial change".to_owned(), |id| format!("the patch {id}"));
            splices(changes).map(move |splice| (splice, name.clone()))
        };
        let all = patches.iter().flat_map(|(id, patch)| of(&patch.changes, Some(id)));
        let all = all.chain(trial.into_iter().flat_map(|changes| of(changes, None)));
        let mut first: BTreeMap<(&str, i32), (&Splice, String)> = BTreeMap::new();
        for (splice, name) in all {
            let edge = self.anatomy().site(splice.writes)?;
            let Some((other, its)) = first.get(&(edge, splice.order)) else {
                first.insert((edge, splice.order), (splice, name));
                continue;
            };
            let both = format!("{its} and {name}");
            if !other.joins(splice) {
                let text = format!(
                    "{both} have different splices at `{}` with the order {}, and neither comes first",
                    splice.writes, splice.order
                );
                return Err(
                    Error::new(&codes::SPLICE_CONFLICT, text).help("leave one of the two patches out, or roll it back")
                );
            }
            for (a, b) in other.tables.iter().zip(&splice.tables) {
                fits(a, b).map_err(|why| {
                    let text = format!("the splices of {both} at `{}` cannot be one: {why}", splice.writes);
                    Error::new(&hook_codes::SPLICE_TABLE, text)
                })?;
            }
        }
        Ok(())
    }

    /// That all parts of one name of one method can be folded.
    ///
    /// # Errors
    /// `statistic-part`, naming both patches.
    pub(in crate::model) fn check_parts(&self, patches: &[(PatchId, Arc<Patch>)]) -> Result<()> {
        let mut first: BTreeMap<(&str, &str), (&Increment, &PatchId)> = BTreeMap::new();
        for (id, patch) in patches {
            for part in increments(&patch.changes) {
                let (other, its) = *first.entry((&patch.method, &part.name)).or_insert((part, id));
                fits(other, part).map_err(|why| {
                    let text = format!("the patches {its} and {id} of `{}` cannot be summed up: {why}", patch.method);
                    Error::new(&weight_codes::STATISTIC_PART, text)
                })?;
            }
        }
        Ok(())
    }

    /// That the splices of a patch make numbers of the probe, and the same ones whatever rows it shares a batch with and,
    /// but for splices that want whole rows, whatever tokens follow.
    ///
    /// # Errors
    /// `splice-not-finite`, `splice-mixes`, or what the runtime finds wrong with the graph.
    pub(in crate::model) fn try_splices(&self, patch: &Patch) -> Result<()> {
        let taps: Vec<Tap> = splices(&patch.changes).map(|s| Tap { site: s.writes, places: None }).collect();
        if taps.is_empty() {
            return Ok(());
        }
        let acts = |c: &&Change| !matches!(c, Change::Intercept { .. } | Change::Route);
        let under: Vec<Change> = patch.changes.iter().filter(acts).cloned().collect();
        let sites: Vec<String> = taps.iter().map(|tap| format!("`{}`", tap.site)).collect();
        let alone = RunRequest { taps, under, ..self.probe_of(patch)? };
        let reply = self.run(&alone).map_err(|e| {
            let text = format!("the probe did not run with a splice at {}", sites.join(" and "));
            Error::new(e.code(), text).because(e)
        })?;
        for (tap, site) in reply.taps.iter().zip(&sites) {
            let bad = tap.as_f32()?.iter().filter(|v| !v.is_finite()).count();
            if bad > 0 {
                let text = format!("the splice at {site} made {bad} numbers of the probe that are not finite");
                return Err(Error::new(&codes::SPLICE_NOT_FINITE, text));
            }
        }
        let whole: Vec<bool> = splices(&patch.changes).map(|s| s.whole_rows).collect();
        let mixes = |i: usize, with: &str| {
            let text = format!("what the splice at {} makes of the probe is another with {with}", sites[i]);
            Err(Error::new(&codes::SPLICE_MIXES, text))
        };
        if let Some(i) = self.first_difference((&alone, &reply), &self.beside_another(&alone))? {
            return mixes(i, "another row in its batch");
        }
        let longer = self.with_more_behind(&alone).filter(|_| !whole.iter().all(|whole| *whole));
        match longer.map(|longer| self.first_difference((&alone, &reply), &longer)).transpose()?.flatten() {
            Some(i) if !whole[i] => mixes(i, "more tokens behind it"),
            _ => Ok(()),
        }
    }

    /// The probe with a row of other tokens, as long.
    fn beside_another(&self, alone: &RunRequest) -> RunRequest {
        let vocab = self.anatomy().vocab as u32;
        let other = alone.rows[0].iter().map(|id| (id + vocab / 2) % vocab).collect();
        let (rows, end) = (vec![alone.rows[0].clone(), other], alone.prompt_ends[0]);
        RunRequest { rows, prompt_ends: vec![end; 2], ..alone.clone() }
    }

    /// The probe with its first tokens once more behind it, or none where the context ends.
    fn with_more_behind(&self, alone: &RunRequest) -> Option<RunRequest> {
        let row = &alone.rows[0];
        let room = self.anatomy().context.unwrap_or(usize::MAX).saturating_sub(row.len()).min(3);
        let more: Vec<u32> = row.iter().cycle().take(room).copied().collect();
        (room > 0).then(|| RunRequest { rows: vec![[row.as_slice(), &more].concat()], ..alone.clone() })
    }

    /// The number of the first tap that is not the same at the positions of the first row of `alone` in both passes,
    /// beyond what rounding does; none where the model without the changes differs as well.
    fn first_difference(&self, (alone, found): (&RunRequest, &RunReply), other: &RunRequest) -> Result<Option<usize>> {
        let differs = |a: &RunReply, b: &RunReply| -> Result<Option<usize>> {
            for (i, (a, b)) in a.taps.iter().zip(&b.taps).enumerate() {
                let (a, b) = (a.as_f32()?, b.as_f32()?);
                let scale = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let bound = scale * (64.0 * self.roundoff()).max(1e-3);
                // Positions are the second axis, so that the first row's are at the head.
                if !a.iter().zip(b).all(|(a, b)| (a - b).abs() <= bound) {
                    return Ok(Some(i));
                }
            }
            Ok(None)
        };
        let plain = |request: &RunRequest| self.run(&RunRequest { under: Vec::new(), ..request.clone() });
        match differs(found, &self.run(other)?)? {
            Some(i) if differs(&plain(alone)?, &plain(other)?)?.is_none() => Ok(Some(i)),
            _ => Ok(None),
        }
    }
}
