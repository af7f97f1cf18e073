//! Networks that are decoders: as models of their own beside the edited one, which continue texts over a cache where
//! their graphs have one.

use std::path::Path;
use std::sync::{Arc, Mutex};

use engraft_plugin_api::{ModuleId, Tensor};
use serde_json::Value;

use super::{Network, Weights};
use crate::anatomy::Anatomy;
use crate::base::{Error, Result, atomic, codes as base_codes};
use crate::graph::{Initializer, Shapes};
use crate::model::edit::narrow::stored;
use crate::model::open::Model;

/// The input of a network that answers.
pub(in crate::model) const INPUT: &str = "input_ids";

/// What the configurations that exporters write call the longest text that a decoder was made for.
const CONTEXTS: [&str; 2] = ["max_position_embeddings", "n_positions"];

/// A network as a decoder, once it was read as one.
#[derive(Default)]
pub(super) struct Decoder(Mutex<Option<Read>>);

/// The weights that a network was read with, and the model that it is; none where it is not read as a decoder.
type Read = (Arc<Weights>, Option<Arc<Model>>);

impl Model {
    /// A network as a model of its own, without patches, as its weights are now; none where it is not read as a decoder
    /// of `input_ids` whose first output is its logits.
    ///
    /// # Errors
    /// `module-unknown`; `model-dtype` for a type that the device does not run.
    pub(in crate::model) fn decoder(&self, module: &ModuleId) -> Result<Option<Arc<Model>>> {
        let network = self.network_of(module)?;
        let weights = network.weights.read().unwrap_or_else(|e| e.into_inner()).clone();
        let mut kept = network.decoder.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, found)) = kept.as_ref().filter(|(of, _)| Arc::ptr_eq(of, &weights)) {
            return Ok(found.clone());
        }
        let found = network.decoder_with(&weights, self)?.map(Arc::new);
        *kept = Some((weights, found.clone()));
        Ok(found)
    }

    /// The longest text that a network is said to read, in tokens, where the configuration beside it says so.
    ///
    /// # Errors
    /// `module-unknown`
    pub(in crate::model) fn said_context(&self, module: &ModuleId) -> Result<Option<usize>> {
        Ok(self.network_of(module)?.context)
    }
}

impl Network {
    fn decoder_with(&self, weights: &Weights, model: &Model) -> Result<Option<Model>> {
        let replaced = |(name, tensor): (&String, &Tensor)| {
            let own = self.graph.initializer(name)?;
            match tensor.as_f32() {
                Ok(values) => Some(stored(name, own.dtype(), &own.dims(), values)),
                Err(_) => Some(Initializer::i64(name, &own.dims(), tensor.as_i64().ok()?)),
            }
        };
        let Some(replaced) = weights.iter().map(replaced).collect::<Option<Vec<_>>>() else { return Ok(None) };
        // What is wrong with a graph that is no decoder is told where it is run as any other network.
        let read = || {
            let graph = self.graph.with_data(&replaced)?;
            let anatomy = Anatomy::of(&graph, &Shapes::infer(&graph)?)?;
            Ok::<_, Error>((graph, anatomy))
        };
        let Ok((graph, anatomy)) = read() else { return Ok(None) };
        let first = graph.outputs().into_iter().next().map(|port| port.name);
        let logits = anatomy.site(engraft_plugin_api::Site::Logits)?;
        if anatomy.inputs.ids != INPUT || first.as_deref() != Some(logits) {
            return Ok(None);
        }
        model.beside(&self.name, graph, anatomy).map(Some)
    }
}

/// The longest text that the `config.json` of a folder tells of.
///
/// # Errors
/// `file-read` if it cannot be read, or is not JSON.
pub(super) fn context_of(folder: &Path) -> Result<Option<usize>> {
    let path = folder.join("config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let config: Value = serde_json::from_slice(&atomic::read_bytes(&path)?)
        .map_err(|e| Error::new(&base_codes::FILE_READ, format!("`{}` is not JSON", path.display())).because(e))?;
    let told = CONTEXTS.iter().filter_map(|key| config.get(key)?.as_u64());
    Ok(told.filter(|n| *n > 0).filter_map(|n| usize::try_from(n).ok()).min())
}
