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

/// Sessions beyond the first of a program, which requests at once make, may hold this much memory together.
const SESSIONS_UP_TO: u64 = 1 << 30;

/// So many requests at once are always thought of, on machines with fewer processors too: one of them may be held up by
/// a method that it calls.
const SESSIONS: usize = 4;

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

/// What a session over a graph holds beside the mapped files, in bytes: a packed copy of the weights, on a CPU float32
/// copies of those in float16, on another device all of them.
pub(super) fn session_bytes(graph: &Graph, device: Device, prepack: bool) -> u64 {
    let weights = || graph.initializers().filter_map(|i| i.byte_len().ok()).sum::<u64>();
    match device {
        Device::Cpu if prepack => weights().saturating_add(widened(graph)),
        Device::Cpu => widened(graph),
        Device::Cuda(_) => weights(),
    }
}

/// How many sessions a program may have that hold so much each, where nobody says: as many as there are processors, at
/// least four, and no more than hold a gibibyte beyond the first. On a CPU two are possible whatever they hold; the
/// memory of another device is not taken twice for a large model.
pub(super) fn sessions(bytes: u64, device: Device) -> usize {
    let wanted = std::thread::available_parallelism().map_or(1, usize::from).max(SESSIONS);
    let least = if device == Device::Cpu { 1 } else { 0 };
    let more = SESSIONS_UP_TO.checked_div(bytes).map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    wanted.min(more.max(least).saturating_add(1))
}

/// On a CPU the runtime computes products in float32, and holds the factors in float32.
fn widened(graph: &Graph) -> u64 {
    let narrow = graph.initializers().filter(|i| i.dtype() == DType::F16);
    2 * narrow.filter_map(|i| i.byte_len().ok()).sum::<u64>()
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
        let widened = if device == Device::Cpu { widened(graph) } else { 0 };
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
    /// Logits and taps that are asked for at every position come on top, and for each further request at once its
    /// activations, and what its session holds.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_sessions_are_as_many_as_processors_and_large_ones_few() {
        let many = sessions(0, Device::Cpu);
        assert!(many >= SESSIONS);
        assert_eq!(sessions(1 << 20, Device::Cpu), many.min(1025));
        assert_eq!([1 << 29, 1 << 30, 1 << 40].map(|bytes| sessions(bytes, Device::Cpu)), [3, 2, 2]);
        assert_eq!([1 << 29, 1 << 30, 1 << 40].map(|bytes| sessions(bytes, Device::Cuda(0))), [3, 2, 1]);
    }
}
