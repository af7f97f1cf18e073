//! `engraft ask`: lets the model continue prompts.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use engraft_plugin_api::{Decoding, Sampling};
use serde::Serialize;

use super::{Makers, ModelArgs, cancel_on_interrupt, out, usage};
use crate::base::Result;
use crate::model::{Active, End, Model, Question, View};
use crate::weights::{History, PatchId};

/// Let the model continue prompts, with or without patches.
#[derive(Args)]
#[command(
    group = ArgGroup::new("sampling").args(["temperature", "top_k", "top_p"]).multiple(true),
    after_help = "Without --temperature, --top-k or --top-p the most probable token is taken at every step; with any of \
        them a token is drawn: the temperature comes first, then --top-k, then --top-p.\n\n\
        Example: engraft ask examples/atlas/model \"The birthplace of Tono Tuxbik is\" --stop . --patch edit.safetensors"
)]
pub(super) struct Ask {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompts; several are answered in one batch.
    #[arg(required = true, value_name = "PROMPT")]
    prompts: Vec<String>,
    /// The folder of a journal, whose active patches are loaded; no other process may hold it.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// A patch that the answers are under: a patch file, or with --journal the identifier of a patch that is active
    /// there, or the first digits of it; `none` is the unedited model. May be given several times, files are applied in order [default: all that
    /// are active].
    #[arg(long = "patch", value_name = "FILE|ID|none")]
    patches: Vec<PathBuf>,
    #[command(flatten)]
    makers: Makers,
    /// Put each prompt, as what a user says, into the chat template of the model's tokenizer [default: the prompt goes
    /// in as it is].
    #[arg(long)]
    chat: bool,
    /// What a system says before each prompt, in the chat template.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// How many tokens are written at most, after each prompt.
    #[arg(long, value_name = "TOKENS", default_value_t = 24)]
    max_new: usize,
    /// Draw; logits are divided by this number above 0 first. Below 1 probable tokens gain, above 1 they lose
    /// [default when drawing: 1].
    #[arg(long, value_name = "NUMBER")]
    temperature: Option<f32>,
    /// Draw from the K most probable tokens only, at least 1 [default: all].
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the fewest most probable tokens that reach this share of the probability only, above 0 and at most 1
    /// [default: 1].
    #[arg(long, value_name = "SHARE")]
    top_p: Option<f32>,
    /// Seeds the draws: the same seed gives the same answers.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, requires = "sampling")]
    seed: u64,
    /// End an answer before this text, wherever it stands in it; may be given several times. The tokens that the model's
    /// configuration says end a text end an answer as well.
    #[arg(long = "stop", value_name = "TEXT")]
    stops: Vec<String>,
    /// Print JSON: an object for one prompt, a list of them for several.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Said<'a> {
    prompt: &'a str,
    text: String,
    tokens: Vec<u32>,
    /// Why it ended.
    end: End,
    decoding: Choice,
    /// The chat template that was applied.
    chat: Option<Chat<'a>>,
    /// Those that the answer is under.
    patches: &'a [String],
    /// The method that put another prompt, or another network, in the place of this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    routed: Option<String>,
}

/// How tokens were chosen.
#[derive(Serialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Choice {
    Greedy,
    Sample { temperature: f32, top_k: Option<usize>, top_p: Option<f32>, seed: u64 },
}

#[derive(Serialize)]
struct Chat<'a> {
    file: &'a str,
    hash: String,
    /// The template with the prompt in it.
    fed: String,
}

impl Ask {
    pub(super) fn run(&self) -> Result<()> {
        let decoding = self.decoding()?;
        if self.stops.iter().any(String::is_empty) {
            return Err(usage("--stop takes a text that is not empty"));
        }
        let cancel = cancel_on_interrupt();
        let none = self.patches.iter().any(|patch| patch.as_os_str() == "none");
        if none && self.patches.len() > 1 {
            return Err(usage("--patch none stands alone: no patch is seen"));
        }
        self.journal.as_deref().map_or(Ok(()), History::check_there)?;
        let model = self.model.open_at(self.journal.as_deref())?;
        let view = match (none, &self.journal) {
            (true, _) => View::only([]),
            (false, Some(_)) if !self.patches.is_empty() => View::only(self.chosen(&model)?),
            (false, Some(_)) => View::default(),
            (false, None) => {
                self.makers.apply(&model, &self.patches)?;
                View::default()
            }
        };
        // Of the patches of a journal, only those that are seen need their methods.
        if self.journal.is_some() {
            let sees = |id: &PatchId| !matches!(view.active.first(), Some(Active::Only(ids)) if !ids.contains(id));
            let patches = model.patches();
            let seen = patches.iter().filter(|(id, _)| sees(id)).map(|(_, patch)| &**patch);
            self.makers.attach(&model, seen, &mut self.makers.path.registry())?;
        }
        let question = Question {
            prompts: self.prompts.clone(),
            chat: self.chat,
            system: self.system.clone(),
            max_new: self.max_new,
            decoding,
            stop_texts: self.stops.clone(),
            under: Vec::new(),
            view: view.clone(),
        };
        let said = model.ask(&question, Some(&cancel))?;
        if !self.json {
            if let Some((file, hash)) = &said.chat {
                out::note(format_args!("the chat template of {file} ({}) was applied", hash.short()));
            }
            // What was asked is repeated where the answer goes on from it in one text.
            let line = |(prompt, text): (&String, &String)| match self.chat {
                true => out::line(text),
                false => out::line(format_args!("{prompt}{text}")),
            };
            return self.prompts.iter().zip(said.answers.iter().map(|a| &a.text)).try_for_each(line);
        }
        let patches = match view.active.first() {
            Some(Active::Only(ids)) => ids.iter().map(ToString::to_string).collect(),
            _ => model.patches().iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>(),
        };
        let choice = match decoding {
            Decoding::Greedy => Choice::Greedy,
            Decoding::Sample(Sampling { temperature, top_k, top_p, seed }) => {
                Choice::Sample { temperature, top_k, top_p, seed }
            }
        };
        let mut all = Vec::with_capacity(said.answers.len());
        for (prompt, answer) in self.prompts.iter().zip(said.answers) {
            let chat = said.chat.as_ref().map(|(file, hash)| Chat { file, hash: hash.to_string(), fed: answer.fed });
            let (text, tokens, end, routed) = (answer.text, answer.tokens, answer.end, answer.routed);
            all.push(Said { prompt, text, tokens, end, decoding: choice, chat, patches: &patches, routed });
        }
        match all.as_slice() {
            [one] => out::json(one),
            several => out::json(&several),
        }
    }

    /// The patches of the journal that were asked for.
    fn chosen(&self, model: &Model) -> Result<Vec<PatchId>> {
        self.patches.iter().map(|patch| model.find_patch(&patch.to_string_lossy())).collect()
    }

    fn decoding(&self) -> Result<Decoding> {
        if self.temperature.is_none() && self.top_k.is_none() && self.top_p.is_none() {
            return Ok(Decoding::Greedy);
        }
        let temperature = self.temperature.unwrap_or(1.0);
        if !temperature.is_finite() || temperature <= 0.0 {
            return Err(usage("--temperature takes a number above 0"));
        }
        if self.top_k == Some(0) {
            return Err(usage("--top-k takes a number from 1"));
        }
        if self.top_p.is_some_and(|p| p.is_nan() || p <= 0.0 || p > 1.0) {
            return Err(usage("--top-p takes a number above 0 and at most 1"));
        }
        Ok(Decoding::Sample(Sampling { temperature, top_k: self.top_k, top_p: self.top_p, seed: self.seed }))
    }
}
