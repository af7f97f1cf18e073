//! Exporting: the model with its active patches as a plain ONNX model that any runtime loads.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engraft_plugin_api::WeightRef;

use super::{codes, feed, narrow};
use crate::anatomy::WeightEdge;
use crate::base::{Error, Result};
use crate::graph::{Graph, Initializer, Patch, export_with};
use crate::hooks::{Graft, bake};
use crate::model::intercept::intercepts;
use crate::model::open::Model;
use crate::model::route::routes;
use crate::weights::{Overlay, Rounding};

impl Model {
    /// Writes the model with its active patches baked in to a new folder, whole or not at all. Tensors that more than
    /// one node reads are un-shared first, so that only the edited use changes. The base model's files are not
    /// touched. Slots become nodes and initializers beside their MLPs, splices between their
    /// sites and their readers, computed in float32; opened again, what lies around them may be absent from the anatomy,
    /// which reads plain decoders, and a model whose splices read positions or the mask may not be read at all. A weight and its sum are added in float32 and rounded once to the type that the file keeps it in; what
    /// that takes from the sum is returned, for each weight in fewer bits than float32.
    ///
    /// # Errors
    /// `export-target`, `export-exists`, `export-intercept`, `export-route`, `splice-plain`, `file-write` or `disk-full`; `edit-no-effect` if rounding leaves nothing of
    /// all that was edited.
    pub fn export(&self, target: &Path) -> Result<Vec<Rounding>> {
        let own = self.folder().canonicalize().ok();
        if own.is_some() && target.canonicalize().ok() == own {
            let text = format!("`{}` is the folder of the base model", target.display());
            return Err(Error::new(&codes::EXPORT_TARGET, text).help("export to a folder of its own"));
        }
        let state = self.state();
        if let Some((id, patch)) = state.patches.iter().find(|(_, patch)| intercepts(&patch.changes)) {
            let text = format!("the patch {id} has `{}` called in the middle of passes", patch.method);
            return Err(Error::new(&codes::EXPORT_INTERCEPT, text).help("roll it back before the export"));
        }
        if let Some((id, patch)) = state.patches.iter().find(|(_, patch)| routes(&patch.changes)) {
            let text = format!("the patch {id} has `{}` decide what becomes of requests", patch.method);
            return Err(Error::new(&codes::EXPORT_ROUTE, text).help("roll it back before the export"));
        }
        let rounding = self.rounding_in(&state.overlay)?;
        let edited = feed::branches(&state.overlay).into_iter().map(|(weight, _)| weight).collect::<BTreeSet<_>>();
        let lost = |r: &Rounding| r.changed == 0 && r.loss > 0.0;
        if rounding.len() == edited.len()
            && !rounding.is_empty()
            && rounding.iter().all(lost)
            && state.overlay.slots.is_empty()
            && state.overlay.splices.is_empty()
        {
            let text = format!("the export would be the unedited model: {}", rounding[0]);
            return Err(Error::new(&codes::NO_EFFECT, text)
                .help("edit and export a float32 copy of the model, or make the edit stronger"));
        }
        let (graph, replaced) = self.baked(&state.overlay, edited)?;
        let names =
            ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json", "prefixes.json"];
        let beside: Vec<PathBuf> = names.iter().map(|n| self.folder().join(n)).filter(|p| p.is_file()).collect();
        export_with(&graph, &replaced, &beside, target)?;
        Ok(rounding)
    }

    /// The graph with slots and splices in it and edited uses un-shared, and the tensors that are new.
    fn baked(&self, overlay: &Overlay, weights: BTreeSet<WeightRef>) -> Result<(Graph, Vec<Initializer>)> {
        let slots = overlay.slots.iter().map(|(branch, neurons)| (*branch, feed::slot_tensors(neurons, *branch)));
        let slots: Vec<_> = slots.collect();
        let tables = |graft: Arc<Graft>| {
            let folded = overlay.splices.values().find(|folded| folded.first.joins(graft.splice()));
            let tables = folded.iter().flat_map(|folded| &folded.tables).map(|table| Ok(table.tensor()?));
            Ok((graft, tables.collect::<Result<_>>()?))
        };
        let splices = self.grafts(overlay)?.into_iter().map(tables).collect::<Result<Vec<_>>>()?;
        let (graph, mut replaced) = bake(self.graph(), self.anatomy(), &slots, &splices)?;
        let mut patch = Patch::new(&graph);
        let mut edited: Vec<(WeightEdge, String, Vec<f32>)> = Vec::new();
        for weight in weights {
            let place = self.anatomy().weight(weight)?;
            let Some(sum) = overlay.dense_sum(weight, place.shape) else { continue };
            let stored = feed::to_stored(sum, place, self.graph());
            // Weights packed into one tensor share its copy.
            let found =
                edited.iter_mut().find(|(p, _, _)| p.initializer == place.initializer && p.reader == place.reader);
            if let Some((_, _, total)) = found {
                for (t, s) in total.iter_mut().zip(stored) {
                    *t += s;
                }
                continue;
            }
            let name = if place.uses > 1 {
                patch.fresh(&format!("{}.edited", place.initializer))
            } else {
                place.initializer.clone()
            };
            edited.push((place.clone(), name, stored));
        }
        for (place, name, sum) in edited {
            let Some(base) = self.graph().initializer(&place.initializer) else { continue };
            let values = self.graph().values(base)?;
            let new: Vec<f32> = values.floats().unwrap_or(&[]).iter().zip(&sum).map(|(b, s)| b + s).collect();
            let initializer = narrow::stored(&name, base.dtype(), &base.dims(), &new);
            if name != place.initializer {
                patch.constant(initializer.clone());
                patch.reroute(&place.reader.0, place.reader.1, &name)?;
            }
            replaced.push(initializer);
        }
        Ok((patch.apply()?, replaced))
    }
}
