//! What an anatomy holds: the sites, weights and ends of a decoder as edges of its graph, with evidence and absences.

use std::collections::{BTreeMap, BTreeSet};

use engraft_plugin_api::{Site, WeightRef};

use super::codes;
use super::columns::Columns;
use crate::base::{Error, Result};
use crate::graph::DType;

/// Which edge of a graph is which part of a transformer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Anatomy {
    /// The number of blocks.
    pub layers: usize,
    /// The width of the residual stream.
    pub d_model: usize,
    /// The width of `mlp.post`.
    pub d_mlp: usize,
    /// The number of query heads.
    pub heads: usize,
    /// The number of key and value heads.
    pub kv_heads: usize,
    /// The width of a head.
    pub d_head: usize,
    /// The number of rows of the embedding.
    pub vocab: usize,
    /// The number of rows of a learned position embedding, or of positions that the file fixes, where there is one.
    pub context: Option<usize>,
    /// What the last norm adds to the mean square.
    pub epsilon: Option<f32>,
    /// How the norms before attention, before the MLP and before the unembedding are computed, by the site that is
    /// their output.
    pub norms: BTreeMap<Site, NormFacts>,
    /// The blocks whose attention and MLP read the same stream and are added to it together.
    pub parallel: BTreeSet<usize>,
    /// The blocks in which something changes the values on the way from `attn.v` to their mixing, as a clip does, or
    /// once they are mixed, as a norm does: `attn.z` is not `attn.pattern · attn.v` there.
    pub altered_values: BTreeSet<usize>,
    /// The blocks in which a key that is none of the positions' takes a part of the attention weights: a row of
    /// `attn.pattern` sums to less than 1 there.
    pub sinks: BTreeSet<usize>,
    /// What lies between the tables and `embed`, besides their sum.
    pub embedding: Embedding,
    /// What is done to the unembedded values before they are the logits, in order.
    pub shaping: Vec<Shaping>,
    /// The inputs of the graph by what they mean.
    pub inputs: Inputs,
    /// The sites that the graph has.
    pub sites: BTreeMap<Site, SiteEdge>,
    /// The weights that the graph has.
    pub weights: BTreeMap<WeightRef, WeightEdge>,
    /// What the graph does not have, by the name of the site or weight, and why.
    pub absent: BTreeMap<String, String>,
}

/// The inputs of a decoder graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Token ids `[batch, pos]`.
    pub ids: String,
    /// 1 where a token is and 0 in the padding, `[batch, pos]`.
    pub mask: Option<String>,
    /// Absolute positions `[batch, pos]`.
    pub positions: Option<String>,
    /// What nothing reads, `[batch, pos]`: the graph wants a value, whichever.
    pub idle: Vec<String>,
    /// Cached keys and values, in the order of the graph; empty where the graph has none.
    pub cache: Vec<CachePort>,
    /// How many rows, and how many positions, a batch must have, where the file fixes that.
    pub fixed: [Option<Fixed>; 2],
}

/// An extent that a file fixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// The input that says so.
    pub input: String,
    /// The extent.
    pub extent: usize,
}

impl Inputs {
    /// How many rows a batch must have, if that is fixed.
    pub fn rows(&self) -> Option<usize> {
        self.fixed[0].as_ref().map(|fixed| fixed.extent)
    }

    /// How many positions the longest row of a batch must have, if that is fixed.
    pub fn positions_of_rows(&self) -> Option<usize> {
        self.fixed[1].as_ref().map(|fixed| fixed.extent)
    }
}

/// What is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cached {
    /// Keys.
    Key,
    /// Values.
    Value,
}

/// The cached keys or the cached values of one block: an input that is joined with new ones, and the output that gives
/// the joined ones back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachePort {
    /// The block.
    pub layer: usize,
    /// Keys or values.
    pub kind: Cached,
    /// The input: those of earlier positions.
    pub past: String,
    /// The output: those of earlier and new positions.
    pub present: String,
    /// The edge inside that holds the joined ones.
    pub joined: String,
    /// The edge that holds the new ones, where it can stand for the joined ones if nothing is cached.
    pub fresh: Option<String>,
    /// Which of the four axes counts positions: 2 in `[batch, head, pos, d_head]`, 1 in `[batch, pos, head, d_head]`.
    pub axis: usize,
    /// The number of key and value heads.
    pub heads: usize,
    /// The width of a head.
    pub d_head: usize,
    /// The element type.
    pub dtype: DType,
}

impl CachePort {
    /// The shape for so many rows and cached positions.
    pub fn shape(&self, rows: usize, positions: usize) -> [usize; 4] {
        if self.axis == 1 {
            [rows, positions, self.heads, self.d_head]
        } else {
            [rows, self.heads, positions, self.d_head]
        }
    }
}

/// How a norm is computed: of x, less its mean where centred, `x / sqrt(mean(x²) + epsilon) · (w + offset) + b`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormFacts {
    /// True for a layer norm, false for an RMS norm.
    pub centred: bool,
    /// What is added to the mean square.
    pub epsilon: f32,
    /// What the graph adds to the stored scale.
    pub offset: f32,
}

/// What lies between the tables and `embed`: `embed = scale · W_E[ids] + W_pos[positions + offset]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embedding {
    /// The factor of the rows of the token table, or of the sum.
    pub scale: f32,
    /// What is added to a position to give a row of the position table.
    pub offset: i64,
    /// True if nothing else lies between.
    pub plain: bool,
}

impl Default for Embedding {
    fn default() -> Self {
        Self { scale: 1.0, offset: 0, plain: false }
    }
}

/// One step from unembedded values to logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shaping {
    /// Times a number.
    Scale(f32),
    /// The hyperbolic tangent, which caps.
    Tanh,
}

/// In which axes an edge holds a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Axes {
    /// In those of the site's name.
    #[default]
    Named,
    /// `[batch, head, pos, d_head]` for a site that is `[batch, pos, head, d_head]`.
    HeadsFirst,
    /// `[batch, pos, head, 1, d_head]` for a site that is `[batch, pos, head, d_head]`.
    HeadsApart,
    /// `[batch, pos, head · d_head]` for a site that is `[batch, pos, head, d_head]`.
    HeadsMerged,
    /// `[batch · pos, width]` for a site that is `[batch, pos, width]`.
    PositionsMerged,
}

impl Axes {
    /// The axes in words, where they are not those of the site's name.
    pub fn words(self) -> Option<&'static str> {
        match self {
            Self::Named => None,
            Self::HeadsFirst => Some("[batch, head, pos, d_head]"),
            Self::HeadsApart => Some("[batch, pos, head, 1, d_head]"),
            Self::HeadsMerged => Some("[batch, pos, head d_head]"),
            Self::PositionsMerged => Some("[batch pos, width]"),
        }
    }
}

/// A site as an edge whose value is the site's, in the axes that are said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteEdge {
    /// The edge.
    pub edge: String,
    /// Its axes.
    pub axes: Axes,
    /// What in the graph shows that this is the site.
    pub evidence: String,
}

/// How a file stores a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// `[in, out]`.
    InOut,
    /// `[out, in]`.
    OutIn,
    /// `[out]`: a bias or a norm's parameter.
    Vector,
}

/// A weight as a tensor of the file and the place where the graph uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightEdge {
    /// The initializer that holds the values.
    pub initializer: String,
    /// How it is stored.
    pub storage: Storage,
    /// The element type in the file.
    pub dtype: DType,
    /// `[in, out]` as methods see it; vectors are `[1, out]`.
    pub shape: [usize; 2],
    /// Which of the stored outputs are this weight's, where several are packed into one tensor.
    pub columns: Option<Columns>,
    /// The node input that reads it: the first output of the reading node, and the slot. Rerouting this input edits
    /// this use of the tensor and no other.
    pub reader: (String, usize),
    /// How many node inputs read the initializer, this one included; above 1 it is shared (tied).
    pub uses: usize,
    /// The activation that the weight multiplies, `[batch, pos, in]`; for `W_O` it may be `attn.z` in four axes, the
    /// last two of which are flattened; for `W_E` and `W_pos` the row numbers. None for vectors.
    pub input: Option<String>,
    /// The activation that the weight makes, `[batch, pos, out]` with all packed outputs, after its bias. None for
    /// vectors.
    pub output: Option<String>,
    /// True where input and output have batch and positions in one axis: `[batch · pos, in]`, `[batch · pos, out]`.
    pub merged: [bool; 2],
    /// What in the graph shows that this is the weight.
    pub evidence: String,
}

impl Anatomy {
    /// The edge of a site.
    ///
    /// # Errors
    /// `site-absent` with the reason.
    pub fn site(&self, site: Site) -> Result<&str> {
        match self.sites.get(&site) {
            Some(found) => Ok(&found.edge),
            None => Err(Error::new(&codes::SITE_ABSENT, self.absence("site", &site.to_string()))),
        }
    }

    /// The place of a weight.
    ///
    /// # Errors
    /// `weight-absent` with the reason.
    pub fn weight(&self, weight: WeightRef) -> Result<&WeightEdge> {
        self.weights
            .get(&weight)
            .ok_or_else(|| Error::new(&codes::WEIGHT_ABSENT, self.absence("weight", &weight.to_string())))
    }

    fn absence(&self, kind: &str, name: &str) -> String {
        match self.absent.get(name) {
            Some(reason) => format!("the graph has no {kind} `{name}`: {reason}"),
            None => format!("the graph has no {kind} `{name}`; it has {} blocks", self.layers),
        }
    }
}
