//! `engraft plugins`: which there are, and whether one behaves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use engraft_plugin_api::testing::StillModel;
use engraft_plugin_api::{ParamKind, ParamSpec};
use serde::Serialize;

use super::{PluginPath, cancel_on_interrupt, codes, out};
use crate::base::{Error, Result};
use crate::plugins::{Deadlines, Library, params, watched};

/// List plugins or check one.
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
    /// Load a library, create its method with its defaults and call it without requests. A layer that has no
    /// default is taken as 0.
    #[command(after_help = "Example: engraft plugins check target/release/libengraft_rome.so")]
    Check {
        /// The library.
        file: PathBuf,
        /// A parameter that has no default, as `name=value`; may be given several times.
        #[arg(long = "param", value_name = "NAME=VALUE")]
        params: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// A file on the search path: a plugin, or why it is none.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry {
    Loaded(Listed),
    Refused { file: String, error: out::Fault },
}

#[derive(Serialize)]
struct Checked {
    plugin: Listed,
    /// The parameters that it was created with.
    taken: Vec<String>,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    version: String,
    family: &'static str,
    summary: String,
    paper: String,
    batch: bool,
    sequential: bool,
    needs_subject: bool,
    file: String,
    params: Vec<Param>,
}

#[derive(Serialize)]
struct Param {
    name: String,
    takes: String,
    default: Option<String>,
    help: String,
}

impl Listed {
    fn of(library: &Library) -> Self {
        let d = library.descriptor();
        let param = |p: &ParamSpec| Param {
            name: p.name.clone(),
            takes: p.kind.to_string(),
            default: p.default.as_ref().map(ToString::to_string),
            help: p.help.clone(),
        };
        Self {
            name: d.name.clone(),
            version: d.version.clone(),
            family: d.family.name(),
            summary: d.summary.clone(),
            paper: d.paper.clone(),
            batch: d.capabilities.batch,
            sequential: d.capabilities.sequential,
            needs_subject: d.capabilities.needs_subject,
            file: library.path().display().to_string(),
            params: d.params.iter().map(param).collect(),
        }
    }

    fn print(&self) -> Result<()> {
        out::line(format_args!("{} {} ({}): {}", self.name, self.version, self.family, self.summary))?;
        out::line(format_args!("  {}", self.paper))?;
        out::line(format_args!("  {}", self.file))?;
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
            Command::List { path, json } => {
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
                if *json {
                    return out::json(&entries);
                }
                entries.iter().try_for_each(|entry| match entry {
                    Entry::Loaded(listed) => listed.print(),
                    Entry::Refused { .. } => Ok(()),
                })
            }
            Command::Check { file, params, json } => check(file, params, *json),
        }
    }
}

/// Layers that have to be given, as 0: a method can be created without knowing a model.
fn first_layers(specs: &[ParamSpec]) -> Vec<String> {
    let layer = |spec: &ParamSpec| match &spec.kind {
        ParamKind::Layer => Some(format!("{}=0", spec.name)),
        ParamKind::List(element) if **element == ParamKind::Layer => Some(format!("{}=[0]", spec.name)),
        _ => None,
    };
    specs.iter().filter(|spec| spec.default.is_none()).filter_map(layer).collect()
}

fn check(file: &Path, given: &[String], json: bool) -> Result<()> {
    let library = Arc::new(Library::load(file, None)?);
    let plugin = Listed::of(&library);
    let mut pairs = first_layers(&library.descriptor().params);
    if !json {
        plugin.print()?;
        pairs.iter().try_for_each(|pair| out::line(format_args!("  taking {pair}, unless --param says otherwise")))?;
    }
    pairs.extend_from_slice(given);
    let params = library.configure(&params::of_command_line(None, &pairs)?)?;
    let method = library.create(params)?;
    let deadlines = Deadlines { soft: Some(Duration::from_secs(10)), grace: Duration::from_secs(5) };
    let changes = watched("edit", &cancel_on_interrupt(), deadlines, move || {
        let changes = method.edit(&StillModel::default(), &[])?;
        method.close()?;
        Ok(changes)
    })?;
    if !changes.is_empty() {
        let text = format!("`edit` without requests proposed {} changes, expected none", changes.len());
        return Err(Error::new(&codes::FINDINGS, text));
    }
    if json {
        return out::json(&Checked { plugin, taken: pairs });
    }
    out::line("loads, describes itself, is created, answers an empty call with no changes, is dropped")
}
