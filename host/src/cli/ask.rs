//! `engraft ask`: lets the model continue a prompt.

use std::path::PathBuf;

use clap::Args;
use engraft_plugin_api::{Decoding, GenerateRequest};
use serde::Serialize;

use super::{ModelArgs, apply, cancel_on_interrupt, out, usage};
use crate::base::Result;
use crate::runtime::Tokenizer;

/// Let the model continue a prompt, with or without patches.
#[derive(Args)]
#[command(after_help = "Example: engraft ask examples/atlas/model \"The birthplace of Tono Tuxbik is\" --stop . \
    --patch edit.safetensors")]
pub(super) struct Ask {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt.
    prompt: String,
    /// A patch file; may be given several times, applied in order.
    #[arg(long = "patch", value_name = "FILE")]
    patches: Vec<PathBuf>,
    /// How many tokens are written at most.
    #[arg(long, default_value_t = 24)]
    max_new: usize,
    /// Draw from the K most probable tokens instead of taking the most probable one.
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Divides the logits before drawing.
    #[arg(long, default_value_t = 1.0, requires = "top_k")]
    temperature: f32,
    /// Seeds the draws.
    #[arg(long, default_value_t = 0, requires = "top_k")]
    seed: u64,
    /// End the answer before this text; may be given several times.
    #[arg(long = "stop", value_name = "TEXT")]
    stops: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    prompt: &'a str,
    text: String,
    tokens: Vec<u32>,
    patches: Vec<String>,
}

impl Ask {
    pub(super) fn run(&self) -> Result<()> {
        let decoding = match self.top_k {
            None => Decoding::Greedy,
            Some(0) => return Err(usage("--top-k takes a number from 1")),
            Some(_) if self.temperature.is_nan() || self.temperature <= 0.0 => {
                return Err(usage("--temperature takes a number above 0"));
            }
            Some(k) => Decoding::TopK { k, temperature: self.temperature, seed: self.seed },
        };
        if self.stops.iter().any(String::is_empty) {
            return Err(usage("--stop takes a text that is not empty"));
        }
        let cancel = cancel_on_interrupt();
        let model = self.model.open()?;
        let tokenizer = model.tokenizer()?;
        apply(&model, &self.patches)?;
        let rows = vec![tokenizer.encode(&self.prompt)?.ids];
        let stop = tokenizer.end_tokens().to_vec();
        let request = GenerateRequest { rows, max_new: self.max_new, decoding, stop, under: Vec::new() };
        let mut tokens = model.generate_until(&request, Some(&cancel))?.remove(0);
        let text = cut(tokenizer, &mut tokens, &self.stops)?;
        if !self.json {
            return out::line(format_args!("{}{text}", self.prompt));
        }
        let patches = model.patches().iter().map(|(id, _)| id.to_string()).collect();
        out::json(&Answer { prompt: &self.prompt, text, tokens, patches })
    }
}

/// The text of the tokens before the first of `stops`; the tokens after the one that completes it are dropped.
fn cut(tokenizer: &Tokenizer, tokens: &mut Vec<u32>, stops: &[String]) -> Result<String> {
    let read = if stops.is_empty() { tokens.len()..=tokens.len() } else { 0..=tokens.len() };
    let mut text = String::new();
    for n in read {
        text = tokenizer.decode(&tokens[..n])?;
        if let Some(at) = stops.iter().filter_map(|stop| text.find(stop.as_str())).min() {
            tokens.truncate(n);
            text.truncate(at);
            break;
        }
    }
    Ok(text)
}
