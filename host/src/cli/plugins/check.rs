//! `engraft plugins check`: every law on a plugin, each crash and each hang a finding.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::Listed;
use super::child::{Arguments, LOADS};
use super::event::{Event, Outcome};
use crate::base::{Cancel, Error, Hash, Result, codes as base_codes};
use crate::cli::{Pins, PluginPath, cancel_on_interrupt, codes, out, shown};
use crate::laws::{self, Tiny};

/// Load a library in a process of its own and try every law on it.
///
/// The laws are what a host relies on. Each is kept, broken or not applicable; a crash, an abort or a hang of the plugin
/// is a finding too, and the next law is tried in a new process. The model is one that comes with engraft, tiny and with
/// random weights, unless `--model` names another. A layer that is not given and has no default, or one that the model
/// lacks, is taken as 0.
#[derive(Args)]
#[command(after_help = "Example: engraft plugins check target/release/libengraft_rome.so --param covariance=none")]
pub(super) struct Check {
    /// The library: a path, or the name of a method on the search path.
    plugin: String,
    #[command(flatten)]
    path: PluginPath,
    #[command(flatten)]
    pins: Pins,
    /// A parameter of the method, as `name=value`; may be given several times.
    #[arg(long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// A TOML file of parameters; `--param` goes before it.
    #[arg(long, value_name = "FILE")]
    preset: Option<PathBuf>,
    /// The model to try it on: a folder with a tokenizer [default: the one that comes with engraft].
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The method promises that what it was asked for becomes more probable: hold it to that too. What acts through
    /// prompts alone needs a model that reads for that: name one with --model.
    #[arg(long)]
    teaches: bool,
    /// How many seconds a law may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Laws about the process, which only the parent can see.
const PROCESS: [(&str, &str, &str); 3] = [
    (LOADS, "the library loads and describes itself", "no crash and no hang"),
    ("stdout-quiet", "the standard output is left alone", "nothing of the plugin, whose host may print JSON there"),
    ("exit-quiet", "the process ends as it should", "the exit code 0 after the last law"),
];

#[derive(Serialize)]
struct Report {
    plugin: Option<Listed>,
    model: String,
    /// Parameters that nobody gave.
    taken: Vec<String>,
    laws: Vec<Found>,
    kept: usize,
    broken: usize,
    not_applicable: usize,
}

/// What became of a law.
#[derive(Serialize)]
struct Found {
    law: &'static str,
    says: &'static str,
    verdict: &'static str,
    expected: &'static str,
    /// What was found instead, where it is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<String>,
    /// Why it is not applicable.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Lines on standard error, the first eight and the last four, where the process ended or hung.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stderr: Vec<String>,
}

impl Found {
    fn new(law: &str, outcome: Outcome) -> Option<Self> {
        let own = laws::ALL.iter().map(|law| (law.id, law.says, law.expects));
        let (law, says, expected) = own.chain(PROCESS).find(|(id, ..)| *id == law)?;
        let (verdict, found, why) = match outcome {
            Outcome::Kept => ("kept", None, None),
            Outcome::NotApplicable(why) => ("not applicable", None, Some(why)),
            Outcome::Broken(found) => ("broken", Some(found), None),
        };
        Some(Self { law, says, verdict, expected, found, why, stderr: Vec::new() })
    }

    /// Prints the law; what was found at an earlier one already is not told in full again.
    fn print(&self, earlier: &[Self]) -> Result<()> {
        let met = |found: &String| earlier.iter().find(|law| law.found.as_ref() == Some(found));
        let more = match (&self.found, &self.why) {
            (Some(found), _) if met(found).is_some() => {
                let before = met(found).map_or("", |law| law.says);
                format!(": expected {}; found: the same as where {before}", self.expected)
            }
            (Some(found), _) => format!(": expected {}; found: {found}", self.expected),
            (None, Some(why)) => format!(": {why}"),
            (None, None) => String::new(),
        };
        out::line(format_args!("  {:<14}  {}{}", self.verdict, self.says, more.replace('\n', " ")))?;
        self.stderr.iter().try_for_each(|line| out::line(format_args!("    | {line}")))
    }
}

/// What reaches the parent.
enum Heard {
    Event(Event),
    /// Something else on the standard output.
    Stray(String),
    /// A line on standard error.
    Said(String),
    /// Both are at their ends.
    Ended,
    Interrupted,
}

/// How a child came to its end.
enum End {
    /// It tried all that was left.
    Done,
    /// In the middle of this law.
    During(&'static str),
}

impl Check {
    pub(super) fn run(&self) -> Result<()> {
        let file = self.path.search().find(&self.plugin, Path::new("."))?;
        let tiny = Tiny::unpack()?;
        let seed = format!("{}-{:?}", std::process::id(), std::time::SystemTime::now());
        let corpus = tiny.corpus();
        let mark = format!("engraft-{}:", Hash::of(seed.as_bytes()));
        let arguments = Arguments {
            file: &file,
            pins: &self.pins.pins,
            params: &self.params,
            preset: self.preset.as_deref(),
            model: self.model.as_deref().unwrap_or(tiny.folder()),
            corpus: &corpus,
            teaches: self.teaches,
            untaught: self.model.is_none(),
            mark: &mark,
        };
        let model = self.model.as_deref().map_or_else(|| "the model that comes with engraft".to_owned(), shown);
        let mut check = Checking {
            json: self.json,
            timeout: Duration::from_secs(self.timeout),
            cancel: cancel_on_interrupt(),
            stray: None,
            report: Report {
                plugin: None,
                model,
                taken: Vec::new(),
                laws: Vec::new(),
                kept: 0,
                broken: 0,
                not_applicable: 0,
            },
        };
        check.all(&arguments)?;
        check.finish()
    }
}

/// A check on its way.
struct Checking {
    json: bool,
    timeout: Duration,
    cancel: Cancel,
    /// What the plugin wrote to the standard output, and during which law.
    stray: Option<String>,
    report: Report,
}

impl Checking {
    /// Starts children until the last law was tried.
    fn all(&mut self, arguments: &Arguments<'_>) -> Result<()> {
        let mut from = 0;
        loop {
            match self.child(arguments, from)? {
                End::During(law) => {
                    // What is not loaded, or cannot even be created, has no further laws.
                    let next = laws::ALL.iter().position(|l| l.id == law).map(|at| at + 1);
                    match next.filter(|&next| law != laws::CREATED && next < laws::ALL.len()) {
                        Some(next) => from = next,
                        None => return Ok(()),
                    }
                }
                End::Done => return Ok(()),
            }
        }
    }

    fn found(&mut self, law: &str, outcome: Outcome, stderr: Vec<String>) -> Result<()> {
        let Some(mut found) = Found::new(law, outcome) else { return Ok(()) };
        found.stderr = stderr;
        if !self.json {
            found.print(&self.report.laws)?;
        }
        self.report.laws.push(found);
        Ok(())
    }

    /// Runs one child, as far as it comes.
    fn child(&mut self, arguments: &Arguments<'_>, from: usize) -> Result<End> {
        let (sender, heard) = channel();
        let interrupt = sender.clone();
        let _registration = self.cancel.on_cancel(move || drop(interrupt.send(Heard::Interrupted)));
        let mut command = arguments.from(from);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |e| Error::new(&codes::CHILD, "no process can be started for the plugin").because(e);
        // Killed when it goes, whichever way this function is left.
        let mut child = Killed(command.spawn().map_err(failed)?);
        let reader = |read: Option<Box<dyn Read + Send>>, wrap: fn(&str, &str) -> Vec<Heard>| {
            let (sender, mark) = (sender.clone(), arguments.mark.to_owned());
            read.map(|read| thread::spawn(move || pass_on(read, &mark, &sender, wrap)))
        };
        let stdout = child.0.stdout.take().map(|read| Box::new(read) as Box<dyn Read + Send>);
        let stderr = child.0.stderr.take().map(|read| Box::new(read) as Box<dyn Read + Send>);
        let _ = (reader(stdout, on_stdout), reader(stderr, on_stderr));

        let mut law: Option<&'static str> = None;
        let mut begun = Instant::now();
        // A finding gets what was said during its law; before the first one it is what engraft says of the runtime.
        let (mut said, mut tried) = (Vec::new(), false);
        let mut open = 2;
        let mut done = false;
        while open > 0 {
            let next = match law {
                Some(_) => heard.recv_timeout(self.timeout.saturating_sub(begun.elapsed())),
                None if done => heard.recv_timeout(self.timeout.saturating_sub(begun.elapsed())),
                None => heard.recv().map_err(RecvTimeoutError::from),
            };
            match next {
                Ok(Heard::Event(Event::Begins(id))) => {
                    let known = laws::ALL.iter().map(|l| l.id).chain(PROCESS.map(|(id, ..)| id)).find(|l| *l == id);
                    (law, begun) = (known, Instant::now());
                    tried |= id != LOADS;
                    said.clear();
                }
                Ok(Heard::Event(Event::Ends(outcome))) => {
                    let ended = law.take().unwrap_or_default();
                    if from == 0 || ended != LOADS {
                        self.found(ended, outcome, Vec::new())?;
                    }
                }
                Ok(Heard::Event(Event::Plugin(listed))) if from == 0 => {
                    if !self.json {
                        listed.print()?;
                        out::line(format_args!("laws, on {}:", self.report.model))?;
                    }
                    self.report.plugin = Some(*listed);
                }
                Ok(Heard::Event(Event::Taken(taken))) if from == 0 => {
                    if !self.json && !taken.is_empty() {
                        out::line(format_args!("  with {}, unless --param says otherwise", taken.join(" ")))?;
                    }
                    self.report.taken = taken;
                }
                Ok(Heard::Event(Event::Failed(fault))) => return Err(fault.into()),
                Ok(Heard::Event(Event::Done)) => (done, begun) = (true, Instant::now()),
                Ok(Heard::Event(_)) => {}
                Ok(Heard::Stray(text)) => {
                    let when = law.map_or_else(String::new, |law| format!(" during `{law}`"));
                    self.stray.get_or_insert_with(|| format!("`{}`{when}", text.trim()));
                }
                Ok(Heard::Said(line)) if law.is_none() && !tried => out::note(line),
                Ok(Heard::Said(line)) => {
                    said.push(line);
                    if said.len() > 12 {
                        said.remove(8);
                    }
                }
                Ok(Heard::Ended) => open -= 1,
                Ok(Heard::Interrupted) => return Err(interrupted()),
                Err(_) => break,
            }
        }
        let status = if open == 0 { Some(child.wait()?) } else { child.0.try_wait().ok().flatten() };
        if status.is_some_and(|status| status.signal() == Some(2)) {
            return Err(interrupted());
        }
        let how = status.map_or_else(
            || format!("it did not come to an end within {} s", self.timeout.as_secs()),
            |status| format!("the process ended by {}", ending(status)),
        );
        match law {
            Some(law) => {
                self.found(law, Outcome::Broken(how), said)?;
                Ok(End::During(law))
            }
            None if done => {
                let quiet = status.is_some_and(|status| status.success());
                let outcome = if quiet { Outcome::Kept } else { Outcome::Broken(how) };
                self.found("exit-quiet", outcome, said)?;
                Ok(End::Done)
            }
            None => {
                let text = format!("the process that tries the plugin stopped between two laws: {how}");
                Err(Error::new(&codes::CHILD, text))
            }
        }
    }

    /// The laws that are known when all is over, and the sums.
    fn finish(mut self) -> Result<()> {
        let outcome = match self.stray.take() {
            Some(text) => Outcome::Broken(format!("it wrote {text}")),
            None => Outcome::Kept,
        };
        self.found("stdout-quiet", outcome, Vec::new())?;
        let count = |verdict: &str| self.report.laws.iter().filter(|found| found.verdict == verdict).count();
        let (kept, broken, not_applicable) = (count("kept"), count("broken"), count("not applicable"));
        let report = Report { kept, broken, not_applicable, ..self.report };
        if self.json {
            out::json(&report)?;
        } else {
            out::line(format_args!("{kept} kept, {broken} broken, {not_applicable} not applicable"))?;
        }
        if broken == 0 {
            return Ok(());
        }
        let name = report.plugin.map_or_else(|| "the library".to_owned(), |plugin| format!("`{}`", plugin.name));
        Err(Error::new(&codes::FINDINGS, format!("{name} breaks {broken} of {} laws", kept + broken)))
    }
}

fn interrupted() -> Error {
    Error::new(&base_codes::INTERRUPTED, "the check was interrupted")
}

/// A child that is killed when it goes.
struct Killed(Child);

impl Killed {
    fn wait(&mut self) -> Result<ExitStatus> {
        self.0.wait().map_err(|e| Error::new(&codes::CHILD, "the plugin's process cannot be waited for").because(e))
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads lines to the end and passes them on.
fn pass_on(read: impl Read, mark: &str, sender: &Sender<Heard>, wrap: fn(&str, &str) -> Vec<Heard>) {
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    while matches!(read.read_until(b'\n', &mut line), Ok(1..)) {
        let text = String::from_utf8_lossy(&line);
        for heard in wrap(text.trim_end_matches('\n'), mark) {
            drop(sender.send(heard));
        }
        line.clear();
    }
    drop(sender.send(Heard::Ended));
}

fn on_stdout(line: &str, mark: &str) -> Vec<Heard> {
    let (stray, event) = Event::find(line, mark);
    let stray = (!stray.trim().is_empty()).then(|| Heard::Stray(stray.to_owned()));
    stray.into_iter().chain(event.map(Heard::Event)).collect()
}

fn on_stderr(line: &str, _: &str) -> Vec<Heard> {
    vec![Heard::Said(line.to_owned())]
}

/// How a process came to its end, in words.
fn ending(status: ExitStatus) -> String {
    const SIGNALS: [(i32, &str); 9] = [
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (5, "SIGTRAP"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (11, "SIGSEGV"),
        (15, "SIGTERM"),
    ];
    match (status.signal(), status.code()) {
        (Some(signal), _) => match SIGNALS.iter().find(|(number, _)| *number == signal) {
            Some((_, name)) => format!("the signal {name}"),
            None => format!("the signal {signal}"),
        },
        (None, code) => format!("an exit with the code {}", code.unwrap_or_default()),
    }
}
