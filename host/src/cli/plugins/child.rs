//! The process that a plugin is tried in. What it does wrong ends this process and no other.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use clap::Args;
use engraft_plugin_api::{ParamKind, ParamSpec, ParamValue};
use toml::{Table, Value};

use super::Listed;
use super::event::{Event, Fault, Outcome};
use crate::base::Result;
use crate::cli::Pins;
use crate::laws::{self, Held, Trial};
use crate::plugins::{Library, Pin, params};
use crate::runtime::Device;

/// What loading is called among the laws.
pub(super) const LOADS: &str = "loads";

/// Try the laws on a library, and tell the parent process.
#[derive(Args)]
pub(super) struct Try {
    file: PathBuf,
    #[command(flatten)]
    pins: Pins,
    #[arg(long = "param")]
    params: Vec<String>,
    #[arg(long)]
    preset: Option<PathBuf>,
    #[arg(long)]
    model: PathBuf,
    /// The text for statistics, where the model names none.
    #[arg(long)]
    corpus: PathBuf,
    #[arg(long)]
    teaches: bool,
    /// The model has random weights.
    #[arg(long)]
    untaught: bool,
    /// What events begin with.
    #[arg(long)]
    mark: String,
    /// The number of the law to begin with.
    #[arg(long, default_value_t = 0)]
    from: usize,
}

impl Try {
    pub(super) fn run(&self) -> Result<()> {
        // The parent holds the other end and writes nothing: this returns when it is gone.
        thread::spawn(|| {
            let _ = std::io::stdin().read(&mut [0]);
            std::process::exit(130);
        });
        match self.all() {
            Ok(()) => Event::Done.send(&self.mark),
            Err(error) => Event::Failed(Fault::of(&error)).send(&self.mark),
        }
    }

    fn all(&self) -> Result<()> {
        let send = |event: Event| event.send(&self.mark);
        send(Event::Begins(LOADS.into()))?;
        let library = Arc::new(Library::load(&self.file, &self.pins.pins)?);
        send(Event::Plugin(Box::new(Listed::of(&library))))?;
        send(Event::Ends(Outcome::Kept))?;

        // Wrong parameters are told before a model is opened.
        let specs = &library.descriptor().params;
        let mut given = params::of_command_line(self.preset.as_deref(), &self.params, specs)?;
        let mut trial = given.clone();
        trial.extend(layers(specs, &given, None));
        library.configure(&trial)?;

        let model = crate::cli::open(&self.model, Device::Cpu, true)?;
        let taken = layers(specs, &given, Some(model.anatomy().layers));
        send(Event::Taken(taken.iter().map(|(name, value)| format!("{name}={value}")).collect()))?;
        given.extend(taken);

        let mut trial = Trial::new(&model, library, given, laws::requests())?;
        trial.teaches = self.teaches;
        trial.untaught = self.untaught;
        trial.corpus = model.corpus().is_none().then(|| self.corpus.clone());
        for law in laws::ALL.iter().skip(self.from) {
            send(Event::Begins(law.id.into()))?;
            let outcome = match law.check(&trial) {
                Ok(Held::Kept) => Outcome::Kept,
                Ok(Held::NotApplicable(why)) => Outcome::NotApplicable(why.into()),
                Err(found) => Outcome::Broken(found),
            };
            send(Event::Ends(outcome))?;
        }
        Ok(())
    }
}

/// Layers that nobody gave, as 0: those that have no default, and those whose default is beyond a model of so many.
fn layers(specs: &[ParamSpec], given: &Table, count: Option<usize>) -> Table {
    let absent = |value: &ParamValue| matches!((value, count), (ParamValue::Integer(i), Some(n)) if *i >= n as i64);
    let mut taken = Table::new();
    for spec in specs.iter().filter(|spec| !given.contains_key(&spec.name)) {
        let value = match (&spec.kind, &spec.default) {
            (ParamKind::Layer, Some(layer)) if !absent(layer) => continue,
            (ParamKind::Layer, _) => Value::Integer(0),
            (ParamKind::List(of), Some(ParamValue::List(all))) if **of == ParamKind::Layer => {
                if !all.iter().any(absent) {
                    continue;
                }
                Value::Array(vec![Value::Integer(0)])
            }
            (ParamKind::List(of), None) if **of == ParamKind::Layer => Value::Array(vec![Value::Integer(0)]),
            _ => continue,
        };
        taken.insert(spec.name.clone(), value);
    }
    taken
}

/// The arguments that make a process a child.
pub(super) struct Arguments<'a> {
    pub(super) file: &'a Path,
    pub(super) pins: &'a [Pin],
    pub(super) params: &'a [String],
    pub(super) preset: Option<&'a Path>,
    pub(super) model: &'a Path,
    pub(super) corpus: &'a Path,
    pub(super) teaches: bool,
    pub(super) untaught: bool,
    pub(super) mark: &'a str,
}

impl Arguments<'_> {
    /// For a child that begins with a law.
    pub(super) fn from(&self, from: usize) -> std::process::Command {
        let mut command = std::process::Command::new("/proc/self/exe");
        command.args(["plugins", "try"]).arg(self.file).arg("--model").arg(self.model);
        command.arg("--corpus").arg(self.corpus).arg(format!("--mark={}", self.mark)).arg(format!("--from={from}"));
        command.args(self.pins.iter().map(|pin| format!("--pin={pin}")));
        command.args(self.params.iter().map(|pair| format!("--param={pair}")));
        command.args(self.preset.iter().flat_map(|preset| ["--preset".as_ref(), preset.as_os_str()]));
        command.args(self.teaches.then_some("--teaches"));
        command.args(self.untaught.then_some("--untaught"));
        command
    }
}
