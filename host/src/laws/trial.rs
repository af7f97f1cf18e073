//! A method with parameters on a model, and what laws do with it again and again.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use engraft_plugin_api::{Artefact, Change, Checkpoint, EditRequest, Params, Place, RunRequest, TrainData};
use toml::Table;

use super::tiny;
use super::watch::{Told, Watched};
use crate::base::{Cancel, Error, Result};
use crate::model::{Continuation, Limits, Model};
use crate::plugins::{Access, Attachment, Deaf, Library, Listener, Method};
use crate::weights::PatchId;
use crate::weights::codes::CHANGE_UNSUPPORTED;

/// The root of the random streams of every call.
const SEED: u64 = 7;

/// A method with parameters, what it is tried on, and what it is asked.
pub struct Trial<'a> {
    /// A model with a tokenizer. Every law leaves it with the patches that it had.
    pub model: &'a Model,
    /// The method's plugin.
    pub library: Arc<Library>,
    /// The parameters that were given.
    pub given: Table,
    /// What is asked for, at least one thing; the model does not say it yet.
    pub requests: Vec<EditRequest>,
    /// Whether the method promises that the target becomes more probable.
    pub teaches: bool,
    /// Whether the model's weights are random, so that it takes up nothing of what stands before a prompt.
    pub untaught: bool,
    /// Little, and enough for a training to come to an end with; without a checkpoint.
    pub data: TrainData,
    /// The text that statistics are gathered from; `None` for the one that the model names.
    pub corpus: Option<PathBuf>,
    params: Params,
    artefact: OnceLock<std::result::Result<Artefact, String>>,
    first: OnceLock<std::result::Result<First, String>>,
    creates: OnceLock<bool>,
}

/// What a method proposes, and what it was told of its own patches.
type First = (Vec<Change>, Vec<Told>);

impl<'a> Trial<'a> {
    /// A trial of a method that promises nothing of its targets and learns from [`data`](super::data).
    ///
    /// # Errors
    /// As [`Library::configure`].
    pub fn new(model: &'a Model, library: Arc<Library>, given: Table, requests: Vec<EditRequest>) -> Result<Self> {
        let params = library.configure(&given)?;
        Ok(Self {
            model,
            library,
            given,
            requests,
            teaches: false,
            untaught: false,
            data: tiny::data(),
            corpus: None,
            params,
            artefact: OnceLock::new(),
            first: OnceLock::new(),
            creates: OnceLock::new(),
        })
    }

    pub(super) fn access<'l>(&'l self, listener: &'l dyn Listener, cancel: &Cancel) -> Access<'l> {
        let access = Access::new(self.model, cancel.clone(), SEED).of(&self.library.descriptor().name);
        Access { corpus: self.corpus.clone(), listener, ..access }
    }

    /// The first request, as a list.
    pub(super) fn request(&self) -> &[EditRequest] {
        &self.requests[..1]
    }

    /// A method that has done nothing yet and learnt nothing.
    pub(super) fn untrained(&self) -> Result<Method> {
        self.library.create(self.params.clone())
    }

    /// True if the parameters make a method; tried once.
    pub(super) fn creates(&self) -> bool {
        *self.creates.get_or_init(|| self.untrained().is_ok())
    }

    pub(super) fn trained_from(&self, artefact: &Artefact) -> Result<Method> {
        self.library.create_trained(self.params.clone(), artefact)
    }

    pub(super) fn train(
        &self,
        resume: Option<Checkpoint>,
        listener: &dyn Listener,
        cancel: &Cancel,
    ) -> Result<Artefact> {
        self.untrained()?.train(&self.access(listener, cancel), &TrainData { resume, ..self.data.clone() })
    }

    /// What a training from the beginning gives; trained once.
    pub(super) fn artefact(&self) -> std::result::Result<&Artefact, String> {
        let trained = self.artefact.get_or_init(|| {
            self.train(None, &super::train::Keeper::default(), &Cancel::new())
                .map_err(|e| format!("`train` fails: {e:?}"))
        });
        trained.as_ref().map_err(Clone::clone)
    }

    /// The method with other parameters, untaught where it can do without.
    pub(super) fn made(&self, params: Params) -> std::result::Result<Result<Method>, String> {
        if !self.library.calls().needs_artefact {
            return Ok(self.library.create(params));
        }
        Ok(self.library.create_trained(params, self.artefact()?))
    }

    /// The method as it is used: with what it learnt, where it learns. One that can do without is tried untaught where
    /// its training fails, which the laws of training tell.
    pub(super) fn method(&self) -> std::result::Result<Method, String> {
        let calls = self.library.calls();
        let made = match (calls.train || calls.needs_artefact).then(|| self.artefact()) {
            Some(Ok(artefact)) => self.trained_from(artefact),
            Some(Err(found)) if calls.needs_artefact => return Err(found),
            _ => self.untrained(),
        };
        made.map_err(|e| format!("the method is not created: {e:?}"))
    }

    pub(super) fn edit(&self, requests: &[EditRequest]) -> std::result::Result<Vec<Change>, String> {
        Ok(self.edit_by(&self.method()?, requests)?.0)
    }

    /// What a method proposes, and what it was told of its own patches on the way.
    pub(super) fn edit_by(&self, method: &Method, requests: &[EditRequest]) -> std::result::Result<First, String> {
        let access = Watched::new(self.access(&Deaf, &Cancel::new()));
        let changes = method.edit(&access, requests).map_err(|e| format!("`edit` fails: {e:?}"))?;
        Ok((changes, access.told()))
    }

    /// What the method proposes for the first request on the model as it was given, asked once, with what it was told
    /// of its own patches.
    fn first(&self) -> std::result::Result<&First, String> {
        let first = self.first.get_or_init(|| self.edit_by(&self.method()?, self.request()));
        first.as_ref().map_err(Clone::clone)
    }

    /// What the method proposes for the first request.
    pub(super) fn changes(&self) -> std::result::Result<&[Change], String> {
        Ok(&self.first()?.0)
    }

    /// What the method was told for the first request.
    pub(super) fn told(&self) -> std::result::Result<&[Told], String> {
        Ok(&self.first()?.1)
    }

    /// Makes changes part of the model.
    pub(super) fn commit(&self, request: &EditRequest, changes: &[Change]) -> std::result::Result<PatchId, String> {
        let method = Arc::new(self.method()?);
        Attachment::attach(&method, self.model);
        let proposal = method.proposal(vec![request.clone()], changes.to_vec());
        self.model.commit(proposal).map_err(|e| format!("the commit is refused: {e:?}"))
    }

    /// Does something that commits patches, and rolls back what it left, whatever became of it.
    pub(super) fn undone<T>(
        &self,
        act: impl FnOnce() -> std::result::Result<T, String>,
    ) -> std::result::Result<T, String> {
        let before: Vec<PatchId> = self.model.patches().into_iter().map(|(id, _)| id).collect();
        let seen = act();
        for (id, _) in self.model.patches().iter().rev().filter(|(id, _)| !before.contains(id)) {
            self.model.rollback(id).map_err(|e| format!("the rollback fails: {e:?}"))?;
        }
        seen
    }

    pub(super) fn encode(&self, text: &str) -> std::result::Result<Vec<u32>, String> {
        let tokens = self.model.tokenizer().and_then(|t| t.encode(text));
        tokens.map(|t| t.ids).map_err(|e| format!("`{text}` is not encoded: {e:?}"))
    }

    /// The tokens of a request's prompt.
    pub(super) fn prompt(&self, request: &EditRequest) -> std::result::Result<Vec<u32>, String> {
        self.encode(&request.filled().map_err(|e| e.to_string())?)
    }

    /// Logits after every token of the prompts of all requests, as bits.
    pub(super) fn bits(&self) -> std::result::Result<Vec<u32>, String> {
        let mut bits = Vec::new();
        for request in &self.requests {
            let row = self.prompt(request)?;
            bits.extend(logit_bits(self.model, row).map_err(|e| format!("the model does not run: {e:?}"))?);
        }
        Ok(bits)
    }

    /// The log-probability of the first request's target, in nats.
    pub(super) fn target(&self) -> std::result::Result<f32, String> {
        let request = &self.requests[0];
        let tokens = self.encode(&format!(" {}", request.target.new))?;
        let scored = self.model.score(&[Continuation { prompt: self.prompt(request)?, tokens }]);
        Ok(scored.map_err(|e| format!("the target is not scored: {e:?}"))?[0].log_probs.iter().sum())
    }

    /// True if the first edit proposes a kind of change that this host does not carry out.
    pub(super) fn unsupported(&self) -> std::result::Result<bool, String> {
        let outcome = self.model.validate(self.changes()?, Limits::default());
        Ok(outcome.is_err_and(|e| e.code() == &CHANGE_UNSUPPORTED))
    }
}

/// Logits after every token of a row, as bits.
///
/// # Errors
/// As [`Model::run`].
pub fn logit_bits(model: &Model, row: Vec<u32>) -> Result<Vec<u32>, Error> {
    let logits = (0..row.len()).map(|pos| Place { row: 0, pos }).collect();
    let reply = model.run(&RunRequest { rows: vec![row], logits, ..RunRequest::default() })?;
    Ok(reply.logits.as_f32()?.iter().map(|v| v.to_bits()).collect())
}
