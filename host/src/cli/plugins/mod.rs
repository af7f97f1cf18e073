//! `engraft plugins`: which there are, a new one, and whether one keeps the laws.
//!
//! `check` is the process that a user starts, `child` the one that a plugin runs in, `event` what the second tells
//! the first. `new` writes a crate to begin with, from the files in `template`.

mod check;
mod child;
mod event;
mod new;

use clap::{Args, Subcommand};
use engraft_plugin_api::ParamSpec;
use serde::{Deserialize, Serialize};

use super::{PluginPath, out};
use crate::base::Result;
use crate::plugins::Library;

/// List plugins, check one, or begin a new one.
#[derive(Args)]
#[command(after_help = "Example: engraft plugins list")]
pub(super) struct Plugins {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List every plugin on the search path, with its parameters.
    #[command(after_help = "Example: engraft plugins list --json")]
    List {
        #[command(flatten)]
        path: PluginPath,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Load a library in a process of its own and try every law on it.
    Check(check::Check),
    New(new::New),
    /// What `check` starts.
    #[command(hide = true)]
    Try(child::Try),
}

/// A file on the search path: a plugin, or why it is none.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry {
    Loaded(Listed),
    Refused { file: String, error: out::Fault },
}

#[derive(Serialize, Deserialize)]
struct Listed {
    name: String,
    version: String,
    family: String,
    summary: String,
    paper: String,
    batch: bool,
    sequential: bool,
    needs_subject: bool,
    /// The calls that it implements.
    calls: Vec<String>,
    needs_artefact: bool,
    file: String,
    /// The BLAKE3 hash of the file's bytes, by which manifests name it.
    hash: String,
    /// What the file is pinned with: the SHA-256 of its bytes.
    pin: String,
    params: Vec<Param>,
}

#[derive(Serialize, Deserialize)]
struct Param {
    name: String,
    takes: String,
    default: Option<String>,
    help: String,
}

impl Listed {
    fn of(library: &Library) -> Self {
        let (d, calls) = (library.descriptor(), library.calls());
        let param = |p: &ParamSpec| Param {
            name: p.name.clone(),
            takes: p.kind.to_string(),
            default: p.default.as_ref().map(ToString::to_string),
            help: p.help.clone(),
        };
        let implemented =
            [("edit", true), ("train", calls.train), ("route", calls.route), ("intercept", calls.intercept)];
        Self {
            name: d.name.clone(),
            version: d.version.clone(),
            family: d.family.name().into(),
            summary: d.summary.clone(),
            paper: d.paper.clone(),
            batch: d.capabilities.batch,
            sequential: d.capabilities.sequential,
            needs_subject: d.capabilities.needs_subject,
            calls: implemented.iter().filter(|(_, has)| *has).map(|(call, _)| (*call).to_owned()).collect(),
            needs_artefact: calls.needs_artefact,
            file: library.path().display().to_string(),
            hash: library.hash().to_string(),
            pin: library.pin().to_string(),
            params: d.params.iter().map(param).collect(),
        }
    }

    fn print(&self) -> Result<()> {
        out::line(format_args!("{} {} ({}): {}", self.name, self.version, self.family, self.summary))?;
        out::line(format_args!("  {}", self.paper))?;
        out::line(format_args!("  {}", self.file))?;
        out::line(format_args!("  pin: {}", self.pin))?;
        out::line(format_args!("  calls: {}", self.calls.join(", ")))?;
        for p in &self.params {
            let default = p.default.as_deref().unwrap_or("required");
            out::line(format_args!("    {:<20} {default:<16} takes {}", p.name, p.takes))?;
            out::line(format_args!("      {}", p.help))?;
        }
        Ok(())
    }
}

impl Plugins {
    pub(super) fn run(&self) -> Result<()> {
        match &self.command {
            Command::List { path, json } => list(path, *json),
            Command::Check(check) => check.run(),
            Command::New(new) => new.run(),
            Command::Try(child) => child.run(),
        }
    }
}

fn list(path: &PluginPath, json: bool) -> Result<()> {
    let mut entries = Vec::new();
    for (file, loaded) in path.registry().scan() {
        let file = file.display().to_string();
        entries.push(match loaded {
            Ok(library) => Entry::Loaded(Listed::of(&library)),
            Err(error) => {
                out::note(format_args!("not loaded: {file}: {error}"));
                Entry::Refused { file, error: out::Fault::of(&error) }
            }
        });
    }
    if json {
        return out::json(&entries);
    }
    entries.iter().try_for_each(|entry| match entry {
        Entry::Loaded(listed) => listed.print(),
        Entry::Refused { .. } => Ok(()),
    })
}
