//! An anatomy as rows: what a command line prints and a machine reads.

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};
use serde::Serialize;

use super::parts::{Anatomy, CachePort, Cached, Storage, WeightEdge};
use crate::graph::Dim;

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An activation.
    Site,
    /// A parameter.
    Weight,
}

/// One site or weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The name of the site or weight.
    pub name: String,
    /// Which of the two it is.
    pub kind: Kind,
    /// The extents, symbols in words; empty where it is absent.
    pub shape: String,
    /// The edge of a site, or the initializer of a weight with how it is stored.
    pub edge: Option<String>,
    /// What shows that this is it, or why it is absent.
    pub evidence: String,
}

/// An anatomy as facts and rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// The number of blocks.
    pub layers: usize,
    /// The width of the residual stream.
    pub d_model: usize,
    /// The width of the MLPs.
    pub d_mlp: usize,
    /// The number of query heads.
    pub heads: usize,
    /// The number of key and value heads.
    pub kv_heads: usize,
    /// The width of a head.
    pub d_head: usize,
    /// The rows of the token embedding.
    pub vocab: usize,
    /// The rows of the position embedding.
    pub context: Option<usize>,
    /// The input that takes token ids.
    pub ids: String,
    /// The input that takes the padding mask.
    pub mask: Option<String>,
    /// The input that takes positions.
    pub positions: Option<String>,
    /// The inputs and outputs of cached keys and values, in the order of the graph.
    pub cache: Vec<Port>,
    /// The sites and weights in the order of the computation, present and absent.
    pub rows: Vec<Row>,
}

/// The cached keys or the cached values of one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    /// The block.
    pub layer: usize,
    /// `keys` or `values`.
    pub kind: &'static str,
    /// The input: those of earlier positions.
    pub past: String,
    /// The output: those of earlier and new positions.
    pub present: String,
    /// The extents, symbols in words.
    pub shape: String,
    /// The element type.
    pub dtype: &'static str,
}

impl Table {
    /// The table of an anatomy. It serialises to JSON as it is.
    pub fn of(anatomy: &Anatomy) -> Self {
        let layers = 0..anatomy.layers;
        let mut sites = vec![Site::Embed];
        sites.extend(layers.clone().flat_map(|l| BlockSite::ALL.map(|s| Site::Block(l, s))));
        sites.extend([Site::LnFinal, Site::Logits]);
        let mut weights = vec![WeightRef::Embedding, WeightRef::Positions];
        weights.extend(layers.flat_map(|l| Role::ALL.map(|r| WeightRef::Block(l, r))));
        weights.extend([WeightRef::LnFinalScale, WeightRef::LnFinalShift]);
        weights.extend([WeightRef::Unembedding, WeightRef::UnembeddingBias]);
        let rows = sites.into_iter().map(|s| site_row(anatomy, s));
        let rows = rows.chain(weights.into_iter().map(|w| weight_row(anatomy, w))).collect();
        let inputs = anatomy.inputs.clone();
        Self {
            layers: anatomy.layers,
            d_model: anatomy.d_model,
            d_mlp: anatomy.d_mlp,
            heads: anatomy.heads,
            kv_heads: anatomy.kv_heads,
            d_head: anatomy.d_head,
            vocab: anatomy.vocab,
            context: anatomy.context,
            ids: inputs.ids,
            mask: inputs.mask,
            positions: inputs.positions,
            cache: inputs.cache.iter().map(port).collect(),
            rows,
        }
    }
}

impl Anatomy {
    /// The extents that a site has in this model.
    pub fn site_dims(&self, site: Site) -> Vec<Dim> {
        use BlockSite as B;
        let (batch, pos) = (Dim::symbol("batch"), Dim::symbol("pos"));
        match site {
            Site::Logits => {
                let width = self.weights.get(&WeightRef::Unembedding).map_or(self.vocab, |w| w.shape[1]);
                vec![batch, pos, Dim::Known(width)]
            }
            Site::Block(_, B::Q | B::Z) => vec![batch, pos, Dim::Known(self.heads), Dim::Known(self.d_head)],
            Site::Block(_, B::K | B::V) => vec![batch, pos, Dim::Known(self.kv_heads), Dim::Known(self.d_head)],
            Site::Block(_, B::Pattern) => {
                vec![batch, Dim::Known(self.heads), Dim::symbol("query"), Dim::symbol("key")]
            }
            Site::Block(_, B::MlpPre | B::MlpPreLinear | B::MlpPost) => vec![batch, pos, Dim::Known(self.d_mlp)],
            Site::Embed | Site::LnFinal | Site::Block(..) => vec![batch, pos, Dim::Known(self.d_model)],
        }
    }
}

/// Extents in words.
pub(super) fn words(dims: &[Dim]) -> String {
    let list: Vec<String> = dims.iter().map(Dim::to_string).collect();
    format!("[{}]", list.join(", "))
}

fn port(found: &CachePort) -> Port {
    let (pos, head) = (Dim::symbol("pos"), Dim::Known(found.heads));
    let [one, two] = if found.axis == 1 { [pos, head] } else { [head, pos] };
    Port {
        layer: found.layer,
        kind: match found.kind {
            Cached::Key => "keys",
            Cached::Value => "values",
        },
        past: found.past.clone(),
        present: found.present.clone(),
        shape: words(&[Dim::symbol("batch"), one, two, Dim::Known(found.d_head)]),
        dtype: found.dtype.name(),
    }
}

fn site_row(anatomy: &Anatomy, site: Site) -> Row {
    let name = site.to_string();
    match anatomy.sites.get(&site) {
        Some(found) => Row {
            shape: words(&anatomy.site_dims(site)),
            edge: Some(match found.axes.words() {
                Some(axes) => format!("{} ({axes})", found.edge),
                None => found.edge.clone(),
            }),
            evidence: found.evidence.clone(),
            name,
            kind: Kind::Site,
        },
        None => absent(anatomy, name, Kind::Site),
    }
}

fn weight_row(anatomy: &Anatomy, weight: WeightRef) -> Row {
    let name = weight.to_string();
    match anatomy.weights.get(&weight) {
        Some(found) => Row {
            shape: match found.storage {
                Storage::Vector => format!("[{}]", found.shape[1]),
                _ => format!("[{}, {}]", found.shape[0], found.shape[1]),
            },
            edge: Some(stored(found)),
            evidence: found.evidence.clone(),
            name,
            kind: Kind::Weight,
        },
        None => absent(anatomy, name, Kind::Weight),
    }
}

/// An initializer, its type and what differs from a matrix of its own stored `[in, out]`.
fn stored(weight: &WeightEdge) -> String {
    let mut notes = vec![weight.dtype.name().to_owned()];
    if weight.storage == Storage::OutIn {
        notes.push("stored [out, in]".to_owned());
    }
    if let Some(columns) = weight.columns {
        notes.push(format!("outputs {columns}"));
    }
    if weight.uses > 1 {
        notes.push(format!("{} uses", weight.uses));
    }
    format!("{} ({})", weight.initializer, notes.join(", "))
}

fn absent(anatomy: &Anatomy, name: String, kind: Kind) -> Row {
    let evidence = anatomy.absent.get(&name).cloned().unwrap_or_default();
    Row { name, kind, shape: String::new(), edge: None, evidence }
}
