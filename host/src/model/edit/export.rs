//! Exporting: the model with its active patches as a plain ONNX model that any runtime loads.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use engraft_plugin_api::WeightRef;

use super::{codes, feed, narrow};
use crate::anatomy::WeightEdge;
use crate::base::{Error, Result, atomic};
use crate::graph::{Beside, Graph, Initializer, Patch, export_with};
use crate::hooks::{Graft, bake};
use crate::model::intercept::intercepts;
use crate::model::open::{Model, SETTINGS};
use crate::model::route::routes;
use crate::weights::{Overlay, Rounding};

/// What to do about a patch that cannot be exported.
const LEAVE_OUT: &str = "export without it: leave out its `--patch`, or in a program roll it back first";

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
            return Err(Error::new(&codes::EXPORT_INTERCEPT, text).help(LEAVE_OUT));
        }
        if let Some((id, patch)) = state.patches.iter().find(|(_, patch)| routes(&patch.changes)) {
            let text = format!("the patch {id} has `{}` decide what becomes of requests", patch.method);
            return Err(Error::new(&codes::EXPORT_ROUTE, text).help(LEAVE_OUT));
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
        let there = names.iter().map(|name| (PathBuf::from(name), self.folder().join(name)));
        let mut beside: Vec<Beside> =
            there.filter(|(_, path)| path.is_file()).map(|(name, path)| Beside::Copy(name, path)).collect();
        beside.extend(settings(self.folder())?);
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

/// The settings of a model's folder for another folder. The text that statistics are gathered from goes along where it
/// lies in the folder; elsewhere it is named by its whole path.
fn settings(folder: &Path) -> Result<Vec<Beside>> {
    let (name, path) = (PathBuf::from(SETTINGS), folder.join(SETTINGS));
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let bytes = atomic::read_bytes(&path)?;
    let as_it_is = || Beside::Bytes(name.clone(), bytes.clone());
    let parsed = serde_json::from_slice::<serde_json::Value>(atomic::unmarked(&bytes)).ok();
    let corpus = parsed.as_ref().and_then(|settings| Some(PathBuf::from(settings.get("corpus")?.as_str()?)));
    let (Some(mut settings), Some(corpus)) = (parsed, corpus) else { return Ok(vec![as_it_is()]) };
    let from = folder.join(&corpus);
    if corpus.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Ok([as_it_is()].into_iter().chain(from.is_file().then_some(Beside::Copy(corpus, from))).collect());
    }
    let whole = from.canonicalize().or_else(|_| std::path::absolute(&from)).unwrap_or(from);
    // A path that JSON cannot spell is left out, rather than another one put in.
    match (settings.as_object_mut(), whole.to_str()) {
        (Some(table), Some(whole)) => table.insert("corpus".to_owned(), whole.into()),
        (Some(table), None) => table.remove("corpus"),
        _ => None,
    };
    Ok(vec![Beside::Bytes(name, settings.to_string().into_bytes())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_a_folder_hold_in_another_one() {
        let home = tempfile::tempdir().unwrap();
        let (folder, name) = (home.path().join("model"), PathBuf::from(SETTINGS));
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(settings(&folder).unwrap(), []);
        let with = |text: &str| {
            std::fs::write(folder.join(SETTINGS), text).unwrap();
            settings(&folder).unwrap()
        };
        let own = r#"{"corpus": "./texts.txt", "more": 1}"#;
        assert_eq!(with(own), [Beside::Bytes(name.clone(), own.into())], "it is not there");
        std::fs::write(home.path().join("model/texts.txt"), "a text").unwrap();
        let copy = Beside::Copy("./texts.txt".into(), home.path().join("model/./texts.txt"));
        assert_eq!(with(own), [Beside::Bytes(name.clone(), own.into()), copy]);
        std::fs::write(home.path().join("all.txt"), "a text").unwrap();
        let [Beside::Bytes(_, found)] = &with(r#"{"corpus": "../all.txt", "more": 1}"#)[..] else { panic!() };
        let found: serde_json::Value = serde_json::from_slice(found).unwrap();
        let whole = home.path().join("all.txt").canonicalize().unwrap();
        assert_eq!((found["corpus"].as_str(), &found["more"]), (whole.to_str(), &1.into()));
        for text in ["{", "[]", "{}"] {
            assert_eq!(with(text), [Beside::Bytes(name.clone(), text.into())]);
        }
    }
}
