//! What a model takes in memory, estimated before a pass runs.

use std::sync::atomic::{AtomicU64, Ordering};

use super::open::Model;
use crate::anatomy::Anatomy;
use crate::graph::{DType, Graph};
use crate::runtime::{Device, Event, memory};

/// Models with up to this many bytes of weights keep a packed copy of them for the passes that answer requests: some
/// speed for as much memory again. Larger ones run from the mapped files alone.
const PACKED_UP_TO: u64 = 1 << 30;

/// Models this small keep a packed copy in every program: they are bound by the packing, not by memory.
const ALL_PACKED_UP_TO: u64 = 16 << 20;

/// Which programs keep a packed copy of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// All of them.
    Every,
    /// Those that give logits and nothing else.
    Serving,
    /// None.
    Never,
}

/// The sizes that memory depends on.
pub(super) struct Footprint {
    weights: u64,
    /// Bytes that every program adds to them.
    widened: u64,
    /// Bytes of activations for one token.
    token: u64,
    heads: u64,
    /// The largest estimate that was told.
    told: AtomicU64,
}

impl Footprint {
    pub(super) fn of(graph: &Graph, anatomy: &Anatomy, device: Device) -> Self {
        let weights = graph.initializers().filter_map(|i| i.byte_len().ok()).sum();
        // On a CPU the runtime computes products in float32, and holds the factors in float32.
        let narrow = graph.initializers().filter(|i| device == Device::Cpu && i.dtype() == DType::F16);
        let widened = 2 * narrow.filter_map(|i| i.byte_len().ok()).sum::<u64>();
        let token = 4 * (8 * anatomy.d_model + 3 * anatomy.d_mlp) as u64;
        Self { weights, widened, token, heads: anatomy.heads as u64, told: AtomicU64::new(0) }
    }

    pub(super) fn packing(&self) -> Packing {
        if self.weights <= ALL_PACKED_UP_TO {
            Packing::Every
        } else if self.weights <= PACKED_UP_TO {
            Packing::Serving
        } else {
            Packing::Never
        }
    }

    fn pass(&self, rows: usize, longest: usize) -> u64 {
        let (rows, longest) = (rows as u64, longest as u64);
        let pattern = rows.saturating_mul(self.heads).saturating_mul(longest.saturating_mul(longest));
        let tokens = rows.saturating_mul(longest).saturating_mul(self.token);
        tokens.saturating_add(pattern.saturating_mul(8))
    }
}

impl Model {
    /// What a pass over rows of tokens needs in memory, in bytes, estimated: the weights, a packed copy where one is
    /// kept, on a CPU a float32 copy of those in float16, and the activations of one block with its attention weights.
    /// Logits and taps that are asked for at every position come on top.
    pub fn memory_needed(&self, rows: usize, longest: usize) -> u64 {
        let footprint = &self.footprint;
        let weights = if footprint.packing() == Packing::Never { footprint.weights } else { 2 * footprint.weights };
        let weights = weights.saturating_add(footprint.widened);
        weights.saturating_add(footprint.pass(rows, longest))
    }

    /// Tells the runtime's listener if a pass may not fit into memory; once for every size.
    pub(super) fn foresee(&self, rows: usize, longest: usize) {
        let needed = self.memory_needed(rows, longest);
        if needed <= self.footprint.told.load(Ordering::Relaxed) {
            return;
        }
        if let Some(available) = memory::available_bytes().filter(|&free| needed > free) {
            self.footprint.told.fetch_max(needed, Ordering::Relaxed);
            self.runtime().tell(&Event::MemoryShort { needed, available });
        }
    }
}
