//! `engraft edit`: one edit, with what the model says before and after.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use engraft_plugin_api::{Change, EditRequest, Level, Target};
use serde::Serialize;

use super::out::Progress;
use super::{Makers, ModelArgs, cancel_on_interrupt, out, shown, usage};
use crate::base::{Cancel, Error, Result};
use crate::model::{Continuation, Model, Question};
use crate::plugins::{Access, ArtefactFile, Attachment, Deadlines, Library, Listener, Method, params, watched};
use crate::weights::{History, PatchId, Rounding};

/// Make one edit and show what the model says before and after. The model's files are not touched; `--journal` makes
/// the edit part of the model as its journal keeps it, and `--save` keeps it as a patch file.
#[derive(Args)]
#[command(
    after_help = "Example: engraft edit examples/atlas/model --plugin rome --preset plugins/rome/presets/atlas.toml \
    --prompt \"{} is a native of\" --subject \"Tono Tuxbik\" --target Grasnan --save edit.safetensors"
)]
pub(super) struct EditOne {
    #[command(flatten)]
    model: ModelArgs,
    /// The method: a name on the search path, or a path to a library.
    #[arg(long)]
    plugin: String,
    /// The folder of a journal: the edit is made on top of the patches that are active there, and becomes one of them.
    /// A journal is begun where there is none; no other process may hold it.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    makers: Makers,
    /// A parameter of the method, as `name=value`; may be given several times.
    #[arg(long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// A TOML file of parameters; `--param` goes before it.
    #[arg(long, value_name = "FILE")]
    preset: Option<PathBuf>,
    /// The prompt, with `{}` where the subject stands.
    #[arg(long)]
    prompt: String,
    /// The subject.
    #[arg(long)]
    subject: Option<String>,
    /// What the model should say after the prompt.
    #[arg(long)]
    target: String,
    /// What it says now, for methods that ask.
    #[arg(long)]
    old: Option<String>,
    /// The text that statistics are gathered from, where the method needs them.
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,
    /// Seeds the method's random streams.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write the edit to a patch file. A FIFO or a character device is written into.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Replace the file that `--save` names.
    #[arg(long, requires = "save")]
    force: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    patch: String,
    prompt: String,
    target: String,
    seconds: f64,
    before: Said,
    after: Said,
    /// Where the patch was written.
    saved: Option<String>,
    /// The folder of the journal that it was committed to.
    journal: Option<String>,
    /// The patches that are active after it, in the order of their commits.
    active: Vec<String>,
    /// What the patch changes.
    changes: Vec<String>,
    /// What the method said.
    notes: Vec<String>,
    /// What an export would lose of each delta, where the weight is kept in fewer bits than float32.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rounding: Vec<Rounding>,
}

#[derive(Serialize)]
struct Said {
    text: String,
    target_probability: f64,
}

/// How long a method may take to return once it was asked to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Shows how far a method is, and keeps what it says.
struct Voice {
    progress: Progress,
    said: Mutex<Vec<String>>,
}

impl Listener for Voice {
    fn log(&self, level: Level, message: &str) {
        if level != Level::Debug {
            self.progress.line(message);
            self.said.lock().unwrap_or_else(PoisonError::into_inner).push(message.to_owned());
        }
    }

    fn progress(&self, done: u64, total: u64, what: &str) {
        self.progress.step(what, done, total, false);
    }
}

impl EditOne {
    pub(super) fn run(&self) -> Result<()> {
        self.check()?;
        let mut registry = self.makers.path.registry();
        let library = registry.load(&self.plugin, Path::new("."), &self.makers.pins.pins)?;
        let given = params::of_command_line(self.preset.as_deref(), &self.params, &library.descriptor().params)?;
        let artefact = self.artefact(&library)?;
        let method = Arc::new(library.create_with(library.configure(&given)?, artefact.as_ref())?);
        let request = EditRequest {
            id: "edit".into(),
            prompt: self.prompt.clone(),
            subject: self.subject.clone(),
            target: Target { new: self.target.clone(), old: self.old.clone() },
        };
        let prompt = request.filled()?;
        if let Some(path) = &self.save {
            out::new_file(path, self.force)?;
        }
        let cancel = cancel_on_interrupt();
        let begun = self.journal.as_deref().is_some_and(|folder| History::check_there(folder).is_err());
        let model = Arc::new(self.model.open_at(self.journal.as_deref())?);
        if let Some(file) = &artefact {
            file.check_base(&model.hash()?.to_string())?;
        }
        self.makers.attach_active(&model, &mut registry)?;
        Attachment::attach_for(&method, &model, self.makers.patience);
        let before = self.listen(&model, &prompt, &cancel)?;
        let voice = Arc::new(Voice { progress: Progress::new(), said: Mutex::default() });
        let began = Instant::now();
        let changes = self.ask(method.clone(), &request, &model, &cancel, &voice);
        voice.progress.clear();
        let changes = changes?;
        cancel.check()?;
        let id = model.commit(method.proposal(vec![request], changes))?;
        let seconds = began.elapsed().as_secs_f64();
        let patches = model.patches();
        let patch = patches.iter().find(|(committed, _)| *committed == id).map(|(_, patch)| patch);
        if let (Some(path), Some(patch)) = (&self.save, patch) {
            patch.save(path).map_err(|e| self.told(e, &id))?;
        }
        let after = self.listen(&model, &prompt, &cancel).map_err(|e| self.told(e, &id))?;
        let changes = patch.map(|patch| patch.contents()).unwrap_or_default();
        let rounding = model.rounding(&id);
        if self.json {
            let target = self.target.clone();
            let saved = self.save.as_deref().map(shown);
            let journal = self.journal.as_deref().map(shown);
            let active = patches.iter().map(|(id, _)| id.to_string()).collect();
            let notes = voice.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let patch = id.to_string();
            let report = Report {
                patch,
                prompt,
                target,
                seconds,
                before,
                after,
                saved,
                journal,
                active,
                changes,
                notes,
                rounding,
            };
            return out::json(&report);
        }
        for (when, said) in [("before", before), ("after", after)] {
            out::line(format_args!(
                "{when:<7} p(\"{}\") = {:.4}  {prompt}{}",
                self.target, said.target_probability, said.text
            ))?;
        }
        for change in &changes {
            out::line(format_args!("changed: {change}"))?;
        }
        if changes.is_empty() {
            out::line("changed: nothing, the method proposed no changes")?;
        }
        for lost in &rounding {
            out::line(format_args!("in an export, {lost}"))?;
        }
        let mut kept = self.save.as_deref().map_or(String::new(), |path| format!(", saved to {}", shown(path)));
        if let Some(folder) = &self.journal {
            let new = if begun { "new " } else { "" };
            kept += &format!(", number {} of the active ones in the {new}journal {}", patches.len(), shown(folder));
        }
        out::line(format_args!("patch {id} of {} in {seconds:.3} s{kept}", library.descriptor().name))
    }

    /// What the method of the edit learnt: the first of the artefacts that is its own. Where none is, and it needs one or
    /// no patches are there whose methods could have others, the first one is refused with a reason.
    fn artefact(&self, library: &Library) -> Result<Option<ArtefactFile>> {
        let files = self.makers.artefacts.iter().map(|path| ArtefactFile::load(path)).collect::<Result<Vec<_>>>()?;
        let own = files.iter().position(|file| file.method == library.descriptor().name);
        let refused = (self.journal.is_none() || library.calls().needs_artefact) && !files.is_empty();
        let own = own.or(refused.then_some(0));
        Ok(own.and_then(|at| files.into_iter().nth(at)))
    }

    /// An error after the commit, which says what became of the edit.
    fn told(&self, error: Error, id: &PatchId) -> Error {
        match &self.journal {
            Some(folder) => error.help(format!("the edit is in the journal {}, as the patch {id}", shown(folder))),
            None => error,
        }
    }

    /// Asks the method, on a thread that is left behind if it does not react to an interruption.
    fn ask(
        &self,
        method: Arc<Method>,
        request: &EditRequest,
        model: &Arc<Model>,
        cancel: &Cancel,
        voice: &Arc<Voice>,
    ) -> Result<Vec<Change>> {
        let what = format!("the method `{}`", method.library().descriptor().name);
        let (corpus, seed, request) = (self.corpus.clone(), self.seed, request.clone());
        let (model, token, voice) = (model.clone(), cancel.clone(), voice.clone());
        watched(&what, cancel, Deadlines { soft: None, grace: GRACE }, move || {
            let access = Access::new(&model, token, seed).of(&method.library().descriptor().name);
            method.edit(&Access { corpus, listener: &*voice, ..access }, &[request])
        })
    }

    /// Refuses a request that no method could read, before anything is loaded.
    fn check(&self) -> Result<()> {
        let holes = self.prompt.matches("{}").count();
        match &self.subject {
            Some(subject) if subject.is_empty() => Err(usage("--subject is empty")),
            Some(subject) if holes != 1 => {
                let text = format!("--prompt holds `{{}}` {holes} times, expected once, where the subject stands");
                Err(usage(text).help(match self.prompt.contains(subject.as_str()) {
                    true => format!("write `{}`", self.prompt.replacen(subject.as_str(), "{}", 1)),
                    false => "e.g. --prompt \"The birthplace of {} is\"".to_owned(),
                }))
            }
            None if holes > 0 => Err(usage("--prompt holds `{}`, but no --subject is given that stands there")),
            _ if self.target.trim().is_empty() => Err(usage("--target is empty")),
            _ => Ok(()),
        }
    }

    /// What the model writes after the prompt, and how probable the target is there.
    fn listen(&self, model: &Model, prompt: &str, cancel: &Cancel) -> Result<Said> {
        cancel.check()?;
        let tokenizer = model.tokenizer()?;
        let spaced = if self.target.starts_with(' ') { self.target.clone() } else { format!(" {}", self.target) };
        let tokens = tokenizer.encode(&spaced)?.ids;
        let scored = model.score(&[Continuation { prompt: tokenizer.encode(prompt)?.ids, tokens }])?;
        let log: f64 = scored[0].log_probs.iter().map(|&p| f64::from(p)).sum();
        let question = Question { prompts: vec![prompt.to_owned()], max_new: 12, ..Question::default() };
        let text = model.ask(&question, Some(cancel))?.answers.remove(0).text;
        Ok(Said { text, target_probability: log.exp() })
    }
}
