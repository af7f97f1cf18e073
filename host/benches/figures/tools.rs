//! What the figures share.

use engraft::graph::Graph;
use engraft::model::{Model, Proposal};
use engraft::plugins::{Method, Registry, SearchPath};
use engraft::runtime::{Program, ProgramOptions, Runtime, Value};
use engraft::weights::PatchId;
use engraft_plugin_api::{Change, Params};
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
