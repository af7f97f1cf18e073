//! What the figures share.

use engraft::graph::Graph;
use engraft::model::{Model, Proposal};
use engraft::plugins::{Method, Registry, SearchPath};
use engraft::runtime::{Program, ProgramOptions, Runtime, Value};
use engraft::weights::PatchId;
use engraft_plugin_api::{Change, Params, Place, RunRequest};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a figure gives.
pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The model of GPT-2-small shape, where one is named.
pub(crate) fn large() -> Option<PathBuf> {
    std::env::var_os("ENGRAFT_BENCH_MODEL").map(PathBuf::from)
}

/// The shipped model and its world.
pub(crate) fn atlas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/atlas")
}

/// The median.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What something takes.
pub(crate) fn seconds(mut what: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let began = Instant::now();
    what()?;
    Ok(began.elapsed().as_secs_f64())
}

/// A method of the release build of a plugin, beside this benchmark's profile folder.
pub(crate) fn plugin(name: &str, params: &str) -> Outcome<Method> {
    let mut folder = std::env::current_exe()?;
    folder.pop();
    let search = SearchPath::new([folder.clone(), folder.join("..")]);
    let library = Registry::new(search).load(name, Path::new("."), &[])?;
    Ok(library.create(library.configure(&params.parse()?)?)?)
}

/// Rows of tokens, no two alike.
pub(crate) fn rows(n: usize, length: usize, vocab: usize) -> Vec<Vec<u32>> {
    (0..n).map(|r| (0..length).map(|i| ((r * 7919 + i * 104_729) % vocab) as u32).collect()).collect()
}

/// A session as the runtime makes it if nobody says otherwise.
pub(crate) fn plain(runtime: &Runtime, large: &Path) -> Outcome<Program> {
    let path = Graph::find(large)?;
    let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
    let options = ProgramOptions { prepack: true, ..ProgramOptions::default() };
    Ok(Program::compile(runtime, &std::fs::read(&path)?, &folder, &options)?)
}

/// The inputs of a plain session.
pub(crate) fn feed(program: &Program, rows: &[Vec<u32>]) -> Outcome<Vec<(String, Value)>> {
    let shape = [rows.len(), rows[0].len()];
    let of = |f: &dyn Fn(usize, u32) -> i64| {
        Value::i64(&shape, rows.iter().flat_map(|r| r.iter().enumerate().map(|(i, &t)| f(i, t))).collect())
    };
    let mut feeds = Vec::new();
    for port in program.inputs() {
        let value = match port.name.as_str() {
            "input_ids" => of(&|_, t| i64::from(t))?,
            "attention_mask" => of(&|_, _| 1)?,
            _ => of(&|i, _| i as i64)?,
        };
        feeds.push((port.name.clone(), value));
    }
    Ok(feeds)
}

/// Commits changes that were made by hand.
pub(crate) fn commit(model: &Model, changes: Vec<Change>) -> Outcome<PatchId> {
    let (method, version) = ("bench".to_owned(), "1".to_owned());
    let (params, requests) = (Params::default(), Vec::new());
    Ok(model.commit(Proposal { method, version, params, artefact: None, requests, changes })?)
}

/// Four rows of 35 tokens, for models and for the session that the runtime makes if nobody says otherwise.
pub(crate) struct Passes {
    program: Program,
    feeds: Vec<(String, Value)>,
    /// Logits at every position.
    pub(crate) all: RunRequest,
    /// Logits at the last position of each row.
    pub(crate) last: RunRequest,
}

impl Passes {
    pub(crate) fn new(runtime: &Runtime, large: &Path, vocab: usize) -> Outcome<Self> {
        let program = plain(runtime, large)?;
        let rows = rows(4, 35, vocab);
        let feeds = feed(&program, &rows)?;
        let logits = (0..4).flat_map(|row| (0..35).map(move |pos| Place { row, pos })).collect();
        let all = RunRequest { rows: rows.clone(), logits, ..RunRequest::default() };
        let logits = (0..4).map(|row| Place { row, pos: 34 }).collect();
        Ok(Self { program, feeds, all, last: RunRequest { rows, logits, ..RunRequest::default() } })
    }

    /// The times of the plain session, and of models with what each is asked, one after the other in every round.
    pub(crate) fn timed(&self, rounds: usize, models: &[(&Model, &RunRequest)]) -> Outcome<Times> {
        let feeds: Vec<(&str, &Value)> = self.feeds.iter().map(|(n, v)| (n.as_str(), v)).collect();
        let fetch: Vec<&str> = self.program.outputs().iter().map(|p| p.name.as_str()).collect();
        let mut times = vec![Vec::new(); 1 + models.len()];
        for _ in 0..rounds {
            times[0].push(seconds(|| self.program.run(&feeds, &fetch).map(drop).map_err(Into::into))?);
            for (times, (model, request)) in times[1..].iter_mut().zip(models) {
                times.push(seconds(|| model.run(request).map(drop).map_err(Into::into))?);
            }
        }
        Ok(Times(times))
    }
}

/// The times of the plain session, numbered 0, and of models, round by round.
pub(crate) struct Times(Vec<Vec<f64>>);

impl Times {
    /// The median time of the plain session, in seconds.
    pub(crate) fn plain(&self) -> f64 {
        median(self.0[0].clone())
    }

    /// The median ratio within a round, without the first, in which programs are compiled.
    pub(crate) fn ratio(&self, of: usize, to: usize) -> f64 {
        median(self.0[of][1..].iter().zip(&self.0[to][1..]).map(|(a, b)| a / b).collect())
    }
}
