//! The names of the inputs that a rig adds.

use std::fmt;

use engraft_plugin_api::{Activation, Site, WeightRef};

use super::slots::{SlotBranch, SlotPart};

/// What is fed to a splice, besides what all of them share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SplicePart {
    /// 1 for rows that see a patch of it, `[rows]`.
    Gate,
    /// A table, by its number.
    Table(usize),
    /// 1 for rows that see the patch of an entry, `[rows, n]`.
    TableGate(usize),
}

/// An input of a rigged graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Name {
    /// Places of overwrite `i`, `[n, 2]`.
    OverwriteAt(usize, Site),
    /// Values of overwrite `i`, `[n, width]`.
    Overwrite(usize, Site),
    /// Places of addition `i`, `[n, 2]`.
    AddAt(usize, Site),
    /// Values of addition `i`, `[n, width]`.
    Add(usize, Site),
    /// Places of tap `i`, `[n, 2]`.
    TapAt(usize, Site),
    /// Places of the logits, `[m, 2]`.
    LogitsAt,
    /// Rows of the logits, `[m]`.
    LogitsRow,
    /// Left factors of a side branch, `[in, rank]`.
    Left(WeightRef),
    /// Right factors of a side branch, `[rank, out]`.
    Right(WeightRef),
    /// Row gate of a side branch, `[rows, 1, rank]`.
    Gate(WeightRef),
    /// A dense sum, in the shape of the stored tensor.
    Dense(WeightRef),
    /// A tensor of a branch of slots.
    Slot(SlotBranch, SlotPart),
    /// Row gate of a branch of slots, `[rows, 1, n]`.
    SlotGate(SlotBranch),
    /// What is fed to the splice that writes a site, of an order.
    Splice(Site, i32, SplicePart),
    /// Target tokens of the log-likelihood terms, `[n]`.
    Targets,
    /// Weights of the log-likelihood terms, `[n]`.
    NllWeights,
    /// Recorded log-probabilities of divergence terms, `[n, vocab]`; true for those from the reference.
    Reference(bool),
    /// Weights of divergence terms, `[n]`; true for those from the reference.
    KlWeights(bool),
    /// How many of the logits' places belong to each group of terms, `[groups]`.
    Split,
    /// Places of seed term set `i`, `[n, 2]`.
    SeedAt(usize, Site),
    /// Vectors of seed term set `i`, `[n, width]`.
    Seed(usize, Site),
    /// Weights of seed term set `i`, `[n, 1]`.
    SeedWeights(usize, Site),
    /// Positions of what interceptions and splices see, `[rows, columns]`; -1 where there is no token.
    Positions,
    /// 1 at tokens, `[rows, columns]`; 0 where there is none.
    Mask,
    /// The position of the last token of each row's prompt, `[rows]`.
    PromptEnd,
    /// Row and position of everything that a windowed pass computes, `[rows, width, 2]`.
    WindowAt,
    /// Zero and the first position of each row's window, `[rows, 2]`.
    WindowStarts,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OverwriteAt(i, site) => write!(f, "engraft.overwrite.{i}.at:{site}"),
            Self::Overwrite(i, site) => write!(f, "engraft.overwrite.{i}:{site}"),
            Self::AddAt(i, site) => write!(f, "engraft.add.{i}.at:{site}"),
            Self::Add(i, site) => write!(f, "engraft.add.{i}:{site}"),
            Self::TapAt(i, site) => write!(f, "engraft.tap.{i}.at:{site}"),
            Self::LogitsAt => f.write_str("engraft.logits.at"),
            Self::LogitsRow => f.write_str("engraft.logits.row"),
            Self::Left(weight) => write!(f, "engraft.left:{weight}"),
            Self::Right(weight) => write!(f, "engraft.right:{weight}"),
            Self::Gate(weight) => write!(f, "engraft.gate:{weight}"),
            Self::Dense(weight) => write!(f, "engraft.dense:{weight}"),
            Self::Slot(branch, part) => write!(f, "engraft.slots.{}:{}", part.word(), Slots(branch)),
            Self::SlotGate(branch) => write!(f, "engraft.gate.slots:{}", Slots(branch)),
            Self::Splice(site, order, SplicePart::Gate) => write!(f, "engraft.gate.splice:{site}.{order}"),
            Self::Splice(site, order, SplicePart::Table(i)) => write!(f, "engraft.splice.{i}:{site}.{order}"),
            Self::Splice(site, order, SplicePart::TableGate(i)) => {
                write!(f, "engraft.gate.splice.{i}:{site}.{order}")
            }
            Self::Targets => f.write_str("engraft.nll.targets"),
            Self::NllWeights => f.write_str("engraft.nll.weights"),
            Self::Reference(from_reference) => write!(f, "engraft.kl.{from_reference}.reference"),
            Self::KlWeights(from_reference) => write!(f, "engraft.kl.{from_reference}.weights"),
            Self::Split => f.write_str("engraft.loss.split"),
            Self::SeedAt(i, site) => write!(f, "engraft.seed.{i}.at:{site}"),
            Self::Seed(i, site) => write!(f, "engraft.seed.{i}:{site}"),
            Self::SeedWeights(i, site) => write!(f, "engraft.seed.{i}.weights:{site}"),
            Self::Positions => f.write_str("engraft.positions"),
            Self::Mask => f.write_str("engraft.mask"),
            Self::PromptEnd => f.write_str("engraft.prompt-end"),
            Self::WindowAt => f.write_str("engraft.window.at"),
            Self::WindowStarts => f.write_str("engraft.window.starts"),
        }
    }
}

/// A branch of slots in words.
struct Slots<'b>(&'b SlotBranch);

impl fmt::Display for Slots<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (layer, activation, gated) = self.0;
        let activation = match activation {
            Activation::Model => "model",
            Activation::Relu => "relu",
        };
        write!(f, "blocks.{layer}.{activation}{}", if *gated { ".gated" } else { "" })
    }
}
