//! A run: every method edits, is measured and undone, in one of three modes. Whatever ends it, the lines written are
//! whole and the model is left as it was found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use engraft_plugin_api::EditRequest;

use super::config::Mode;
use super::events::Event;
use super::folder::Folder;
use super::plan::Plan;
use super::workbench::{Edit, Workbench};
use crate::base::{Class, Error, Result, clock};
use crate::metrics::{Observation, Scores, observe, write};
use crate::report::{CaseLine, Failure, Manifest, MethodSummary, RequestLine, Stage, Summary, TextPair, markdown};

/// How a run is steered and watched.
pub struct Control<'a> {
    /// The folder of an interrupted run that is to be continued.
    pub resume: Option<&'a Path>,
    /// Asked between cases; true stops the run.
    pub cancelled: &'a dyn Fn() -> bool,
    /// Told what happens.
    pub observer: &'a dyn Fn(&Event<'_>),
}

/// A finished run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Its folder.
    pub folder: PathBuf,
    /// Its numbers.
    pub summary: Summary,
    /// What it ran with.
    pub manifest: Manifest,
}

/// Runs a plan and writes its folder. A case whose edit fails is recorded and counted as failed; the run goes on.
///
/// # Errors
/// `interrupted`; `run-folder` and `run-busy`; the `resume-*` codes; whatever keeps the model from being opened or
/// undone; any error of class `Runtime`.
pub fn run(plan: &Plan, bench: &mut dyn Workbench, control: &Control<'_>) -> Result<Outcome> {
    let settings = &plan.settings;
    let resumed = match control.resume {
        Some(path) => Some(Folder::reopen(path, settings)?),
        None => {
            Folder::check(&settings.out)?;
            None
        }
    };
    for method in &plan.methods {
        if let Some(warning) = method.artefact.as_ref().and_then(|artefact| artefact.overlap.warning()) {
            (control.observer)(&Event::Warning { label: &method.label, text: &warning });
        }
    }
    (control.observer)(&Event::Opening { model: &settings.model, device: &settings.device });
    let opened = bench.open(settings)?;
    let now = SystemTime::now();
    let manifest = plan.manifest(opened, clock::iso(now))?;
    let (folder, lines, manifest) = match resumed {
        Some((folder, lines)) => {
            let manifest = folder.verify(&manifest)?;
            (folder, lines, manifest)
        }
        None => (Folder::create(settings, &manifest, now)?, Vec::new(), manifest),
    };
    (control.observer)(&Event::Started {
        folder: folder.path(),
        records: plan.dataset.records.len(),
        skipped: plan.dataset.skipped.len(),
        resumed: lines.len(),
    });

    let written = lines.iter().enumerate().map(|(at, line)| (key(line), at)).collect();
    let before = vec![None; plan.dataset.records.len()];
    let mut runner = Runner { plan, bench, control, folder, lines, written, before, done: 0, patches: Vec::new() };
    let mut summary = Summary { schema: 1, methods: Vec::new() };
    for index in 0..plan.methods.len() {
        summary.methods.push(runner.method(index)?);
    }
    let Runner { folder, lines, .. } = runner;
    folder.write_json("summary.json", &summary)?;
    folder.write("report.md", markdown(&manifest, &summary, &lines).as_bytes())?;
    (control.observer)(&Event::Finished { folder: folder.path() });
    Ok(Outcome { folder: folder.path().to_owned(), summary, manifest })
}

/// How the unedited model answered a record.
#[derive(Clone)]
struct Before {
    observation: Observation,
    text: String,
}

/// Which line: the method, the stage, the record's id.
type Key = (usize, Stage, String);

fn key(line: &CaseLine) -> Key {
    (line.method, line.stage, line.case.clone())
}

struct Runner<'a> {
    plan: &'a Plan,
    bench: &'a mut dyn Workbench,
    control: &'a Control<'a>,
    folder: Folder,
    lines: Vec<CaseLine>,
    written: BTreeMap<Key, usize>,
    /// By record; the same for every method.
    before: Vec<Option<Result<Before, Failure>>>,
    /// How many lines the method at work has.
    done: usize,
    /// What is committed now, oldest first.
    patches: Vec<String>,
}

impl Runner<'_> {
    fn method(&mut self, method: usize) -> Result<MethodSummary> {
        let plan = self.plan;
        let planned = &plan.methods[method];
        self.done = self.lines_of(method).count();
        self.tell(&Event::MethodStarted { method, label: &planned.label, total: self.total(method), done: self.done });
        self.bench.start(method, &planned.params)?;
        let edited = match plan.settings.mode {
            Mode::Single => self.single(method),
            Mode::Batch => self.batch(method),
            Mode::Sequential => self.sequential(method),
        };
        let undone = self.undo();
        edited?;
        undone?;
        let summary = MethodSummary::of(
            &planned.descriptor.name,
            &planned.label,
            plan.dataset.skipped.len() + plan.dataset.records.len() - planned.records.len(),
            plan.settings.mode == Mode::Sequential,
            self.lines_of(method),
        );
        self.tell(&Event::MethodDone { summary: &summary });
        Ok(summary)
    }

    fn single(&mut self, method: usize) -> Result<()> {
        for &record in &self.plan.methods[method].records {
            if self.find(method, Stage::Edit, record).is_some() {
                continue;
            }
            self.go_on()?;
            let mut line = self.blank(method, Stage::Edit, record);
            if self.look_before(record, &mut line)? {
                match self.commit(&[record])? {
                    Ok(edit) => {
                        enter(&mut line, &edit, 1);
                        self.look_after(record, &mut line)?;
                        self.undo()?;
                    }
                    Err(failure) => line.error = Some(failure),
                }
            }
            self.record(line)?;
        }
        Ok(())
    }

    fn batch(&mut self, method: usize) -> Result<()> {
        let planned = &self.plan.methods[method];
        let is_pending = |this: &Self, record: usize| this.find(method, Stage::Edit, record).is_none();
        if !planned.records.iter().any(|r| is_pending(self, *r)) {
            return Ok(());
        }
        let measured = self.measure_unedited(method)?;
        self.tell(&Event::Editing { label: &planned.label, records: measured.len() });
        let edit = match measured.is_empty() {
            true => None,
            false => Some(self.commit(&measured)?),
        };
        for &record in &planned.records {
            if !is_pending(self, record) {
                continue;
            }
            self.go_on()?;
            let mut line = self.blank(method, Stage::Edit, record);
            if self.look_before(record, &mut line)? {
                match &edit {
                    Some(Ok(edit)) => {
                        enter(&mut line, edit, measured.len());
                        if measured.first() != Some(&record) {
                            // Remarks on the one call stand once.
                            line.notes.clear();
                        }
                        self.look_after(record, &mut line)?;
                    }
                    Some(Err(failure)) => line.error = Some(failure.clone()),
                    None => {}
                }
            }
            self.record(line)?;
        }
        Ok(())
    }

    fn sequential(&mut self, method: usize) -> Result<()> {
        let planned = &self.plan.methods[method];
        let is_done = |this: &Self, record: usize| match this.find(method, Stage::Edit, record) {
            Some(line) => line.error.is_some() || this.find(method, Stage::End, record).is_some(),
            None => false,
        };
        if planned.records.iter().all(|r| is_done(self, *r)) {
            return Ok(());
        }
        self.measure_unedited(method)?;
        for &record in &planned.records {
            self.go_on()?;
            if let Some(line) = self.find(method, Stage::Edit, record) {
                // Continued from an interrupted run: the edit is made once more, its line stands.
                if line.seconds.is_some() {
                    self.tell(&Event::Editing { label: &planned.label, records: 1 });
                    self.repeat(record)?;
                }
                continue;
            }
            let mut line = self.blank(method, Stage::Edit, record);
            if self.look_before(record, &mut line)? {
                match self.commit(&[record])? {
                    Ok(edit) => {
                        enter(&mut line, &edit, 1);
                        self.look_after(record, &mut line)?;
                    }
                    Err(failure) => line.error = Some(failure),
                }
            }
            self.record(line)?;
        }
        for &record in &planned.records {
            if is_done(self, record) {
                continue;
            }
            self.go_on()?;
            let mut line = self.blank(method, Stage::End, record);
            if self.look_before(record, &mut line)? {
                self.look_after(record, &mut line)?;
            }
            self.record(line)?;
        }
        Ok(())
    }

    /// Measures the unedited model on all records of a method, before edits that build on each other, and returns
    /// the records on which it could be measured.
    fn measure_unedited(&mut self, method: usize) -> Result<Vec<usize>> {
        let records = &self.plan.methods[method].records;
        let mut measured = Vec::new();
        for (done, &record) in records.iter().enumerate() {
            if self.before[record].is_none() {
                self.go_on()?;
                self.tell(&Event::Measuring { done, total: records.len() });
            }
            if self.unedited(record)?.is_ok() {
                measured.push(record);
            }
        }
        Ok(measured)
    }

    /// How the unedited model answers a record; nothing may be committed when it is asked for the first time.
    fn unedited(&mut self, record: usize) -> Result<&Result<Before, Failure>> {
        let before = match self.before[record].take() {
            Some(before) => before,
            None => {
                let looked = self.look(record);
                self.attempt(looked)?
            }
        };
        Ok(self.before[record].insert(before))
    }

    fn look(&self, record: usize) -> Result<Before> {
        let (scorer, tokens) = (self.bench.scorer()?, self.plan.settings.text);
        let record = &self.plan.dataset.records[record];
        let observation = observe(scorer, record)?;
        let text = match tokens {
            0 => String::new(),
            _ => write(scorer, &record.prompt, tokens)?,
        };
        Ok(Before { observation, text })
    }

    /// Enters the scores of the unedited model; false if there are none, and the case has failed.
    fn look_before(&mut self, record: usize, line: &mut CaseLine) -> Result<bool> {
        match self.unedited(record)? {
            Ok(before) => line.before = Some(Scores::of(&before.observation, &before.observation)),
            Err(failure) => line.error = Some(failure.clone()),
        }
        Ok(line.error.is_none())
    }

    /// Enters the scores and the text of the model as it is now.
    fn look_after(&mut self, record: usize, line: &mut CaseLine) -> Result<()> {
        let looked = self.look(record);
        match (self.attempt(looked)?, &self.before[record]) {
            (Ok(after), Some(Ok(before))) => {
                line.after = Some(Scores::of(&before.observation, &after.observation));
                let pair = || TextPair { before: before.text.clone(), after: after.text.clone() };
                line.text = (self.plan.settings.text > 0).then(pair);
            }
            (Err(failure), _) => line.error = Some(failure),
            (Ok(_), _) => {}
        }
        Ok(())
    }

    fn commit(&mut self, records: &[usize]) -> Result<Result<Edit, Failure>> {
        let requests: Vec<EditRequest> =
            records.iter().map(|r| self.plan.dataset.records[*r].request.clone()).collect();
        let edit = self.bench.edit(&requests);
        let edit = self.attempt(edit)?;
        if let Ok(edit) = &edit {
            self.patches.push(edit.patch.clone());
        }
        Ok(edit)
    }

    /// Makes an edit of an interrupted run once more.
    fn repeat(&mut self, record: usize) -> Result<()> {
        let request = &self.plan.dataset.records[record].request;
        let edit = self.bench.edit(std::slice::from_ref(request)).map_err(|e| {
            let message = format!("the edit `{}` of the interrupted run cannot be made again", request.id);
            Error::new(e.code(), message).because(e)
        })?;
        self.patches.push(edit.patch);
        Ok(())
    }

    /// Rolls back everything that is committed, the latest first.
    fn undo(&mut self) -> Result<()> {
        while let Some(patch) = self.patches.pop() {
            self.bench.rollback(&patch)?;
        }
        Ok(())
    }

    /// Tells the failure of a case from an error that ends the run.
    fn attempt<T>(&self, result: Result<T>) -> Result<Result<T, Failure>> {
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(e) => match e.code().class {
                Class::Interrupted => Err(self.interrupted().because(e)),
                Class::Runtime => Err(e),
                _ => Ok(Err(Failure::from(&e))),
            },
        }
    }

    fn go_on(&self) -> Result<()> {
        if (self.control.cancelled)() { Err(self.interrupted()) } else { Ok(()) }
    }

    fn interrupted(&self) -> Error {
        let folder = self.folder.path().display();
        Error::new(
            &crate::base::codes::INTERRUPTED,
            format!("stopped on request; `{folder}` holds {} lines", self.lines.len()),
        )
        .help(format!("continue with `--resume {folder}`"))
    }

    fn blank(&self, method: usize, stage: Stage, record: usize) -> CaseLine {
        let record = &self.plan.dataset.records[record];
        CaseLine {
            method,
            label: self.plan.methods[method].label.clone(),
            case: record.id.clone(),
            stage,
            request: RequestLine::of(record),
            seconds: None,
            peak_bytes: None,
            before: None,
            after: None,
            text: None,
            notes: Vec::new(),
            error: None,
        }
    }

    fn record(&mut self, line: CaseLine) -> Result<()> {
        self.folder.append(&line)?;
        let method = line.method;
        self.written.insert(key(&line), self.lines.len());
        self.lines.push(line);
        self.done += 1;
        if let Some(line) = self.lines.last() {
            self.tell(&Event::CaseDone { done: self.done, total: self.total(method), line });
        }
        Ok(())
    }

    fn find(&self, method: usize, stage: Stage, record: usize) -> Option<&CaseLine> {
        let id = self.plan.dataset.records[record].id.clone();
        self.written.get(&(method, stage, id)).map(|at| &self.lines[*at])
    }

    fn lines_of(&self, method: usize) -> impl Iterator<Item = &CaseLine> {
        self.lines.iter().filter(move |line| line.method == method)
    }

    fn total(&self, method: usize) -> usize {
        let times = if self.plan.settings.mode == Mode::Sequential { 2 } else { 1 };
        self.plan.methods[method].records.len() * times
    }

    fn tell(&self, event: &Event<'_>) {
        (self.control.observer)(event);
    }
}

/// Enters what an edit of `count` requests took; each has its share of the time.
fn enter(line: &mut CaseLine, edit: &Edit, count: usize) {
    line.seconds = Some(edit.seconds / count as f64);
    line.peak_bytes = edit.peak_bytes;
    line.notes.clone_from(&edit.notes);
}
