//! The workbench of real runs: methods from libraries, on a [`Model`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use engraft_plugin_api::{EditRequest, Level, Params};

use super::codes;
use super::settings::{MethodSettings, PluginRef, Settings};
use super::workbench::{Described, Edit, Opened, Workbench};
use crate::base::{Cancel, Error, Result, random};
use crate::metrics::{Query, Scored, Scorer};
use crate::model::{Continuation, Model, OpenOptions, Question};
use crate::plugins::{
    Access, ArtefactFile, Attachment, Library, Listener, Method, Patience, Registry, SearchPath, codes as plugin_codes,
};
use crate::runtime::{Device, Notify, Runtime, RuntimeSettings, memory};
use crate::weights::PatchId;

/// Hears what methods say while an experiment runs: level, message.
pub type Hear = Arc<dyn Fn(Level, &str) + Send + Sync>;

/// Methods from libraries on an open model.
pub struct ModelWorkbench {
    registry: Registry,
    libraries: Vec<(Arc<Library>, Option<Arc<ArtefactFile>>)>,
    cancel: Cancel,
    notify: Notify,
    hear: Hear,
    open: Option<ModelScorer>,
    method: Option<Arc<Method>>,
    corpus: Option<PathBuf>,
    seed: u64,
    patience: Patience,
}

impl ModelWorkbench {
    /// A workbench that finds plugins on `search`, stops what it does when `cancel` is cancelled, and passes on what
    /// the runtime and the methods say.
    pub fn new(search: SearchPath, cancel: Cancel, notify: Notify, hear: Hear) -> Self {
        Self {
            registry: Registry::new(search),
            libraries: Vec::new(),
            cancel,
            notify,
            hear,
            open: None,
            method: None,
            corpus: None,
            seed: 0,
            patience: Patience::default(),
        }
    }

    /// The model, once it is open.
    pub fn model(&self) -> Option<&Model> {
        self.open.as_ref().map(|s| &s.model)
    }

    /// The model, or that none is open.
    pub(super) fn model_or_refuse(&self) -> Result<&Model> {
        self.scorer_or_refuse().map(|open| &open.model)
    }

    /// Loads a method's library and checks its parameters; what it may have learnt is not looked at.
    pub(super) fn load(&mut self, method: &MethodSettings) -> Result<(Arc<Library>, Described)> {
        let name = match &method.plugin {
            PluginRef::Name(name) => name.clone(),
            PluginRef::Path(path) => path.to_string_lossy().into_owned(),
        };
        let library = self.registry.load(&name, Path::new("."), method.pin.as_slice()).map_err(|e| {
            if *e.code() != plugin_codes::PIN {
                return e;
            }
            let error = Error::new(e.code(), format!("{}: {e}", method.place.pin));
            error.help(e.advice().unwrap_or_default())
        })?;
        let params = method.check(&library.descriptor().params)?;
        let described = Described {
            descriptor: library.descriptor().clone(),
            params,
            library: library.path().to_path_buf(),
            hash: library.hash().to_string(),
            artefact: None,
        };
        Ok((library, described))
    }

    fn scorer_or_refuse(&self) -> Result<&ModelScorer> {
        self.open.as_ref().ok_or_else(|| Error::new(&codes::ORDER, "no model is open"))
    }
}

impl Workbench for ModelWorkbench {
    fn describe(&mut self, method: &MethodSettings) -> Result<Described> {
        let (library, mut described) = self.load(method)?;
        described.artefact = method.artefact.as_deref().map(|path| learnt(path, &method.place.artefact)).transpose()?;
        library.check_artefact(described.artefact.as_deref()).map_err(|e| {
            let place = if method.artefact.is_some() { &method.place.artefact } else { &method.place.plugin };
            let error = Error::new(e.code(), format!("{place}: {e}"));
            error.help(e.advice().unwrap_or("`engraft train` with this experiment makes the artefact"))
        })?;
        self.libraries.push((library, described.artefact.clone()));
        Ok(described)
    }

    fn open(&mut self, settings: &Settings) -> Result<Opened> {
        let device: Device = settings.device.parse()?;
        let runtime = Runtime::open(&RuntimeSettings::for_device(device), self.notify.clone())?;
        let model = Model::open(&settings.model, &runtime, &OpenOptions { device, ..OpenOptions::default() })?;
        model.tokenizer()?;
        let hash = model.hash()?.to_string();
        self.libraries.iter().filter_map(|(_, learnt)| learnt.as_ref()).try_for_each(|a| a.check_base(&hash))?;
        self.corpus.clone_from(&settings.corpus);
        self.seed = settings.seed;
        self.patience = settings.patience;
        let opened = Opened {
            hash,
            device: device.to_string(),
            runtime: runtime.description().to_string(),
            scorer: "teacher forcing on the target's own tokens, prompt without special tokens".into(),
            decoding: "greedy".into(),
        };
        self.open = Some(ModelScorer { model, cancel: self.cancel.clone() });
        Ok(opened)
    }

    fn start(&mut self, index: usize, params: &Params) -> Result<()> {
        let (library, artefact) = self.libraries.get(index).ok_or_else(|| {
            Error::new(&codes::ORDER, format!("method {index} of {} was not described", self.libraries.len()))
        })?;
        let method = Arc::new(library.create_with(params.clone(), artefact.as_deref())?);
        if let Some(open) = &self.open {
            Attachment::attach_for(&method, &open.model, self.patience);
        }
        self.method = Some(method);
        Ok(())
    }

    fn edit(&mut self, requests: &[EditRequest]) -> Result<Edit> {
        let model = &self.scorer_or_refuse()?.model;
        let method =
            self.method.as_ref().ok_or_else(|| Error::new(&codes::ORDER, "no method was started before the edit"))?;
        let descriptor = method.library().descriptor();
        let ids: Vec<&str> =
            std::iter::once(descriptor.name.as_str()).chain(requests.iter().map(|r| r.id.as_str())).collect();
        let notes = Notes { said: Mutex::new(Vec::new()), hear: &self.hear };
        let access = Access {
            model,
            method: Some(descriptor.name.clone()),
            corpus: self.corpus.clone(),
            cancel: self.cancel.clone(),
            seed: random::seed(self.seed, &ids),
            listener: &notes,
        };
        let began = Instant::now();
        let changes = method.edit(&access, requests)?;
        let patch = model.commit(method.proposal(requests.to_vec(), changes))?;
        let seconds = began.elapsed().as_secs_f64();
        let mut notes = notes.said.into_inner().unwrap_or_else(|e| e.into_inner());
        notes.extend(model.rounding(&patch).iter().map(|lost| format!("in an export, {lost}")));
        Ok(Edit { patch: patch.to_string(), seconds, peak_bytes: memory::peak_bytes(), notes })
    }

    fn rollback(&mut self, patch: &str) -> Result<()> {
        let id: PatchId = patch.parse()?;
        self.scorer_or_refuse()?.model.rollback(&id)
    }

    fn scorer(&self) -> Result<&dyn Scorer> {
        self.scorer_or_refuse().map(|s| s as &dyn Scorer)
    }
}

/// What a method learnt before, from the file that an experiment names.
fn learnt(path: &Path, place: &str) -> Result<Arc<ArtefactFile>> {
    if path.is_file() {
        return ArtefactFile::load(path).map(Arc::new);
    }
    let message = format!("{place}: `artefact` names `{}`, which does not exist", path.display());
    Err(Error::new(&codes::CONFIG_PATH, message).help("`engraft train` with this experiment makes it"))
}

/// Keeps a method's warnings for the case and passes everything on.
struct Notes<'h> {
    said: Mutex<Vec<String>>,
    hear: &'h Hear,
}

impl Listener for Notes<'_> {
    fn log(&self, level: Level, message: &str) {
        if level != Level::Debug {
            self.said.lock().unwrap_or_else(|e| e.into_inner()).push(message.to_owned());
        }
        (self.hear)(level, message);
    }

    fn progress(&self, done: u64, total: u64, what: &str) {
        (self.hear)(Level::Debug, &format!("{what}: {done} of {total}"));
    }
}

/// A model as metrics see it.
struct ModelScorer {
    model: Model,
    cancel: Cancel,
}

impl Scorer for ModelScorer {
    fn score(&self, queries: &[Query]) -> Result<Vec<Scored>> {
        self.cancel.check()?;
        let tokenizer = self.model.tokenizer()?;
        let encode = |q: &Query| {
            let prompt = tokenizer.encode(&q.prompt)?.ids;
            Ok(Continuation { prompt, tokens: tokenizer.encode(&q.continuation)?.ids })
        };
        let continuations = queries.iter().map(encode).collect::<Result<Vec<_>>>()?;
        let scored = self.model.score(&continuations)?;
        let one = |(c, s): (Continuation, crate::model::ScoredContinuation)| Scored {
            tokens: c.tokens,
            log_probs: s.log_probs,
            predicted: s.predicted,
        };
        Ok(continuations.into_iter().zip(scored).map(one).collect())
    }

    fn generate(&self, prompts: &[String], max_new: usize) -> Result<Vec<String>> {
        let question = Question { prompts: prompts.to_vec(), max_new, ..Question::default() };
        let answers = self.model.ask(&question, Some(&self.cancel))?.answers;
        Ok(answers.into_iter().map(|answer| answer.text).collect())
    }
}
