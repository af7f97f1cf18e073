//! Programs by structure: a rig or a gradient plan is compiled once and kept.

use std::collections::HashMap;
use std::hash::Hash as StdHash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::footprint::{Packing, session_bytes, sessions};
use super::gradient::{CompiledGradient, GradientPlan, Prefixes};
use super::open::Model;
use crate::base::Result;
use crate::graph::Graph;
use crate::hooks::{Rig, Rigged};
use crate::runtime::{Program, ProgramOptions, Runtime, operator};

/// A forward pass with a rig.
pub(super) struct CompiledRun {
    pub(super) program: Program,
    pub(super) rigged: Rigged,
}

/// The programs of a model. Two callers that need one program at once compile it once.
pub(super) struct Programs {
    runtime: Runtime,
    options: ProgramOptions,
    /// How many sessions a program may have, where somebody said so.
    sessions: Option<usize>,
    packing: Packing,
    serving: Shelf<Rig, CompiledRun>,
    runs: Shelf<Rig, CompiledRun>,
    gradients: Shelf<GradientPlan, CompiledGradient>,
    pub(super) prefixes: Prefixes,
    compiled: Arc<AtomicU64>,
}

/// How many programs are kept that give logits and nothing else. Each may hold a packed copy of the weights.
const SERVING: usize = 2;

/// How many programs of every other kind are kept.
const KEPT: usize = 32;

impl Programs {
    pub(super) fn new(runtime: Runtime, options: ProgramOptions, sessions: Option<usize>, packing: Packing) -> Self {
        Self {
            runtime,
            options,
            sessions,
            packing,
            serving: Shelf::of(SERVING),
            runs: Shelf::of(KEPT),
            gradients: Shelf::of(KEPT),
            prefixes: Prefixes::default(),
            compiled: Arc::default(),
        }
    }

    /// Those of another model beside this one, counted together.
    pub(super) fn beside(&self, packing: Packing) -> Self {
        let compiled = self.compiled.clone();
        Self { compiled, ..Self::new(self.runtime.clone(), self.options.clone(), self.sessions, packing) }
    }

    /// Compiles a graph over the mapped weights.
    pub(super) fn compile(&self, graph: Graph) -> Result<Program> {
        self.compile_as(graph, self.packing == Packing::Every)
    }

    fn compile_as(&self, graph: Graph, prepack: bool) -> Result<Program> {
        self.compiled.fetch_add(1, Ordering::Relaxed);
        let graph = graph.live().untransposed()?;
        let intercepts = graph.nodes().iter().any(|node| node.domain() == operator::DOMAIN);
        let session_bytes = session_bytes(&graph, self.options.device, prepack);
        let sessions = self.sessions.unwrap_or_else(|| sessions(session_bytes, self.options.device));
        let options = ProgramOptions { prepack, intercepts, sessions, session_bytes, ..self.options.clone() };
        let folder = graph.folder().to_owned();
        // The graph shares its tensors with the model's, its bytes would be copies of the small ones.
        Program::compile_from(&self.runtime, move || graph.to_bytes(), &folder, &options)
    }

    pub(super) fn run(&self, rig: &Rig, build: impl FnOnce() -> Result<Rigged>) -> Result<Arc<CompiledRun>> {
        let serves = rig.serves();
        let shelf = if serves { &self.serving } else { &self.runs };
        let prepack = self.packing == Packing::Every || (serves && self.packing == Packing::Serving);
        shelf.get(rig, || {
            let rigged = build()?;
            Ok(CompiledRun { program: self.compile_as(rigged.graph.clone(), prepack)?, rigged })
        })
    }

    pub(super) fn gradient(
        &self,
        plan: &GradientPlan,
        build: impl FnOnce() -> Result<CompiledGradient>,
    ) -> Result<Arc<CompiledGradient>> {
        self.gradients.get(plan, build)
    }
}

impl Model {
    /// How many programs were compiled since the model was opened. A request with a structure that was not there yet
    /// compiles one; other prompts and other choices among the same patches compile none. Further sessions of a program,
    /// for requests at once, do not count.
    pub fn compiled(&self) -> u64 {
        self.programs.compiled.load(Ordering::Relaxed)
    }
}

type Slot<V> = Arc<OnceLock<Arc<V>>>;

/// What was built, by key, with the time of its last use.
pub(super) struct Shelf<K, V> {
    room: usize,
    slots: Mutex<Slots<K, V>>,
    building: Mutex<()>,
}

/// A clock that counts uses, and by key the time of the last use.
struct Slots<K, V> {
    clock: u64,
    by_key: HashMap<K, (u64, Slot<V>)>,
}

impl<K, V> Shelf<K, V> {
    pub(super) fn of(room: usize) -> Self {
        Self { room, slots: Mutex::new(Slots { clock: 0, by_key: HashMap::new() }), building: Mutex::new(()) }
    }
}

impl<K: Clone + Eq + StdHash, V> Shelf<K, V> {
    pub(super) fn get(&self, key: &K, build: impl FnOnce() -> Result<V>) -> Result<Arc<V>> {
        let slot = {
            let mut guard = self.slots.lock().unwrap_or_else(|e| e.into_inner());
            let Slots { clock, by_key: slots } = &mut *guard;
            *clock += 1;
            let now = *clock;
            if slots.len() >= self.room && !slots.contains_key(key) {
                let oldest = slots.iter().min_by_key(|(_, (used, _))| *used).map(|(k, _)| k.clone());
                oldest.map(|k| slots.remove(&k));
            }
            let entry = slots.entry(key.clone()).or_insert_with(|| (now, Slot::default()));
            entry.0 = now;
            entry.1.clone()
        };
        if let Some(found) = slot.get() {
            return Ok(found.clone());
        }
        let _one_at_a_time = self.building.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(found) = slot.get() {
            return Ok(found.clone());
        }
        let built = Arc::new(build()?);
        Ok(slot.get_or_init(|| built).clone())
    }
}
