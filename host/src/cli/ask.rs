//! `engraft ask`: lets the model continue a prompt.

use std::path::PathBuf;

use clap::Args;
use engraft_plugin_api::{Decoding, GenerateRequest};
use serde::Serialize;

use super::{ModelArgs, apply, cancel_on_interrupt, out, usage};
use crate::base::Result;

/// Let the model continue a prompt, with or without patches.
#[derive(Args)]
#[command(
    after_help = "Example: engraft ask examples/atlas/model \"The capital of Orvia is\" --patch edit.safetensors"
)]
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
        let cancel = cancel_on_interrupt();
        let model = self.model.open()?;
        let tokenizer = model.tokenizer()?;
        apply(&model, &self.patches)?;
        let rows = vec![tokenizer.encode(&self.prompt)?.ids];
        let stop = tokenizer.end_tokens().to_vec();
        let request = GenerateRequest { rows, max_new: self.max_new, decoding, stop, under: Vec::new() };
        let tokens = model.generate_until(&request, Some(&cancel))?.remove(0);
        let text = tokenizer.decode(&tokens)?;
        if !self.json {
            return out::line(format_args!("{}{text}", self.prompt));
        }
        let patches = model.patches().iter().map(|(id, _)| id.to_string()).collect();
        out::json(&Answer { prompt: &self.prompt, text, tokens, patches })
    }
}
