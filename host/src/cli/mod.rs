//! The command line: one file a sub-command, and the only folder that prints or exits.
//!
//! Results go to the standard output, everything else to standard error. The exit code is that of the error's class:
//! 0 done, 2 usage, 3 configuration, 4 model, 5 plugin, 6 runtime, 130 interrupted.

mod ask;
pub mod codes;
pub mod contract;
mod edit;
mod explain;
mod export;
mod inspect;
mod out;
mod patches;
mod plugins;
mod probe;
mod run;
mod setup;
mod train;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use engraft_plugin_api::Change;

use crate::base::{Cancel, Error, Result};
use crate::model::{Model, OpenOptions};
use crate::plugins::{ArtefactFile, Attachment, Patience, Pin, Registry, SearchPath, codes as plugin_codes, params};
use crate::runtime::{self, Device, Runtime, RuntimeSettings};
use crate::weights::Patch;

/// Runs ONNX language models and corrects them with editing methods loaded as plugins.
#[derive(Parser)]
#[command(name = "engraft", version = version(), arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The version of engraft and of the ONNX Runtime that it fetches.
fn version() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| format!("{} (ONNX Runtime {})", env!("CARGO_PKG_VERSION"), runtime::provision::VERSION));
    &TEXT
}

#[derive(Subcommand)]
enum Command {
    /// Run an experiment: edit, measure, undo, report.
    Run(run::Run),
    /// Have methods that learn do so, ahead of their edits.
    Train(train::Train),
    /// Make one edit and show what the model says before and after.
    Edit(edit::EditOne),
    /// Let the model continue a prompt, with or without patches.
    Ask(ask::Ask),
    /// Write a model with patches baked in as a plain ONNX model.
    Export(export::Export),
    /// Show which edge of a model's graph is which part of a transformer.
    Inspect(inspect::Inspect),
    /// Run rows of tokens and write activations and gradients to a file.
    Probe(probe::Probe),
    /// Show which patches are in a model, or change that.
    Patches(patches::Patches),
    /// List plugins, check one, or begin a new one.
    Plugins(plugins::Plugins),
    /// Get ONNX Runtime ahead of time.
    Setup(setup::Setup),
    /// Explain an error code, or list all of them.
    Explain(explain::Explain),
}

/// Where plugins are looked for.
#[derive(Args)]
struct PluginPath {
    /// A folder to look for plugins in, before the others; may be given several times.
    #[arg(long = "plugin-dir", value_name = "DIR")]
    plugin_dirs: Vec<PathBuf>,
}

impl PluginPath {
    fn search(&self) -> SearchPath {
        SearchPath::of_process(self.plugin_dirs.iter().cloned())
    }

    fn registry(&self) -> Registry {
        Registry::new(self.search())
    }
}

/// A model and where it runs.
#[derive(Args)]
struct ModelArgs {
    /// The model: a folder, or an .onnx file in one.
    model: PathBuf,
    /// `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: Device,
}

impl ModelArgs {
    fn open(&self) -> Result<Model> {
        self.open_at(None)
    }

    /// With the patches of a journal, which is begun where there is none.
    fn open_at(&self, journal: Option<&Path>) -> Result<Model> {
        open_with(&self.model, &options(self.device, journal))
    }
}

fn options(device: Device, journal: Option<&Path>) -> OpenOptions {
    OpenOptions { device, journal: journal.map(Path::to_path_buf), ..OpenOptions::default() }
}

/// Opens a model; without `texts` its tokenizer is not looked at.
fn open(model: &Path, device: Device, texts: bool) -> Result<Model> {
    open_with(model, &OpenOptions { device, without_tokenizer: !texts, ..OpenOptions::default() })
}

fn open_with(model: &Path, options: &OpenOptions) -> Result<Model> {
    // The graph is looked for first: a misspelt path should not begin with a download.
    crate::graph::Graph::find(model)?;
    let runtime = Runtime::open(&RuntimeSettings::for_device(options.device), notify())?;
    Model::open(model, &runtime, options)
}

/// What the methods of patches are made of, where patches have them called.
#[derive(Args)]
struct Makers {
    #[command(flatten)]
    path: PluginPath,
    /// What a method learnt before, as `engraft train` wrote it; may be given several times where patches have several
    /// methods called.
    #[arg(long = "artefact", value_name = "FILE")]
    artefacts: Vec<PathBuf>,
    #[command(flatten)]
    pins: Pins,
    /// How many seconds a method may take for one call in the middle of a request before the request fails; 0 waits as
    /// long as it takes.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    patience: Patience,
}

/// What the bytes of plugins must be.
#[derive(Args)]
struct Pins {
    /// What the bytes of the plugin's file must be, checked before it is loaded, as `engraft plugins list` shows it. If it
    /// is given several times, each plugin that is loaded must be one of them.
    #[arg(long = "pin", value_name = "sha256:HASH")]
    pins: Vec<Pin>,
}

impl Makers {
    /// Makes patches from files part of a model.
    fn apply(&self, model: &Model, patches: &[PathBuf]) -> Result<()> {
        let patches = patches.iter().map(|path| Patch::load(path)).collect::<Result<Vec<_>>>()?;
        self.attach(model, patches.iter(), &mut self.path.registry())?;
        patches.into_iter().try_for_each(|patch| model.apply(patch).map(drop))
    }

    /// Attaches the methods that the active patches of a model have called.
    fn attach_active(&self, model: &Model, registry: &mut Registry) -> Result<()> {
        self.attach(model, model.patches().iter().map(|(_, patch)| &**patch), registry)
    }

    /// Attaches the methods that made patches, where the patches have them called; each once. A library that the
    /// registry has loaded already is taken for its method.
    fn attach<'p>(
        &self,
        model: &Model,
        patches: impl Iterator<Item = &'p Patch>,
        registry: &mut Registry,
    ) -> Result<()> {
        let called = |change: &Change| matches!(change, Change::Intercept { .. } | Change::Route);
        let mut makers: Vec<&Patch> = Vec::new();
        for patch in patches.filter(|patch| patch.changes.iter().any(called)) {
            if !makers.iter().any(|maker| maker.is_of_the_maker_of(patch)) {
                makers.push(patch);
            }
        }
        for maker in makers {
            let loaded = registry.loaded().find(|library| library.descriptor().name == maker.method).cloned();
            let library = match loaded {
                Some(library) => library,
                None => registry.load(&maker.method, Path::new("."), &self.pins.pins)?,
            };
            let learnt = self.learnt(maker)?;
            let method = library.create_with(library.configure(&params::to_toml(&maker.params))?, learnt.as_ref())?;
            Attachment::attach_for(&Arc::new(method), model, self.patience);
        }
        Ok(())
    }

    /// The artefact that the method had when it made a patch, if it had one.
    fn learnt(&self, patch: &Patch) -> Result<Option<ArtefactFile>> {
        let Some(hash) = patch.artefact else { return Ok(None) };
        let mut others = Vec::new();
        for path in &self.artefacts {
            let file = ArtefactFile::load(path)?;
            if file.hash() == hash {
                return Ok(Some(file));
            }
            others.push(format!("{} of `{}`, in `{}`", file.hash(), file.method, path.display()));
        }
        let (id, method) = (patch.id(), &patch.method);
        let found = match others.as_slice() {
            [] => "no artefact is given".to_owned(),
            others => format!("given is {}", others.join(" and ")),
        };
        let text = format!("`{method}` made the patch {id} with the artefact {hash}; {found}");
        Err(Error::new(&plugin_codes::ARTEFACT_MISSING, text)
            .help("name the file of that very artefact with `--artefact`"))
    }
}

/// Says what the runtime does when it has to be fetched.
fn notify() -> runtime::Notify {
    Arc::new(|event| match event {
        runtime::Event::Downloading { package, folder } => {
            out::note(format_args!("taking {package} with pip, to be kept in {}", folder.display()));
        }
        runtime::Event::Waiting { folder } => {
            out::note(format_args!("waiting for another process that fills {}", folder.display()));
        }
        runtime::Event::Installed { library } => out::note(format_args!("ONNX Runtime is at {}", library.display())),
        runtime::Event::Log { message } => out::note(format_args!("ONNX Runtime: {message}")),
        runtime::Event::MemoryShort { needed, available } => out::note(format_args!(
            "this may not fit: about {:.1} GB of memory are needed and {:.1} GB are free",
            *needed as f64 / 1e9,
            *available as f64 / 1e9
        )),
    })
}

/// A token that Ctrl-C cancels; a second Ctrl-C ends the process.
fn cancel_on_interrupt() -> Cancel {
    let cancel = Cancel::new();
    let heard = cancel.clone();
    let set = ctrlc::set_handler(move || {
        if heard.is_cancelled() {
            std::process::exit(130);
        }
        out::note("stopping at the next safe point; Ctrl-C again stops at once");
        heard.cancel();
    });
    if let Err(e) = set {
        out::note(format_args!("Ctrl-C will end the process at once: {e}"));
    }
    cancel
}

/// A value of an option that does not parse.
fn usage(text: impl Into<String>) -> Error {
    Error::new(&codes::USAGE, text)
}

/// Shows a path as it was meant: relative to the working directory where it lies below it.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let short = here.as_deref().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path);
    short.display().to_string()
}

/// True if the sub-command that was chosen was asked for JSON.
fn asks_json(matches: &ArgMatches) -> bool {
    let own = matches.try_get_one::<bool>("json").ok().flatten().copied().unwrap_or(false);
    own || matches.subcommand().is_some_and(|(_, inner)| asks_json(inner))
}

/// What is wrong with a command line that does not parse, in clap's own words.
fn misspelt(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Help and version; a reader that goes away is no error here either.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|arg| arg == "--json") {
        out::set_json();
        let text = error.render().to_string();
        let text = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ").trim();
        out::error(&usage(text).help("`engraft help COMMAND` shows what a command takes"));
    } else {
        let _ = error.print();
    }
    ExitCode::from(2)
}

/// Runs the command line of the process.
pub fn main() -> ExitCode {
    let parsed =
        Cli::command().try_get_matches().and_then(|m| Cli::from_arg_matches(&m).map(|cli| (asks_json(&m), cli)));
    let (json, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return misspelt(&error),
    };
    if json {
        out::set_json();
    }
    let done = match &cli.command {
        Command::Run(command) => command.run(),
        Command::Train(command) => command.run(),
        Command::Edit(command) => command.run(),
        Command::Ask(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Probe(command) => command.run(),
        Command::Patches(command) => command.run(),
        Command::Plugins(command) => command.run(),
        Command::Setup(command) => command.run(),
        Command::Explain(command) => command.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out::error(&error);
            ExitCode::from(error.code().class.exit_code())
        }
    }
}
