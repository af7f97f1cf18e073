//! Opening a model and what it knows of itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use engraft_plugin_api::{ModelFacts, Tensor, WeightRef};

use super::attached::Attachments;
use super::codes;
use super::compile::{Programs, Shelf};
use super::footprint::Footprint;
use super::intercept::Intercepts;
use super::module::Modules;
use super::route::Routes;
use super::run::feed;
use super::run::sums::Sums;
use crate::anatomy::{Anatomy, Inputs};
use crate::base::{Error, Hash, Hasher, Result, atomic};
use crate::graph::{DType, Graph, Shapes};
use crate::hooks::{Graft, Values};
use crate::runtime::{Device, ProgramOptions, Runtime, Tokenizer, provision};
use crate::weights::{Journal, Overlay, Patch, PatchId};

/// Inline tensors from this size on, in bytes, are written to the cache folder once, so that sessions share them.
const SHARED_FROM: u64 = 1 << 20;

/// How many splices are kept that were read.
const GRAFTS: usize = 64;

/// How a model is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Where it runs.
    pub device: Device,
    /// A folder that keeps the journal and the patches across processes; without one they end with the model.
    pub journal: Option<PathBuf>,
    /// Threads for one pass; `None` takes the runtime's choice.
    pub threads: Option<usize>,
    /// How many requests of one structure may run at once, at least one. Each has a session of its own over the same
    /// files, made when requests have waited for each other as long as that takes; beyond the number they take turns.
    /// `None`: as many as the machine has processors, at least 4, and fewer where sessions are large: those beyond the
    /// first hold at most 1 GiB together for each structure, but that a CPU may always have a second one. Beside its
    /// activations a session holds a copy of the weights where they are packed (models of up to 1 GiB of weights, for
    /// passes that give logits alone), in float16, or on another device than a CPU.
    pub sessions: Option<usize>,
    /// Does not look at the tokenizer that lies beside the model, whatever its state: tokens are given as ids.
    pub without_tokenizer: bool,
}

/// A base model on one device, with the patches that are active on it.
pub struct Model {
    folder: PathBuf,
    path: PathBuf,
    graph: Graph,
    anatomy: Anatomy,
    runtime: Runtime,
    device: Device,
    tokenizer: Option<Tokenizer>,
    prefixes: Vec<String>,
    corpus: Option<PathBuf>,
    /// The external files of the model as it was found, by name; the graph may refer to others.
    data: Vec<(String, PathBuf)>,
    hash: OnceLock<Hash>,
    /// Whether the logits at a position are free of later tokens, once that was measured.
    pub(super) causal: OnceLock<bool>,
    pub(super) footprint: Footprint,
    pub(super) programs: Programs,
    pub(super) journal: Mutex<Journal>,
    pub(super) attached: Attachments,
    pub(super) modules: Modules,
    /// The splices that were read and checked.
    pub(super) grafts: Shelf<Hash, Graft>,
    /// The sums that requests made.
    pub(super) sums_made: AtomicU64,
    state: RwLock<Arc<State>>,
}

/// The sum of the active patches, ready to be fed. A request holds on to the one it began with.
#[derive(Clone)]
pub(super) struct State {
    pub(super) patches: Vec<(PatchId, Arc<Patch>)>,
    pub(super) overlay: Arc<Overlay>,
    pub(super) values: Values,
    pub(super) intercepts: Arc<Intercepts>,
    pub(super) grafts: Vec<Arc<Graft>>,
    pub(super) routes: Routes,
    /// Sums of chosen patches.
    pub(super) sums: Arc<Sums>,
    /// The choices that they are made of ahead.
    pub(super) prepared: Arc<Vec<BTreeSet<PatchId>>>,
    pub(super) hash: Hash,
}

impl State {
    /// Without any patch.
    pub(super) fn base() -> Self {
        Self {
            patches: Vec::new(),
            overlay: Arc::default(),
            values: Values::default(),
            intercepts: Arc::default(),
            grafts: Vec::new(),
            routes: Routes::default(),
            sums: Arc::default(),
            prepared: Arc::default(),
            hash: Overlay::default().hash(),
        }
    }
}

impl Model {
    /// Opens a model: a folder, or an .onnx file. What lies beside it (tokenizer, prefixes) is looked for in the
    /// file's own folder, then in the one around it that was given, or that holds it in a sub-folder `onnx`.
    ///
    /// # Errors
    /// Whatever is wrong with the graph, its data, its anatomy, its tokenizer or the device; see the codes of `graph`,
    /// `anatomy` and `runtime`.
    pub fn open(path: &Path, runtime: &Runtime, options: &OpenOptions) -> Result<Self> {
        let housing = provision::cache().map(|cache| (cache.join("models"), SHARED_FROM));
        Self::open_housed(path, runtime, options, housing)
    }

    /// As [`Model::open`]; weights that sessions could not share go to a folder, inline ones from a size in bytes on.
    pub(super) fn open_housed(
        path: &Path,
        runtime: &Runtime,
        options: &OpenOptions,
        housing: Option<(PathBuf, u64)>,
    ) -> Result<Self> {
        let given = path;
        let path = Graph::find(given)?;
        let folder = home(given, &path);
        let found = Graph::load(&path)?;
        let data = found.external_paths().map(|(name, path)| (name.to_owned(), path.to_path_buf())).collect();
        let graph = match housing {
            Some((folder, threshold)) => found.rehouse(&folder, threshold)?,
            None => found,
        };
        let shapes = Shapes::infer(&graph)?;
        let anatomy = Anatomy::of(&graph, &shapes)?;
        check_types(&path, &graph, &anatomy, options.device)?;
        let texts = !options.without_tokenizer && folder.join("tokenizer.json").is_file();
        let tokenizer = if texts { Some(Tokenizer::open(&folder)?) } else { None };
        if let Some(tokenizer) = &tokenizer {
            tokenizer.check_vocab(anatomy.vocab)?;
        }
        let program = ProgramOptions { device: options.device, threads: options.threads, ..ProgramOptions::default() };
        let footprint = Footprint::of(&graph, &anatomy, options.device);
        let programs = Programs::new(runtime.clone(), program, options.sessions, footprint.packing());
        let journal = match &options.journal {
            Some(folder) => Journal::open(folder)?,
            None => Journal::in_memory(),
        };
        let model = Self {
            prefixes: prefixes(&folder)?,
            corpus: default_corpus(&folder),
            folder,
            path,
            graph,
            anatomy,
            runtime: runtime.clone(),
            device: options.device,
            tokenizer,
            data,
            hash: OnceLock::new(),
            causal: OnceLock::new(),
            footprint,
            programs,
            sums_made: AtomicU64::default(),
            state: RwLock::new(Arc::new(State::base())),
            journal: Mutex::new(journal),
            attached: Attachments::default(),
            modules: Modules::default(),
            grafts: Shelf::of(GRAFTS),
        };
        model.restore()?;
        Ok(model)
    }

    /// A decoder as a model of its own beside this one: on its device, without patches and without a tokenizer.
    ///
    /// # Errors
    /// `model-dtype`
    pub(super) fn beside(&self, name: &str, graph: Graph, anatomy: Anatomy) -> Result<Self> {
        let path = self.folder.join(name);
        check_types(&path, &graph, &anatomy, self.device)?;
        let footprint = Footprint::of(&graph, &anatomy, self.device);
        Ok(Self {
            folder: self.folder.clone(),
            path,
            programs: self.programs.beside(footprint.packing()),
            graph,
            anatomy,
            runtime: self.runtime.clone(),
            device: self.device,
            tokenizer: None,
            prefixes: Vec::new(),
            corpus: None,
            data: Vec::new(),
            hash: OnceLock::new(),
            causal: OnceLock::new(),
            footprint,
            sums_made: AtomicU64::default(),
            state: RwLock::new(Arc::new(State::base())),
            journal: Mutex::new(Journal::in_memory()),
            attached: Attachments::default(),
            modules: Modules::default(),
            grafts: Shelf::of(GRAFTS),
        })
    }

    /// The folder of the model.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The .onnx file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The base graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Which edge is which part.
    pub fn anatomy(&self) -> &Anatomy {
        &self.anatomy
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The runtime that runs it.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The corpus that the model folder names for statistics.
    pub fn corpus(&self) -> Option<&Path> {
        self.corpus.as_deref()
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// `tokenizer-missing`
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            let text = format!("`{}` holds no tokenizer.json", self.folder.display());
            Error::new(&crate::runtime::codes::TOKENIZER_MISSING, text)
        })
    }

    /// The hash of the base model: of the graph file and of every external file it names. Computed once.
    ///
    /// # Errors
    /// `file-read`
    pub fn hash(&self) -> Result<Hash> {
        if let Some(hash) = self.hash.get() {
            return Ok(*hash);
        }
        let mut hasher = Hasher::new();
        hasher.part(Hash::of(&atomic::read_bytes(&self.path)?).bytes());
        for (name, path) in &self.data {
            hasher.part(name).part(Hash::of_file(path)?.bytes());
        }
        Ok(*self.hash.get_or_init(|| hasher.finish()))
    }

    /// Facts of the model as methods see them.
    ///
    /// # Errors
    /// As [`Model::hash`].
    pub fn facts(&self) -> Result<ModelFacts> {
        let a = &self.anatomy;
        Ok(ModelFacts {
            hash: self.hash()?.to_string(),
            layers: a.layers,
            d_model: a.d_model,
            d_mlp: a.d_mlp,
            heads: a.heads,
            vocab: a.vocab,
            context: a.context.unwrap_or(usize::MAX),
            start_token: self.tokenizer.as_ref().and_then(Tokenizer::start_token),
            sites: a.sites.keys().copied().collect(),
            weights: a.weights.keys().copied().collect(),
            prefixes: self.prefixes.clone(),
        })
    }

    /// A weight with the active patches in it, `W[in, out]`; vectors are `[1, out]`.
    ///
    /// # Errors
    /// `weight-absent`, or what is wrong with the model's data.
    pub fn weight(&self, weight: WeightRef) -> Result<Tensor> {
        let place = self.anatomy.weight(weight)?;
        let mut values = self.base_weight(weight)?;
        if let Some(sum) = self.state().overlay.dense_sum(weight, place.shape) {
            for (v, s) in values.iter_mut().zip(sum) {
                *v += s;
            }
        }
        Ok(Tensor::f32(place.shape, values)?)
    }

    /// As [`Model::weight`] on the base model, whatever patches are active.
    ///
    /// # Errors
    /// As [`Model::weight`].
    pub fn weight_of_base(&self, weight: WeightRef) -> Result<Tensor> {
        Ok(Tensor::f32(self.anatomy.weight(weight)?.shape, self.base_weight(weight)?)?)
    }

    /// A weight as the file has it, `[in, out]`.
    pub(super) fn base_weight(&self, weight: WeightRef) -> Result<Vec<f32>> {
        let place = self.anatomy.weight(weight)?;
        let initializer = self.graph.initializer(&place.initializer).ok_or_else(|| {
            Error::new(&crate::anatomy::codes::WEIGHT_ABSENT, format!("`{weight}` has no initializer"))
        })?;
        let stored = self.graph.values(initializer)?;
        Ok(feed::from_stored(stored.floats().unwrap_or(&[]), place, &self.graph))
    }

    /// The sum of patches as it is now.
    pub(super) fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Swaps the sum of patches in one step.
    pub(super) fn set_state(&self, state: impl Into<Arc<State>>) {
        *self.state.write().unwrap_or_else(|e| e.into_inner()) = state.into();
    }
}

/// Refuses inputs of a type that is not fed, and weights of one that is not computed with on the device.
fn check_types(path: &Path, graph: &Graph, anatomy: &Anatomy, device: Device) -> Result<()> {
    let Inputs { ids, mask, positions, idle, .. } = &anatomy.inputs;
    let fed = |dtype| matches!(dtype, DType::I64 | DType::I32 | DType::BOOL | DType::F32 | DType::F16);
    let filled: Vec<&String> = [ids].into_iter().chain(mask).chain(positions).chain(idle).collect();
    if let Some(port) = graph.inputs().iter().find(|port| filled.contains(&&port.name) && !fed(port.dtype)) {
        let text = format!("the input `{}` of `{}` is {}", port.name, path.display(), port.dtype.name());
        return Err(Error::new(
            &codes::MODEL_DTYPE,
            format!("{text}: expected int64, int32, bool, float32 or float16"),
        )
        .help("export the model with inputs of int64"));
    }
    let runs = |dtype| matches!(dtype, DType::F32 | DType::F16) || dtype == DType::BF16 && device != Device::Cpu;
    let Some((weight, place)) = anatomy.weights.iter().find(|(_, w)| !runs(w.dtype)) else { return Ok(()) };
    let found = format!("`{weight}` of `{}` is {}", path.display(), place.dtype.name());
    Err(match place.dtype {
        DType::BF16 => Error::new(&codes::MODEL_DTYPE, format!("bfloat16 is not run on a CPU, and {found}")).help(
            "export the model in float32 (in PyTorch: `model.float()` before the export), or run it with `--device cuda`",
        ),
        _ => Error::new(&codes::MODEL_DTYPE, format!("{found}: expected float32 or float16"))
            .help("export the model in float32 or float16"),
    })
}

/// The folder that a model's tokenizer lies in, else the file's own. Exporters put `onnx/model.onnx` below it.
fn home(given: &Path, file: &Path) -> PathBuf {
    let own = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let around = if given.is_dir() {
        Some(given.to_path_buf())
    } else {
        own.parent().filter(|_| own.file_name().is_some_and(|n| n == "onnx")).map(Path::to_path_buf)
    };
    let has = |folder: &PathBuf| folder.join("tokenizer.json").is_file();
    if has(&own) { own } else { around.filter(has).unwrap_or(own) }
}

/// Context prefixes that ship with a model: `prefixes.json`, a list of templates with one `{}` each.
fn prefixes(folder: &Path) -> Result<Vec<String>> {
    let path = folder.join("prefixes.json");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    serde_json::from_slice(atomic::unmarked(&atomic::read_bytes(&path)?)).map_err(|e| {
        let text = format!("`{}` is not a list of strings", path.display());
        Error::new(&crate::base::codes::FILE_READ, text).because(e)
    })
}

/// The file of a model folder that holds engraft's own settings: `corpus`, the text for statistics, relative to it.
pub(super) const SETTINGS: &str = "engraft.json";

/// The corpus that a model folder names.
fn default_corpus(folder: &Path) -> Option<PathBuf> {
    let bytes = std::fs::read(folder.join(SETTINGS)).ok()?;
    let settings: serde_json::Value = serde_json::from_slice(atomic::unmarked(&bytes)).ok()?;
    settings.get("corpus")?.as_str().map(|corpus| folder.join(corpus))
}
