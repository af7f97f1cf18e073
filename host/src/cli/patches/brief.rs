//! What is told of a patch wherever it is listed: who made it, of what, and what it changes.

use std::fmt::Display;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use crate::base::{Result, clock};
use crate::cli::out;
use crate::plugins::params;
use crate::weights::Patch;

/// A patch without its tensors.
#[derive(Serialize)]
pub(super) struct Brief {
    method: String,
    version: String,
    /// All parameters of the method.
    params: toml::Table,
    /// The hash of what the method learnt before.
    artefact: Option<String>,
    requests: Vec<Request>,
    /// What it changes, in words, one phrase for each change.
    changes: Vec<String>,
}

/// What was asked for.
#[derive(Serialize)]
struct Request {
    prompt: String,
    subject: Option<String>,
    target: String,
    /// What the model was said to answer before.
    old: Option<String>,
}

impl Brief {
    pub(super) fn of(patch: &Patch) -> Self {
        let request = |request: &engraft_plugin_api::EditRequest| Request {
            prompt: request.prompt.clone(),
            subject: request.subject.clone(),
            target: request.target.new.clone(),
            old: request.target.old.clone(),
        };
        Self {
            method: patch.method.clone(),
            version: patch.version.clone(),
            params: params::to_toml(&patch.params),
            artefact: patch.artefact.map(|hash| hash.to_string()),
            requests: patch.requests.iter().map(request).collect(),
            changes: patch.contents(),
        }
    }

    /// The method and its version.
    pub(super) fn maker(&self) -> String {
        format!("{} {}", self.method, self.version)
    }

    /// What was asked for, one line each; of many requests the first ones.
    pub(super) fn print_requests(&self) -> Result<()> {
        const SHOWN: usize = 8;
        for request in self.requests.iter().take(SHOWN) {
            let subject = request.subject.as_ref().map_or(String::new(), |subject| format!(", of \"{subject}\""));
            let old = request.old.as_ref().map_or(String::new(), |old| format!(", instead of \"{old}\""));
            row("asked", format_args!("\"{}\"{subject}: \"{}\"{old}", request.prompt, request.target))?;
        }
        match self.requests.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => row("", format_args!("and {more} more requests")),
        }
    }

    /// The parameters and the artefact.
    pub(super) fn print_making(&self) -> Result<()> {
        let params: Vec<String> = self.params.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !params.is_empty() {
            row("params", params.join(", "))?;
        }
        self.artefact.as_ref().map_or(Ok(()), |hash| row("artefact", hash))
    }

    pub(super) fn print(&self) -> Result<()> {
        self.print_requests()?;
        self.changes.iter().try_for_each(|change| row("changes", change))?;
        self.print_making()
    }
}

/// A line below the name of a patch.
pub(super) fn row(what: &str, text: impl Display) -> Result<()> {
    out::line(format_args!("    {what:<9} {text}"))
}

/// When an entry was made.
pub(super) fn when(time: Option<u64>) -> String {
    let at = time.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    at.map_or_else(|| "no time was kept".to_owned(), clock::iso)
}
